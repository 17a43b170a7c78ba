"""Effects by hand and statsmodels', designs that cannot tell terms apart, the crossed bootstrap."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import scipy.stats
from statsmodels.regression.linear_model import OLS

from akdtune.statistics.effects import Effect, contrasts, crossed_bootstrap

Values = dict[str, dict[int, float]]
Levels = dict[str, dict[str, Any]]


def factorial(
    n: int, *, sizes: tuple[int, ...] = (2, 2), noise: float = 0.3, block: float = 1.0
) -> tuple[Values, Levels]:
    """Effects: 1 for each step of the first factor, 0 for the others, .5 where the first two are both on."""
    rng = np.random.default_rng(n)
    seeds_N = block * rng.normal(size=n)
    values: Values = {}
    levels: Levels = {}
    for at in product(*map(range, sizes)):
        name = "".join(map(str, at))
        own_N = 70 + seeds_N + at[0] + 0.5 * (at[0] > 0 and at[1] > 0) + noise * rng.normal(size=n)
        values[name] = dict(enumerate(map(float, own_N)))
        levels[name] = {"abc"[i]: level for i, level in enumerate(at)}
    return values, levels


def by_term(effects: list[Effect]) -> dict[str, Effect]:
    return {effect.term: effect for effect in effects}


def test_two_by_two_by_hand() -> None:
    values, levels = factorial(5)
    effects = by_term(contrasts(values, levels))
    assert list(effects) == ["a: 1 - 0", "b: 1 - 0", "a: 1 - 0 x b: 1 - 0"]
    v = {name: np.array(list(cell.values())) for name, cell in values.items()}
    a_N = (v["10"] + v["11"] - v["00"] - v["01"]) / 2
    both_N = v["11"] - v["10"] - v["01"] + v["00"]
    for term, contrast_N in (("a: 1 - 0", a_N), ("a: 1 - 0 x b: 1 - 0", both_N)):
        expected = scipy.stats.ttest_1samp(contrast_N, 0)
        assert effects[term].estimate == pytest.approx(contrast_N.mean())
        assert effects[term].p == pytest.approx(expected.pvalue)
        ends = (effects[term].ci_low, effects[term].ci_high)
        assert ends == pytest.approx(tuple(expected.confidence_interval(0.95)))
        assert (effects[term].form, effects[term].n_seeds) == ("per-seed contrasts", 5)
        assert effects[term].note == "5 seeds: no mixed model below 10"


def test_several_levels_are_each_compared_with_the_first() -> None:
    values, levels = factorial(4, sizes=(3, 2), noise=1e-6)
    for name in levels:
        levels[name] = {"views.angles": {"count": levels[name]["a"]}, "on": bool(levels[name]["b"])}
    effects = by_term(contrasts(values, levels))
    estimates = {term: effect.estimate for term, effect in effects.items()}
    assert estimates == {
        'views.angles: {"count": 1} - {"count": 0}': pytest.approx(1.25, abs=1e-4),
        'views.angles: {"count": 2} - {"count": 0}': pytest.approx(2.25, abs=1e-4),
        "on: true - false": pytest.approx(1 / 3, abs=1e-4),
        'views.angles: {"count": 1} - {"count": 0} x on: true - false': pytest.approx(0.5, abs=1e-4),
        'views.angles: {"count": 2} - {"count": 0} x on: true - false': pytest.approx(0.5, abs=1e-4),
    }


def test_leave_one_out_effects_are_the_paired_differences() -> None:
    rng = np.random.default_rng(0)
    values = {name: dict(enumerate(map(float, rng.normal(70, 1, 4)))) for name in ("base", "no a", "no b")}
    on = {"a": True, "b": True}
    effects = contrasts(values, {"base": on, "no a": {**on, "a": False}, "no b": {**on, "b": False}})
    assert [effect.term for effect in effects] == ["a: false - true", "b: false - true"]
    for effect, name in zip(effects, ("no a", "no b"), strict=True):
        assert effect.estimate == pytest.approx(np.mean([values[name][s] - values["base"][s] for s in range(4)]))
        assert effect.note.startswith("aliased with a: false - true x b: false - true; ")


def test_a_fraction_names_its_aliases() -> None:
    """2^(3-1) with c = ab: each main effect holds the interaction of the other two."""
    values, levels = factorial(4, sizes=(2, 2, 2))
    half = {name: own for name, own in levels.items() if sum(own.values()) % 2 == 1}
    effects = contrasts({name: values[name] for name in half}, half)
    assert len(effects) == 3
    for effect, others in zip(effects, ("bc", "ac", "ab"), strict=True):
        assert effect.note.split(";")[0].startswith("aliased with")
        assert all(f"{letter}: " in effect.note for letter in others)


def test_missing_values_are_pooled_over_seed_blocks() -> None:
    values, levels = factorial(5)
    del values["11"][2], values["00"][4]
    effects = contrasts(values, levels)
    rows = [(levels[name], seed, value) for name, cell in values.items() for seed, value in cell.items()]
    a, b = (np.array([row[0][factor] for row in rows]) - 0.5 for factor in "ab")
    blocks = np.array([[row[1] == seed for seed in range(5)] for row in rows], float)
    fit = OLS([row[2] for row in rows], np.column_stack([blocks, a, b, a * b])).fit()
    assert [effect.estimate for effect in effects] == pytest.approx(list(fit.params[5:]))
    assert [effect.p for effect in effects] == pytest.approx(list(fit.pvalues[5:]))
    assert [(effect.ci_low, effect.ci_high) for effect in effects] == [
        pytest.approx(tuple(e)) for e in fit.conf_int()[5:]
    ]
    assert {effect.form for effect in effects} == {"seed blocks"}


def test_the_mixed_model_agrees_with_the_contrasts_where_seeds_are_complete() -> None:
    values, levels = factorial(12)
    mixed = contrasts(values, levels)
    assert {(effect.form, effect.note) for effect in mixed} == {("mixed model", "")}
    by_hand = np.array([values["10"][s] + values["11"][s] - values["00"][s] - values["01"][s] for s in range(12)]) / 2
    low, high = scipy.stats.ttest_1samp(by_hand, 0).confidence_interval(0.95)
    assert (mixed[0].ci_low, mixed[0].ci_high) == (pytest.approx(low, abs=1e-6), pytest.approx(high, abs=1e-6))
    del values["11"][0]
    without = contrasts(values, levels)
    assert without[0].form == "mixed model"
    assert without[0].estimate == pytest.approx(mixed[0].estimate, abs=0.1)
    assert without[0].estimate != mixed[0].estimate


def test_a_singular_fit_falls_back_and_says_so() -> None:
    values, levels = factorial(12, block=0.0, noise=0.3)
    for seed in range(12):  # seeds that differ less than their noise: no variance between them
        mean = np.mean([cell[seed] for cell in values.values()])
        for cell in values.values():
            cell[seed] -= float(mean) - 70
    effects = contrasts(values, levels)
    assert {effect.form for effect in effects} == {"per-seed contrasts"}
    assert {effect.note for effect in effects} == {"no mixed model: the fit is singular (no variance between seeds)"}


def test_what_too_few_values_leave() -> None:
    values, levels = factorial(1)
    effects = contrasts(values, levels)
    assert [(effect.ci_low, effect.p, effect.n_seeds) for effect in effects] == [(None, None, 1)] * 3
    assert contrasts({"00": values["00"]}, levels) == []
    assert contrasts({}, {}) == []
    assert contrasts({"00": {0: 1.0}, "11": {1: 1.0}}, {"00": {"a": 0}, "11": {"a": 1}}) == []
    same = {name: dict.fromkeys(range(12), 70.1) for name in levels}
    tied = contrasts(same, levels)
    assert [(effect.estimate, effect.ci_low, effect.ci_high, effect.p) for effect in tied] == [
        (0.0, None, None, 1.0)
    ] * 3


def test_controls_have_no_part_in_the_design() -> None:
    values, levels = factorial(3)
    assert contrasts({**values, "kd": {0: 1.0}}, levels) == contrasts(values, levels)


@pytest.mark.parametrize(
    ("values", "levels", "message"),
    [
        ({"x": {0: float("nan")}, "y": {0: 1.0}}, {"x": {"a": 0}, "y": {"a": 1}}, "values must be finite, got nan"),
        (
            {"x": {0: 1.0}, "y": {0: 1.0}},
            {"x": {"a": 0, "b": 1}, "y": {"a": 1}},
            "cell y has no level of b; its factors: a",
        ),
    ],
)
def test_bad_designs_are_named(values: Values, levels: Levels, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        contrasts(values, levels)


def test_crossed_bootstrap_is_centred_deterministic_and_wider_than_seeds_alone() -> None:
    rng = np.random.default_rng(0)
    ease_I = rng.normal(0.5, 1, 400)
    cell_SI, reference_SI = (ease_I + shift > rng.normal(size=(6, 400)) for shift in (0.3, 0.0))
    low, high = crossed_bootstrap(cell_SI, reference_SI)
    gains_S = 100 * (cell_SI.mean(axis=1) - reference_SI.mean(axis=1))
    assert low < gains_S.mean() < high
    assert crossed_bootstrap(cell_SI, reference_SI) == (low, high)
    assert crossed_bootstrap(cell_SI, reference_SI, seed=1) != (low, high)
    assert crossed_bootstrap(reference_SI, cell_SI) == (pytest.approx(-high), pytest.approx(-low))
    only_seeds = np.percentile(gains_S[rng.integers(0, 6, (2000, 6))].mean(axis=1), [2.5, 97.5])
    assert high - low > np.diff(only_seeds)


def test_crossed_bootstrap_equals_one_that_draws_every_image() -> None:
    """The spread over draws is that of the plain double resampling, within Monte-Carlo error."""
    rng = np.random.default_rng(1)
    cell_SI, reference_SI = rng.random((4, 200)) < 0.75, rng.random((4, 200)) < 0.7
    gains_SI = 100.0 * (cell_SI.astype(int) - reference_SI)
    draws = [gains_SI[np.ix_(rng.integers(0, 4, 4), rng.integers(0, 200, 200))].mean() for _ in range(4000)]
    ends = crossed_bootstrap(cell_SI, reference_SI, draws=4000)
    assert ends == pytest.approx(tuple(np.percentile(draws, [2.5, 97.5])), abs=0.35)


def test_rows_of_one_group_are_drawn_together() -> None:
    """Rows that repeat a window's value say as much as the window: the interval is that of windows, not of rows."""
    rng = np.random.default_rng(2)
    cell_SG, reference_SG = rng.normal(50, 9, (2, 3, 40))
    cell_SN, reference_SN, groups_N = cell_SG.repeat(25, 1), reference_SG.repeat(25, 1), np.arange(40).repeat(25)
    of_windows = crossed_bootstrap(cell_SG, reference_SG, draws=4000)
    of_groups = crossed_bootstrap(cell_SN, reference_SN, groups_N=groups_N, draws=4000)
    assert of_groups == pytest.approx(of_windows, abs=0.2)
    one_seed = cell_SN[:1], reference_SN[:1]
    width, narrow = (np.diff(crossed_bootstrap(*one_seed, groups_N=groups, draws=4000)) for groups in (groups_N, None))
    assert width == pytest.approx(5 * narrow, rel=0.1)  # sqrt(25): as if there were 25 times as many windows


def test_groups_of_unequal_size_weigh_by_their_rows_and_groups_of_one_change_nothing() -> None:
    rng = np.random.default_rng(3)
    right_SN, other_SN = rng.random((2, 3, 60)) < 0.6
    assert crossed_bootstrap(right_SN, other_SN, groups_N=rng.permutation(60)) == crossed_bootstrap(right_SN, other_SN)
    gains_N = np.array([[1.0, 1.0, 1.0, 5.0]])
    low, high = crossed_bootstrap(gains_N, np.zeros((1, 4)), groups_N=np.array([7, 7, 7, 9]), level=0.9)
    assert (low, high) == (1.0, 5.0)  # one group twice, or the other; both once is their mean over rows, 2
    values = crossed_bootstrap(100.0 * right_SN, 100.0 * other_SN)
    assert values == pytest.approx(crossed_bootstrap(right_SN, other_SN), abs=1e-4)
    with pytest.raises(ValueError, match=r"one group a row \(60\), got the shape \(59,\)"):
        crossed_bootstrap(right_SN, other_SN, groups_N=np.arange(59))


def test_crossed_bootstrap_of_identical_predictions_and_bad_shapes() -> None:
    right = np.ones((3, 10), bool)
    assert crossed_bootstrap(right, right) == (0.0, 0.0)
    with pytest.raises(ValueError, match=r"equal in shape, got \(3, 10\) and \(3, 9\)"):
        crossed_bootstrap(right, right[:, :9])
    with pytest.raises(ValueError, match="draws must be at least 100"):
        crossed_bootstrap(right, right, draws=10)

"""Paired differences and power: numbers by hand, scipy's, statsmodels' and R's; families, no spread."""

from __future__ import annotations

from itertools import product
from math import sqrt

import numpy as np
import pytest
import scipy.stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import ttost_paired

from akdtune.statistics import paired
from akdtune.statistics.paired import Difference
from akdtune.statistics.power import RequiredSeeds, minimum_detectable, more_seeds, required_seeds, seeds_needed

# Student's sleep data, hours gained with two drugs, paired by patient (R: datasets::sleep).
SLEEP_1 = dict(enumerate([0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]))
SLEEP_2 = dict(enumerate([1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]))


def by_seed(*values: float) -> dict[int, float]:
    return dict(enumerate(values))


def drawn(n: int, effect: float, seed: int = 0) -> Difference:
    rng = np.random.default_rng(seed)
    return paired.paired_difference(by_seed(*(70 + effect + rng.normal(size=n))), by_seed(*[70.0] * n))


def test_cell_summary_by_hand() -> None:
    summary = paired.cell_summary([70.0, 71.0, 72.0])
    # sd 1, t(2, .975) = 4.302653, divided by the root of 3
    assert (summary.n, summary.mean, summary.sd) == (3, 71.0, 1.0)
    assert summary.ci_low == pytest.approx(71 - 2.484138)
    assert summary.ci_high == pytest.approx(71 + 2.484138)


def test_cell_summary_of_few_values() -> None:
    assert paired.cell_summary([]) == paired.CellSummary(0, None, None, None, None)
    assert paired.cell_summary([70.5]) == paired.CellSummary(1, 70.5, None, None, None)
    equal = paired.cell_summary([70.1] * 3)
    assert (equal.sd, equal.ci_low, equal.ci_high) == (0.0, None, None), "not an interval without length"


def test_the_sleep_data_give_what_r_prints() -> None:
    """t.test(extra ~ group, paired = TRUE): t = -4.0621, df = 9, p-value = 0.002833, -2.4598858 -0.7001142."""
    difference = paired.paired_difference(SLEEP_1, SLEEP_2)
    assert difference.difference == pytest.approx(-1.58)
    assert difference.p == pytest.approx(0.002833, abs=5e-7)
    assert (difference.ci_low, difference.ci_high) == (pytest.approx(-2.4598858), pytest.approx(-0.7001142))
    assert difference.sd == pytest.approx(1.229995, abs=1e-6)
    assert difference.correlation == pytest.approx(0.7951702, abs=1e-7)  # cor.test of the two


@pytest.mark.parametrize("n", [2, 5, 9, 14])
def test_paired_t_is_scipys(n: int) -> None:
    rng = np.random.default_rng(n)
    cell, reference = rng.normal(70, 1, (2, n))
    difference = paired.paired_difference(by_seed(*cell), by_seed(*reference), level=0.9)
    expected = scipy.stats.ttest_rel(cell, reference)
    assert difference.p == pytest.approx(expected.pvalue)
    assert (difference.ci_low, difference.ci_high) == pytest.approx(tuple(expected.confidence_interval(0.9)))
    assert (difference.wilcoxon_p is not None) == (n >= 10)
    assert difference.bootstrap_low is None


def test_pairs_are_common_seeds_only() -> None:
    difference = paired.paired_difference({3: 71.0, 1: 70.0, 7: 99.0}, {1: 69.0, 3: 69.5, 2: 0.0})
    assert (difference.n_pairs, difference.seeds, difference.difference) == (2, (1, 3), 1.25)
    assert paired.paired_difference({1: 70.0}, {2: 70.0}) == Difference(0, ())
    single = paired.paired_difference({1: 70.0, 2: 70.0}, {2: 69.0})
    assert single == Difference(1, (2,), 1.0)


def test_sign_flips_equal_those_counted_one_by_one() -> None:
    gains = [0.5, -0.25, 0.75, 1.0, 0.0, 0.25]
    sums = [sum(sign * gain for sign, gain in zip(signs, gains, strict=True)) for signs in product((1, -1), repeat=6)]
    difference = paired.paired_difference(by_seed(*gains), by_seed(*[0.0] * 6))
    assert difference.permutation_p == np.mean([abs(value) >= 2.25 for value in sums])
    assert difference.permutation_floor == 2 / 64
    assert difference.permutation_form == "exact"


@pytest.mark.parametrize("n", [2, 3, 5, 8, 10])
def test_sign_flips_are_scipys(n: int) -> None:
    rng = np.random.default_rng(n)
    for _ in range(20):
        gains = rng.normal(0.4, 1, n)  # no ties: of those scipy splits what only rounding tells apart
        difference = paired.paired_difference(by_seed(*gains), by_seed(*[0.0] * n))
        expected = scipy.stats.permutation_test(
            (gains,), np.sum, permutation_type="samples", n_resamples=np.inf, vectorized=True
        )  # fmt: skip
        assert difference.permutation_p == expected.pvalue


def test_sums_that_only_rounding_tells_apart_are_equal() -> None:
    """Tenths of a point: .1 and .3 - .2 differ in the seventeenth digit; by hand 6 of 8 flips reach |.2|."""
    difference = paired.paired_difference(by_seed(70.3, 70.1, 70.3), by_seed(70.2, 70.2, 70.1))
    assert difference.permutation_p == 6 / 8


def test_five_seeds_reach_no_less_than_a_sixteenth() -> None:
    difference = paired.paired_difference(by_seed(71, 72, 73, 74, 75.5), by_seed(70, 70, 70, 70, 70))
    assert difference.permutation_p == difference.permutation_floor == 0.0625
    assert difference.p is not None
    assert difference.p < 0.02


def test_many_seeds_flip_signs_at_random() -> None:
    rng = np.random.default_rng(0)
    cell, reference = rng.normal(0.3, 1, 30), rng.normal(0, 1, 30)
    difference = paired.paired_difference(by_seed(*cell), by_seed(*reference))
    assert difference.permutation_form == "Monte Carlo"
    assert difference.permutation_p == pytest.approx(scipy.stats.ttest_rel(cell, reference).pvalue, rel=0.1)
    again = paired.paired_difference(by_seed(*cell), by_seed(*reference))
    assert again == difference


def test_wilcoxon_is_scipys_and_bootstrap_waits_for_fifteen() -> None:
    rng = np.random.default_rng(1)
    cell, reference = rng.normal(70.5, 1, 16), rng.normal(70, 1, 16)
    difference = paired.paired_difference(by_seed(*cell), by_seed(*reference))
    assert difference.wilcoxon_p == pytest.approx(scipy.stats.wilcoxon(cell, reference).pvalue)
    assert difference.bootstrap_low is not None
    assert difference.bootstrap_high is not None
    assert difference.ci_low is not None
    assert difference.ci_high is not None
    assert difference.bootstrap_low < difference.bootstrap_high
    assert difference.bootstrap_high - difference.bootstrap_low == pytest.approx(
        difference.ci_high - difference.ci_low, rel=0.25
    )
    tied = paired.paired_difference(by_seed(*[70.3, 70.1] * 6), by_seed(*[70.2, 70.2] * 6))
    assert tied.wilcoxon_p == pytest.approx(1.0)  # half up, half down by what is a tie but for rounding


@pytest.mark.parametrize("n", [2, 5, 12, 20, 25])
def test_identical_cells_differ_by_nothing(n: int) -> None:
    values = {seed: 70 + 0.1 * seed for seed in range(n)}
    difference = paired.paired_difference(values, values)
    assert (difference.difference, difference.sd, difference.p, difference.permutation_p) == (0.0, 0.0, 1.0, 1.0)
    assert (difference.ci_low, difference.ci_high, difference.minimum_detectable) == (0.0, 0.0, None)
    [member] = paired.holm_family([difference])
    assert (member.p_holm, member.rejected, member.ci_family_low, member.ci_family_high) == (1.0, False, 0.0, 0.0)


@pytest.mark.parametrize("n", [2, 5, 6, 10, 16])
def test_equal_differences_are_judged_by_sign_flips(n: int) -> None:
    reference = {seed: 70 + 0.1 * seed for seed in range(n)}
    difference = paired.paired_difference({seed: value + 0.3 for seed, value in reference.items()}, reference)
    assert difference.sd == 0.0
    assert difference.p == difference.permutation_p == 2 / 2**n
    assert difference.ci_low == difference.ci_high == (pytest.approx(0.3) if n >= 6 else None)
    [member] = paired.holm_family([difference])
    assert member.rejected == (n >= 6)
    assert member.ci_family_low == (pytest.approx(0.3) if n >= 6 else None)


def test_constant_cells_have_no_correlation() -> None:
    difference = paired.paired_difference(by_seed(70.1, 70.2, 70.3), by_seed(70.0, 70.0, 70.0))
    assert difference.correlation is None
    assert difference.p is not None
    assert paired.paired_difference(by_seed(1.0, 2.0), by_seed(2.0, 1.0)).correlation is None


@pytest.mark.parametrize("level", [0.9, 0.95])
def test_holm_is_statsmodels(level: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the last bit, with p that tie and p at a half as well."""
    monkeypatch.setattr("gc.collect", lambda: 0)  # statsmodels' own, at every call: a seventh of a second
    alpha = 1 - level
    rng = np.random.default_rng(0)
    for _ in range(200):
        ps = rng.uniform(size=rng.integers(1, 30)) ** rng.choice([1, 3, 10])
        ps = [2 / 2 ** rng.integers(1, 12, len(ps)), np.round(ps, 2), ps][rng.integers(3)]
        differences = [Difference(8, tuple(range(8)), 1.0, 1.0, p=float(p)) for p in ps]
        family = paired.holm_family(differences, alpha=alpha)
        rejected, expected, *_ = multipletests(ps, alpha=alpha, method="holm")
        assert [member.p_holm for member in family] == list(expected)
        near = np.abs(expected - alpha) < 1e-12  # statsmodels compares p with alpha / m, we m p with alpha
        assert [member.rejected for member in family] == list(np.where(near, expected < alpha, rejected))


def test_a_family_of_one_is_the_plain_interval() -> None:
    difference = drawn(8, 0.5)
    [member] = paired.holm_family([difference])
    assert member.p_holm == difference.p
    assert (member.ci_family_low, member.ci_family_high) == pytest.approx((difference.ci_low, difference.ci_high))


def test_intervals_exclude_zero_exactly_where_holm_rejects() -> None:
    rng = np.random.default_rng(0)
    cut = 0
    for trial in range(150):
        size = int(rng.integers(2, 8))
        differences = [drawn(int(rng.integers(4, 12)), float(rng.normal()), 1000 * trial + i) for i in range(size)]
        for difference, member in zip(differences, paired.holm_family(differences), strict=True):
            assert difference.difference is not None
            assert member.p_holm is not None
            low, high = member.ci_family_low, member.ci_family_high
            assert low is not None
            assert high is not None
            assert low < difference.difference < high
            assert member.rejected == (member.p_holm < 0.05) == (low > 0 or high < 0)
            cut += member.rejected and min(abs(low), abs(high)) < 1e-8
    assert cut > 25  # both kinds of interval have been seen


def test_family_intervals_by_hand() -> None:
    """Two of three rejected: those at .02 * .05 / 3, the third at .05 / 3; all rejected: all at .05 / 3."""

    def made(mean: float) -> Difference:
        p = 2 * float(scipy.stats.t.sf(abs(mean) * sqrt(9), 8))
        return Difference(9, tuple(range(9)), mean, 1.0, p=p)

    wide, narrow = (float(scipy.stats.t.isf(share * 0.05 / 6, 8)) / 3 for share in (0.02, 1))
    some = paired.holm_family([made(10.0), made(-1.2), made(0.1)])
    assert (some[0].ci_family_low, some[0].ci_family_high) == pytest.approx((10 - wide, 10 + wide))
    assert (some[1].ci_family_low, some[1].ci_family_high) == pytest.approx((-1.2 - wide, -1.2e-9))
    assert (some[2].ci_family_low, some[2].ci_family_high) == pytest.approx((0.1 - narrow, 0.1 + narrow))
    every = paired.holm_family([made(10.0), made(-5.0), made(0.9)])
    assert [member.rejected for member in every] == [True] * 3
    assert (every[0].ci_family_low, every[0].ci_family_high) == pytest.approx((10 - narrow, 10 + narrow))
    assert (every[2].ci_family_low, every[2].ci_family_high) == pytest.approx((0.9e-9, 0.9 + narrow))


def test_differences_without_p_stay_outside_the_family() -> None:
    differences = [drawn(8, 1.0), Difference(1, (0,), 0.5), Difference(0, ())]
    family = paired.holm_family(differences)
    assert family[0].p_holm == differences[0].p
    assert family[1] == family[2] == paired.InFamily(None, None, None, False, "")
    assert paired.holm_family([]) == []


def test_notes_say_what_sign_flips_cannot_reach() -> None:
    five = paired.holm_family([drawn(5, 1.0)])
    assert five[0].permutation_note == "cannot reach alpha at n = 5: smallest p .0625"
    seven = paired.holm_family([drawn(7, effect, seed) for seed, effect in enumerate([5.0, 4.0, 0.5, 0.0])])
    notes = [member.permutation_note for member in seven]
    # 2/2^7 = .0156 is above .05/4 alone; the order is that of p
    assert notes.count("cannot reach alpha/4 = .0125 at n = 7: smallest p .0156") == 1
    assert notes.count("") == 3
    assert notes[min(range(4), key=lambda i: seven[i].p_holm or 0)] != ""


@pytest.mark.parametrize(("n", "alpha", "power"), [(2, 0.05, 0.8), (5, 0.05, 0.8), (8, 0.01, 0.9), (20, 0.1, 0.5)])
def test_minimum_detectable_is_statsmodels(n: int, alpha: float, power: float) -> None:
    detectable = minimum_detectable(0.4, n, alpha=alpha, power=power)
    expected = 0.4 * TTestPower().solve_power(nobs=n, alpha=alpha, power=power)
    assert detectable == pytest.approx(expected, rel=1e-4)


def test_power_is_statsmodels_where_that_is_a_number() -> None:
    """Of the number of seeds, too. statsmodels gives nan for some, and its solver may stop anywhere."""
    rng = np.random.default_rng(0)
    compared = 0
    for _ in range(200):
        sd, alpha, power = rng.uniform(0.2, 3), float(rng.choice([0.01, 0.05, 0.1])), float(rng.choice([0.5, 0.8]))
        n = seeds_needed(sd, 1.0, alpha=alpha, power=power)
        here, below = (float(TTestPower().power(1 / sd, seeds, alpha)) for seeds in (n, max(n - 1, 2)))
        if np.isfinite(here) and np.isfinite(below):
            assert here >= power and (below < power or n == 2)
            compared += 1
    assert compared > 120


def test_seeds_needed_is_rs() -> None:
    """power.t.test(delta = 1, sd = 1, power = .8, type = "paired"): n = 9.937864; delta = .5: 33.3671."""
    assert seeds_needed(1.0, 1.0) == 10
    assert seeds_needed(1.0, 0.5) == 34


@pytest.mark.parametrize(("sd", "resolve"), [(0.1, 1.0), (0.3, 0.3), (0.5, 0.3), (1.0, 0.1), (2.0, 0.05)])
def test_seeds_needed_is_the_first_number_that_suffices(sd: float, resolve: float) -> None:
    n = seeds_needed(sd, resolve)
    assert (minimum_detectable(sd, n) or 0) <= resolve
    assert n == 2 or (minimum_detectable(sd, n - 1) or 0) > resolve


def test_more_seeds_count_from_those_there_are() -> None:
    assert more_seeds(1.0, 4, 1.0) == 6
    assert more_seeds(1.0, 10, 1.0) == more_seeds(1.0, 50, 1.0) == 0
    assert more_seeds(0.3, 4) == seeds_needed(0.3, 0.3) - 4
    assert more_seeds(0.0, 2) == 0


def test_required_seeds_stand_on_the_upper_limit() -> None:
    pilot = [0.1, 0.5, -0.2, 0.3, 0.4]
    required = required_seeds(pilot, 0.3)
    sd = float(np.std(pilot, ddof=1))
    upper = sd * sqrt(4 / scipy.stats.chi2.ppf(0.2, 4))
    assert (required.sd, required.sd_upper) == pytest.approx((sd, upper))
    assert required.n == seeds_needed(upper, 0.3) > seeds_needed(sd, 0.3)
    assert required_seeds([0.3, 0.3], 0.3) == RequiredSeeds(2, 0.0, 0.0)


def test_equivalence_by_hand() -> None:
    """Mean .1, sd .2, n 4: standard error .1; to the margin .5 it is t = 4 with 3 degrees of freedom."""
    difference = Difference(4, (0, 1, 2, 3), 0.1, 0.2, p=2 * float(scipy.stats.t.sf(1.0, 3)))
    assert paired.equivalence(difference, 0.5) == paired.Equivalence(
        pytest.approx(float(scipy.stats.t.sf(4.0, 3))), "equivalent"
    )
    assert paired.equivalence(difference, 0.2).verdict == "not resolved"


@pytest.mark.parametrize("n", [2, 3, 5, 8, 20])
def test_equivalence_is_statsmodels_two_one_sided_tests(n: int) -> None:
    rng = np.random.default_rng(n)
    for margin in (0.1, 0.3, 1.0, 3.0):
        cell, reference = rng.normal(70.1, 0.5, n), rng.normal(70, 0.5, n)
        judged = paired.equivalence(paired.paired_difference(by_seed(*cell), by_seed(*reference)), margin)
        expected = ttost_paired(cell, reference, -margin, margin)[0]
        assert judged.p == pytest.approx(expected, rel=1e-9)
        assert (judged.verdict == "equivalent") == (expected < 0.05)


def test_verdicts() -> None:
    def made(mean: float, sd: float, n: int = 8) -> Difference:
        return Difference(n, tuple(range(n)), mean, sd, p=2 * float(scipy.stats.t.sf(abs(mean) * sqrt(n) / sd, n - 1)))

    assert paired.equivalence(made(0.1, 0.05), 0.3).verdict == "equivalent"  # small, and not 0
    assert paired.equivalence(made(-0.5, 0.2), 0.3).verdict == "different"
    assert paired.equivalence(made(0.1, 1.0), 0.3).verdict == "not resolved"
    assert paired.equivalence(Difference(1, (0,), 0.0), 0.3) == paired.Equivalence(None, "not resolved")
    same = paired.paired_difference(by_seed(*[70.0] * 5), by_seed(*[70.0] * 5))
    assert paired.equivalence(same, 0.3) == paired.Equivalence(1 / 32, "equivalent")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: paired.cell_summary([1.0, float("nan")]), "values must be finite, got nan"),
        (lambda: paired.paired_difference({0: float("inf")}, {0: 1.0}), "values must be finite, got inf"),
        (lambda: paired.paired_difference({}, {}, level=95), "level must be between 0 and 1, got 95"),
        (lambda: paired.holm_family([], alpha=0.0), "alpha must be between 0 and 1, got 0.0"),
        (lambda: paired.equivalence(Difference(0, ()), 0.0), "margin must be above 0, got 0.0"),
        (lambda: seeds_needed(1.0, 0.0), "resolve must be above 0, got 0.0"),
        (lambda: minimum_detectable(-1.0, 5), "sd must be finite and not negative, got -1.0"),
        (lambda: minimum_detectable(1.0, 5, power=0.01), r"power must be between alpha \(0.05\) and 1"),
        (lambda: required_seeds([0.1], 0.3), "a pilot needs at least two seeds to show a spread, got 1"),
        (lambda: required_seeds([0.1, 0.2], 0.3, confidence=1), "confidence must be between 0 and 1"),
    ],
)
def test_bad_input_is_named(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        call()

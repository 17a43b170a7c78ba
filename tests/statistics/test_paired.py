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
from akdtune.statistics.power import (
    RequiredSeeds,
    detectable,
    minimum_detectable,
    more_seeds,
    required_seeds,
    seeds_needed,
    spread_limit,
)

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
    assert (difference.ci_low, difference.ci_high) == (0.0, 0.0)
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


def test_family_intervals_are_bonferronis_and_lie_around_the_difference() -> None:
    """Whatever Holm says, at every number of seeds: no interval is cut at 0."""
    rng = np.random.default_rng(0)
    alone = 0
    for trial in range(150):
        size = int(rng.integers(2, 8))
        differences = [drawn(int(rng.integers(2, 12)), float(rng.normal()), 1000 * trial + i) for i in range(size)]
        for difference, member in zip(differences, paired.holm_family(differences), strict=True):
            n, mean, sd = difference.n_pairs, difference.difference, difference.sd
            assert mean is not None
            assert sd is not None
            reach = float(scipy.stats.t.isf(0.025 / size, n - 1)) * sd / sqrt(n)
            assert (member.ci_family_low, member.ci_family_high) == pytest.approx((mean - reach, mean + reach))
            excludes = abs(mean) > reach
            assert member.rejected or not excludes, "an interval without 0 is a rejection of Holm's first step"
            assert member.holm_alone == (member.rejected and not excludes)
            alone += member.holm_alone
    assert alone > 10  # both kinds have been seen


def test_a_rejected_difference_has_the_interval_that_a_paper_prints() -> None:
    """Without a teacher five seeds of digits lose 13.40 points, among six comparisons: t(.05 / 12, 4) = 4.8510."""
    base = by_seed(74.358974, 76.811594, 78.483835, 77.591973, 78.372352)
    student_only = by_seed(63.210702, 64.659978, 60.535117, 61.092531, 69.119287)
    others = [drawn(5, effect, seed) for seed, effect in enumerate((0.1, -0.1, 0.2, 0.0, 0.3))]
    member = paired.holm_family([paired.paired_difference(student_only, base), *others])[0]
    assert member.rejected
    assert not member.holm_alone
    assert (member.ci_family_low, member.ci_family_high) == (
        pytest.approx(-21.38, abs=0.005), pytest.approx(-5.42, abs=0.005),
    )  # fmt: skip


def test_two_seeds_have_intervals_with_two_ends() -> None:
    """+32.85 with sd 0.897 (p .012): Holm's second step rejects it, and t(.05 / 6, 1) = 38.19."""
    base = by_seed(50.0, 50.0)
    large, small = paired.paired_difference(by_seed(83.484, 82.216), base), drawn(2, 0.0)
    sure = paired.paired_difference(by_seed(60.0, 60.001), base)
    [first, second, _] = paired.holm_family([sure, large, small])
    assert first.rejected
    assert second.rejected
    reach = float(scipy.stats.t.isf(0.05 / 6, 1)) * 1.268 / 2
    assert (second.ci_family_low, second.ci_family_high) == pytest.approx((32.85 - reach, 32.85 + reach))


def test_holm_may_reject_what_its_interval_covers() -> None:
    """Three differences with n = 9, sd 1: |t| 30, 3 and 0.3, p 2e-9, .017 and .77; t(.05 / 6, 8) = 3.016."""

    def made(mean: float) -> Difference:
        p = 2 * float(scipy.stats.t.sf(abs(mean) * sqrt(9), 8))
        return Difference(9, tuple(range(9)), mean, 1.0, p=p)

    reach = float(scipy.stats.t.isf(0.05 / 6, 8)) / 3
    family = paired.holm_family([made(10.0), made(-1.0), made(0.1)])
    assert reach == pytest.approx(1.0053, abs=1e-4)
    assert [member.rejected for member in family] == [True, True, False]
    assert [member.holm_alone for member in family] == [False, True, False]
    assert family[1].p_holm == pytest.approx(0.034, abs=5e-4)
    assert (family[1].ci_family_low, family[1].ci_family_high) == pytest.approx((-1 - reach, -1 + reach))


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
    """R: power.t.test(delta = 1, sd = 1, power = .8, type = "paired") asks for 10, with sd 1.7275 for 26 (25.4)."""
    assert spread_limit(1.0, 4) == pytest.approx(sqrt(3 / scipy.stats.chi2.ppf(0.2, 3)))
    assert spread_limit(1.0, 4) == pytest.approx(1.7275, abs=1e-4)
    assert more_seeds(1.0, 4, 1.0, alpha=0.05) == (6, 22)
    assert more_seeds(1.0, 50, 1.0, alpha=0.05) == (0, 0)
    low, high = more_seeds(0.3, 5, alpha=0.05 / 6) or (0, 0)
    assert low == seeds_needed(0.3, 0.3, alpha=0.05 / 6) - 5 > seeds_needed(0.3, 0.3) - 5
    assert high == required_seeds([0.3 * step for step in (-1, -1, 0, 1, 1)], 0.3, alpha=0.05 / 6).n - 5
    assert more_seeds(0.0, 2, alpha=0.05) is more_seeds(0.3, 1, alpha=0.05) is None


@pytest.mark.parametrize(("sd", "n"), [(1.0, 2), (0.4, 5), (2.0, 8), (1.0, 20)])
@pytest.mark.parametrize("size", [1, 6])
def test_what_seeds_show_and_what_they_need_follow_one_rule(sd: float, n: int, size: int) -> None:
    """Seeds that show d at the level of the rule need no further one for d, and need some for a little less."""
    low, high = detectable(sd, n, alpha=0.05 / size) or (0.0, 0.0)
    assert low == minimum_detectable(sd, n, alpha=0.05 / size)
    assert high / low == pytest.approx(sqrt((n - 1) / scipy.stats.chi2.ppf(0.2, n - 1)))
    assert more_seeds(sd, n, 1.0001 * high, alpha=0.05 / size) == (0, 0)
    fewest, most = more_seeds(sd, n, 0.9999 * high, alpha=0.05 / size) or (0, 0)
    assert (fewest, most) == (0, 1)
    assert (more_seeds(sd, n, 0.9999 * low, alpha=0.05 / size) or (0, 0))[0] == 1
    assert detectable(0.0, n, alpha=0.05) is detectable(sd, 1, alpha=0.05) is None


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

"""Paired comparisons by seed: t tests with their intervals, families of them, power, equivalence.

Cells of a study share their seeds, so that they are compared by the difference within each seed. The unit is the seed;
everything is in the unit of the values (accuracy: points). Factors and test images: `akdtune.contrasts`; numbers of
seeds: `akdtune.power`; this module hands on both.

No spread: where the differences are all equal (up to rounding), t is undefined, and accuracies on a few hundred images
do tie. All zero: p = 1 and the interval is [0, 0]. Equal and not zero: p is that of the sign-flip test, 2/2^n, not the
limit 0, which two seeds would reach by chance; the interval is that value where 2/2^n <= alpha and missing elsewhere.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Literal, TypeAlias

import numpy as np

from akdtune.statistics.association import LEVEL
from akdtune.statistics.power import ROUNDING, check_share, finite, spread, t_quantile
from akdtune.statistics.resampling import Floats

Verdict: TypeAlias = Literal["equivalent", "not resolved", "different"]

EXACT_SEEDS = 20  # 2^19 sign flips take some ten milliseconds
WILCOXON_SEEDS = 10
BOOTSTRAP_SEEDS = 15  # at n = 5 the percentile interval covers .84 instead of .95
DRAWS = 100_000
_RESAMPLES = 5000


@dataclass(frozen=True)
class CellSummary:
    """Mean of a cell over its seeds with the t interval; `mean` is None without values, the rest where n < 2.

    There is no interval where all values are equal, either: it would have no length.
    """

    n: int
    mean: float | None
    sd: float | None
    ci_low: float | None
    ci_high: float | None


@dataclass(frozen=True)
class Difference:
    """Cell minus reference over the seeds that both have.

    Attributes:
        n_pairs, seeds: common seeds, in order.
        difference, sd: mean and standard deviation of the per-seed differences.
        ci_low, ci_high, p: paired t, two-sided (see the module for differences without spread).
        correlation: Pearson's r of cell and reference over seeds: what pairing gains; None for n < 3 or
            constant values.
        permutation_p: two-sided sign-flip test of the mean difference.
        permutation_floor: the smallest p that this test can give, 2/2^n.
        permutation_form: "exact" up to `EXACT_SEEDS` seeds, beyond them "Monte Carlo" over `DRAWS` random flips.
        wilcoxon_p: signed-rank test, from `WILCOXON_SEEDS` seeds on.
        bootstrap_low, bootstrap_high: BCa interval of the mean difference, from `BOOTSTRAP_SEEDS` seeds on.
    """

    n_pairs: int
    seeds: tuple[int, ...]
    difference: float | None = None
    sd: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    p: float | None = None
    correlation: float | None = None
    permutation_p: float | None = None
    permutation_floor: float | None = None
    permutation_form: Literal["exact", "Monte Carlo"] | None = None
    wilcoxon_p: float | None = None
    bootstrap_low: float | None = None
    bootstrap_high: float | None = None


@dataclass(frozen=True)
class InFamily:
    """A difference among those that are judged together.

    Attributes:
        p_holm: Holm's p, None where there is no p.
        ci_family_low, ci_family_high: Bonferroni's t interval: all of the family cover at once. None where the data
            give none (fewer than two seeds, or no spread and too few seeds).
        rejected: p_holm < alpha.
        permutation_note: why the sign-flip test cannot reject in this family whatever the data, "" where it can.
    """

    p_holm: float | None
    ci_family_low: float | None
    ci_family_high: float | None
    rejected: bool
    permutation_note: str

    @property
    def holm_alone(self) -> bool:
        """Whether Holm rejects although the interval covers 0."""
        low, high = self.ci_family_low, self.ci_family_high
        return self.rejected and low is not None and high is not None and low <= 0 <= high


@dataclass(frozen=True)
class Equivalence:
    """Two one-sided tests against a margin; `p` is None for fewer than two pairs."""

    p: float | None
    verdict: Verdict


def cell_summary(values_N: Sequence[float] | Floats, level: float = LEVEL) -> CellSummary:
    """Mean, standard deviation and t interval over seeds.

    Raises:
        ValueError: for values that are not finite or a level outside (0, 1).
    """
    check_share("level", level)
    values_N = finite(values_N)
    n = len(values_N)
    if n < 2:
        return CellSummary(n, float(values_N[0]) if n else None, None, None, None)
    mean, sd = float(values_N.mean()), spread(values_N, float(np.abs(values_N).max()))
    if sd == 0:
        return CellSummary(n, mean, sd, None, None)
    reach = t_quantile((1 - level) / 2, n) * sd / sqrt(n)
    return CellSummary(n, mean, sd, mean - reach, mean + reach)


def paired_difference(
    cell: Mapping[int, float], reference: Mapping[int, float], *, level: float = LEVEL, beside: bool = True
) -> Difference:
    """Cell minus reference on their common seeds: paired t, and the tests that stand beside it.

    Args:
        cell: value of each seed.
        reference: value of each seed; seeds that only one of the two has are left out.
        level: coverage of the intervals, 0 to 1.
        beside: whether Wilcoxon's test and the bootstrap stand beside t, which wait a second for scipy.stats.

    Raises:
        ValueError: for values that are not finite or a level outside (0, 1).
    """
    check_share("level", level)
    seeds = tuple(sorted(set(cell) & set(reference)))
    n = len(seeds)
    if not n:
        return Difference(0, ())
    cell_N, reference_N = (finite([values[seed] for seed in seeds]) for values in (cell, reference))
    scale = float(max(np.abs(cell_N).max(), np.abs(reference_N).max()))
    differences_N = cell_N - reference_N
    differences_N[np.abs(differences_N) <= ROUNDING * scale] = 0.0
    mean = float(differences_N.mean())
    if n < 2:
        return Difference(n, seeds, mean)
    sd = spread(differences_N, scale)
    p = 2 * _upper_tail(abs(mean), sd, n)
    low, high = _interval(mean, sd, n, 1 - level)
    drawn = beside and n >= BOOTSTRAP_SEEDS
    bootstrap_low, bootstrap_high = _bootstrap(differences_N, sd, level) if drawn else (None, None)
    return Difference(
        n, seeds, mean, sd, low, high, p, _correlation(cell_N, reference_N), _sign_flip_p(differences_N, scale),
        2.0 / 2.0**n, "exact" if n <= EXACT_SEEDS else "Monte Carlo",
        _wilcoxon_p(differences_N, scale) if beside and n >= WILCOXON_SEEDS else None, bootstrap_low, bootstrap_high,
    )  # fmt: skip


def holm_family(differences: Sequence[Difference], *, alpha: float = 0.05) -> list[InFamily]:
    """Holm's p, and beside it single-step intervals that hold all at once: t intervals at alpha over the family's size.

    Where such an interval excludes 0, Holm rejects. Where Holm rejects in a later step, the interval may cover 0
    (`InFamily.holm_alone`): its first step is Bonferroni's, the later ones spend what earlier rejections have freed,
    which no interval of a single step does.

    Bonferroni, not max-t over the shared reference: with correlations estimated from the seeds, the quantile of a
    multivariate t is too small (simultaneous coverage .88, .92, .94 instead of .95 for ten comparisons and n = 5, 8,
    20); one drawn with each difference's own variance is narrower by 5 to 8 % at n = 5 and covers with .94 there,
    nominal from 8 seeds on (`benchmarks/paired_statistics.py`). Dunnett's fixed correlation of .5 gains 3 % and needs
    the cells to vary alike.

    Args:
        differences: the family; those without p (fewer than two pairs) stay outside.
        alpha: family-wise error, 0 to 1.

    References:
        Holm 1979, Scand. J. Statist. 6:65. Dunn 1961, JASA 56:52 (the intervals).
    """
    check_share("alpha", alpha)
    tested = [index for index, difference in enumerate(differences) if difference.p is not None]
    family: list[InFamily] = [InFamily(None, None, None, False, "")] * len(differences)
    steps = holm([difference.p for difference in differences if difference.p is not None])
    for index, (p_holm, left) in zip(tested, steps, strict=True):
        difference = differences[index]
        mean, sd, n = difference.difference or 0.0, difference.sd or 0.0, difference.n_pairs
        low, high = _interval(mean, sd, n, alpha / len(tested))
        note = _permutation_note(n, alpha, left)
        family[index] = InFamily(p_holm, low, high, p_holm < alpha, note)
    return family


def equivalence(difference: Difference, margin: float, *, alpha: float = 0.05) -> Equivalence:
    """Whether the difference lies within +-margin: two one-sided t tests (TOST).

    Returns:
        "equivalent" where both reject at alpha, also for a small difference that is not 0; else "different" where the
        two-sided t test rejects 0; else "not resolved".

    Raises:
        ValueError: for a margin that is not above 0.

    References:
        Schuirmann 1987, J. Pharmacokinet. Biopharm. 15:657.
    """
    check_share("alpha", alpha)
    if not margin > 0:
        raise ValueError(f"margin must be above 0, got {margin}")
    if difference.p is None or difference.difference is None or difference.sd is None:
        return Equivalence(None, "not resolved")
    mean, sd, n = difference.difference, difference.sd, difference.n_pairs
    # By hand: statsmodels' ttost_paired gives the same (a test compares), but from the values, which a `Difference`
    # does not keep, and nan where they have no spread.
    p = max(_upper_tail(mean + margin, sd, n), _upper_tail(margin - mean, sd, n))
    if p < alpha:
        return Equivalence(p, "equivalent")
    return Equivalence(p, "different" if difference.p < alpha else "not resolved")


def _upper_tail(mean: float, sd: float, n: int) -> float:
    """One-sided p of "the mean is not above 0"; without spread that of the sign-flip test."""
    from scipy.special import stdtr  # late: commands that only list trials do not wait for it

    if sd > 0:
        return float(stdtr(n - 1, -mean * sqrt(n) / sd))
    return 0.5**n if mean > 0 else 0.5 if mean == 0 else 1.0


def _interval(mean: float, sd: float, n: int, alpha: float) -> tuple[float, float] | tuple[None, None]:
    """The two-sided t interval that misses with probability `alpha`; without spread as the module says."""
    if sd == 0:
        return (mean, mean) if mean == 0 or 2 * 0.5**n <= alpha else (None, None)
    reach = t_quantile(alpha / 2, n) * sd / sqrt(n)
    return mean - reach, mean + reach


def holm(ps: Sequence[float]) -> list[tuple[float, int]]:
    """For each hypothesis Holm's p and how many are left, it included, when its turn comes."""
    # By hand: statsmodels' multipletests gives the same p (a test compares), but not how many are left; it loads pandas
    # (2 s) and collects garbage at every call (0.14 s, a thousand times as long as this).
    steps = [(1.0, 1)] * len(ps)
    largest = 0.0
    for place, index in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        left = len(ps) - place
        largest = max(largest, min(1.0, left * ps[index]))
        steps[index] = (largest, left)
    return steps


def _permutation_note(n: int, alpha: float, left: int) -> str:
    floor = 2.0 / 2.0**n
    if floor <= alpha / left:
        return ""
    goal = "alpha" if floor > alpha else f"alpha/{left} = {_short(alpha / left)}"
    return f"cannot reach {goal} at n = {n}: smallest p {_short(floor)}"


def _short(p: float) -> str:
    return f"{p:.4f}".removeprefix("0")


def _correlation(cell_N: Floats, reference_N: Floats) -> float | None:
    constant = any(spread(values_N, float(np.abs(values_N).max())) == 0 for values_N in (cell_N, reference_N))
    return None if len(cell_N) < 3 or constant else float(np.corrcoef(cell_N, reference_N)[0, 1])


def _sign_flip_p(differences_N: Floats, scale: float) -> float:
    """Share of sign flips whose mean is at least as far from 0; Monte Carlo counts the data as one of its draws."""
    # By hand: scipy's permutation_test gives the same (a test compares) but where sums tie, as accuracies do, which it
    # lets rounding decide; and it takes 10 times as long for 5 seeds, 90 times for 12, 1,600 times for 15.
    n = len(differences_N)
    least = abs(float(differences_N.sum())) - n * ROUNDING * scale
    if n <= EXACT_SEEDS:
        sums = differences_N[:1]  # the other sign of the first mirrors every sum
        for value in differences_N[1:]:
            sums = np.concatenate([sums + value, sums - value])
        return float(np.mean(np.abs(sums) >= least))
    rng = np.random.default_rng(0)
    reached = 0
    for start in range(0, DRAWS, 10_000):
        signs = rng.integers(0, 2, (min(10_000, DRAWS - start), n)) * 2 - 1
        reached += int(np.count_nonzero(np.abs(signs @ differences_N) >= least))
    return (reached + 1) / (DRAWS + 1)


def _wilcoxon_p(differences_N: Floats, scale: float) -> float:
    from scipy.stats import wilcoxon  # late: commands that only list trials do not wait for it

    if not differences_N.any():
        return 1.0
    digits = int(np.clip(11 - np.floor(np.log10(scale)), 0, 300))  # what ties in exact arithmetic ties
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that zeros and ties rule the exact form out
        return float(wilcoxon(np.round(differences_N, digits)).pvalue)


def _bootstrap(differences_N: Floats, sd: float, level: float) -> tuple[float, float]:
    """BCa interval of the mean, drawn with a fixed seed."""
    from scipy.stats import bootstrap  # late: commands that only list trials do not wait for it

    if sd == 0:
        return float(differences_N.mean()), float(differences_N.mean())
    interval = bootstrap(
        (differences_N,), np.mean, vectorized=True, method="BCa", n_resamples=_RESAMPLES, confidence_level=level,
        random_state=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    return float(interval.low), float(interval.high)

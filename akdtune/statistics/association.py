"""Correlation and slope between two variables, with intervals that respect repeated measurement of a cell.

Intervals come from a bootstrap over clusters (`resampling.py`): trials of one cell differ only in their seed, so whole
cells are drawn, never single trials. With many clusters the intervals are those that the bootstrap tends to: normal
ones from the rows' influence values, summed over each cluster, in time that grows with the rows.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from math import atanh, ceil, sqrt, tanh
from statistics import NormalDist
from typing import Any

import numpy as np

from akdtune.statistics import resampling
from akdtune.statistics.resampling import TINY, Floats, Integers

LEVEL = 0.95
DRAWS = 2000
MIN_CLUSTERS = 6  # below it, too few distinct resamples exist for an interval
LARGE = 400  # clusters beyond which nothing is drawn
LARGE_FOR_RANKS = 100
"""Clusters beyond which nothing is drawn for Spearman's correlation, whose draws take ten times as long as the others':
a rank has no tails, so influence values give its ends as closely as 2,000 draws do (off by 1 to 3 % of the interval's
width; with nuisance columns the interval is up to 4 % too narrow at 100 clusters, 1 % at 400)."""


@dataclass(frozen=True)
class Coefficient:
    """A number and its bootstrap interval; `low` and `high` are None where there are too few clusters for one."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def excludes_zero(self) -> bool:
        """Whether there is an interval and zero lies outside it."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class Association:
    """How x and y move together once the nuisance columns are taken out of both.

    Attributes:
        n: rows used.
        clusters: distinct clusters among them.
        residual_dof: clusters minus nuisance rank minus one, for the slope.
        pearson, spearman, slope: None when x or y does not vary beyond the nuisance columns; `slope` is in units of y
            per unit of x.
        x_sd: standard deviation of x after adjustment, to put slopes of several x on one scale.
    """

    n: int
    clusters: int
    residual_dof: int
    pearson: Coefficient | None
    spearman: Coefficient | None
    slope: Coefficient | None
    x_sd: float


def association(
    x_N: Floats,
    y_N: Floats,
    clusters_N: Sequence[Hashable],
    nuisance_NQ: Floats | None = None,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    level: float = LEVEL,
    drawn_up_to: int = LARGE,
    ranks_drawn_up_to: int = LARGE_FOR_RANKS,
) -> Association:
    """Partial Pearson and Spearman correlation and slope of y on x, each with an interval over clusters.

    x and y are replaced by their residuals after least squares on the nuisance columns; within each bootstrap draw
    this is done anew. With an intercept alone these are the plain coefficients; with one dummy per group, those of
    the values centred on their group's mean. Beyond `drawn_up_to` clusters nothing is drawn: the interval is that of
    the influence values, which takes the residuals as given (to first order that matters to Spearman alone).

    Args:
        x_N: finite values.
        y_N: finite values, a row each.
        clusters_N: the cluster (cell) of each row.
        nuisance_NQ: columns to adjust for, which must span the intercept; None: the intercept alone.
        draws: bootstrap draws; fewer (at least 300) where N is above 750, so that the work stays bounded.
        seed: of the bootstrap.
        level: coverage of the intervals, 0 to 1.
        drawn_up_to: clusters beyond which nothing is drawn.
        ranks_drawn_up_to: the same for Spearman's correlation.

    Raises:
        ValueError: for values that are not finite or shapes that differ.
    """
    if len(x_N) != len(y_N):
        raise ValueError(f"x and y must have one row each per observation, got {len(x_N)} and {len(y_N)}")
    return associations(
        x_N[:, None],
        y_N,
        clusters_N,
        nuisance_NQ,
        draws=draws,
        seed=seed,
        level=level,
        drawn_up_to=drawn_up_to,
        ranks_drawn_up_to=ranks_drawn_up_to,
    )[0]


def associations(
    x_NM: Floats,
    y_N: Floats,
    clusters_N: Sequence[Hashable],
    nuisance_NQ: Floats | None = None,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    level: float = LEVEL,
    drawn_up_to: int = LARGE,
    ranks_drawn_up_to: int = LARGE_FOR_RANKS,
) -> list[Association]:
    """As `association` for each of the M columns of `x_NM` by itself: what they share in a draw is computed once."""
    nuisance_NQ = np.ones((len(x_NM), 1)) if nuisance_NQ is None else nuisance_NQ
    if not (len(x_NM) == len(y_N) == len(clusters_N) == len(nuisance_NQ)):
        raise ValueError(f"x, y, clusters and nuisance must have one row each per observation, got {len(x_NM)}, "
                         f"{len(y_N)}, {len(clusters_N)} and {len(nuisance_NQ)}")  # fmt: skip
    if not (np.isfinite(x_NM).all() and np.isfinite(y_N).all() and np.isfinite(nuisance_NQ).all()):
        raise ValueError("x, y and nuisance must be finite")
    codes_N = codes_of(clusters_N)
    count = len(set(codes_N.tolist()))
    dof = count - (int(np.linalg.matrix_rank(nuisance_NQ)) if len(y_N) else 0) - 1
    y = _Adjusted.of(y_N, nuisance_NQ)
    xs = [_Adjusted.of(x_N, nuisance_NQ) for x_N in x_NM.T]
    related = [x for x in xs if len(y_N) >= 3 and x.varies and y.varies]
    points = [_points(x.left_N, y.left_N) for x in related]
    ends_MS2 = np.full((len(related), 3, 2), np.nan)
    if count > ranks_drawn_up_to:
        for ends_S2, x, of_x in zip(ends_MS2, related, points, strict=True):
            ends_S2[:] = _large_sample_intervals(x.left_N, y.left_N, of_x, codes_N, level)
    if related and MIN_CLUSTERS <= count <= drawn_up_to:
        drawn = [0, 2] if count > ranks_drawn_up_to else [0, 2, 1]
        statistic = resampling.partial_statistic(
            np.column_stack([x.left_N for x in related]), y.left_N, nuisance_NQ, with_ranks=1 in drawn
        )
        ends = resampling.interval(statistic, codes_N, _draws(draws, len(y_N)), seed, level)
        ends_MS2[:, drawn] = np.stack(ends, axis=-1).swapaxes(0, 1)
    estimates: dict[int, list[Coefficient | None]] = {
        id(x): [
            Coefficient(point * unit, *(ends_2 * unit).tolist())
            if np.isfinite(ends_2).all()
            else Coefficient(point * unit)
            for point, unit, ends_2 in zip(of_x, (1.0, 1.0, y.scale / x.scale), ends_S2, strict=True)
        ]
        for x, of_x, ends_S2 in zip(related, points, ends_MS2, strict=True)
    }
    nothing: list[Coefficient | None] = [None] * 3
    return [
        Association(len(y_N), count, dof, pearson, spearman, slope, x.sd)
        for x, (pearson, spearman, slope) in ((x, estimates.get(id(x), nothing)) for x in xs)
    ]


@dataclass(frozen=True)
class _Adjusted:
    """A variable over its standard deviation, free of the nuisance: `left_N`; `varies` unless nothing is left."""

    left_N: Floats
    scale: float
    sd: float
    varies: bool

    @classmethod
    def of(cls, values_N: Floats, nuisance_NQ: Floats) -> _Adjusted:
        scale = _spread(values_N)
        if len(values_N) < 3 or not scale:
            return cls(values_N, scale, 0.0 if len(values_N) < 3 else scale, False)
        left_N = _residuals(values_N / scale, nuisance_NQ)
        spread = float(np.std(left_N))
        return cls(left_N, scale, spread * scale, spread >= TINY)


def dummies(labels_N: Sequence[Hashable]) -> Floats:
    """One 0/1 column per distinct label [N, labels]; together they span the intercept."""
    codes_N = codes_of(labels_N)
    return np.asarray(codes_N[:, None] == np.arange(codes_N.max(initial=-1) + 1)[None], np.float64)


def covariate(values_N: Sequence[Any]) -> Floats | None:
    """Nuisance columns for one setting: dummies for names and switches, one standardised column for numbers.

    A setting that some rows lack (because their method does not have it) enters at its mean there; whichever dummy
    marks the method takes up the difference. Positive numbers that span a factor of ten or more enter as logarithms.

    Returns:
        [N, columns], or None when the setting does not vary.
    """
    known = [value for value in values_N if value is not None]
    if len(set(map(str, known))) < 2:
        return None
    if not all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in known):
        return dummies([str(value) for value in values_N])
    numbers = np.array([np.nan if value is None else value for value in values_N], np.float64)
    if np.nanmin(numbers) > 0 and np.nanmax(numbers) / np.nanmin(numbers) >= 10:
        numbers = np.log(numbers)
    centred = np.nan_to_num(numbers - np.nanmean(numbers))
    return np.asarray(centred / np.std(centred))[:, None]


def detectable_correlation(n: int, *, alpha: float = 1 - LEVEL, power: float = 0.8) -> float | None:
    """The smallest true |r| that n independent pairs show as different from zero with this power (Fisher's z).

    Args:
        n: pairs, less one for each nuisance column beside the intercept.
        alpha: two-sided level; under Holm's correction over m measures that of its first step, 0.05 / m.
        power: 0 to 1.
    """
    return tanh(_z_sum(alpha, power) / sqrt(n - 3)) if n > 3 else None


def pairs_needed(r: float, *, alpha: float = 1 - LEVEL, power: float = 0.8) -> int | None:
    """How many independent pairs tell a true correlation r from zero at level alpha with this power (Fisher's z)."""
    if abs(r) < 1e-6 or abs(r) >= 1:
        return None
    return ceil((_z_sum(alpha, power) / atanh(abs(r))) ** 2 + 3)


def _z_sum(alpha: float, power: float) -> float:
    return _normal(1 - alpha) + NormalDist().inv_cdf(power)


def _normal(level: float) -> float:
    """Standard deviations from the mean that the middle `level` of a normal distribution reaches."""
    return NormalDist().inv_cdf((1 + level) / 2)


def codes_of(labels_N: Sequence[Hashable]) -> Integers:
    """Each distinct label as a number, counted from 0 in the order of their first rows [N]."""
    known: Mapping[Hashable, int] = {label: code for code, label in enumerate(dict.fromkeys(labels_N))}
    return np.fromiter((known[label] for label in labels_N), np.int64, len(labels_N))


def _spread(values_N: Floats) -> float:
    """Standard deviation, exactly 0 for values that are equal up to rounding."""
    spread = float(np.std(values_N)) if len(values_N) else 0.0
    return spread if spread > 1e-12 * float(np.abs(values_N).max(initial=0.0)) else 0.0


def _draws(wanted: int, rows: int) -> int:
    return min(wanted, max(300, 1_500_000 // max(1, rows)))


def _residuals(values_N: Floats, nuisance_NQ: Floats) -> Floats:
    weights_Q, *_ = np.linalg.lstsq(nuisance_NQ, values_N)
    return np.asarray(values_N - nuisance_NQ @ weights_Q, np.float64)


def _points(x_N: Floats, y_N: Floats) -> list[float]:
    """Pearson, Spearman and slope of two residual vectors."""
    pearson, spearman = (_correlation(*pair) for pair in ((x_N, y_N), (_ranks(x_N), _ranks(y_N))))
    return [pearson, spearman, pearson * float(np.std(y_N)) / float(np.std(x_N))]


def _correlation(a_N: Floats, b_N: Floats) -> float:
    return float(np.clip(np.corrcoef(a_N, b_N)[0, 1], -1, 1))


def _ranks(values_N: Floats) -> Floats:
    return np.asarray(resampling.weighted_ranks(values_N[None], np.ones((1, len(values_N))))[0])


def _large_sample_intervals(
    x_N: Floats, y_N: Floats, points: Sequence[float], codes_N: Integers, level: float
) -> Floats:
    """Lower and upper end [3, 2] for each statistic of two residual vectors; those of correlations after Fisher's z."""
    ends_S2 = np.empty((3, 2))
    for index, (point, influence_N) in enumerate(zip(points, _influences(x_N, y_N, points), strict=True)):
        sums_G = np.bincount(codes_N, weights=influence_N - influence_N.mean())
        error = sqrt(float((sums_G**2).sum()) * len(sums_G) / (len(sums_G) - 1)) / len(x_N)
        is_correlation = index < 2
        if is_correlation and abs(point) < 1 - TINY:
            reach = _normal(level) * error / (1 - point**2)
            ends_S2[index] = tanh(atanh(point) - reach), tanh(atanh(point) + reach)
        else:
            reach = 0.0 if is_correlation else _normal(level) * error
            ends_S2[index] = point - reach, point + reach
    return ends_S2


def _influences(x_N: Floats, y_N: Floats, points: Sequence[float]) -> tuple[Floats, Floats, Floats]:
    """How much each row moves Pearson, Spearman and slope, times N: their derivatives with respect to its weight."""
    pearson, _, slope = points
    near_x_N, near_y_N = ((v - v.mean()) / v.std() for v in (x_N, y_N))
    of_pearson_N = near_x_N * near_y_N - pearson * (near_x_N**2 + near_y_N**2) / 2
    of_slope_N = near_x_N * (y_N - y_N.mean() - slope * (x_N - x_N.mean())) / x_N.std()
    ranks = [_ranks(v) / len(v) for v in (x_N, y_N)]
    spreads = [float(r.std()) for r in ranks]
    near_ranks = [(r - r.mean()) / spread for r, spread in zip(ranks, spreads, strict=True)]
    of_spearman_N = near_ranks[0] * near_ranks[1]
    for own, other in ((0, 1), (1, 0)):  # a row also moves the ranks of all others
        of_spearman_N = of_spearman_N + _mean_above(ranks[own], near_ranks[other]) / spreads[own]
    return of_pearson_N, of_spearman_N, of_slope_N


def _mean_above(values_N: Floats, weights_N: Floats) -> Floats:
    """For each row, the sum of the weights of rows with a larger value over N, half of it for equal ones."""
    order = np.argsort(values_N)
    upto = np.concatenate([[0.0], np.cumsum(weights_N[order])])
    below, through = (np.searchsorted(values_N[order], values_N, side) for side in ("left", "right"))
    return np.asarray((upto[-1] - (upto[below] + upto[through]) / 2) / len(values_N))

"""The bootstrap over clusters: whole clusters are drawn, and a statistic sees how often each of their rows was.

What scipy.stats.bootstrap computes, with the same draws, but by weights instead of copied rows: draws are made once for
all statistics of a study, and scipy.stats need not be imported, which alone takes a second. The tests compare the two.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from statistics import NormalDist
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]
Statistic: TypeAlias = Callable[[Floats], Floats]

TINY = 1e-9
_CELLS_PER_BATCH = 32_768  # a batch's arrays stay in the processor's cache
_WELL_CONDITIONED = 1e-4


# ------------------------------------------------------------------------------------------------- drawing


def distribution(statistic: Statistic, codes_N: Integers, draws: int, seed: int) -> Floats:
    """The statistic [.., D] of each draw of as many clusters as there are, with replacement.

    Args:
        statistic: gets how often each row was drawn [D, N] and returns [.., D].
        codes_N: the cluster of each row, 0 to G - 1.
        draws: how many.
        seed: of the draws; the same draws for the same number of clusters.
    """
    return _of_weights(statistic, _drawn(int(codes_N.max()) + 1, draws, seed), codes_N)


def interval(statistic: Statistic, codes_N: Integers, draws: int, seed: int, level: float) -> tuple[Floats, Floats]:
    """Lower and upper ends [..] of bias-corrected and accelerated (BCa) intervals.

    The percentile interval where BCa is undefined, NaN where more than 5 % of the draws have no value.

    Args:
        statistic: as for `distribution`.
        codes_N: as for `distribution`.
        draws: as for `distribution`.
        seed: as for `distribution`.
        level: coverage, 0 to 1.

    References:
        Efron and Tibshirani, An Introduction to the Bootstrap (1993), equations 14.10, 14.14 and 14.15.
    """
    clusters = int(codes_N.max()) + 1
    drawn = distribution(statistic, codes_N, draws, seed)
    left_out = _of_weights(statistic, 1 - np.eye(clusters, dtype=np.uint8), codes_N)
    points = statistic(np.ones((1, len(codes_N))))[..., 0]
    low, high = np.empty(points.shape), np.empty(points.shape)
    for place in np.ndindex(points.shape):
        low[place], high[place] = _ends(drawn[place], float(points[place]), left_out[place], level)
    return low, high


@lru_cache(maxsize=16)
def _drawn(clusters: int, draws: int, seed: int) -> npt.NDArray[np.uint8]:
    """How often each cluster is drawn [D, G]."""
    drawn_DG = np.random.default_rng(seed).integers(0, clusters, (draws, clusters))
    drawn_DG += clusters * np.arange(draws)[:, None]
    times = np.bincount(drawn_DG.ravel(), minlength=clusters * draws)
    return np.minimum(times, 255).astype(np.uint8).reshape(draws, clusters)


def _of_weights(statistic: Statistic, times_DG: npt.NDArray[np.uint8], codes_N: Integers) -> Floats:
    step = max(1, _CELLS_PER_BATCH // len(codes_N))
    batches = (times_DG[start : start + step, codes_N] for start in range(0, len(times_DG), step))
    return np.concatenate([statistic(times_DN.astype(np.float64)) for times_DN in batches], axis=-1)


def _ends(drawn_D: Floats, point: float, left_out_G: Floats, level: float) -> tuple[float, float]:
    tails = np.array([(1 - level) / 2, (1 + level) / 2])
    finite = drawn_D[np.isfinite(drawn_D)]
    if len(finite) < 0.95 * len(drawn_D):
        return np.nan, np.nan
    below = float(np.mean(drawn_D < point) + np.mean(drawn_D == point) / 2)
    pulls_G = left_out_G.mean() - left_out_G
    spread = float((pulls_G**2).sum())
    if len(finite) == len(drawn_D) and 0 < below < 1 and spread > 0 and np.isfinite(spread):
        normal = NormalDist()
        bias, acceleration = normal.inv_cdf(below), float((pulls_G**3).sum()) / (6 * spread**1.5)
        shifted = [bias + normal.inv_cdf(tail) for tail in tails.tolist()]
        tails = np.array([normal.cdf(bias + z / (1 - acceleration * z)) for z in shifted])
    low, high = np.quantile(finite, tails)
    return float(low), float(high)


# ----------------------------------------------------------------------------------------------- statistics


def moments(weights_DN: Floats, columns_NP: Floats) -> Floats:
    """Weighted cross-products of all columns [D, P, P]."""
    width = columns_NP.shape[1]
    rows, others = np.triu_indices(width)
    moments_DPP = np.empty((len(weights_DN), width, width))
    products = weights_DN @ (columns_NP[:, rows] * columns_NP[:, others])
    moments_DPP[:, rows, others] = products
    moments_DPP[:, others, rows] = products
    return moments_DPP


def full_rank(columns_NQ: Floats) -> Floats:
    """An orthonormal basis of the columns' span, so that aliased settings count once."""
    left, sizes, _ = np.linalg.svd(columns_NQ, full_matrices=False)
    return np.asarray(left[:, sizes > sizes.max(initial=0.0) * 1e-10])


def partial_moments(weights_DN: Floats, basis_NQ: Floats, values_NP: Floats) -> Floats:
    """Weighted cross-products [D, P, P] of values that are free of the basis' columns in each draw anew.

    Args:
        weights_DN: how often each row was drawn.
        basis_NQ: columns to take out, independent of each other.
        values_NP: already free of the basis in the whole sample, which keeps the sums of products well conditioned.
    """
    return _partial(weights_DN, np.column_stack([basis_NQ, values_NP]), basis_NQ.shape[1])[0]


def _partial(weights_DN: Floats, columns_NP: Floats, width: int) -> tuple[Floats, Floats]:
    """Cross-products of the columns behind the first `width` ones, free of these, and the coefficients on them."""
    moments_DPP = moments(weights_DN, columns_NP)
    cross = moments_DPP[:, :width, width:]
    fitted = _solved(moments_DPP[:, :width, :width], cross)
    return moments_DPP[:, width:, width:] - np.swapaxes(cross, 1, 2) @ fitted, fitted


def partial_statistic(x_NM: Floats, y_N: Floats, nuisance_NQ: Floats, *, with_ranks: bool) -> Statistic:
    """Partial Pearson, slope and (`with_ranks`) Spearman of y on each x by row weights [D, N] -> [2 or 3, M, D].

    x and y are already free of the nuisance in the whole sample, which keeps the sums of products well conditioned.
    """
    basis_NQ = full_rank(nuisance_NQ)
    width = basis_NQ.shape[1]
    columns_NP = np.column_stack([basis_NQ, x_NM, y_N])
    only_intercept = width == 1 and bool(np.ptp(basis_NQ) < TINY)

    def statistic(weights_DN: Floats) -> Floats:
        left, fitted = _partial(weights_DN, columns_NP, width)
        variances = np.diagonal(left, axis1=1, axis2=2).T
        variances = np.where(variances > TINY * len(y_N), variances, np.nan)
        xy_MD, xx_MD, yy_D = left[:, :-1, -1].T, variances[:-1], variances[-1]
        by_statistic = [xy_MD / np.sqrt(xx_MD * yy_D), xy_MD / xx_MD]
        if with_ranks:
            ranks = []
            for index, values_N in enumerate(columns_NP[:, width:].T):
                # An intercept moves all rows alike, which leaves their order.
                shift = 0.0 if only_intercept else fitted[:, :, index] @ basis_NQ.T
                ranks.append(weighted_ranks(np.atleast_2d(values_N - shift), weights_DN))
            spearman_MD = np.stack([_correlation_of_ranks(of_x, ranks[-1], weights_DN) for of_x in ranks[:-1]])
            by_statistic.append(np.where(np.isnan(xx_MD * yy_D), np.nan, spearman_MD))
        return np.stack(by_statistic)

    return statistic


def _solved(gram_DQQ: Floats, cross: Floats) -> Floats:
    """Least-squares coefficients [D, Q, ..]; a resample may lack a whole group, hence the pseudo-inverse for some."""
    mean_D = np.trace(gram_DQQ, axis1=1, axis2=2) / gram_DQQ.shape[1]
    # The least eigenvalue is at least this over e times their mean (inequality of the means).
    is_well_D = np.linalg.det(gram_DQQ / mean_D[:, None, None]) > _WELL_CONDITIONED
    if is_well_D.all():
        return np.asarray(np.linalg.solve(gram_DQQ, cross))
    solved = np.empty_like(cross)
    solved[is_well_D] = np.linalg.solve(gram_DQQ[is_well_D], cross[is_well_D])
    solved[~is_well_D] = np.linalg.pinv(gram_DQQ[~is_well_D], rcond=1e-10, hermitian=True) @ cross[~is_well_D]
    return solved


def weighted_ranks(values_DN: Floats, weights_DN: Floats) -> Floats:
    """Ranks as if each value stood there as often as its weight says, ties at their mean rank [D, N].

    Args:
        values_DN: standardised; what is equal to nine digits ties. One row [1, N] stands for all draws.
        weights_DN: how often each value stands there.
    """
    draws, count = weights_DN.shape
    bits = count.bit_length()
    # Value and row in one integer, as sorting takes a third of the time of argsort.
    keys_DN = np.rint(values_DN * 1e9).astype(np.int64) << bits | np.arange(count)
    keys_DN.sort(axis=1)
    rows_DN = keys_DN & ((1 << bits) - 1)
    keys_DN >>= bits
    is_first_DN = np.ones(keys_DN.shape, bool)
    is_first_DN[:, 1:] = keys_DN[:, 1:] != keys_DN[:, :-1]
    if len(values_DN) == 1:
        return _ranks_in_order(rows_DN[0], is_first_DN[0], weights_DN)
    places = (rows_DN + count * np.arange(draws)[:, None]).ravel()
    weights = weights_DN.ravel()[places]
    upto = np.cumsum(weights.reshape(draws, count), axis=1).ravel()
    starts = np.flatnonzero(is_first_DN)
    sizes = np.append(starts[1:], len(places)) - starts
    ranks = np.empty(len(places))
    ranks[places] = np.repeat((upto[starts] - weights[starts] + upto[starts + sizes - 1] + 1) / 2, sizes)
    return ranks.reshape(draws, count)


def _ranks_in_order(rows_N: Integers, is_first_N: npt.NDArray[np.bool_], weights_DN: Floats) -> Floats:
    """Ranks of values that have the same order in all draws."""
    upto = np.zeros((len(weights_DN), len(rows_N) + 1))
    np.cumsum(weights_DN[:, rows_N], axis=1, out=upto[:, 1:])
    upto = upto[:, np.append(np.flatnonzero(is_first_N), len(rows_N))]
    of_row_N = np.empty(len(rows_N), np.int64)
    of_row_N[rows_N] = np.cumsum(is_first_N) - 1
    return np.asarray(((upto[:, :-1] + upto[:, 1:] + 1) / 2)[:, of_row_N])


def _correlation_of_ranks(a_DN: Floats, b_DN: Floats, weights_DN: Floats) -> Floats:
    middle_D1 = (weights_DN.sum(axis=1, keepdims=True) + 1) / 2  # the mean of all ranks
    a_DN, b_DN = a_DN - middle_D1, b_DN - middle_D1
    of_a_DN, of_b_DN = weights_DN * a_DN, weights_DN * b_DN
    ab, aa, bb = (np.einsum("dn,dn->d", *pair) for pair in ((of_a_DN, b_DN), (of_a_DN, a_DN), (of_b_DN, b_DN)))
    scale = np.sqrt(aa * bb)
    return np.asarray(np.divide(ab, scale, out=np.full_like(ab, np.nan), where=scale > TINY))

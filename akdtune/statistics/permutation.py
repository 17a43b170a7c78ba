"""Whether x and y go together within groups, by permuting y within each group: exact however groups differ.

Under "y does not depend on x within a group" every order of a group's values is as likely as the one observed, whatever
the groups' means, spreads and shapes. A t test with one mean per group takes all groups to vary alike: where the group
that varies most in y also varies most in x, it calls .15 of independent pairs related at a level of .05; permutations
of all rows at once do the same (benchmarks/association_statistics.py).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from statistics import NormalDist

import numpy as np

from akdtune.statistics.resampling import Floats, Integers

# Shapes: N rows, M variables x, D draws, G groups.

DRAWS = 9999
LARGE = 400
"""Rows beyond which nothing is drawn: the statistic's mean and variance over all permutations are known exactly."""
_TIES = 1e-9
_CELLS_PER_BATCH = 500_000


def p_within_groups(
    x_NM: Floats,
    y_N: Floats,
    groups_N: Sequence[Hashable],
    *,
    draws: int = DRAWS,
    seed: int = 0,
    drawn_up_to: int = LARGE,
) -> list[float | None]:
    """Two-sided p of "no association within groups" for each column of x by itself, with one set of permutations.

    The statistic is the partial correlation given group means. The observed order counts as one of the draws.

    Args:
        x_NM: finite values.
        y_N: finite values, in any unit; rows must be exchangeable within their group when there is no association.
        groups_N: the group of each row.
        draws: permutations; the smallest p is 1 / (draws + 1).
        seed: of the permutations.
        drawn_up_to: rows beyond which the normal distribution with the exact variance stands for the draws.

    Returns:
        None for a column that, or where y, does not vary within groups.

    References:
        Pitman 1937, Supplement to the Journal of the Royal Statistical Society 4:225 (mean and variance of the
        correlation over permutations).
    """
    codes_N = np.unique([str(group) for group in groups_N], return_inverse=True)[1].astype(np.int64)
    x_NM, y_N = _centred(x_NM, codes_N), _centred(y_N[:, None], codes_N)[:, 0]
    sizes_M = np.sqrt((x_NM**2).sum(axis=0) * (y_N**2).sum())
    observed_M = np.abs(y_N @ x_NM)
    if len(y_N) > drawn_up_to:
        ps_M = _normal(x_NM, y_N, codes_N, observed_M)
    else:
        reached_M = np.zeros(x_NM.shape[1], np.int64)
        for permuted_DN in _permutations(y_N, codes_N, draws, seed):
            reached_M += (np.abs(permuted_DN @ x_NM) >= observed_M - _TIES * sizes_M).sum(axis=0)
        ps_M = (reached_M + 1) / (draws + 1)
    return [float(p) if size > 0 else None for p, size in zip(ps_M, sizes_M, strict=True)]


def _centred(values_NM: Floats, codes_N: Integers) -> Floats:
    """Each column less its group's mean, over its own size; exactly 0 where only rounding is left."""
    sizes_G = np.bincount(codes_N)
    means_GM = np.stack([np.bincount(codes_N, weights=column_N) / sizes_G for column_N in values_NM.T], axis=1)
    left_NM = values_NM - means_GM[codes_N]
    spreads_M = np.sqrt((left_NM**2).mean(axis=0))
    vary_M = spreads_M > 1e-12 * np.abs(values_NM).max(axis=0, initial=0.0)
    return np.asarray(np.where(vary_M, left_NM, 0.0) / np.where(vary_M, spreads_M, 1.0))


def _permutations(y_N: Floats, codes_N: Integers, draws: int, seed: int) -> Iterator[Floats]:
    """Batches of y with its values permuted within groups [D, N]."""
    rng = np.random.default_rng(seed)
    places_N = np.argsort(codes_N, kind="stable")
    step = max(1, _CELLS_PER_BATCH // len(y_N))
    for start in range(0, draws, step):
        keys_DN = rng.random((min(step, draws - start), len(y_N))) + codes_N  # sorts by group, at random inside
        permuted_DN = np.empty_like(keys_DN)
        permuted_DN[:, places_N] = y_N[np.argsort(keys_DN, axis=1)]
        yield permuted_DN


def _normal(x_NM: Floats, y_N: Floats, codes_N: Integers, observed_M: Floats) -> Floats:
    sizes_G = np.maximum(np.bincount(codes_N) - 1, 1)
    of_y_G = np.bincount(codes_N, weights=y_N**2) / sizes_G
    variance_M = np.array([(np.bincount(codes_N, weights=column_N**2) * of_y_G).sum() for column_N in x_NM.T])
    errors_M = np.sqrt(np.where(variance_M > 0, variance_M, 1.0))
    return np.array([2 * (1 - NormalDist().cdf(value)) for value in (observed_M / errors_M).tolist()])

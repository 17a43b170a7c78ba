"""How much one labelling of images says about another: mutual information, also beyond what chance gives.

Two labellings that are independent have a mutual information above 0 in any finite set, the more so the more classes
and the fewer images. The expectation under random pairing is subtracted, as scikit-learn's `adjusted_mutual_info_score`
does (a test compares).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from akdtune.statistics.resampling import Floats, Integers

# Shapes: N images, R and C distinct labels of the first and of the second labelling, T counts that a pair can have.

Labels: TypeAlias = npt.NDArray[np.integer[Any]]

_CELLS_AT_ONCE = 2_000_000


@dataclass(frozen=True)
class MutualInformation:
    """Of two labellings of the same images.

    Attributes:
        nats: mutual information, natural logarithm, over the whole set.
        expected_nats: its mean over all ways to pair the two labellings' images anew.
        adjusted: (nats - expected) / (mean of both entropies - expected): 0 for chance, 1 for the same partition; None
            where both labellings have a single label each, so that there is nothing to know.
    """

    nats: float
    expected_nats: float
    adjusted: float | None


def mutual_information(first_N: Labels, second_N: Labels) -> MutualInformation:
    """Mutual information of two labellings of the same images.

    Args:
        first_N: a label each.
        second_N: a label each, of the same images in the same order.

    Raises:
        ValueError: for lengths that differ, or none.

    References:
        Vinh, Epps and Bailey, JMLR 11:2837, 2010, equations 24a and table 2 (arithmetic mean).
    """
    if len(first_N) != len(second_N) or not len(first_N):
        raise ValueError(f"both labellings must have a label for each image, got {len(first_N)} and {len(second_N)}")
    counts_RC = _contingency(first_N, second_N)
    of_first_R, of_second_C = counts_RC.sum(axis=1), counts_RC.sum(axis=0)
    nats = max(0.0, _entropy(of_first_R) + _entropy(of_second_C) - _entropy(counts_RC.ravel()))
    expected = _expected(of_first_R, of_second_C)
    most = (_entropy(of_first_R) + _entropy(of_second_C)) / 2
    if len(of_first_R) == len(of_second_C) == 1:
        return MutualInformation(0.0, 0.0, None)
    room = most - expected
    adjusted = (nats - expected) / room if abs(room) > 1e-12 else 1.0  # every image has a label of its own, twice
    return MutualInformation(nats, expected, adjusted)


def _contingency(first_N: Labels, second_N: Labels) -> Integers:
    """How many images have each pair of labels [R, C]."""
    firsts, row_N = np.unique(first_N, return_inverse=True)
    seconds, column_N = np.unique(second_N, return_inverse=True)
    shape = len(firsts), len(seconds)
    pairs_N = row_N.reshape(-1) * shape[1] + column_N.reshape(-1)
    return np.bincount(pairs_N, minlength=shape[0] * shape[1]).reshape(shape).astype(np.int64)


def _entropy(counts: Integers) -> float:
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def _expected(of_first_R: Integers, of_second_C: Integers) -> float:
    """Mean mutual information over random pairings: each cell's count is hypergeometric given both margins."""
    from scipy.special import gammaln  # late: commands that only list trials do not wait for it

    images = int(of_first_R.sum())
    logs = gammaln(np.arange(images + 2) + 1.0)  # log n!
    total = 0.0
    for in_first in of_first_R.tolist():
        longest = int(np.minimum(in_first, of_second_C).max())
        step = max(1, _CELLS_AT_ONCE // max(1, longest))
        for start in range(0, len(of_second_C), step):
            total += _expected_cells(in_first, of_second_C[start : start + step], images, logs)
    return total


def _expected_cells(in_first: int, of_second_C: Integers, images: int, logs: Floats) -> float:
    counts_T = np.arange(1, int(np.minimum(in_first, of_second_C).max()) + 1)[None]
    in_second_C1 = of_second_C[:, None]
    neither = images - in_first - in_second_C1 + counts_T
    possible = (counts_T <= np.minimum(in_first, in_second_C1)) & (neither >= 0)
    log_chance = (
        logs[in_first] + logs[in_second_C1] + logs[images - in_first] + logs[images - in_second_C1]
        - logs[images] - logs[counts_T] - logs[np.maximum(in_first - counts_T, 0)]
        - logs[np.maximum(in_second_C1 - counts_T, 0)] - logs[np.maximum(neither, 0)]
    )  # fmt: skip
    gain = counts_T / images * (np.log(images * counts_T) - np.log(in_first * in_second_C1))
    return float(np.where(possible, gain * np.exp(np.where(possible, log_chance, 0.0)), 0.0).sum())

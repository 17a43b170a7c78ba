"""Differences of two cells whose seeds are not shared: Welch's t test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb, sqrt

import numpy as np

from akdtune.statistics.power import finite, spread


@dataclass(frozen=True)
class Unpaired:
    """First cell minus second.

    Attributes:
        n, m: their numbers of values.
        difference: of the means; None where one has no value.
        p: two-sided; None where one has fewer than two values.
        error: standard error of the difference; 0 where it is not known.
        freedom: degrees of freedom after Welch and Satterthwaite; 0 where there is no error.
    """

    n: int
    m: int
    difference: float | None
    p: float | None
    error: float = 0.0
    freedom: float = 0.0

    def interval(self, alpha: float) -> tuple[float, float] | None:
        """The interval of the difference that misses with probability `alpha`; None without a standard error."""
        from scipy.special import stdtrit  # late: commands that only list trials do not wait for it

        if self.difference is None or not self.error:
            return None
        reach = -float(stdtrit(self.freedom, alpha / 2)) * self.error
        return self.difference - reach, self.difference + reach


def welch_difference(first_N: Sequence[float], second_M: Sequence[float]) -> Unpaired:
    """Welch's t test, which takes neither pairs nor equal variances.

    Where neither cell has spread, t is undefined: p is 1 for equal values, else that of the exact permutation test, as
    sign flips stand in for the paired t test there.

    Raises:
        ValueError: for values that are not finite.

    References:
        Welch, Biometrika 34:28, 1947.
    """
    first, second = finite(first_N), finite(second_M)
    n, m = len(first), len(second)
    if not n or not m:
        return Unpaired(n, m, None, None)
    difference = float(first.mean() - second.mean())
    if n < 2 or m < 2:
        return Unpaired(n, m, difference, None)
    scale = float(max(np.abs(first).max(), np.abs(second).max()))
    sds = spread(first, scale), spread(second, scale)
    if not any(sds):
        equal = spread(np.concatenate([first, second]), scale) == 0
        return Unpaired(n, m, 0.0 if equal else difference, 1.0 if equal else (1 + (n == m)) / comb(n + m, n))
    # By hand: scipy.stats gives the same (a test compares) and takes a second to load.
    from scipy.special import stdtr  # late: commands that only list trials do not wait for it

    shares = sds[0] ** 2 / n, sds[1] ** 2 / m
    error = sqrt(sum(shares))
    freedom = sum(shares) ** 2 / (shares[0] ** 2 / (n - 1) + shares[1] ** 2 / (m - 1))
    return Unpaired(n, m, difference, 2 * float(stdtr(freedom, -abs(difference) / error)), error, freedom)

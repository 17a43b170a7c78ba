"""A share of independent yes-or-no answers: its exact interval, and how likely chance gives as many."""

from __future__ import annotations

from math import ceil, floor

from akdtune.statistics.association import LEVEL
from akdtune.statistics.power import ROUNDING, check_share


def clopper_pearson(right: float, n: int, level: float = LEVEL) -> tuple[float, float]:
    """The exact interval of a share; it covers at least with its level.

    Args:
        right: how many of n. A mean over repetitions lies between two counts: the interval is that of both together,
            the lower one's lower end and the upper one's upper end.
        n: how many there are, at least one.
        level: coverage, 0 to 1.

    Raises:
        ValueError: for a count outside 0 to n.

    References:
        Clopper and Pearson, Biometrika 26:404, 1934.
    """
    from scipy.special import betaincinv  # late: commands that only list trials do not wait for it

    check_share("level", level)
    below, above = _counts(right, n)
    tail = (1 - level) / 2
    low = 0.0 if below == 0 else float(betaincinv(below, n - below + 1, tail))
    high = 1.0 if above == n else float(betaincinv(above + 1, n - above, 1 - tail))
    return low, high


def p_of_as_many(right: float, n: int, chance: float) -> float:
    """One-sided exact p: how likely so many of n, or more, are by chance; a mean over repetitions is rounded down.

    Args:
        right: how many of n.
        n: how many there are, at least one.
        chance: of each to be right, 0 to 1.

    Raises:
        ValueError: for a count outside 0 to n.
    """
    from scipy.special import betainc  # late: commands that only list trials do not wait for it

    check_share("chance", chance)
    below, _ = _counts(right, n)
    return 1.0 if below == 0 else float(betainc(below, n - below + 1, chance))


def _counts(right: float, n: int) -> tuple[int, int]:
    """The whole numbers around a count, rounding errors of a mean left aside."""
    if n < 1 or not -ROUNDING <= right <= n + ROUNDING:
        raise ValueError(f"{right} of {n}: no such count")
    slack = ROUNDING * n
    return max(0, floor(right + slack)), min(n, ceil(right - slack))

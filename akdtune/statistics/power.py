"""Seeds and power of the paired t test: what n seeds can show, and how many it takes (noncentral t).

By hand rather than by statsmodels' TTestPower, which gives nan for a third of the effects up to 6 sd (2 to 60 seeds: it
takes the small tail from scipy's `nct.cdf`), and whose solver stops at 10 sd where 2 seeds detect 57.7 (alpha .01,
power .8). Where it gives a number, tests compare.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, isfinite, sqrt
from statistics import NormalDist

import numpy as np

from akdtune.statistics.resampling import Floats

RESOLVE = 0.3
CONFIDENCE = 0.8
"""Of the upper limit of a variance: so many studies get at least the power that they asked for."""
ROUNDING = 1e-12
"""Differences below this share of the values are rounding."""


@dataclass(frozen=True)
class RequiredSeeds:
    """Seeds that a pilot asks for, its standard deviation and the upper limit that the number stands on."""

    n: int
    sd: float
    sd_upper: float


def minimum_detectable(sd: float, n: int, *, alpha: float = 0.05, power: float = 0.8) -> float | None:
    """The smallest true difference that a two-sided paired t test on n seeds detects with this power (noncentral t).

    Args:
        sd: standard deviation of per-seed differences.
        n: seeds.
        alpha: level of the test, 0 to 1.
        power: above alpha, below 1.

    Returns:
        None for n < 2, and for sd = 0: seeds that show no spread do not say how small a difference would show.
    """
    _check_power(sd, alpha, power)
    return _noncentrality(n, alpha, power) * sd / sqrt(n) if n >= 2 and sd > 0 else None


def seeds_needed(sd: float, resolve: float, *, alpha: float = 0.05, power: float = 0.8) -> int:
    """The smallest number of seeds (at least 2) with which a true difference of `resolve` shows with this power."""
    _check_power(sd, alpha, power)
    if not resolve > 0:
        raise ValueError(f"resolve must be above 0, got {resolve}")
    if sd == 0:
        return 2

    def enough(n: int) -> bool:
        return _power(resolve * sqrt(n) / sd, n, alpha) >= power

    # The normal approximation asks for slightly too few.
    z = NormalDist().inv_cdf(1 - alpha / 2) + NormalDist().inv_cdf(power)
    low = max(2, ceil((z * sd / resolve) ** 2) - 1)
    low, high = (low, low) if not enough(low) else (1, low)
    while not enough(high):
        low, high = high, ceil(1.2 * high) + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def spread_limit(sd: float, n: int, confidence: float = CONFIDENCE) -> float:
    """Upper confidence limit of the standard deviation behind that of n values (chi-square)."""
    from scipy.special import chdtri  # late: commands that only list trials do not wait for it

    check_share("confidence", confidence)
    return sd * sqrt((n - 1) / float(chdtri(n - 1, confidence)))


def detectable(sd: float, n: int, *, alpha: float, power: float = 0.8) -> tuple[float, float] | None:
    """The smallest true difference that n seeds detect: from their own spread, and from its upper limit.

    Args:
        sd: standard deviation of the differences of n seeds.
        n: seeds.
        alpha: level of the rule that judges. For one of m comparisons by Holm that is alpha / m: with it, a difference
            is rejected whatever the others are.
        power: above alpha, below 1.

    Returns:
        None for n < 2, and for sd = 0: seeds that show no spread do not say how small a difference would show.
    """
    low = minimum_detectable(sd, n, alpha=alpha, power=power)
    high = minimum_detectable(spread_limit(sd, n), n, alpha=alpha, power=power) if n >= 2 else None
    return None if low is None or high is None else (low, high)


def more_seeds(
    sd: float, n: int, resolve: float = RESOLVE, *, alpha: float, power: float = 0.8
) -> tuple[int, int] | None:
    """How many seeds beyond n resolve this difference: from their own spread, and from its upper limit.

    With the upper number, four of five studies reach the power (`required_seeds`); with the lower one, fewer than half.

    Args:
        sd: standard deviation of the differences of n seeds.
        n: seeds; 0 more where they suffice.
        resolve: difference to resolve, above 0, in the unit of sd.
        alpha: level of the rule that judges, as for `detectable`.
        power: above alpha, below 1.

    Returns:
        None for n < 2, and for sd = 0: without spread nothing can be estimated.
    """
    if n < 2 or sd == 0:
        return None
    low, high = (
        max(0, seeds_needed(spread, resolve, alpha=alpha, power=power) - n) for spread in (sd, spread_limit(sd, n))
    )
    return low, high


def required_seeds(
    pilot_differences_N: Sequence[float] | Floats,
    resolve: float,
    *,
    alpha: float = 0.05,
    power: float = 0.8,
    confidence: float = CONFIDENCE,
) -> RequiredSeeds:
    """Seeds that resolve a difference even if the pilot's spread came out small by chance.

    The number stands on the upper confidence limit of the variance (chi-square), so that it gives the stated power in
    at least `confidence` of pilots; with the pilot's own sd it would in fewer than half. A pilot without spread asks
    for 2. Pilot seeds are not to be used again in the report.

    Args:
        pilot_differences_N: per-seed differences of two cells, two or more.
        resolve: difference to resolve, above 0, in their unit.
        alpha: level of the rule that judges, as for `detectable`.
        power: above alpha, below 1.
        confidence: of the upper limit, 0 to 1.

    Raises:
        ValueError: for a pilot of fewer than two seeds, or numbers out of range.

    References:
        Browne 1995, Statist. Med. 14:1933.
    """
    values_N = finite(pilot_differences_N)
    if len(values_N) < 2:
        raise ValueError(f"a pilot needs at least two seeds to show a spread, got {len(values_N)}")
    sd = spread(values_N, float(np.abs(values_N).max()))
    upper = spread_limit(sd, len(values_N), confidence)
    return RequiredSeeds(seeds_needed(upper, resolve, alpha=alpha, power=power), sd, upper)


def finite(values_N: Sequence[float] | Floats) -> Floats:
    """The values as a new array [N].

    Raises:
        ValueError: for values that are not finite.
    """
    values_N = np.array(values_N, np.float64)
    if not np.isfinite(values_N).all():
        raise ValueError(f"values must be finite, got {values_N[~np.isfinite(values_N)][0]}")
    return values_N


def check_share(name: str, value: float) -> None:
    """Raises ValueError unless the value lies between 0 and 1."""
    if not 0 < value < 1:
        raise ValueError(f"{name} must be between 0 and 1, got {value}")


def spread(values_N: Floats, scale: float) -> float:
    """Standard deviation (n - 1), exactly 0 for values that are equal up to the rounding of numbers of this scale."""
    sd = float(np.std(values_N, ddof=1))
    return sd if sd > ROUNDING * scale else 0.0


@lru_cache(maxsize=4096)
def t_quantile(tail: float, n: int) -> float:
    """What a t of n - 1 degrees of freedom exceeds with probability `tail`."""
    from scipy.special import stdtrit  # late: commands that only list trials do not wait for it

    return -float(stdtrit(n - 1, tail))


def _check_power(sd: float, alpha: float, power: float) -> None:
    check_share("alpha", alpha)
    if not alpha < power < 1:
        raise ValueError(f"power must be between alpha ({alpha}) and 1, got {power}")
    if not (isfinite(sd) and sd >= 0):
        raise ValueError(f"sd must be finite and not negative, got {sd}")


def _power(noncentrality: float, n: int, alpha: float) -> float:
    """Power of the two-sided t test on n values.

    By scipy.special, which loads in a third of a second; where that gives nan (far tails, few values), by the slower
    scipy.stats. Both agree to the last bits.
    """
    from scipy.special import nctdtr  # late: commands that only list trials do not wait for it

    critical = t_quantile(alpha / 2, n)
    below, above = (float(nctdtr(n - 1, noncentrality, limit)) for limit in (-critical, critical))
    if isfinite(below) and isfinite(above):
        return below + 1 - above
    from scipy.stats import nct  # late: takes a second to load

    return float(nct.sf(critical, n - 1, noncentrality) + nct.sf(critical, n - 1, -noncentrality))


@lru_cache(maxsize=4096)
def _noncentrality(n: int, alpha: float, power: float) -> float:
    """True mean over its standard error at which the two-sided t test on n values has this power."""
    from scipy.optimize import brentq  # late: commands that only list trials do not wait for it

    high = 2.0
    while _power(high, n, alpha) < power:
        high *= 2
    return float(brentq(lambda value: _power(value, n, alpha) - power, 0.0, high))

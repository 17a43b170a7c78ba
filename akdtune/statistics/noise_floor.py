"""What rounding alone makes of a difference, from A/A pairs; and how much of the variance pairing by seed removes.

An A/A pair is one experiment trained twice with the same seeds, equal in exact arithmetic and rounded differently. What
its two halves differ by is what any two runs of the same thing differ by, wherever rounding differs: another machine,
another number of threads, another but equivalent form of a computation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import atanh, sqrt, tanh

import numpy as np

from akdtune.statistics.association import LEVEL
from akdtune.statistics.power import ROUNDING, check_share, finite, spread, t_quantile

FEWEST_SEEDS = 5
"""Of an interval for a share of variance."""

# Shapes: M cells of one experiment, N seeds.

Pair = tuple[Mapping[int, float], Mapping[int, float]]
"""Two cells' values by seed."""


@dataclass(frozen=True)
class NoiseFloor:
    """By how much two runs of the same thing differ, in the unit of the values.

    Attributes:
        sd: standard deviation of a per-seed difference of two of them, from the pooled variance of all groups.
        sd_low, sd_high: its interval (chi-square), None without spread.
        dof: degrees of freedom of `sd`: for n seeds of m cells that are one experiment, (n - 1)(m - 1).
        level: of intervals.
    """

    sd: float
    sd_low: float | None
    sd_high: float | None
    dof: int
    level: float

    def reach(self, n: int) -> float:
        """How far apart the means of n seeds of the same thing, trained twice, may be: t * sd / sqrt(n)."""
        return t_quantile((1 - self.level) / 2, self.dof + 1) * self.sd / sqrt(n)


@dataclass(frozen=True)
class PairingShare:
    """The share of the variance that pairing by seed removes from differences.

    Attributes:
        share: 1 - sum of var(a - b) / sum of (var a + var b); 0: pairing does nothing, 1: it removes everything,
            below 0: it adds.
        low, high: its interval; None below `FEWEST_SEEDS` seeds, and where there is no spread to tell.
        seeds: on which all of it stands.
        comparisons: whose variances are summed.
    """

    share: float
    low: float | None
    high: float | None
    seeds: int
    comparisons: int


def noise_floor(groups: Sequence[Sequence[Mapping[int, float]]], *, level: float = LEVEL) -> NoiseFloor | None:
    """The floor under every difference of these cells; None without two cells of one experiment with two seeds each.

    What is left of a group's values after the means of its seeds and of its cells is the noise of one run; a difference
    has twice its variance. For an A/A pair that is the standard deviation of its differences.

    The interval takes the noise for normal, and it is not quite: where two runs part at all, they part as far as others
    do, and on some seeds they stay together.

    Args:
        groups: cells that are one experiment, each with its values by seed; seeds that one of them lacks are left out.
        level: of the intervals, 0 to 1.

    Raises:
        ValueError: for values that are not finite or a level outside (0, 1).
    """
    from scipy.special import chdtri  # late: commands that only list trials do not wait for it

    check_share("level", level)
    squares, dof = 0.0, 0
    for cells in groups:
        seeds = sorted(set.intersection(*(set(cell) for cell in cells))) if cells else []
        if len(seeds) < 2 or len(cells) < 2:
            continue
        values_MN = np.array([finite([cell[seed] for seed in seeds]) for cell in cells])
        noise_MN = values_MN - values_MN.mean(axis=0)
        noise_MN -= noise_MN.mean(axis=1, keepdims=True)
        noise_MN[np.abs(noise_MN) <= ROUNDING * np.abs(values_MN).max()] = 0.0
        squares += 2 * float((noise_MN**2).sum())
        dof += (len(seeds) - 1) * (len(cells) - 1)
    if not dof:
        return None
    tail = (1 - level) / 2
    low, high = (sqrt(squares / float(chdtri(dof, share))) if squares else None for share in (tail, 1 - tail))
    return NoiseFloor(sqrt(squares / dof), low, high, dof, level)


def pairing_share(pairs: Sequence[Pair], *, level: float = LEVEL) -> PairingShare | None:
    """What pairing by seed removes; None without a comparison of two common seeds, or where nothing varies.

    The interval is a jackknife over seeds: a seed is left out of all comparisons at once, as they share it. It is taken
    on the scale atanh(share), on which the share of one pair of equal variances has a spread that depends on n alone
    (that of half the logarithm of an F), and which keeps it between -1 and 1. Simulated coverage is .93 to .97 for 5 to
    20 seeds, one comparison or six with a common reference, correlations of 0 to .95 and unequal variances
    (`benchmarks/paired_statistics.py`).

    Args:
        pairs: cell and reference of each comparison; seeds that one of them lacks are left out of it.
        level: of the interval, 0 to 1.

    Raises:
        ValueError: for values that are not finite or a level outside (0, 1).

    References:
        Miller, The jackknife: a review, Biometrika 61:1, 1974 (pseudo-values on a stabilised scale).
    """
    check_share("level", level)
    usable = [pair for pair in pairs if len(pair[0].keys() & pair[1].keys()) >= 2]
    seeds = sorted({seed for one, other in usable for seed in one.keys() & other.keys()})
    share = _share(usable)
    if share is None:
        return None
    low, high = _jackknife(usable, seeds, share, level) if len(seeds) >= FEWEST_SEEDS else (None, None)
    return PairingShare(share, low, high, len(seeds), len(usable))


def _jackknife(
    pairs: Sequence[Pair], seeds: Sequence[int], share: float, level: float
) -> tuple[float, float] | tuple[None, None]:
    without = [_share(pairs, left_out) for left_out in seeds]
    known = [value for value in (share, *without) if value is not None and abs(value) < 1]
    if len(known) <= len(seeds):
        return None, None
    n, (whole, *others) = len(seeds), map(atanh, known)
    pseudo_N = n * whole - (n - 1) * np.array(others)
    reach = t_quantile((1 - level) / 2, n) * float(pseudo_N.std(ddof=1)) / sqrt(n)
    return tanh(whole - reach), tanh(whole + reach)


def _share(pairs: Sequence[Pair], left_out: int | None = None) -> float | None:
    """The share, without one seed where it is given; None where nothing varies."""
    of_differences = apart = 0.0
    for one, other in pairs:
        seeds = sorted((one.keys() & other.keys()) - {left_out})
        if len(seeds) < 2:
            continue
        one_N, other_N = (finite([side[seed] for seed in seeds]) for side in (one, other))
        scale = float(max(np.abs(one_N).max(), np.abs(other_N).max()))
        of_differences += spread(one_N - other_N, scale) ** 2
        apart += sum(spread(side_N, scale) ** 2 for side_N in (one_N, other_N))
    return 1 - of_differences / apart if apart else None

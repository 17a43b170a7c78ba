"""Which row of a column leads, and from which others its lead is resolved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from statistics import fmean

from akdtune.statistics.paired import holm, paired_difference
from akdtune.statistics.unpaired import welch_difference

ALPHA = 0.05
FEWEST = 2
"""Seeds without which nothing is compared."""


@dataclass(frozen=True)
class Rival:
    """The best of a column against another row.

    Attributes:
        row: its place.
        difference: best minus it; over the pairs where it was paired.
        pairs: shared seeds by which it was paired; 0 for Welch's test.
        p, p_holm: two-sided, alone and among all comparisons of the column.
    """

    row: int
    difference: float
    pairs: int
    p: float
    p_holm: float

    @property
    def resolved(self) -> bool:
        """Whether the best is better by more than luck, also on the seeds by which it was paired."""
        return self.p_holm < ALPHA and self.difference > 0


@dataclass(frozen=True)
class Leading:
    """The order of a column as far as its seeds settle it.

    Attributes:
        best: place of the highest mean among rows with two seeds or more; None where fewer than two can be compared.
        rivals: every other such row, the runner-up first.
        higher_untested: rows with a higher mean that are compared with nothing.
    """

    best: int | None
    rivals: tuple[Rival, ...]
    higher_untested: tuple[int, ...]

    @property
    def settled(self) -> bool:
        """Whether the best is resolved against its runner-up, and nothing untested lies above it."""
        return bool(self.rivals) and self.rivals[0].resolved and not self.higher_untested

    @property
    def tied(self) -> tuple[int, ...]:
        """The best and every row that is not resolved from it, where the best is not settled; else empty."""
        if self.best is None or self.settled:
            return ()
        rest = tuple(rival.row for rival in self.rivals if not rival.resolved)
        return (self.best, *rest) if rest else ()

    @property
    def uncertain(self) -> tuple[int, ...]:
        """Rows below the runner-up that are not resolved from a settled best: their seeds differ too much."""
        return tuple(rival.row for rival in self.rivals if not rival.resolved) if self.settled else ()


def leading(values: Mapping[int, Mapping[int, float]], chosen: Set[int] = frozenset()) -> Leading:
    """Compares the best row of a column with every other one, Holm over these comparisons.

    Seeds that both have are paired, where they are two or more and at least half of the seeds of the row with fewer;
    else Welch's test takes all seeds.

    That the best is chosen by the same numbers costs the claim "best" nothing: it is made against the runner-up, the
    smallest of the differences, and of two equal rows one is called better in alpha of all studies.

    Args:
        values: by row and seed; rows without a value are left out.
        chosen: rows that a search has chosen by these values, which are too good by selection; they are compared with
            nothing, as rows with a single seed.
    """
    means = {row: fmean(seeds.values()) for row, seeds in values.items() if seeds}
    able = [row for row in means if len(values[row]) >= FEWEST and row not in chosen]
    if len(able) < 2:
        return Leading(None, (), ())
    best = max(able, key=lambda row: means[row])
    others = sorted((row for row in able if row != best), key=lambda row: -means[row])
    tests = [_test(values[best], values[row]) for row in others]
    steps = holm([p for _, _, p in tests])
    rivals = [
        Rival(row, difference, pairs, p, p_holm)
        for row, (difference, pairs, p), (p_holm, _) in zip(others, tests, steps, strict=True)
    ]
    higher = tuple(row for row in means if row not in able and means[row] > means[best])
    return Leading(best, tuple(rivals), higher)


def _test(best: Mapping[int, float], other: Mapping[int, float]) -> tuple[float, int, float]:
    """Difference, pairs and p of two rows with two seeds or more."""
    shared = best.keys() & other.keys()
    if len(shared) >= max(FEWEST, min(len(best), len(other)) / 2):
        paired = paired_difference(best, other)
        assert paired.difference is not None and paired.p is not None
        return paired.difference, paired.n_pairs, paired.p
    first, second = (_in_order(side) for side in (best, other))
    unpaired = welch_difference(first, second)
    assert unpaired.difference is not None and unpaired.p is not None
    return unpaired.difference, 0, unpaired.p


def _in_order(values: Mapping[int, float]) -> Sequence[float]:
    return [values[seed] for seed in sorted(values)]

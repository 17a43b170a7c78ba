"""Two groups compared within blocks: by ranks (van Elteren's test) and by means.

A block is what values share that belong together: students of one teacher. With one block the rank test is that of Mann
and Whitney. Blocks are taken as they are: what is said holds for these, and not for others like them.

Blocks that hold the same group (one set of students judged against several teachers) are not independent of each other
(`independent=False`): p values then are combined, and errors added, as if they could all err together.
"""

# Shapes: N values of a group, M of the other, B blocks.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb, sqrt
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from akdtune.statistics.association import LEVEL
from akdtune.statistics.paired import paired_difference
from akdtune.statistics.power import check_share, finite
from akdtune.statistics.resampling import Floats, Integers
from akdtune.statistics.unpaired import welch_difference

Form: TypeAlias = Literal["exact", "normal", "twice the mean p"]

EXACT_VALUES = 100
"""In a block; beyond them the normal distribution stands for that of all orders."""

_HALVINGS = 60
_DIGITS = 11
"""What is equal to so many significant digits ties."""


class Groups(NamedTuple):
    """The values of two groups in one block, by seed."""

    cell: Mapping[int, float]
    reference: Mapping[int, float]


@dataclass(frozen=True)
class RankTest:
    """Whether values of the cell tend to be larger than those of the reference, within blocks.

    Attributes:
        blocks: with values of both groups; the others count nowhere.
        cell_values, reference_values: how many in these blocks.
        p: one-sided, of "no order of the values of a block is likelier than another"; None without such a block.
        floor: the smallest p that so many values can give, None where the form is not exact.
        form: "exact": over all orders within blocks; "normal": blocks of different sizes or of more than `EXACT_VALUES`
            values; "twice the mean p": blocks that are not independent.
        superiority: the probability that a value of the cell is larger than one of the reference in the same block,
            ties as halves (Vargha and Delaney's A); 2 A - 1 is the rank-biserial correlation.
        low, high: its interval.
    """

    blocks: int
    cell_values: int
    reference_values: int
    p: float | None = None
    floor: float | None = None
    form: Form | None = None
    superiority: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def rank_biserial(self) -> float | None:
        """From -1, all values of the cell are smaller, to 1, all are larger."""
        return None if self.superiority is None else 2 * self.superiority - 1


@dataclass(frozen=True)
class MeanDifference:
    """The cell's mean minus the reference's, averaged over blocks, each of which counts once.

    Attributes:
        value: None where no block has both groups.
        low, high: t interval; None where a block has too few values, or none has spread.
        by_block: the difference in each block that has both groups.
        form: "paired" where seeds are shared in every block, "unpaired" (Welch) where they are in none, "mixed".
    """

    value: float | None
    low: float | None
    high: float | None
    by_block: tuple[float, ...]
    form: Literal["paired", "unpaired", "mixed"] | None


class _Block(NamedTuple):
    """One block's ranks, doubled so that those of ties are whole."""

    cell_ranks_N: Integers
    ranks_NM: Integers

    @property
    def sizes(self) -> tuple[int, int]:
        return len(self.cell_ranks_N), len(self.ranks_NM) - len(self.cell_ranks_N)

    @property
    def superiority(self) -> float:
        n, m = self.sizes
        return (float(self.cell_ranks_N.sum()) / 2 - n * (n + 1) / 2) / (n * m)


# ------------------------------------------------------------------------------------------------- by ranks


def rank_test(blocks: Sequence[Groups], *, level: float = LEVEL, independent: bool = True) -> RankTest:
    """Van Elteren's one-sided test with the effect size that belongs to it.

    Rank sums of blocks are weighted by 1 / (N + M + 1). Where all blocks are of the same sizes, p is exact, over all
    orders within blocks, also with ties. Pairs of seeds are not used: where students of one seed are alike, p is too
    large rather than too small.

    The interval of the effect size is Newcombe's (his method 5), which does not collapse where all values of one group
    are larger; over blocks it takes one common probability, its variance summed with the test's weights (our choice).

    Args:
        blocks: values of both groups; blocks that lack a group count nowhere.
        level: coverage of the interval, 0 to 1.
        independent: whether no value is of the same student as one in another block.

    Raises:
        ValueError: for values that are not finite, or a level outside (0, 1).

    References:
        Mann and Whitney 1947, Ann. Math. Statist. 18:50. van Elteren 1960, Bull. Inst. Int. Stat. 37:351. Vargha and
        Delaney 2000, J. Educ. Behav. Stat. 25:101. Newcombe 2006, Stat. Med. 25:559. Twice the mean of p values that
        may depend on each other in any way is a p value: Vovk and Wang 2020, Biometrika 107:791.
    """
    check_share("level", level)
    ranked = [_ranked(groups) for groups in blocks if groups.cell and groups.reference]
    n, m = (sum(block.sizes[side] for block in ranked) for side in (0, 1))
    if not ranked:
        return RankTest(0, 0, 0)
    p, form = _p_value(ranked, independent)
    floors = [1 / comb(sum(block.sizes), block.sizes[0]) for block in ranked]
    floor = {"exact": float(np.prod(floors)), "twice the mean p": min(1.0, 2 * float(np.mean(floors)))}.get(form)
    weights_B = np.array([n * m / (n + m + 1) for n, m in (block.sizes for block in ranked)])
    weights_B /= weights_B.sum()
    effect = float(weights_B @ [block.superiority for block in ranked])
    low, high = _effect_interval(effect, weights_B, [block.sizes for block in ranked], level, independent)
    return RankTest(len(ranked), n, m, p, floor, form, effect, low, high)


def _ranked(groups: Groups) -> _Block:
    values_NM = finite([*groups.cell.values(), *groups.reference.values()])
    scale = float(np.abs(values_NM).max())
    # what ties in exact arithmetic ties
    digits = int(np.clip(_DIGITS - np.floor(np.log10(scale)), 0, 300)) if scale > 0 else 0
    _, places, counts = np.unique(np.round(values_NM, digits), return_inverse=True, return_counts=True)
    doubled = (2 * np.cumsum(counts) - counts + 1)[places.ravel()]
    return _Block(doubled[: len(groups.cell)], doubled)


def _p_value(blocks: Sequence[_Block], independent: bool) -> tuple[float, Form]:
    if not independent and len(blocks) > 1:
        return min(1.0, 2 * float(np.mean([_p_value([block], True)[0] for block in blocks]))), "twice the mean p"
    alike = len({block.sizes for block in blocks}) == 1
    if alike and max(sum(block.sizes) for block in blocks) <= EXACT_VALUES:
        return _exact_p(blocks), "exact"
    return _normal_p(blocks), "normal"


def _exact_p(blocks: Sequence[_Block]) -> float:
    """The share of all orders within blocks whose rank sum is at least the one that was seen.

    By hand: scipy's mannwhitneyu is exact in one block without ties only, where both are equal (a test compares).
    """
    chances_S = np.ones(1)
    for block in blocks:
        chances_S = np.convolve(chances_S, _rank_sums(block))
    seen = sum(int(block.cell_ranks_N.sum()) for block in blocks)
    return min(1.0, float(chances_S[seen:].sum()))


def _rank_sums(block: _Block) -> Floats:
    """The probability of each doubled rank sum of the cell when every order is as likely."""
    n, total = block.sizes[0], int(block.ranks_NM.sum())
    orders_NS = np.zeros((n + 1, total + 1))
    orders_NS[0, 0] = 1.0
    for rank in block.ranks_NM.tolist():
        orders_NS[1:, rank:] += orders_NS[:-1, : total + 1 - rank].copy()
    return np.asarray(orders_NS[n] / orders_NS[n].sum())


def _normal_p(blocks: Sequence[_Block]) -> float:
    from scipy.special import ndtr  # late: commands that only list trials do not wait for it

    excess = variance = 0.0
    for block in blocks:
        n, m = block.sizes
        size = n + m
        _, ties = np.unique(block.ranks_NM, return_counts=True)
        tied = float((ties.astype(np.float64) ** 3 - ties).sum()) / (size * (size - 1))
        variance += n * m / 12 * (size + 1 - tied) / (size + 1) ** 2
        excess += n * m * (block.superiority - 0.5) / (size + 1)
    if variance <= 0:
        return 1.0
    # half a rank for continuity, which has a meaning in one block alone
    step = 0.5 / (sum(blocks[0].sizes) + 1) if len(blocks) == 1 else 0.0
    return float(ndtr(-(excess - step) / sqrt(variance)))


def _effect_interval(
    effect: float, weights_B: Floats, sizes: Sequence[tuple[int, int]], level: float, independent: bool
) -> tuple[float, float]:
    """The probabilities whose own standard error reaches as far as the one that was seen."""
    from scipy.special import ndtri  # late: commands that only list trials do not wait for it

    reach = float(ndtri((1 + level) / 2))

    def error(true: float) -> float:
        errors_B = [sqrt(_variance(true, n, m)) for n, m in sizes]
        parts_B = weights_B * errors_B
        return sqrt(float((parts_B**2).sum())) if independent else float(parts_B.sum())

    ends = []
    for outer in (0.0, 1.0):
        inside, outside = effect, outer
        for _ in range(_HALVINGS):
            middle = (inside + outside) / 2
            if abs(middle - effect) <= reach * error(middle):
                inside = middle
            else:
                outside = middle
        ends.append(inside)
    return ends[0], ends[1]


def _variance(true: float, n: int, m: int) -> float:
    """Of the effect size, after Hanley and McNeil with Newcombe's symmetric sizes."""
    size = (n + m) / 2 - 1
    return true * (1 - true) / (n * m) * (1 + size * (1 - true) / (2 - true) + size * true / (1 + true))


# ------------------------------------------------------------------------------------------------- by means


def mean_difference(blocks: Sequence[Groups], *, level: float = LEVEL, independent: bool = True) -> MeanDifference:
    """The difference of means with its t interval.

    In a block, seeds that both groups have are paired where they are two or more and at least half of those of the
    smaller group; else all values count, after Welch. Over blocks errors are summed after Welch and Satterthwaite.

    Args:
        blocks: values of both groups; blocks that lack a group count nowhere.
        level: coverage of the interval, 0 to 1.
        independent: whether no value is of the same student as one in another block.

    Raises:
        ValueError: for values that are not finite, or a level outside (0, 1).
    """
    check_share("level", level)
    parts = [_difference(groups) for groups in blocks if groups.cell and groups.reference]
    if not parts:
        return MeanDifference(None, None, None, (), None)
    value = float(np.mean([part.value for part in parts]))
    pairings = {part.is_paired for part in parts}
    form: Literal["paired", "unpaired", "mixed"]
    form = "mixed" if len(pairings) > 1 else "paired" if True in pairings else "unpaired"
    low, high = _t_interval(value, parts, level, independent)
    return MeanDifference(value, low, high, tuple(part.value for part in parts), form)


class _Part(NamedTuple):
    """The difference of one block; `freedom` is 0 where there is no standard error."""

    value: float
    error: float
    freedom: float
    is_paired: bool


def _difference(groups: Groups) -> _Part:
    shared = len(groups.cell.keys() & groups.reference.keys())
    if shared >= 2 and 2 * shared >= min(len(groups.cell), len(groups.reference)):
        paired = paired_difference(groups.cell, groups.reference, beside=False)
        assert paired.difference is not None and paired.sd is not None, "there are two pairs or more"
        return _Part(paired.difference, paired.sd / sqrt(shared), shared - 1.0, True)
    welch = welch_difference(list(groups.cell.values()), list(groups.reference.values()))
    assert welch.difference is not None, "both groups have values"
    return _Part(welch.difference, welch.error, welch.freedom, False)


def _t_interval(
    value: float, parts: Sequence[_Part], level: float, independent: bool
) -> tuple[float, float] | tuple[None, None]:
    from scipy.special import stdtrit  # late: commands that only list trials do not wait for it

    squares_B = np.array([part.error**2 for part in parts])
    if not squares_B.any() or any(part.freedom == 0 for part in parts):
        return None, None
    if independent:
        error = sqrt(float(squares_B.sum())) / len(parts)
        freedom = float(squares_B.sum() ** 2 / sum(part.error**4 / part.freedom for part in parts))
    else:
        error = sum(part.error for part in parts) / len(parts)
        freedom = min(part.freedom for part in parts)
    reach = -float(stdtrit(freedom, (1 - level) / 2)) * error
    return value - reach, value + reach

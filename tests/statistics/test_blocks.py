"""Two groups within blocks: rank tests against scipy and against all orders, effect sizes, differences of means."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from math import comb, sqrt

import numpy as np
import pytest
from scipy import stats

from akdtune.statistics import blocks
from akdtune.statistics.blocks import Groups, mean_difference, rank_test
from akdtune.statistics.paired import paired_difference
from akdtune.statistics.unpaired import welch_difference


def groups(cell: Sequence[float], reference: Sequence[float]) -> Groups:
    return Groups(dict(enumerate(cell)), dict(enumerate(reference)))


def by_all_orders(held: Sequence[Groups]) -> float:
    """The share of orders within blocks whose summed ranks are at least the ones that were seen."""
    sums = []
    seen = 0.0
    for cell, reference in held:
        ranks = stats.rankdata([*cell.values(), *reference.values()])
        seen += ranks[: len(cell)].sum()
        sums.append([sum(chosen) for chosen in itertools.combinations(ranks, len(cell))])
    totals = [sum(chosen) for chosen in itertools.product(*sums)]
    return float(np.mean(np.array(totals) >= seen - 1e-9))


class TestRanks:
    @pytest.mark.parametrize(("n", "m"), [(2, 3), (5, 5), (8, 7), (10, 10)])
    def test_one_block_without_ties_is_scipys(self, n: int, m: int) -> None:
        rng = np.random.default_rng(n)
        cell, reference = rng.normal(0.7, 1, n), rng.normal(0, 1, m)
        test = rank_test([groups(cell, reference)])
        wanted = stats.mannwhitneyu(cell, reference, alternative="greater", method="exact")
        assert test.p == pytest.approx(wanted.pvalue, rel=1e-12)
        assert test.superiority == pytest.approx(wanted.statistic / (n * m))
        assert test.rank_biserial == pytest.approx(2 * wanted.statistic / (n * m) - 1)
        assert (test.form, test.blocks, test.cell_values, test.reference_values) == ("exact", 1, n, m)

    def test_ties_and_blocks_are_those_of_all_orders(self) -> None:
        rng = np.random.default_rng(0)
        held = [groups(rng.integers(0, 4, 4).tolist(), rng.integers(0, 4, 4).tolist()) for _ in range(2)]
        assert rank_test(held[:1]).p == pytest.approx(by_all_orders(held[:1]), rel=1e-12)
        assert rank_test(held).p == pytest.approx(by_all_orders(held), rel=1e-12)

    def test_what_differs_by_rounding_ties(self) -> None:
        first, second = 0.1 + 0.2, 0.3
        assert rank_test([groups([first], [second])]).superiority == 0.5

    def test_students_of_one_teacher_are_compared_with_those_of_the_same(self) -> None:
        """Each block by itself shows the effect; pooled, the teachers' own levels would drown it."""
        held = [groups([level + 1 + 0.01 * i for i in range(5)], [level + 0.01 * i for i in range(5)])
                for level in (0, 10, 20)]  # fmt: skip
        test = rank_test(held)
        assert test.p == pytest.approx(comb(10, 5) ** -3)
        assert test.superiority == 1
        pooled = groups(*([value for block in held for value in block[side].values()] for side in (0, 1)))
        assert rank_test([pooled]).p > 0.05

    def test_many_values_take_the_normal_distribution_as_scipy_does(self) -> None:
        rng = np.random.default_rng(0)
        cell, reference = rng.integers(0, 30, 60) + 1.0, rng.integers(0, 30, 55) + 0.0
        wanted = stats.mannwhitneyu(cell, reference, alternative="greater", method="asymptotic")
        test = rank_test([groups(cell, reference)])
        assert (test.form, test.floor) == ("normal", None)
        assert test.p == pytest.approx(wanted.pvalue, rel=1e-9)

    def test_blocks_of_different_sizes_are_near_all_orders(self) -> None:
        rng = np.random.default_rng(3)
        held = [groups(rng.normal(0.5, 1, n), rng.normal(0, 1, n)) for n in (4, 5)]
        test = rank_test(held)
        assert test.form == "normal"
        assert test.p == pytest.approx(by_all_orders(held), abs=0.03)

    def test_equal_values_show_nothing(self) -> None:
        assert rank_test([groups([1, 1, 1], [1, 1, 1])]).p == 1
        many = groups([1.0] * 60, [1.0] * 60)
        assert (rank_test([many]).p, rank_test([many]).superiority) == (1, 0.5)

    def test_the_floor_is_what_separated_groups_reach(self) -> None:
        separated = groups([5, 6, 7], [1, 2, 3])
        for held in ([separated], [separated, separated]):
            test = rank_test(held)
            assert test.p == pytest.approx(test.floor)

    def test_blocks_that_share_students_are_combined_as_if_they_erred_together(self) -> None:
        held = [groups([5, 6, 7], [1, 2, 3]), groups([5, 6, 7], [1, 2, 6.5])]
        test, apart = rank_test(held, independent=False), rank_test(held)
        alone = [rank_test([block]).p for block in held]
        assert test.form == "twice the mean p"
        assert test.p == pytest.approx(sum(p for p in alone if p is not None))
        assert test.p > apart.p
        assert test.superiority == apart.superiority
        assert test.low < apart.low
        assert rank_test(held[:1], independent=False).form == "exact"

    def test_a_block_without_one_of_the_groups_counts_nowhere(self) -> None:
        whole = groups([5, 6], [1, 2])
        assert rank_test([Groups({}, {1: 2.0}), whole, Groups({1: 2.0}, {})]) == rank_test([whole])
        assert rank_test([Groups({}, {1: 2.0})]) == blocks.RankTest(0, 0, 0)

    def test_numbers_out_of_range_are_refused(self) -> None:
        with pytest.raises(ValueError, match="values must be finite"):
            rank_test([groups([float("nan")], [1.0])])
        with pytest.raises(ValueError, match="level must be between 0 and 1"):
            rank_test([], level=1)


class TestEffectSize:
    def test_ends_are_as_far_as_their_own_error(self) -> None:
        """Newcombe's method 5, from its definition."""
        test = rank_test([groups([3, 5, 6, 8, 9], [1, 2, 4, 7])])
        for end in (test.low, test.high):
            q1, q2, size = end / (2 - end), 2 * end**2 / (1 + end), 3.5
            error = sqrt((end * (1 - end) + size * (q1 - end**2) + size * (q2 - end**2)) / 20)
            assert abs(test.superiority - end) == pytest.approx(1.959964 * error, rel=1e-5)

    def test_separated_groups_have_an_interval(self) -> None:
        test = rank_test([groups(range(10, 20), range(10))])
        assert (test.superiority, test.high) == (1, 1)
        assert 0.7 < test.low < 0.95

    def test_the_other_way_round_it_is_mirrored(self) -> None:
        cell, reference = [3, 5, 6, 8], [1, 2, 4, 7, 9]
        there, back = rank_test([groups(cell, reference)]), rank_test([groups(reference, cell)])
        assert (back.low, back.high) == pytest.approx((1 - there.high, 1 - there.low))

    def test_more_blocks_narrow_it(self) -> None:
        one = groups([3, 5, 6, 8], [1, 2, 4, 7])
        single, double = rank_test([one]), rank_test([one, one])
        assert double.superiority == single.superiority
        assert double.high - double.low < single.high - single.low


class TestMeans:
    def test_shared_seeds_are_paired(self) -> None:
        cell, reference = {1: 2.0, 2: 3.5, 3: 5.0, 9: 40.0}, {1: 1.0, 2: 3.0, 3: 4.0}
        found, wanted = mean_difference([Groups(cell, reference)]), paired_difference(cell, reference)
        assert (found.value, found.form) == (wanted.difference, "paired")
        assert (found.low, found.high) == pytest.approx((wanted.ci_low, wanted.ci_high))

    def test_other_seeds_are_not(self) -> None:
        cell, reference = {1: 2.0, 2: 3.5, 3: 5.0}, {4: 1.0, 5: 3.0, 6: 4.5}
        found = mean_difference([Groups(cell, reference)])
        wanted = welch_difference(list(cell.values()), list(reference.values()))
        assert (found.value, found.form) == (pytest.approx(wanted.difference), "unpaired")
        assert (found.low, found.high) == pytest.approx(wanted.interval(0.05))

    def test_each_block_counts_once(self) -> None:
        """Differences 1, 2, 3 and 4, 6, 8: means 2 and 6, variances 1/3 and 4/3 with two degrees of freedom each."""
        held = [
            Groups({1: 11.0, 2: 12.0, 3: 13.0}, {1: 10.0, 2: 10.0, 3: 10.0}),
            Groups({1: 4.0, 2: 6.0, 3: 8.0}, {1: 0.0, 2: 0.0, 3: 0.0}),
        ]
        found = mean_difference(held)
        assert found.value == pytest.approx(4)
        assert found.by_block == pytest.approx((2, 6))
        error, freedom = sqrt(5 / 3) / 2, (5 / 3) ** 2 / ((1 / 9 + 16 / 9) / 2)
        reach = stats.t.ppf(0.975, freedom) * error
        assert (found.low, found.high) == pytest.approx((4 - reach, 4 + reach))
        together = mean_difference(held, independent=False)
        assert together.value == found.value
        reach = stats.t.ppf(0.975, 2) * (sqrt(1 / 3) + sqrt(4 / 3)) / 2
        assert (together.low, together.high) == pytest.approx((4 - reach, 4 + reach))

    def test_without_spread_or_with_one_value_there_is_no_interval(self) -> None:
        assert mean_difference([groups([2, 2], [1, 1])]) == blocks.MeanDifference(1, None, None, (1,), "paired")
        assert mean_difference([groups([2], [1])]) == blocks.MeanDifference(1, None, None, (1,), "unpaired")
        assert mean_difference([]) == blocks.MeanDifference(None, None, None, (), None)

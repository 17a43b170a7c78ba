"""Welch's test of cells that share no seeds."""

from __future__ import annotations

import pytest
from scipy.stats import permutation_test, ttest_1samp, ttest_ind

from akdtune.statistics.unpaired import welch_difference

FIRST, SECOND = [71.0, 72.5, 70.8, 71.9], [69.0, 70.5, 68.0]


def test_it_is_scipys() -> None:
    found = welch_difference(FIRST, SECOND)
    assert (found.n, found.m) == (4, 3)
    assert found.difference == pytest.approx(71.55 - 69.1666667)
    assert found.p == pytest.approx(float(ttest_ind(FIRST, SECOND, equal_var=False).pvalue))
    assert welch_difference(SECOND, FIRST).p == pytest.approx(found.p)


def test_one_constant_cell_leaves_the_others_spread() -> None:
    found = welch_difference([70.0, 70.0, 70.0], [71.0, 72.0, 73.0])
    assert found.p == pytest.approx(float(ttest_1samp([71.0, 72.0, 73.0], 70.0).pvalue))


@pytest.mark.parametrize(("n", "m"), [(2, 2), (3, 3), (2, 4), (5, 3)])
def test_without_spread_p_is_that_of_all_permutations(n: int, m: int) -> None:
    first, second = [71.0] * n, [70.0] * m
    exact = permutation_test(
        (first, second), lambda a, b, axis: abs(a.mean(axis) - b.mean(axis)), alternative="greater", vectorized=True
    )
    assert welch_difference(first, second).p == pytest.approx(float(exact.pvalue))


def test_equal_values_and_rounding_are_no_difference() -> None:
    found = welch_difference([70.0, 70.0], [70.0 + 1e-13, 70.0])
    assert (found.difference, found.p) == (0.0, 1.0)


@pytest.mark.parametrize(("first", "second", "difference"), [([], [1.0], None), ([2.0], [1.0, 1.5], 0.75)])
def test_too_few_values_have_no_p(first: list[float], second: list[float], difference: float | None) -> None:
    found = welch_difference(first, second)
    assert found.p is None and found.difference == difference


def test_values_must_be_finite() -> None:
    with pytest.raises(ValueError, match="values must be finite"):
        welch_difference([1.0, float("nan")], [1.0, 2.0])


def test_its_interval_is_scipys() -> None:
    first, second = [1.0, 4.0, 2.5, 3.0], [0.5, 0.7, 0.2]
    expected = ttest_ind(first, second, equal_var=False).confidence_interval(0.9)
    assert welch_difference(first, second).interval(0.1) == pytest.approx(tuple(expected), rel=1e-10)
    assert welch_difference([1.0, 1.0], [2.0, 2.0]).interval(0.1) is None

"""Exact intervals and tests of a share."""

from __future__ import annotations

import pytest
from scipy.stats import binomtest

from akdtune.statistics.binomial import clopper_pearson, p_of_as_many


@pytest.mark.parametrize(("right", "n"), [(0, 12), (1, 12), (7, 12), (12, 12), (3, 3), (0, 1), (450, 1000)])
def test_they_are_scipys(right: int, n: int) -> None:
    known = binomtest(right, n, 0.25, alternative="two-sided").proportion_ci(0.95, method="exact")
    assert clopper_pearson(right, n) == pytest.approx((known.low, known.high), abs=1e-12)
    assert p_of_as_many(right, n, 0.25) == pytest.approx(binomtest(right, n, 0.25, alternative="greater").pvalue)


def test_a_mean_over_repetitions_has_the_interval_of_both_counts_around_it() -> None:
    low, high = clopper_pearson(6.4, 12)
    assert (low, high) == (clopper_pearson(6, 12)[0], clopper_pearson(7, 12)[1])
    assert p_of_as_many(6.4, 12, 0.25) == p_of_as_many(6, 12, 0.25)


def test_a_count_that_rounding_moved_is_that_count() -> None:
    assert clopper_pearson(7 - 1e-15, 12) == clopper_pearson(7, 12) == clopper_pearson(7 + 1e-15, 12)
    assert p_of_as_many(7 - 1e-15, 12, 0.25) == p_of_as_many(7, 12, 0.25)


@pytest.mark.parametrize(("right", "n"), [(-1, 5), (6, 5), (0, 0)])
def test_what_is_no_count(right: float, n: int) -> None:
    with pytest.raises(ValueError, match="no such count"):
        clopper_pearson(right, n)

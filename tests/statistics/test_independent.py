"""Two means of independent samples, against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from akdtune.statistics.independent import independent_difference


@pytest.mark.parametrize(("first", "second"), [(2, 2), (3, 9), (11, 11), (40, 5)])
def test_it_is_welchs_test(first: int, second: int) -> None:
    rng = np.random.default_rng(first)
    one, other = rng.normal(1.0, 3.0, first), rng.normal(0.0, 0.5, second)
    expected = stats.ttest_ind(one, other, equal_var=False)
    found = independent_difference(one, other)
    assert found is not None and found.p == pytest.approx(expected.pvalue, rel=1e-10)
    interval = found.interval(0.05)
    assert interval == pytest.approx(tuple(expected.confidence_interval(0.95)), rel=1e-10)


def test_without_spread_nothing_can_be_said() -> None:
    found = independent_difference([1.0, 1.0], [2.0, 2.0])
    assert found is not None and (found.difference, found.p, found.interval(0.05)) == (-1.0, None, None)
    assert independent_difference([1.0], [2.0, 3.0]) is None

"""Slopes within groups that single rows cannot carry: scipy's and statsmodels' numbers, outliers, arms left out."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import theilslopes
from statsmodels.robust.norms import HuberT
from statsmodels.robust.robust_linear_model import RLM

from akdtune.statistics import robust
from akdtune.statistics.association import Coefficient, dummies


def grouped(noise: float = 0.2) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Three groups with a slope of 2 within them and one of about -3 between them."""
    rng = np.random.default_rng(0)
    group_C = np.arange(36) % 3
    x_C = rng.normal(size=36) + 4 * group_C
    y_C = 2 * x_C - 20 * group_C + noise * rng.normal(size=36)
    return x_C, y_C, [f"g{group}" for group in group_C]


@pytest.mark.parametrize("digits", [8, 0])
def test_theil_sen_of_one_group_is_scipys(digits: int) -> None:
    """With ties, too."""
    rng = np.random.default_rng(1)
    x_C = np.round(3 * rng.normal(size=25), digits)
    y_C = np.round(x_C + 2 * rng.normal(size=25), digits)
    found = robust.theil_sen(x_C, y_C, ["a"] * 25)
    slope, _, low, high = theilslopes(y_C, x_C, 0.95)
    assert found is not None
    assert (found.value, found.low, found.high) == pytest.approx((slope, low, high))


def test_only_pairs_within_a_group_count() -> None:
    x_C, y_C, groups = grouped()
    found = robust.theil_sen(x_C, y_C, groups)
    assert found is not None and found.low is not None and found.high is not None
    assert found.value == pytest.approx(2, abs=0.1)
    assert found.low < 2 < found.high
    assert theilslopes(y_C, x_C).slope < 0  # all pairs together


def test_one_row_far_off_moves_neither() -> None:
    x_C, y_C, groups = grouped()
    spoiled_C = y_C.copy()
    spoiled_C[int(x_C.argmax())] -= 100
    columns = np.column_stack([x_C, dummies(groups)])
    assert np.linalg.lstsq(columns, spoiled_C)[0][0] < 0.5, "least squares is pulled"
    for fit in (robust.theil_sen, robust.huber):
        plain, found = fit(x_C, y_C, groups), fit(x_C, spoiled_C, groups)
        assert isinstance(plain, Coefficient) and isinstance(found, Coefficient)
        assert found.value == pytest.approx(plain.value, abs=0.15)


def test_huber_is_statsmodels_with_a_mean_for_each_group() -> None:
    x_C, y_C, groups = grouped(noise=1.0)
    y_C = y_C + np.where(np.arange(36) % 7 == 0, 6.0, 0.0)
    found = robust.huber(1e3 * x_C, y_C, groups)
    own = RLM(y_C, np.column_stack([x_C, dummies(groups)]), M=HuberT()).fit(maxiter=200)
    assert isinstance(found, Coefficient)
    low, high = own.conf_int()[0]
    assert (1e3 * found.value, 1e3 * (found.low or 0), 1e3 * (found.high or 0)) == pytest.approx(
        (own.params[0], low, high), rel=1e-4
    )


def test_no_fit_is_a_sentence() -> None:
    x_C, groups = np.arange(12.0), ["a"] * 12
    assert robust.huber(x_C, 3 * x_C, groups) == "Huber's fit is left out: most cells lie on one line exactly"
    assert robust.huber(np.ones(12), x_C, groups) == "Huber's fit is left out: nothing varies within arms"
    assert robust.huber(x_C, x_C, [str(i) for i in range(12)]) == "Huber's fit is left out: nothing varies within arms"
    assert robust.theil_sen(np.ones(12), x_C, groups) is None


def test_the_slope_without_each_group() -> None:
    """Groups a and b have slope 1, c has slope 5 and twice their spread in x: 8 of 12 squared units are its own."""
    x_C = np.array([-1.0, 1.0, -1.0, 1.0, -2.0, 2.0])
    y_C = np.array([-1.0, 1.0, 9.0, 11.0, -10.0, 10.0])
    left = robust.leave_one_group_out(x_C, y_C, ["a", "a", "b", "b", "c", "c"])
    assert [(each.group, each.rows) for each in left] == [("a", 4), ("b", 4), ("c", 4)]
    assert [each.slope for each in left] == pytest.approx([42 / 10, 42 / 10, 1.0])
    assert robust.leave_one_group_out(x_C, y_C, ["a"] * 6) == []
    nothing = robust.leave_one_group_out(np.array([0.0, 1.0, 2.0, 2.0]), np.arange(4.0), ["a", "a", "b", "b"])
    assert [each.slope for each in nothing] == [None, pytest.approx(1.0)]

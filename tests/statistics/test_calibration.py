"""Expected calibration error by hand."""

from __future__ import annotations

import numpy as np
import pytest

from akdtune.statistics.calibration import calibration_error


def two_classes(confidences: list[float]) -> np.ndarray:
    """Probabilities of two classes, the first predicted with these confidences."""
    first_N = np.array(confidences)
    return np.column_stack([first_N, 1 - first_N])


def test_by_hand() -> None:
    """Bin .6 to .7: one of two right at .65; bin .9 to 1: both right at .95. (2 x .15 + 2 x .05) / 4 = .10."""
    probabilities_NK = two_classes([0.65, 0.65, 0.95, 0.95])
    assert calibration_error(probabilities_NK, np.array([0, 1, 0, 0])) == pytest.approx(10.0)


def test_a_bin_has_its_upper_end() -> None:
    """.8 right falls into the bin of .75 wrong: |1.55 - 1| / 2 = .275; with lower ends it would be (.2 + .75) / 2."""
    probabilities_NK = two_classes([0.8, 0.75])
    assert calibration_error(probabilities_NK, np.array([0, 1])) == pytest.approx(27.5)


def test_certain_and_right_is_calibrated() -> None:
    assert calibration_error(np.eye(3), np.arange(3)) == 0
    assert calibration_error(np.eye(3), np.array([1, 2, 0])) == 100


def test_one_bin_is_the_gap_of_the_means() -> None:
    probabilities_NK = two_classes([0.6, 0.9])
    assert calibration_error(probabilities_NK, np.array([0, 1]), bins=1) == pytest.approx(25.0)


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match=r"got \(2, 2\) and 3"):
        calibration_error(two_classes([0.6, 0.9]), np.zeros(3, int))

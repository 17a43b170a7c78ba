"""Calibration of several classifiers on the same images: bins by hand, intervals, differences."""

from __future__ import annotations

import numpy as np
import pytest

from akdtune.statistics.calibration import calibration_error
from akdtune.statistics.reliability import reliability
from akdtune.statistics.resampling import Floats


def classifier(images: int, seed: int, sharper: float = 1.0) -> tuple[Floats, Floats]:
    """Log-probabilities, those of a classifier whose logits are `sharper` times as large, and labels drawn from the
    first: the first is calibrated exactly, the second too sure where `sharper` is above 1."""
    rng = np.random.default_rng(seed)
    logits_NK = 1.5 * rng.normal(size=(images, 4))
    log_NK = logits_NK - np.log(np.exp(logits_NK).sum(axis=1, keepdims=True))
    cumulative = np.exp(log_NK).cumsum(axis=1)
    labels_N = np.minimum((rng.uniform(size=(images, 1)) > cumulative).sum(axis=1), 3)
    other_NK = sharper * logits_NK - np.log(np.exp(sharper * logits_NK).sum(axis=1, keepdims=True))
    return np.stack([log_NK, other_NK]), labels_N


def test_bins_and_errors_by_hand() -> None:
    probabilities = np.array([[0.65, 0.35], [0.65, 0.35], [0.95, 0.05], [0.95, 0.05]])
    labels_N = np.array([0, 1, 0, 0])
    found = reliability({"own": np.log(probabilities)}, labels_N, draws=100).of["own"]
    assert found.error.value == pytest.approx(10.0)
    assert found.overconfidence.value == pytest.approx(100 * (0.8 - 0.75))
    assert found.counts_B.tolist() == [0, 0, 0, 0, 0, 0, 2, 0, 0, 2]
    assert (found.confidence_B[6], found.accuracy_B[6]) == pytest.approx((65.0, 50.0))
    assert (found.confidence_B[9], found.accuracy_B[9]) == pytest.approx((95.0, 100.0))
    assert np.isnan(found.accuracy_B[0])


def test_the_point_is_the_error_that_other_reports_have() -> None:
    of_both, labels_N = classifier(500, 1, sharper=2.0)
    found = reliability({"a": of_both[0], "b": of_both[1]}, labels_N, draws=100)
    for name, log_NK in zip("ab", of_both, strict=True):
        assert found.of[name].error.value == calibration_error(np.exp(log_NK), labels_N)
    assert found.less["b"].value == pytest.approx(found.of["b"].error.value - found.of["a"].error.value)
    assert set(found.less) == {"b"}


def test_too_sure_is_resolved_and_calibrated_is_not() -> None:
    of_both, labels_N = classifier(2000, 4, sharper=3.0)
    found = reliability({"calibrated": of_both[0], "sharper": of_both[1]}, labels_N)
    calibrated, sharper = found.of["calibrated"], found.of["sharper"]
    assert calibrated.error.low is not None and calibrated.error.low < 0.5
    assert sharper.error.low is not None and sharper.error.low > 5
    assert not calibrated.overconfidence.excludes_zero
    assert sharper.overconfidence.low is not None and sharper.overconfidence.low > 5
    assert found.less["sharper"].excludes_zero


def test_the_reflected_interval_covers_small_errors_and_percentiles_would_not() -> None:
    """The true error of a calibrated classifier is 0: the interval begins at or near it, and the estimate is above."""
    lows = []
    for seed in range(20):
        of_both, labels_N = classifier(400, seed)
        found = reliability({"own": of_both[0]}, labels_N, draws=200, seed=seed).of["own"].error
        assert found.low is not None and found.high is not None
        assert 0 <= found.low <= found.value
        assert found.high >= found.low
        lows.append(found.low)
    assert np.mean(np.array(lows) < 1.0) >= 0.9


def test_the_same_seed_gives_the_same_numbers() -> None:
    of_both, labels_N = classifier(300, 3, sharper=2.0)
    first, second = (reliability({"a": of_both[0], "b": of_both[1]}, labels_N, draws=100, seed=7) for _ in range(2))
    assert first.of["a"].error == second.of["a"].error
    assert first.less == second.less

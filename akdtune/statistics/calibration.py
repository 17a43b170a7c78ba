"""Whether a classifier is right as often as it is confident."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from akdtune.statistics.resampling import Floats

# Shapes: N images, K classes.

BINS = 10


@dataclass(frozen=True)
class Confidences:
    """How sure a classifier is of each image, and whether it is right.

    Attributes:
        confidence_N: its highest probability.
        right_N: whether that class is the true one.
        bin_N: bin of the highest probability, from 0; bins are of equal width, each with its upper end.
        bins: how many there are.
    """

    confidence_N: Floats
    right_N: npt.NDArray[np.bool_]
    bin_N: npt.NDArray[np.int64]
    bins: int

    @property
    def error(self) -> float:
        """Expected calibration error, in percentage points: see `calibration_error`."""
        gaps_G = np.abs(np.bincount(self.bin_N, weights=self.right_N - self.confidence_N, minlength=self.bins))
        return float(100 * gaps_G.sum() / len(self.bin_N))


def confidences(probabilities_NK: Floats, labels_N: npt.NDArray[np.integer[Any]], bins: int = BINS) -> Confidences:
    """How sure a classifier is of each image, and whether it is right.

    Args:
        probabilities_NK: of each class.
        labels_N: the true classes.
        bins: how many.

    Raises:
        ValueError: for shapes that do not belong together, or no image.
    """
    if probabilities_NK.ndim != 2 or len(probabilities_NK) != len(labels_N) or not len(labels_N) or bins < 1:
        shape = probabilities_NK.shape
        raise ValueError(f"probabilities must be [N, K] with a label for each row, got {shape} and {len(labels_N)}")
    confidence_N = probabilities_NK.max(axis=1)
    bin_N = np.clip(np.ceil(confidence_N * bins).astype(np.int64) - 1, 0, bins - 1)
    return Confidences(confidence_N, probabilities_NK.argmax(axis=1) == labels_N, bin_N, bins)


def calibration_error(probabilities_NK: Floats, labels_N: npt.NDArray[np.integer[Any]], bins: int = BINS) -> float:
    """Expected calibration error, in percentage points.

    The mean over images of the distance between the accuracy and the mean confidence of their bin.

    Args:
        probabilities_NK: of each class.
        labels_N: the true classes.
        bins: how many.

    Raises:
        ValueError: for shapes that do not belong together, or no image.

    References:
        Guo et al., ICML 2017, arXiv 1706.04599, equation 3.
    """
    return confidences(probabilities_NK, labels_N, bins).error

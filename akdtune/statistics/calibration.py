"""Whether a classifier is right as often as it is confident."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from akdtune.statistics.resampling import Floats

# Shapes: N images, K classes.

BINS = 10


def calibration_error(probabilities_NK: Floats, labels_N: npt.NDArray[np.integer[Any]], bins: int = BINS) -> float:
    """Expected calibration error, in percentage points.

    Images fall into bins of equal width by their highest probability, each bin with its upper end. The error is the
    mean over images of the distance between their bin's accuracy and its mean confidence.

    Args:
        probabilities_NK: of each class.
        labels_N: the true classes.
        bins: how many.

    Raises:
        ValueError: for shapes that do not belong together, or no image.

    References:
        Guo et al., ICML 2017, arXiv 1706.04599, equation 3.
    """
    if probabilities_NK.ndim != 2 or len(probabilities_NK) != len(labels_N) or not len(labels_N) or bins < 1:
        shape = probabilities_NK.shape
        raise ValueError(f"probabilities must be [N, K] with a label for each row, got {shape} and {len(labels_N)}")
    confidence_N = probabilities_NK.max(axis=1)
    right_N = probabilities_NK.argmax(axis=1) == labels_N
    bin_N = np.clip(np.ceil(confidence_N * bins).astype(np.int64) - 1, 0, bins - 1)
    gaps_G = np.abs(np.bincount(bin_N, weights=right_N - confidence_N, minlength=bins))
    return float(100 * gaps_G.sum() / len(labels_N))

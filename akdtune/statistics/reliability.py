"""Reliability of several classifiers on the same images: bins, expected calibration error with its interval, pairs.

The error that is estimated from N images is too large, the more so the better calibrated a classifier is, and a
resample's is larger again by about as much. Intervals are therefore the bootstrap's reflected ones (twice the estimate
less its quantiles), cut at 0, and not its percentiles, which for a calibrated classifier would lie above the estimate.
"""

# Shapes: N images, K classes, P classifiers, B bins, D draws.

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from akdtune.statistics.association import LEVEL, Coefficient
from akdtune.statistics.calibration import BINS, Confidences, confidences
from akdtune.statistics.resampling import Floats, distribution

DRAWS = 500


@dataclass(frozen=True)
class Reliability:
    """One classifier.

    Attributes:
        error: expected calibration error with its interval, percentage points.
        overconfidence: mean highest probability less accuracy, percentage points; above 0: too sure of itself.
        counts_B: images of each bin of the highest probability.
        confidence_B: mean highest probability, percent; NaN for an empty bin.
        accuracy_B: percent; NaN for an empty bin.
    """

    error: Coefficient
    overconfidence: Coefficient
    counts_B: npt.NDArray[np.int64]
    confidence_B: Floats
    accuracy_B: Floats


@dataclass(frozen=True)
class Compared:
    """Classifiers on the same images.

    Attributes:
        images: how many.
        of: by the name of a classifier.
        less: by the name of every classifier but the first, how much lower the first's error is than its own, with an
            interval over images that both share.
    """

    images: int
    of: dict[str, Reliability]
    less: dict[str, Coefficient]


def reliability(
    log_probabilities: Mapping[str, Floats],
    labels_N: npt.NDArray[np.int64],
    *,
    draws: int = DRAWS,
    seed: int = 0,
    level: float = LEVEL,
) -> Compared:
    """Calibration of classifiers on the same images, each with an interval, and the first against the others.

    Args:
        log_probabilities: [N, K] by the name of a classifier; the first is compared with the others.
        labels_N: true classes.
        draws: bootstrap draws of images, the same for all classifiers.
        seed: of the draws.
        level: coverage of the intervals, 0 to 1.

    References:
        Guo et al., ICML 2017, arXiv 1706.04599, equation 3; Davison and Hinkley, Bootstrap Methods and their
        Application (1997), equation 5.6 (the reflected interval).
    """
    of_images = [confidences(np.exp(values_NK), labels_N) for values_NK in log_probabilities.values()]
    gaps_PN = np.stack([held.confidence_N - held.right_N for held in of_images])
    in_bin_PNB = np.stack([held.bin_N for held in of_images])[:, :, None] == np.arange(BINS)
    columns_NX = np.where(in_bin_PNB, gaps_PN[:, :, None], 0.0).transpose(1, 0, 2).reshape(len(labels_N), -1)

    def statistic(weights_DN: Floats) -> Floats:
        sums_DPB = (weights_DN @ columns_NX).reshape(len(weights_DN), len(of_images), BINS)
        errors_PD = np.abs(sums_DPB).sum(axis=2).T
        return 100 * np.stack([errors_PD, sums_DPB.sum(axis=2).T]) / len(labels_N)

    drawn_2PD = distribution(statistic, np.arange(len(labels_N)), draws, seed)
    tails = [(1 - level) / 2, (1 + level) / 2]
    of, errors = {}, [held.error for held in of_images]
    for place, (name, held) in enumerate(zip(log_probabilities, of_images, strict=True)):
        low, high = np.quantile(drawn_2PD[1, place], tails)
        sure = 100 * float(gaps_PN[place].mean())
        counts_B, confidence_B, accuracy_B = _bins(held)
        of[name] = Reliability(
            _reflected(errors[place], drawn_2PD[0, place], tails, floor=0.0),
            Coefficient(sure, float(low), float(high)), counts_B, confidence_B, accuracy_B,
        )  # fmt: skip
    less = {
        name: _reflected(errors[place] - errors[0], drawn_2PD[0, place] - drawn_2PD[0, 0], tails)
        for place, name in enumerate(log_probabilities)
        if place
    }
    return Compared(len(labels_N), of, less)


def _reflected(value: float, drawn_D: Floats, tails: list[float], floor: float | None = None) -> Coefficient:
    low, high = (2 * value - float(end) for end in np.quantile(drawn_D, tails)[::-1])
    return Coefficient(value, low if floor is None else max(floor, low), high if floor is None else max(floor, high))


def _bins(held: Confidences) -> tuple[npt.NDArray[np.int64], Floats, Floats]:
    """Images of each bin, and their mean confidence and accuracy in percent."""
    counts_B = np.bincount(held.bin_N, minlength=BINS)
    held_B = np.where(counts_B > 0, counts_B, np.nan)
    sums = (np.bincount(held.bin_N, weights=values_N, minlength=BINS) for values_N in (held.confidence_N, held.right_N))
    confidence_B, accuracy_B = (100 * sum_B / held_B for sum_B in sums)
    return counts_B, confidence_B, accuracy_B

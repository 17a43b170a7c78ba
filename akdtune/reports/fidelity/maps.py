"""Where classifiers look, and how far they look at the same places (Guo et al. 2024, RethinkKD, arXiv 2405.00739).

A network's attention map of an image is what its last linear layer gives at each place of the last map before that is
pooled: summed over all classes, as published, or of the class that it predicts.
"""

# Shapes: N images, h and w height and width of a map, H and W those of an image, P = H * W pixels, M networks.

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from akdtune.statistics.association import LEVEL
from akdtune.statistics.resampling import Floats

Masks: TypeAlias = npt.NDArray[np.bool_]

THRESHOLD = 0.4
"""Of a map that is scaled to 0..1: what lies above it is attended, as published."""
_VALUES_AT_ONCE = 4_000_000
_PIXELS_AT_ONCE = 8_192


# ---------------------------------------------------------------------------------------------------- masks


def upsampled(maps_Nhw: npt.NDArray[np.floating[Any]], height: int, width: int) -> Floats:
    """Maps at the size of the images [N, H, W], bilinear.

    The places of pixels are those of torch's `interpolate(mode="bilinear", align_corners=False)`: centres of pixels are
    matched, and beyond the outermost centres the outermost value holds.

    Args:
        maps_Nhw: of any size.
        height: of the images, pixels.
        width: of the images, pixels.
    """
    rows_Hh, columns_Ww = (
        _between(size, wanted) for size, wanted in zip(maps_Nhw.shape[1:], (height, width), strict=True)
    )
    with np.errstate(invalid="ignore"):  # a map that is not finite attends to nothing
        return np.asarray(rows_Hh @ maps_Nhw.astype(np.float64) @ columns_Ww.T)


def _between(size: int, wanted: int) -> Floats:
    """How much of each of `size` values each of `wanted` ones takes [wanted, size]; rows sum to 1."""
    places = np.clip((np.arange(wanted) + 0.5) * size / wanted - 0.5, 0, size - 1)
    below = np.floor(places).astype(np.int64)
    above, share = np.minimum(below + 1, size - 1), places - below
    weights = np.zeros((wanted, size))
    np.add.at(weights, (np.arange(wanted), below), 1 - share)
    np.add.at(weights, (np.arange(wanted), above), share)
    return weights


def scaled(maps_NHW: Floats) -> Floats:
    """Each image's map from 0 to 1 by its own least and largest value; 0 all over where a map does not vary."""
    with np.errstate(invalid="ignore"):
        low_N11, high_N11 = maps_NHW.min(axis=(1, 2), keepdims=True), maps_NHW.max(axis=(1, 2), keepdims=True)
        span_N11 = high_N11 - low_N11
        varies = np.isfinite(span_N11) & (span_N11 > 0)
        return np.asarray(np.where(varies, (maps_NHW - low_N11) / np.where(varies, span_N11, 1.0), 0.0))


def attended(maps_Nhw: npt.NDArray[np.floating[Any]], height: int, width: int, threshold: float = THRESHOLD) -> Masks:
    """Which pixels of each image a network attends to [N, P]: upsampled, scaled image by image, above the threshold.

    Args:
        maps_Nhw: unscaled maps.
        height: of the images, pixels.
        width: of the images, pixels.
        threshold: 0 to 1; values above it count.
    """
    masks_NP = np.empty((len(maps_Nhw), height * width), np.bool_)
    step = max(1, _VALUES_AT_ONCE // (height * width))
    for start in range(0, len(maps_Nhw), step):
        part_Nhw = maps_Nhw[start : start + step]
        masks_NP[start : start + step] = (scaled(upsampled(part_Nhw, height, width)) > threshold).reshape(
            len(part_Nhw), -1
        )
    return masks_NP


# ------------------------------------------------------------------------------------------------------ IoU


def iou(*masks_NP: Masks) -> float | None:
    """Pixels that all networks attend to over those that any does, summed over all images, 0 to 1.

    1 for a network with itself; None where nobody attends to anything.

    Differs: pooled over the whole set, where the published code pools each batch and averages over batches.

    Args:
        masks_NP: two or more networks' masks of the same images.
    """
    any_of = int(np.logical_or.reduce(masks_NP).sum())
    return int(np.logical_and.reduce(masks_NP).sum()) / any_of if any_of else None


@dataclass(frozen=True)
class Chance:
    """What an IoU is where networks look without regard to the image: at images paired at random.

    Attributes:
        value: expected intersection over expected union.
        low: lower end of where 95 % of random pairings lie; None for more than two networks.
        high: upper end.
    """

    value: float
    low: float | None = None
    high: float | None = None

    def holds(self, observed: float) -> bool:
        """Whether an IoU lies within what random pairings give."""
        return self.low is not None and self.high is not None and self.low <= observed <= self.high


def chance(*masks_NP: Masks) -> Chance | None:
    """The IoU of networks whose images are paired at random, each network's masks as they are.

    Networks that all look at the centre overlap by chance alone, so that an IoU means little without it. Nothing is
    drawn: the mean of the intersection over all permutations of images is known, for two networks also its variance,
    and it is near normal.

    Args:
        masks_NP: two or more networks' masks of the same images.

    References:
        Hoeffding, Ann. Math. Stat. 22:558, 1951 (sums over a random permutation).
    """
    images = len(masks_NP[0])
    shares_MP = [masks.mean(axis=0) for masks in masks_NP]
    together = images * float(np.prod(shares_MP, axis=0).sum())
    any_of = images * float((1 - np.prod([1 - shares for shares in shares_MP], axis=0)).sum())
    if not any_of:
        return None
    if len(masks_NP) != 2 or images < 3:
        return Chance(together / any_of)
    sizes = float(sum(int(masks.sum()) for masks in masks_NP))
    reach = NormalDist().inv_cdf((1 + LEVEL) / 2) * sqrt(_variance(*masks_NP))
    ends = (max(0.0, together - reach), min(sizes / 2, together + reach))
    low, high = (end / (sizes - end) for end in ends)
    return Chance(together / any_of, low, high)


def _variance(first_NP: Masks, second_NP: Masks) -> float:
    """Of the pixels in common over all permutations of the second network's images."""
    common_NN = np.zeros((len(first_NP), len(second_NP)))
    for first, second in zip(_blocks(first_NP), _blocks(second_NP), strict=True):
        common_NN += first @ second.T  # counts below 2^24: exact
    left_NN = common_NN - common_NN.mean(axis=0) - common_NN.mean(axis=1, keepdims=True) + common_NN.mean()
    return float((left_NN**2).sum() / (len(first_NP) - 1))


def _blocks(masks_NP: Masks) -> Iterator[npt.NDArray[np.float32]]:
    for start in range(0, masks_NP.shape[1], _PIXELS_AT_ONCE):
        yield masks_NP[:, start : start + _PIXELS_AT_ONCE].astype(np.float32)

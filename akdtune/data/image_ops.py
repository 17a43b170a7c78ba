"""Random resized crop, rotation, AutoAugment, RandAugment and Cutout on 8-bit images, by the counter-based generator.

Every image is worked on by itself, on one thread, so that its pixels depend neither on the batch it is in nor on the
process that makes them.

Shapes: N images, B batch, C channels, H, W height and width, S side of the finished image.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from akdtune.data.crops import Crops, cropped, drawn_crops
from akdtune.devices import one_thread
from akdtune.randomness import Draw, Stream, below, unit
from akdtune.settings.data import Augmentation, RandAugment, RandomResizedCrop

OPERATIONS = (
    "identity",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
    "brightness",
    "color",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "auto_contrast",
    "equalize",
)
MAGNITUDE_LIMIT = 30.0
POLICY_MAGNITUDES = 9
"""The largest magnitude in a policy of AutoAugment."""
RESIZED_CROP_TRIES = 10
"""Parts of the image that are drawn before the largest one in the middle is taken, as published."""

Ids = npt.NDArray[np.int64]


def augmented(images_BCHW: Tensor, sample_ids_B: Ids, draw: Draw, augmentation: Augmentation, size: int) -> Tensor:
    """Images [B, C, S, S] as 8 bits after all that is done to each image before it is normalised.

    Args:
        images_BCHW: uint8; of any height and width for a random resized crop, else S.
        sample_ids_B: what their draws belong to.
        draw: seed, epoch and view of the draws.
        augmentation: what is done; Cutout and mixing come after normalising, see `blanked` and `akdtune.data.mixing`.
        size: S, in pixels.
    """
    device = images_BCHW.device
    crops_B = Crops(*(part_B.to(device, non_blocking=True) for part_B in drawn_crops(draw, sample_ids_B, augmentation)))
    if augmentation.random_resized_crop is not None:
        height, width = images_BCHW.shape[-2:]
        boxes = resized_crop_boxes((height, width), sample_ids_B, draw, augmentation.random_resized_crop)
        images_BCHW = torch.stack([_resized(image, box, size) for image, box in zip(images_BCHW, boxes, strict=True)])
    if augmentation.variants > 1:
        images_BCHW = cropped(images_BCHW, crops_B, augmentation.pad)
    if augmentation.rotation:
        images_BCHW = rotated(images_BCHW, sample_ids_B, draw, augmentation.rotation)
    if augmentation.autoaugment is not None:
        images_BCHW = autoaugmented(images_BCHW, sample_ids_B, draw, augmentation.autoaugment)
    if augmentation.randaugment is not None:
        images_BCHW = randaugmented(images_BCHW, sample_ids_B, draw, augmentation.randaugment)
    return images_BCHW


def resized_crop_boxes(
    size: tuple[int, int], sample_ids_B: Ids, draw: Draw, settings: RandomResizedCrop
) -> list[tuple[int, int, int, int]]:
    """Top, left, height and width of the part that each image of `size` (height, width) is cropped to."""
    boxes: dict[int, tuple[int, int, int, int]] = {}
    for attempt in range(RESIZED_CROP_TRIES):
        left = [row for row in range(len(sample_ids_B)) if row not in boxes]
        if not left:
            break
        words = draw.words(sample_ids_B[left], Stream.RESIZED_CROP, attempt)
        for column, row in enumerate(left):
            if (box := _box(settings, *size, words[:, column])) is not None:
                boxes[row] = box
    return [boxes.get(row) or _central_box(settings, *size) for row in range(len(sample_ids_B))]


def _box(
    settings: RandomResizedCrop, height: int, width: int, words: npt.NDArray[np.uint64]
) -> tuple[int, int, int, int] | None:
    """The part that four words describe; None where it does not fit into the image."""
    (low, high), (narrow, wide) = settings.scale, settings.ratio
    share, along = unit(words[:2]).tolist()
    area = height * width * (low + (high - low) * share)
    ratio = math.exp(math.log(narrow) + (math.log(wide) - math.log(narrow)) * along)
    box_width, box_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
    if not (0 < box_width <= width and 0 < box_height <= height):
        return None
    top, left = below(words[2:], np.array([height - box_height + 1, width - box_width + 1])).tolist()
    return top, left, box_height, box_width


def _central_box(settings: RandomResizedCrop, height: int, width: int) -> tuple[int, int, int, int]:
    """The largest part in the middle whose width over height is allowed."""
    narrow, wide = settings.ratio
    box_width, box_height = width, height
    if width / height < narrow:
        box_height = max(1, min(height, round(width / narrow)))
    elif width / height > wide:
        box_width = max(1, min(width, round(height * wide)))
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def _resized(image_CHW: Tensor, box: tuple[int, int, int, int], size: int) -> Tensor:
    top, left, height, width = box
    part = image_CHW[:, top : top + height, left : left + width][None].to(torch.float32)
    resized = torch.nn.functional.interpolate(part, (size, size), mode="bilinear", antialias=True)
    return resized.round_().clamp_(0, 255).to(torch.uint8)[0]


def rotated(images_BCHW: Tensor, sample_ids_B: Ids, draw: Draw, degrees: float) -> Tensor:
    """8-bit images, each turned by an angle drawn uniformly from -degrees..degrees; where nothing was, there is 0.

    The nearest pixel is taken, as torchvision's RandomRotation does by default.
    """
    from torchvision.transforms.v2 import functional  # late: it is slow to load, and few trials need it

    angles_B = degrees * (2 * unit(draw.words(sample_ids_B, Stream.ROTATION)[0]) - 1)
    with one_thread():
        turned = [functional.rotate(image, angle) for image, angle in zip(images_BCHW, angles_B.tolist(), strict=True)]
    return torch.stack(turned)


def autoaugmented(images_BCHW: Tensor, sample_ids_B: Ids, draw: Draw, policy: str) -> Tensor:
    """8-bit images, each after one pair of a policy's operations (Cubuk et al., CVPR 2019, arXiv 1805.09501).

    Every pair is equally likely, each of its operations happens with its own probability, and its direction is drawn.

    Differs: what an operation moves out leaves 0, as in torchvision; other code leaves grey, or the mean.
    """
    pairs = policy_pairs(policy)
    words = draw.words(sample_ids_B, Stream.AUTOAUGMENT)
    pair_B, chance_2B = below(words[0], len(pairs)), unit(words[1:3])
    finished = list(images_BCHW)
    with one_thread():  # as in `randaugmented`
        for row in range(len(finished)):
            for place, (name, probability, strength) in enumerate(pairs[pair_B[row]]):
                if chance_2B[place, row] < probability:
                    sign = 1.0 if int(words[3, row]) >> (31 - place) & 1 else -1.0
                    finished[row] = operate(finished[row], name, strength, sign)
    return torch.stack(finished)


@functools.cache
def policy_pairs(policy: str) -> list[list[tuple[str, float, float]]]:
    """The pairs of a policy out of torchvision's table: name, probability and strength (0..1) of each operation."""
    from torchvision.transforms import autoaugment  # late: it is slow to load, and few trials need it

    table = autoaugment.AutoAugment(autoaugment.AutoAugmentPolicy(policy)).policies
    return [
        [
            (re.sub(r"(?<=.)(?=[A-Z])", "_", name).lower(), chance, (magnitude or 0) / POLICY_MAGNITUDES)
            for name, chance, magnitude in pair
        ]
        for pair in table
    ]


def randaugmented(images_BCHW: Tensor, sample_ids_B: Ids, draw: Draw, settings: RandAugment) -> Tensor:
    """8-bit images after `settings.ops` operations each."""
    finished = list(images_BCHW)
    with one_thread():  # a sum over an image depends on how many threads share it
        for index in range(settings.ops):
            words = draw.words(sample_ids_B, Stream.RANDAUGMENT, index)
            operations_B = below(words[0], len(OPERATIONS))
            magnitudes_B = MAGNITUDE_LIMIT * unit(words[1])
            if settings.magnitude is not None:
                magnitudes_B = np.full(len(finished), settings.magnitude)
            signs_B = np.where(words[2] >> np.uint64(31), -1.0, 1.0)
            for row in range(len(finished)):
                name, strength = OPERATIONS[operations_B[row]], float(magnitudes_B[row] / MAGNITUDE_LIMIT)
                finished[row] = operate(finished[row], name, strength, float(signs_B[row]))
    return torch.stack(finished)


def operate(image_CHW: Tensor, name: str, strength: float, sign: float) -> Tensor:
    """One operation of RandAugment or AutoAugment on an 8-bit image.

    Args:
        image_CHW: uint8, one or three channels.
        name: one of OPERATIONS, or invert.
        strength: 0..1, the share of the operation's range.
        sign: 1 or -1; the direction of the operations that have one.
    """
    from torchvision.transforms.v2 import functional  # late: it is slow to load, and few trials need it

    size = image_CHW.shape[-1]
    factor = 1 + 0.9 * strength * sign
    shear = math.degrees(math.atan(0.3 * strength)) * sign
    shift = int(150 / 331 * size * strength * sign)

    def affine(translate: list[int], shears: list[float], center: list[float] | None) -> Any:
        return functional.affine(image_CHW, 0.0, translate, 1.0, shears, center=center)

    operations: dict[str, Callable[[], Tensor]] = {
        "identity": lambda: image_CHW,
        "shear_x": lambda: affine([0, 0], [shear, 0.0], [0, 0]),
        "shear_y": lambda: affine([0, 0], [0.0, shear], [0, 0]),
        "translate_x": lambda: affine([shift, 0], [0.0, 0.0], None),
        "translate_y": lambda: affine([0, shift], [0.0, 0.0], None),
        "rotate": lambda: functional.rotate(image_CHW, 30 * strength * sign),
        "brightness": lambda: functional.adjust_brightness(image_CHW, factor),
        "color": lambda: functional.adjust_saturation(image_CHW, factor),
        "contrast": lambda: functional.adjust_contrast(image_CHW, factor),
        "sharpness": lambda: functional.adjust_sharpness(image_CHW, factor),
        "posterize": lambda: functional.posterize(image_CHW, round(8 - 4 * strength)),
        "solarize": lambda: functional.solarize(image_CHW, 255 * (1 - strength)),
        "auto_contrast": lambda: functional.autocontrast(image_CHW),
        "equalize": lambda: functional.equalize(image_CHW),
        "invert": lambda: functional.invert(image_CHW),
    }
    return operations[name]()


def blanked(images_BCHW: Tensor, sample_ids_B: Ids, draw: Draw, augmentation: Augmentation) -> Tensor:
    """Normalised images with Cutout's square set to 0, the data set's mean (DeVries and Taylor 2017, 1708.04552).

    The square's centre is any pixel, equally likely; what lies outside of the image is cut off.
    """
    if augmentation.cutout == 0:
        return images_BCHW
    size = images_BCHW.shape[-1]
    words = draw.words(sample_ids_B, Stream.CUTOUT)
    side_B = np.full(len(sample_ids_B), augmentation.cutout, dtype=np.int64)
    if augmentation.cutout_random:
        side_B = below(words[2], augmentation.cutout + 1)
    start_2B = below(words[:2], size) - side_B // 2
    along = np.arange(size)[None, None, :]
    inside_2BS = (along >= start_2B[:, :, None]) & (along < (start_2B + side_B)[:, :, None])
    hole_BHW = inside_2BS[0][:, :, None] & inside_2BS[1][:, None, :]
    hole_B1HW = torch.from_numpy(hole_BHW)[:, None].to(images_BCHW.device, non_blocking=True)
    return images_BCHW.masked_fill(hole_B1HW, 0.0)

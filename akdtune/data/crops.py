"""Crop, flip and normalise: what is done to every training image, by draws that depend on the sample alone.

Every draw is a pure function of (seed, epoch, sample id, stream). It depends neither on the batch size, nor on which
other images are in the subset, nor on what was drawn before.

Shapes: N images, B batch, C channels, H, W height and width (always equal).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from akdtune.randomness import Draw, Stream, below, random_order
from akdtune.settings.data import Augmentation


class Crops(NamedTuple):
    """One crop per image: offsets in the padded image (0..2*pad, int64) and whether it is mirrored (bool)."""

    dy_N: Tensor
    dx_N: Tensor
    flip_N: Tensor

    def variant_N(self, augmentation: Augmentation) -> Tensor:
        """Number of each crop in 0..variants-1, int64; `variant_crops` is the inverse."""
        side = 2 * augmentation.pad + 1
        return (self.flip_N.long() * side + self.dy_N) * side + self.dx_N


def variant_crops(variant_N: Tensor, augmentation: Augmentation) -> Crops:
    """The crops that have these variant numbers."""
    side = 2 * augmentation.pad + 1
    return Crops(variant_N // side % side, variant_N % side, variant_N >= side * side)


def epoch_order(order_seed: int, epoch: int, sample_ids_N: Tensor) -> Tensor:
    """The order in which one epoch visits the positions 0..N-1, int64 on the device of the ids."""
    order = random_order(order_seed, epoch, sample_ids_N.cpu().numpy(), Stream.ORDER)
    return torch.from_numpy(order).to(sample_ids_N.device)


def crops(order_seed: int, epoch: int, sample_ids_N: Tensor, augmentation: Augmentation, view: int = 0) -> Crops:
    """The crop and flip of every sample in one epoch, on the device of the ids."""
    drawn = drawn_crops(Draw(order_seed, epoch, view), sample_ids_N.cpu().numpy(), augmentation)
    return Crops(*(part_N.to(sample_ids_N.device) for part_N in drawn))


def drawn_crops(draw: Draw, sample_ids_N: npt.NDArray[np.int64], augmentation: Augmentation) -> Crops:
    """The crop and flip of these samples, on the CPU."""
    words = draw.words(sample_ids_N, Stream.CROP)
    dy_N, dx_N = below(words[:2], 2 * augmentation.pad + 1)
    flip_N = (words[2] >> np.uint64(31)).astype(bool) & augmentation.flip
    return Crops(torch.from_numpy(dy_N), torch.from_numpy(dx_N), torch.from_numpy(flip_N))


def augment(
    images_NCHW: Tensor,
    positions_B: Tensor,
    crops_B: Crops | None,
    augmentation: Augmentation,
    mean_C: Tensor,
    std_C: Tensor,
) -> Tensor:
    """Padded, cropped, mirrored and normalised images, [B, C, H, W] float32, by one gather.

    Args:
        images_NCHW: stored images, uint8.
        positions_B: rows to take, int64.
        crops_B: their crops; None leaves the images whole.
        augmentation: the padding that the crops refer to.
        mean_C: channel means, on the scale 0..1.
        std_C: channel standard deviations, on the scale 0..1.
    """
    images_BCHW = images_NCHW.index_select(0, positions_B)
    if crops_B is not None and augmentation.variants > 1:
        images_BCHW = cropped(images_BCHW, crops_B, augmentation.pad)
    return normalised(images_BCHW, mean_C, std_C)


def normalised(images_BCHW: Tensor, mean_C: Tensor, std_C: Tensor) -> Tensor:
    """8-bit images as float32 with the data set's mean taken off, over its standard deviation."""
    # Divided by 255 first, as torchvision does: a multiplication by 1/(255 std) differs in the last bits.
    scaled_BCHW = images_BCHW.to(torch.float32).div_(255)
    return scaled_BCHW.sub_(mean_C[:, None, None]).div_(std_C[:, None, None])


def cropped(images_BCHW: Tensor, crops_B: Crops, pad: int) -> Tensor:
    """Images padded with zeros, cropped to their size and mirrored, all by one gather."""
    batch, channels, _, size = images_BCHW.shape
    padded_BCP = torch.nn.functional.pad(images_BCHW, [pad] * 4).flatten(2)
    along = torch.arange(size, device=images_BCHW.device)
    rows_BH = crops_B.dy_N[:, None] + along
    columns_BW = crops_B.dx_N[:, None] + torch.where(crops_B.flip_N[:, None], size - 1 - along, along)
    pixels_BP = (rows_BH[:, :, None] * (size + 2 * pad) + columns_BW[:, None, :]).view(batch, 1, -1)
    return padded_BCP.gather(2, pixels_BP.expand(-1, channels, -1)).view_as(images_BCHW)

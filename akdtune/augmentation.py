"""Order, crops and flips of training images: which ones (a counter-based generator), and how (one batched gather).

Every draw is a pure function of (seed, epoch, sample id, stream). It depends neither on the batch size, nor on which
other images are in the subset, nor on what was drawn before.

Shapes: N images, B batch, C channels, H, W height and width (always equal).
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from akdtune.registry import ComponentSettings

Words: TypeAlias = npt.NDArray[np.uint64]


class Stream(IntEnum):
    """What a draw is for; two purposes never share random numbers."""

    ORDER = 1
    CROP = 2
    LIMIT = 3
    VALIDATION = 4
    LABEL_NOISE = 5
    DIGITS_POOL = 6


class Augmentation(ComponentSettings):
    """Random crop after zero padding, and random horizontal flip."""

    pad: int = Field(ge=0, le=64, description="zero pixels on each side before the random crop")
    flip: bool = Field(description="mirror every second image, at random")

    @property
    def variants(self) -> int:
        """Number of different versions of one image."""
        return (2 * self.pad + 1) ** 2 * (2 if self.flip else 1)


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


def philox4x32(counter_4N: Words, key: tuple[int, int]) -> Words:
    """Philox4x32-10: four random 32-bit words for each 128-bit counter, both [4, N] with 32-bit values in uint64.

    References:
        Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011; checked with the known answers there.
    """
    mask, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
    word0, word1, word2, word3 = counter_4N.astype(np.uint64)
    key0, key1 = key
    for _ in range(10):
        product0 = word0 * np.uint64(0xD2511F53)
        product1 = word2 * np.uint64(0xCD9E8D57)
        word0, word1, word2, word3 = (
            (product1 >> shift) ^ word1 ^ np.uint64(key0),
            product1 & mask,
            (product0 >> shift) ^ word3 ^ np.uint64(key1),
            product0 & mask,
        )
        key0, key1 = (key0 + 0x9E3779B9) & 0xFFFFFFFF, (key1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack([word0, word1, word2, word3])


def random_words(seed: int, epoch: int, sample_ids_N: npt.NDArray[np.int64], stream: Stream) -> Words:
    """Four random 32-bit words for each sample id, [4, N] as uint64; `seed` counts modulo 2**64."""
    ids = sample_ids_N.astype(np.uint64)
    counter = np.empty((4, len(ids)), dtype=np.uint64)
    counter[0], counter[1], counter[2], counter[3] = ids & np.uint64(0xFFFFFFFF), ids >> np.uint64(32), epoch, stream
    return philox4x32(counter, (seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF))


def random_order(seed: int, epoch: int, sample_ids_N: npt.NDArray[np.int64], stream: Stream) -> npt.NDArray[np.int64]:
    """A permutation of positions 0..N-1; the relative order of two samples does not depend on the others."""
    words = random_words(seed, epoch, sample_ids_N, stream)
    order: npt.NDArray[np.int64] = np.lexsort((sample_ids_N, words[0] << np.uint64(32) | words[1])).astype(np.int64)
    return order


def epoch_order(order_seed: int, epoch: int, sample_ids_N: Tensor) -> Tensor:
    """The order in which one epoch visits the positions 0..N-1, int64 on the device of the ids."""
    order = random_order(order_seed, epoch, sample_ids_N.cpu().numpy(), Stream.ORDER)
    return torch.from_numpy(order).to(sample_ids_N.device)


def crops(order_seed: int, epoch: int, sample_ids_N: Tensor, augmentation: Augmentation) -> Crops:
    """The crop and flip of every sample in one epoch, on the device of the ids."""
    words = random_words(order_seed, epoch, sample_ids_N.cpu().numpy(), Stream.CROP)
    # The product's high word is uniform on 0..side-1 up to side / 2**32.
    offsets = (words[:2] * np.uint64(2 * augmentation.pad + 1) >> np.uint64(32)).astype(np.int64)
    flip = (words[2] >> np.uint64(31)).astype(bool) & augmentation.flip
    dy_N, dx_N, flip_N = (torch.from_numpy(part).to(sample_ids_N.device) for part in (offsets[0], offsets[1], flip))
    return Crops(dy_N, dx_N, flip_N)


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
        images_BCHW = _crop(images_BCHW, crops_B, augmentation.pad)
    # Divided by 255 first, as torchvision does: a multiplication by 1/(255 std) differs in the last bits.
    scaled_BCHW = images_BCHW.to(torch.float32).div_(255)
    return scaled_BCHW.sub_(mean_C[:, None, None]).div_(std_C[:, None, None])


def _crop(images_BCHW: Tensor, crops_B: Crops, pad: int) -> Tensor:
    batch, channels, _, size = images_BCHW.shape
    padded_BCP = torch.nn.functional.pad(images_BCHW, [pad] * 4).flatten(2)
    along = torch.arange(size, device=images_BCHW.device)
    rows_BH = crops_B.dy_N[:, None] + along
    columns_BW = crops_B.dx_N[:, None] + torch.where(crops_B.flip_N[:, None], size - 1 - along, along)
    pixels_BP = (rows_BH[:, :, None] * (size + 2 * pad) + columns_BW[:, None, :]).view(batch, 1, -1)
    return padded_BCP.gather(2, pixels_BP.expand(-1, channels, -1)).view_as(images_BCHW)

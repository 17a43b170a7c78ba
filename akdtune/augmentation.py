"""What is done to training images: the settings, what is drawn (a counter-based generator), and crop and flip.

Every draw is a pure function of (seed, epoch, sample id, stream). It depends neither on the batch size, nor on which
other images are in the subset, nor on what was drawn before.

Shapes: N images, B batch, C channels, H, W height and width (always equal).
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, GetJsonSchemaHandler, NonNegativeFloat, NonNegativeInt, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema
from torch import Tensor

from akdtune.errors import DataError
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
    IMBALANCE = 7
    FRACTION = 8
    RESIZED_CROP = 9
    RANDAUGMENT = 10
    CUTOUT = 11
    PARTNER = 12
    MIX = 13
    FILL = 14


class RandAugment(ComponentSettings):
    """Some of fourteen operations in a row, drawn for each image (Cubuk et al., CVPRW 2020, arXiv 1909.13719).

    Differs: magnitudes are continuous, and operations and their ranges are those of torchvision's RandAugment.
    """

    ops: int = Field(default=2, ge=0, le=16, description="operations per image; 0: off")
    magnitude: float | None = Field(
        default=None, ge=0, le=30, description="strength of each, 0..30; null: drawn uniformly for each operation"
    )


class RandomResizedCrop(ComponentSettings):
    """A random part of the image, resized to the full size (Szegedy et al., CVPR 2015, arXiv 1409.4842)."""

    scale: tuple[float, float] = Field(
        default=(0.08, 1.0), description="smallest and largest share of the image's area"
    )
    ratio: tuple[float, float] = Field(default=(3 / 4, 4 / 3), description="smallest and largest width over height")

    @model_validator(mode="after")
    def _ranges(self) -> RandomResizedCrop:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale must be [low, high] with 0 < low <= high <= 1, got {list(self.scale)}")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio must be [low, high] with 0 < low <= high, got {list(self.ratio)}")
        return self


class Augmentation(ComponentSettings):
    """What is done to training images, every part resolved; all but crop and flip is off by default."""

    pad: int = Field(ge=0, le=64, description="zero pixels on each side before the random crop")
    flip: bool = Field(description="mirror every second image, at random")
    random_resized_crop: RandomResizedCrop | None = Field(default=None, description="instead of padding and cropping")
    randaugment: RandAugment | None = None
    cutout: NonNegativeInt = Field(default=0, description="side of the square that is blanked, in pixels; 0: none")
    cutout_random: bool = Field(default=False, description="draw the side of the square from 0..cutout")
    mixup: NonNegativeFloat = Field(default=0.0, description="alpha of Mixup's beta distribution; 0: off")
    cutmix: NonNegativeFloat = Field(default=0.0, description="alpha of CutMix's beta distribution; 0: off")

    @property
    def variants(self) -> int:
        """Number of different versions of one image by crop and flip."""
        return (2 * self.pad + 1) ** 2 * (2 if self.flip else 1)

    @property
    def crops_only(self) -> bool:
        """Whether crop and flip are all that is done."""
        return self == Augmentation(pad=self.pad, flip=self.flip)

    @property
    def mixes(self) -> bool:
        """Whether images of a batch are mixed with each other."""
        return self.mixup > 0 or self.cutmix > 0

    def facts(self) -> dict[str, Any]:
        """Plain JSON that names this augmentation: crop and flip, and whatever else is on."""
        values, fields = self.model_dump(mode="json"), type(self).model_fields
        return {key: value for key, value in values.items() if value != fields[key].default}


Preset = Literal["weak", "strong"]


class AugmentationSettings(ComponentSettings):
    """`weak`, `strong`, or parts of an augmentation; what is null is as in the preset.

    weak: the data set's own. strong: that of MLKD (Jin et al., CVPR 2023): besides, RandAugment of two operations,
    each with a magnitude drawn uniformly, and a Cutout with a side drawn uniformly up to half the image.
    """

    preset: Preset = Field(default="weak", description="what the keys that are null come from")
    pad: int | None = Field(default=None, ge=0, le=64, description="zero pixels on each side before the random crop")
    flip: bool | None = Field(default=None, description="mirror every second image, at random")
    random_resized_crop: RandomResizedCrop | None = Field(default=None, description="instead of padding and cropping")
    randaugment: RandAugment | None = Field(default=None, description="{ops, magnitude}")
    cutout: NonNegativeInt | None = Field(
        default=None, description="side of the square that is blanked, in pixels; 0: none"
    )
    cutout_random: bool | None = Field(default=None, description="draw the side of the square from 0..cutout")
    mixup: NonNegativeFloat | None = Field(default=None, description="alpha of Mixup's beta distribution; 0: off")
    cutmix: NonNegativeFloat | None = Field(
        default=None,
        description="alpha of CutMix's beta distribution; 0: off; with mixup each batch draws one of the two",
    )

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"preset": value}
        return value.model_dump() if isinstance(value, Augmentation) else value

    @model_validator(mode="after")
    def _one_crop(self) -> AugmentationSettings:
        if self.pad and self.random_resized_crop is not None:
            raise ValueError(f"pad ({self.pad}) and random_resized_crop exclude each other; allowed: one of them")
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """The mapping, or the name of a preset."""
        return {"anyOf": [{"enum": ["weak", "strong"]}, handler(core_schema)]}

    def resolved(self, own: Augmentation, size: int, key: str) -> Augmentation:
        """The whole augmentation for images of `size` pixels; `own` is the data set's, `key` is for messages."""
        base = strong_augmentation(own, size) if self.preset == "strong" else own
        changes = {name: value for name in Augmentation.model_fields if (value := getattr(self, name)) is not None}
        if "pad" in changes and self.random_resized_crop is None:
            changes["random_resized_crop"] = None
        if self.random_resized_crop is not None:
            changes["pad"] = 0
        whole = base.model_copy(update=changes)
        if whole.randaugment is not None and whole.randaugment.ops == 0:
            whole = whole.model_copy(update={"randaugment": None})
        if whole.cutout == 0:
            whole = whole.model_copy(update={"cutout_random": False})
        if whole.cutout > size:
            raise DataError(f"data.{key}.cutout is {whole.cutout}, the images have {size} pixels (allowed: 0..{size})")
        return whole


def strong_augmentation(own: Augmentation, size: int) -> Augmentation:
    """MLKD's strong view: the data set's own augmentation, RandAugment and a random Cutout up to half the side."""
    return own.model_copy(
        update={"randaugment": RandAugment(ops=2, magnitude=None), "cutout": size // 2, "cutout_random": True}
    )


class Draw(NamedTuple):
    """What random numbers belong to besides the sample.

    Attributes:
        order_seed: of batches and augmentation.
        epoch: counted from 1.
        view: 0 for the images that are trained on, 1 for their strong version.
    """

    order_seed: int
    epoch: int
    view: int = 0

    def words(self, sample_ids_N: npt.NDArray[np.int64], stream: Stream, index: int = 0) -> Words:
        """Four random 32-bit words for each sample id, [4, N]; `index` (below 256) tells draws of one stream apart."""
        return random_words(self.order_seed, self.epoch, sample_ids_N, stream, self.view * 256 + index)


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


def random_words(seed: int, epoch: int, sample_ids_N: npt.NDArray[np.int64], stream: Stream, index: int = 0) -> Words:
    """Four random 32-bit words for each sample id, [4, N] as uint64; `seed` counts modulo 2**64.

    `index` (below 2**24) gives further words of the same stream.
    """
    ids = sample_ids_N.astype(np.uint64)
    counter = np.empty((4, len(ids)), dtype=np.uint64)
    counter[0], counter[1] = ids & np.uint64(0xFFFFFFFF), ids >> np.uint64(32)
    counter[2], counter[3] = epoch, stream | index << 8
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


def below(words_N: Words, limit: npt.NDArray[np.int64] | int) -> npt.NDArray[np.int64]:
    """Whole numbers 0..limit-1 from 32-bit words, equally likely up to limit / 2**32."""
    return (words_N * np.asarray(limit).astype(np.uint64) >> np.uint64(32)).astype(np.int64)


def unit(words_N: Words) -> npt.NDArray[np.float64]:
    """Numbers in [0, 1) from 32-bit words."""
    return words_N.astype(np.float64) / 2**32


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

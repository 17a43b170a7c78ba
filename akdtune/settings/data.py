"""Which images, how they are split, and what is done to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    BeforeValidator,
    Field,
    GetJsonSchemaHandler,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from akdtune.errors import AkdtuneError, DataError
from akdtune.registry import ComponentSettings, lookup


class RandAugment(ComponentSettings):
    """Some of fourteen operations in a row, drawn for each image (Cubuk et al., CVPRW 2020, arXiv 1909.13719).

    Differs: magnitudes are continuous, and operations and their ranges are those of torchvision's RandAugment.
    """

    ops: int = Field(default=2, ge=0, le=16, description="operations per image; 0: off")
    magnitude: float | None = Field(
        default=None, ge=0, le=30, description="strength of each, 0..30; null: drawn uniformly for each operation"
    )


_Pair = Annotated[
    tuple[float, float], BeforeValidator(lambda given: tuple(given) if isinstance(given, list) else given)
]
"""Two numbers; what a file holds is a list, which a strict reading behind a preset's name would not take for them."""


class RandomResizedCrop(ComponentSettings):
    """A random part of the image, resized to the full size (Szegedy et al., CVPR 2015, arXiv 1409.4842)."""

    scale: _Pair = Field(default=(0.08, 1.0), description="smallest and largest share of the image's area")
    ratio: _Pair = Field(default=(3 / 4, 4 / 3), description="smallest and largest width over height")

    @model_validator(mode="after")
    def _ranges(self) -> RandomResizedCrop:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale must be [low, high] with 0 < low <= high <= 1, got {list(self.scale)}")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio must be [low, high] with 0 < low <= high, got {list(self.ratio)}")
        return self


Policy = Literal["cifar10", "imagenet", "svhn"]
"""AutoAugment's published policies, by the data set that each was learned on."""


class Augmentation(ComponentSettings):
    """What is done to training images, every part resolved; all but crop and flip is off by default."""

    pad: int = Field(ge=0, le=64, description="zero pixels on each side before the random crop")
    flip: bool = Field(description="mirror every second image, at random")
    random_resized_crop: RandomResizedCrop | None = Field(default=None, description="instead of padding and cropping")
    rotation: float = Field(default=0.0, ge=0, le=180, description="turn by up to so many degrees either way; 0: off")
    autoaugment: Policy | None = None
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

_PARTS_ADDED_LATER = frozenset({"rotation", "autoaugment"})


class AugmentationSettings(ComponentSettings):
    """`weak`, `strong`, or parts of an augmentation; what is null is as in the preset.

    weak: the data set's own. strong: that of MLKD (Jin et al., CVPR 2023): besides, RandAugment of two operations,
    each with a magnitude drawn uniformly, and a Cutout with a side drawn uniformly up to half the image.
    """

    preset: Preset = Field(default="weak", description="what the keys that are null come from")
    pad: int | None = Field(default=None, ge=0, le=64, description="zero pixels on each side before the random crop")
    flip: bool | None = Field(default=None, description="mirror every second image, at random")
    random_resized_crop: RandomResizedCrop | None = Field(default=None, description="instead of padding and cropping")
    rotation: float | None = Field(
        default=None, ge=0, le=180, description="turn by up to so many degrees either way, uniformly; 0: off"
    )
    autoaugment: Policy | None = Field(
        default=None, description="a policy of AutoAugment (1805.09501), in place of RandAugment"
    )
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
    def _one_of_each(self) -> AugmentationSettings:
        if self.pad and self.random_resized_crop is not None:
            raise ValueError(f"pad ({self.pad}) and random_resized_crop exclude each other; allowed: one of them")
        if self.autoaugment is not None and self.randaugment is not None:
            raise ValueError(
                f"autoaugment ({self.autoaugment}) and randaugment exclude each other; allowed: one of them"
            )
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without parts that are absent and that earlier versions did not have: ids and locks stay what they are."""
        values: dict[str, Any] = handler(self)
        return {key: value for key, value in values.items() if value is not None or key not in _PARTS_ADDED_LATER}

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """The mapping, or the name of a preset."""
        return {"anyOf": [{"enum": ["weak", "strong"]}, handler(core_schema)]}

    def short(self) -> str | dict[str, Any]:
        """The same as one would write it: the name of a preset, or a mapping of the parts that are given."""
        parts = {key: value for key, value in self.model_dump(mode="json").items() if value is not None}
        preset: str = parts.pop("preset")
        if not parts:
            return preset
        return parts if preset == "weak" else {"preset": preset, **parts}

    def resolved(self, own: Augmentation, size: int, key: str) -> Augmentation:
        """The whole augmentation for images of `size` pixels.

        Args:
            own: the data set's.
            size: of the images.
            key: path of these settings, for messages.

        Raises:
            DataError: for a part that is larger than the images.
        """
        base = strong_augmentation(own, size) if self.preset == "strong" else own
        changes = {name: value for name in Augmentation.model_fields if (value := getattr(self, name)) is not None}
        if "pad" in changes and self.random_resized_crop is None:
            changes["random_resized_crop"] = None
        if self.random_resized_crop is not None:
            changes["pad"] = 0
        if self.autoaugment is not None:
            changes["randaugment"] = None
        whole = base.model_copy(update=changes)
        if whole.randaugment is not None and whole.randaugment.ops == 0:
            whole = whole.model_copy(update={"randaugment": None})
        if whole.cutout == 0:
            whole = whole.model_copy(update={"cutout_random": False})
        if whole.cutout > size:
            raise DataError(f"{key}.cutout is {whole.cutout}, the images have {size} pixels (allowed: 0..{size})")
        return whole


WEAK = AugmentationSettings()
"""What `null` means for `data.augmentation`."""


def with_augmentation(values: dict[str, Any], given: AugmentationSettings | None) -> dict[str, Any]:
    """Dumped settings with their key `augmentation` as one would write it; without it where nothing is given."""
    if "augmentation" not in values:
        return values
    rest = {key: value for key, value in values.items() if key != "augmentation"}
    return rest if given is None else {**rest, "augmentation": given.short()}


def student_augmentation(training: Mapping[str, Any]) -> AugmentationSettings | None:
    """What `training.augmentation` says, out of a trial's `training`; None where it is that of the data."""
    given = training.get("augmentation")
    return None if given is None else AugmentationSettings.model_validate(given)


def own_augmentation(data: Mapping[str, Any], training: Mapping[str, Any]) -> AugmentationSettings | None:
    """The augmentation of a trial's student where it is not that of the data as well; null and `weak` are the same.

    Args:
        data: the section, filled in.
        training: the trial's, filled in.
    """
    given, of_data = student_augmentation(training), data.get("augmentation")
    shared = WEAK if of_data is None else AugmentationSettings.model_validate(of_data)
    return None if given in (None, shared) else given


def strong_augmentation(own: Augmentation, size: int) -> Augmentation:
    """MLKD's strong view: the data set's own augmentation, RandAugment and a random Cutout up to half the side."""
    return own.model_copy(
        update={"randaugment": RandAugment(ops=2, magnitude=None), "cutout": size // 2, "cutout_random": True}
    )


class LabelNoise(ComponentSettings):
    """Wrong labels for the student's training images; validation, test and teacher see the right ones."""

    fraction: float = Field(gt=0, le=1, description="share of training labels replaced by another class at random")
    seed: int = 0


class PixelNoise(ComponentSettings):
    """Gaussian noise drawn once per stored image, training and test alike, rounded to 8 bits."""

    std: float = Field(gt=0, le=1, description="standard deviation as a share of full scale")
    seed: int = 0


class DataSettings(ComponentSettings):
    """Which images, how they are split, and what is done to them."""

    name: str = Field(
        description="digits, cifar10, cifar100, fashion_mnist, stl10, svhn, tiny_imagenet, imagenet, image_folder, "
        "parquet, or one that a plugin registers"
    )
    root: str | None = Field(None, description="folder of the files; null: ~/data (parquet: the working directory)")
    download: bool = Field(False, description="fetch what is missing (torchvision's sets)")
    validation: NonNegativeInt | Annotated[float, Field(gt=0, lt=1)] = Field(
        description="images held out of the training pool, stratified by class: how many, or which share (0.1)",
        examples=[5000, 0.1],
    )
    split_seed: int = Field(0, description="of the validation split, limit_per_class, imbalance and fraction")
    limit_per_class: PositiveInt | None = Field(None, description="size of the training pool, validation included")
    imbalance: float | None = Field(
        None, ge=1, description="images of the first class over those of the last, in training only; null: as they are"
    )
    fraction: float | None = Field(
        None, gt=0, le=1, description="share of each class' training images that is used, at least one; null: all"
    )
    label_noise: LabelNoise | None = None
    pixel_noise: PixelNoise | None = None
    augmentation: AugmentationSettings | None = Field(
        None,
        description="weak, strong, or parts of one, for students and teachers that set none; null: weak, the data set's"
        " own",
    )
    strong: AugmentationSettings | None = Field(
        None, description="for methods that ask for strongly augmented images besides; null: strong"
    )
    mean: list[float] | None = Field(None, description="per channel, scale 0..1; null: the data set's own")
    std: list[float] | None = Field(None, description="per channel, scale 0..1; null: the data set's own")
    size: PositiveInt | None = Field(
        None, le=4096, description="image folders and parquet: pixels a side, resized and cut; null: the data set's own"
    )
    stream: Literal["auto", "always", "never"] = Field(
        "auto", description="image folders and parquet: read encoded images batch by batch; auto: above memory_mib"
    )
    memory_mib: PositiveInt = Field(8192, description="size of the decoded set above which `stream: auto` streams")
    workers: NonNegativeInt | None = Field(
        None,
        le=1024,
        description="processes that decode a set that streams; null: 0 on the CPU, else torch's threads, up to 8",
    )
    train: str | list[str] | None = Field(None, description="parquet: files or patterns of the training pool")
    test: str | list[str] | None = Field(None, description="parquet: files or patterns of the test set")
    split: float | None = Field(
        None, gt=0, lt=1, description="image_folder without a test folder: share of each class that is the test set"
    )
    image_column: str = Field("image", description="parquet: encoded images, bytes or {bytes, path}")
    label_column: str = Field("label", description="parquet: whole numbers or names; a class is its place among them")
    num_classes: PositiveInt | None = Field(
        None,
        le=1_000_000,
        description="parquet: null: as many as different training labels occur; else labels below it stay as is",
    )
    rehearsal: PositiveInt | None = Field(
        None,
        description="set by `akdtune rehearse`: so many training images, the first of each class, or made-up ones of"
        " the set's shape where its files are missing; null: all",
    )

    @model_validator(mode="after")
    def _belongs_to_the_data_set(self) -> DataSettings:
        try:
            source: Any = lookup("data", self.name)  # a Source; naming it here would turn the arrow round
        except AkdtuneError as error:
            raise ValueError(str(error)) from error
        for key in OWNED_SETTINGS - source.own_settings:
            if getattr(self, key) != type(self).model_fields[key].default:
                allowed = sorted(source.own_settings) or ["none"]
                raise ValueError(
                    f"'{key}' does not belong to the data set '{self.name}' (settings of its own: {', '.join(allowed)})"
                )
        if missing := [key for key in source.required_settings if not getattr(self, key)]:
            example = ", ".join(EXAMPLES.get(key, f"{key}: ...") for key in missing)
            raise ValueError(f"the data set '{self.name}' needs {' and '.join(missing)} (for example `{example}`)")
        if self.std is not None and min(self.std, default=1) <= 0:
            raise ValueError(f"std must be positive, got {self.std}")
        if self.strong is not None and (self.strong.mixup or self.strong.cutmix):
            raise ValueError("strong has mixup or cutmix; allowed only in augmentation, which then mixes both alike")
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what is absent: a setting that earlier versions did not have changes no id and no lock."""
        values: dict[str, Any] = handler(self)
        return {key: value for key, value in values.items() if value is not None or key not in _ADDED_LATER}


class RowDataSettings(ComponentSettings):
    """Which data of another kind than images, and how they are split; each such data set adds its own settings."""

    name: str
    validation: NonNegativeInt | Annotated[float, Field(gt=0, lt=1)] = Field(
        description="items held out of the training pool: how many, or which share (0.1)", examples=[100, 0.1]
    )
    split_seed: int = Field(0, description="of the validation split")
    rehearsal: PositiveInt | None = Field(
        None, description="set by `akdtune rehearse`: at most so many training items; null: all"
    )

    @property
    def download(self) -> bool:
        """Whether what is missing is fetched."""
        return False

    @model_serializer(mode="wrap")
    def _as_set(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what is for rehearsals alone."""
        values: dict[str, Any] = handler(self)
        return {key: value for key, value in values.items() if value is not None or key != "rehearsal"}


AnyDataSettings: TypeAlias = DataSettings | RowDataSettings
"""The section `data` of some task."""


def data_model(section: Any) -> type[AnyDataSettings]:
    """The settings that a section `data` is read with: those of its data set; of images where that is not known."""
    name = section.get("name") if isinstance(section, Mapping) else None
    try:
        own = lookup("data", name).Settings if isinstance(name, str) else DataSettings
    except AkdtuneError:
        return DataSettings  # which says that there is no such data set
    return own if issubclass(own, RowDataSettings) else DataSettings


def data_settings(section: Mapping[str, Any]) -> AnyDataSettings:
    """The typed section `data` of a trial or a lock."""
    return data_model(section)(**section)


def without_download(section: Mapping[str, Any]) -> dict[str, Any]:
    """The section of a trial or a lock, under which nothing is fetched."""
    return {**section, "download": False} if "download" in section else dict(section)


_ADDED_LATER = frozenset({"split", "rehearsal"})
EXAMPLES = {
    "root": "root: ~/pictures",
    "size": "size: 64",
    "train": "train: 'train-*.parquet'",
    "test": "test: test.parquet",
}
"""Lines that can be pasted where a setting is missing."""

STREAMING_SETTINGS = frozenset({"size", "stream", "memory_mib", "workers"})
OWNED_SETTINGS = STREAMING_SETTINGS | {
    "root",
    "download",
    "split",
    "train",
    "test",
    "image_column",
    "label_column",
    "num_classes",
}
"""Settings that only some data sets have; every other setting belongs to all."""

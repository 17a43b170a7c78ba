"""The settings and the contract of a data set; digits, and the sets that torchvision reads.

Folders of image files are in `akdtune.folder_sources`, Parquet files in `akdtune.parquet_source`.

A source says which settings belong to it, which files are missing, and how to read what is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from filelock import FileLock
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from akdtune.augmentation import Augmentation, AugmentationSettings, Stream, random_order
from akdtune.data_store import Images, Labels, Stored, cache_directory, channel_statistics, stored
from akdtune.decoding import check_labels
from akdtune.errors import AkdtuneError, DataError
from akdtune.registry import Component, ComponentSettings, Kind, lookup, register
from akdtune.streaming import Streamed


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
    validation: NonNegativeInt = Field(description="images held out of the training pool, stratified by class")
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
        None, description="weak, strong, or parts of one; null: weak, the data set's own"
    )
    strong: AugmentationSettings | None = Field(
        None, description="for methods that ask for strongly augmented images besides; null: strong"
    )
    mean: list[float] | None = Field(None, description="per channel, scale 0..1; null: the data set's own")
    std: list[float] | None = Field(None, description="per channel, scale 0..1; null: the data set's own")
    size: PositiveInt | None = Field(
        None, description="image folders and parquet: pixels a side, resized and cut; null: the data set's own"
    )
    stream: Literal["auto", "always", "never"] = Field(
        "auto", description="image folders and parquet: read encoded images batch by batch; auto: above memory_mib"
    )
    memory_mib: PositiveInt = Field(8192, description="size of the decoded set above which `stream: auto` streams")
    workers: NonNegativeInt | None = Field(
        None, description="processes that decode a set that streams; null: 0 on the CPU, else torch's threads, up to 8"
    )
    train: str | list[str] | None = Field(None, description="parquet: files or patterns of the training pool")
    test: str | list[str] | None = Field(None, description="parquet: files or patterns of the test set")
    image_column: str = Field("image", description="parquet: encoded images, bytes or {bytes, path}")
    label_column: str = Field("label", description="parquet: integers from 0")
    num_classes: PositiveInt | None = Field(None, description="parquet: null: the largest training label + 1")

    @model_validator(mode="after")
    def _belongs_to_the_data_set(self) -> DataSettings:
        try:
            source: Any = lookup("data", self.name)  # a Source; naming it here would turn the arrow round
        except AkdtuneError as error:
            raise ValueError(str(error)) from error
        for key in _OWNED_SETTINGS - source.own_settings:
            if getattr(self, key) != type(self).model_fields[key].default:
                allowed = sorted(source.own_settings) or ["none"]
                raise ValueError(
                    f"'{key}' does not belong to the data set '{self.name}' (settings of its own: {', '.join(allowed)})"
                )
        if missing := [key for key in source.required_settings if not getattr(self, key)]:
            raise ValueError(f"the data set '{self.name}' needs {' and '.join(missing)}")
        if self.std is not None and min(self.std, default=1) <= 0:
            raise ValueError(f"std must be positive, got {self.std}")
        if self.strong is not None and (self.strong.mixup or self.strong.cutmix):
            raise ValueError("strong has mixup or cutmix; allowed only in augmentation, which then mixes both alike")
        return self


STREAMING_SETTINGS = frozenset({"size", "stream", "memory_mib", "workers"})
_OWNED_SETTINGS = STREAMING_SETTINGS | {
    "root",
    "download",
    "train",
    "test",
    "image_column",
    "label_column",
    "num_classes",
}
"""Settings that only some data sets have; every other setting belongs to all."""


class Source(Component):
    """Contract of a data set.

    Class attributes:
        own_settings: those of `DataSettings` that only some data sets have and this one does.
        required_settings: own settings without which it cannot be read.
    """

    kind: ClassVar[Kind] = "data"
    own_settings: ClassVar[frozenset[str]] = frozenset()
    required_settings: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def augmentation(cls, size: int, channels: int) -> Augmentation:
        """The augmentation usual for this data set, for images of `size` pixels."""
        return Augmentation(pad=size // 8, flip=channels == 3)

    @classmethod
    def missing(cls, settings: DataSettings) -> list[str]:
        """What is not there, one readable entry each; nothing is downloaded."""
        return []

    @classmethod
    def read(cls, settings: DataSettings) -> Stored | Streamed:
        """The stored images and labels, or where they stay encoded.

        Raises:
            DataError: naming the file that is missing or wrong.
        """
        raise NotImplementedError


@register("digits", kind="data")
class Digits(Source):
    """scikit-learn's 1,797 handwritten digits, 8x8, grey: 90 images a class are the training pool, the rest test."""

    source = "Alpaydin and Kaynak 1998, UCI Optical Recognition of Handwritten Digits; scikit-learn's copy"
    pool_per_class = 90

    @classmethod
    def augmentation(cls, size: int, channels: int) -> Augmentation:
        """One pixel of padding; mirrored digits are other signs."""
        return Augmentation(pad=1, flip=False)

    @classmethod
    def read(cls, settings: DataSettings) -> Stored:
        """Reads scikit-learn's own copy, once: importing scikit-learn takes a second in every process."""

        def write(folder: Path) -> Mapping[str, Any]:
            from sklearn.datasets import load_digits

            bunch = load_digits()
            images = np.rint(np.asarray(bunch.images)[:, None] * (255 / 16)).astype(np.uint8)
            labels = np.asarray(bunch.target).astype(np.int64)
            order = random_order(0, 0, np.arange(len(labels)), Stream.DIGITS_POOL)
            pool = np.sort(np.concatenate([order[labels[order] == k][: cls.pool_per_class] for k in range(10)]))
            for split, rows in (("train", pool), ("test", np.setdiff1d(np.arange(len(labels)), pool))):
                np.save(folder / f"{split}_images.npy", images[rows])
                np.save(folder / f"{split}_labels.npy", labels[rows])
            mean, std = channel_statistics(images[pool])
            return {"num_classes": 10, "mean": mean, "std": std}

        return stored([], {"name": "digits", "version": metadata.version("scikit-learn")}, write)


class Torchvision(Source):
    """A data set that torchvision reads and downloads."""

    own_settings = frozenset({"root", "download"})
    torchvision_name: ClassVar[str]
    classes: ClassVar[int]
    mean: ClassVar[tuple[float, ...]]
    std: ClassVar[tuple[float, ...]]

    @classmethod
    def files(cls, root: Path) -> list[Path]:
        """The files that torchvision reads."""
        raise NotImplementedError

    @classmethod
    def unread(cls, root: Path) -> list[Path]:
        """Files that torchvision wants to see besides, though nothing of them is used."""
        return []

    @classmethod
    def arguments(cls, is_train: bool) -> dict[str, Any]:
        """What torchvision's class calls its training and its test set."""
        return {"train": is_train}

    @classmethod
    def missing(cls, settings: DataSettings) -> list[str]:
        """The files that are not under the root yet."""
        root = _root(settings)
        absent = [str(file) for file in [*cls.files(root), *cls.unread(root)] if not file.exists()]
        return [f"{name} (will be downloaded)" for name in absent] if settings.download else absent

    @classmethod
    def read(cls, settings: DataSettings) -> Stored:
        """Downloads what is missing, where allowed, and reads through torchvision once."""
        root = _root(settings)
        absent = [file for file in [*cls.files(root), *cls.unread(root)] if not file.exists()]
        if absent and not settings.download:
            raise DataError(
                f"{absent[0]}: no such file; data.root (now {root}) names the folder of {cls.torchvision_name}, "
                "and data.download=true fetches it"
            )
        if absent:
            cls._download(root)

        def write(folder: Path) -> Mapping[str, Any]:
            for split, is_train in (("train", True), ("test", False)):
                images, labels = cls._decode(cls._torchvision(root, download=False, **cls.arguments(is_train)))
                check_labels(labels, cls.classes, str(root))
                np.save(folder / f"{split}_images.npy", images)
                np.save(folder / f"{split}_labels.npy", labels)
            return {"num_classes": cls.classes, "mean": cls.mean, "std": cls.std}

        return stored(cls.files(root), {"name": cls.torchvision_name}, write)

    @classmethod
    def _download(cls, root: Path) -> None:
        try:
            root.mkdir(parents=True, exist_ok=True)
            cache_directory().mkdir(parents=True, exist_ok=True)
            with FileLock(str(cache_directory() / f"download-{cls.torchvision_name}.lock")):
                for is_train in (True, False):
                    cls._torchvision(root, download=True, **cls.arguments(is_train))
        except OSError as error:
            raise DataError(f"cannot download {cls.torchvision_name} to {root}: {error}") from error

    @classmethod
    def _torchvision(cls, root: Path, **arguments: Any) -> Any:
        try:
            from torchvision import datasets

            return getattr(datasets, cls.torchvision_name)(str(root), **arguments)
        except ImportError as error:
            raise DataError(f"{cls.torchvision_name} needs torchvision: pip install torchvision ({error})") from error
        # torchvision has no error of its own: a bad checksum is RuntimeError, a short file any of the others.
        except Exception as error:
            raise DataError(f"{root}: torchvision cannot read or fetch {cls.torchvision_name}: {error}") from error

    @classmethod
    def _decode(cls, dataset: Any) -> tuple[Images, Labels]:
        """Images [N, C, H, W] and labels of one of torchvision's sets."""
        images = np.asarray(dataset.data, dtype=np.uint8)
        images = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
        return np.ascontiguousarray(images), np.asarray(dataset.targets, dtype=np.int64)


CIFAR_SOURCE = "Krizhevsky 2009, Learning multiple layers of features from tiny images"


class Cifar(Torchvision):
    """What CIFAR-10 and CIFAR-100 share: 32x32 colour photographs, pad 4 and flip."""

    folder: ClassVar[str]
    parts: ClassVar[tuple[str, ...]]

    @classmethod
    def augmentation(cls, size: int, channels: int) -> Augmentation:
        """Pad 4 and flip, as published."""
        return Augmentation(pad=4, flip=True)

    @classmethod
    def files(cls, root: Path) -> list[Path]:
        """The pickled batches."""
        return [root / cls.folder / part for part in cls.parts]


@register("cifar100", kind="data")
class Cifar100(Cifar):
    """CIFAR-100: 60,000 colour images of 32x32 in 100 classes, normalised as RepDistiller and mdistiller do."""

    source = CIFAR_SOURCE
    torchvision_name = "CIFAR100"
    classes = 100
    mean = (0.5071, 0.4867, 0.4408)
    std = (0.2675, 0.2565, 0.2761)
    folder = "cifar-100-python"
    parts = ("train", "test", "meta")


@register("cifar10", kind="data")
class Cifar10(Cifar):
    """CIFAR-10: 60,000 colour images of 32x32 in 10 classes."""

    source = CIFAR_SOURCE
    torchvision_name = "CIFAR10"
    classes = 10
    mean = (0.4914, 0.4822, 0.4465)
    std = (0.2470, 0.2435, 0.2616)
    folder = "cifar-10-batches-py"
    parts = (*(f"data_batch_{part}" for part in range(1, 6)), "test_batch", "batches.meta")


@register("fashion_mnist", kind="data")
class FashionMnist(Torchvision):
    """Fashion-MNIST: 70,000 grey images of 28x28 in 10 classes, pad 2 and flip."""

    source = "Xiao, Rasul and Vollgraf 2017, arXiv 1708.07747"
    torchvision_name = "FashionMNIST"
    classes = 10
    mean = (0.2860,)
    std = (0.3530,)

    @classmethod
    def augmentation(cls, size: int, channels: int) -> Augmentation:
        """Pad 2 and flip."""
        return Augmentation(pad=2, flip=True)

    @classmethod
    def files(cls, root: Path) -> list[Path]:
        """The four unzipped files."""
        names = [f"{split}-{what}-ubyte" for split in ("train", "t10k") for what in ("images-idx3", "labels-idx1")]
        return [root / "FashionMNIST" / "raw" / name for name in names]


class ChannelFirst(Torchvision):
    """What STL-10 and SVHN share in torchvision: images [N, C, H, W], `labels`, and a named `split`."""

    @classmethod
    def arguments(cls, is_train: bool) -> dict[str, Any]:
        """The `split`."""
        return {"split": "train" if is_train else "test"}

    @classmethod
    def _decode(cls, dataset: Any) -> tuple[Images, Labels]:
        return np.ascontiguousarray(dataset.data), np.asarray(dataset.labels, dtype=np.int64)


@register("stl10", kind="data")
class Stl10(ChannelFirst):
    """STL-10, its labelled part: 5,000 training and 8,000 test images of 96x96 in colour, pad 12 and flip."""

    source = "Coates, Lee and Ng, AISTATS 2011"
    torchvision_name = "STL10"
    classes = 10
    mean = (0.4467, 0.4398, 0.4066)
    std = (0.2603, 0.2566, 0.2713)

    @classmethod
    def files(cls, root: Path) -> list[Path]:
        """Images and labels of both splits."""
        return [root / "stl10_binary" / f"{split}_{what}.bin" for split in ("train", "test") for what in ("X", "y")]

    @classmethod
    def unread(cls, root: Path) -> list[Path]:
        """The images without labels, whose checksum torchvision takes."""
        return [root / "stl10_binary" / "unlabeled_X.bin"]


@register("svhn", kind="data")
class Svhn(ChannelFirst):
    """SVHN: 73,257 training and 26,032 test house digits, 32x32 in colour, pad 4, no flip (`extra` is not used)."""

    source = "Netzer et al., NeurIPS Workshop on Deep Learning and Unsupervised Feature Learning 2011"
    torchvision_name = "SVHN"
    classes = 10
    mean = (0.4377, 0.4438, 0.4728)
    std = (0.1980, 0.2010, 0.1970)

    @classmethod
    def augmentation(cls, size: int, channels: int) -> Augmentation:
        """Pad 4; mirrored digits are other signs."""
        return Augmentation(pad=4, flip=False)

    @classmethod
    def files(cls, root: Path) -> list[Path]:
        """One MATLAB file for each split."""
        return [root / f"{split}_32x32.mat" for split in ("train", "test")]


def _root(settings: DataSettings) -> Path:
    return Path(settings.root or "~/data").expanduser()

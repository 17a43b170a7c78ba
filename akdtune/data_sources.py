"""The data sets by name: digits, torchvision's, and any Parquet files with an encoded image column.

A source says which settings belong to it, which files are missing, and how to read what is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from filelock import FileLock
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from akdtune.augmentation import Augmentation, Stream, random_order
from akdtune.data_store import Images, Labels, Stored, cache_directory, channel_statistics, stored
from akdtune.errors import AkdtuneError, DataError
from akdtune.parquet_images import Columns, check_labels, count_classes, decode_files
from akdtune.registry import Component, ComponentSettings, Kind, lookup, register


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

    name: str = Field(description="digits, cifar10, cifar100, fashion_mnist, parquet, or one that a plugin registers")
    root: str | None = Field(None, description="folder of the files; null: ~/data (parquet: the working directory)")
    download: bool = Field(False, description="fetch what is missing (torchvision's sets)")
    validation: NonNegativeInt = Field(description="images held out of the training pool, stratified by class")
    split_seed: int = Field(0, description="of the validation split and of limit_per_class")
    limit_per_class: PositiveInt | None = Field(None, description="size of the training pool, validation included")
    label_noise: LabelNoise | None = None
    pixel_noise: PixelNoise | None = None
    augmentation: Augmentation | None = Field(None, description="null: the data set's own")
    mean: list[float] | None = Field(None, description="per channel, scale 0..1; null: the data set's own")
    std: list[float] | None = Field(None, description="per channel, scale 0..1; null: the data set's own")
    train: str | list[str] | None = Field(None, description="parquet: files or patterns of the training pool")
    test: str | list[str] | None = Field(None, description="parquet: files or patterns of the test set")
    image_column: str = Field("image", description="parquet: encoded images, bytes or {bytes, path}")
    label_column: str = Field("label", description="parquet: integers from 0")
    num_classes: PositiveInt | None = Field(None, description="parquet: null: the largest training label + 1")

    @model_validator(mode="after")
    def _belongs_to_the_data_set(self) -> DataSettings:
        try:
            source: type[Source] = lookup("data", self.name)
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
        return self


_OWNED_SETTINGS = frozenset({"root", "download", "train", "test", "image_column", "label_column", "num_classes"})
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
    def read(cls, settings: DataSettings) -> Stored:
        """The stored images and labels.

        Raises:
            DataError: naming the file that is missing or wrong.
        """
        raise NotImplementedError


@register("digits", kind="data")
class Digits(Source):
    """scikit-learn's 1,797 handwritten digits, 8x8, grey: 90 images a class are the training pool, the rest test."""

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
    def missing(cls, settings: DataSettings) -> list[str]:
        """The files that are not under the root yet."""
        absent = [str(file) for file in cls.files(_root(settings)) if not file.exists()]
        return [f"{name} (will be downloaded)" for name in absent] if settings.download else absent

    @classmethod
    def read(cls, settings: DataSettings) -> Stored:
        """Downloads what is missing, where allowed, and reads through torchvision once."""
        root = _root(settings)
        absent = [file for file in cls.files(root) if not file.exists()]
        if absent and not settings.download:
            raise DataError(
                f"{absent[0]}: no such file; data.root (now {root}) names the folder of {cls.torchvision_name}, "
                "and data.download=true fetches it"
            )
        if absent:
            cls._download(root)

        def write(folder: Path) -> Mapping[str, Any]:
            for split, is_train in (("train", True), ("test", False)):
                images, labels = cls._decode(cls._torchvision(root, train=is_train, download=False))
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
                    cls._torchvision(root, train=is_train, download=True)
        except OSError as error:
            raise DataError(f"cannot download {cls.torchvision_name} to {root}: {error}") from error

    @classmethod
    def _torchvision(cls, root: Path, **arguments: bool) -> Any:
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
        images = np.asarray(dataset.data, dtype=np.uint8)
        images = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
        return np.ascontiguousarray(images), np.asarray(dataset.targets, dtype=np.int64)


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
    """CIFAR-100 (Krizhevsky 2009), normalised as RepDistiller and mdistiller do."""

    torchvision_name = "CIFAR100"
    classes = 100
    mean = (0.5071, 0.4867, 0.4408)
    std = (0.2675, 0.2565, 0.2761)
    folder = "cifar-100-python"
    parts = ("train", "test", "meta")


@register("cifar10", kind="data")
class Cifar10(Cifar):
    """CIFAR-10 (Krizhevsky 2009)."""

    torchvision_name = "CIFAR10"
    classes = 10
    mean = (0.4914, 0.4822, 0.4465)
    std = (0.2470, 0.2435, 0.2616)
    folder = "cifar-10-batches-py"
    parts = (*(f"data_batch_{part}" for part in range(1, 6)), "test_batch", "batches.meta")


@register("fashion_mnist", kind="data")
class FashionMnist(Torchvision):
    """Fashion-MNIST (Xiao et al. 2017, arXiv 1708.07747), 28x28, grey, pad 2 and flip."""

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


@register("parquet", kind="data")
class Parquet(Source):
    """Any Parquet files with an encoded image column and an integer label column.

    Pad an eighth of the size and flip colour images, unless `augmentation` says otherwise; mean and standard
    deviation are those of the training files, unless `mean` and `std` are set.
    """

    own_settings = frozenset({"root", "train", "test", "image_column", "label_column", "num_classes"})
    required_settings = ("train", "test")

    @classmethod
    def missing(cls, settings: DataSettings) -> list[str]:
        """The names and patterns under `train` and `test` that match no file."""
        return [pattern for role in ("train", "test") for pattern, files in _matches(settings, role) if not files]

    @classmethod
    def read(cls, settings: DataSettings) -> Stored:
        """Streams the files once into a memory map; later starts open that."""
        files: dict[str, list[Path]] = {}
        for role in ("train", "test"):
            matches = _matches(settings, role)
            for pattern, found in matches:
                if not found:
                    raise DataError(f"data.{role}: no file matches {pattern}")
            files[role] = list(dict.fromkeys(file for _, found in matches for file in found))

        def write(folder: Path) -> Mapping[str, Any]:
            columns = Columns(settings.image_column, settings.label_column)
            shape: tuple[int, ...] | None = None
            num_classes = settings.num_classes
            for role in ("train", "test"):
                images, labels = decode_files(files[role], columns, folder / f"{role}_images.npy", shape, num_classes)
                np.save(folder / f"{role}_labels.npy", labels)
                if role == "train":
                    shape, num_classes = images.shape[1:], num_classes or count_classes(labels, files[role])
                    mean, std = channel_statistics(images)
            return {"num_classes": num_classes, "mean": mean, "std": std}

        options = {
            "name": "parquet",
            "files": [len(files["train"]), len(files["test"])],
            "columns": [settings.image_column, settings.label_column],
            "num_classes": settings.num_classes,
        }
        return stored([*files["train"], *files["test"]], options, write)


def _root(settings: DataSettings) -> Path:
    return Path(settings.root or "~/data").expanduser()


def _matches(settings: DataSettings, role: str) -> list[tuple[str, list[Path]]]:
    """Each pattern under `train` or `test`, made absolute, with the files it matches, sorted by name."""
    value = getattr(settings, role)
    base = Path(settings.root).expanduser() if settings.root else Path.cwd()
    found = []
    for pattern in [value] if isinstance(value, str) else value or []:
        path = base / Path(pattern).expanduser()
        plain = next((i for i, part in enumerate(path.parts) if set(part) & set("*?[")), len(path.parts) - 1)
        files = [path] if path.is_file() else sorted(Path(*path.parts[:plain]).glob("/".join(path.parts[plain:])))
        found.append((str(path), [file for file in files if file.is_file()]))
    return found

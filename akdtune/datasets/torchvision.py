"""Data sets that torchvision reads and downloads: CIFAR, Fashion-MNIST, STL-10, SVHN."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from filelock import FileLock
from typing_extensions import override

from akdtune.data.rehearsal import Shape
from akdtune.data.source import Source
from akdtune.data.store import Images, Labels, Stored, stored
from akdtune.errors import DataError
from akdtune.folders import cache_directory, here
from akdtune.registry import register
from akdtune.settings.data import Augmentation, DataSettings


class Torchvision(Source):
    """A data set that torchvision reads and downloads."""

    own_settings = frozenset({"root", "download"})
    torchvision_name: ClassVar[str]
    classes: ClassVar[int]
    size: ClassVar[int]
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
    @override
    def shape(cls, settings: DataSettings) -> Shape:
        return Shape(len(cls.mean), cls.size, cls.classes)

    @classmethod
    @override
    def missing(cls, settings: DataSettings) -> list[str]:
        root = _root(settings)
        absent = [str(file) for file in [*cls.files(root), *cls.unread(root)] if not file.exists()]
        return [f"{name} (will be downloaded)" for name in absent] if settings.download else absent

    @classmethod
    @override
    def class_count(cls, settings: DataSettings) -> int:
        return cls.classes

    @classmethod
    @override
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
                _check_labels(labels, cls.classes, root)
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
            from torchvision import datasets  # late: it is slow to load, and few trials need it

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
    @override
    def augmentation(cls, size: int, channels: int) -> Augmentation:
        return Augmentation(pad=4, flip=True)

    @classmethod
    @override
    def files(cls, root: Path) -> list[Path]:
        return [root / cls.folder / part for part in cls.parts]


@register("cifar100", kind="data")
class Cifar100(Cifar):
    """CIFAR-100: 60,000 colour images of 32x32 in 100 classes, normalised as RepDistiller and mdistiller do."""

    source = CIFAR_SOURCE
    torchvision_name = "CIFAR100"
    classes = 100
    size = 32
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
    size = 32
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
    size = 28
    mean = (0.2860,)
    std = (0.3530,)

    @classmethod
    @override
    def augmentation(cls, size: int, channels: int) -> Augmentation:
        return Augmentation(pad=2, flip=True)

    @classmethod
    @override
    def files(cls, root: Path) -> list[Path]:
        names = [f"{split}-{what}-ubyte" for split in ("train", "t10k") for what in ("images-idx3", "labels-idx1")]
        return [root / "FashionMNIST" / "raw" / name for name in names]


class ChannelFirst(Torchvision):
    """What STL-10 and SVHN share in torchvision: images [N, C, H, W], `labels`, and a named `split`."""

    @classmethod
    @override
    def arguments(cls, is_train: bool) -> dict[str, Any]:
        return {"split": "train" if is_train else "test"}

    @classmethod
    @override
    def _decode(cls, dataset: Any) -> tuple[Images, Labels]:
        return np.ascontiguousarray(dataset.data), np.asarray(dataset.labels, dtype=np.int64)


@register("stl10", kind="data")
class Stl10(ChannelFirst):
    """STL-10, its labelled part: 5,000 training and 8,000 test images of 96x96 in colour, pad 12 and flip."""

    source = "Coates, Lee and Ng, AISTATS 2011"
    torchvision_name = "STL10"
    classes = 10
    size = 96
    mean = (0.4467, 0.4398, 0.4066)
    std = (0.2603, 0.2566, 0.2713)

    @classmethod
    @override
    def files(cls, root: Path) -> list[Path]:
        return [root / "stl10_binary" / f"{split}_{what}.bin" for split in ("train", "test") for what in ("X", "y")]

    @classmethod
    @override
    def unread(cls, root: Path) -> list[Path]:
        """The images without labels, whose checksum torchvision takes."""
        return [root / "stl10_binary" / "unlabeled_X.bin"]


@register("svhn", kind="data")
class Svhn(ChannelFirst):
    """SVHN: 73,257 training and 26,032 test house digits, 32x32 in colour, pad 4, no flip (`extra` is not used)."""

    source = "Netzer et al., NeurIPS Workshop on Deep Learning and Unsupervised Feature Learning 2011"
    torchvision_name = "SVHN"
    classes = 10
    size = 32
    mean = (0.4377, 0.4438, 0.4728)
    std = (0.1980, 0.2010, 0.1970)

    @classmethod
    @override
    def augmentation(cls, size: int, channels: int) -> Augmentation:
        """Pad 4; mirrored digits are other signs."""
        return Augmentation(pad=4, flip=False)

    @classmethod
    @override
    def files(cls, root: Path) -> list[Path]:
        return [root / f"{split}_32x32.mat" for split in ("train", "test")]


def _check_labels(labels: Labels, num_classes: int, root: Path) -> None:
    wrong = (labels < 0) | (labels >= num_classes)
    if wrong.any():
        raise DataError(f"{root}: label {labels[wrong][0]} is out of range (allowed: 0..{num_classes - 1})")


def _root(settings: DataSettings) -> Path:
    return here(settings.root or "~/data")

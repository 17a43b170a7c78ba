"""Data sets of image files: a folder for each class, Tiny-ImageNet, ImageNet."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from akdtune.data.decoding import Square, open_image, pixels, squared
from akdtune.data.rehearsal import Shape
from akdtune.data.source import Source
from akdtune.data.store import (
    Images,
    Labels,
    Stored,
    channel_statistics,
    file_stamp,
    kept_folder,
    new_memory_map,
    read_meta,
    stored,
)
from akdtune.data.streaming import EncodedPixels, Streamed, sampled_statistics, spread, too_large
from akdtune.errors import DataError, unknown_name
from akdtune.registry import register
from akdtune.settings.data import STREAMING_SETTINGS, Augmentation, DataSettings, RandomResizedCrop

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff"})
HEAD_BYTES = 65536
"""How much of a file goes into the content hash of a set that streams."""


@dataclass(frozen=True)
class ImageFiles:
    """Image files with their labels.

    Attributes:
        root: folder that the names are relative to.
        names_N: as bytes; an array, because it goes to other processes.
        labels_N: int64.
        stamps_N2: size in bytes and modification time of each file, int64.
    """

    root: Path
    names_N: npt.NDArray[np.bytes_]
    labels_N: Labels
    stamps_N2: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.names_N)

    def at(self, row: int) -> tuple[Path, str]:
        """One file, twice: it is its own name in a message."""
        path = self.root / os.fsdecode(bytes(self.names_N[row]))
        return path, str(path)

    def facts(self) -> list[Any]:
        """Names, labels, sizes and times of all files, hashed."""
        names = b"\0".join(self.names_N.tolist())
        parts = (names, self.labels_N.tobytes(), np.ascontiguousarray(self.stamps_N2).tobytes())
        return [str(self.root.resolve()), *(hashlib.sha256(part).hexdigest() for part in parts)]

    def named(self) -> str:
        """Hash of names and labels."""
        return hashlib.sha256(b"\0".join(self.names_N.tolist()) + self.labels_N.tobytes()).hexdigest()


def class_names(folder: Path) -> list[str]:
    """The class folders of a training folder, sorted; a class is numbered by its place here.

    Raises:
        DataError: naming the folder that is missing or empty.
    """
    names = sorted(entry.name for entry in _entries(folder) if entry.is_dir())
    if not names:
        raise DataError(f"{folder}: no class folders in it; expected one folder of images for each class")
    return names


def listed(folder: Path, classes: Sequence[str], inner: str = "") -> ImageFiles:
    """The image files of a folder with one folder for each class, in the order of classes and names.

    Args:
        folder: e.g. `root/train`.
        classes: folder names by label; those that are not there have no images.
        inner: folder within each class folder that holds the files; the class folder itself where it is missing.

    Raises:
        DataError: naming a folder that is missing, empty, or of an unknown class.
    """
    present = class_names(folder)
    for name in present:
        if name not in classes:
            raise DataError(f"{folder / name}: {unknown_name('class', name, classes)}")
    rows: list[tuple[bytes, int, int, int]] = []
    for label, name in enumerate(classes):
        if name not in present:
            continue
        inside = folder / name / inner
        inside = inside if inside.is_dir() else folder / name
        files = sorted((entry for entry in _entries(inside) if _is_image(entry.name)), key=lambda entry: entry.name)
        if not files:
            raise DataError(f"{inside}: no image files in it ({', '.join(sorted(SUFFIXES))})")
        base = inside.relative_to(folder)
        for entry in files:
            status = entry.stat()
            rows.append((os.fsencode(str(base / entry.name)), label, status.st_size, status.st_mtime_ns))
    return _files(folder, rows)


def annotated(folder: Path, annotations: Path, classes: Sequence[str]) -> ImageFiles:
    """The files that a table names (file, tab, class, tab, anything), as in Tiny ImageNet's validation folder.

    Raises:
        DataError: naming the file that is missing, or the line that is wrong.
    """
    labels = {name: label for label, name in enumerate(classes)}
    rows: list[tuple[bytes, int, int, int]] = []
    for number, line in enumerate(annotations.read_text(encoding="utf-8").splitlines(), start=1):
        name, _, rest = line.partition("\t")
        of_class = rest.partition("\t")[0]
        if of_class not in labels:
            raise DataError(f"{annotations}:{number}: class '{of_class}' is not among the training folders")
        try:
            rows.append((os.fsencode(name), labels[of_class], *file_stamp(folder / name)))
        except OSError as error:
            raise DataError(f"{folder / name}: no such file, but {annotations}:{number} names it") from error
    if not rows:
        raise DataError(f"{annotations}: no lines")
    return _files(folder, sorted(rows))


def decode_folder(files: ImageFiles, target: Path, square: Square) -> Images:
    """All images in one memory map, uint8 [N, 3, size, size].

    Raises:
        DataError: naming the file that cannot be read.
    """
    images = new_memory_map(target, (len(files), 3, square.size, square.size))
    for row in range(len(files)):
        path, where = files.at(row)
        images[row] = pixels(squared(open_image(path, where, channels=3), square))
    return images


def streamed_hash(files: Mapping[str, ImageFiles], rows: Mapping[str, Sequence[int]], options: Sequence[Any]) -> str:
    """Content hash of a set that is never read as a whole, 32 hex digits.

    Of all names, labels and sizes, and of the first 64 KiB of some of the files; not of modification times.

    Args:
        files: by role.
        rows: the files whose contents are read, by role.
        options: what else changes the images, as plain text.
    """
    digest = hashlib.sha256(repr(list(options)).encode())
    for role, images in files.items():
        digest.update(f"/{role}/{images.named()}/".encode())
        digest.update(np.ascontiguousarray(images.stamps_N2[:, 0]).tobytes())
        for row in rows[role]:
            with images.at(row)[0].open("rb") as opened:
                digest.update(hashlib.sha256(opened.read(HEAD_BYTES)).digest())
    return digest.hexdigest()[:32]


def _files(root: Path, rows: Sequence[tuple[bytes, int, int, int]]) -> ImageFiles:
    numbers = np.asarray([row[1:] for row in rows], dtype=np.int64)
    return ImageFiles(root, np.asarray([row[0] for row in rows]), numbers[:, 0].copy(), numbers[:, 1:].copy())


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(f"{folder}: no such folder, or it cannot be read") from error


def _is_image(name: str) -> bool:
    return f".{name.rpartition('.')[2].lower()}" in SUFFIXES


class FolderSource(Source):
    """A training folder with one folder for each class, and a test folder; three channels always.

    Decoded once into a memory map, or, above `memory_mib`, read file by file. The content hash of a set that streams
    is taken of all names, labels and sizes and of the first 64 KiB of at most 1,024 files of each split.
    """

    own_settings = STREAMING_SETTINGS | {"root"}
    default_root: ClassVar[str | None] = None
    default_size: ClassVar[int | None] = None
    classes: ClassVar[int | None] = None
    mean: ClassVar[tuple[float, ...] | None] = None
    std: ClassVar[tuple[float, ...] | None] = None

    @classmethod
    def square(cls, size: int) -> Square:
        """What images become that are not augmented: the shorter side is resized to the size itself."""
        return Square(size, size)

    @classmethod
    def train_files(cls, root: Path, classes: list[str]) -> ImageFiles:
        """The training pool."""
        return listed(root / "train", classes)

    @classmethod
    def test_folder(cls, root: Path) -> Path:
        """Where the test set lies."""
        return root / "val"

    @classmethod
    def test_files(cls, root: Path, classes: list[str]) -> ImageFiles:
        """The test set."""
        return listed(cls.test_folder(root), classes)

    @classmethod
    @override
    def shape(cls, settings: DataSettings) -> Shape:
        guessed = () if cls.classes else ("num_classes",)
        return Shape(3, settings.size or cls.default_size or 32, cls.classes or 10, guessed)

    @classmethod
    @override
    def missing(cls, settings: DataSettings) -> list[str]:
        root = cls._folder(settings)
        return [str(folder) for folder in (root / "train", cls.test_folder(root)) if not folder.is_dir()]

    @classmethod
    @override
    def class_count(cls, settings: DataSettings) -> int | None:
        """The class folders, which `read` counts as well."""
        return None if cls.missing(settings) else len(class_names(cls._folder(settings) / "train"))

    @classmethod
    @override
    def read(cls, settings: DataSettings) -> Stored | Streamed:
        """Lists the files, and decodes them once unless they are too many."""
        root = cls._folder(settings)
        if missing := cls.missing(settings):
            raise DataError(f"{missing[0]}: no such folder; data.root (now {root}) names the folder that holds train")
        size = settings.size or cls.default_size
        assert size is not None, "settings ask for it where there is no default"
        classes, square = class_names(root / "train"), cls.square(size)
        files = {"train": cls.train_files(root, classes), "test": cls.test_files(root, classes)}
        if too_large(settings.stream, settings.memory_mib, sum(map(len, files.values())) * 3 * size**2):
            return cls._streamed(files, len(classes), square)

        def write(folder: Path) -> Mapping[str, Any]:
            for role, of_role in files.items():
                images = decode_folder(of_role, folder / f"{role}_images.npy", square)
                np.save(folder / f"{role}_labels.npy", of_role.labels_N)
                if role == "train":
                    mean, std = _published(cls.mean, cls.std) or channel_statistics(images)
            return {"num_classes": len(classes), "mean": mean, "std": std}

        every = [of_role.at(row)[0] for of_role in files.values() for row in range(len(of_role))]
        options = {"square": list(square), "classes": len(classes), "mean": cls.mean, "std": cls.std}
        named = [of_role.named() for of_role in files.values()]
        return stored(every, {**options, "files": named}, write, [of_role.facts() for of_role in files.values()])

    @classmethod
    def _streamed(cls, files: Mapping[str, ImageFiles], num_classes: int, square: Square) -> Streamed:
        train, test = files["train"], files["test"]
        options = ["folder", num_classes, *square]

        def build(folder: Path, key: str) -> Mapping[str, Any]:
            statistics = _published(cls.mean, cls.std) or sampled_statistics(EncodedPixels(train, 3, square))
            rows = {role: spread(len(of_role)) for role, of_role in files.items()}
            return {"statistics": statistics, "content_hash": streamed_hash(files, rows, options)}

        # Sizes and times are all that says whether files are the same as last time: too many to read.
        facts = [of_role.facts() for of_role in files.values()]
        named = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
        kept = read_meta(kept_folder([], {"streamed": named, "options": options, "mean": cls.mean}, build, facts))
        mean, std = (tuple(part) for part in kept["statistics"])
        return Streamed(
            train=train,
            train_labels=train.labels_N,
            test=test,
            test_labels=test.labels_N,
            num_classes=num_classes,
            mean=mean,
            std=std,
            content_hash=str(kept["content_hash"]),
            channels=3,
            square=square,
        )

    @classmethod
    def _folder(cls, settings: DataSettings) -> Path:
        return Path(settings.root or cls.default_root or ".").expanduser()


@register("tiny_imagenet", kind="data")
class TinyImagenet(FolderSource):
    """Tiny ImageNet: 100,000 training and 10,000 validation images (the test set here), 64x64, 200 classes.

    As unpacked: `train/<wnid>/images/*.JPEG`, `val/images` with `val/val_annotations.txt`; also `val/<wnid>/*.JPEG`.
    Pad 8 and flip; mean and standard deviation as in mdistiller.
    """

    source = "Le and Yang 2015, Tiny ImageNet visual recognition challenge, Stanford CS 231N"
    default_root = "~/data/tiny-imagenet-200"
    default_size = 64
    classes = 200
    mean = (0.4802, 0.4481, 0.3975)
    std = (0.2302, 0.2265, 0.2262)

    @classmethod
    @override
    def train_files(cls, root: Path, classes: list[str]) -> ImageFiles:
        """The files in each class' `images` folder."""
        return listed(root / "train", classes, inner="images")

    @classmethod
    @override
    def test_files(cls, root: Path, classes: list[str]) -> ImageFiles:
        """The validation files, by their table where there is one."""
        folder = root / "val"
        table = folder / "val_annotations.txt"
        if table.is_file():
            return annotated(folder / "images", table, classes)
        if (folder / "images").is_dir():
            raise DataError(f"{table}: no such file; it names the class of each file in {folder / 'images'}")
        return listed(folder, classes, inner="images")


@register("imagenet", kind="data")
class Imagenet(FolderSource):
    """ImageNet (ILSVRC 2012): 1,281,167 training and 50,000 validation images (the test set here), 1,000 classes.

    As usual: `train/<wnid>/*.JPEG` and `val/<wnid>/*.JPEG`. Trained on random resized crops, mirrored; judged on the
    middle 224 pixels (`size`) of images whose shorter side is resized to 256 (256/224 of `size`). It streams by
    default: decoded to 224 pixels it takes 187 GiB.
    """

    source = "Russakovsky et al., IJCV 2015, arXiv 1409.0575"
    default_root = "~/data/imagenet"
    default_size = 224
    classes = 1000
    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)

    @classmethod
    @override
    def augmentation(cls, size: int, channels: int) -> Augmentation:
        return Augmentation(pad=0, flip=True, random_resized_crop=RandomResizedCrop())

    @classmethod
    @override
    def square(cls, size: int) -> Square:
        """The middle of an image whose shorter side is 256/224 of it."""
        return Square(size, round(size * 256 / 224))


@register("image_folder", kind="data")
class ImageFolder(FolderSource):
    """Any folder of image files: `train/<class>/*`, and `test/<class>/*` or `val/<class>/*` as the test set.

    `size` in pixels is required: the shorter side is resized to it, and the middle cut out. Pad an eighth of the size
    and flip, unless `augmentation` says otherwise. Mean and standard deviation are those of the training images (of
    1,024 of them where the set streams). Grey images become colour images.
    """

    own_settings = FolderSource.own_settings
    required_settings = ("root", "size")

    @classmethod
    @override
    def test_folder(cls, root: Path) -> Path:
        """`test` where it is there, else `val`."""
        return root / "test" if (root / "test").is_dir() else root / "val"


def _published(
    mean: tuple[float, ...] | None, std: tuple[float, ...] | None
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    return None if mean is None or std is None else (mean, std)

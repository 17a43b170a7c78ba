"""Data sets of image files: a folder for each class, Tiny-ImageNet, ImageNet."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from typing_extensions import override

from akdtune import progress
from akdtune.data.decoding import Seen, Square, glance, open_image, pixels, squared
from akdtune.data.rehearsal import Shape
from akdtune.data.source import Source
from akdtune.data.store import Images, Stored, channel_statistics, kept, new_memory_map, read_meta, stored
from akdtune.data.streaming import EncodedPixels, Streamed, sampled_statistics, spread, too_large
from akdtune.datasets._image_files import (
    ImageFiles,
    LeftOut,
    annotated,
    class_names,
    held_out,
    is_folder,
    listed,
    named_folders,
    refuse_nested,
    refuse_shared,
)
from akdtune.errors import DataError, printable
from akdtune.folders import here
from akdtune.registry import register
from akdtune.settings.data import STREAMING_SETTINGS, Augmentation, DataSettings, RandomResizedCrop

HEAD_BYTES = 65536
"""How much of a file goes into the content hash of a set that streams."""

VALIDATION_NAMES = ("val", "valid", "validation", "dev")
"""Folders that hold the test set where there is no other: validation images are taken from the training pool."""


def decode_folder(files: ImageFiles, target: Path, square: Square, seen: Seen) -> Images:
    """All images in one memory map, uint8 [N, 3, size, size]; `seen` counts what is worth saying about them.

    Raises:
        DataError: naming the file that cannot be read.
    """
    images = new_memory_map(target, (len(files), 3, square.size, square.size))
    for row in range(len(files)):
        path, where = files.at(row)
        images[row] = pixels(squared(open_image(path, where, 3, seen), square))
        progress.at(row + 1, len(files))
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


@dataclass(frozen=True)
class Listing:
    """What a source of image files holds.

    Attributes:
        classes: names by label.
        files: by role, `train` and `test`.
        notes: sentences on what was left out, or is odd.
    """

    classes: list[str]
    files: dict[str, ImageFiles]
    notes: list[str]

    @property
    def names(self) -> tuple[str, ...]:
        """The classes as they are printed and written."""
        return tuple(map(printable, self.classes))

    @property
    def folders(self) -> list[Path]:
        """Where training and test folders lie."""
        return [files.root.parent for files in self.files.values()]


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

    test_names: ClassVar[tuple[str, ...]] = VALIDATION_NAMES

    @classmethod
    def square(cls, size: int) -> Square:
        """What images become that are not augmented: the shorter side is resized to the size itself."""
        return Square(size, size)

    @classmethod
    def train_folder(cls, settings: DataSettings) -> Path:
        """Where the class folders of the training pool lie."""
        root = cls._folder(settings)
        return next(iter(named_folders(root, ("train",))), root / "train")

    @classmethod
    def test_folder(cls, root: Path) -> Path:
        """Where the test set lies: the first of the usual names that is there and holds folders."""
        present = named_folders(root, cls.test_names)
        with_classes = (path for path in present if any(entry.is_dir() for entry in path.iterdir()))
        return next(with_classes, present[0] if present else root / cls.test_names[0])

    @classmethod
    def train_files(cls, folder: Path, classes: list[str], left_out: LeftOut) -> ImageFiles:
        """The training pool."""
        return listed(folder, classes, left_out=left_out)

    @classmethod
    def test_files(cls, root: Path, classes: list[str], left_out: LeftOut) -> ImageFiles:
        """The test set; classes may have no image in it."""
        return listed(cls.test_folder(root), classes, may_be_empty=True, left_out=left_out)

    @classmethod
    @override
    def shape(cls, settings: DataSettings) -> Shape:
        guessed = () if cls.classes else ("num_classes",)
        return Shape(3, settings.size or cls.default_size or 32, cls.classes or 10, guessed)

    @classmethod
    @override
    def missing(cls, settings: DataSettings) -> list[str]:
        folders = (cls.train_folder(settings), cls.test_folder(cls._folder(settings)))
        return [str(folder) for folder in folders if not is_folder(folder)]

    @classmethod
    @override
    def class_count(cls, settings: DataSettings) -> int | None:
        """The class folders, which `read` counts as well."""
        return None if cls.missing(settings) else len(class_names(cls.train_folder(settings)))

    @classmethod
    @override
    def read(cls, settings: DataSettings) -> Stored | Streamed:
        """Lists the files, and decodes them once unless they are too many."""
        if missing := cls.missing(settings):
            raise DataError(f"{missing[0].partition(' (or ')[0]}: no such folder; {cls.layout(settings)}")
        size = settings.size or cls.default_size
        assert size is not None, "settings ask for it where there is no default"
        listing, square = cls.listing(settings), cls.square(size)
        refuse_shared(listing.files["train"], listing.files["test"])
        of_all = sum(map(len, listing.files.values()))
        if too_large(settings.stream, settings.memory_mib, of_all * 3 * size**2):
            return cls._streamed(listing, square)
        return cls._decoded(listing, square)

    @classmethod
    def layout(cls, settings: DataSettings) -> str:
        """What is expected below `data.root`, in words."""
        names = f"'{cls.test_names[0]}' (or {', '.join(repr(name) for name in cls.test_names[1:])})"
        return f"data.root (now {cls._folder(settings)}) names the folder that holds 'train' and {names}"

    @classmethod
    def listing(cls, settings: DataSettings) -> Listing:
        """All files by role."""
        root, folder, left_out = cls._folder(settings), cls.train_folder(settings), LeftOut()
        refuse_nested(folder, cls.test_folder(root))
        classes = class_names(folder)
        files = {
            "train": cls.train_files(folder, classes, left_out),
            "test": cls.test_files(root, classes, left_out),
        }
        return Listing(classes, files, [*left_out.sentences(), *_untested(files["test"], classes)])

    @classmethod
    def _decoded(cls, listing: Listing, square: Square) -> Stored:
        files, classes = listing.files, listing.classes

        def write(folder: Path) -> Mapping[str, Any]:
            seen = Seen()
            for role, of_role in files.items():
                images = decode_folder(of_role, folder / f"{role}_images.npy", square, seen)
                np.save(folder / f"{role}_labels.npy", of_role.labels_N)
                if role == "train":
                    mean, std = _published(cls.mean, cls.std) or channel_statistics(images)
            return {"num_classes": len(classes), "mean": mean, "std": std, "notes": seen.sentences(listing.folders)}

        every = [of_role.at(row)[0] for of_role in files.values() for row in range(len(of_role))]
        options = {"square": list(square), "classes": len(classes), "mean": cls.mean, "std": cls.std}
        named = [of_role.named() for of_role in files.values()]
        found = stored(every, {**options, "files": named}, write, [of_role.facts() for of_role in files.values()])
        return replace(found, classes=listing.names, notes=(*listing.notes, *found.notes))

    @classmethod
    def _streamed(cls, listing: Listing, square: Square) -> Streamed:
        train, test = listing.files["train"], listing.files["test"]
        options = ["folder", len(listing.classes), *square]

        def build(folder: Path, contents: str) -> Mapping[str, Any]:
            statistics = _published(cls.mean, cls.std) or sampled_statistics(EncodedPixels(train, 3, square))
            rows = {role: spread(len(of_role)) for role, of_role in listing.files.items()}
            seen = Seen()
            for role, of_role in listing.files.items():
                for row in rows[role]:
                    glance(*of_role.at(row), seen)
            facts = [*options, "scaled to 8 bits"] if seen.deep else options  # what those became was something else
            hashed = streamed_hash(listing.files, rows, facts)
            return {"statistics": statistics, "content_hash": hashed, "notes": seen.sentences(listing.folders)}

        # Sizes and times are all that says whether files are the same as last time: too many to read.
        facts = [of_role.facts() for of_role in listing.files.values()]
        named = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
        keyed = {"streamed": named, "options": options, "mean": cls.mean}
        known = kept([], keyed, build, read_meta, facts)
        mean, std = (tuple(part) for part in known["statistics"])
        return Streamed(
            train=train,
            train_labels=train.labels_N,
            test=test,
            test_labels=test.labels_N,
            num_classes=len(listing.classes),
            mean=mean,
            std=std,
            content_hash=str(known["content_hash"]),
            channels=3,
            square=square,
            classes=listing.names,
            notes=(*listing.notes, *known["notes"]),
        )

    @classmethod
    def _folder(cls, settings: DataSettings) -> Path:
        return here(settings.root or cls.default_root or ".")


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
    def train_files(cls, folder: Path, classes: list[str], left_out: LeftOut) -> ImageFiles:
        """The files in each class' `images` folder."""
        return listed(folder, classes, inner="images", left_out=left_out)

    @classmethod
    @override
    def test_files(cls, root: Path, classes: list[str], left_out: LeftOut) -> ImageFiles:
        """The validation files, by their table where there is one."""
        folder = cls.test_folder(root)
        table = folder / "val_annotations.txt"
        if table.is_file():
            return annotated(folder / "images", table, classes)
        if (folder / "images").is_dir():
            raise DataError(f"{table}: no such file; it names the class of each file in {folder / 'images'}")
        return listed(folder, classes, inner="images", may_be_empty=True, left_out=left_out)


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

    The test set may be called `test`, `eval`, `val`, `valid`, `validation` or `dev`. With `split: 0.2` it is a fifth
    of each class instead, of `train/<class>/*` or of a folder that holds nothing but class folders. `size` in pixels
    is required: the shorter side is resized to it, and the middle cut out. Pad an eighth of the size and flip, unless
    `augmentation` says otherwise. Mean and standard deviation are those of the training images (of 1,024 of them
    where the set streams). Grey images become colour images.
    """

    own_settings = FolderSource.own_settings | {"split"}
    required_settings = ("root", "size")
    test_names = ("test", "eval", *VALIDATION_NAMES)

    @classmethod
    @override
    def train_folder(cls, settings: DataSettings) -> Path:
        """`train`, or the root itself where it is split and has none."""
        folder = super().train_folder(settings)
        return folder if settings.split is None or is_folder(folder) else cls._folder(settings)

    @classmethod
    @override
    def missing(cls, settings: DataSettings) -> list[str]:
        folder, root = cls.train_folder(settings), cls._folder(settings)
        if settings.split is not None:
            return [] if is_folder(folder) else [str(folder)]
        absent, whole = super().missing(settings), folder if is_folder(folder) else root
        if not absent or not is_folder(whole):
            return absent
        return [f"{absent[0]} (or data.split=0.2, a fifth of each class in {whole} as test set)", *absent[1:]]

    @classmethod
    @override
    def layout(cls, settings: DataSettings) -> str:
        return f"{super().layout(settings)}; data.split=0.2 takes a fifth of each class instead of a test folder"

    @classmethod
    @override
    def listing(cls, settings: DataSettings) -> Listing:
        """All files by role; folders that lie beside them and are not used are named."""
        root, folder = cls._folder(settings), cls.train_folder(settings)
        beside = named_folders(root, cls.test_names)
        if settings.split is None:
            whole, used = super().listing(settings), cls.test_folder(root)
            how = "(validation images are taken from the training pool: data.validation)"
            unused = [f"not used: {path}, beside the test set {used} {how}" for path in beside if path != used]
            return replace(whole, notes=[*whole.notes, *unused])
        if beside:
            raise DataError(f"{beside[0]}: a test folder is there; leave out data.split (now {settings.split:g})")
        left_out, classes = LeftOut(), class_names(folder)
        train, test = held_out(listed(folder, classes, left_out=left_out), classes, settings.split)
        return Listing(classes, {"train": train, "test": test}, left_out.sentences())


def _untested(test: ImageFiles, classes: Sequence[str]) -> list[str]:
    """A sentence where classes have no test image."""
    present = set(test.labels_N.tolist())
    absent = [name for label, name in enumerate(classes) if label not in present]
    if not absent:
        return []
    return [f"{test.root}: no test images of {len(absent)} of {len(classes)} classes (e.g. '{printable(absent[0])}')"]


def _published(
    mean: tuple[float, ...] | None, std: tuple[float, ...] | None
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    return None if mean is None or std is None else (mean, std)

"""Data sets in Parquet files: encoded images and labels in columns, of one size or of many.

Shapes: N images, C, H, W.
"""

from __future__ import annotations

import bisect
import filecmp
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from akdtune import progress
from akdtune.data.decoding import Seen, Square, described, glance, open_image, pixels, squared
from akdtune.data.source import Source
from akdtune.data.store import (
    Images,
    Stored,
    channel_statistics,
    kept,
    new_memory_map,
    read_meta,
    remembered,
    stored,
)
from akdtune.data.streaming import EncodedPixels, Streamed, sampled_statistics, too_large
from akdtune.datasets._class_labels import Classes
from akdtune.datasets._file_patterns import files_of, matches, refuse_shared
from akdtune.datasets._parquet_columns import ImageColumns, Row, count_rows, outside, read_labels, rows
from akdtune.errors import DataError
from akdtune.registry import register
from akdtune.settings.data import STREAMING_SETTINGS, DataSettings


class Probe(NamedTuple):
    """What is found out about files before they are read as a whole.

    Attributes:
        rows: of all files.
        shape: [C, H, W] of the first image, with one channel only where every image is grey.
        outside: by role, files of images that rows name instead of holding them.
    """

    rows: int
    shape: tuple[int, ...]
    outside: dict[str, list[Path]]

    @classmethod
    def of(cls, files: Mapping[str, list[Path]], columns: ImageColumns, square: Square | None) -> Probe:
        """Looks at the first image, at the headers of further ones while they are grey, and at missing bytes."""
        every = [file for of_role in files.values() for file in of_role]
        shape: tuple[int, ...] | None = None
        for row in rows(every, columns.image):
            is_grey = glance(*row)
            if shape is None:
                shape = _decode(row, 1 if is_grey else 3, square).shape
            if not is_grey:
                shape = (3, *shape[1:])
                break
        if shape is None:
            raise DataError(f"{every[0]}: no rows")
        beside = {role: outside(of_role, columns.image) for role, of_role in files.items()}
        return cls(count_rows(every), shape, beside)

    def plain(self) -> Any:
        """As JSON."""
        return [self.rows, list(self.shape), {role: [str(path) for path in of] for role, of in self.outside.items()}]

    @classmethod
    def parse(cls, plain: Any) -> Probe:
        """From JSON."""
        count, shape, beside = plain
        return cls(count, tuple(shape), {role: [Path(path) for path in of] for role, of in beside.items()})


def decode_files(
    files: Sequence[Path], column: str, target: Path, shape: tuple[int, ...], square: Square | None, seen: Seen
) -> Images:
    """All images of some Parquet files in one memory map.

    Args:
        files: in order.
        column: where images stand.
        target: the .npy file to write.
        shape: [C, H, W] that the images must have.
        square: what images of any size become; None: they must be equal and square.
        seen: counts what is worth saying.
    """
    if not (count := count_rows(files)):
        raise DataError(f"{files[0]}: no rows")
    images = new_memory_map(target, (count, *shape))
    for index, row in enumerate(rows(files, column)):
        image = _decode(row, shape[0], square, seen)
        if image.shape != shape:
            raise DataError(
                f"{row.where}: image of {described(image.shape)}, the ones before have {described(shape)} "
                "(data.size resizes and cuts them)"
            )
        images[index] = image
        progress.at(index + 1, count)
    return images


@dataclass(frozen=True)
class KeptImages:
    """Encoded images in one file, by row.

    Attributes:
        path: the encoded images one after another.
        ends_N: where each one ends in it, in bytes.
        files: the Parquet files they came from, in order.
        file_ends: number of images up to the end of each of these.
    """

    path: Path
    ends_N: npt.NDArray[np.int64]
    files: tuple[str, ...]
    file_ends: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.ends_N)

    def at(self, row: int) -> tuple[bytes, str]:
        """The bytes of one image, and its row in its Parquet file."""
        start = int(self.ends_N[row - 1]) if row else 0
        with self.path.open("rb") as opened:
            opened.seek(start)
            encoded = opened.read(int(self.ends_N[row]) - start)
        file = bisect.bisect_right(self.file_ends, row)
        return encoded, f"{self.files[file]}: row {row - (self.file_ends[file - 1] if file else 0)}"


def keep_encoded(
    files: Sequence[Path], column: str, target: Path, seen: Seen
) -> tuple[npt.NDArray[np.int64], list[int]]:
    """Copies encoded images into one file, from which any of them can be read by itself.

    Args:
        files: Parquet files, in order.
        column: where images stand.
        target: the file to write.
        seen: counts what their headers say.

    Returns:
        Where each image ends in bytes [N], number of images up to the end of each file.
    """
    ends: list[int] = []
    file_ends: list[int] = []
    with target.open("wb") as opened:
        for file in files:
            for row in rows([file], column):
                glance(*row, seen)
                opened.write(row.encoded.read_bytes() if isinstance(row.encoded, Path) else row.encoded)
                ends.append(opened.tell())
            file_ends.append(len(ends))
    if not ends:
        raise DataError(f"{files[0]}: no rows")
    return np.asarray(ends, dtype=np.int64), file_ends


def _decode(row: Row, channels: int, square: Square | None, seen: Seen | None = None) -> Images:
    """One image as uint8 [C, H, W]; without a square to cut it must be one."""
    image = open_image(row.encoded, row.where, channels, seen)
    decoded = pixels(image if square is None else squared(image, square))
    if decoded.shape[1] != decoded.shape[2]:
        raise DataError(
            f"{row.where}: image of {described(decoded.shape)}; networks here take square images "
            "(data.size resizes and cuts them)"
        )
    return decoded


@register("parquet", kind="data")
class Parquet(Source):
    """Any Parquet files with an encoded image column and an integer label column.

    Pad an eighth of the size and flip colour images, unless `augmentation` says otherwise; mean and standard
    deviation are those of the training files, unless `mean` and `std` are set. Images of different sizes need `size`:
    the shorter side is resized to it and the middle cut out. A set that streams is copied into the cache once, still
    encoded, because single rows cannot be read from Parquet.
    """

    own_settings = STREAMING_SETTINGS | {"root", "train", "test", "image_column", "label_column", "num_classes"}
    required_settings = ("train", "test")

    @classmethod
    @override
    def missing(cls, settings: DataSettings) -> list[str]:
        """The names and patterns under `train` and `test` that match no file."""
        return [pattern for role in ("train", "test") for pattern, files in matches(settings, role) if not files]

    @classmethod
    @override
    def read(cls, settings: DataSettings) -> Stored | Streamed:
        """Reads the files once, into a memory map or, where that is too large, as they are; later starts open that."""
        files = {role: files_of(settings, role) for role in ("train", "test")}
        refuse_shared(files)
        columns = ImageColumns(settings.image_column, settings.label_column)
        square = None if settings.size is None else Square(settings.size, settings.size)
        probe = _probe(files, columns, square, settings.size)
        options = {
            "name": "parquet",
            "files": [len(files["train"]), len(files["test"])],
            "columns": list(columns),
            "num_classes": settings.num_classes,
        }
        if settings.size is not None:
            options["size"] = settings.size
        whole = _Whole(files, columns, square, probe, settings.num_classes, options)
        if too_large(settings.stream, settings.memory_mib, probe.rows * math.prod(probe.shape)):
            return whole.streamed()
        return whole.decoded()


@dataclass(frozen=True)
class _Whole:
    """Parquet files that are read as one data set.

    Attributes:
        files: by role, `train` and `test`.
        columns: where images and labels stand.
        square: what images of any size become; None: they must be equal and square.
        probe: what is known of them.
        num_classes: as set.
        options: what else changes the result, as plain JSON.
    """

    files: Mapping[str, list[Path]]
    columns: ImageColumns
    square: Square | None
    probe: Probe
    num_classes: int | None
    options: Mapping[str, Any]

    @property
    def every(self) -> list[Path]:
        """Everything that is read: the files, and images beside them."""
        return [path for of in (self.files, self.probe.outside) for role in ("train", "test") for path in of[role]]

    def decoded(self) -> Stored:
        """All images in memory maps."""

        def write(folder: Path) -> Mapping[str, Any]:
            facts, seen = self._write_labels(folder), Seen()
            for role, files in self.files.items():
                target = folder / f"{role}_images.npy"
                images = decode_files(files, self.columns.image, target, self.probe.shape, self.square, seen)
                if role == "train":
                    facts["mean"], facts["std"] = channel_statistics(images)
            return {**facts, "notes": self._notes(facts, seen)}

        return stored(self.every, self.options, write)

    def streamed(self) -> Streamed:
        """All images as they are, copied into the cache: single rows cannot be read from Parquet."""
        channels, side, _ = self.probe.shape
        square, exact = self.square or Square(side, side), self.square is None

        def build(folder: Path, contents: str) -> Mapping[str, Any]:
            facts, seen = self._write_labels(folder), Seen()
            for role, files in self.files.items():
                ends, file_ends = keep_encoded(files, self.columns.image, folder / f"{role}.bin", seen)
                np.save(folder / f"{role}_ends.npy", ends)
                facts[f"{role}_file_ends"] = file_ends
                if role == "train":
                    held = KeptImages(folder / "train.bin", ends, _names(files), tuple(file_ends))
                    facts["mean"], facts["std"] = sampled_statistics(EncodedPixels(held, channels, square, exact))
            if seen.deep:  # what those became was something else
                contents = hashlib.sha256(f"{contents}, scaled to 8 bits".encode()).hexdigest()[:32]
            return {**facts, "content_hash": contents, "notes": self._notes(facts, seen)}

        def opened(folder: Path) -> Streamed:
            facts, held = read_meta(folder), {}
            for role, files in self.files.items():
                ends, path = np.load(folder / f"{role}_ends.npy"), folder / f"{role}.bin"
                if path.stat().st_size != ends[-1]:
                    raise ValueError("cut short")
                held[role] = KeptImages(path, ends, _names(files), tuple(facts[f"{role}_file_ends"]))
            return Streamed(
                train=held["train"],
                train_labels=np.load(folder / "train_labels.npy"),
                test=held["test"],
                test_labels=np.load(folder / "test_labels.npy"),
                num_classes=int(facts["num_classes"]),
                mean=tuple(facts["mean"]),
                std=tuple(facts["std"]),
                content_hash=str(facts["content_hash"]),
                channels=channels,
                square=square,
                exact=exact,
                classes=None if facts["classes"] is None else tuple(facts["classes"]),
                notes=tuple(facts["notes"]),
            )

        return kept(self.every, {**self.options, "encoded": True}, build, opened)

    def _write_labels(self, folder: Path) -> dict[str, Any]:
        """Writes both roles' labels as classes; returns what is to be remembered of them."""
        labels = {role: read_labels(files, self.columns.label) for role, files in self.files.items()}
        for of_role in labels.values():
            if not any(len(of_file.values) for of_file in of_role):
                raise DataError(f"{of_role[0].file}: no rows")
        classes = Classes.of(labels["train"], self.num_classes)
        for role, of_role in labels.items():
            np.save(folder / f"{role}_labels.npy", classes.numbers(of_role))
        names = None if classes.names is None else list(classes.names)
        return {"num_classes": classes.count, "classes": names, "notes": classes.sentences(self.columns.label)}

    def _notes(self, facts: Mapping[str, Any], seen: Seen) -> list[str]:
        twins = [pair for pair in product(self.files["train"], self.files["test"]) if filecmp.cmp(*pair, shallow=False)]
        same = [
            f"{train.name} and {test.name} hold the same bytes: the test set is trained on" for train, test in twins
        ]
        folders = dict.fromkeys(file.parent for of_role in self.files.values() for file in of_role)
        return [*facts["notes"], *same, *seen.sentences(folders)]


def _probe(files: Mapping[str, list[Path]], columns: ImageColumns, square: Square | None, size: int | None) -> Probe:
    every = [file for of_role in files.values() for file in of_role]
    options = {"probe": [columns.image, columns.label, size], "files": len(files["train"])}
    probe = remembered(every, options, lambda: Probe.of(files, columns, square).plain(), Probe.parse)
    if shared := [path for path in probe.outside["train"] if path in set(probe.outside["test"])]:
        raise DataError(f"{shared[0]}: rows of training and of test files name it; no image may be in both")
    return probe


def _names(files: list[Path]) -> tuple[str, ...]:
    return tuple(str(file) for file in files)

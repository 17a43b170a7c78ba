"""Data sets in Parquet files: encoded images and labels in columns, of one size or of many.

Shapes: N images, C, H, W.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from typing_extensions import override

from akdtune.data.decoding import Square, check_labels, described, open_image, pixels, squared
from akdtune.data.source import Source
from akdtune.data.store import (
    Images,
    Labels,
    Stored,
    channel_statistics,
    kept_folder,
    new_memory_map,
    read_meta,
    remembered,
    stored,
)
from akdtune.data.streaming import EncodedPixels, Streamed, sampled_statistics, too_large
from akdtune.errors import DataError, unknown_name
from akdtune.registry import register
from akdtune.settings.data import STREAMING_SETTINGS, DataSettings


class ImageColumns(NamedTuple):
    """Names of the two columns that are read."""

    image: str
    label: str


def decode_files(
    files: Sequence[Path],
    columns: ImageColumns,
    target: Path,
    shape: tuple[int, ...] | None,
    num_classes: int | None,
    square: Square | None = None,
) -> tuple[Images, Labels]:
    """All images of some Parquet files in one memory map, and their labels.

    Args:
        files: in order.
        columns: where images and labels stand.
        target: the .npy file to write.
        shape: [C, H, W] that the images must have; None: that of the first.
        num_classes: labels must be below; None: any label from 0.
        square: what images of any size become; None: they must be equal and square.
    """
    labels = np.empty(count_rows(files), dtype=np.int64)
    images: Images | None = None
    for row, (encoded, label, where) in enumerate(_numbered(files, columns)):
        image = _decode(encoded, where, None if shape is None else shape[0], square)
        shape = image.shape if shape is None else shape
        if image.shape != shape:
            raise DataError(f"{where}: image of {described(image.shape)}, the ones before have {described(shape)}")
        if images is None:
            images = new_memory_map(target, (len(labels), *shape))
        check_labels(np.asarray([label]), num_classes, where)
        images[row], labels[row] = image, label
    if images is None:
        raise DataError(f"{files[0]}: no rows")
    return images, labels


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
    files: Sequence[Path], columns: ImageColumns, target: Path, num_classes: int | None
) -> tuple[npt.NDArray[np.int64], Labels, list[int]]:
    """Copies encoded images into one file, from which any of them can be read by itself.

    Args:
        files: Parquet files, in order.
        columns: where images and labels stand.
        target: the file to write.
        num_classes: labels must be below; None: any label from 0.

    Returns:
        Where each image ends in bytes [N], labels [N], number of images up to the end of each file.
    """
    ends: list[int] = []
    labels: list[int] = []
    file_ends: list[int] = []
    with target.open("wb") as opened:
        for file in files:
            for encoded, label, where in _numbered([file], columns):
                check_labels(np.asarray([label]), num_classes, where)
                opened.write(encoded)
                ends.append(opened.tell())
                labels.append(label)
            file_ends.append(len(ends))
    if not ends:
        raise DataError(f"{files[0]}: no rows")
    return np.asarray(ends, dtype=np.int64), np.asarray(labels, dtype=np.int64), file_ends


def first_shape(file: Path, columns: ImageColumns, square: Square | None) -> tuple[int, ...]:
    """[C, H, W] that the first image of a Parquet file has, or becomes.

    Raises:
        DataError: for an empty file or a bad image.
    """
    for encoded, _, where in _numbered([file], columns, batch_size=1):
        return _decode(encoded, where, None, square).shape
    raise DataError(f"{file}: no rows")


def count_rows(files: Sequence[Path]) -> int:
    """Number of rows in all files together."""
    return sum(_count_rows(file) for file in files)


def _numbered(files: Sequence[Path], columns: ImageColumns, batch_size: int = 512) -> Iterator[tuple[bytes, int, str]]:
    """Encoded image, label and place of each row."""
    for file in files:
        for row, (encoded, label) in enumerate(_rows(file, columns, batch_size)):
            yield encoded, label, f"{file}: row {row}"


def _count_rows(file: Path) -> int:
    with _parquet(file) as opened:
        return int(opened.metadata.num_rows)


def _parquet(file: Path) -> Any:

    try:
        return pq.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file}: not a readable Parquet file, perhaps cut short ({_first_line(error)})") from error


def _rows(file: Path, columns: ImageColumns, batch_size: int = 512) -> Iterator[tuple[bytes, int]]:
    """Encoded image and label of each row, read one row group at a time."""

    with _parquet(file) as opened:
        names = opened.schema_arrow.names
        for key, column in (("image_column", columns.image), ("label_column", columns.label)):
            if column not in names:
                raise DataError(f"{file}: data.{key}: {unknown_name('column', column, names)}")
        kind = opened.schema_arrow.field(columns.label).type
        if not pa.types.is_integer(kind):
            raise DataError(f"{file}: labels in '{columns.label}' must be integers, got {kind}")
        try:
            for batch in opened.iter_batches(batch_size, columns=[columns.image, columns.label]):
                encoded = _encoded(batch.column(columns.image), file, columns.image)
                labels = batch.column(columns.label)
                if encoded.null_count or labels.null_count:
                    raise DataError(f"{file}: rows without image bytes or label")
                yield from zip(encoded.to_pylist(), labels.to_pylist(), strict=True)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{file}: damaged or cut short ({_first_line(error)})") from error


def _encoded(column: Any, file: Path, name: str) -> Any:
    """The bytes of an image column, which may be the {bytes, path} structure that Hugging Face writes."""

    if pa.types.is_struct(column.type) and column.type.get_field_index("bytes") >= 0:
        column = column.field("bytes")
    if not (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
        raise DataError(f"{file}: '{name}' must hold encoded images as bytes or {{bytes, path}}, got {column.type}")
    return column


def _decode(encoded: bytes, where: str, channels: int | None, square: Square | None) -> Images:
    """One image as uint8 [C, H, W]; without a square to cut it must be one."""
    image = open_image(encoded, where, channels)
    decoded = pixels(image if square is None else squared(image, square))
    if decoded.shape[1] != decoded.shape[2]:
        raise DataError(
            f"{where}: image of {described(decoded.shape)}; networks here take square images "
            "(data.size resizes and cuts them)"
        )
    return decoded


def count_classes(labels: Labels, files: Sequence[Path]) -> int:
    """The largest label + 1; classes without a training image are taken for a mistake."""
    num_classes, present = int(labels.max()) + 1, len(np.unique(labels))
    if present < num_classes:
        raise DataError(
            f"{files[0]}: label {num_classes - 1} is out of range: only {present} different labels occur, so 0.."
            f"{present - 1} were expected; set data.num_classes if some classes have no training images"
        )
    return num_classes


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


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
        return [pattern for role in ("train", "test") for pattern, files in _matches(settings, role) if not files]

    @classmethod
    @override
    def read(cls, settings: DataSettings) -> Stored | Streamed:
        """Reads the files once, into a memory map or, where that is too large, as they are; later starts open that."""
        files: dict[str, list[Path]] = {}
        for role in ("train", "test"):
            matches = _matches(settings, role)
            for pattern, matching in matches:
                if not matching:
                    raise DataError(f"data.{role}: no file matches {pattern}")
            files[role] = list(dict.fromkeys(file for _, matching in matches for file in matching))
        options = {
            "name": "parquet",
            "files": [len(files["train"]), len(files["test"])],
            "columns": [settings.image_column, settings.label_column],
            "num_classes": settings.num_classes,
        }
        if settings.size is not None:
            options["size"] = settings.size
        columns = ImageColumns(settings.image_column, settings.label_column)
        square = None if settings.size is None else Square(settings.size, settings.size)
        if cls._streams(settings, files, columns, square):
            return cls._streamed(files, columns, square, options, settings.num_classes)

        def write(folder: Path) -> Mapping[str, Any]:
            shape: tuple[int, ...] | None = None
            num_classes = settings.num_classes
            for role in ("train", "test"):
                target = folder / f"{role}_images.npy"
                images, labels = decode_files(files[role], columns, target, shape, num_classes, square)
                np.save(folder / f"{role}_labels.npy", labels)
                if role == "train":
                    shape, num_classes = images.shape[1:], num_classes or count_classes(labels, files[role])
                    mean, std = channel_statistics(images)
            return {"num_classes": num_classes, "mean": mean, "std": std}

        return stored([*files["train"], *files["test"]], options, write)

    @classmethod
    def _streams(
        cls, settings: DataSettings, files: Mapping[str, list[Path]], columns: ImageColumns, square: Square | None
    ) -> bool:
        if settings.stream == "never":
            return False
        every = [*files["train"], *files["test"]]

        def find_out() -> list[int]:
            return [count_rows(every), *first_shape(every[0], columns, square)]

        options = {"probe": [settings.image_column, settings.label_column, settings.size]}
        return too_large(settings.stream, settings.memory_mib, math.prod(remembered(every, options, find_out)))

    @classmethod
    def _streamed(
        cls,
        files: Mapping[str, list[Path]],
        columns: ImageColumns,
        square: Square | None,
        options: Mapping[str, Any],
        num_classes: int | None,
    ) -> Streamed:
        def build(folder: Path, key: str) -> Mapping[str, Any]:
            shape, known, facts = first_shape(files["train"][0], columns, square), num_classes, {}
            for role in ("train", "test"):
                ends, labels, file_ends = keep_encoded(files[role], columns, folder / f"{role}.bin", known)
                known = known or count_classes(labels, files[role])
                np.save(folder / f"{role}_ends.npy", ends)
                np.save(folder / f"{role}_labels.npy", labels)
                facts[f"{role}_file_ends"] = file_ends
                if role == "train":
                    of_train = KeptImages(folder / "train.bin", ends, _names(files[role]), tuple(file_ends))
                    whole = square or Square(shape[1], shape[1])
                    mean, std = sampled_statistics(EncodedPixels(of_train, shape[0], whole, exact=square is None))
            return {"num_classes": known, "shape": list(shape), "mean": mean, "std": std, "content_hash": key, **facts}

        every = [*files["train"], *files["test"]]
        folder = kept_folder(every, {**options, "encoded": True}, build)
        facts = read_meta(folder)
        kept = {}
        for role in ("train", "test"):
            ends = np.load(folder / f"{role}_ends.npy")
            path = folder / f"{role}.bin"
            kept[role] = KeptImages(path, ends, _names(files[role]), tuple(facts[f"{role}_file_ends"]))
        return Streamed(
            train=kept["train"],
            train_labels=np.load(folder / "train_labels.npy"),
            test=kept["test"],
            test_labels=np.load(folder / "test_labels.npy"),
            num_classes=int(facts["num_classes"]),
            mean=tuple(facts["mean"]),
            std=tuple(facts["std"]),
            content_hash=str(facts["content_hash"]),
            channels=int(facts["shape"][0]),
            square=square or Square(int(facts["shape"][1]), int(facts["shape"][1])),
            exact=square is None,
        )


def _names(files: list[Path]) -> tuple[str, ...]:
    return tuple(str(file) for file in files)


def _matches(settings: DataSettings, role: str) -> list[tuple[str, list[Path]]]:
    """Each pattern under `train` or `test`, made absolute, with the files it matches, sorted by name."""
    value = getattr(settings, role)
    base = Path(settings.root).expanduser() if settings.root else Path.cwd()
    matches = []
    for pattern in [value] if isinstance(value, str) else value or []:
        path = base / Path(pattern).expanduser()
        plain = next((i for i, part in enumerate(path.parts) if set(part) & set("*?[")), len(path.parts) - 1)
        files = [path] if path.is_file() else sorted(Path(*path.parts[:plain]).glob("/".join(path.parts[plain:])))
        matches.append((str(path), [file for file in files if file.is_file()]))
    return matches

"""Parquet files with an encoded image column and an integer label column: decoded, or kept encoded by row."""

# Shapes: C channels, H, W height and width (equal).

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from akdtune.data_store import Images, Labels, new_memory_map
from akdtune.decoding import Square, check_labels, described, open_image, pixels, squared
from akdtune.errors import DataError, unknown_name


class Columns(NamedTuple):
    """Names of the two columns that are read."""

    image: str
    label: str


def decode_files(
    files: Sequence[Path],
    columns: Columns,
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
    files: Sequence[Path], columns: Columns, target: Path, num_classes: int | None
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


def first_shape(file: Path, columns: Columns, square: Square | None) -> tuple[int, ...]:
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


def _numbered(files: Sequence[Path], columns: Columns, batch_size: int = 512) -> Iterator[tuple[bytes, int, str]]:
    """Encoded image, label and place of each row."""
    for file in files:
        for row, (encoded, label) in enumerate(_rows(file, columns, batch_size)):
            yield encoded, label, f"{file}: row {row}"


def _count_rows(file: Path) -> int:
    with _parquet(file) as opened:
        return int(opened.metadata.num_rows)


def _parquet(file: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file}: not a readable Parquet file, perhaps cut short ({_first_line(error)})") from error


def _rows(file: Path, columns: Columns, batch_size: int = 512) -> Iterator[tuple[bytes, int]]:
    """Encoded image and label of each row, read one row group at a time."""
    import pyarrow as pa

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
    import pyarrow as pa

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

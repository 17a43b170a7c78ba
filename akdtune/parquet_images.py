"""Parquet files with an encoded image column and an integer label column, streamed into a memory map."""

# Shapes: C channels, H, W height and width (equal).

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from akdtune.data_store import Images, Labels
from akdtune.errors import DataError, unknown_name


class Columns(NamedTuple):
    """Names of the two columns that are read."""

    image: str
    label: str


def decode_files(
    files: Sequence[Path], columns: Columns, target: Path, shape: tuple[int, ...] | None, num_classes: int | None
) -> tuple[Images, Labels]:
    """All images of some Parquet files in one memory map, and their labels.

    Args:
        files: in order.
        columns: where images and labels stand.
        target: the .npy file to write.
        shape: [C, H, W] that the images must have; None: that of the first.
        num_classes: labels must be below; None: any label from 0.
    """
    labels = np.empty(sum(_count_rows(file) for file in files), dtype=np.int64)
    images: Images | None = None
    row = 0
    for file in files:
        row_in_file = 0
        for encoded, label in _rows(file, columns):
            where = f"{file}: row {row_in_file}"
            image = _decode(encoded, where, channels=None if shape is None else shape[0])
            shape = image.shape if shape is None else shape
            if image.shape != shape:
                raise DataError(f"{where}: image of {_pixels(image.shape)}, the ones before have {_pixels(shape)}")
            if images is None:
                images = _memory_map(target, (len(labels), *shape))
            check_labels(np.asarray([label]), num_classes, where)
            images[row], labels[row] = image, label
            row, row_in_file = row + 1, row_in_file + 1
    if images is None:
        raise DataError(f"{files[0]}: no rows")
    return images, labels


def _memory_map(target: Path, shape: tuple[int, ...]) -> Images:
    """A new .npy memory map with its disk space taken: writing to a hole on a full disk would kill the process."""
    images: Images = np.lib.format.open_memmap(target, mode="w+", dtype=np.uint8, shape=shape)
    if hasattr(os, "posix_fallocate"):
        with target.open("r+b") as opened:
            os.posix_fallocate(opened.fileno(), 0, target.stat().st_size)
    return images


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


def _decode(encoded: bytes, where: str, channels: int | None) -> Images:
    """One image as uint8 [C, H, W]; grey stays one channel unless three are wanted, all else becomes RGB."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(encoded)) as image:
            grey = image.mode in ("1", "L") and channels != 3
            pixels = np.asarray(image.convert("L" if grey else "RGB"), dtype=np.uint8)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{where}: not a readable image ({_first_line(error)})") from error
    decoded: Images = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    if decoded.shape[1] != decoded.shape[2]:
        raise DataError(f"{where}: image of {_pixels(decoded.shape)}; networks here take square images")
    return decoded


def _pixels(shape: tuple[int, ...]) -> str:
    return f"{shape[2]}x{shape[1]} pixels in {shape[0]} channel{'s' if shape[0] > 1 else ''}"


def check_labels(labels: Labels, num_classes: int | None, where: str) -> None:
    """Refuses labels below 0, or above the last class where the number of classes is known."""
    wrong = (labels < 0) | (labels >= num_classes) if num_classes else labels < 0
    if wrong.any():
        allowed = f"0..{num_classes - 1}" if num_classes else "0 and above"
        raise DataError(f"{where}: label {labels[wrong][0]} is out of range (allowed: {allowed})")


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

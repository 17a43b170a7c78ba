"""Columns of Parquet files row by row: labels, and encoded images that stand in the file or beside it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from akdtune.datasets._class_labels import FileLabels
from akdtune.errors import DataError, unknown_name

BATCH = 64
"""Rows that are read at once: few, because images may be large."""

_TEXT = frozenset({"string", "large_string", "string_view"})
_BYTES = frozenset({"binary", "large_binary", "binary_view"})


class ImageColumns(NamedTuple):
    """Names of the two columns that are read."""

    image: str
    label: str


class Row(NamedTuple):
    """An encoded image: its bytes, or its file where the row holds a path alone; and what to call it in a message."""

    encoded: bytes | Path
    where: str


def read_labels(files: Sequence[Path], column: str) -> list[FileLabels]:
    """The labels of each file.

    Raises:
        DataError: naming the file and the row where a label is missing or of no use.
    """
    return [FileLabels(file, _labels(file, column)) for file in files]


def rows(files: Sequence[Path], column: str, batch_size: int = BATCH) -> Iterator[Row]:
    """The image of each row, in order.

    Raises:
        DataError: naming the file, and the row without an image.
    """
    for file in files:
        row = 0
        for batch in _batches(file, "image_column", column, batch_size):
            _check_images(batch.type, file, column)
            for encoded in _images(batch, file, column):
                yield Row(*_found(encoded, file, row))
                row += 1


def outside(files: Sequence[Path], column: str) -> list[Path]:
    """Image files that rows name instead of holding them, each once."""
    named: dict[Path, None] = {}
    for file in files:
        with _opened(file) as opened:
            holds_all = _holds_every_image(opened, column)
        if not holds_all:
            named |= {row.encoded: None for row in rows([file], column) if isinstance(row.encoded, Path)}
    return list(named)


def count_rows(files: Sequence[Path]) -> int:
    """Number of rows in all files together."""
    total = 0
    for file in files:
        with _opened(file) as opened:
            total += int(opened.metadata.num_rows)
    return total


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """A Parquet file; damaged bytes meet Arrow's readers with errors of every class, which become ours."""
    about = "not a readable Parquet file, perhaps cut short"
    try:
        with pq.ParquetFile(file) as opened:
            _ = opened.schema_arrow.names
            about = "damaged or cut short"
            yield opened
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{file}: {about} ({_first_line(error)})") from error


def _batches(file: Path, key: str, column: str, batch_size: int) -> Iterator[Any]:
    """One column of a file, some rows at a time."""
    with _opened(file) as opened:
        names = opened.schema_arrow.names
        if (times := names.count(column)) != 1:
            twice = f"there are {times} columns '{column}'; rename all but one"
            raise DataError(f"{file}: data.{key}: {twice if times else unknown_name('column', column, names)}")
        for group in range(opened.num_row_groups):  # by itself: dictionaries of two in one structure cannot be read
            for batch in opened.iter_batches(batch_size, row_groups=[group], columns=[column]):
                yield batch.column(batch.schema.names.index(column))


def _labels(file: Path, column: str) -> list[Any]:
    values: list[Any] = []
    for batch in _batches(file, "label_column", column, 8192):
        kind = batch.type.value_type if pa.types.is_dictionary(batch.type) else batch.type
        is_text = str(kind) in _TEXT
        if not (is_text or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
            raise DataError(f"{file}: labels in '{column}' must be integers or text, got {kind}")
        read = _plain(batch, file, column)
        missing = next((row for row, value in enumerate(read) if value is None or value == ""), None)
        if missing is not None:
            raise DataError(f"{file}: row {len(values) + missing}: no label in '{column}'")
        values += read if is_text else map(int, read)
    return values


def _plain(array: Any, file: Path, column: str) -> list[Any]:
    try:
        read: list[Any] = array.to_pylist()
        return read
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: '{column}' holds text that is not UTF-8") from error


def _check_images(kind: Any, file: Path, column: str) -> None:
    """Encoded images are bytes, or the {bytes, path} structure that Hugging Face writes."""
    inner = kind
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        inner = kind.field(kind.get_field_index("bytes")).type
        if pa.types.is_null(inner) and kind.get_field_index("path") >= 0:
            return
    if pa.types.is_dictionary(inner):
        inner = inner.value_type
    if str(inner) not in _BYTES and not pa.types.is_fixed_size_binary(inner):
        raise DataError(f"{file}: '{column}' must hold encoded images as bytes or {{bytes, path}}, got {kind}")


def _images(batch: Any, file: Path, column: str) -> Iterator[bytes | str | None]:
    """Bytes of each image, its path where there are no bytes, or None."""
    if not pa.types.is_struct(batch.type):
        yield from _plain(batch, file, column)
        return
    parts = dict(zip((field.name for field in batch.type), batch.flatten(), strict=True))
    held = _plain(parts["bytes"], file, column)
    paths = _plain(parts["path"], file, column) if "path" in parts and None in held else [None] * len(held)
    for encoded, path in zip(held, paths, strict=True):
        yield path if encoded is None else encoded


def _found(encoded: bytes | str | None, file: Path, row: int) -> tuple[bytes | Path, str]:
    where = f"{file}: row {row}"
    if isinstance(encoded, bytes):
        return encoded, where
    if not isinstance(encoded, str) or not encoded:
        raise DataError(f"{where}: no image")
    path = file.parent / encoded
    try:
        there = path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        there = False
    if not there:
        raise DataError(
            f"{where}: no image bytes, and no file at the path it names, '{encoded}' (looked for {path}); write the "
            "images into the Parquet file, or put them beside it"
        )
    return path, f"{where} ({encoded})"


def _holds_every_image(opened: Any, column: str) -> bool:
    """Whether the file's own statistics say that no image is missing; where they say nothing, no."""
    metadata, parts = opened.metadata, (f"{column}.bytes", column)
    for group in range(metadata.num_row_groups):
        chunks = [metadata.row_group(group).column(index) for index in range(metadata.num_columns)]
        statistics = [chunk.statistics for chunk in chunks if chunk.path_in_schema in parts]
        if not statistics or any(found is None or found.null_count != 0 for found in statistics):
            return False
    return True


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]

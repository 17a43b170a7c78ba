"""The files of a study: their names and columns, and how each is written and read: plan, ledger, rows.

Who may write which file, and when, is the business of `study_directory.py` and `trial_directory.py`; `tables.py` makes
one table of all trials from them. Reading works on a running study and on one that was killed at any moment.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from akdtune import atomic
from akdtune.columns import Column, declarations
from akdtune.errors import StudyError
from akdtune.records.design_file import check_design
from akdtune.records.shapes import read_json

PLAN = "plan.parquet"
LEDGER = "ledger.jsonl"
TRIALS = "trials.parquet"
EPOCHS = "epochs.parquet"
LOCK = "study.lock.yaml"
DESIGN = "design.json"

METRICS = (
    "train_accuracy", "val_accuracy", "test_accuracy", "ensemble_accuracy", "teacher_accuracy", "target_accuracy",
    "target_entropy", "diversity_sq_prob", "diversity_sq_logit", "diversity_sq_feature", "diversity_ce",
    "diversity_pair_prob", "diversity_pair_logit", "diversity_pair_feature", "inter_cosine", "offset_cosine",
    "inter_cosine_prob", "offset_cosine_prob", "gate_open_train", "gate_open_eval", "gate_open_train_logit",
    "gate_open_eval_logit", "margin", "agreement", "js_divergence", "score", "wall_time_s", "warmup_time_s",
    "images_per_s", "peak_memory_mib", "teacher_cache_hit_rate", "teacher_cache_fill_rate",
)  # fmt: skip
"""What the tables of every study have, in this order, whatever was measured: a part of the files' form, to which
nothing is added. A measure that comes later stands behind these, by its declaration alone."""

ROW_COLUMNS = (
    Column("trial_id", "", "name of the trial: its settings, and its seed after the last hyphen", "none"),
    Column("attempt", "", "counted from 1, which attempt of the trial computed the epoch", "none"),
    Column("epoch", "", "number of the student's epoch, counted from 1", "none"),
)
"""What a row of `epochs.parquet` holds besides what was measured."""

EPOCH_COLUMNS: dict[str, pa.DataType] = {
    "trial_id": pa.string(), "attempt": pa.int64(), "epoch": pa.int64(), "lr": pa.float64(),
    **{name: pa.float64() for name in METRICS},
}  # fmt: skip
PLAN_COLUMNS: dict[str, pa.DataType] = {
    "number": pa.int64(), "trial_id": pa.string(), "cell_id": pa.string(), "seed": pa.int64(), "role": pa.string(),
    "arm": pa.string(), "bracket": pa.string(), "proposal": pa.int64(), "params": pa.string(),
    "settings": pa.string(), "raw": pa.string(), "cell": pa.string(),
}  # fmt: skip
TRIAL_COLUMNS: dict[str, pa.DataType] = {
    "trial_id": pa.string(), "cell_id": pa.string(), "arm": pa.string(), "role": pa.string(), "seed": pa.int64(),
    "number": pa.int64(), "cell": pa.string(), "reused_from": pa.string(), "status": pa.string(),
    "stop_reason": pa.string(), "attempts": pa.int64(),
    "epochs": pa.int64(), "val_accuracy": pa.float64(), "val_accuracy_best": pa.float64(),
    **{name: pa.float64() for name in METRICS}, "student_macs": pa.int64(), "train_time_s": pa.float64(),
}  # fmt: skip
SMALL_ROWS = 5_000
"""Tables shorter than this are written plainly: with dictionaries and statistics for each column, a trial's few rows
take three times as long to write and to read."""

VERIFIED = {"page_checksum_verification": True}
"""How Parquet files are read: a bit that has flipped in a page with a checksum is found."""


# ---------------------------------------------------------------------------------------------------- writing


def write_rows(
    path: str | os.PathLike[str],
    rows: Sequence[Mapping[str, Any]],
    columns: Mapping[str, pa.DataType] | None = None,
    *,
    declared: Sequence[Column] = (),
    durable: bool = False,
) -> None:
    """Writes rows to a Parquet file, which holds either its former content or all of the rows, never less.

    Args:
        path: the file; its directory is created.
        rows: any keys; a key that a row lacks is null there. Columns that akdtune knows by name (`EPOCH_COLUMNS` and
            `loss.*`) and those that are declared get their fixed type; others take theirs from the values (mixed
            kinds become JSON text).
        columns: columns that must be there even when no row has them, with their types.
        declared: what is known of columns of numbers; written beside each.
        durable: also forces the bytes to disk, for files that a power failure must not lose.

    Raises:
        StudyError: when the file cannot be written (read-only directory, full disk).
        TypeError: when a value does not fit its column's type.
    """
    types = {**EPOCH_COLUMNS, **(columns or {})}
    names = list(columns or {})
    names += [name for name in dict.fromkeys(key for row in rows for key in row) if name not in names]
    known = declarations(names, (*ROW_COLUMNS, *declared))
    types = dict.fromkeys(known, pa.float64()) | types
    arrays = [column_of(name, [row.get(name) for row in rows], types.get(name)) for name in names]
    fields = [field_of(name, array.type, known.get(name)) for name, array in zip(names, arrays, strict=True)]
    write_table(path, pa.table(arrays, schema=pa.schema(fields)), durable=durable)


def field_of(name: str, kind: pa.DataType, column: Column | None) -> pa.Field:
    """A column of a file with what is known about it."""
    return pa.field(name, kind, metadata=None if column is None else column.metadata())


def write_table(path: str | os.PathLike[str], table: pa.Table, *, durable: bool = False) -> None:
    """Writes a table to a Parquet file through a temporary file beside it.

    Raises:
        StudyError: when the file cannot be written.
    """
    with replacing(Path(path), durable) as file:
        pq.write_table(table, file, **_packing(table))


@contextlib.contextmanager
def replacing(target: Path, durable: bool = False) -> Iterator[BinaryIO]:
    """A file to write that takes the target's place in one step; its folder is made."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic.opened(target, durable=durable) as file:
            yield file
    except OSError as error:
        raise StudyError(f"cannot write {target}: {error.strerror or error}") from error


def packing(schema: pa.Schema) -> dict[str, Any]:
    """How tables of many rows are written: measured numbers hardly repeat, a dictionary of them makes a file larger."""
    texts = [column.name for column in schema if not pa.types.is_floating(column.type)]
    return {"compression": "zstd", "use_dictionary": texts, "write_page_checksum": True}


def _packing(table: pa.Table) -> dict[str, Any]:
    if table.num_rows >= SMALL_ROWS:
        return packing(table.schema)
    texts = [column.name for column in table.schema if pa.types.is_string(column.type)]
    return {
        "compression": "snappy", "use_dictionary": texts, "write_statistics": False, "write_page_checksum": True
    }  # fmt: skip


def column_of(name: str, values: list[Any], kind: pa.DataType | None) -> pa.Array:
    """Values as a column of this type, or of one that holds them; a value that does not fit is refused by name."""
    if kind is None and name.startswith("loss."):
        kind = pa.float64()
    if kind is None:
        return inferred(values)
    try:
        return pa.array(values, type=kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError) as error:
        raise TypeError(f"column '{name}' takes {kind} or None: {error}") from error


def inferred(values: list[Any]) -> pa.Array:
    """An array of the narrowest type that holds all values as they are; JSON text when they are of several kinds."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float} and float in kinds:
        return pa.array(values, type=pa.float64())
    if len(kinds) <= 1 and dict not in kinds:
        with contextlib.suppress(pa.ArrowInvalid, pa.ArrowTypeError):
            return pa.array(values)
    return pa.array([None if value is None else json.dumps(value) for value in values], type=pa.string())


# ---------------------------------------------------------------------------------------------------- reading


def read_table(path: str | os.PathLike[str]) -> pa.Table:
    """Reads one Parquet file.

    Raises:
        StudyError: when the file is missing, truncated or no Parquet file.
    """
    with reading(path), pq.ParquetFile(path, pre_buffer=False, **VERIFIED) as file:  # most are of some kilobytes
        return file.read(use_threads=False)


def read_schema(path: str | os.PathLike[str]) -> pa.Schema:
    """The columns of one Parquet file.

    Raises:
        StudyError: as `read_table`.
    """
    with reading(path):
        return pq.read_schema(path)


def count_rows(path: str | os.PathLike[str]) -> int:
    """How many rows a Parquet file holds.

    Raises:
        StudyError: as `read_table`.
    """
    with reading(path), pq.ParquetFile(path) as file:
        return int(file.metadata.num_rows)


def described(schema: pa.Schema) -> list[Column]:
    """What a table says about its columns, in their order; nothing about those from before columns were declared."""
    known = (Column.of_metadata(field.name, field.metadata) for field in schema)
    return [column for column in known if column is not None]


@contextlib.contextmanager
def reading(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turns a failed read into one sentence."""
    try:
        yield
    except FileNotFoundError as error:
        raise StudyError(f"{path}: no such file") from error
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise StudyError(f"{path}: cannot be read, truncated or no Parquet file ({reason})") from error


def read_rows(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The rows of a Parquet file as mappings, absent values as None.

    Raises:
        StudyError: as `read_table`.
    """
    rows: list[dict[str, Any]] = read_table(path).to_pylist()
    return rows


def read_design(run_dir: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of design.json, `{}` where no confirmation or ablation has been planned.

    Raises:
        StudyError: when it cannot be read.
    """
    path = Path(run_dir) / DESIGN
    held = read_json(path) or {}
    check_design(path, held)
    return held


def trial_directory(run_dir: str | os.PathLike[str], trial_id: str) -> Path:
    """Where a trial keeps its checkpoint, rows, predictions and log."""
    return Path(run_dir) / "trials" / trial_id


def require_study(run_dir: str | os.PathLike[str]) -> Path:
    """The path of a study directory.

    Raises:
        StudyError: when there is no such directory or it holds no study.
    """
    path = Path(run_dir)
    if not path.is_dir():
        raise StudyError(f"{path}: no such study directory" if not path.exists() else f"{path}: is not a directory")
    if not any((path / name).exists() for name in (PLAN, LEDGER, TRIALS, LOCK)):
        raise StudyError(f"{path}: is no study directory (it has no {PLAN}, {LEDGER}, {TRIALS} or {LOCK})")
    return path

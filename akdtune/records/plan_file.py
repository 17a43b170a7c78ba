"""`plan.parquet`: every planned trial, a row each; written, read, and compared with what was planned."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from akdtune.errors import AkdtuneWarning, StudyError
from akdtune.records.files import LEDGER, PLAN, PLAN_COLUMNS, VERIFIED, column_of, reading, replacing
from akdtune.records.ledger.events import TrialPlanned
from akdtune.records.ledger.lines import parse
from akdtune.records.ledger.reading import heads
from akdtune.records.shapes import check_shape

_JSON_COLUMNS = ("params", "settings", "raw")
PLAN_CHUNK = 1_000
"""The plan is written and read so many trials at a time: as text and as columns it is larger than what is kept."""


_SCHEMA = pa.schema(list(PLAN_COLUMNS.items()))


def write_plan(run_dir: str | os.PathLike[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes every planned trial to `plan.parquet`, on disk when it returns.

    Args:
        run_dir: the study directory.
        rows: the columns of `PLAN_COLUMNS`; `params`, `settings` and `raw` are mappings or JSON text.

    Raises:
        StudyError: when the file cannot be written.
    """
    write_plan_table(run_dir, plan_table(map(as_texts, rows)))


def write_plan_table(run_dir: str | os.PathLike[str], table: pa.Table) -> None:
    """`write_plan` of rows that are columns already, as `plan_table` makes them."""
    with (
        replacing(Path(run_dir) / PLAN, durable=True) as file,
        pq.ParquetWriter(file, table.schema, compression="zstd", write_page_checksum=True) as writer,
    ):
        writer.write_table(table, row_group_size=PLAN_CHUNK)


def plan_table(rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Rows that `as_texts` made, as columns; a study that grows keeps these, so that no row is made text twice."""
    tables, left = [_SCHEMA.empty_table()], iter(rows)
    while few := list(itertools.islice(left, PLAN_CHUNK)):
        columns = [column_of(name, [row.get(name) for row in few], kind) for name, kind in PLAN_COLUMNS.items()]
        tables.append(pa.table(columns, schema=_SCHEMA))
    return pa.concat_tables(tables)


def as_texts(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the plan as it stands in the file: `params`, `settings` and `raw` as JSON text."""
    texts = {name: row.get(name) for name in PLAN_COLUMNS}
    for name in _JSON_COLUMNS:
        if texts[name] is not None and not isinstance(texts[name], str):
            texts[name] = json.dumps(texts[name], allow_nan=False)
    return texts


def as_one_text(texts: Mapping[str, Any]) -> str:
    """The row as JSON, out of `as_texts`: what the ledger's line of a planned trial holds as its `plan`."""
    parts = (
        f'"{name}": {texts[name] if name in _JSON_COLUMNS and texts[name] is not None else _JSON.encode(texts[name])}'
        for name in PLAN_COLUMNS
    )
    return f"{{{', '.join(parts)}}}"


_JSON = json.JSONEncoder(allow_nan=False)


def read_plan(run_dir: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Every planned trial in the order of the plan, `params`, `settings` and `raw` decoded; [] without a plan.

    The latest proposals of a search that runs, or was killed, stand in the ledger and not yet in `plan.parquet`.

    Raises:
        StudyError: when the plan or the ledger cannot be read.
    """
    rows, trouble = plan_file_rows(run_dir, tuple(PLAN_COLUMNS))
    for kind, trial_id, line in heads(Path(run_dir), "none"):
        if kind == "planned" and trial_id not in rows and isinstance(event := parse(line), TrialPlanned):
            with contextlib.suppress(StudyError):
                check_plan_row(Path(run_dir) / LEDGER, event.plan)
                rows[trial_id] = event.plan
    if trouble is not None:
        if not rows:
            raise trouble
        warnings.warn(f"{trouble}; the ledger has its rows", AkdtuneWarning, stacklevel=2)
    return list(rows.values())


def plan_file_rows(
    run_dir: str | os.PathLike[str], columns: Sequence[str]
) -> tuple[dict[str, dict[str, Any]], StudyError | None]:
    """The rows of `plan.parquet` by trial, decoded, and why there are none where it cannot be read."""
    try:
        return {row["trial_id"]: row for row in rows_of_plan_file(run_dir, columns)}, None
    except StudyError as error:
        return {}, error


def read_plan_file(run_dir: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The rows of `plan.parquet` alone, decoded; [] where there is none.

    Raises:
        StudyError: when it cannot be read.
    """
    return list(rows_of_plan_file(run_dir, tuple(PLAN_COLUMNS)))


def rows_of_plan_file(run_dir: str | os.PathLike[str], columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows of `plan.parquet` with these columns only, one at a time, decoded."""
    path = Path(run_dir) / PLAN
    if not path.exists():
        return
    with reading(path), pq.ParquetFile(path, **VERIFIED) as file:
        there = _columns_of(path, file.schema_arrow, columns)
        for few in file.iter_batches(PLAN_CHUNK, columns=there, use_threads=False):
            for row in few.to_pylist():
                yield _decoded_row(path, row, there)


def plan_to_go_on_with(run_dir: str | os.PathLike[str]) -> tuple[pa.Table, dict[str, dict[str, Any]], dict[str, bytes]]:
    """What a driver takes up of `plan.parquet`: its columns as `plan_table` makes them, its rows, and their texts.

    Returns:
        The table, empty where the file has other columns, so that it is made anew; the rows by trial, decoded; and
        `as_one_text` of each.

    Raises:
        StudyError: when the file cannot be read.
    """
    path = Path(run_dir) / PLAN
    rows: dict[str, dict[str, Any]] = {}
    texts: dict[str, bytes] = {}
    if not path.exists():
        return _SCHEMA.empty_table(), rows, texts
    with reading(path), pq.ParquetFile(path, **VERIFIED) as file:
        there = _columns_of(path, file.schema_arrow, tuple(PLAN_COLUMNS))
        table = file.read(columns=there, use_threads=False)
        for few in table.to_batches(PLAN_CHUNK):
            for row in few.to_pylist():
                decoded = _decoded_row(path, dict(row), there)
                rows[decoded["trial_id"]] = decoded
                if len(there) == len(PLAN_COLUMNS):
                    texts[decoded["trial_id"]] = as_one_text(row).encode()
    as_made = table.schema.equals(_SCHEMA) and table.num_rows == len(rows)
    return table if as_made else _SCHEMA.empty_table(), rows, texts


def _columns_of(path: Path, schema: pa.Schema, columns: Sequence[str]) -> list[str]:
    there = [name for name in columns if name in schema.names]
    if lacking := [name for name in columns if name in _PLAN_NEEDED and name not in there]:
        raise StudyError(f"{path}: damaged, it has no column {', '.join(lacking)}")
    return there


def _decoded_row(path: Path, row: dict[str, Any], columns: Sequence[str]) -> dict[str, Any]:
    for name in _JSON_COLUMNS:
        if isinstance(row.get(name), str):
            row[name] = _decoded(path, row, name)
    check_plan_row(path, row, columns)
    return row


def _decoded(path: Path, row: Mapping[str, Any], name: str) -> Any:
    try:
        return json.loads(row[name])
    except (ValueError, RecursionError) as error:
        raise StudyError(f"{path}: damaged, {name} of trial {row.get('trial_id')} is no JSON ({error})") from error


_PLAN_SHAPE: dict[str, Any] = {
    "number": (int, None), "trial_id": str, "cell_id": str, "seed": int, "role": str, "arm": str,
    "bracket": (str, None), "proposal": (int, None), "params": dict, "settings": dict, "raw": (dict, None),
    "cell": (str, None),
}  # fmt: skip
_NOTHING = object()
_PLAN_TYPES = {
    name: {type(None) if kind is None else kind for kind in (kinds if isinstance(kinds, tuple) else (kinds,))}
    for name, kinds in _PLAN_SHAPE.items()
}
_PLAN_NEEDED = ("trial_id", "cell_id", "seed", "role", "arm", "params", "settings")
_TRIAL_ID = re.compile(r"\w[\w.-]*")


def check_plan_row(path: Path, row: Mapping[str, Any], columns: Iterable[str] = tuple(PLAN_COLUMNS)) -> None:
    """Refuses a row of the plan of another form.

    Args:
        path: where it stands.
        row: decoded.
        columns: those that it was read with.

    Raises:
        StudyError: naming the file and the column.
    """
    if not all(type(row.get(name, _NOTHING)) in _PLAN_TYPES[name] for name in columns):
        check_shape(path, row, {name: _PLAN_SHAPE[name] for name in columns}, [c for c in columns if c in _PLAN_NEEDED])
    if not _TRIAL_ID.fullmatch(row["trial_id"]):
        raise StudyError(f"{path}: damaged, trial_id '{row['trial_id']}' is no name of a trial")


def plan_difference(row: Mapping[str, Any], planned: Mapping[str, Any]) -> str:
    """The first thing in which a row of the plan's file is not what was planned, in words; empty where nothing is."""
    for name in PLAN_COLUMNS:
        now, then = row.get(name), planned.get(name)
        if now != then:
            key, now, then = _first_difference(name, now, then)
            return f"{key} is {json.dumps(now)} instead of {json.dumps(then)}"
    return ""


def _first_difference(key: str, now: Any, then: Any) -> tuple[str, Any, Any]:
    if isinstance(now, dict) and isinstance(then, dict):
        name = next(name for name in (*then, *now) if now.get(name, now) != then.get(name, then))
        return _first_difference(f"{key}.{name}", now.get(name), then.get(name))
    return key, now, then

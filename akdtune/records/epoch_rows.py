"""All epoch rows of a study, a few trials at a time: what was compacted and still holds, then trials' own files."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from akdtune.columns import Column, either
from akdtune.errors import AkdtuneWarning, StudyError
from akdtune.records.files import EPOCH_COLUMNS, EPOCHS, VERIFIED, field_of, read_schema, read_table, reading
from akdtune.records.trial_summaries import is_numeric

SOURCES = b"akdtune.sources"
"""The key in a compacted file's metadata that says what it was made from."""


@dataclass(frozen=True)
class ChunkLimits:
    """Epoch rows are held in memory about so many at a time, whole trials always.

    Attributes:
        trials: whose files are read together.
        rows: a chunk is full with so many.
        held: of trials' own files so many stay in memory after their columns were asked for; others are read twice.
    """

    trials: int = 128
    rows: int = 16_000
    held: int = 100_000


CHUNKS = ChunkLimits()


def warn(sentence: str) -> None:
    """Says what is damaged and what is taken instead."""
    warnings.warn(sentence, AkdtuneWarning, stacklevel=4)


def read_stamps(path: Path) -> dict[str, list[int]]:
    """Modification time in ns and size of those trials' files whose rows are in the compacted view; none without it."""
    with contextlib.suppress(StudyError):
        return stamps_in(read_schema(path / EPOCHS))
    return {}


def stamps_in(schema: pa.Schema) -> dict[str, list[int]]:
    """The same out of the compacted view's schema."""
    try:
        stamps = json.loads((schema.metadata or {}).get(SOURCES, b"{}"))
    except ValueError:
        return {}
    return stamps if isinstance(stamps, dict) else {}


class Epochs:
    """All epoch rows of a study, a few trials at a time: what was compacted and still holds, then trials' own files.

    A trial's file that cannot be read, or is another trial's, gives what was compacted of it, else nothing; one
    warning says so.

    Args:
        path: of the study directory.
        limits: of the chunks.
        damaged: what is known already of `damaged`.
        compacted: whether what was compacted is taken where it holds; else only trials' own files are read.

    Attributes:
        stamps: modification time in ns and size of every trial's file, taken before any is read.
        schema: of every chunk.
        damaged: what is wrong with files, by trial.
    """

    def __init__(
        self,
        path: Path,
        limits: ChunkLimits = CHUNKS,
        damaged: Mapping[str, str] | None = None,
        compacted: bool = True,
    ) -> None:
        self.path, self.limits = path, limits
        self.damaged: dict[str, str] = dict(damaged or {})
        self.stamps = {
            trial_id: stamp for trial_id, stamp in _stamps(path / "trials").items() if not self.damaged.get(trial_id)
        }
        self._compacted: Path | None = path / EPOCHS if compacted else None
        schemas, recorded = [], {}
        if self._compacted is not None:
            try:
                schemas.append(_checked(path / EPOCHS, read_schema(path / EPOCHS)))
                recorded = stamps_in(schemas[0])
            except StudyError as error:
                self._compacted = None
                if (path / EPOCHS).exists():
                    warn(f"{error}; what it holds is read from the trials")
        stale = [trial_id for trial_id, stamp in self.stamps.items() if recorded.get(trial_id) != stamp]
        self._of_last_file: pa.Schema | None = None
        self._held: list[pa.Table] = []
        self._later: list[str] = []
        schemas += self._schemas(stale)
        self._stale = [trial_id for trial_id in stale if trial_id not in self.damaged]
        self.schema = _common_schema(schemas)

    def _schemas(self, trial_ids: Sequence[str]) -> Iterator[pa.Schema]:
        """Columns of trials' own files, which are read for it: once, as far as their rows may stay in memory."""
        rows, last = 0, None
        for start in range(0, len(trial_ids), self.limits.trials):
            tables = []
            for trial_id in trial_ids[start : start + self.limits.trials]:
                try:
                    if rows < self.limits.held:
                        tables.append(self._read(trial_id))
                        schema = tables[-1].schema
                        rows += tables[-1].num_rows
                    else:
                        schema = self._checked(self._file(trial_id), read_schema(self._file(trial_id)))
                        self._later.append(trial_id)
                except StudyError as error:
                    self._is_damaged(trial_id, str(error))
                    continue
                if schema is not last:  # nearly all are alike
                    last = schema
                    yield schema
            for _, alike in itertools.groupby(tables, key=lambda table: table.schema):
                self._held.append(pa.concat_tables(alike).combine_chunks())

    def _read(self, trial_id: str) -> pa.Table:
        """Rows of a trial's own file."""
        path = self._file(trial_id)
        table = read_table(path)
        schema = self._checked(path, table.schema)
        if table.num_rows and pc.unique(table["trial_id"]).to_pylist() != [trial_id]:
            raise StudyError(f"{path}: is not this trial's")
        return pa.Table.from_arrays(table.columns, schema=schema)

    def _checked(self, path: Path, schema: pa.Schema) -> pa.Schema:
        """`_checked`, and the very schema of the file before where this one is the same."""
        if self._of_last_file is None or not schema.equals(self._of_last_file, check_metadata=True):
            self._of_last_file = _checked(path, schema)
        return self._of_last_file

    def _file(self, trial_id: str) -> Path:
        """Where a trial's own rows are."""
        return self.path / "trials" / trial_id / EPOCHS

    def _is_damaged(self, trial_id: str, why: str) -> None:
        self.damaged[trial_id] = why
        self.stamps.pop(trial_id)  # to be read again, not taken for compacted

    def chunks(self) -> Iterator[pa.Table]:
        """Tables of at least a few rows, each with all rows of its trials."""
        held: list[pa.Table] = []
        for table in itertools.chain(self._of_compacted(), self._of_files()):
            held.append(table)
            if sum(part.num_rows for part in held) >= self.limits.rows:
                yield pa.concat_tables(held).combine_chunks()
                held = []
        if held:
            yield pa.concat_tables(held).combine_chunks()

    def _of_compacted(self) -> Iterator[pa.Table]:
        """A row group at a time; one holds whole trials. From a damaged one on, trials' own files take their place."""
        if self._compacted is None:
            return
        fresh, stale, had = pa.array(self._stale, pa.string()), set(self._stale), set(self._stale)
        try:
            with reading(self._compacted), pq.ParquetFile(self._compacted, **VERIFIED) as file:
                for group in range(file.num_row_groups):
                    table = file.read_row_group(group, use_threads=False)
                    ids = pc.unique(table["trial_id"]).to_pylist()
                    had.update(ids)
                    if not stale.isdisjoint(ids):
                        table = table.filter(pc.invert(pc.is_in(table["trial_id"], value_set=fresh)))
                    yield self._as_one(table)
        except StudyError as error:
            warn(f"{error}; what it holds is read from the trials")
            self._later += [trial_id for trial_id in self.stamps if trial_id not in had]

    def _of_files(self) -> Iterator[pa.Table]:
        while self._held:
            yield self._alike_as_one(self._held.pop(0))
        trials = self.limits.trials
        for start in range(0, len(self._later), trials):
            read = (self._again(trial_id) for trial_id in self._later[start : start + trials])
            tables = [table for table in read if table is not None]
            if tables:
                yield pa.concat_tables(tables).combine_chunks()
        if self.damaged:
            first, why = next(iter(self.damaged.items()))
            more = f", and those of {len(self.damaged) - 1} more trials" if len(self.damaged) > 1 else ""
            warn(
                f"{why}: epochs of trial {first}{more} are missing or as they were compacted; `akdtune run` mends that"
            )

    def _alike_as_one(self, table: pa.Table) -> pa.Table:
        """`_as_one` of several files' rows that are alike; nothing where their values cannot stand in these columns."""
        try:
            return self._as_one(table)
        except pa.ArrowException as error:
            for trial_id in pc.unique(table["trial_id"]).to_pylist():
                reason = str(error).splitlines()[0]
                self._is_damaged(trial_id, f"{self._file(trial_id)}: cannot be read, of other columns ({reason})")
            return self.schema.empty_table()

    def _again(self, trial_id: str) -> pa.Table | None:
        if trial_id in self.damaged:
            return None
        try:
            with reading(self._file(trial_id)):
                return self._as_one(self._read(trial_id))
        except StudyError as error:
            self._is_damaged(trial_id, str(error))
            return None

    def _as_one(self, table: pa.Table) -> pa.Table:
        """The same rows with the columns of all."""
        held = set(table.column_names)
        columns = [
            table[column.name].cast(column.type) if column.name in held else pa.nulls(table.num_rows, column.type)
            for column in self.schema
        ]
        return pa.table(columns, schema=self.schema)


def _checked(path: Path, schema: pa.Schema) -> pa.Schema:
    """The columns of a file of epochs.

    Raises:
        StudyError: for a file of anything else.
    """
    for name, kind in EPOCH_COLUMNS.items():
        field = schema.field(name) if name in schema.names else None
        if field is None and name in ("trial_id", "epoch"):
            raise StudyError(f"{path}: holds no epochs of trials (it has no column {name})")
        if field is not None and not (field.type == kind or pa.types.is_null(field.type) or _both_numbers(field, kind)):
            raise StudyError(f"{path}: holds no epochs of trials (column {name} is {field.type})")
    return schema


def _both_numbers(field: pa.Field, kind: pa.DataType) -> bool:
    return is_numeric(field.type) and is_numeric(kind)


def _common_schema(schemas: Iterable[pa.Schema]) -> pa.Schema:
    """`EPOCH_COLUMNS`, then all others by name, each in a type that holds what any of the schemas has there.

    What a file says about a column is kept; files from before columns were declared say nothing.
    """
    kinds: dict[str, set[pa.DataType]] = {}
    known: dict[str, Column | None] = {}
    for schema in {schema.serialize().to_pybytes(): schema for schema in schemas}.values():  # nearly all are alike
        for field in schema:
            known[field.name] = either(known.get(field.name), Column.of_metadata(field.name, field.metadata))
            if field.name not in EPOCH_COLUMNS:
                kinds.setdefault(field.name, set()).add(field.type)
    types = EPOCH_COLUMNS | {name: _common_type(kinds[name]) for name in sorted(kinds)}
    return pa.schema([field_of(name, kind, known.get(name)) for name, kind in types.items()])


def _common_type(kinds: Set[pa.DataType]) -> pa.DataType:
    known = [kind for kind in kinds if not pa.types.is_null(kind)]
    if len(known) == 1:
        return known[0]
    if all(map(is_numeric, known)):
        return pa.float64()
    return pa.string()


def _stamps(folder: Path) -> dict[str, list[int]]:
    stamps: dict[str, list[int]] = {}
    for directory in sorted(os.listdir(folder)) if folder.is_dir() else []:
        try:
            stat = os.stat(f"{folder}/{directory}/{EPOCHS}")  # noqa: PTH116  # a Path costs four times the call
        except (FileNotFoundError, NotADirectoryError):
            continue
        stamps[directory] = [stat.st_mtime_ns, stat.st_size]
    return stamps

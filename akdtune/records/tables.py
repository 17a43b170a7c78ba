"""One row per trial and one per epoch: built from what a study's processes wrote, and compacted for later reads.

`files.py` reads and writes single files; here they become the tables that reports and analyses start from.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from akdtune.columns import Column, Summary, declarations, either
from akdtune.errors import AkdtuneWarning, StudyError
from akdtune.records.events import (
    Event,
    RungDecided,
    StudyFinished,
    StudyStarted,
    TrialEnded,
    TrialInterrupted,
    TrialPlanned,
    TrialRetried,
    TrialStarted,
    parse,
)
from akdtune.records.files import (
    EPOCH_COLUMNS,
    EPOCHS,
    LEDGER,
    METRICS,
    PLAN,
    ROW_COLUMNS,
    TRIAL_COLUMNS,
    TRIALS,
    VERIFIED,
    check_plan_row,
    described,
    field_of,
    heads,
    inferred,
    plan_file_rows,
    read_schema,
    read_table,
    reading,
    replacing,
    require_study,
    write_table,
)
from akdtune.roles import TERMINAL

WHOLE_TRIAL_COLUMNS = (
    Column("cell_id", "", "hash of all settings that change a number; trials of several seeds share it", "trial"),
    Column("arm", "", "views and base method, e.g. angular/kd", "trial"),
    Column("role", "", "search, probe, confirm, ablation or control", "trial"),
    Column("seed", "", "seed of the trial", "trial"),
    Column("number", "", "place of the trial in the plan, counted from 0", "trial"),
    Column("cell", "", "name of the cell in a confirmation or an ablation", "trial"),
    Column("reused_from", "", "study directory that the finished trial was taken from", "trial"),
    Column("status", "", "planned, running, interrupted, done, pruned, diverged or failed", "trial"),
    Column("stop_reason", "", "why it ended, or was interrupted, before its last epoch", "trial"),
    Column("attempts", "", "how often the trial was begun", "trial"),
    Column("epochs", "", "student epochs that are finished", "trial"),
    Column("val_accuracy_best", "percent", "highest val_accuracy of all epochs", "trial"),
    Column("student_macs", "multiply-adds", "of the student for one image", "trial"),
    Column("train_time_s", "s", "sum of wall_time_s, where the search weighs time", "trial"),
    Column("param.*", "", "the searched setting of this key path", "trial"),
)
"""What a row of `trials.parquet` holds besides what its epochs hold."""

LATER_TRIAL_COLUMNS = (
    Column("trained_on", "", "processor, threads, device and versions that trained it, as JSON", "trial"),
)
"""The same, in studies that know it."""

_BEFORE_DECLARATIONS: dict[str, Summary] = {
    "wall_time_s": "sum", "warmup_time_s": "sum", "images_per_s": "mean", "peak_memory_mib": "max",
}  # fmt: skip
"""How epochs become a trial's value where a file says nothing about its columns and it is not `last`."""

_SOURCES = b"akdtune.sources"
_TYPES = b"akdtune.types"


@dataclass(frozen=True)
class ChunkLimits:
    """Epoch rows are held in memory about so many at a time, whole trials always.

    Attributes:
        trials: whose files are read together.
        rows: a chunk is full with so many.
    """

    trials: int = 128
    rows: int = 16_000


Floats: TypeAlias = npt.NDArray[np.float64]


# --------------------------------------------------------------------------------------------------- tables


def read_epochs(run_dir: str | os.PathLike[str], limits: ChunkLimits = ChunkLimits()) -> pa.Table:
    """One row per trial and epoch, of every trial that has finished an epoch.

    Rows come from the compacted file where it still agrees with the trial's own file, else from that file.

    Raises:
        StudyError: for a directory that is no study, or a file that cannot be read.
    """
    epochs = Epochs(require_study(run_dir), limits)
    return pa.concat_tables([epochs.schema.empty_table(), *epochs.chunks()]).combine_chunks()


def read_trials(run_dir: str | os.PathLike[str]) -> pa.Table:
    """One row per planned trial: `trials.parquet` where it is up to date with plan and ledger, else built anew.

    Raises:
        StudyError: for a directory that is no study, or a file that cannot be read.
    """
    path = require_study(run_dir)
    compacted = path / TRIALS
    if compacted.exists():
        only = not any((path / name).exists() for name in (PLAN, LEDGER))
        try:
            table = read_table(compacted)
            if _up_to_date(path, table) and _has_its_types(table):
                return table
        except StudyError as error:
            if only:
                raise
            _warn(f"{error}; what it holds is built from the trials")
        if only:
            raise StudyError(f"{compacted}: damaged, it lacks columns of every study; restore it from a copy")
    return build_trials(path)


def compact(run_dir: str | os.PathLike[str], limits: ChunkLimits = ChunkLimits()) -> None:
    """Writes `trials.parquet` and `epochs.parquet`, the compacted views that later reads start from.

    Raises:
        StudyError: for a directory that is no study, or files that cannot be read or written.
    """
    path = require_study(run_dir)
    sources = _fingerprints(path)  # before reading, so that a later event makes the result stale
    trials = _join(path, _write_compacted(path, limits))
    facts = {_SOURCES: json.dumps(sources), _TYPES: _types(trials.schema)}
    write_table(path / TRIALS, trials.replace_schema_metadata(facts))


def compact_epochs(run_dir: str | os.PathLike[str]) -> None:
    """Writes `epochs.parquet` alone, so that later reads need not open a file per trial.

    Raises:
        StudyError: as `compact`.
    """
    _write_compacted(require_study(run_dir), ChunkLimits())


def build_trials(
    run_dir: str | os.PathLike[str], limits: ChunkLimits = ChunkLimits(), *, compacted: bool = True
) -> pa.Table:
    """One row per planned trial, from plan, ledger and epoch rows.

    Columns are `TRIAL_COLUMNS`, `param.<key path>`, and behind them whatever else was measured and has a value a trial
    by its declaration; a column of numbers that nobody declared has that of the last epoch so far. `described` of
    `files.py` says what each column holds.

    Args:
        run_dir: the study directory.
        limits: of what is held in memory.
        compacted: whether epochs come from `epochs.parquet` where it holds; else from trials' own files alone.

    Raises:
        StudyError: for a directory that is no study, or a file that cannot be read.
    """
    path = require_study(run_dir)
    return _join(path, [_summary(chunk) for chunk in Epochs(path, limits, compacted=compacted).chunks()])


# ------------------------------------------------------------------------------------------ compacted views


def is_fresh(run_dir: Path, table: pa.Table) -> bool:
    """Whether a table that was read from `trials.parquet` is what readers of the study take."""
    return _up_to_date(run_dir, table)


def _fingerprints(path: Path) -> dict[str, list[int | str]]:
    """Size and a hash of the end of plan and ledger: both change with every write, and survive a copy."""
    fingerprints: dict[str, list[int | str]] = {}
    for name in (PLAN, LEDGER):
        with contextlib.suppress(OSError), (path / name).open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 4096))
            fingerprints[name] = [size, hashlib.sha256(file.read(4096)).hexdigest()[:16]]
    return fingerprints


def _up_to_date(path: Path, table: pa.Table) -> bool:
    sources = _fingerprints(path)
    recorded = (table.schema.metadata or {}).get(_SOURCES)
    if not sources:
        return True  # the compacted file is all there is
    if recorded is not None:
        return bool(_plain(recorded) == sources)
    written = (path / TRIALS).stat().st_mtime_ns
    return all(written > (path / name).stat().st_mtime_ns for name in sources)


def _types(schema: pa.Schema) -> str:
    """Names and types of columns in one word."""
    named = [(field.name, str(field.type)) for field in schema]
    return hashlib.sha256(json.dumps(named).encode()).hexdigest()[:16]


def _has_its_types(table: pa.Table) -> bool:
    """Whether a compacted table has the columns that it was written with; those of every study, if it does not say."""
    recorded = (table.schema.metadata or {}).get(_TYPES)
    if recorded is not None and recorded.decode(errors="replace") != _types(table.schema):
        return False
    types = {field.name: field.type for field in table.schema}
    return all(types.get(name) == kind for name, kind in TRIAL_COLUMNS.items())


def _plain(metadata: bytes | None) -> Any:
    try:
        return json.loads(metadata or b"{}")
    except ValueError:
        return {}


def _warn(sentence: str) -> None:
    warnings.warn(sentence, AkdtuneWarning, stacklevel=4)


def read_stamps(path: Path) -> dict[str, list[int]]:
    """Modification time in ns and size of those trials' files whose rows are in the compacted view; none without it."""
    with contextlib.suppress(StudyError):
        stamps = _plain((read_schema(path / EPOCHS).metadata or {}).get(_SOURCES))
        return stamps if isinstance(stamps, dict) else {}
    return {}


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
        limits: ChunkLimits = ChunkLimits(),
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
                schemas.append(_checked_schema(path / EPOCHS))
                recorded = read_stamps(path)
            except StudyError as error:
                self._compacted = None
                if (path / EPOCHS).exists():
                    _warn(f"{error}; what it holds is read from the trials")
        stale = [trial_id for trial_id, stamp in self.stamps.items() if recorded.get(trial_id) != stamp]
        for trial_id in stale:
            try:
                schemas.append(_checked_schema(self._file(trial_id)))
            except StudyError as error:
                self._is_damaged(trial_id, str(error))
        self._stale = [trial_id for trial_id in stale if trial_id not in self.damaged]
        self.schema = _common_schema(schemas)

    def _file(self, trial_id: str) -> Path:
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
        fresh, had = pa.array(self._stale, pa.string()), set(self._stale)
        try:
            with reading(self._compacted), pq.ParquetFile(self._compacted, **VERIFIED) as file:
                for group in range(file.num_row_groups):
                    table = file.read_row_group(group, use_threads=False)
                    had.update(pc.unique(table["trial_id"]).to_pylist())
                    if len(fresh):
                        table = table.filter(pc.invert(pc.is_in(table["trial_id"], value_set=fresh)))
                    yield self._as_one(table)
        except StudyError as error:
            _warn(f"{error}; what it holds is read from the trials")
            self._stale += [trial_id for trial_id in self.stamps if trial_id not in had]

    def _of_files(self) -> Iterator[pa.Table]:
        trials = self.limits.trials
        for start in range(0, len(self._stale), trials):
            read = (self._of_file(trial_id) for trial_id in self._stale[start : start + trials])
            tables = [table for table in read if table is not None]
            if tables:
                yield pa.concat_tables(tables).combine_chunks()
        if self.damaged:
            first, why = next(iter(self.damaged.items()))
            more = f", and those of {len(self.damaged) - 1} more trials" if len(self.damaged) > 1 else ""
            _warn(
                f"{why}: epochs of trial {first}{more} are missing or as they were compacted; `akdtune run` mends that"
            )

    def _of_file(self, trial_id: str) -> pa.Table | None:
        if trial_id in self.damaged:
            return None
        path = self._file(trial_id)
        try:
            with reading(path):
                table = self._as_one(read_table(path))
            if table.num_rows and pc.unique(table["trial_id"]).to_pylist() != [trial_id]:
                raise StudyError(f"{path}: is not this trial's")
        except StudyError as error:
            self._is_damaged(trial_id, str(error))
            return None
        return table

    def _as_one(self, table: pa.Table) -> pa.Table:
        """The same rows with the columns of all."""
        held = set(table.column_names)
        columns = [
            table[column.name].cast(column.type) if column.name in held else pa.nulls(table.num_rows, column.type)
            for column in self.schema
        ]
        return pa.table(columns, schema=self.schema)


def _checked_schema(path: Path) -> pa.Schema:
    """The columns of a file of epochs.

    Raises:
        StudyError: for a file of anything else.
    """
    schema = read_schema(path)
    for name, kind in EPOCH_COLUMNS.items():
        field = schema.field(name) if name in schema.names else None
        if field is None and name in ("trial_id", "epoch"):
            raise StudyError(f"{path}: holds no epochs of trials (it has no column {name})")
        if field is not None and not (field.type == kind or pa.types.is_null(field.type) or _both_numbers(field, kind)):
            raise StudyError(f"{path}: holds no epochs of trials (column {name} is {field.type})")
    return schema


def _both_numbers(field: pa.Field, kind: pa.DataType) -> bool:
    return _is_numeric(field.type) and _is_numeric(kind)


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
    if all(map(_is_numeric, known)):
        return pa.float64()
    return pa.string()


def _stamps(folder: Path) -> dict[str, list[int]]:
    stamps: dict[str, list[int]] = {}
    for directory in sorted(os.listdir(folder)) if folder.is_dir() else []:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            stat = (folder / directory / EPOCHS).stat()
            stamps[directory] = [stat.st_mtime_ns, stat.st_size]
    return stamps


def _write_compacted(path: Path, limits: ChunkLimits) -> list[pa.Table]:
    """Writes `epochs.parquet` chunk by chunk and returns the trials' summaries, so that rows are read once."""
    damaged: dict[str, str] = {}
    while True:
        epochs = Epochs(path, limits, damaged)
        schema = epochs.schema.with_metadata({_SOURCES: json.dumps(epochs.stamps)})
        known, summaries = len(epochs.damaged), []
        with (
            replacing(path / EPOCHS) as file,
            pq.ParquetWriter(file, schema, compression="zstd", write_page_checksum=True) as writer,
        ):
            for chunk in epochs.chunks():
                writer.write_table(chunk, row_group_size=max(1, chunk.num_rows))
                summaries.append(_summary(chunk))
        if len(epochs.damaged) == known:
            return summaries
        damaged = epochs.damaged  # found while the rows were read: what was compacted of it is to stay


# ---------------------------------------------------------------------------------------------- trial rows


@dataclass
class _Outcome:
    """What the ledger says about one trial."""

    status: str = "planned"
    reason: str | None = None
    attempts: int = 0
    reused_from: str | None = None
    trained_on: str | None = None
    student_macs: int | None = None
    timed: bool = False


_OF_OUTCOMES = {"study_started", "study_finished", "started", "rung", "interrupted", "retried", *TERMINAL}


def _outcomes(events: Iterable[Event]) -> dict[str, _Outcome]:
    """The state of every trial that the ledger names; the first terminal event counts, as does a recorded stop.

    Of a trial that was retried, it is the first one after that.
    """
    outcomes: dict[str, _Outcome] = {}
    for event in events:
        if isinstance(event, StudyStarted | StudyFinished):  # whatever ran under an earlier driver runs no more
            for outcome in outcomes.values():
                if outcome.status == "running":
                    outcome.status = "interrupted"
        if not event.trial_id:
            continue
        outcome = outcomes.setdefault(event.trial_id, _Outcome())
        if isinstance(event, TrialStarted):
            outcome.attempts = max(outcome.attempts + 1, event.attempt)
            outcome.student_macs = event.student_macs
            outcome.timed = "time" in event.objectives
        if isinstance(event, TrialRetried):
            outcome.status, outcome.reason = "interrupted", event.error
        if outcome.status in TERMINAL:
            continue
        if isinstance(event, TrialEnded):
            outcome.status, outcome.reason = event.kind, event.reason or event.error
            outcome.reused_from = event.reused_from
            outcome.trained_on = None if event.trained_on is None else json.dumps(event.trained_on, sort_keys=True)
        elif isinstance(event, RungDecided) and event.decision == "STOP":
            outcome.status, outcome.reason = "pruned", f"rung {event.rung}"
        elif isinstance(event, TrialStarted | TrialInterrupted):
            outcome.status = "running" if isinstance(event, TrialStarted) else "interrupted"
            outcome.reason = None if isinstance(event, TrialStarted) else event.cause
    return outcomes


_PLANNED = ("trial_id", "cell_id", "arm", "role", "seed", "number", "cell")


def _join(path: Path, summaries: Sequence[pa.Table]) -> pa.Table:
    rows_of_file, trouble = plan_file_rows(path, (*_PLANNED, "params"))
    plan, planned = list(rows_of_file.values()), set(rows_of_file)

    def of_outcomes() -> Iterator[Event]:
        """One pass over the ledger; proposals that the plan's file lacks are taken up on the way."""
        for kind, trial_id, line in heads(path):
            if kind == "planned":
                if trial_id not in planned and isinstance(row := parse(line), TrialPlanned):
                    with contextlib.suppress(StudyError):
                        check_plan_row(path / LEDGER, row.plan)
                        plan.append(row.plan)
                        planned.add(trial_id)
            elif (not kind or kind in _OF_OUTCOMES) and (event := parse(line)) is not None:
                yield event

    outcomes = _outcomes(of_outcomes())
    if trouble is not None:
        if not plan:
            raise trouble
        _warn(f"{trouble}; the ledger has its rows")
    # Without a plan the ledger's trials still count; their arm and role are unknown.
    rows = plan + [{"trial_id": trial_id, "params": {}} for trial_id in outcomes if trial_id not in planned]
    of_rows = [outcomes.get(row["trial_id"], _Outcome()) for row in rows]
    columns: dict[str, Any] = {name: [row.get(name) for row in rows] for name in _PLANNED}
    columns["reused_from"] = [outcome.reused_from for outcome in of_rows]
    columns["status"] = [outcome.status for outcome in of_rows]
    columns["stop_reason"] = [None if outcome.reason is None else str(outcome.reason) for outcome in of_rows]
    columns["attempts"] = [outcome.attempts for outcome in of_rows]
    measured = pa.concat_tables(summaries or [_summary_schema(pa.schema([])).empty_table()]).combine_chunks()
    positions = pc.index_in(pa.array(columns["trial_id"], pa.string()), value_set=measured["trial_id"])
    columns.update(zip(measured.column_names[1:], measured.take(positions).columns[1:], strict=True))
    seconds = columns["wall_time_s"].to_pylist()
    columns["student_macs"] = [outcome.student_macs for outcome in of_rows]
    columns["train_time_s"] = [
        time_s if outcome.timed else None for time_s, outcome in zip(seconds, of_rows, strict=True)
    ]
    types = dict(TRIAL_COLUMNS)
    params = [row.get("params") or {} for row in rows]
    for key in sorted({key for settings in params for key in settings}):
        columns[f"param.{key}"] = inferred([settings.get(key) for settings in params])
        types[f"param.{key}"] = columns[f"param.{key}"].type
    types |= {field.name: field.type for field in measured.schema if field.name not in types}
    if any(outcome.trained_on is not None for outcome in of_rows):
        columns["trained_on"], types["trained_on"] = [outcome.trained_on for outcome in of_rows], pa.string()
    declared = (*ROW_COLUMNS, *WHOLE_TRIAL_COLUMNS, *LATER_TRIAL_COLUMNS, *described(measured.schema))
    known = declarations(types, declared)
    schema = pa.schema([field_of(name, kind, known.get(name)) for name, kind in types.items()])
    arrays = [
        columns[name] if isinstance(columns[name], pa.ChunkedArray) else pa.array(columns[name], type=kind)
        for name, kind in types.items()
    ]
    return pa.table(arrays, schema=schema)


def _summary_schema(epochs: pa.Schema) -> pa.Schema:
    """A trial's columns that are made of its epochs: those of every study, then others of numbers by their summary."""
    known = {field.name: Column.of_metadata(field.name, field.metadata) for field in epochs}
    fields = [pa.field("trial_id", pa.string()), pa.field("epochs", pa.int64())]
    fields += [pa.field("val_accuracy_best", pa.float64())]
    fields += [field_of(name, pa.float64(), known.get(name)) for name in METRICS]
    taken = TRIAL_COLUMNS.keys() | EPOCH_COLUMNS.keys()
    for field in epochs:
        summary = summary_of(field)
        if field.name in taken or field.name.startswith("param.") or summary in ("none", "trial"):
            continue
        if _is_numeric(field.type):
            kind = field.type if summary == "last" else pa.float64()
            fields.append(field_of(field.name, kind, known[field.name]))
    return pa.schema(fields)


def summary_of(field: pa.Field) -> Summary:
    """How the values of a column's epochs become a trial's, as its file says."""
    declared = Column.of_metadata(field.name, field.metadata)
    if declared is not None:
        return declared.summary
    return "none" if field.name.startswith("loss.") else _BEFORE_DECLARATIONS.get(field.name, "last")


def _is_numeric(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _summary(epochs: pa.Table) -> pa.Table:
    """One row per trial of a table that holds all rows of its trials: `_summary_schema`."""
    schema = _summary_schema(epochs.schema)
    if not epochs.num_rows:
        return schema.empty_table()
    encoded = epochs["trial_id"].combine_chunks().dictionary_encode()
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    epoch = _floats(epochs["epoch"])
    order = np.lexsort((_floats(epochs["attempt"]), epoch, codes))
    keep = np.ones(len(order), bool)  # of an epoch that two attempts ran, the later attempt's row
    keep[:-1] = (np.diff(codes[order]) != 0) | (np.diff(epoch[order]) != 0)
    order = order[keep]
    starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
    ends = np.append(starts[1:], len(order)) - 1
    measured = [name for name in schema.names if name not in ("trial_id", "epochs", "val_accuracy_best")]
    last = epochs.select([*measured, "epoch"]).take(pa.array(order[ends]))
    columns: dict[str, Any] = {"trial_id": encoded.dictionary, "epochs": last["epoch"]}
    best = _reduce(np.fmax, _floats(epochs["val_accuracy"])[order], starts)
    columns["val_accuracy_best"] = pa.array(best, mask=np.isnan(best))
    for name in measured:
        summary = summary_of(epochs.schema.field(name))
        if summary == "last":
            columns[name] = last[name]
            continue
        values = _summarised(summary, _floats(epochs[name])[order], starts)
        if summary == "sum" and name in METRICS:
            values = np.nan_to_num(values)  # as in all studies so far: what was not written down took no time
        columns[name] = pa.array(values, mask=np.isnan(values))
    return pa.table([columns[name] for name in schema.names], schema=schema)


def _summarised(summary: Summary, values: Floats, starts: npt.NDArray[np.int64]) -> Floats:
    """A value per trial out of those of its epochs, NaN where none is known."""
    if summary in ("max", "min"):
        return _reduce(np.fmax if summary == "max" else np.fmin, values, starts)
    if summary not in ("sum", "mean"):
        return np.full(len(starts), np.nan)
    known = _reduce(np.add, (~np.isnan(values)).astype(np.float64), starts)
    total = np.where(known > 0, _reduce(np.add, np.where(np.isnan(values), 0.0, values), starts), np.nan)
    return total if summary == "sum" else np.asarray(total / np.maximum(known, 1), np.float64)


def _floats(column: pa.ChunkedArray) -> Floats:
    return np.asarray(pc.cast(column, pa.float64()).to_numpy(), np.float64)


def _reduce(operation: np.ufunc, values: Floats, starts: npt.NDArray[np.int64]) -> Floats:
    """One value per run of `values`; each run begins at one of `starts`."""
    return np.asarray(operation.reduceat(values, starts), np.float64) if len(starts) else np.empty(0)

"""One row per trial and one per epoch: built from what a study's processes wrote, and compacted for later reads.

`files.py` reads and writes single files; here they become the tables that reports and analyses start from.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from akdtune.columns import Column, declarations
from akdtune.errors import StudyError
from akdtune.metric import ACCURACY, Metric
from akdtune.records.epoch_rows import CHUNKS, SOURCES, ChunkLimits, Epochs, warn
from akdtune.records.files import (
    EPOCHS,
    LEDGER,
    PLAN,
    ROW_COLUMNS,
    TRIAL_COLUMNS,
    TRIALS,
    described,
    field_of,
    inferred,
    packing,
    read_table,
    replacing,
    require_study,
    write_table,
)
from akdtune.records.ledger.events import (
    Event,
    RungDecided,
    StudyFinished,
    StudyStarted,
    TrialEnded,
    TrialInterrupted,
    TrialPlanned,
    TrialRetried,
    TrialStarted,
)
from akdtune.records.ledger.lines import parse
from akdtune.records.ledger.reading import heads
from akdtune.records.lock_file import metric_of
from akdtune.records.plan_file import check_plan_row, plan_file_rows
from akdtune.records.trial_summaries import best_of, summary_rows, summary_schema
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
    best_of(ACCURACY),
    Column("student_macs", "multiply-adds", "of the student for one image", "trial"),
    Column("train_time_s", "s", "sum of wall_time_s, where the search weighs time", "trial"),
    Column("param.*", "", "the searched setting of this key path", "trial"),
)
"""What a row of `trials.parquet` holds besides what its epochs hold."""

LATER_TRIAL_COLUMNS = (
    Column("trained_on", "", "processor, threads, device and versions that trained it, as JSON", "trial"),
)
"""The same, in studies that know it."""

_TYPES = b"akdtune.types"


# --------------------------------------------------------------------------------------------------- tables


def read_epochs(run_dir: str | os.PathLike[str], limits: ChunkLimits = CHUNKS) -> pa.Table:
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
            warn(f"{error}; what it holds is built from the trials")
        if only:
            raise StudyError(f"{compacted}: damaged, it lacks columns of every study; restore it from a copy")
    return build_trials(path)


def compact(run_dir: str | os.PathLike[str], limits: ChunkLimits = CHUNKS) -> None:
    """Writes `trials.parquet` and `epochs.parquet`, the compacted views that later reads start from.

    Raises:
        StudyError: for a directory that is no study, or files that cannot be read or written.
    """
    path = require_study(run_dir)
    sources = _fingerprints(path)  # before reading, so that a later event makes the result stale
    trials = _join(path, _write_compacted(path, limits, metric_of(path)), metric_of(path))
    facts = {SOURCES: json.dumps(sources), _TYPES: _types(trials.schema)}
    write_table(path / TRIALS, trials.replace_schema_metadata(facts))


def compact_epochs(run_dir: str | os.PathLike[str]) -> None:
    """Writes `epochs.parquet` alone, so that later reads need not open a file per trial.

    Raises:
        StudyError: as `compact`.
    """
    _write_compacted(require_study(run_dir), CHUNKS, None)


def build_trials(run_dir: str | os.PathLike[str], limits: ChunkLimits = CHUNKS, *, compacted: bool = True) -> pa.Table:
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
    metric = metric_of(path)
    chunks = Epochs(path, limits, compacted=compacted).chunks()
    return _join(path, [summary_rows(chunk, metric) for chunk in chunks], metric)


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
    recorded = (table.schema.metadata or {}).get(SOURCES)
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


def _write_compacted(path: Path, limits: ChunkLimits, metric: Metric | None) -> list[pa.Table]:
    """Writes `epochs.parquet` chunk by chunk and returns the trials' summaries, so that rows are read once.

    Args:
        path: of the study directory.
        limits: of the chunks.
        metric: of the study; None where nobody wants the summaries.
    """
    damaged: dict[str, str] = {}
    while True:
        epochs = Epochs(path, limits, damaged)
        schema = epochs.schema.with_metadata({SOURCES: json.dumps(epochs.stamps)})
        known, summaries = len(epochs.damaged), []
        with (
            replacing(path / EPOCHS) as file,
            pq.ParquetWriter(file, schema, **packing(schema)) as writer,
        ):
            for chunk in epochs.chunks():
                writer.write_table(chunk, row_group_size=max(1, chunk.num_rows))
                if metric is not None:
                    summaries.append(summary_rows(chunk, metric))
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


_GOES_ON = b'"decision": "CONTINUE"'
_PLANNED = ("trial_id", "cell_id", "arm", "role", "seed", "number", "cell")


def _join(path: Path, summaries: Sequence[pa.Table], metric: Metric) -> pa.Table:
    rows_of_file, trouble = plan_file_rows(path, (*_PLANNED, "params"))
    plan, planned = list(rows_of_file.values()), set(rows_of_file)

    def of_outcomes() -> Iterator[Event]:
        """One pass over the ledger; proposals that the plan's file lacks are taken up on the way."""
        for kind, trial_id, line in heads(path, "none"):
            if kind == "planned":
                if trial_id not in planned and isinstance(row := parse(line), TrialPlanned):
                    with contextlib.suppress(StudyError):
                        check_plan_row(path / LEDGER, row.plan)
                        plan.append(row.plan)
                        planned.add(trial_id)
            elif kind == "rung" and _GOES_ON in line:
                continue
            elif (not kind or kind in _OF_OUTCOMES) and (event := parse(line)) is not None:
                yield event

    outcomes = _outcomes(of_outcomes())
    if trouble is not None:
        if not plan:
            raise trouble
        warn(f"{trouble}; the ledger has its rows")
    # Without a plan the ledger's trials still count; their arm and role are unknown.
    rows = plan + [{"trial_id": trial_id, "params": {}} for trial_id in outcomes if trial_id not in planned]
    of_rows = [outcomes.get(row["trial_id"], _Outcome()) for row in rows]
    columns: dict[str, Any] = {name: [row.get(name) for row in rows] for name in _PLANNED}
    columns["reused_from"] = [outcome.reused_from for outcome in of_rows]
    columns["status"] = [outcome.status for outcome in of_rows]
    columns["stop_reason"] = [None if outcome.reason is None else str(outcome.reason) for outcome in of_rows]
    columns["attempts"] = [outcome.attempts for outcome in of_rows]
    measured = pa.concat_tables(summaries or [summary_schema(pa.schema([]), metric).empty_table()]).combine_chunks()
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

"""The tables that a study's readers start from, against the trials' own files."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from akdtune.errors import AkdtuneWarning, StudyError
from akdtune.records import files, tables
from akdtune.records.epoch_rows import read_stamps
from akdtune.records.files import EPOCHS, TRIALS, VERIFIED
from akdtune.reports.text import counted
from akdtune.roles import TERMINAL
from akdtune.verification.checks import Check, Progress, check, differs, not_at_hand, same

INDEX = "__index_level_"
"""Columns that pandas adds."""


def trials_check(run: Path) -> Check:
    """Every value of `trials.parquet` against what plan, ledger and the trials' rows make of it."""
    path = run / TRIALS
    if not path.exists():
        return not_at_hand(TRIALS, "there is none yet; readers build it from the trials")
    try:
        stored = files.read_table(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AkdtuneWarning)  # what is wrong with rows is said of the rows
            made = tables.build_trials(run, compacted=False)
        fresh = tables.is_fresh(run, stored)
        columns = [name for name in stored.column_names if name in made.column_names]
        if "trial_id" not in columns:
            return check(TRIALS, "cannot be read", [f"{TRIALS}: has no column trial_id"])
        found = list(_trials(run, stored, made, columns, fresh))
    except StudyError as error:
        return check(TRIALS, "cannot be read", [str(error)])
    said = f"{counted(stored.num_rows, 'trial')} x {counted(len(columns), 'column')} recomputed"
    return check(TRIALS, said if fresh else f"{said}; older than the ledger, readers build it anew", found)


def _trials(run: Path, stored: pa.Table, made: pa.Table, columns: list[str], fresh: bool) -> Iterator[str]:
    recomputed = {row["trial_id"]: row for row in made.to_pylist()}
    has_rows = {trial_id for trial_id in recomputed if (files.trial_directory(run, trial_id) / EPOCHS).exists()}
    rows = stored.to_pylist()
    for row in rows:
        other = recomputed.get(row["trial_id"])
        if other is None:
            yield f"{TRIALS}: trial {row['trial_id']} is not in the plan"
            continue
        begun = row["trial_id"] in has_rows or not row.get("epochs")
        if not begun or (not fresh and (row["status"] not in TERMINAL or row["status"] != other["status"])):
            continue  # its rows are gone, or it went on since
        for name in columns:
            if not same(row[name], other[name]):
                yield differs(f"{TRIALS}, trial {row['trial_id']}", name, row[name], other[name])
    if fresh:
        known = Counter(row["trial_id"] for row in rows)
        yield from (f"{TRIALS}: trial {name} of the plan is missing" for name in recomputed if name not in known)
        yield from (f"{TRIALS}: trial {name} stands there twice" for name, times in known.items() if times > 1)
        more = [n for n in stored.column_names if n not in made.column_names and not n.startswith(INDEX)]
        yield from (f"{TRIALS}: column {name} follows from nothing in the study" for name in more)


def epochs_check(run: Path, progress: Progress) -> Check:
    """Every value of the compacted `epochs.parquet` against the trials' own files."""
    path = run / EPOCHS
    if not path.exists():
        return not_at_hand(EPOCHS, "there is none yet; readers take the trials' own files")
    found: list[str] = []
    rows, seen = 0, set[str]()
    try:
        with files.reading(path), pq.ParquetFile(path, **VERIFIED) as file:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, use_threads=False)
                rows += table.num_rows
                for trial_id, of_trial in _by_trial(table).items():
                    seen.add(trial_id)
                    found += _epochs(run, trial_id, of_trial)
                progress("compacted epochs", group + 1, file.num_row_groups)
    except (StudyError, KeyError) as error:
        return check(EPOCHS, "cannot be read", [*found, str(error)])
    return check(EPOCHS, f"{counted(rows, 'epoch')} of {counted(len(seen), 'trial')} compared with theirs", found)


def _by_trial(table: pa.Table) -> dict[str, pa.Table]:
    """The rows of each trial; those of one stand together."""
    ids = table["trial_id"].to_pylist()
    starts = [place for place in range(len(ids)) if place == 0 or ids[place] != ids[place - 1]]
    parts: dict[str, list[pa.Table]] = {}
    for start, end in zip(starts, [*starts[1:], len(ids)], strict=True):
        parts.setdefault(str(ids[start]), []).append(table.slice(start, end - start))
    return {trial_id: pa.concat_tables(of_trial) for trial_id, of_trial in parts.items()}


def _epochs(run: Path, trial_id: str, compacted: pa.Table) -> Iterator[str]:
    path = files.trial_directory(run, trial_id) / EPOCHS
    if not path.exists():
        return
    try:
        own = files.read_table(path)
    except StudyError:
        return  # said of the rows
    if _are_alike(own, compacted):
        return
    by_epoch = {row["epoch"]: row for row in own.to_pylist()} if "epoch" in own.column_names else {}
    names = [name for name in compacted.column_names if not name.startswith(INDEX)]
    for row in compacted.to_pylist():
        other = by_epoch.get(row["epoch"])
        if other is None:
            yield f"{EPOCHS}, trial {trial_id}: epoch {row['epoch']} is not in its own file"
            continue
        for name in names:
            if not same(row[name], _as(row[name], other.get(name))):
                yield differs(f"{EPOCHS}, trial {trial_id}, epoch {row['epoch']}", name, row[name], other.get(name))
    if (less := len(by_epoch) - compacted.num_rows) and _is_over(run, trial_id, by_epoch):
        yield f"{EPOCHS}, trial {trial_id}: {counted(abs(less), 'epoch')} {'missing' if less > 0 else 'too many'}"


def _are_alike(own: pa.Table, compacted: pa.Table) -> bool:
    """Whether each column that was compacted is a trial's own, to the last bit; False also where nobody can tell so."""
    if own.num_rows != compacted.num_rows or not set(own.column_names) <= set(compacted.column_names):
        return False
    held = set(own.column_names)
    for name in compacted.column_names:
        stored = compacted[name]
        if stored.null_count == len(stored) and (name not in held or own[name].null_count == len(stored)):
            continue
        if name not in held or stored.type != own[name].type or not _is_alike(stored, own[name]):
            return False
    return True


def _is_alike(stored: pa.ChunkedArray, other: pa.ChunkedArray) -> bool:
    if not pa.types.is_floating(stored.type):
        return bool(stored.equals(other))
    bits, others = (column.fill_null(0.0).to_numpy().tobytes() for column in (stored, other))
    return bool(bits == others and stored.is_null().equals(other.is_null()))  # zeros of both signs are not the same


def _as(stored: Any, other: Any) -> Any:
    """A value as it stands in a table of several trials, where whole numbers may have become real ones."""
    return float(other) if isinstance(stored, float) and isinstance(other, int) else other


def _is_over(run: Path, trial_id: str, rows: Mapping[int, Any]) -> bool:
    """Whether what was compacted should hold all of a trial's rows: its file is the one that was compacted."""
    path = files.trial_directory(run, trial_id) / EPOCHS
    facts = path.stat()
    return bool(rows) and read_stamps(run).get(trial_id) == [facts.st_mtime_ns, facts.st_size]

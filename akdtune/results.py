"""What a study leaves on disk, as tables: the plan, the ledger's events, rows per epoch and rows per trial.

Everything here only reads and writes files; who may write which file, and when, is `ledger.py`'s business. Reading
works on a running study and on one that was killed at any moment.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from akdtune.errors import StudyError

PLAN = "plan.parquet"
LEDGER = "ledger.jsonl"
TRIALS = "trials.parquet"
EPOCHS = "epochs.parquet"
LOCK = "study.lock.yaml"
TERMINAL = ("done", "pruned", "diverged", "failed")
STATUSES = ("planned", "running", "interrupted", *TERMINAL)
REPORT_ROLES = ("confirm", "ablation", "control")
"""Roles that train on the full training set and read the test set, once, at their end."""

_METRICS = (
    "train_accuracy", "val_accuracy", "test_accuracy", "ensemble_accuracy", "teacher_accuracy", "target_accuracy",
    "target_entropy", "diversity_sq_prob", "diversity_sq_logit", "diversity_sq_feature", "diversity_ce",
    "diversity_pair_prob", "diversity_pair_logit", "diversity_pair_feature", "inter_cosine", "offset_cosine",
    "inter_cosine_prob", "offset_cosine_prob", "gate_open_train", "gate_open_eval", "gate_open_train_logit",
    "gate_open_eval_logit", "margin", "agreement", "js_divergence", "score", "wall_time_s", "warmup_time_s",
    "images_per_s", "peak_memory_mib", "teacher_cache_hit_rate", "teacher_cache_fill_rate",
)  # fmt: skip
EPOCH_COLUMNS: dict[str, pa.DataType] = {
    "trial_id": pa.string(), "attempt": pa.int64(), "epoch": pa.int64(), "lr": pa.float64(),
    **{name: pa.float64() for name in _METRICS},
}  # fmt: skip
PLAN_COLUMNS: dict[str, pa.DataType] = {
    "number": pa.int64(), "trial_id": pa.string(), "cell_id": pa.string(), "seed": pa.int64(), "role": pa.string(),
    "arm": pa.string(), "bracket": pa.string(), "proposal": pa.int64(), "params": pa.string(),
    "settings": pa.string(), "raw": pa.string(),
}  # fmt: skip
TRIAL_COLUMNS: dict[str, pa.DataType] = {
    "trial_id": pa.string(), "cell_id": pa.string(), "arm": pa.string(), "role": pa.string(), "seed": pa.int64(),
    "number": pa.int64(), "status": pa.string(), "stop_reason": pa.string(), "attempts": pa.int64(),
    "epochs": pa.int64(), "val_accuracy": pa.float64(), "val_accuracy_best": pa.float64(),
    **{name: pa.float64() for name in _METRICS},
}  # fmt: skip
_JSON_COLUMNS = ("params", "settings", "raw")
_SOURCES = b"akdtune.sources"
Floats: TypeAlias = npt.NDArray[np.float64]


# ---------------------------------------------------------------------------------------------------- writing


def write_rows(
    path: str | os.PathLike[str],
    rows: Sequence[Mapping[str, Any]],
    columns: Mapping[str, pa.DataType] | None = None,
    *,
    durable: bool = False,
) -> None:
    """Writes rows to a Parquet file, which holds either its former content or all of the rows, never less.

    Args:
        path: the file; its directory is created.
        rows: any keys; a key that a row lacks is null there. Columns that akdtune knows by name (`EPOCH_COLUMNS` and
            `loss.*`) get their fixed type; others take theirs from the values (mixed kinds become JSON text).
        columns: columns that must be there even when no row has them, with their types.
        durable: also forces the bytes to disk, for files that a power failure must not lose.

    Raises:
        StudyError: when the file cannot be written (read-only directory, full disk).
        TypeError: when a value does not fit its column's type.
    """
    types = {**EPOCH_COLUMNS, **(columns or {})}
    names = list(columns or {})
    names += [name for name in dict.fromkeys(key for row in rows for key in row) if name not in names]
    arrays = [_array(name, [row.get(name) for row in rows], types.get(name)) for name in names]
    write_table(path, pa.table(arrays, names=names), durable=durable)


def write_table(path: str | os.PathLike[str], table: pa.Table, *, durable: bool = False) -> None:
    """Writes a table to a Parquet file through a temporary file beside it.

    Raises:
        StudyError: when the file cannot be written.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            pq.write_table(table, file, compression="zstd")
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(target)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise StudyError(f"cannot write {target}: {error.strerror or error}") from error


def write_predictions(
    path: str | os.PathLike[str],
    sample_ids_N: npt.NDArray[np.int64],
    labels_N: npt.NDArray[np.int64],
    logits_NK: npt.NDArray[np.floating[Any]],
) -> None:
    """Writes a network's logits on a split: `sample_id`, `label`, `logits` (a list of K float32 values a row).

    Args:
        path: the file, replaced as a whole.
        sample_ids_N: global ids of the images.
        labels_N: their true classes.
        logits_NK: one row per image.

    Raises:
        StudyError: when the file cannot be written.
    """
    logits = pa.FixedSizeListArray.from_arrays(pa.array(logits_NK.astype(np.float32).ravel()), logits_NK.shape[1])
    columns = [pa.array(sample_ids_N, pa.int64()), pa.array(labels_N, pa.int64()), logits.cast(pa.list_(pa.float32()))]
    write_table(path, pa.table(columns, names=["sample_id", "label", "logits"]))


def write_plan(run_dir: str | os.PathLike[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes every planned trial to `plan.parquet`, on disk when it returns.

    Args:
        run_dir: the study directory.
        rows: the columns of `PLAN_COLUMNS`; `params`, `settings` and `raw` are mappings or JSON text.

    Raises:
        StudyError: when the file cannot be written.
    """
    encoded = [{name: _as_text(name, row.get(name)) for name in PLAN_COLUMNS} for row in rows]
    write_rows(Path(run_dir) / PLAN, encoded, PLAN_COLUMNS, durable=True)


def _as_text(name: str, value: Any) -> Any:
    if name not in _JSON_COLUMNS or value is None or isinstance(value, str):
        return value
    return json.dumps(value, allow_nan=False)


def _array(name: str, values: list[Any], kind: pa.DataType | None) -> pa.Array:
    if kind is None and name.startswith("loss."):
        kind = pa.float64()
    if kind is None:
        return _inferred(values)
    try:
        return pa.array(values, type=kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError) as error:
        raise TypeError(f"column '{name}' takes {kind} or None: {error}") from error


def _inferred(values: list[Any]) -> pa.Array:
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
    try:
        with pq.ParquetFile(path) as file:
            return file.read(use_threads=False)
    except FileNotFoundError as error:
        raise StudyError(f"{path}: no such file") from error
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise StudyError(f"{path}: cannot be read, truncated or no Parquet file ({reason})") from error


def read_rows(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The rows of a Parquet file as mappings, absent values as None.

    Raises:
        StudyError: as `read_table`.
    """
    rows: list[dict[str, Any]] = read_table(path).to_pylist()
    return rows


def read_plan(run_dir: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Every planned trial in the order of the plan, `params`, `settings` and `raw` decoded; [] without a plan.

    Raises:
        StudyError: when the plan cannot be read.
    """
    path = Path(run_dir) / PLAN
    rows = read_rows(path) if path.exists() else []
    for row in rows:
        for name in _JSON_COLUMNS:
            if row.get(name) is not None:
                row[name] = json.loads(row[name])
    return rows


def read_lock(run_dir: str | os.PathLike[str], sections: Iterable[str] = ("settings",)) -> dict[str, Any] | None:
    """The content of `study.lock.yaml`; None where there is none.

    Args:
        run_dir: the study directory.
        sections: mappings that must be in it.

    Raises:
        StudyError: when it is damaged.
    """
    import yaml

    path = Path(run_dir) / LOCK
    try:
        held = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StudyError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (yaml.YAMLError, UnicodeDecodeError):
        held = None
    lacking = [name for name in sections if not isinstance(held, dict) or not isinstance(held.get(name), dict)]
    if lacking:
        raise StudyError(f"{path}: damaged, it holds no {' and no '.join(lacking)}; restore it from a copy")
    return dict(held)


def read_events(run_dir: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The ledger's events in order; [] without a ledger.

    A line that is not whole (the last one while it is being written, or after a kill) is left out.
    """
    path = Path(run_dir)
    path = path / LEDGER if path.is_dir() else path
    try:
        lines = path.read_bytes().split(b"\n")
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise StudyError(f"{path}: cannot be read ({error.strerror or error})") from error
    events = []
    for line in lines:
        with contextlib.suppress(ValueError):
            event = json.loads(line)
            if isinstance(event, dict) and "event" in event:
                events.append(event)
    return events


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


def read_epochs(run_dir: str | os.PathLike[str]) -> pa.Table:
    """One row per trial and epoch, of every trial that has finished an epoch.

    Rows come from the compacted file where it still agrees with the trial's own file, else from that file.

    Raises:
        StudyError: for a directory that is no study, or a file that cannot be read.
    """
    table, _ = _epochs_and_stamps(require_study(run_dir))
    return table


def read_trials(run_dir: str | os.PathLike[str]) -> pa.Table:
    """One row per planned trial: `trials.parquet` where it is up to date with plan and ledger, else built anew.

    Raises:
        StudyError: for a directory that is no study, or a file that cannot be read.
    """
    path = require_study(run_dir)
    compacted = path / TRIALS
    if compacted.exists():
        table = read_table(compacted)
        if _up_to_date(path, table):
            return table
    return build_trials(path)


def compact(run_dir: str | os.PathLike[str]) -> None:
    """Writes `trials.parquet` and `epochs.parquet`, the compacted views that later reads start from.

    Raises:
        StudyError: for a directory that is no study, or files that cannot be read or written.
    """
    path = require_study(run_dir)
    sources = _fingerprints(path)  # before reading, so that a later event makes the result stale
    epochs, stamps = _epochs_and_stamps(path)
    write_table(path / EPOCHS, epochs.replace_schema_metadata({_SOURCES: json.dumps(stamps)}))
    trials = _join(path, epochs)
    write_table(path / TRIALS, trials.replace_schema_metadata({_SOURCES: json.dumps(sources)}))


def build_trials(run_dir: str | os.PathLike[str]) -> pa.Table:
    """One row per planned trial, from plan, ledger and epoch rows; columns `TRIAL_COLUMNS` and `param.<key path>`.

    Metrics are those of the trial's last epoch so far, except `val_accuracy_best` (highest of all epochs, percent),
    `wall_time_s` and `warmup_time_s` (sums), `images_per_s` (mean) and `peak_memory_mib` (highest).
    `status` is one of `STATUSES`.

    Raises:
        StudyError: for a directory that is no study, or a file that cannot be read.
    """
    path = require_study(run_dir)
    return _join(path, _epochs_and_stamps(path)[0])


# ------------------------------------------------------------------------------------------ compacted views


def _fingerprints(path: Path) -> dict[str, list[int | str]]:
    """Size and a hash of the end of plan and ledger: both change with every write, and survive a copy."""
    found: dict[str, list[int | str]] = {}
    for name in (PLAN, LEDGER):
        with contextlib.suppress(FileNotFoundError), (path / name).open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 4096))
            found[name] = [size, hashlib.sha256(file.read(4096)).hexdigest()[:16]]
    return found


def _up_to_date(path: Path, table: pa.Table) -> bool:
    sources = _fingerprints(path)
    recorded = (table.schema.metadata or {}).get(_SOURCES)
    if not sources:
        return True  # the compacted file is all there is
    if recorded is not None:
        return bool(json.loads(recorded) == sources)
    written = (path / TRIALS).stat().st_mtime_ns
    return all(written > (path / name).stat().st_mtime_ns for name in sources)


def _epochs_and_stamps(path: Path) -> tuple[pa.Table, dict[str, list[int]]]:
    """All epoch rows, and (modification time in ns, size) of every trial's file, both taken before it was read."""
    stamps: dict[str, list[int]] = {}
    for directory in sorted((path / "trials").iterdir()) if (path / "trials").is_dir() else []:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            stat = (directory / EPOCHS).stat()
            stamps[directory.name] = [stat.st_mtime_ns, stat.st_size]
    tables, known = _compacted_epochs(path, stamps)
    for trial_id in stamps:
        if trial_id not in known:
            tables.append(read_table(path / "trials" / trial_id / EPOCHS))
    tables.append(pa.schema(list(EPOCH_COLUMNS.items())).empty_table())
    table = pa.concat_tables(tables, promote_options="permissive").combine_chunks()
    losses = sorted(name for name in table.column_names if name not in EPOCH_COLUMNS)
    return table.select([*EPOCH_COLUMNS, *losses]).replace_schema_metadata(None), stamps


def _compacted_epochs(path: Path, stamps: Mapping[str, list[int]]) -> tuple[list[pa.Table], set[str]]:
    """Compacted rows of all trials whose own file has not changed since, or is gone; and the ids of those trials."""
    if not (path / EPOCHS).exists():
        return [], set()
    table = read_table(path / EPOCHS)
    recorded = json.loads((table.schema.metadata or {}).get(_SOURCES, b"{}"))
    stale = [trial_id for trial_id, stamp in stamps.items() if recorded.get(trial_id) != stamp]
    if stale:
        table = table.filter(pc.invert(pc.is_in(table["trial_id"], value_set=pa.array(stale, pa.string()))))
    return [table.replace_schema_metadata(None)], set(stamps) - set(stale)


# ---------------------------------------------------------------------------------------------- trial rows


@dataclass
class _Outcome:
    """What the ledger says about one trial."""

    status: str = "planned"
    reason: str | None = None
    attempts: int = 0


def _outcomes(events: Iterable[Mapping[str, Any]]) -> dict[str, _Outcome]:
    """The state of every trial that the ledger names; the first terminal event counts, as does a recorded stop."""
    outcomes: dict[str, _Outcome] = {}
    for event in events:
        kind, trial_id = event["event"], event.get("trial_id")
        if kind in ("study_started", "study_finished"):  # whatever ran under an earlier driver runs no more
            for outcome in outcomes.values():
                if outcome.status == "running":
                    outcome.status = "interrupted"
        if not isinstance(trial_id, str):
            continue
        outcome = outcomes.setdefault(trial_id, _Outcome())
        if kind == "started":
            outcome.attempts = max(outcome.attempts + 1, int(event.get("attempt") or 0))
        if outcome.status in TERMINAL:
            continue
        if kind in TERMINAL:
            outcome.status, outcome.reason = kind, event.get("reason") or event.get("error")
        elif kind == "rung" and str(event.get("decision")).lower() == "stop":
            outcome.status, outcome.reason = "pruned", f"rung {event.get('rung')}"
        elif kind in ("started", "interrupted"):
            outcome.status = "running" if kind == "started" else "interrupted"
    return outcomes


def _join(path: Path, epochs: pa.Table) -> pa.Table:
    plan = read_plan(path)
    outcomes = _outcomes(read_events(path))
    planned = {row["trial_id"] for row in plan}
    # Without a plan the ledger's trials still count; their arm and role are unknown.
    rows = plan + [{"trial_id": trial_id, "params": {}} for trial_id in outcomes if trial_id not in planned]
    found = [outcomes.get(row["trial_id"], _Outcome()) for row in rows]
    columns: dict[str, Any] = {
        name: [row.get(name) for row in rows] for name in ("trial_id", "cell_id", "arm", "role", "seed", "number")
    }
    columns["status"] = [outcome.status for outcome in found]
    columns["stop_reason"] = [None if outcome.reason is None else str(outcome.reason) for outcome in found]
    columns["attempts"] = [outcome.attempts for outcome in found]
    columns.update(_last_rows(epochs, columns["trial_id"]))
    arrays = [pa.array(columns[name], type=kind) for name, kind in TRIAL_COLUMNS.items()]
    params = [row.get("params") or {} for row in rows]
    keys = sorted({key for settings in params for key in settings})
    arrays += [_inferred([settings.get(key) for settings in params]) for key in keys]
    return pa.table(arrays, names=[*TRIAL_COLUMNS, *(f"param.{key}" for key in keys)])


def _last_rows(epochs: pa.Table, trial_ids: list[str]) -> dict[str, Any]:
    """The trial-level metrics of each trial in `trial_ids`, as Arrow arrays with nulls for trials without rows."""
    ids = epochs["trial_id"].to_pylist()
    code_of = {trial_id: code for code, trial_id in enumerate(dict.fromkeys(ids))}
    codes = np.fromiter((code_of[trial_id] for trial_id in ids), np.int64, len(ids))
    epoch = _floats(epochs["epoch"])
    order = np.lexsort((_floats(epochs["attempt"]), epoch, codes))
    keep = np.ones(len(order), bool)  # of an epoch that two attempts ran, the later attempt's row
    keep[:-1] = (np.diff(codes[order]) != 0) | (np.diff(epoch[order]) != 0)
    order = order[keep]
    starts = np.flatnonzero(np.diff(codes[order], prepend=-1)) if len(order) else np.empty(0, np.int64)
    ends = np.append(starts[1:], len(order))[: len(starts)] - 1
    positions = pa.array([code_of.get(trial_id) for trial_id in trial_ids], pa.int64())
    last = epochs.select([*_METRICS, "epoch"]).take(pa.array(order[ends])).take(positions)
    columns = {name: last[name].combine_chunks() for name in _METRICS}
    columns["epochs"] = last["epoch"].combine_chunks()
    summaries = {
        "val_accuracy_best": _reduce(np.fmax, _floats(epochs["val_accuracy"])[order], starts),
        "wall_time_s": _reduce(np.add, np.nan_to_num(_floats(epochs["wall_time_s"]))[order], starts),
        "warmup_time_s": _reduce(np.add, np.nan_to_num(_floats(epochs["warmup_time_s"]))[order], starts),
        "images_per_s": _mean(_floats(epochs["images_per_s"])[order], starts),
        "peak_memory_mib": _reduce(np.fmax, _floats(epochs["peak_memory_mib"])[order], starts),
    }
    for name, values in summaries.items():
        columns[name] = pa.array(values, mask=np.isnan(values)).take(positions)
    return columns


def _floats(column: pa.ChunkedArray) -> Floats:
    return np.asarray(pc.cast(column, pa.float64()).to_numpy(), np.float64)


def _reduce(operation: np.ufunc, values: Floats, starts: npt.NDArray[np.int64]) -> Floats:
    """One value per run of `values`; each run begins at one of `starts`."""
    return np.asarray(operation.reduceat(values, starts), np.float64) if len(starts) else np.empty(0)


def _mean(values: Floats, starts: npt.NDArray[np.int64]) -> Floats:
    known = _reduce(np.add, (~np.isnan(values)).astype(np.float64), starts)
    total = _reduce(np.add, np.nan_to_num(values), starts)
    return np.asarray(np.divide(total, known, out=np.full_like(total, np.nan), where=known > 0), np.float64)

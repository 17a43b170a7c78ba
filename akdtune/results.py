"""What a study leaves on disk, as tables: the plan, the ledger's events, rows per epoch and rows per trial.

Everything here only reads and writes files; who may write which file, and when, is `ledger.py`'s business. Reading
works on a running study and on one that was killed at any moment.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

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
DESIGN = "design.json"
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
    "settings": pa.string(), "raw": pa.string(), "cell": pa.string(),
}  # fmt: skip
TRIAL_COLUMNS: dict[str, pa.DataType] = {
    "trial_id": pa.string(), "cell_id": pa.string(), "arm": pa.string(), "role": pa.string(), "seed": pa.int64(),
    "number": pa.int64(), "cell": pa.string(), "reused_from": pa.string(), "status": pa.string(),
    "stop_reason": pa.string(), "attempts": pa.int64(),
    "epochs": pa.int64(), "val_accuracy": pa.float64(), "val_accuracy_best": pa.float64(),
    **{name: pa.float64() for name in _METRICS}, "student_macs": pa.int64(), "train_time_s": pa.float64(),
}  # fmt: skip
_JSON_COLUMNS = ("params", "settings", "raw")
_SOURCES = b"akdtune.sources"
SMALL_ROWS = 5_000
"""Tables shorter than this are written plainly: with dictionaries and statistics for each column, a trial's few rows
take three times as long to write and to read."""

PLAN_CHUNK = 1_000
"""The plan is written and read so many trials at a time: as text and as columns it is larger than what is kept."""

CHUNK_TRIALS = 128
CHUNK_ROWS = 16_000
"""Epoch rows are held in memory about so many at a time, whole trials always."""

_HEAD = re.compile(rb'"event": "(\w+)"(?:, "trial_id": "([^"\\]*)")?')
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
    with _replacing(Path(path), durable) as file:
        pq.write_table(table, file, **_packing(table))


@contextlib.contextmanager
def _replacing(target: Path, durable: bool = False) -> Iterator[BinaryIO]:
    """A file to write beside the target, renamed over it when all is written and taken away when not."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(target)
    except OSError as error:
        raise StudyError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _packing(table: pa.Table) -> dict[str, Any]:
    if table.num_rows >= SMALL_ROWS:
        return {"compression": "zstd"}
    texts = [column.name for column in table.schema if pa.types.is_string(column.type)]
    return {"compression": "snappy", "use_dictionary": texts, "write_statistics": False}


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
    schema = pa.schema(list(PLAN_COLUMNS.items()))
    with (
        _replacing(Path(run_dir) / PLAN, durable=True) as file,
        pq.ParquetWriter(file, schema, compression="zstd") as writer,
    ):
        for start in range(0, len(rows), PLAN_CHUNK):
            few = rows[start : start + PLAN_CHUNK]
            columns = [
                _array(name, [_as_text(name, row.get(name)) for row in few], kind)
                for name, kind in PLAN_COLUMNS.items()
            ]
            writer.write_table(pa.table(columns, schema=schema))


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
    with _reading(path), pq.ParquetFile(path) as file:
        return file.read(use_threads=False)


def read_schema(path: str | os.PathLike[str]) -> pa.Schema:
    """The columns of one Parquet file.

    Raises:
        StudyError: as `read_table`.
    """
    with _reading(path):
        return pq.read_schema(path)


@contextlib.contextmanager
def _reading(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turns a failed read into one sentence."""
    try:
        yield
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

    The latest proposals of a search that runs, or was killed, stand in the ledger and not yet in `plan.parquet`.

    Raises:
        StudyError: when the plan or the ledger cannot be read.
    """
    rows = {row["trial_id"]: row for row in _of_plan_file(run_dir, tuple(PLAN_COLUMNS))}
    for kind, trial_id, line in _heads(Path(run_dir)):
        if kind == "planned" and trial_id not in rows and (event := _decoded(line)) is not None:
            rows[trial_id] = event["plan"]
    return list(rows.values())


def read_plan_file(run_dir: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The rows of `plan.parquet` alone, decoded; [] where there is none.

    Raises:
        StudyError: when it cannot be read.
    """
    return list(_of_plan_file(run_dir, tuple(PLAN_COLUMNS)))


def _of_plan_file(run_dir: str | os.PathLike[str], columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    path = Path(run_dir) / PLAN
    if not path.exists():
        return
    encoded = [name for name in columns if name in _JSON_COLUMNS]
    with _reading(path), pq.ParquetFile(path) as file:
        there = [name for name in columns if name in file.schema_arrow.names]
        for few in file.iter_batches(PLAN_CHUNK, columns=there, use_threads=False):
            for row in few.to_pylist():
                yield row | {name: json.loads(row[name]) for name in encoded if row.get(name) is not None}


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


def read_design(run_dir: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of design.json, `{}` where no confirmation or ablation has been planned.

    Raises:
        StudyError: when it cannot be read.
    """
    path = Path(run_dir) / DESIGN
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StudyError(f"{path}: cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise StudyError(f"{path}: cannot be read: no mapping")
    return found


def read_events(run_dir: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The ledger's events in order, all at once; see `events`."""
    return list(events(run_dir))


def events(run_dir: str | os.PathLike[str], kinds: Set[str] | None = None) -> Iterator[dict[str, Any]]:
    """The ledger's events in order, one at a time; none without a ledger.

    A line that is not whole (the last one while it is being written, or after a kill) is left out.

    Args:
        run_dir: the study directory, or the ledger itself.
        kinds: only these; the lines of others are not decoded, and epochs are nearly all of a ledger.

    Raises:
        StudyError: when the ledger cannot be read.
    """
    for kind, _, line in _heads(Path(run_dir)):
        if kinds is not None and kind and kind not in kinds:
            continue
        event = _decoded(line)
        if event is not None and (kinds is None or event["event"] in kinds):
            yield event


def _heads(path: Path) -> Iterator[tuple[str, str, bytes]]:
    """Kind, trial and whole of each line, undecoded; the first two empty where `ledger` would not have put them so."""
    path = path / LEDGER if path.is_dir() else path
    try:
        with path.open("rb") as lines:
            for line in lines:
                head = _HEAD.search(line, 0, 200)
                yield ("", "", line) if head is None else (head[1].decode(), (head[2] or b"").decode(), line)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise StudyError(f"{path}: cannot be read ({error.strerror or error})") from error


def _decoded(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line.decode())
    except ValueError:
        return None
    return event if isinstance(event, dict) and "event" in event else None


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
    epochs = _Epochs(require_study(run_dir))
    return pa.concat_tables([epochs.schema.empty_table(), *epochs.chunks()]).combine_chunks()


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
    trials = _join(path, _write_compacted(path))
    write_table(path / TRIALS, trials.replace_schema_metadata({_SOURCES: json.dumps(sources)}))


def compact_epochs(run_dir: str | os.PathLike[str]) -> None:
    """Writes `epochs.parquet` alone, so that later reads need not open a file per trial.

    Raises:
        StudyError: as `compact`.
    """
    _write_compacted(require_study(run_dir))


def build_trials(run_dir: str | os.PathLike[str]) -> pa.Table:
    """One row per planned trial, from plan, ledger and epoch rows; columns `TRIAL_COLUMNS` and `param.<key path>`.

    Metrics are those of the trial's last epoch so far, except `val_accuracy_best` (highest of all epochs, percent),
    `wall_time_s` and `warmup_time_s` (sums), `images_per_s` (mean) and `peak_memory_mib` (highest). `student_macs`
    (multiply-adds for one image) and `train_time_s` (the sum of `wall_time_s`) stand where a search weighs them.
    `status` is one of `STATUSES`.

    Raises:
        StudyError: for a directory that is no study, or a file that cannot be read.
    """
    path = require_study(run_dir)
    return _join(path, [_summary(chunk) for chunk in _Epochs(path).chunks()])


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


class _Epochs:
    """All epoch rows of a study, a few trials at a time: what was compacted and still holds, then trials' own files.

    Attributes:
        stamps: modification time in ns and size of every trial's file, taken before any is read.
        schema: of every chunk.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stamps = _stamps(path / "trials")
        self._compacted = path / EPOCHS if (path / EPOCHS).exists() else None
        schemas, recorded = [], {}
        if self._compacted:
            schemas.append(read_schema(self._compacted))
            recorded = json.loads((schemas[0].metadata or {}).get(_SOURCES, b"{}"))
        stale = [trial_id for trial_id, stamp in self.stamps.items() if recorded.get(trial_id) != stamp]
        self._stale = pa.array(stale, pa.string())
        self._files = [path / "trials" / trial_id / EPOCHS for trial_id in stale]
        schemas += [read_schema(file) for file in self._files]
        self.schema = _common_schema(schemas)

    def chunks(self) -> Iterator[pa.Table]:
        """Tables of at least a few rows, each with all rows of its trials."""
        held: list[pa.Table] = []
        for table in itertools.chain(self._of_compacted(), self._of_files()):
            held.append(table)
            if sum(part.num_rows for part in held) >= CHUNK_ROWS:
                yield pa.concat_tables(held).combine_chunks()
                held = []
        if held:
            yield pa.concat_tables(held).combine_chunks()

    def _of_compacted(self) -> Iterator[pa.Table]:
        """A row group at a time; one holds whole trials."""
        if self._compacted is None:
            return
        with _reading(self._compacted), pq.ParquetFile(self._compacted) as file:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, use_threads=False)
                if len(self._stale):
                    table = table.filter(pc.invert(pc.is_in(table["trial_id"], value_set=self._stale)))
                yield self._as_one(table)

    def _of_files(self) -> Iterator[pa.Table]:
        for start in range(0, len(self._files), CHUNK_TRIALS):
            tables = [self._as_one(read_table(file)) for file in self._files[start : start + CHUNK_TRIALS]]
            yield pa.concat_tables(tables).combine_chunks()

    def _as_one(self, table: pa.Table) -> pa.Table:
        """The same rows with the columns of all."""
        held = set(table.column_names)
        columns = [
            table[column.name].cast(column.type) if column.name in held else pa.nulls(table.num_rows, column.type)
            for column in self.schema
        ]
        return pa.table(columns, schema=self.schema)


def _common_schema(schemas: Iterable[pa.Schema]) -> pa.Schema:
    """`EPOCH_COLUMNS`, then all others by name, each in a type that holds what any of the schemas has there."""
    kinds: dict[str, set[pa.DataType]] = {}
    for schema in schemas:
        for name, kind in zip(schema.names, schema.types, strict=True):
            if name not in EPOCH_COLUMNS:
                kinds.setdefault(name, set()).add(kind)
    others = [(name, _common_type(kinds[name])) for name in sorted(kinds)]
    return pa.schema([*EPOCH_COLUMNS.items(), *others])


def _common_type(kinds: Set[pa.DataType]) -> pa.DataType:
    known = [kind for kind in kinds if not pa.types.is_null(kind)]
    if len(known) == 1:
        return known[0]
    if all(pa.types.is_integer(kind) or pa.types.is_floating(kind) for kind in known):
        return pa.float64()
    return pa.string()


def _stamps(folder: Path) -> dict[str, list[int]]:
    stamps: dict[str, list[int]] = {}
    for directory in sorted(os.listdir(folder)) if folder.is_dir() else []:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            stat = (folder / directory / EPOCHS).stat()
            stamps[directory] = [stat.st_mtime_ns, stat.st_size]
    return stamps


def _write_compacted(path: Path) -> list[pa.Table]:
    """Writes `epochs.parquet` chunk by chunk and returns the trials' summaries, so that rows are read once."""
    epochs = _Epochs(path)
    schema = epochs.schema.with_metadata({_SOURCES: json.dumps(epochs.stamps)})
    summaries = []
    with _replacing(path / EPOCHS) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for chunk in epochs.chunks():
            writer.write_table(chunk, row_group_size=max(1, chunk.num_rows))
            summaries.append(_summary(chunk))
    return summaries


# ---------------------------------------------------------------------------------------------- trial rows


@dataclass
class _Outcome:
    """What the ledger says about one trial."""

    status: str = "planned"
    reason: str | None = None
    attempts: int = 0
    reused_from: str | None = None
    student_macs: int | None = None
    timed: bool = False


_OF_OUTCOMES = {"study_started", "study_finished", "started", "rung", "interrupted", *TERMINAL}


def _outcomes(found: Iterable[Mapping[str, Any]]) -> dict[str, _Outcome]:
    """The state of every trial that the ledger names; the first terminal event counts, as does a recorded stop."""
    outcomes: dict[str, _Outcome] = {}
    for event in found:
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
            outcome.student_macs = event.get("student_macs")
            outcome.timed = "time" in event.get("objectives", ())
        if outcome.status in TERMINAL:
            continue
        if kind in TERMINAL:
            outcome.status, outcome.reason = kind, event.get("reason") or event.get("error")
            outcome.reused_from = event.get("reused_from")
        elif kind == "rung" and str(event.get("decision")).lower() == "stop":
            outcome.status, outcome.reason = "pruned", f"rung {event.get('rung')}"
        elif kind in ("started", "interrupted"):
            outcome.status = "running" if kind == "started" else "interrupted"
    return outcomes


_PLANNED = ("trial_id", "cell_id", "arm", "role", "seed", "number", "cell")


def _join(path: Path, summaries: Sequence[pa.Table]) -> pa.Table:
    plan = list(_of_plan_file(path, (*_PLANNED, "params")))
    planned = {row["trial_id"] for row in plan}

    def of_outcomes() -> Iterator[dict[str, Any]]:
        """One pass over the ledger; proposals that the plan's file lacks are taken up on the way."""
        for kind, trial_id, line in _heads(path):
            if kind == "planned":
                if trial_id not in planned and (event := _decoded(line)) is not None:
                    plan.append(event["plan"])
                    planned.add(trial_id)
            elif (not kind or kind in _OF_OUTCOMES) and (event := _decoded(line)) is not None:
                yield event

    outcomes = _outcomes(of_outcomes())
    # Without a plan the ledger's trials still count; their arm and role are unknown.
    rows = plan + [{"trial_id": trial_id, "params": {}} for trial_id in outcomes if trial_id not in planned]
    found = [outcomes.get(row["trial_id"], _Outcome()) for row in rows]
    columns: dict[str, Any] = {
        name: [row.get(name) for row in rows] for name in _PLANNED
    }
    columns["reused_from"] = [outcome.reused_from for outcome in found]
    columns["status"] = [outcome.status for outcome in found]
    columns["stop_reason"] = [None if outcome.reason is None else str(outcome.reason) for outcome in found]
    columns["attempts"] = [outcome.attempts for outcome in found]
    known = pa.concat_tables([_SUMMARY_SCHEMA.empty_table(), *summaries]).combine_chunks()
    positions = pc.index_in(pa.array(columns["trial_id"], pa.string()), value_set=known["trial_id"])
    columns.update(zip(known.column_names[1:], known.take(positions).columns[1:], strict=True))
    seconds = columns["wall_time_s"].to_pylist()
    columns["student_macs"] = [outcome.student_macs for outcome in found]
    columns["train_time_s"] = [one if outcome.timed else None for one, outcome in zip(seconds, found, strict=True)]
    arrays = [
        columns[name] if isinstance(columns[name], pa.ChunkedArray) else pa.array(columns[name], type=kind)
        for name, kind in TRIAL_COLUMNS.items()
    ]
    params = [row.get("params") or {} for row in rows]
    keys = sorted({key for settings in params for key in settings})
    arrays += [_inferred([settings.get(key) for settings in params]) for key in keys]
    return pa.table(arrays, names=[*TRIAL_COLUMNS, *(f"param.{key}" for key in keys)])


_SUMMARY_SCHEMA = pa.schema(
    [("trial_id", pa.string()), ("epochs", pa.int64()), ("val_accuracy_best", pa.float64())]
    + [(name, pa.float64()) for name in _METRICS]
)


def _summary(epochs: pa.Table) -> pa.Table:
    """One row per trial of a table that holds all rows of its trials: `_SUMMARY_SCHEMA`."""
    if not epochs.num_rows:
        return _SUMMARY_SCHEMA.empty_table()
    encoded = epochs["trial_id"].combine_chunks().dictionary_encode()
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    epoch = _floats(epochs["epoch"])
    order = np.lexsort((_floats(epochs["attempt"]), epoch, codes))
    keep = np.ones(len(order), bool)  # of an epoch that two attempts ran, the later attempt's row
    keep[:-1] = (np.diff(codes[order]) != 0) | (np.diff(epoch[order]) != 0)
    order = order[keep]
    starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
    ends = np.append(starts[1:], len(order)) - 1
    last = epochs.select([*_METRICS, "epoch"]).take(pa.array(order[ends]))
    columns: dict[str, Any] = {"trial_id": encoded.dictionary, "epochs": last["epoch"]}
    columns |= {name: last[name] for name in _METRICS}
    summaries = {
        "val_accuracy_best": _reduce(np.fmax, _floats(epochs["val_accuracy"])[order], starts),
        "wall_time_s": _reduce(np.add, np.nan_to_num(_floats(epochs["wall_time_s"]))[order], starts),
        "warmup_time_s": _reduce(np.add, np.nan_to_num(_floats(epochs["warmup_time_s"]))[order], starts),
        "images_per_s": _mean(_floats(epochs["images_per_s"])[order], starts),
        "peak_memory_mib": _reduce(np.fmax, _floats(epochs["peak_memory_mib"])[order], starts),
    }
    columns |= {name: pa.array(values, mask=np.isnan(values)) for name, values in summaries.items()}
    return pa.table([columns[name] for name in _SUMMARY_SCHEMA.names], schema=_SUMMARY_SCHEMA)


def _floats(column: pa.ChunkedArray) -> Floats:
    return np.asarray(pc.cast(column, pa.float64()).to_numpy(), np.float64)


def _reduce(operation: np.ufunc, values: Floats, starts: npt.NDArray[np.int64]) -> Floats:
    """One value per run of `values`; each run begins at one of `starts`."""
    return np.asarray(operation.reduceat(values, starts), np.float64) if len(starts) else np.empty(0)


def _mean(values: Floats, starts: npt.NDArray[np.int64]) -> Floats:
    known = _reduce(np.add, (~np.isnan(values)).astype(np.float64), starts)
    total = _reduce(np.add, np.nan_to_num(values), starts)
    return np.asarray(np.divide(total, known, out=np.full_like(total, np.nan), where=known > 0), np.float64)

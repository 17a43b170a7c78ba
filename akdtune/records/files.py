"""The files of a study: their names and columns, and how each is written and read: plan, ledger, rows, predictions.

Who may write which file, and when, is the business of `study_directory.py` and `trial_directory.py`; `tables.py` makes
one table of all trials from them. Reading works on a running study and on one that was killed at any moment.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from akdtune import atomic
from akdtune.columns import Column, declarations
from akdtune.errors import AkdtuneWarning, StudyError
from akdtune.records.design_file import check_design
from akdtune.records.events import Event, TrialPlanned, parse
from akdtune.records.shapes import check_shape, read_json

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
_JSON_COLUMNS = ("params", "settings", "raw")
SMALL_ROWS = 5_000
"""Tables shorter than this are written plainly: with dictionaries and statistics for each column, a trial's few rows
take three times as long to write and to read."""

VERIFIED = {"page_checksum_verification": True}
"""How Parquet files are read: a bit that has flipped in a page with a checksum is found."""

PLAN_CHUNK = 1_000
"""The plan is written and read so many trials at a time: as text and as columns it is larger than what is kept."""

_HEAD = re.compile(rb'"event": "(\w+)"(?:, "trial_id": "([^"\\]*)")?')
_EVENT, _EPOCH = b'"event": "', b'"event": "epoch"'

Epochs: TypeAlias = Literal["all", "last", "none"]

BLOCK = 1 << 20
"""The ledger is read so many bytes at a time; what is looked for is looked for in a block first, then in its lines."""


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
    arrays = [_array(name, [row.get(name) for row in rows], types.get(name)) for name in names]
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
        replacing(Path(run_dir) / PLAN, durable=True) as file,
        pq.ParquetWriter(file, schema, compression="zstd", write_page_checksum=True) as writer,
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
    with reading(path), pq.ParquetFile(path, **VERIFIED) as file:
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
    encoded = [name for name in columns if name in _JSON_COLUMNS]
    with reading(path), pq.ParquetFile(path, **VERIFIED) as file:
        there = [name for name in columns if name in file.schema_arrow.names]
        if lacking := [name for name in columns if name in _PLAN_NEEDED and name not in there]:
            raise StudyError(f"{path}: damaged, it has no column {', '.join(lacking)}")
        for few in file.iter_batches(PLAN_CHUNK, columns=there, use_threads=False):
            for row in few.to_pylist():
                for name in encoded:
                    if isinstance(row.get(name), str):
                        row[name] = _decoded(path, row, name)
                check_plan_row(path, row, there)
                yield row


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


def read_lock(run_dir: str | os.PathLike[str], sections: Iterable[str] = ("settings",)) -> dict[str, Any] | None:
    """The content of `study.lock.yaml`; None where there is none.

    Args:
        run_dir: the study directory.
        sections: mappings that must be in it.

    Raises:
        StudyError: when it is damaged.
    """

    path = Path(run_dir) / LOCK
    try:
        held = yaml.load(path.read_text(encoding="utf-8"), Loader=_LOCK_LOADER)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StudyError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (yaml.YAMLError, ValueError, RecursionError):
        held = None
    lacking = [name for name in sections if not isinstance(held, dict) or not isinstance(held.get(name), dict)]
    if lacking or not isinstance(held, dict):
        named = f"it holds no {' and no '.join(lacking)}" if lacking else "it holds no keys"
        raise StudyError(f"{path}: damaged, {named}; restore it from a copy")
    check_shape(path, held, _LOCK_SHAPE, ())
    held.pop("digest", None)  # of the text, see `akdtune verify`
    return dict(held)


def check_lock(run_dir: str | os.PathLike[str], lock: Mapping[str, Any], section: str = "") -> None:
    """Refuses a lock that lacks what going on with its study needs, in one section or in all.

    Raises:
        StudyError: naming the key.
    """
    check_shape(Path(run_dir) / LOCK, lock, {}, [key for key in _LOCK_NEEDED if key.startswith(section)])


_LOCK_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_LOCK_SHAPE: dict[str, Any] = {
    "akdtune": (str, None), "uid": str, "created": str, "command": str, "source": str, "overrides": list,
    "arms": list, "packages": dict, "machine": dict, "source_code": (dict, None), "students": dict, "streams": int,
    "seeds": dict, "extended": list, "settings": dict, "settings.study": str, "settings.plugins": (list, None),
    "settings.search": dict, "settings.search.objectives": list, "settings.report": (dict, None),
    "settings.scheduler": (dict, None),
    "settings.training": (dict, None), "settings.probe": (dict, None), "settings.confirm": (dict, None),
    "settings.ablation": (dict, None),
    "data.hash": str, "teacher.path": str, "teacher.key": str, "teacher.weights_hash": str,
    "teacher.network": (str, dict), "teacher.val_accuracy": (float, None), "teacher.test_accuracy": (float, None),
    "teacher.saw_validation": bool, "report_teacher": dict,
}  # fmt: skip
_LOCK_NEEDED = (
    "settings.study", "settings.search", "data.hash",
    *(key for key in _LOCK_SHAPE if key.startswith("teacher.")),
)  # fmt: skip


def study_uid(run_dir: str | os.PathLike[str]) -> str | None:
    """What tells a study apart from others of its name, as its lock says; None where no lock is visible or says it."""
    try:
        with (Path(run_dir) / LOCK).open(encoding="utf-8") as lines:
            line = next((line for line in lines if line.startswith("uid:")), "")
        held = yaml.safe_load(line)
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return str(held["uid"]) if isinstance(held, dict) else None


def read_design(run_dir: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of design.json, `{}` where no confirmation or ablation has been planned.

    Raises:
        StudyError: when it cannot be read.
    """
    path = Path(run_dir) / DESIGN
    held = read_json(path) or {}
    check_design(path, held)
    return held


def read_events(run_dir: str | os.PathLike[str]) -> list[Event]:
    """The ledger's events in order, all at once; see `events`."""
    return list(events(run_dir))


def events(run_dir: str | os.PathLike[str], kinds: Set[str] | None = None) -> Iterator[Event]:
    """The ledger's events in order, one at a time; none without a ledger.

    A line that is not whole (the last one while it is being written, or after a kill) is left out.

    Args:
        run_dir: the study directory, or the ledger itself.
        kinds: only these; the lines of others are not decoded, and epochs are nearly all of a ledger.

    Raises:
        StudyError: when the ledger cannot be read.
    """
    words = None if kinds is None else [f'"{kind}"'.encode() for kind in kinds]
    for block in _blocks(Path(run_dir)):
        if words is not None and not any(word in block for word in words):
            continue
        for kind, _, line in _heads_of(block, "all" if kinds is None or "epoch" in kinds else "none"):
            if kinds is not None and kind and kind not in kinds:
                continue
            event = parse(line)
            if event is not None and (kinds is None or event.kind in kinds):
                yield event


def heads(path: Path, epochs: Epochs = "all") -> Iterator[tuple[str, str, bytes]]:
    """Kind, trial and whole of each line, undecoded; the first two empty where `ledger` would not have put them so.

    Args:
        path: the study directory, or the ledger itself.
        epochs: which of the lines that hold finished epochs: all, at least the last one of several in a row, or none.

    Raises:
        StudyError: when the ledger cannot be read.
    """
    for block in _blocks(path):
        yield from _heads_of(block, epochs)


def ledger_lines(path: Path) -> Iterator[bytes]:
    """Each line of the ledger as it stands, also one that is not whole.

    Raises:
        StudyError: when the ledger cannot be read.
    """
    for block in _blocks(path):
        yield from io.BytesIO(block)


def _heads_of(block: bytes, epochs: Epochs) -> Iterator[tuple[str, str, bytes]]:
    for line in io.BytesIO(block) if epochs == "all" else _few_epochs(block, last=epochs == "last"):
        head = _HEAD.search(line, 0, 200)
        if head is None or line.count(_EVENT) > 1:  # or half a line before a whole one
            yield "", "", line
        else:
            yield head[1].decode("ascii", "replace"), (head[2] or b"").decode("utf-8", "replace"), line


def _few_epochs(block: bytes, last: bool) -> list[bytes]:
    """The lines of a block that are not an epoch's, which one of half a line and a whole one is not; see `heads`."""
    lines = list(io.BytesIO(block))
    others = [place for place, line in enumerate(lines) if _EPOCH not in line]
    if block.count(_EVENT) != len(lines) - len(others) + sum(lines[place].count(_EVENT) for place in others):
        others = [place for place, line in enumerate(lines) if _EPOCH not in line or line.count(_EVENT) > 1]
    if not last:
        return [lines[place] for place in others]
    before = {place - 1 for place in (*others, len(lines)) if place > 0}
    return [lines[place] for place in sorted(before.union(others))]


def _blocks(path: Path) -> Iterator[bytes]:
    """Many whole lines of the ledger at a time."""
    path = path / LEDGER if path.is_dir() else path
    try:
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                yield block + file.readline()
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise StudyError(f"{path}: cannot be read ({error.strerror or error})") from error


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

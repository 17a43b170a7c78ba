"""A study's own run: its table, figures and reports, and an artefact with plan, lock and tables.

One run for each study directory, whose id follows from the study's; every writing replaces what it held.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from akdtune.metric import ACCURACY, of_trials
from akdtune.records import lock_file, tables
from akdtune.reports.short_names import PARAM
from akdtune.settings.tracking import GROUP_CHARACTERS, NAME_CHARACTERS, WandbSettings
from akdtune.tracking.arrangement import WHOLE, Names, shortened
from akdtune.tracking.child import Answer
from akdtune.tracking.loggers.wandb import lean_settings, record_of, tags_of, wait_until_written
from akdtune.tracking.mode import Mode, reason
from akdtune.tracking.record import read_record, write_record
from akdtune.tracking.stored import STORED_FINISH_S

JOB_TYPE = "study"
TABLE = "trials"

_KEPT = ("study.lock.yaml", "plan.parquet", "design.json", "trials.parquet")
"""Files of the study directory that the artefact holds, beside its reports."""

_LARGEST_BYTES = 64 * 2**20
"""A larger file is left where it is."""


def study_run_id(root: Path) -> str:
    """One id for each study directory."""
    lock = lock_file.read_lock(root) or {}
    return f"{lock.get('uid') or lock.get('settings', {}).get('study') or root.resolve().name}-study"


def state_of(root: Path) -> str:
    """What a study's run shows, in a few characters: another one where it is out of date."""
    held = [root / name for name in ("ledger.jsonl", *_KEPT[:1]) if (root / name).exists()]
    facts = [(path.name, path.stat().st_size) for path in held]
    facts += [(str(path.relative_to(root)), path.stat().st_mtime_ns) for path in report_files(root)]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def report_files(root: Path) -> list[Path]:
    """What stands in `reports/`, and pages beside it."""
    found = [*sorted((root / "reports").rglob("*")), *sorted(root.glob("*.html"))]
    return [path for path in found if path.is_file() and path.stat().st_size <= _LARGEST_BYTES]


def write_study_run(settings: Mapping[str, Any], root: Path, names: Names, mode: Mode) -> Answer:
    """Writes a study's run, in a process of its own.

    Args:
        settings: of `tracking.wandb`.
        root: the study directory.
        names: flat names of settings.
        mode: online | offline.

    Returns:
        `error`, None where the run is whole, and its `entity` and `project` as the SDK knows them.
    """
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR"):
        os.environ.setdefault(name, str(_staging(root)))  # of artefacts; not the home folder
    import wandb  # late: in a process of its own

    own, own_id, state = WandbSettings(**settings), study_run_id(root), state_of(root)
    earlier, staged = read_record(root), [path for path in _staging(root).rglob("*") if path.is_file()]
    lock = lock_file.read_lock(root) or {}
    study = str(lock.get("settings", {}).get("study") or root.resolve().name)
    run: Any = wandb.init(
        project=own.project, entity=own.entity, id=own_id, name=shortened(study, NAME_CHARACTERS),
        group=shortened(study, GROUP_CHARACTERS), job_type=JOB_TYPE, tags=tags_of(own.tags, JOB_TYPE, study),
        config=_config(study, lock), dir=str(root), mode=mode, reinit="create_new",
        resume="allow" if mode == "online" else None,
        settings=wandb.Settings(**lean_settings(STORED_FINISH_S, sampled=False)),
    )  # fmt: skip
    rows = tables.read_trials(root).to_pylist()
    run.log({**_table(rows, names), **dict(_media(root))})
    run.summary.update(_summary(rows))
    run.log_artifact(_artifact(root, own_id))
    run.finish()
    log = Path(run.dir).parent / f"run-{own_id}.wandb"
    if run.offline:
        wait_until_written(log)
    record = record_of(run, own_id, root, 1, finished=True)
    record.of = state
    for known in earlier:
        if known.mode == "offline" and known.directory != record.directory and not known.is_uploaded(root):
            shutil.rmtree(root / known.directory, ignore_errors=True)
    for path in staged:  # of runs that are uploaded or gone
        path.unlink(missing_ok=True)
    write_record(root, [record])
    return {"error": None, "entity": record.entity, "project": record.project}


def _staging(root: Path) -> Path:
    return root / "wandb" / "staging"


def answered(settings: Mapping[str, Any], root: Path, names: Names, mode: Mode) -> Answer:
    """`write_study_run`, whose failures are an answer."""
    try:
        return write_study_run(settings, root, names, mode)
    except Exception as error:  # the SDK raises many kinds
        return {"error": f"{type(error).__name__}: {reason(error)}"}


def _config(study: str, lock: Mapping[str, Any]) -> dict[str, Any]:
    known = {name: lock[name] for name in ("akdtune", "created", "command", "uid") if lock.get(name)}
    return {"study": study, "role": JOB_TYPE, **known, WHOLE: json.dumps(lock.get("settings", {}), sort_keys=True)}


def _table(rows: Sequence[Mapping[str, Any]], names: Names) -> dict[str, Any]:
    import wandb  # late: in a process of its own

    columns = [name for name in dict.fromkeys(name for row in rows for name in row)
               if any(row.get(name) is not None for row in rows)]  # fmt: skip
    flat = {f"{PARAM}{path}": name for path, name in names.items()}
    shown: list[str | int] = [flat.get(name, name) for name in columns]
    data = [[row.get(name) for name in columns] for row in rows]
    return {TABLE: wandb.Table(columns=shown, data=data, allow_mixed_types=True)}


def _media(root: Path) -> Iterator[tuple[str, Any]]:
    import wandb  # late: in a process of its own

    for path in report_files(root):
        with contextlib.suppress(OSError, ValueError):  # damaged; the artefact holds it as it is
            if path.suffix == ".png":
                yield f"figures/{path.stem}", wandb.Image(str(path))
            elif path.suffix == ".html":
                yield f"reports/{path.stem}", wandb.Html(str(path), inject=False)


def _summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    counts = Counter(str(row["status"]) for row in rows)
    summary: dict[str, Any] = {"trials_planned": len(rows), **{f"trials_{status}": n for status, n in counts.items()}}
    metric = of_trials(rows[0]) if rows else ACCURACY
    for column in (metric.validation, metric.test):
        name = f"best_{column}"
        known = [row for row in rows if row.get(column) is not None and row["status"] == "done"]
        if known:
            best = max(known, key=lambda row: float(row[column]))
            summary |= {name: best[column], f"{name}_trial": best["trial_id"]}
    return summary


def _artifact(root: Path, own_id: str) -> Any:
    import wandb  # late: in a process of its own

    artifact = wandb.Artifact(shortened(own_id, NAME_CHARACTERS), type=JOB_TYPE)
    for path in [*(root / name for name in _KEPT), *report_files(root)]:
        if path.exists() and path.stat().st_size <= _LARGEST_BYTES:
            artifact.add_file(str(path), name=str(path.relative_to(root)))
    return artifact

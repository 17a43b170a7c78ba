"""Trials of a study without a whole run in Weights & Biases, and those runs made from the rows that are stored."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from akdtune import atomic
from akdtune.errors import StudyError
from akdtune.metric import of_trials
from akdtune.records import lock_file, plan_file, tables
from akdtune.records.ledger import reading
from akdtune.records.ledger.events import TrialEnded
from akdtune.records.trial_directory import TrialDirectory
from akdtune.roles import TERMINAL
from akdtune.tracking.arrangement import names_of_trials
from akdtune.tracking.child import START_S, Child, TooLong
from akdtune.tracking.mode import Mode, decide, known_names, read_decision
from akdtune.tracking.record import read_record, read_trouble
from akdtune.tracking.study_run import state_of, study_run_id
from akdtune.tracking.view import DIVERSITY, is_possible

ANSWER_S = 60.0
"""A run of a trial whose file holds thousands of rows is written well within it."""


def tracked_as(root: Path) -> dict[str, Any]:
    """The `wandb` settings that a study's runs are written with; empty where it is not tracked."""
    known = read_decision(root)
    if known is not None and (known[1] or known[0].mode == "disabled"):
        return {} if known[0].mode == "disabled" else known[1]
    lock = lock_file.read_lock(root) or {}
    section = lock.get("settings", {}).get("tracking") or {}
    return {} if decide(section).mode == "disabled" else dict(section["wandb"])


def missing_runs(root: Path, others_write: bool) -> dict[str, str]:
    """Trials that were trained, as far as they were, without leaving a whole run: id: why.

    Args:
        root: the study directory.
        others_write: whether the study may be running: trials that have not ended are left alone then.
    """
    ends = _ends(root)
    missing = {}
    for row in plan_file.read_plan(root):
        directory = TrialDirectory(root / "trials" / str(row["trial_id"]))
        attempt = directory.latest_attempt()
        if attempt == 0 or (row["trial_id"] not in ends and (others_write or not directory.epochs.exists())):
            continue
        runs = read_record(directory.path)
        if others_write and runs and runs[-1].running:
            continue
        if not (runs and runs[-1].attempt >= attempt and runs[-1].is_whole(root)):
            unknown = "its process ended before the run was closed"
            missing[str(row["trial_id"])] = read_trouble(directory.path) or unknown
    return missing


def _ends(root: Path) -> dict[str, str]:
    return {
        event.trial_id: event.kind
        for event in reading.events(root, frozenset(TERMINAL))
        if isinstance(event, TrialEnded)
    }


def write_missing(root: Path, missing: Mapping[str, str], bound_s: float | None = None) -> dict[str, str]:
    """Writes runs of trials from their stored rows, offline.

    Args:
        root: the study directory.
        missing: the trials, as `missing_runs` gives them.
        bound_s: stops after so long; None: when all are written.

    Returns:
        Those that still have none, and why.
    """
    own = tracked_as(root)
    left = dict(missing)
    if not left or not own:
        return left
    trials = []
    for trial in _trials(root, left):
        try:
            trials.append({**trial, "rows": TrialDirectory(root / "trials" / trial["trial_id"]).read_rows()})
        except StudyError as error:
            left[trial["trial_id"]] = str(error)
    settings = {"wandb": own, "names": names_of(root)}
    asked = {"root": str(root.resolve()), "settings": settings, "trials": trials}
    child = Child("write", asked, "offline", root)
    until = None if bound_s is None else time.monotonic() + bound_s
    try:
        for number in range(len(trials)):
            patience = ANSWER_S + (START_S if number == 0 else 0.0)
            answer = child.answer(patience if until is None else min(patience, max(0.0, until - time.monotonic())))
            if answer["error"] is None:
                left.pop(answer["id"], None)
            else:
                left[answer["id"]] = answer["error"]
    except TooLong:
        pass  # what is left is written by the next `sync`
    finally:
        child.end()
    return left


def names_of(root: Path) -> dict[str, str]:
    """The flat names of a study's settings: as its trials have them, or made from its plan."""
    return known_names(root) or names_of_trials(plan_file.read_plan(root))


def study_run_is_due(root: Path) -> bool:
    """Whether a study's own run is missing, or shows less than the directory holds."""
    runs = read_record(root)
    whole = bool(runs) and runs[-1].id == study_run_id(root) and runs[-1].is_whole(root)
    return not whole or runs[-1].of != state_of(root)


def write_study_run(root: Path, mode: Mode, bound_s: float = ANSWER_S) -> str | None:
    """Writes a study's own run; why not, or None.

    Args:
        root: the study directory.
        mode: online | offline.
        bound_s: gives up after so long, beside the time that the SDK may take to start.
    """
    own = tracked_as(root)
    if not own or mode == "disabled":
        return None
    asked = {"root": str(root.resolve()), "wandb": own, "names": names_of(root), "mode": mode}
    try:
        child = Child("study", asked, mode, root)
    except OSError as error:
        return str(error)
    try:
        answer = child.answer(START_S + bound_s)
    except TooLong:
        return f"it was not written within {START_S + bound_s:g} s"
    finally:
        child.end()
    return None if answer["error"] is None else str(answer["error"])


def save_view(root: Path, entity: str | None = None) -> str | None:
    """Saves a study's view on the server, once; why not, or None. Needs wandb-workspaces and a run that is uploaded.

    Args:
        root: the study directory.
        entity: whose key it is, where the settings name nobody.
    """
    runs = read_record(root)
    own = runs[-1] if runs else None
    if own is None or not (own.mode == "online" or own.is_uploaded(root)):
        return None
    entity = own.entity or tracked_as(root).get("entity") or entity
    if not entity or not own.project or view_mark(root).exists() or not is_possible():
        return None
    names = names_of(root)
    settings = sorted({names[path] for row in plan_file.read_plan(root) for path in row["params"] if path in names})
    schema = tables.read_trials(root).column_names
    measures = [name for name in DIVERSITY if name.partition("/")[2] in schema]
    study = (lock_file.read_lock(root) or {}).get("settings", {}).get("study", "")
    asked = {"entity": entity, "project": own.project, "study": study, "names": settings, "measures": measures,
             "metric": of_trials(schema).name}  # fmt: skip
    child = Child("view", asked, "online", root)
    try:
        answer = child.answer(START_S + ANSWER_S)
    except TooLong:
        answer = {"error": "the server did not answer"}
    finally:
        child.end()
    if answer["error"] is not None:
        return f"its view could not be saved: {answer['error']}"
    atomic.write(view_mark(root), f"{answer['url']}\n")
    return None


def view_mark(root: Path) -> Path:
    """The file that holds the address of a study's view."""
    return root / "wandb" / "view.url"


def _trials(root: Path, wanted: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """What the writer needs of each trial, beside its rows."""
    lock = lock_file.read_lock(root) or {}
    ends = _ends(root)
    for row in plan_file.read_plan(root):
        if row["trial_id"] not in wanted:
            continue
        directory = TrialDirectory(root / "trials" / str(row["trial_id"]))
        place = {name: row.get(name) for name in ("trial_id", "cell_id", "cell", "arm", "role", "seed")}
        yield {
            **place,
            "study": lock.get("settings", {}).get("study", ""),
            "study_uid": lock.get("uid", ""),
            "settings": row["settings"],
            "params": row["params"],
            "attempt": directory.latest_attempt(),
            "status": ends.get(row["trial_id"], "interrupted"),
        }

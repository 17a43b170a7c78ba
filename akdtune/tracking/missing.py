"""Trials of a study without a whole run in Weights & Biases, and those runs made from the rows that are stored."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from akdtune.errors import StudyError
from akdtune.records import files
from akdtune.records.events import TrialEnded
from akdtune.records.trial_directory import TrialDirectory
from akdtune.roles import TERMINAL
from akdtune.tracking.child import START_S, Child, TooLong
from akdtune.tracking.mode import decide, read_decision
from akdtune.tracking.record import read_record, read_trouble

ANSWER_S = 60.0
"""A run of a trial whose file holds thousands of rows is written well within it."""


def tracked_as(root: Path) -> dict[str, Any]:
    """The `wandb` settings that a study's runs are written with; empty where it is not tracked."""
    known = read_decision(root)
    if known is not None and (known[1] or known[0].mode == "disabled"):
        return {} if known[0].mode == "disabled" else known[1]
    lock = files.read_lock(root) or {}
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
    for row in files.read_plan(root):
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
        event.trial_id: event.kind for event in files.events(root, frozenset(TERMINAL)) if isinstance(event, TrialEnded)
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
    asked = {"root": str(root.resolve()), "settings": {"wandb": own}, "trials": trials}
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


def _trials(root: Path, wanted: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """What the writer needs of each trial, beside its rows."""
    lock = files.read_lock(root) or {}
    ends = _ends(root)
    for row in files.read_plan(root):
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

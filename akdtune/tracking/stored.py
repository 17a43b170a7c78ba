"""Runs of Weights & Biases made from what is stored, in a process where nobody trains."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from akdtune.columns import Column
from akdtune.records.files import described, read_schema
from akdtune.records.trial_directory import TrialDirectory
from akdtune.tracking.child import Answer
from akdtune.tracking.loggers.wandb import run_id
from akdtune.tracking.record import read_record, read_trouble
from akdtune.tracking.tracker import NAMES, Tracker

STORED_FINISH_S = 30.0
"""How long writing a run from stored rows may take to close: nobody trains meanwhile."""


def write_stored(trial: Mapping[str, Any], settings: Mapping[str, Any], root: Path) -> Answer:
    """Writes the run of a trial that has none, offline.

    Args:
        trial: as a tracker takes it, and `attempt`, `status`, `rows`.
        settings: of `wandb`, and the flat `names` of settings.
        root: the study directory.

    Returns:
        `id` of the trial, and `error`, None where the run is whole.
    """
    rows = trial["rows"]
    wandb = {**settings["wandb"], "mode": "offline"}
    own = {"wandb": wandb, NAMES: settings[NAMES], "finish_timeout_s": STORED_FINISH_S}
    tracker = Tracker(own, trial, root, trial["attempt"])
    tracker.start()
    tracker.declare(_declared(root, trial["trial_id"]), rows)
    tracker.finish(trial["status"], rows[-1] if rows else {})
    directory = tracker.trial.directory
    own_id = run_id(tracker.trial.study_uid, trial["trial_id"], trial["attempt"])
    run = next((run for run in read_record(directory) if run.id == own_id), None)
    if run is None or not run.is_whole(root):
        return {"id": trial["trial_id"], "error": read_trouble(directory) or "it did not close"}
    for folder in (root / "wandb").glob(f"*-{own_id}*"):  # halves of the same attempt
        if folder.name.endswith((own_id, f"{own_id}b")) and folder != root / run.directory:
            shutil.rmtree(folder, ignore_errors=True)
    return {"id": trial["trial_id"], "error": None}


def _declared(root: Path, trial_id: str) -> list[Column]:
    path = TrialDirectory(root / "trials" / trial_id).epochs
    return described(read_schema(path)) if path.exists() else []

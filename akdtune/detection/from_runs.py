"""Teachers and students of studies: what locks and checkpoints hold."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from akdtune.detection.lineup import CPU, Lineup, Student, Teacher
from akdtune.errors import AkdtuneError, StudyError
from akdtune.records import tables
from akdtune.records.files import LOCK, trial_directory
from akdtune.records.lock_file import check_lock, read_lock
from akdtune.records.plan_file import read_plan
from akdtune.registry import load_plugins, lookup, network_name
from akdtune.reports.detection.outputs import TeacherFacts
from akdtune.roles import REPORT_ROLES
from akdtune.settings.data import DataSettings
from akdtune.teacher.checkpoints import load_checkpoint
from akdtune.teacher.file import TeacherFile
from akdtune.teacher.find import load_teacher, located

OF_TRAINING = frozenset(
    "root download validation split_seed limit_per_class imbalance fraction label_noise augmentation strong stream"
    " memory_mib workers".split()
)
"""Settings of `data` that change nothing in plain test images."""


def plugged_lock(run: Path) -> dict[str, Any]:
    """The lock of a study, with the plug-ins loaded that it names.

    Raises:
        StudyError: when there is none, or it lacks what is needed.
        AkdtuneError: for a plug-in that cannot be imported.
    """
    lock = read_lock(run)
    if lock is None:
        raise StudyError(f"{run / LOCK}: no such file; without it nobody knows which teacher a study has")
    check_lock(run, lock)
    folder = Path(lock.get("source", "")).expanduser().parent.absolute()
    load_plugins(list(lock["settings"].get("plugins") or []), [str(folder)])
    return lock


def same_images(run: Path, lock: Mapping[str, Any], source: str, data: DataSettings, content_hash: str) -> None:
    """Refuses a study of other images than those that are asked about.

    Args:
        run: the study.
        lock: its content.
        source: who says which images are asked about.
        data: their settings.
        content_hash: of what was read.

    Raises:
        AkdtuneError: naming what differs.
    """
    of_run, asked = _of_images(DataSettings(**lock["settings"]["data"])), _of_images(data)
    for key in sorted({*of_run, *asked}):
        if of_run.get(key) != asked.get(key):
            raise AkdtuneError(
                f"{run}: data.{key} is {of_run.get(key)}, in {source} {asked.get(key)}; all networks are asked about "
                "the same images"
            )
    if lock["data"]["hash"] != content_hash:
        raise AkdtuneError(f"{run}: was trained on other images than those of {source} (by the hash of their content)")


def _of_images(data: DataSettings) -> dict[str, Any]:
    return {key: value for key, value in data.model_dump(mode="json").items() if key not in OF_TRAINING}


def add_run(lineup: Lineup, run: Path, lock: Mapping[str, Any]) -> None:
    """Adds the teachers of a study and the students of its finished trials.

    A trial whose methods read no teacher is a negative control; its study's teacher is the one that it did not have.

    Raises:
        AkdtuneError: for a teacher that is missing or is not the one of the lock, for a checkpoint that does not fit.
    """
    name = run.resolve().name
    settings = {row["trial_id"]: row["settings"] for row in read_plan(run)}
    left_out: list[str] = []
    names: dict[str, str | None] = {}
    for row in tables.read_trials(run).select(["trial_id", "arm", "role", "seed", "status"]).to_pylist():
        trial_id, of_trial = row["trial_id"], settings.get(row["trial_id"])
        checkpoint = trial_directory(run, trial_id) / "checkpoint.pt"
        key = _teacher_key(row["role"], lock)
        reason = _left_out(row, of_trial, checkpoint, lock[key])
        if reason or of_trial is None:
            left_out.append(reason)
            continue
        if key not in names:
            names[key] = _add_teacher(lineup, run, key, TeacherFile.parse(lock[key], str(run / LOCK)))
        network = of_trial["student"]["network"]
        load = functools.partial(load_checkpoint, checkpoint, network, lineup.dataset.inputs, CPU, finite=False)
        lineup.add_student(
            Student(
                f"{name}/{trial_id}", network_name(network), "distilled" if reads_teacher(of_trial) else "control",
                names[key], load, name, row["arm"], row["seed"],
            )
        )  # fmt: skip
    lineup.left_out(str(run), left_out)


def _teacher_key(role: str, lock: Mapping[str, Any]) -> str:
    """Where in the lock the teacher of trials of this role stands."""
    return "report_teacher" if role in REPORT_ROLES and lock.get("report_teacher") else "teacher"


def _left_out(row: Mapping[str, Any], settings: Mapping[str, Any] | None, checkpoint: Path, teacher: Any) -> str:
    """Why a trial's student is not asked; empty where it is."""
    if row["status"] != "done":
        return f"{row['status']}, not done"
    if settings is None:
        return "not in the plan"
    if not checkpoint.exists():
        return "no checkpoint"
    views, methods = settings["views"]["name"], [term["name"] for term in settings["method"]]
    heads = [method for method in methods if lookup("methods", method).replaces_logits]
    if heads:
        return f"predicts through a head of {heads[0]}, not by itself"
    if views == "random" and reads_teacher(settings):
        return "taught by noise"
    if lookup("views", views).needs_others and teacher.get("others"):
        return "taught by several teachers"
    return ""


def reads_teacher(settings: Mapping[str, Any]) -> bool:
    """Whether some method of a trial reads a teacher."""
    return any(lookup("methods", term["name"]).consumes != "self" for term in settings["method"])


def _add_teacher(lineup: Lineup, run: Path, key: str, file: TeacherFile) -> str | None:
    """Adds a study's teacher; returns its name among the candidates, None where it has none."""
    if file.absent:
        return None
    found = located(file)
    network = load_teacher(found, lineup.dataset.inputs, CPU)
    name = run.resolve().name
    facts = TeacherFacts(name, network_name(file.network), file.weights_hash, file.test_accuracy)
    return lineup.add_teacher(Teacher(facts, network))

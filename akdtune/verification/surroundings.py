"""What a study was made from, where it is at hand: teachers, students' checkpoints, data; and what is here now."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from akdtune.data.dataset import load_data
from akdtune.data.row_sets import RowDataSet
from akdtune.devices import resolve_device, trained_on
from akdtune.errors import AkdtuneError
from akdtune.planning.identity import file_hash
from akdtune.records.files import LOCK
from akdtune.registry import load_plugins
from akdtune.reports.text import counted
from akdtune.running.lock import version_changes
from akdtune.settings.checkpoint import checkpoint_file
from akdtune.settings.data import data_settings, without_download
from akdtune.teacher.file import TeacherFile
from akdtune.teacher.find import load_teacher, located
from akdtune.verification.checks import Check, check, not_at_hand
from akdtune.verification.ledger import Ledger

Lock = Mapping[str, Any]

ROUNDING_KEYS = ("processor", "capability", "onednn_max_cpu_isa", "threads", "device", "torch", "akdtune")
"""What the last digits of a trial depend on."""


@dataclass(frozen=True)
class Data:
    """The study's data where it is at hand.

    Attributes:
        dataset: loaded; None where it is not.
        check: what was found.
    """

    dataset: RowDataSet | None
    check: Check

    @property
    def labels(self) -> dict[int, int] | None:
        """True class of each image that students are judged on, by id."""
        if self.dataset is None:
            return None
        truth: dict[int, int] = {}
        for train_on in ("subset", "full"):
            try:
                splits = self.dataset.split(train_on)
            except AkdtuneError:  # no validation images: nobody is judged on them
                continue
            for part in (splits.validation, splits.test):
                if part is not None:
                    truth |= dict(zip(part.sample_ids_N.tolist(), part.labels_N.tolist(), strict=True))
        return truth


def data_check(lock: Lock) -> Data:
    """The content hash of the data against the lock's."""
    held = lock["settings"].get("data") or {}
    try:
        load_plugins(lock["settings"].get("plugins") or (), (str(Path.cwd()),))
        dataset = load_data(data_settings(without_download(held)), torch.device("cpu"))
    except (AkdtuneError, OSError, ValueError) as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        return Data(None, not_at_hand("data", first))
    known = lock["data"]["hash"]
    if dataset.content_hash != known:
        text = f"{LOCK}, data.hash: stored {known}, recomputed {dataset.content_hash}: other images or labels"
        return Data(None, check("data", f"{held.get('name')}, read from here", [text]))
    return Data(dataset, check("data", f"{held.get('name')}, images and labels have the lock's hash", []))


def teacher_check(lock: Lock, dataset: RowDataSet | None) -> Check:
    """The weights of every teacher's file against the lock's hash."""
    teachers = [TeacherFile.parse(lock[key], LOCK) for key in ("teacher", "report_teacher") if key in lock]
    every = {file.path: file for teacher in teachers for file in (teacher, *teacher.others) if not file.absent}
    if not every:
        return check("teacher", "the study has none", [])
    if dataset is None:
        return not_at_hand("teacher", "its network is built for the data, which is not at hand")
    found, missing = [], []
    for file in every.values():
        here = located(file)
        if not Path(here.path).exists():
            missing.append(file.path)
            continue
        try:
            load_teacher(here, dataset.inputs, torch.device("cpu"))
        except AkdtuneError as error:
            found.append(str(error))
    if missing and not found:
        return not_at_hand("teacher", f"{', '.join(missing)}: no such file")
    lacking = f"; not at hand: {', '.join(missing)}" if missing else ""
    return check("teacher", f"weights of {counted(len(every) - len(missing), 'file')} rehashed{lacking}", found)


def student_check(lock: Lock, plans: Mapping[str, Mapping[str, Any]]) -> Check | None:
    """The files that students begin with against the lock's hashes; None where there are none."""
    students: Mapping[str, str] = lock.get("students") or {}
    if not students:
        return None
    named = (plan["settings"]["student"].get("checkpoint") for plan in plans.values())
    by_label = {file.label: file for file in (checkpoint_file(one) for one in named if one is not None)}
    found, missing = [], []
    for label, known in students.items():
        file = by_label.get(label)
        if file is None or not Path(file.path).exists():
            missing.append(label)
        elif (now := file_hash(file)) != known:
            found.append(f"{LOCK}, students, {label}: stored {known}, recomputed {now}")
    if missing and not found:
        return not_at_hand("students", f"{', '.join(missing)}: no such file")
    return check("students", f"{counted(len(students) - len(missing), 'file')} rehashed", found)


def origin_check(lock: Lock, held: Ledger) -> Check:
    """Versions and processor that are recorded against those of here; other ones make no number wrong."""
    lines = [f"{name} {then}, here {now or 'not installed'}" for name, (then, now) in version_changes(lock).items()]
    here = trained_on(resolve_device("auto"))
    for key in ("processor", "capability", "device"):
        values = sorted({str(where[key]) for where in _recorded(held) if where.get(key) is not None})
        if values and values != [str(here[key])]:
            lines.append(f"{key} {', '.join(values)}, here {here[key]}")
    if lines:
        return Check("versions", "differs", "; ".join(lines))
    recorded = "" if any(True for _ in _recorded(held)) else " (the processor is not recorded)"
    return check("versions", f"as here: {here['processor']}, torch {here['torch']}{recorded}", [])


def _recorded(held: Ledger) -> Iterator[Mapping[str, Any]]:
    distinct = {
        json.dumps(trial.end.trained_on, sort_keys=True)
        for trial in held.trials.values()
        if trial.end is not None and trial.end.trained_on is not None
    }
    yield from map(json.loads, sorted(distinct))


def elsewhere(then: Mapping[str, Any] | None, cpu: float, device: str) -> list[str]:
    """In what a trial was trained otherwise than it would be here, so that its last digits may differ.

    Args:
        then: what is recorded of it; None where nothing is.
        cpu: threads that a trial has.
        device: as its settings name it.
    """
    if then is None:
        return ["processor and versions that trained it are not recorded"]
    here = {**trained_on(resolve_device(device)), "threads": max(1, int(cpu))}
    return [
        f"{key} {then.get(key)} then, {here.get(key)} here" for key in ROUNDING_KEYS if then.get(key) != here.get(key)
    ]

"""`--reuse RUN`: trials that another study has trained already, taken over instead of trained again.

A trial's id is a hash of everything that determines its numbers, and its seed; the versions that trained it must be
the same, too, and the random streams that it drew from, so that what is taken over is what would have been computed.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from akdtune import atomic
from akdtune.errors import StudyError
from akdtune.records import recorded, recorded_files
from akdtune.records.check_words import with_check
from akdtune.records.damage import damage_of
from akdtune.records.files import LOCK, trial_directory
from akdtune.records.ledger.events import TrialEnded
from akdtune.records.lock_file import read_lock
from akdtune.records.study_directory import StudyDirectory
from akdtune.records.study_folder import writing
from akdtune.records.trial_directory import TrialDirectory
from akdtune.records.trial_record import TrialRecord
from akdtune.running.streams import draws, is_current
from akdtune.settings.record import RecordSettings, held_record

VERSIONS = ("torch", "torchvision", "numpy")
FILES = ("epochs.parquet", *recorded_files.OF_TRIAL, "checkpoint.pt", "log.txt", "outcome.json")
"""What makes a finished trial, its outcome last."""


class Donors:
    """Study directories whose finished trials may be taken over.

    Args:
        directory: the study that takes, with its lock written.
        others: study directories, in the order in which they are asked.

    Raises:
        StudyError: for a folder that is no study, or is this one.
    """

    def __init__(self, directory: StudyDirectory, others: Sequence[Path]) -> None:
        self.directory = directory
        self.notes: list[str] = []
        self.taken = 0
        own = _versions(directory.read_lock())
        self._record = _record(directory.read_lock())
        self.others: list[Path] = []
        for other in others:
            if not (other / LOCK).exists():
                raise StudyError(f"--reuse {other}: not a study directory (no {LOCK})")
            if other.resolve() == directory.root.resolve():
                raise StudyError(f"--reuse {other}: is this study itself")
            theirs = _versions(read_lock(other, ("packages",)))
            different = [f"{name} {theirs.get(name)} there, {own.get(name)} here" for name in own
                         if own.get(name) != theirs.get(name)]  # fmt: skip
            if different:
                self.notes.append(f"nothing is taken over from {other}: {', '.join(different)}")
            else:
                self.others.append(other)

    def take(self, records: Sequence[TrialRecord]) -> list[TrialRecord]:
        """Takes over what there is of these planned trials; returns those that remain to be trained."""
        left: list[TrialRecord] = []
        for record in records:
            source = None
            if record.terminal is None and not record.attempts:
                source = next((other for other in self.others if self._has(other, record)), None)
            if source is None:
                left.append(record)
            else:
                self._copy(source, record)
        return left

    def _has(self, other: Path, record: TrialRecord) -> bool:
        """Whether the trial is done there, and drew what it would draw here; notes where it did not."""
        if not _is_done(other, record.trial_id):
            return False
        outcome = json.loads((trial_directory(other, record.trial_id) / "outcome.json").read_text())
        if is_current(outcome) or not draws(record.plan["settings"]):
            return True
        note = f"trials of {other} that drew before random streams had names are not taken over"
        if note not in self.notes:
            self.notes.append(note)
        return False

    def _note_record(self, other: Path) -> None:
        """Says where trials were asked to keep something else than they would be here."""
        theirs = _record(read_lock(other, ()))
        if theirs != self._record:
            kept = json.dumps(theirs.model_dump(mode="json"))
            note = f"trials of {other} are taken over with what they kept there (record: {kept})"
            self.notes += [] if note in self.notes else [note]

    def _copy_teachers(self, other: Path, record: TrialRecord) -> None:
        """Takes over what is known of the teachers on the images that a trial is judged by: they are its own."""
        split = recorded.split_of(str(record.plan["role"]))
        for path in recorded_files.teacher_files(other, split) if self._record.teacher else ():
            target = self.directory.root / recorded_files.FOLDER / path.name
            if not target.exists():
                target.parent.mkdir(exist_ok=True)
                atomic.write(target, path.read_bytes(), durable=True)

    def _copy(self, other: Path, record: TrialRecord) -> None:
        """Copies a trial's files beside its place, renames them into it, and records its end."""
        source, target = trial_directory(other, record.trial_id), self.directory.trial(record.trial_id).path
        temporary = target.with_name(f".{target.name}.reused")
        with writing(self.directory.root):
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            for name in FILES:
                if (source / name).exists():
                    shutil.copy2(source / name, temporary / name)
            copied = TrialDirectory(temporary)
            outcome = copied.read_outcome() or {}
            origin = outcome.get("reused_from") or str(other.resolve())
            copied.outcome.write_text(with_check(json.dumps({**outcome, "reused_from": origin})))
            shutil.rmtree(target, ignore_errors=True)
            os.replace(temporary, target)
            self._copy_teachers(other, record)
        self._note_record(other)
        self.directory.catch_up(record)
        self.directory.finish(TrialEnded.of_outcome(record.trial_id, outcome, reused_from=origin))
        self.taken += 1


def _record(lock: Mapping[str, Any] | None) -> RecordSettings:
    """What a study keeps of its trials."""
    return held_record(((lock or {}).get("settings") or {}).get("record"))


def _is_done(other: Path, trial_id: str) -> bool:
    """Whether a trial reached its end there, with every file that makes one, as it wrote them."""
    trial = TrialDirectory(trial_directory(other, trial_id))
    try:
        outcome = trial.read_outcome()
    except StudyError:
        return False
    if outcome is None or outcome["outcome"] != "done" or not all((trial.path / name).exists() for name in FILES[:2]):
        return False
    return not damage_of(trial, "done", int(outcome["epoch"]))


def _versions(lock: Mapping[str, Any] | None) -> dict[str, Any]:
    if lock is None:
        return {}
    packages = lock.get("packages") or {}
    return {"akdtune": lock.get("akdtune"), **{name: packages.get(name) for name in VERSIONS}}

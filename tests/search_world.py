"""Plays whole searches without Ray or training: a driver that reports made-up scores, one trial at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from akdtune.planning.identity import Identity, initial_rows
from akdtune.planning.prepared import Prepared
from akdtune.records.ledger.events import StudyStarted, TrialEnded
from akdtune.records.study_directory import StudyDirectory
from akdtune.records.trial_record import TrialRecord
from akdtune.roles import Terminal
from akdtune.running.execution import Run
from akdtune.search.schedulers import ArmScheduler, pruners
from akdtune.study import spec
from akdtune.study.proposals import Outline
from akdtune.teacher.file import TeacherFile

TINY = """
study: tiny
data: {name: digits, validation: 600}
teacher: {network: {name: cnn, widths: [4, 8]}, epochs: 3, batch_size: 32}
student: {network: {name: cnn, widths: [2, 4]}}
views: {name: angular, margin: {uniform: [0.1, 0.6]}, warmup_epochs: 2}
method: {name: kd, weight: {log_uniform: [0.1, 4.0]}}
training: {epochs: 6, batch_size: 32}
search: {algorithm: random, trials: 6}
scheduler: null
tracking: {wandb: null}
"""

Score = Callable[[TrialRecord, int], float]


def noise(record: TrialRecord, epoch: int) -> float:
    """Between 0 and 100, from the trial's id and the epoch alone."""
    digest = hashlib.sha256(f"{record.trial_id}/{epoch}".encode()).digest()
    return round(int.from_bytes(digest[:4], "big") / 2**32 * 100, 3)


def ended(record: TrialRecord, kind: Terminal, epoch: int, reason: str | None = None) -> TrialEnded:
    return TrialEnded(kind=kind, trial_id=record.trial_id, epoch=epoch, reason=reason)


def load(folder: Path, *overrides: str) -> spec.Study:
    folder.mkdir(exist_ok=True)
    file = folder / "study.yaml"
    file.write_text(TINY)
    return spec.load(file, list(overrides))


class Played:
    """One study directory, taken up anew by every `play`, as a resumed command would."""

    def __init__(self, study: spec.Study, root: Path) -> None:
        self.study, self.root = study, root
        self.outline = Outline(study)
        stand_in = TeacherFile("t.pt", "key", "weights", study.teacher.network, 80.0, 81.0, False)
        self.identity = Identity(study, Prepared.load(study), stand_in)
        self.order: list[str] = []

    def open(self) -> Run:
        self.root.mkdir(exist_ok=True)
        self.directory = StudyDirectory(self.root)
        self.directory.load()
        self.directory.reconcile()
        if not self.directory.records:
            self.directory.add_to_plan(initial_rows(self.outline, self.identity))
        self.run = Run(self.outline, self.directory, self.identity)
        search, phase = self.study.search, self.run.phase
        self.scheduler = ArmScheduler(
            self.directory,
            pruners(self.study, self.run.brackets),
            self.study.epochs,
            search.training_seeds[0] if phase.leads else None,
            self.study.scheduler.pilot,
        )
        return self.run

    def play(self, score: Score = noise, most: int | None = None) -> Played:
        """Runs until nothing is left, or `most` trials have ended."""
        run = self.open()
        self.directory.append(StudyStarted(pid=1))
        while most is None or most > 0:
            record = run.next()
            if record is None:
                break
            self.order.append(record.trial_id)
            run.started(record)
            self.end(record, score)
            most = None if most is None else most - 1
        return self

    def end(self, record: TrialRecord, score: Score) -> None:
        rows = []
        for epoch in range(1, self.study.epochs + 1):
            value = score(record, epoch)
            rows.append({"epoch": epoch, "val_accuracy": value, "score": value, "wall_time_s": 0.5 + value / 100})
            result: dict[str, Any] = {"trial": record.trial_id, **rows[-1], "rows": [[epoch, value, value]]}
            if self.scheduler.on_trial_result(None, SimpleNamespace(trial_id="x"), result) == "STOP":  # type: ignore[arg-type]
                self.run.ended(record, ended(record, "pruned", epoch, reason="rung"))
                return
        self.directory.trial(record.trial_id).path.mkdir(parents=True, exist_ok=True)
        self.directory.trial(record.trial_id).write_rows(
            [{"trial_id": record.trial_id, "attempt": 1, **r} for r in rows]
        )
        self.run.ended(record, ended(record, "done", self.study.epochs))

    def events(self, kind: str) -> list[Any]:
        """The events of a kind without their times."""
        return [replace(event, time=0.0) for event in self.directory.events if event.kind == kind]

    def ends(self) -> dict[str, str | None]:
        return {record.trial_id: record.terminal for record in self.directory.records.values()}

    def by_cell(self) -> dict[str, dict[int, str | None]]:
        found: dict[str, dict[int, str | None]] = {}
        for record in self.directory.records.values():
            found.setdefault(record.plan["cell_id"], {})[record.plan["seed"]] = record.terminal
        return found

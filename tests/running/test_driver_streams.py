"""Resuming or extending a study says which of its trials new ones pair less well with; nothing is trained here."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from akdtune.planning.identity import Identity, initial_rows
from akdtune.planning.prepared import Prepared
from akdtune.records.ledger.events import TrialEnded
from akdtune.records.study_directory import StudyDirectory
from akdtune.running import driver
from akdtune.running.lock import lock_content
from akdtune.study import spec
from akdtune.study.proposals import Outline
from akdtune.teacher.file import TeacherFile
from tests.ray.studies import TINY


@pytest.mark.parametrize("named", [False, True], ids=["before", "since"])
def test_resuming_and_extending_warn_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: bool) -> None:
    file, root = tmp_path / "study.yaml", tmp_path / "run"
    file.write_text(TINY)
    study = spec.load(file)
    stand_in = TeacherFile("t.pt", "key", "weights", study.teacher.network, 80.0, 81.0, False)
    identity = Identity(study, Prepared.load(study), stand_in)
    lock = lock_content(study, identity)
    directory = StudyDirectory(root)
    with directory.opened():
        directory.write_lock(lock if named else {key: value for key, value in lock.items() if key != "streams"})
        directory.add_to_plan(initial_rows(Outline(study), identity))
        first, *others = directory.records.values()
        end(directory, first.trial_id)
    monkeypatch.setattr(driver._Driver, "_go", lambda *_: 0)

    def said(*overrides: str) -> int:
        console = Console(file=io.StringIO(), markup=False, width=200)
        assert driver.run(spec.load(file, list(overrides)), root, console=console, extend=bool(overrides)) == 0
        assert isinstance(console.file, io.StringIO)
        return console.file.getvalue().count("warning: 1 finished trial drew random numbers")

    assert said() == (0 if named else 1)
    with directory.opened():
        for record in others:
            directory.finish(TrialEnded(kind="failed", trial_id=record.trial_id, epoch=0))
    assert said() == 0, "nothing is left to train"
    assert said("probe.trials=4") == (0 if named else 1)


def end(directory: StudyDirectory, trial_id: str) -> None:
    """Ends a trial as those ended that were trained before random streams had names."""
    directory.trial(trial_id).path.mkdir(parents=True)
    outcome = {"outcome": "done", "epoch": 2}
    directory.trial(trial_id).write_outcome(outcome)
    directory.finish(TrialEnded.of_outcome(trial_id, outcome))

"""The study directory: exactly one terminal event, torn files, reconciliation, two writers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from akdtune.errors import StudyError
from akdtune.records.ledger.events import EpochFinished, RungDecided, TrialEnded, TrialStarted
from akdtune.records.study_directory import StudyDirectory
from akdtune.records.study_lock import this_driver
from akdtune.records.trial_directory import Superseded, TrialDirectory


def plan_row(trial_id: str, role: str = "search") -> dict[str, Any]:
    return {
        "trial_id": trial_id,
        "cell_id": trial_id.split("-")[0],
        "seed": 0,
        "role": role,
        "arm": "angular/kd",
        "bracket": "angular/kd",
        "proposal": 0,
        "params": {"views.margin": 0.3},
        "settings": {"views": {"name": "angular", "margin": 0.3}},
        "raw": {"views.margin": 0.3},
    }


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[StudyDirectory]:
    with StudyDirectory(tmp_path / "study").opened() as opened:
        opened.write_lock({"settings": {"study": "s"}})
        opened.add_to_plan([plan_row("a-s0"), plan_row("b-s0")])
        yield opened


def reopened(directory: StudyDirectory) -> StudyDirectory:
    fresh = StudyDirectory(directory.root)
    fresh.load()
    return fresh


def rung(value: float, cutoff: float | None, decision: str) -> RungDecided:
    return RungDecided(trial_id="a-s0", epoch=1, rung=1, value=value, cutoff=cutoff, decision=decision, bracket="x")


def test_events_survive_a_reopening(directory: StudyDirectory) -> None:
    directory.append(TrialStarted(trial_id="a-s0", attempt=1))
    assert directory.epoch("a-s0", 1, 50.0, 50.0)
    assert not directory.epoch("a-s0", 1, 50.0, 50.0)
    directory.append(rung(50.0, None, "CONTINUE"))
    assert directory.finish(TrialEnded(kind="done", trial_id="a-s0", epoch=1))
    assert not directory.finish(TrialEnded(kind="pruned", trial_id="a-s0", epoch=1)), "a trial ends once"
    again = reopened(directory)
    record = again.records["a-s0"]
    assert (record.terminal, record.attempts, record.epochs, record.value) == ("done", 1, {1: (50.0, 50.0)}, 50.0)
    assert record.plan == {**plan_row("a-s0"), "number": 0, "cell": None}
    assert [r.trial_id for r in again.unfinished()] == ["b-s0"]


@pytest.mark.parametrize("keep", [1, 20, -1])
def test_a_torn_last_line_is_cut_before_the_first_append(directory: StudyDirectory, keep: int) -> None:
    directory.epoch("a-s0", 1, 50.0, 50.0)
    whole = directory.ledger_path.read_bytes()
    directory.epoch("a-s0", 2, 51.0, 50.5)
    last = directory.ledger_path.read_bytes()[len(whole) :]
    directory.ledger_path.write_bytes(whole + last[:keep])
    again = reopened(directory)
    assert again.records["a-s0"].last_epoch == 1
    again.epoch("a-s0", 2, 51.0, 50.5)
    lines = again.ledger_path.read_text().splitlines()
    assert [event["epoch"] for event in map(json.loads, lines) if event["event"] == "epoch"] == [1, 2]


def test_a_second_process_is_refused(directory: StudyDirectory) -> None:
    second = opened_elsewhere(directory.root)
    assert second.returncode == 2, second.stderr
    assert "another akdtune is running this study" in second.stdout


def opened_elsewhere(root: Path) -> subprocess.CompletedProcess[str]:
    """Another process that wants to run the study."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom akdtune.errors import StudyError\n"
        "from akdtune.records.study_directory import StudyDirectory\n"
        "from akdtune.records.study_lock import this_driver\n"
        "try:\n    with StudyDirectory(Path(sys.argv[1])).opened() as d: d.append(this_driver()); print('opened')\n"
        "except StudyError as error:\n    print(error); sys.exit(2)"
    )
    return subprocess.run([sys.executable, "-c", code, str(root)], capture_output=True, text=True)


def test_without_the_lock_file_a_second_driver_sees_the_first(directory: StudyDirectory) -> None:
    directory.append(this_driver())
    (directory.root / ".lock").unlink()
    second = opened_elsewhere(directory.root)
    assert second.returncode == 2, second.stderr
    assert f"another akdtune is running this study (process {os.getpid()} on this machine; its lock" in second.stdout


def test_a_driver_whose_lock_is_gone_writes_no_more(directory: StudyDirectory) -> None:
    directory.append(replace(this_driver(), host="elsewhere"))
    (directory.root / ".lock").unlink()
    assert opened_elsewhere(directory.root).stdout == "opened\n"
    before = directory.ledger_path.read_bytes()
    with pytest.raises(StudyError, match=r"\.lock: was removed or replaced while this process ran the study; it stops"):
        directory.epoch("a-s0", 1, 50.0, 50.0)
    assert directory.broken is not None and directory.ledger_path.read_bytes() == before
    assert directory.records["a-s0"].epochs == {}


def test_a_process_that_left_the_study_keeps_nobody_out(tmp_path: Path) -> None:
    """Python goes on after a run that failed; its process lives, and runs the study no more."""
    with StudyDirectory(tmp_path / "study").opened() as directory:
        directory.write_lock({"settings": {"study": "s"}})
        directory.append(this_driver())  # and never that it finished, as after an error
    assert opened_elsewhere(tmp_path / "study").stdout == "opened\n"


def test_a_short_write_leaves_no_half_line(directory: StudyDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    directory.epoch("a-s0", 1, 50.0, 50.0)
    whole, write = directory.ledger_path.read_bytes(), os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, content: write(descriptor, content[:20]))
        with pytest.raises(StudyError, match="No space left on device; nothing recorded so far is lost"):
            directory.epoch("a-s0", 2, 51.0, 51.0)
    assert directory.ledger_path.read_bytes() == whole
    directory.epoch("a-s0", 2, 51.0, 51.0)
    assert reopened(directory).records["a-s0"].last_epoch == 2


def test_a_clock_that_is_set_back_changes_no_order(directory: StudyDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    directory.epoch("a-s0", 1, 50.0, 50.0)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 86_400)
    directory.epoch("a-s0", 2, 50.0, 50.0)
    first, second = (json.loads(line)["time"] for line in directory.ledger_path.read_text().splitlines()[-2:])
    assert 0 <= second - first < 60
    trial = directory.trial("a-s0")
    trial.take_attempt()
    assert trial.running_process() == os.getpid(), "an attempt that began before the clock that it reads"


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(StudyError, match="not empty and not a study directory"), StudyDirectory(tmp_path).opened():
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_directory_that_never_became_a_study_is_removed(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), StudyDirectory(tmp_path / "new").opened():
        raise RuntimeError("before the lock file was written")
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_sentence_and_is_remembered(directory: StudyDirectory) -> None:
    directory.ledger_path = Path("/dev/full")
    with pytest.raises(StudyError, match="No space left on device; nothing recorded so far is lost"):
        directory.append(EpochFinished(trial_id="a-s0", epoch=1, value=1.0, score=1.0))
    assert directory.broken is not None
    assert directory.records["a-s0"].epochs == {}, "what was not written did not happen"


class TestReconcile:
    def rows(self, count: int) -> list[dict[str, Any]]:
        return [
            {"trial_id": "a-s0", "attempt": 1, "epoch": e, "val_accuracy": 50.0 + e, "score": 50.0 + e}
            for e in range(1, count + 1)
        ]

    def test_rows_the_driver_never_saw_are_appended(self, directory: StudyDirectory) -> None:
        directory.epoch("a-s0", 1, 51.0, 51.0)
        directory.trial("a-s0").write_rows(self.rows(3))
        assert directory.reconcile() == []
        assert directory.records["a-s0"].epochs == {e: (50.0 + e, 50.0 + e) for e in (1, 2, 3)}

    def test_a_trial_with_its_outcome_on_disk_is_done_without_running(self, directory: StudyDirectory) -> None:
        trial = directory.trial("a-s0")
        trial.write_rows(self.rows(2))
        trial.write_outcome({"outcome": "done", "epoch": 2, "warning": "gate"})
        assert directory.reconcile() == ["a-s0"]
        record = directory.records["a-s0"]
        assert (record.terminal, record.last_epoch) == ("done", 2)
        assert directory.events[-1].plain()["warning"] == "gate"
        assert directory.reconcile() == []

    def test_a_recorded_stop_is_final_without_its_event(self, directory: StudyDirectory) -> None:
        trial = directory.trial("a-s0")
        trial.write_rows(self.rows(2))
        directory.epoch("a-s0", 1, 51.0, 51.0)
        directory.append(rung(51.0, 60.0, "STOP"))
        assert directory.reconcile() == ["a-s0"]
        ended = directory.events[-1]
        assert isinstance(ended, TrialEnded) and (ended.kind, ended.reason) == ("pruned", "rung")


class TestTrialDirectory:
    def test_each_attempt_has_its_own_number(self, tmp_path: Path) -> None:
        first, second = TrialDirectory(tmp_path / "t"), TrialDirectory(tmp_path / "t")
        assert (first.take_attempt(), second.take_attempt(), first.latest_attempt()) == (1, 2, 2)

    def test_a_superseded_writer_changes_nothing(self, tmp_path: Path) -> None:
        first, second = TrialDirectory(tmp_path / "t"), TrialDirectory(tmp_path / "t")
        first.take_attempt()
        first.write_rows([{"epoch": 1}])
        second.take_attempt()
        with pytest.raises(Superseded):
            first.write_rows([{"epoch": 1}, {"epoch": 2}])
        assert [row["epoch"] for row in second.read_rows()] == [1]
        assert not [p for p in second.path.iterdir() if p.name.startswith(".")], "no temporary file is left"

    def test_an_attempt_is_closing_until_it_says_so(self, tmp_path: Path) -> None:
        trial = TrialDirectory(tmp_path / "t")
        assert not trial.is_closing()
        trial.take_attempt()
        assert trial.is_closing()
        trial.close_attempt()
        assert not trial.is_closing() and trial.latest_attempt() == 1

    def test_the_process_of_an_attempt_is_known_while_it_lives(self, tmp_path: Path) -> None:
        trial = TrialDirectory(tmp_path / "t")
        trial.take_attempt()
        assert trial.running_process() == os.getpid()
        record = trial.path / "attempts" / "1.json"
        record.write_text(json.dumps({**json.loads(record.read_text()), "pid": 2**22 + 1, "born": None}))
        assert trial.running_process() is None

    def test_a_process_that_is_younger_than_the_attempt_is_another(self, tmp_path: Path) -> None:
        trial = TrialDirectory(tmp_path / "t")
        trial.take_attempt()
        record = trial.path / "attempts" / "1.json"
        record.write_text(json.dumps({**json.loads(record.read_text()), "started": 1.0e9, "born": None}))
        assert trial.running_process() is None


def test_waiting_for_workers_ends_when_they_are_gone(directory: StudyDirectory) -> None:
    assert directory.wait_for_workers(0.0) == []
    directory.trial("a-s0").take_attempt()
    assert directory.wait_for_workers(0.2) == [os.getpid()]


def test_what_killed_writers_left_is_taken_away_where_nobody_writes(directory: StudyDirectory) -> None:
    over, going_on = (directory.trial(trial_id).path for trial_id in ("a-s0", "b-s0"))
    for folder in (directory.root, over, going_on):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".epochs.parquet.17650.14.tmp").touch()
    assert directory.finish(TrialEnded(kind="done", trial_id="a-s0", epoch=1))
    directory.remove_left_over()
    assert [path.parent for path in sorted(directory.root.rglob("*.tmp"))] == [going_on]

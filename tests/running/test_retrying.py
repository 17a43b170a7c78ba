"""Trials that met something outside themselves, and failed ones that go on: in the ledger, the tables, the search."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from akdtune.errors import StudyError
from akdtune.records import tables
from akdtune.records.files import LOCK
from akdtune.records.ledger.events import TrialEnded, TrialInterrupted, TrialRetried
from akdtune.records.ledger.reading import read_events
from akdtune.records.study_directory import StudyDirectory
from akdtune.records.trial_record import TrialRecord
from akdtune.roles import TERMINAL
from akdtune.running import execution, retrying
from akdtune.running.failures import Fault
from tests.search_world import Played, load, noise

GONE = Fault("ENOENT", "/t.pt: No such file or directory", "put it back", "node7")


def tables_of(root: Path) -> dict[str, tuple[str, str | None]]:
    rows = tables.build_trials(root).to_pylist()
    return {row["trial_id"]: (row["status"], row["stop_reason"]) for row in rows}


def interrupted(trial_id: str, fault: Fault = GONE) -> dict[str, object]:
    return {"trial": trial_id, "outcome": "interrupted", "epoch": 0, "fault": fault.plain()}


def retry(played: Played, *names: str) -> list[str]:
    (played.root / LOCK).touch()
    return [record.trial_id for record in retrying.retry(played.root, names)]


def begun(played: Played) -> TrialRecord:
    record = played.run.next()
    assert record is not None
    played.run.started(record)
    return record


def fail(played: Played, record: TrialRecord, error: str) -> None:
    trial = played.directory.trial(record.trial_id)
    trial.path.mkdir(parents=True, exist_ok=True)
    trial.write_outcome({"outcome": "failed", "epoch": 0, "error": error})
    result = {"trial": record.trial_id, "outcome": "failed", "epoch": 0, "error": error}
    assert played.run.outcome(record, result)


@pytest.fixture
def played(tmp_path: Path) -> Played:
    played = Played(load(tmp_path / "files"), tmp_path / "run")
    played.open()
    return played


def test_a_trial_that_met_something_outside_is_tried_again_at_the_end_of_the_run(played: Played) -> None:
    run = played.run
    first = begun(played)
    assert not run.outcome(first, interrupted(first.trial_id))
    assert first.terminal is None and first.why == f"{GONE.cause}; {GONE.remedy}"
    assert tables_of(played.root)[first.trial_id] == ("interrupted", first.why)
    others = []
    while (record := run.next()) is not None:
        run.started(record)
        others.append(record)
        played.end(record, noise)
    assert [record.trial_id for record in others][-1] == first.trial_id, "after all others"
    assert len(others) == 6 and run.halted is None
    assert tables_of(played.root)[first.trial_id] == ("done", None)


def test_a_trial_is_tried_again_once_and_waits_for_the_next_command(played: Played) -> None:
    run = played.run
    first = begun(played)
    run.outcome(first, interrupted(first.trial_id))
    for _ in range(5):
        played.end(begun(played), noise)
    assert run.awaits() is False
    assert begun(played) is first
    assert run.awaits(), "it may come back"
    run.outcome(first, interrupted(first.trial_id))
    assert run.next() is None and run.halted is None and not run.awaits()
    played.play()
    assert set(played.ends().values()) == {"done"}


def test_three_in_a_row_let_the_others_save_themselves(played: Played) -> None:
    run, asked = played.run, []
    run.stop_elsewhere = lambda: asked.append(True)
    other, *three = [begun(played) for _ in range(4)]
    for record in three:
        assert run.halted is None
        run.outcome(record, interrupted(record.trial_id))
    assert run.halted is not None and "3 trials in a row" in run.halted and GONE.said in run.halted
    assert run.stopping is not None and played.directory.stop_flag.exists() and asked == [True]
    assert run.next() is None and not run.awaits()
    run.outcome(other, {"trial": other.trial_id, "outcome": "interrupted", "epoch": 0})
    assert other.why is None, "it was asked to stop"
    played.play()
    assert set(played.ends().values()) == {"done"}, "the same command goes on"


@pytest.mark.parametrize("left", ["nothing", "no outcome", "too few epochs", "half a file"])
def test_done_is_recorded_only_where_the_trials_files_are_seen(
    played: Played, monkeypatch: pytest.MonkeyPatch, left: str
) -> None:
    monkeypatch.setattr(execution, "VISIBLE_WITHIN_S", 0.05)
    record = begun(played)
    trial = played.directory.trial(record.trial_id)
    rows = [{"trial_id": record.trial_id, "attempt": 1, "epoch": epoch, "val_accuracy": 1.0} for epoch in range(1, 7)]
    if left != "nothing":
        trial.path.mkdir(parents=True)
        trial.write_rows(rows[:4] if left == "too few epochs" else rows)
        if left != "no outcome":
            trial.write_outcome({"outcome": "done", "epoch": 6})
        if left == "half a file":
            trial.epochs.write_bytes(trial.epochs.read_bytes()[:100])
    result = {"trial": record.trial_id, "outcome": "done", "epoch": 6, "hostname": "node7"}
    assert not played.run.outcome(record, result)
    assert not any(event.kind == "done" for event in read_events(played.root))
    halted = played.run.halted
    assert halted is not None and str(trial.path) in halted and "node7" in halted and "all nodes share" in halted
    trial.path.mkdir(parents=True, exist_ok=True)
    trial.write_rows(rows)
    trial.write_outcome({"outcome": "done", "epoch": 6})
    assert played.run.outcome(record, result)
    assert record.terminal == "done"


def test_a_failed_trial_goes_on_and_ends_once(played: Played) -> None:
    """Its end stays in the ledger, and counts no more; neither does its outcome."""
    record = begun(played)
    fail(played, record, "ValueError: a user's bug (p.py:3)")
    assert tables_of(played.root)[record.trial_id] == ("failed", "ValueError: a user's bug (p.py:3)")
    assert retry(played) == [record.trial_id]
    assert not played.directory.trial(record.trial_id).outcome.exists()
    assert tables_of(played.root)[record.trial_id] == ("interrupted", "ValueError: a user's bug (p.py:3)")
    assert retry(played) == [], "nothing has failed any more"
    played.play()
    assert set(played.ends().values()) == {"done"}
    assert tables_of(played.root)[record.trial_id] == ("done", None)
    ends: Counter[str] = Counter()
    for event in read_events(played.root):
        if isinstance(event, TrialRetried):
            assert (event.ended, event.error) == ("failed", "ValueError: a user's bug (p.py:3)")
            ends[event.trial_id] -= 1
        elif event.kind in TERMINAL:
            ends[event.trial_id] += 1
    assert set(ends.values()) == {1} and len(ends) == 6


def test_a_retried_trial_repeats_no_epoch_in_the_ledger(played: Played) -> None:
    """Of a trial that has ended only a few epochs are kept in memory; those it reports again are known."""
    record = begun(played)
    for epoch in range(1, 5):
        played.directory.epoch(record.trial_id, epoch, 1.0 * epoch, 1.0 * epoch)
    fail(played, record, "ValueError: x (p.py:3)")
    retry(played)
    directory = StudyDirectory(played.root)
    directory.load()
    assert directory.records[record.trial_id].terminal is None
    added = [epoch for epoch in range(2, 7) if directory.epoch(record.trial_id, epoch, 1.0, 1.0)]
    assert added == [5, 6]


def test_what_an_earlier_version_lost_to_its_surroundings_is_retried_by_itself(played: Played) -> None:
    lost, own = begun(played), begun(played)
    fail(played, lost, "CheckpointError: /t.pt: no such file (teacher.checkpoint) (checkpoints.py:99)")
    fail(played, own, "ValueError: a user's bug (p.py:3)")
    assert retrying.retry_outside(played.directory) == [lost]
    assert (lost.terminal, own.terminal) == (None, "failed")


def test_what_is_no_failed_trial_is_refused_and_nothing_is_retried(played: Played) -> None:
    done, failed, diverged = begun(played), begun(played), begun(played)
    waiting = played.run.next()
    assert waiting is not None
    played.end(done, noise)
    fail(played, failed, "ValueError: x (p.py:3)")
    played.run.ended(diverged, TrialEnded(kind="diverged", trial_id=diverged.trial_id, epoch=1))
    misspelt = failed.trial_id[:-4] + "x" + failed.trial_id[-3:]
    names = [failed.trial_id, done.trial_id, diverged.trial_id, waiting.trial_id, misspelt]
    before = (played.root / "ledger.jsonl").read_bytes()
    with pytest.raises(StudyError) as refused:
        retry(played, *names)
    assert str(refused.value) == (
        f"{played.root}: nothing is retried: trial '{done.trial_id}' is done; only failed trials are retried; "
        f"trial '{diverged.trial_id}' diverged, and would again: the same settings and seed give the same numbers; "
        f"trial '{waiting.trial_id}' has not ended; the study's command goes on with it; "
        f"no trial '{misspelt}'; did you mean '{failed.trial_id}'?; failed trials: {failed.trial_id}"
    )
    assert (played.root / "ledger.jsonl").read_bytes() == before
    with pytest.raises(StudyError, match="is ambiguous"):
        retry(played, "")
    assert retry(played, failed.trial_id[:8]) == [failed.trial_id]
    assert tables_of(played.root)[failed.trial_id][0] == "interrupted"


def test_a_trial_that_can_never_go_on_is_given_up(played: Played) -> None:
    record, other = begun(played), begun(played)
    played.run.outcome(record, interrupted(record.trial_id))
    (played.root / LOCK).touch()
    with pytest.raises(StudyError, match=rf"nothing is given up: .*; waiting trials: {record.trial_id}"):
        retrying.give_up(played.root, [record.trial_id, other.trial_id])
    assert [given.trial_id for given in retrying.give_up(played.root)] == [record.trial_id]
    assert tables_of(played.root)[record.trial_id] == ("failed", f"given up: {record.why}")
    played.play()
    assert played.ends()[record.trial_id] == "failed", "the same command leaves it"
    assert retrying.retry_outside(played.directory) == []
    assert retry(played) == [record.trial_id]


def test_a_search_goes_on_as_its_ledger_says_after_a_retry(tmp_path: Path) -> None:
    """What was proposed while the trial counted as failed stays; later proposals are those of any resumed run."""
    study = load(tmp_path / "files", "search.algorithm=tpe", "search.trials=8")
    ended: dict[int, dict[str, float]] = {}
    for copies in (0, 1):
        played = Played(study, tmp_path / f"run{copies}")
        played.play(most=2)
        played.open()
        failed = begun(played)
        fail(played, failed, "ValueError: x (p.py:3)")
        played.play(most=2)
        retry(played)
        if copies:  # resumed once more on the way
            played.play(most=1)
            (played.root / "optuna.journal").unlink()
        played.play()
        assert set(played.ends().values()) == {"done"} and len(played.ends()) == 8
        ended[copies] = {trial_id: record.value or 0 for trial_id, record in played.directory.records.items()}
        states = [trial.state.name for study in played.run.searcher.studies.values() for trial in study.trials]  # type: ignore[union-attr]
        assert states == ["COMPLETE"] * 8
    assert ended[0] == ended[1]


def test_interrupted_events_of_earlier_versions_have_no_cause(played: Played) -> None:
    record = begun(played)
    line = {"time": 1.0, "event": "interrupted", "trial_id": record.trial_id, "epoch": 2}
    with (played.root / "ledger.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    assert tables_of(played.root)[record.trial_id] == ("interrupted", None)
    assert TrialInterrupted(trial_id="t", epoch=2).plain().keys() == {"time", "event", "trial_id", "epoch"}

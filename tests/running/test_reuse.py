"""Finished trials of another study are taken over whole, or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from akdtune.errors import StudyError
from akdtune.randomness import STREAMS
from akdtune.records import files, tables
from akdtune.records.files import trial_directory
from akdtune.records.ledger.events import TrialStarted
from akdtune.records.study_directory import StudyDirectory
from akdtune.running.reuse import Donors
from akdtune.running.streams import drawn_before
from tests.study_fixture import StudyBuilder

LOCK: dict[str, Any] = {
    "akdtune": "1", "packages": {"torch": "2.14.1", "torchvision": "0.29.1", "numpy": "2.0", "ray": "2.60"},
    "settings": {}, "data": {}, "teacher": {}, "streams": STREAMS,
}  # fmt: skip
DRAWING = {"views": {"name": "tekap"}, "method": [{"name": "kd"}, {"name": "crd"}]}
PLAIN = {"views": {"name": "none"}, "method": [{"name": "kd"}]}


OUTCOME = {"outcome": "done", "epoch": 2, "streams": STREAMS}


def donor(path: Path, **lock: Any) -> str:
    """A study with one finished ablation trial; returns its id."""
    builder = StudyBuilder(path)
    trial_id = builder.add("angular/kd", 71.5, 0.1, role="ablation", cell="cell", seed=3)
    builder.write()
    folder = trial_directory(path, trial_id)
    (folder / "outcome.json").write_text(json.dumps({**OUTCOME, "test_accuracy": 71.5}))
    (folder / "predictions.parquet").write_bytes(b"PAR1 predictions PAR1")
    (folder / "log.txt").write_text("trained\n")
    (path / files.LOCK).write_text(yaml.safe_dump({**LOCK, **lock}))
    return trial_id


@pytest.fixture
def taker(tmp_path: Path) -> Iterator[StudyDirectory]:
    directory = StudyDirectory(tmp_path / "taker")
    with directory.opened():
        directory.write_lock(LOCK)
        plan = {"cell_id": "cell", "seed": 3, "role": "ablation", "arm": "angular/kd", "bracket": "", "proposal": None,
                "params": {}, "settings": DRAWING, "raw": {}}  # fmt: skip
        directory.add_to_plan([{**plan, "trial_id": "t00000"}, {**plan, "trial_id": "other"}])
        yield directory


def test_a_finished_trial_is_taken_over_and_marked(tmp_path: Path, taker: StudyDirectory) -> None:
    trial_id = donor(tmp_path / "donor")
    donors = Donors(taker, [tmp_path / "donor"])
    left = donors.take(list(taker.records.values()))
    assert [record.trial_id for record in left] == ["other"]
    assert donors.taken == 1
    record = taker.records[trial_id]
    assert (record.terminal, record.last_epoch, record.test) == ("done", 2, 71.5)
    assert (taker.trial(trial_id).path / "predictions.parquet").read_bytes() == b"PAR1 predictions PAR1"
    rows = {row["trial_id"]: row for row in tables.build_trials(taker.root).to_pylist()}
    assert rows[trial_id]["status"] == "done"
    assert rows[trial_id]["test_accuracy"] == 71.5
    assert rows[trial_id]["reused_from"] == str((tmp_path / "donor").resolve())
    assert rows["other"]["reused_from"] is None


def test_a_trial_that_came_from_elsewhere_names_where_it_was_trained(tmp_path: Path, taker: StudyDirectory) -> None:
    trial_id = donor(tmp_path / "donor")
    outcome = trial_directory(tmp_path / "donor", trial_id) / "outcome.json"
    outcome.write_text(json.dumps({**OUTCOME, "reused_from": "/first"}))
    Donors(taker, [tmp_path / "donor"]).take(list(taker.records.values()))
    assert taker.trial(trial_id).read_outcome() == {**OUTCOME, "reused_from": "/first"}


@pytest.mark.parametrize("lacking", ["outcome.json", "predictions.parquet", "epochs.parquet"])
def test_what_is_not_whole_is_trained(tmp_path: Path, taker: StudyDirectory, lacking: str) -> None:
    trial_id = donor(tmp_path / "donor")
    (trial_directory(tmp_path / "donor", trial_id) / lacking).unlink()
    donors = Donors(taker, [tmp_path / "donor"])
    assert len(donors.take(list(taker.records.values()))) == 2
    assert not taker.trial(trial_id).path.exists()


def test_other_versions_are_not_the_same_numbers(tmp_path: Path, taker: StudyDirectory) -> None:
    donor(tmp_path / "donor", packages={**LOCK["packages"], "torch": "2.13.0"})
    donors = Donors(taker, [tmp_path / "donor"])
    assert len(donors.take(list(taker.records.values()))) == 2
    assert donors.notes == [f"nothing is taken over from {tmp_path / 'donor'}: torch 2.13.0 there, 2.14.1 here"]


@pytest.mark.parametrize(("settings", "left"), [(DRAWING, 2), (PLAIN, 1)], ids=["draws", "draws nothing"])
def test_a_trial_that_drew_from_other_streams_is_trained_anew(
    tmp_path: Path, taker: StudyDirectory, settings: dict[str, Any], left: int
) -> None:
    trial_id = donor(tmp_path / "donor")
    outcome = trial_directory(tmp_path / "donor", trial_id) / "outcome.json"
    outcome.write_text(json.dumps({"outcome": "done", "epoch": 2}))  # of before streams had names
    for record in taker.records.values():
        record.plan["settings"] = settings
    donors = Donors(taker, [tmp_path / "donor"])
    assert len(donors.take(list(taker.records.values()))) == left
    line = f"trials of {tmp_path / 'donor'} that drew before random streams had names are not taken over"
    assert donors.notes == ([line] if left == 2 else [])


def test_resuming_says_how_many_trials_drew_before_streams_had_names(taker: StudyDirectory) -> None:
    old_lock = {key: value for key, value in LOCK.items() if key != "streams"}
    first, second = taker.records.values()
    assert drawn_before(taker, old_lock) is None, "none has ended"
    for record in (first, second):
        taker.trial(record.trial_id).path.mkdir(parents=True)
        taker.trial(record.trial_id).write_outcome({"outcome": "done", "epoch": 2})
        record.terminal = "done"
    second.plan["settings"] = PLAIN
    line = drawn_before(taker, old_lock)
    assert line is not None
    assert line.startswith("1 finished trial drew random numbers (negatives of crd, noise and dropout of views) before")
    assert line.endswith("; --new trains all pairs alike")
    assert drawn_before(taker, LOCK) is None, "a study that began with named streams is not looked through"
    second.plan["settings"] = DRAWING
    assert (drawn_before(taker, old_lock) or "").startswith("2 finished trials drew")
    taker.trial(first.trial_id).write_outcome(OUTCOME)
    assert (drawn_before(taker, old_lock) or "").startswith("1 finished trial drew")


def test_a_begun_trial_goes_on_by_itself(tmp_path: Path, taker: StudyDirectory) -> None:
    donor(tmp_path / "donor")
    taker.append(TrialStarted(trial_id="t00000", attempt=1))
    assert len(Donors(taker, [tmp_path / "donor"]).take(list(taker.records.values()))) == 2


def test_a_folder_that_is_no_study_is_refused(tmp_path: Path, taker: StudyDirectory) -> None:
    with pytest.raises(StudyError, match="not a study directory"):
        Donors(taker, [tmp_path])
    with pytest.raises(StudyError, match="this study itself"):
        Donors(taker, [taker.root])


def test_what_trials_keep_of_networks_is_taken_over_with_their_teachers_on_the_same_images(
    tmp_path: Path, taker: StudyDirectory
) -> None:
    trial_id = donor(tmp_path / "donor", settings={"record": {"features": 2}})
    (trial_directory(tmp_path / "donor", trial_id) / "features.parquet").write_bytes(b"PAR1 features PAR1")
    of_teachers = tmp_path / "donor" / "predictions"
    of_teachers.mkdir()
    for name in ("teacher-test", "teacher-features", "teacher-validation", "teacher-test.unusable"):
        (of_teachers / f"{name}.parquet").write_bytes(name.encode())
    donors = Donors(taker, [tmp_path / "donor"])
    donors.take(list(taker.records.values()))
    assert (taker.trial(trial_id).path / "features.parquet").read_bytes() == b"PAR1 features PAR1"
    taken = {path.name: path.read_bytes() for path in (taker.root / "predictions").iterdir()}
    assert taken == {"teacher-test.parquet": b"teacher-test", "teacher-features.parquet": b"teacher-features"}
    assert donors.notes == [
        f"trials of {tmp_path / 'donor'} are taken over with what they kept there (record: {{\"features\": 2}})"
    ]


def test_a_study_that_keeps_nothing_of_teachers_takes_nothing_over(tmp_path: Path) -> None:
    donor(tmp_path / "donor")
    of_teachers = tmp_path / "donor" / "predictions"
    of_teachers.mkdir()
    (of_teachers / "teacher-test.parquet").write_bytes(b"teacher")
    directory = StudyDirectory(tmp_path / "taker")
    with directory.opened():
        directory.write_lock({**LOCK, "settings": {"record": {"teacher": False}}})
        plan = {"cell_id": "cell", "seed": 3, "role": "ablation", "arm": "angular/kd", "bracket": "", "proposal": None,
                "params": {}, "settings": DRAWING, "raw": {}}  # fmt: skip
        directory.add_to_plan([{**plan, "trial_id": "t00000"}])
        assert not Donors(directory, [tmp_path / "donor"]).take(list(directory.records.values()))
    assert not (tmp_path / "taker" / "predictions").exists()

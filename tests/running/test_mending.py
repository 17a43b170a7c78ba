"""Damaged files of a study: found, said in one line, and mended with the numbers of an undisturbed study."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from akdtune.errors import NotRecorded, StudyError
from akdtune.records import recorded, recorded_files, tables
from akdtune.records.files import read_rows, read_table
from akdtune.records.ledger.events import RungDecided, TrialEnded, TrialInterrupted, TrialStarted
from akdtune.records.study_directory import StudyDirectory
from akdtune.records.trial_directory import TrialDirectory
from akdtune.running.mending import mend
from akdtune.running.saved_states import resumed
from akdtune.running.trial_writer import Limits
from akdtune.running.worker import execute
from akdtune.teacher.checkpoints import load_plain
from akdtune.teacher.file import TeacherFile
from akdtune.teacher.sealed import sealed
from akdtune.training.request import TrialRequest, trial_seeds
from tests.small_trials import DIGITS, TIMINGS

DONE, PRUNED, RUNNING, OTHER = "done-s0", "pruned-s1", "running-s2", "other-s3"
EPOCHS = {DONE: 3, PRUNED: 1, RUNNING: 3, OTHER: 3}
SETTINGS: dict[str, Any] = {
    "data": {**DIGITS, "limit_per_class": 20, "validation": 50},
    "student": {"network": {"name": "cnn", "widths": [2, 4]}},
    "views": {"name": "none"},
    "method": [{"name": "student_only"}],
    "training": {"epochs": 3, "batch_size": 32},
}


def planned(trial_id: str) -> dict[str, Any]:
    cell, _, seed = trial_id.partition("-s")
    return {
        "trial_id": trial_id, "cell_id": cell, "seed": int(seed), "role": "search", "arm": "none/student_only",
        "bracket": "x", "proposal": None, "params": {}, "settings": SETTINGS, "raw": {},
    }  # fmt: skip


def train(directory: StudyDirectory, trial_id: str, stop_after: int | None = None, prune: bool = False) -> list[str]:
    """Runs a trial as the driver would; returns what it said of damaged files."""
    record = directory.records[trial_id]
    seed = record.plan["seed"]
    request = TrialRequest(
        trial_id=trial_id, seed=seed, seeds=trial_seeds(seed), settings=SETTINGS, teacher_file=TeacherFile.none(),
        tracking={"wandb": None}, root=str(directory.root), stop_flag=".stop", rungs=[1] if prune else [],
    )  # fmt: skip
    notes: list[str] = []

    def report(row: Mapping[str, Any]) -> None:
        notes.extend(note for note in row.get("notes", ()) if note not in notes)
        for epoch, value, score in row["rows"]:
            directory.epoch(trial_id, epoch, value, score)
        if prune:
            raise SystemExit

    directory.append(TrialStarted(trial_id=trial_id, attempt=1))
    limits = Limits(checkpoint_every_s=-1.0, report_every_s=-1.0, checkpoint_share=1e9)
    asked = stop_after is not None

    def should_stop() -> bool:
        return asked and record.last_epoch >= (stop_after or 0)

    try:
        outcome = execute(request, report, should_stop, limits)
        assert outcome["outcome"] != "failed", directory.trial(trial_id).log.read_text()
    except SystemExit:
        directory.append(
            RungDecided(trial_id=trial_id, epoch=1, rung=1, value=1.0, cutoff=2.0, decision="STOP", bracket="x")
        )
        directory.finish(TrialEnded(kind="pruned", trial_id=trial_id, epoch=1, reason="rung"))
        return notes
    if outcome["outcome"] == "interrupted":
        directory.append(TrialInterrupted(trial_id=trial_id, epoch=outcome["epoch"]))
    else:
        directory.finish(TrialEnded.of_outcome(trial_id, outcome))
    return notes


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with a trial that is done, one that was pruned, one that was interrupted, and another."""
    root = tmp_path_factory.mktemp("studies") / "undisturbed"
    with StudyDirectory(root).opened() as directory:
        directory.write_lock({"settings": {"study": "s"}})
        directory.add_to_plan([planned(trial_id) for trial_id in EPOCHS])
        train(directory, DONE)
        train(directory, PRUNED, prune=True)
        train(directory, RUNNING, stop_after=2)
        train(directory, OTHER)
    return root


@pytest.fixture(scope="module")
def expected(undisturbed: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the study holds once the interrupted trial has gone on."""
    root = tmp_path_factory.mktemp("studies") / "expected"
    shutil.copytree(undisturbed, root)
    with StudyDirectory(root).opened() as directory:
        train(directory, RUNNING)
    return numbers(root)


@pytest.fixture
def study(undisturbed: Path, tmp_path: Path) -> Path:
    shutil.copytree(undisturbed, tmp_path / "study")
    return tmp_path / "study"


def numbers(root: Path) -> dict[str, Any]:
    """Rows without timings and attempts, and predictions, of every trial."""
    left_out = {*TIMINGS, "attempt", "warmup_time_s"}
    held: dict[str, Any] = {}
    for trial_id in EPOCHS:
        folder = root / "trials" / trial_id
        rows = read_rows(folder / "epochs.parquet")
        held[trial_id] = [{k: v for k, v in row.items() if k not in left_out and v is not None} for row in rows]
        if (folder / "predictions.parquet").exists():
            held[f"{trial_id} predictions"] = read_table(folder / "predictions.parquet").to_pylist()
    return held


def go_on(root: Path) -> list[str]:
    """What `akdtune run` does with a study, without Ray; returns what it found."""
    with StudyDirectory(root).opened() as directory:
        directory.reconcile()
        mend(directory)
        found = list(directory.found)
        for record in directory.unfinished():
            found += train(directory, record.trial_id)
        assert {trial_id: record.terminal for trial_id, record in directory.records.items()} == {
            DONE: "done", PRUNED: "pruned", RUNNING: "done", OTHER: "done",
        }  # fmt: skip
    epochs = tables.read_trials(root).select(["trial_id", "epochs"]).to_pylist()
    assert {row["trial_id"]: row["epochs"] for row in epochs} == EPOCHS
    return found


def empty(path: Path) -> None:
    path.write_bytes(b"")


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def garble(path: Path) -> None:
    path.write_bytes(random.Random(1).randbytes(path.stat().st_size))


def flip(path: Path) -> None:
    """Two bits in the middle of numbers."""
    content = bytearray(path.read_bytes())
    place = 60  # in the first pages of a table
    if path.suffix == ".pt":
        place = content.index(next(iter(load_plain(path)["student"].values())).numpy().tobytes())
    content[place] ^= 4
    content[place + 5] ^= 4
    path.write_bytes(content)


def swap(path: Path) -> None:
    """The same file of another trial, of the same shapes."""
    shutil.copyfile(path.parents[1] / OTHER / path.name, path)


def shape(path: Path) -> None:
    path.write_text('["valid", {"JSON": null}]')


DAMAGES: list[Callable[[Path], None]] = [empty, halve, garble, flip, swap, shape]


def test_nothing_is_found_where_nothing_is_damaged(study: Path, expected: dict[str, Any]) -> None:
    assert go_on(study) == []
    assert numbers(study) == expected


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    ("trial_id", "name"),
    [
        (DONE, "outcome.json"), (DONE, "epochs.parquet"), (DONE, "predictions.parquet"), (PRUNED, "epochs.parquet"),
        (RUNNING, "epochs.parquet"), (RUNNING, "checkpoint.pt"),
    ],
)  # fmt: skip
def test_one_damaged_file_costs_no_number(
    study: Path, expected: dict[str, Any], trial_id: str, name: str, damage: Callable[[Path], None]
) -> None:
    path = study / "trials" / trial_id / name
    if name == "outcome.json" and damage is flip:
        pytest.skip("a flipped bit of plain text may say anything")
    damage(path)
    with pytest.MonkeyPatch.context() as patch:  # a power failure turns clocks back, too
        patch.setattr("time.time", lambda: 1.0e9)
        found = go_on(study)
    assert len(found) == 1 and str(path) in found[0], found
    assert numbers(study) == expected
    assert go_on(study) == [], "mended once for all"


def test_a_done_trial_without_state_is_trained_again(study: Path, expected: dict[str, Any]) -> None:
    empty(study / "trials" / DONE / "epochs.parquet")
    garble(study / "trials" / DONE / "checkpoint.pt")
    found = go_on(study)
    assert len(found) == 2 and "put aside, the trial begins again" in found[1]
    assert numbers(study) == expected
    ends = [event["event"] for event in ledger(study) if event.get("trial_id") == DONE]
    assert ends.count("done") == 2 and "retried" in ends
    row = next(row for row in tables.read_trials(study).to_pylist() if row["trial_id"] == DONE)
    assert row["status"] == "done"


def test_rows_of_a_pruned_trial_come_back_out_of_the_ledger_where_its_state_is_lost(study: Path) -> None:
    before = read_rows(study / "trials" / PRUNED / "epochs.parquet")
    empty(study / "trials" / PRUNED / "epochs.parquet")
    empty(study / "trials" / PRUNED / "checkpoint.pt")
    (found,) = go_on(study)
    assert "validation accuracy and score alone" in found
    (row,) = read_rows(study / "trials" / PRUNED / "epochs.parquet")
    assert {k: v for k, v in row.items() if v is not None} == {
        "trial_id": PRUNED, "epoch": 1, **{name: before[0][name] for name in ("val_accuracy", "score")}
    }  # fmt: skip


def test_rows_that_are_older_than_the_state_are_written_anew(study: Path, expected: dict[str, Any]) -> None:
    path = study / "trials" / RUNNING / "epochs.parquet"
    with StudyDirectory(study).opened() as directory:
        trial = directory.trial(RUNNING)
        trial.write_rows(trial.read_rows()[:1])
    (found,) = go_on(study)
    assert found.startswith(f"{path}: does not hold the 2 epochs of checkpoint.pt; written anew")
    assert numbers(study) == expected


@pytest.mark.parametrize("kept", [2, 1])
def test_a_state_of_an_earlier_version_is_taken_if_the_rows_reach_as_far(
    study: Path, expected: dict[str, Any], kept: int
) -> None:
    with StudyDirectory(study).opened() as directory:
        trial = directory.trial(RUNNING)
        state = load_plain(trial.checkpoint)
        torch.save({k: v for k, v in state.items() if k not in ("digest", "rows", "trial_id")}, trial.checkpoint)
        trial.write_rows(trial.read_rows()[:kept])
    begins = resumed(StudyDirectory(study).trial(RUNNING), RUNNING) if kept == 2 else None
    assert begins is None or (begins.state is not None and len(begins.rows) == 2 and not begins.notes)
    found = go_on(study)
    assert [("the trial begins again" in line) for line in found] == ([] if kept == 2 else [True])
    assert numbers(study) == expected


def test_a_state_that_is_none_of_this_trial_is_put_aside(study: Path, expected: dict[str, Any]) -> None:
    path = study / "trials" / RUNNING / "checkpoint.pt"
    state = load_plain(path)
    student = {key: value[:1] if value.ndim else value for key, value in state["student"].items()}
    torch.save(sealed({**state, "student": student}), path)
    (found,) = go_on(study)
    assert "holds no state of this trial; put aside" in found
    assert numbers(study) == expected
    assert path.with_name("checkpoint.unusable.pt").exists()


@pytest.mark.parametrize("name", ["plan.parquet", "trials.parquet", "epochs.parquet"])
@pytest.mark.parametrize("damage", [empty, halve, garble, shape, Path.unlink])
def test_what_follows_from_the_rest_is_written_anew(
    study: Path, expected: dict[str, Any], name: str, damage: Callable[[Path], None]
) -> None:
    if name != "plan.parquet":
        tables.compact(study)
    damage(study / name)
    with pytest.warns() if name != "plan.parquet" and damage is not Path.unlink else contextlib.nullcontext():
        found = go_on(study)
        tables.compact(study)
    assert len(found) == (name == "plan.parquet") and all("written anew from ledger.jsonl" in line for line in found)
    assert numbers(study) == expected
    assert go_on(study) == []


def test_an_edited_row_of_the_plan_is_restored(study: Path) -> None:
    with StudyDirectory(study).opened() as directory:
        plan = directory.records[RUNNING].plan
        plan["settings"] = {**SETTINGS, "training": {**SETTINGS["training"], "batch_size": 8}}
        directory.records[DONE].plan["arm"] = "another"
        directory._write_plan_file()
    with StudyDirectory(study).opened() as directory:
        assert directory.records[RUNNING].plan["settings"] == SETTINGS
        assert directory.records[DONE].plan["arm"] == "none/student_only"
        assert [line.partition(f"{study}/plan.parquet: ")[2] for line in directory.found] == [
            f'trial {DONE}: arm is "another" instead of "none/student_only", as which it was planned; restored from '
            "ledger.jsonl",
            f"trial {RUNNING}: settings.training.batch_size is 8 instead of 32, as which it was planned; restored from "
            "ledger.jsonl",
        ]
    with StudyDirectory(study).opened() as directory:
        assert directory.found == []


def ledger(root: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / "ledger.jsonl").read_text().splitlines()]


@pytest.fixture
def lines(study: Path) -> list[str]:
    """The ledger's lines."""
    return (study / "ledger.jsonl").read_text().splitlines(keepends=True)


def test_lost_lines_of_epochs_are_filled_from_the_trials_rows(
    study: Path, expected: dict[str, Any], lines: list[str]
) -> None:
    kept = [line for line in lines if '"event": "epoch"' not in line or '"epoch": 2' not in line]
    assert len(kept) == len(lines) - 3
    (study / "ledger.jsonl").write_text("".join(kept))
    assert go_on(study) == []
    for trial_id, last in EPOCHS.items():
        heard = [e["epoch"] for e in ledger(study) if e["event"] == "epoch" and e["trial_id"] == trial_id]
        assert sorted(heard) == list(range(1, last + 1))
    assert numbers(study) == expected


def test_what_follows_half_a_line_counts(study: Path, lines: list[str]) -> None:
    """Earlier versions wrote on behind half a line that a full disk had left."""
    place = next(number for number, line in enumerate(lines) if '"done"' in line and DONE in line)
    lines[place] = lines[place - 1][:40] + lines[place]
    (study / "ledger.jsonl").write_text("".join(lines))
    with StudyDirectory(study).opened() as directory:
        assert directory.records[DONE].terminal == "done" and directory.found == []
    assert next(r["status"] for r in tables.read_trials(study).to_pylist() if r["trial_id"] == DONE) == "done"


def test_lines_that_cannot_be_read_are_counted_and_left_out(study: Path, expected: dict[str, Any]) -> None:
    with (study / "ledger.jsonl").open("a") as file:
        file.write('garbage\n[1]\n{"time": 1, "event": "epoch", "trial_id": "done-s0", "epoch": "x"}\n{"event": 3}\n')
    (found,) = go_on(study)
    assert "ledger.jsonl: 2 lines cannot be read (the first: line " in found
    assert numbers(study) == expected


def test_without_a_ledger_what_is_done_stays_done(study: Path, expected: dict[str, Any]) -> None:
    (study / "ledger.jsonl").unlink()
    with StudyDirectory(study).opened() as directory:
        assert sorted(directory.reconcile()) == [DONE, OTHER]
        assert directory.records[PRUNED].epochs.keys() == {1}
        mend(directory)
        assert directory.found == []


def test_foreign_files_are_passed_over(study: Path, expected: dict[str, Any]) -> None:
    (study / "trials" / "notes.txt").write_text("mine")
    (study / "trials" / "folder").mkdir()
    for name in ("notes.json", "1.json.bak", "-1.json", "١.json"):
        (study / "trials" / RUNNING / "attempts" / name).write_text("mine")
    (study / "trials" / RUNNING / "attempts" / "1.json").write_text('{"pid": "x"}')
    assert go_on(study) == []
    assert numbers(study) == expected


def test_a_lost_outcome_of_another_shape_is_named(study: Path) -> None:
    path = study / "trials" / DONE / "outcome.json"
    path.write_text('{"outcome": "done", "epoch": "three"}')
    with pytest.raises(StudyError, match=r"outcome\.json: damaged, epoch must be a whole number, is text"):
        StudyDirectory(study).trial(DONE).read_outcome()


def test_what_is_kept_of_teachers_and_damaged_is_put_aside(tmp_path: Path) -> None:
    with StudyDirectory(tmp_path / "run").opened() as directory:
        path = recorded_files.teacher_logits_file(directory.root, "test")
        recorded_files.write_teacher_logits(path, np.arange(2), np.arange(2), [np.eye(2)])
        mend(directory)
        assert path.exists() and directory.found == []
        path.write_bytes(path.read_bytes()[:-9])
        mend(directory)
        (found,) = directory.found
        assert found.startswith(f"{path}: cannot be read") and found.endswith("it is written again when trials end")
        assert not path.exists() and path.with_name("teacher-test.unusable.parquet").exists()
        mend(directory)
        assert len(directory.found) == 1, "what was put aside is left alone"
        directory.write_lock({"settings": {"study": "s"}})


@pytest.mark.parametrize("name", ["features.parquet", "attention.parquet", "predictions-augmented.parquet"])
def test_a_trial_whose_kept_files_are_damaged_goes_on_from_its_saved_state(
    undisturbed: Path, tmp_path: Path, name: str
) -> None:
    root = tmp_path / "run"
    shutil.copytree(undisturbed, root)
    path = root / "trials" / DONE / name
    path.write_bytes(b"PAR1 as the trial wrote it PAR1")
    trial = TrialDirectory(path.parent)
    outcome = trial.read_outcome() or {}
    trial.write_outcome({key: value for key, value in outcome.items() if key != "files"})
    with StudyDirectory(root).opened() as directory:
        mend(directory)
        assert directory.found == [] and directory.records[DONE].terminal == "done"
        path.write_bytes(b"PAR1 as somebody else did PAR1 ")
        mend(directory)
        assert directory.records[DONE].terminal is None
        assert any(f"{name}: is not what the trial wrote" in line for line in directory.found)
        train(directory, DONE)
        assert directory.records[DONE].terminal == "done"
    assert not path.exists(), "nothing was asked for any more"


def test_what_a_killed_writer_left_of_a_teachers_file_is_taken_away(tmp_path: Path) -> None:
    with StudyDirectory(tmp_path / "run").opened() as directory:
        half = directory.root / recorded_files.FOLDER / ".teacher-test.parquet.1.2.tmp"
        half.parent.mkdir()
        half.write_bytes(b"PAR1 half")
        with pytest.raises(NotRecorded):
            recorded.teacher_logits(directory.root)
        directory.remove_left_over()
        assert list(half.parent.iterdir()) == []
        directory.write_lock({"settings": {"study": "s"}})

"""What a trial of a study leaves beside its numbers: trial.json, which trains it alone, and a log with its epochs."""

from __future__ import annotations

import io
import json
import shutil
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from akdtune.cli import one_trial
from akdtune.records.trial_directory import TrialDirectory
from akdtune.running import trial_log
from akdtune.running.trial_log import EpochLines
from akdtune.training.loop import Epoch
from akdtune.verification.rerun import OF_THE_RUN, request_of


def first(study: Path) -> TrialDirectory:
    return TrialDirectory(sorted(study.glob("trials/*"))[0])


def numbers(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return [{name: value for name, value in row.items() if name not in OF_THE_RUN} for row in rows]


def test_it_trains_the_same_numbers_alone(study: Path, tmp_path: Path) -> None:
    trial = first(study)
    before = {path: path.stat().st_mtime_ns for path in study.rglob("*")}
    assert one_trial.main([str(trial.description), "--out", str(tmp_path / "alone")]) == 0
    assert numbers(tmp_path / "alone" / "epochs.parquet") == numbers(trial.epochs)
    assert (tmp_path / "alone" / "predictions.parquet").read_bytes() == trial.predictions.read_bytes()
    assert {path: path.stat().st_mtime_ns for path in study.rglob("*")} == before


def test_it_works_where_study_and_cache_have_been_moved(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(study.parent / "trained", tmp_path / "elsewhere")
    held = json.loads(first(tmp_path / "elsewhere").description.read_text())
    held["teacher_file"]["path"] = str(tmp_path / "gone" / "teacher.pt")
    moved = first(tmp_path / "elsewhere").description
    moved.write_text(json.dumps(held))
    assert Path(one_trial.read_trial(moved).teacher_file.path).exists(), "found in the cache of here by its key"


def test_it_holds_what_a_trial_is_asked_and_nothing_of_its_study(study: Path) -> None:
    text = first(study).description.read_text()
    held = json.loads(text)
    assert held["trial_id"] == first(study).path.name and held["rungs"] == [2]
    assert not {"root", "stop_flag", "stop_actor", "tracking", "study_uid"} & held.keys()
    assert str(study.parent) not in text


def test_a_request_made_of_lock_and_plan_is_the_one_that_was_asked(study: Path) -> None:
    from akdtune.records.lock_file import read_lock
    from akdtune.records.plan_file import read_plan

    lock = read_lock(study)
    assert lock is not None
    for plan in read_plan(study):
        asked = one_trial.read_trial(study / "trials" / plan["trial_id"] / "trial.json")
        assert request_of(lock, plan).plain() == asked.plain()


def test_a_study_s_own_folder_is_not_trained_in(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trial = first(study)
    assert one_trial.main([str(trial.description), "--out", str(trial.path)]) == 2
    assert "lies in the study" in capsys.readouterr().err
    assert one_trial.main([str(trial.description), "--out", str(study / "trials" / "new")]) == 2
    assert not (study / "trials" / "new").exists()


def test_a_log_has_a_line_an_epoch(study: Path) -> None:
    lines = first(study).log.read_text().splitlines()
    rows = numbers(first(study).epochs)
    said = [line for line in lines if line.startswith("epoch ")]
    assert [line.split(":")[0] for line in said] == ["epoch 1 of 3", "epoch 2 of 3", "epoch 3 of 3"]
    assert f"validation {rows[1]['val_accuracy']:.2f} %" in said[1] and "lr 0.05" in said[1]
    assert any(line.startswith("warm-up epoch 1 of 1: ") for line in lines)


def test_ten_thousand_epochs_do_not_flood_a_log() -> None:
    said = io.StringIO()
    with redirect_stdout(said):
        say = EpochLines({"warmup": 0, "student": 10_000})
        for number in range(1, 10_001):
            say(Epoch("student", number, {"loss.ce": 1.0, "val_accuracy": 50.0}, {}))
    lines = said.getvalue().splitlines()
    assert len(lines) == trial_log.LINES + 1
    assert lines[0] == "epoch 1 of 10000: ce 1, validation 50.00 %" and lines[-1].startswith("epoch 10000 of 10000")

"""What a trial leaves on disk at its ends, and from what a next attempt goes on."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from akdtune.devices import trained_on
from akdtune.records.files import read_rows
from akdtune.records.trial_directory import TrialDirectory
from akdtune.running.saved_states import GoOn, resumed, save_state
from akdtune.running.trial_writer import TrialWriter, shut_gates
from akdtune.teacher.file import TeacherFile
from akdtune.training.evaluation import Predictions
from akdtune.training.loop import Epoch
from akdtune.training.request import TrialRequest
from akdtune.training.trial import Trial

REQUEST = TrialRequest(
    trial_id="t", settings={"training": {"epochs": 3, "device": "cpu"}}, teacher_file=TeacherFile.none()
)


def student(number: int, **row: float | None) -> Epoch:
    return Epoch("student", number, {"val_accuracy": 50.0 + number, **row}, {"stage": "student", "epoch": number})


def live(**closing: float | None) -> Trial:
    """What a trial that has ended says last."""
    predictions = Predictions(torch.arange(2), torch.tensor([1, 0]), torch.eye(2, dtype=torch.bfloat16))
    recording = SimpleNamespace(has_teacher=False, answers=lambda: None)
    parts = {"close": lambda: (closing, predictions), "recording": lambda: recording, "streams": 2, "train_images": 8}
    return cast(Trial, SimpleNamespace(**parts))


@pytest.fixture
def directory(tmp_path: Path) -> TrialDirectory:
    of = TrialDirectory(tmp_path / "t")
    of.take_attempt()
    of.take_attempt()
    return of


def test_a_whole_trial_leaves_rows_state_predictions_and_outcome(directory: TrialDirectory) -> None:
    logged: list[dict[str, Any]] = []
    writer = TrialWriter(REQUEST, directory, log=logged.append)
    for number in (1, 2):
        writer.finished(Epoch("warmup", number, {"wall_time_s": 1.5}, {"stage": "warmup", "epoch": number}))
    for number in (1, 2, 3):
        writer.finished(student(number))
    assert directory.read_outcome() is None
    outcome = writer.close(live(test_accuracy=61.0))
    expected = {"outcome": "done", "epoch": 3, "streams": 2, "train_images": 8, "test_accuracy": 61.0}
    where = trained_on(torch.device("cpu"))
    assert outcome == {**expected, "trained_on": where}
    held = directory.read_outcome() or {}
    assert held == {**outcome, "trial_id": "t", "files": held["files"]}
    assert held["files"] == {
        path.name: [path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()[:32]]
        for path in (directory.epochs, directory.predictions)
    }
    rows = directory.read_rows()
    assert [list(row)[:3] for row in rows] == [["trial_id", "attempt", "epoch"]] * 3
    assert [(row["trial_id"], row["attempt"], row["epoch"], row["warmup_time_s"]) for row in rows] == [
        ("t", 2, 1, 3.0), ("t", 2, 2, 0.0), ("t", 2, 3, 0.0),
    ]  # fmt: skip
    assert [row.get("test_accuracy") for row in rows] == [None, None, 61.0]
    assert [row["epoch"] for row in logged] == [1, 2, 3]
    assert read_rows(directory.predictions)[0] == {"sample_id": 0, "label": 1, "logits": [1.0, 0.0]}
    begins = resumed(directory, "t")
    assert begins.state == {"stage": "student", "epoch": 3}
    rows[2].pop("test_accuracy")  # read at the end, after the state was saved, and read again
    assert [{key: value for key, value in row.items() if key != "test_accuracy"} for row in rows] == begins.rows
    assert not begins.file_differs and not begins.notes


def test_a_diverged_trial_keeps_its_rows(directory: TrialDirectory) -> None:
    writer = TrialWriter(REQUEST, directory)
    writer.finished(student(1))
    assert directory.read_rows() == []
    outcome = writer.diverged(2)
    assert outcome.items() <= (directory.read_outcome() or {}).items()
    assert {**outcome, "trained_on": None} == {
        "outcome": "diverged", "epoch": 1, "diverged_in": 2, "trained_on": None,
    }  # fmt: skip
    assert [row["epoch"] for row in directory.read_rows()] == [1]


def test_a_next_attempt_goes_on_from_the_state_and_reports_its_row_again(directory: TrialDirectory) -> None:
    writer = TrialWriter(REQUEST, directory)
    for number in (1, 2, 3):
        writer.finished(student(number))
    state = {"stage": "student", "epoch": 2}
    save_state(directory, "t", state, writer.rows[:2])  # a kill between rows and state
    reported: list[dict[str, Any]] = []
    begins = resumed(directory, "t")
    assert begins.state == state
    again = TrialWriter(REQUEST, directory, begins, reported.append)
    assert [row["epoch"] for row in again.rows] == [1, 2]
    assert [row["rows"] for row in reported] == [[[2, 52.0, None]]]


def test_a_next_attempt_of_a_warm_up_has_no_rows(directory: TrialDirectory) -> None:
    assert resumed(directory, "t") == GoOn()
    directory.write_rows([{"trial_id": "t", "attempt": 1, "epoch": 1}])
    save_state(directory, "t", {"stage": "warmup", "epoch": 5}, [])
    assert resumed(directory, "t") == GoOn({"stage": "warmup", "epoch": 5}, [])


def test_without_a_directory_nothing_is_written() -> None:
    writer = TrialWriter(REQUEST, None)
    for number in (1, 2, 3):
        writer.finished(student(number))
    assert writer.close(live())["outcome"] == "done"
    assert [(row["attempt"], row["epoch"]) for row in writer.rows] == [(1, 1), (1, 2), (1, 3)]


def test_what_is_not_finite_is_reported_as_nothing(directory: TrialDirectory) -> None:
    reported: list[dict[str, Any]] = []
    request = TrialRequest(trial_id="t", rungs=[1], settings=REQUEST.settings, teacher_file=REQUEST.teacher_file)
    TrialWriter(request, directory, report=reported.append).finished(student(1, score=float("nan")))
    assert reported == [{"trial": "t", "epoch": 1, "value": 51.0, "score": None, "rows": [[1, 51.0, None]]}]


FEATURE, LOGIT = "loss.views.feature_diversity", "loss.views.logit_diversity"


@pytest.mark.parametrize(
    ("rows", "names"),
    [
        ([{FEATURE: 0.1, "gate_open_train": 0.009}, {"gate_open_train": None}], "feature"),
        ([{FEATURE: 0.1, "gate_open_train": 0.009}, {FEATURE: 0.1, "gate_open_train": 0.01}], None),
        ([{"gate_open_train": 0.0}], None),  # switched off on purpose
        ([{FEATURE: 0.1, "gate_open_train": None}], None),
        ([{FEATURE: 0.1, LOGIT: 0.1, "gate_open_train": 0.0, "gate_open_train_logit": 0.0}], "feature and logit"),
        ([], None),
    ],
)
def test_gates_that_stayed_shut(rows: list[dict[str, Any]], names: str | None) -> None:
    said = None if names is None else f"the {names} diversity gate stayed under 0.01: its diversity term never acted"
    assert shut_gates(rows) == said

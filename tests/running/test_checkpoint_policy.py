"""When a trial saves its state, and what is in it: at rungs, at the end, on interruption, now and then; no teacher."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from akdtune.errors import AkdtuneError
from akdtune.records.trial_directory import TrialDirectory
from akdtune.registry import names
from akdtune.running.trial_writer import Limits, TrialWriter
from akdtune.teacher.file import TeacherFile
from akdtune.training.config import TrialConfig
from akdtune.training.loop import Epoch
from akdtune.training.request import TrialRequest
from akdtune.training.trial import Trial
from tests.small_trials import DIGITS, TEACHER, trained

EPOCHS, RUNGS = 12, [4, 8]
EVERY_S = Limits().checkpoint_every_s
KEEPS_CLASSIFIER = {"simkd"}
"""Methods whose student predicts through the teacher's last layer, which therefore belongs to its weights."""


class Clock:
    """Time that only passes when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The epochs whose state was written."""
    epochs: list[int] = []
    monkeypatch.setattr(torch, "save", lambda state, _: epochs.append(state["epoch"]))
    return epochs


def writer(
    folder: Path, clock: Clock, rungs: list[int] = RUNGS, report: Callable[[dict[str, Any]], None] | None = None
) -> TrialWriter:
    request = TrialRequest(
        trial_id="t",
        rungs=rungs,
        settings={"training": {"epochs": EPOCHS}},
        teacher_file=TeacherFile.none(),
    )
    folder.mkdir(exist_ok=True)
    return TrialWriter(request, TrialDirectory(folder), report=report, clock=clock)


def train(of: TrialWriter, clock: Clock, epoch_s: float, epochs: int = EPOCHS) -> None:
    for epoch in range(1, epochs + 1):
        clock.now += epoch_s
        of.finished(Epoch("student", epoch, {"val_accuracy": 1.0, "score": 1.0}, {"epoch": epoch}))


def test_short_epochs_are_saved_at_rungs_and_at_the_end_alone(tmp_path: Path, clock: Clock, saved: list[int]) -> None:
    train(writer(tmp_path, clock), clock, epoch_s=1.0)
    assert saved == [*RUNGS, EPOCHS]


def test_long_epochs_are_also_saved_now_and_then(tmp_path: Path, clock: Clock, saved: list[int]) -> None:
    """A pause counts from the last save, whatever it was for."""
    train(writer(tmp_path, clock), clock, epoch_s=EVERY_S / 2.5)
    assert saved == [3, 4, 7, 8, 11, 12]


def test_a_warm_up_is_saved_now_and_then(tmp_path: Path, clock: Clock, saved: list[int]) -> None:
    of = writer(tmp_path, clock)
    for epoch in range(1, 7):
        clock.now += EVERY_S / 2.5
        of.finished(Epoch("warmup", epoch, {"wall_time_s": 1.0}, {"epoch": epoch}))
    assert saved == [3, 6], "and not at rungs, which count the student's epochs"
    assert of.rows == []


def test_where_saving_is_slow_it_happens_less_often(
    tmp_path: Path, clock: Clock, saved: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between rungs saving costs at most a hundredth of the time: 15 s a save, 1,500 s between two."""

    def slow(state: dict[str, Any], _: Any) -> None:
        clock.now += 15.0
        saved.append(state["epoch"])

    monkeypatch.setattr(torch, "save", slow)
    train(writer(tmp_path, clock, rungs=[]), clock, epoch_s=310.0)
    assert saved == [1, 6, 11, 12]


def test_an_interruption_saves_the_last_finished_epoch(tmp_path: Path, clock: Clock, saved: list[int]) -> None:
    of = writer(tmp_path, clock)
    train(of, clock, epoch_s=1.0, epochs=6)
    of.save()
    assert saved == [4, 6]
    assert [row["epoch"] for row in TrialDirectory(tmp_path).read_rows()] == [1, 2, 3, 4, 5, 6]


def test_rows_are_on_disk_before_they_are_reported(tmp_path: Path, clock: Clock, saved: list[int]) -> None:
    """Reports go out at rungs, at the end, and between them at most once a second, with all rows since the last."""
    reported: list[list[int]] = []

    def report(row: dict[str, Any]) -> None:
        stored = [stored["epoch"] for stored in TrialDirectory(tmp_path).read_rows()]
        assert stored[-1] == row["epoch"] == row["rows"][-1][0]
        reported.append([epoch for epoch, _, _ in row["rows"]])

    train(writer(tmp_path, clock, report=report), clock, epoch_s=0.4)
    assert reported == [[1, 2, 3], [4], [5, 6, 7], [8], [9, 10, 11], [12]]


# ------------------------------------------------------------------------------------------------- what is in a file


@pytest.fixture(scope="module")
def teacher_file() -> TeacherFile:
    return trained(DIGITS, TEACHER.model_copy(update={"network": {"name": "cnn", "widths": [4, 8, 12]}}))


@pytest.fixture
def trial(teacher_file: TeacherFile) -> Callable[[str, str], Trial]:
    def build(method: str, views: str) -> Trial:
        settings = {
            "data": DIGITS,
            "student": {"network": {"name": "cnn", "widths": [2, 4, 6]}},
            "views": {"name": views},
            "method": [{"name": method}],
            "training": {"epochs": 1, "batch_size": 32},
        }
        return Trial(TrialConfig.parse(TrialRequest(settings=settings, teacher_file=teacher_file)))

    return build


def tensors(node: Any) -> Iterator[Tensor]:
    if isinstance(node, Tensor):
        yield node
    elif isinstance(node, dict):
        for item in node.values():
            yield from tensors(item)
    elif isinstance(node, list | tuple):
        for item in node:
            yield from tensors(item)


@pytest.mark.parametrize(
    ("method", "views"),
    [*((method, "none") for method in names("methods")), *(("kd", views) for views in names("views"))],
)
def test_no_tensor_of_the_teacher_is_in_a_state(trial: Callable[[str, str], Trial], method: str, views: str) -> None:
    try:
        built = trial(method, views)
    except AkdtuneError as error:  # a component that needs another world, e.g. several teachers
        pytest.skip(str(error))
    assert built.teacher is not None
    state = built.state("student", 1)
    of_teacher = [tensor for tensor in built.teacher.network.state_dict().values() if tensor.numel() > 1]
    held = [
        tensor
        for tensor in tensors(state)
        if any(tensor.shape == his.shape and tensor.equal(his) for his in of_teacher)
    ]
    # fresh BatchNorms are zeros and ones
    distinct = {tuple(tensor.shape) for tensor in held if tensor.unique().numel() > 2}
    expected = (
        {tuple(tensor.shape) for tensor in built.teacher.network.classifier()} if method in KEEPS_CLASSIFIER else set()
    )
    assert distinct == expected

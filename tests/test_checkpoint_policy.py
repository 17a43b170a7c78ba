"""When a trial saves its state, and what is in it: at rungs, at the end, on interruption, now and then; no teacher."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from akdtune import teacher
from akdtune.errors import AkdtuneError
from akdtune.ledger import TrialDirectory
from akdtune.registry import names
from akdtune.training import Trial
from akdtune.trial_config import TrialConfig
from tests.small_trials import DIGITS, TEACHER, trained

pytest.importorskip("ray")
from akdtune import trainable

EPOCHS, RUNGS = 12, [4, 8]
KEEPS_CLASSIFIER = {"simkd"}
"""Methods whose student predicts through the teacher's last layer, which therefore belongs to its weights."""


class Clock:
    """Time that only passes when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(trainable, "time", SimpleNamespace(monotonic=found.monotonic))
    return found


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The epochs whose state was written."""
    epochs: list[int] = []
    monkeypatch.setattr(torch, "save", lambda state, _: epochs.append(state["epoch"]))
    return epochs


def progress(folder: Path) -> trainable._Progress:
    trial = {"trial_id": "t", "rungs": RUNGS, "settings": {"training": {"epochs": EPOCHS}}}
    folder.mkdir(exist_ok=True)
    return trainable._Progress(trial, TrialDirectory(folder), [], lambda row: None)


def train(of: trainable._Progress, clock: Clock, epoch_s: float, epochs: int = EPOCHS) -> None:
    for epoch in range(1, epochs + 1):
        clock.now += epoch_s
        of.finished({"epoch": epoch, "val_accuracy": 1.0, "score": 1.0}, {"epoch": epoch})


def test_short_epochs_are_saved_at_rungs_and_at_the_end_alone(tmp_path: Path, clock: Clock, saved: list[int]) -> None:
    train(progress(tmp_path), clock, epoch_s=1.0)
    assert saved == [*RUNGS, EPOCHS]


def test_long_epochs_are_also_saved_now_and_then(tmp_path: Path, clock: Clock, saved: list[int]) -> None:
    """A pause counts from the last save, whatever it was for."""
    train(progress(tmp_path), clock, epoch_s=trainable.CHECKPOINT_EVERY_S / 2.5)
    assert saved == [3, 4, 7, 8, 11, 12]


def test_a_warm_up_is_saved_now_and_then(tmp_path: Path, clock: Clock, saved: list[int]) -> None:
    of = progress(tmp_path)
    for epoch in range(1, 7):
        clock.now += trainable.CHECKPOINT_EVERY_S / 2.5
        of.warmed_up({"epoch": epoch})
    assert saved == [3, 6]


def test_where_saving_is_slow_it_happens_less_often(
    tmp_path: Path, clock: Clock, saved: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between rungs saving costs at most a hundredth of the time: 15 s a save, 1,500 s between two."""

    def slow(state: dict[str, Any], _: Any) -> None:
        clock.now += 15.0
        saved.append(state["epoch"])

    monkeypatch.setattr(torch, "save", slow)
    of = progress(tmp_path)
    of.decisive = {EPOCHS}
    train(of, clock, epoch_s=310.0)
    assert saved == [1, 6, 11, 12]


def test_an_interruption_saves_the_last_finished_epoch(tmp_path: Path, clock: Clock, saved: list[int]) -> None:
    of = progress(tmp_path)
    train(of, clock, epoch_s=1.0, epochs=6)
    of.save()
    assert saved == [4, 6]
    assert [row["epoch"] for row in of.directory.read_rows()] == [1, 2, 3, 4, 5, 6]


# ------------------------------------------------------------------------------------------------- what is in a file


@pytest.fixture(scope="module")
def teacher_file() -> teacher.TeacherFile:
    return trained(DIGITS, TEACHER.model_copy(update={"network": {"name": "cnn", "widths": [4, 8, 12]}}))


@pytest.fixture
def trial(teacher_file: teacher.TeacherFile) -> Callable[[str, str], Trial]:
    def build(method: str, views: str) -> Trial:
        settings = {
            "data": DIGITS,
            "student": {"network": {"name": "cnn", "widths": [2, 4, 6]}},
            "views": {"name": views},
            "method": [{"name": method}],
            "training": {"epochs": 1, "batch_size": 32},
        }
        plain = {"settings": settings, "seeds": {}, "role": "search", "teacher_file": teacher_file.plain()}
        return Trial(TrialConfig.parse(plain))

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
    of_teacher = [one for one in built.teacher.network.state_dict().values() if one.numel() > 1]
    held = [one for one in tensors(state) if any(one.shape == his.shape and one.equal(his) for his in of_teacher)]
    distinct = {tuple(one.shape) for one in held if one.unique().numel() > 2}  # fresh BatchNorms are zeros and ones
    expected = {tuple(one.shape) for one in built.teacher.network.classifier()} if method in KEEPS_CLASSIFIER else set()
    assert distinct == expected

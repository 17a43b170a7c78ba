"""A teacher that the driver trains is the one that a task of Ray trains; it stops when asked, its errors are said."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from akdtune.errors import AkdtuneError, StudyError
from akdtune.planning.prepared import Prepared
from akdtune.records.study_directory import StudyDirectory
from akdtune.running import ahead, teacher_training, worker
from akdtune.running.display import Display
from akdtune.running.teacher_training import TeacherTraining
from akdtune.study import spec

SMALL = ["teacher.epochs=2", "teacher.network={name: cnn, widths: [4, 8]}"]


@pytest.fixture
def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Prepared:
    monkeypatch.setenv("AKDTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(ahead, "begin", lambda *_: None)
    return Prepared.load(spec.load("digits_angular", SMALL))


def training(prepared: Prepared, root: Path, stopping: float = 0.0) -> TeacherTraining:
    shown = Display(Console(file=io.StringIO()), "s", 1, 1)
    return TeacherTraining(prepared.study, StudyDirectory(root), lambda: stopping, shown)


def test_trained_here_it_is_the_same(prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = torch.get_num_threads()
    here = training(prepared, tmp_path).here(prepared, "train")
    assert here is not None
    assert torch.get_num_threads() == threads
    monkeypatch.setenv("AKDTUNE_CACHE", str(tmp_path / "another"))
    study = prepared.study
    asked = {
        "data": study.data.model_dump(), "teacher": study.teacher.model_dump(), "train_on": "train", "plugins": [],
        "plugin_folders": [], "root": str(tmp_path), "stop_flag": ".stop", "cpu": 1,
    }  # fmt: skip
    try:
        *_, last = worker.train_teacher(asked)
    finally:
        torch.set_num_threads(threads)
    assert last["teacher"]["weights_hash"] == here.weights_hash
    assert Path(here.path).parent.parent.parent == tmp_path / "cache"


def test_a_signal_ends_it_without_a_teacher(prepared: Prepared, tmp_path: Path) -> None:
    assert training(prepared, tmp_path, stopping=1.0).here(prepared, "train") is None


@pytest.mark.parametrize(
    ("raised", "kind", "said"),
    [
        (AkdtuneError("the teacher's loss is not finite in epoch 1"), AkdtuneError, "not finite in epoch 1"),
        (ZeroDivisionError("division by zero"), StudyError, "training failed: ZeroDivisionError: division by zero"),
    ],
)
def test_what_ends_it_is_one_sentence(
    raised: Exception,
    kind: type[Exception],
    said: str,
    prepared: Prepared,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: Any) -> Any:
        raise raised

    monkeypatch.setattr(teacher_training, "train_teachers", fail)
    with pytest.raises(kind, match=said):
        training(prepared, tmp_path).here(prepared, "train")

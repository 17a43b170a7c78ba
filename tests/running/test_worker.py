"""What a worker does around a trial: a full disk is not the trial's fault, and memory is counted anew."""

from __future__ import annotations

import errno
import json
import os
import resource
from pathlib import Path
from typing import Any

import pytest
import torch

from akdtune.errors import CheckpointError, StudyError
from akdtune.records.files import LOCK
from akdtune.records.study_directory import StudyDirectory
from akdtune.records.trial_directory import TrialDirectory
from akdtune.running import worker
from akdtune.teacher.file import TeacherFile
from akdtune.training.request import TrialRequest


def asked(root: Path, **of_study: Any) -> TrialRequest:
    """A trial that has no settings: its attempts are replaced."""
    given: dict[str, Any] = {"settings": {}, "teacher_file": TeacherFile.none(), "tracking": {"wandb": None}}
    return TrialRequest(trial_id="t", root=str(root), stop_flag=".stop", **given, **of_study)


@pytest.fixture(autouse=True)
def fresh_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test does to its process is none of the next one's."""
    monkeypatch.setattr(worker, "_spoiled", False)


def raising(monkeypatch: pytest.MonkeyPatch, *errors: Exception) -> list[Exception]:
    """Lets attempts raise these errors in turn, the last one for ever; returns those that were raised."""
    raised: list[Exception] = []

    def attempt(*_: Any) -> Any:
        error = errors[min(len(raised), len(errors) - 1)]
        raised.append(error)
        raise error

    monkeypatch.setattr(worker, "_attempt", attempt)
    return raised


def executed(request: TrialRequest) -> dict[str, Any]:
    return worker.execute(request, lambda row: None, lambda: False)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.EIO, "Input/output error", "/nfs/a"), "/nfs/a: Input/output error"),
        (OSError(errno.ESTALE, "Stale file handle", "/nfs/a"), "/nfs/a: Stale file handle"),
        (PermissionError(errno.EACCES, "Permission denied", "/nfs/a"), "/nfs/a: Permission denied"),
        (OSError(errno.ENOSPC, "No space left on device", "/cache/a"), "/cache/a: No space left on device"),
        (CheckpointError("/t.pt: no such file (teacher.checkpoint)"), "/t.pt: no such file (teacher.checkpoint)"),
        (ModuleNotFoundError("No module named 'x'"), "cannot import: No module named 'x'"),
        (MemoryError(), "out of memory: MemoryError"),
        (torch.OutOfMemoryError("CUDA out of memory."), "out of GPU memory: CUDA out of memory."),
    ],
)
def test_what_a_trial_meets_outside_itself_interrupts_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception, said: str
) -> None:
    raised = raising(monkeypatch, error)
    outcome = executed(asked(tmp_path))
    assert (outcome["outcome"], outcome["epoch"], outcome["fault"]["said"]) == ("interrupted", 0, said)
    assert len(raised) == 1
    folder = tmp_path / "trials" / "t"
    assert not (folder / "outcome.json").exists()
    assert f"interrupted: {said} (on {os.uname().nodename})" in (folder / "log.txt").read_text()
    assert json.dumps(outcome), "it travels"


def test_a_log_that_takes_no_more_changes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    raising(monkeypatch, OSError(errno.EIO, "Input/output error", "/nfs/a"))

    def refuse() -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(worker.traceback, "print_exc", refuse)
    assert executed(asked(tmp_path))["fault"]["said"] == "/nfs/a: Input/output error"


def test_a_trials_own_error_ends_it_when_it_is_raised_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    raised = raising(monkeypatch, ValueError("a"), ValueError("b"), ValueError("b"))
    outcome = executed(asked(tmp_path))
    assert outcome["outcome"] == "failed" and outcome["error"].startswith("ValueError: b (")
    assert len(raised) == 3
    held = TrialDirectory(tmp_path / "trials" / "t").read_outcome()
    assert held == {**outcome, "trial_id": "t", "files": {}}


def test_a_process_that_lost_its_gpu_takes_no_other_trial(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The trial's own assert ends it at once: what the process computes from then on means nothing."""
    raised = raising(monkeypatch, RuntimeError("CUDA error: device-side assert triggered"))
    assert executed(asked(tmp_path))["outcome"] == "failed"
    assert len(raised) == 1
    with pytest.raises(worker.SpoiledProcess):
        worker.run_trial({"trial": json.dumps(asked(tmp_path).plain())})


@pytest.mark.parametrize("there", ["nothing", "a folder", "another study", "half a lock"])
def test_a_worker_that_does_not_see_its_study_makes_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, there: str
) -> None:
    monkeypatch.setattr(worker, "VISIBLE_WITHIN_S", 0.05)
    raised, root = raising(monkeypatch, ValueError("it trains")), tmp_path / "run"
    if there != "nothing":
        root.mkdir()
    if there in ("another study", "half a lock"):
        (root / LOCK).write_text("akdtune: 1\nuid: ffffff\n" if there == "another study" else "akdtune: 1\nui")
    before = sorted(tmp_path.rglob("*"))
    outcome = executed(asked(root, study_uid="123456"))
    assert (outcome["outcome"], outcome["epoch"], outcome["fault"]["at_once"]) == ("interrupted", 0, True)
    met = "holds another study (uid ffffff, not 123456)" if there == "another study" else "is not visible"
    assert outcome["fault"]["said"] == f"{root}: {met}"
    assert outcome["fault"]["host"] == os.uname().nodename
    assert "all nodes share" in outcome["fault"]["remedy"]
    assert sorted(tmp_path.rglob("*")) == before and not raised


def test_a_worker_that_sees_its_study_late_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A uid of digits alone is quoted in the lock."""
    raised = raising(monkeypatch, ValueError("it trains"))
    slept = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        (tmp_path / LOCK).write_text("akdtune: 1\nuid: '123456'\n")

    monkeypatch.setattr(worker.time, "sleep", sleep)
    assert executed(asked(tmp_path, study_uid="123456"))["outcome"] == "failed"
    assert slept and raised


@pytest.mark.parametrize("lacking", ["plug-ins and settings", "data"])
def test_what_a_node_lacks_of_what_the_driver_had_is_not_the_trials_fault(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lacking: str
) -> None:
    settings = {
        "data": {"name": "cifar100", "root": str(tmp_path / "absent"), "validation": 0},
        "student": {"network": {"name": "cnn"}},
        "views": {"name": "none"},
        "method": [{"name": "kd"}],
        "training": {"epochs": 1},
    }
    plugins = ["no_such_plugin"] if lacking.startswith("plug-ins") else []
    request = TrialRequest(
        trial_id="t", root=str(tmp_path), stop_flag=".stop", tracking={"wandb": None}, settings=settings,
        teacher_file=TeacherFile.none(), plugins=plugins,
    )  # fmt: skip
    fault = executed(request)["fault"]
    assert fault["kind"] == lacking and "every node" in fault["remedy"]
    assert ("no_such_plugin" if plugins else str(tmp_path / "absent")) in fault["said"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_fills_up_under_a_trial_is_not_the_trials_fault(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int
) -> None:
    """The study ends with one message, and the trial stays to be resumed."""
    reported: list[dict[str, Any]] = []
    request = TrialRequest(
        trial_id="t",
        root=str(tmp_path),
        stop_flag=".stop",
        tracking={"wandb": None},
        settings={},
        teacher_file=TeacherFile.none(),
    )

    def resumed(*_: Any) -> Any:
        try:
            raise OSError(number, "said by the system")
        except OSError as error:
            raise StudyError("cannot write epochs.parquet") from error

    monkeypatch.setattr(worker, "resumed", resumed)
    monkeypatch.setattr(worker.tune, "report", reported.append)
    worker.run_trial({"trial": json.dumps(request.plain())})
    said = f"{os.strerror(number)} (on {os.uname().nodename})"
    assert reported == [{"trial": "t", "outcome": "interrupted", "epoch": 0, "disk": said}]
    directory = StudyDirectory(tmp_path)
    directory.refused(reported[0]["disk"])
    assert str(directory.broken).startswith(f"{tmp_path}: cannot be written: {said}; nothing recorded")


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="writes /proc/self/clear_refs")
def test_a_trials_memory_peak_is_not_that_of_the_trials_before_it() -> None:
    def peak_mib() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    before = peak_mib()
    held = bytearray((int(before) + 200) << 20)
    assert peak_mib() > before + 100
    del held
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pytest.skip("this system does not let a process reset its peak")
    held = bytearray((int(before) + 200) << 20)
    high = peak_mib()
    del held
    worker._give_memory_back()
    worker.forget_memory_peak()
    assert peak_mib() < high - 100


def test_what_a_trial_left_on_a_gpu_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    for name in ("empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda name=name: done.append(name))
    for there, expected in ((False, []), (True, ["empty_cache", "reset_peak_memory_stats"])):
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda there=there: there)
        worker._give_memory_back()
        worker.forget_memory_peak()
        assert done == expected

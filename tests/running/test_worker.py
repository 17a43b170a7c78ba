"""What a worker does around a trial: a full disk is not the trial's fault, and memory is counted anew."""

from __future__ import annotations

import errno
import json
import os
import resource
from pathlib import Path
from typing import Any

import pytest

from akdtune.errors import StudyError
from akdtune.records.study_directory import StudyDirectory
from akdtune.running import worker
from akdtune.teacher.file import TeacherFile
from akdtune.training.request import TrialRequest


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
    assert reported == [{"trial": "t", "outcome": "interrupted", "epoch": 0, "disk": os.strerror(number)}]
    directory = StudyDirectory(tmp_path)
    directory.refused(reported[0]["disk"])
    assert str(directory.broken).startswith(f"{tmp_path}: cannot be written: {os.strerror(number)}; nothing recorded")


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
    worker.forget_memory_peak()
    assert peak_mib() < high - 100

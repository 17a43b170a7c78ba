"""How a run ends is decided by what the directory holds. Starts no Ray."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from akdtune.errors import StudyError
from akdtune.records.ledger.events import StudyFinished, TrialEnded
from akdtune.records.ledger.reading import read_events
from akdtune.running import driver
from akdtune.study import spec

ALONE = """\
study: alone
data: {name: digits, validation: 600}
teacher: none
student: {network: {name: cnn, widths: [2, 4]}}
method: {choice: [student_only, label_smoothing]}
training: {epochs: 2, batch_size: 64}
search: {algorithm: grid}
tracking: {wandb: null}
"""


def ended(folder: Path, monkeypatch: pytest.MonkeyPatch, done: int, number: signal.Signals | None = None) -> int:
    """The exit code of a run whose tuning ends so many of its two trials, and then perhaps meets a signal."""

    def tune(self: Any, run: Any, shown: Any) -> None:
        for _ in range(done):
            record = run.next()
            run.ended(record, TrialEnded(kind="diverged", trial_id=record.trial_id, epoch=0))
        if number is not None:
            signal.raise_signal(number)
            until = time.monotonic() + 60
            while not self._stopping and time.monotonic() < until:
                time.sleep(0.01)

    if number is not None:
        signal.signal(number, signal.SIG_DFL)  # whoever ran the tests under nohup has it ignored, and so would the run
    monkeypatch.setattr(driver._Driver, "_tune", tune)
    file = folder / "study.yaml"
    file.write_text(ALONE)
    return driver.run(spec.load(file), folder / "run", console=Console(quiet=True))


def finished(root: Path) -> StudyFinished:
    (event,) = [event for event in read_events(root) if isinstance(event, StudyFinished)]
    return event


@pytest.mark.parametrize(
    ("done", "number", "code"),
    [
        (2, None, 0),
        (1, None, 1),
        (1, signal.SIGUSR1, 130),
        (0, signal.SIGHUP, 130),
        (2, signal.SIGTERM, 0),
    ],
)
def test_the_exit_code_is_0_only_where_every_planned_trial_has_an_end(
    done: int, number: signal.Signals | None, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ended(tmp_path, monkeypatch, done, number) == code
    assert finished(tmp_path / "run").interrupted == (done < 2)


def test_a_study_directory_is_no_uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.yaml").write_text(ALONE)
    with pytest.raises(StudyError, match="--dir s3://bucket/run: must be a folder that all nodes see, not a URI"):
        driver.run(spec.load("study.yaml"), Path("s3://bucket/run"))
    assert [path.name for path in tmp_path.iterdir()] == ["study.yaml"]

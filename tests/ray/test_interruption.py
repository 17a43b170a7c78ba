"""Ctrl-C, kill -9 and two writers, on the real command in a process of its own."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from akdtune import results
from tests.ray import studies

pytestmark = pytest.mark.ray

EPOCHS = 40
SLOW = (f"training.epochs={EPOCHS}", "scheduler.grace_period=26", "search.trials=4", "probe.trials=2")


def wait_for(what: Callable[[], bool], process: subprocess.Popen[str], timeout_s: float = 90.0) -> None:
    until = time.monotonic() + timeout_s
    while not what():
        assert process.poll() is None, process.stdout.read() if process.stdout else ""
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.05)


def kill(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=30)
    assert process.stdout is not None
    process.stdout.close()


def events(root: Path, kind: str) -> int:
    return sum(event.kind == kind for event in results.read_events(root)) if (root / "ledger.jsonl").exists() else 0


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A random study that nobody disturbs: (YAML, directory)."""
    folder = tmp_path_factory.mktemp("undisturbed")
    file = studies.write(folder)
    process = studies.start(file, folder / "run", *SLOW, "search.algorithm=random", "scheduler=null")
    output, _ = process.communicate(timeout=180)
    assert process.returncode == 0, output
    return file, folder / "run"


def test_ctrl_c_returns_within_five_seconds_and_the_same_command_goes_on(
    undisturbed: tuple[Path, Path], tmp_path: Path
) -> None:
    file, reference = undisturbed
    root = tmp_path / "run"
    overrides = (*SLOW, "search.algorithm=random", "scheduler=null")
    process = studies.start(file, root, *overrides)
    wait_for(lambda: events(root, "epoch") > 10, process)
    asked = time.monotonic()
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert time.monotonic() - asked < 5.0
    assert process.returncode == 130
    assert "nothing is lost" in output and "akdtune run" in output and f"--dir {root}" in output
    assert events(root, "interrupted") >= 1, "running trials saved themselves"
    again = studies.start(file, root, *overrides)
    output, _ = again.communicate(timeout=180)
    assert again.returncode == 0, output
    assert "resuming" in output
    studies.assert_exactly_once(root, trials=6, epochs=EPOCHS)
    assert studies.metrics(root) == studies.metrics(reference), "an interrupted study computes the same numbers"


def test_after_kill_9_at_any_moment_the_same_command_ends_every_trial_once(
    undisturbed: tuple[Path, Path], tmp_path: Path
) -> None:
    file, reference = undisturbed
    root = tmp_path / "run"
    overrides = (*SLOW, "search.algorithm=random", "scheduler=null")
    for moment in (("started", 1), ("epoch", 50), ("done", 3)):
        process = studies.start(file, root, *overrides)
        wait_for(lambda m=moment: events(root, m[0]) >= m[1], process)  # type: ignore[misc]
        kill(process)
    ledger = root / "ledger.jsonl"
    ledger.write_bytes(ledger.read_bytes()[:-7])  # torn, too
    last = studies.start(file, root, *overrides)
    output, _ = last.communicate(timeout=180)
    assert last.returncode == 0, output
    studies.assert_exactly_once(root, trials=6, epochs=EPOCHS)
    assert studies.metrics(root) == studies.metrics(reference)


def test_kill_9_during_tpe_with_asha(tmp_path: Path) -> None:
    file, root = studies.write(tmp_path), tmp_path / "run"
    for count in (5, 100):
        process = studies.start(file, root, *SLOW)
        wait_for(lambda c=count: events(root, "epoch") > c, process)  # type: ignore[misc]
        kill(process)
    journal = root / "optuna.journal"
    journal.write_bytes(journal.read_bytes()[:-11])
    last = studies.start(file, root, *SLOW)
    output, _ = last.communicate(timeout=180)
    assert last.returncode == 0, output
    studies.assert_exactly_once(root, trials=6, epochs=EPOCHS)


def test_a_running_study_is_locked(tmp_path: Path) -> None:
    file, root = studies.write(tmp_path), tmp_path / "run"
    first = studies.start(file, root, *SLOW)
    wait_for(lambda: events(root, "started") > 0, first)
    second = studies.start(file, root, *SLOW)
    output, _ = second.communicate(timeout=60)
    first.send_signal(signal.SIGTERM)
    ended, _ = first.communicate(timeout=30)
    assert second.returncode == 2
    assert "another akdtune is running this study" in output
    assert first.returncode == 130, ended


def test_ctrl_c_while_the_teacher_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AKDTUNE_CACHE", str(tmp_path / "cache"))
    file, root = studies.write(tmp_path), tmp_path / "run"
    methods = "method={choice: [kd, dkd]}"
    process = studies.start(file, root, *SLOW, "teacher.epochs=5000", methods)
    wait_for(lambda: any((tmp_path / "cache").glob("teachers/*/train.lock")), process)
    time.sleep(2)
    asked = time.monotonic()
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert time.monotonic() - asked < 5.0, output
    assert process.returncode == 130
    assert "goes on where it stopped" in output
    assert shlex.quote(methods) in output, "the command that resumes can be pasted: brackets are no markup"

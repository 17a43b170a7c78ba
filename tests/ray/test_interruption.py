"""Signals, kill -9, a Ray that dies and two writers, on the real command in a process of its own."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil
import pytest

from akdtune.records.files import LEDGER, LOCK
from akdtune.records.ledger.reading import read_events
from tests.ray import studies

pytestmark = pytest.mark.ray

EPOCHS = 30
SLOW = (f"training.epochs={EPOCHS}", "scheduler.grace_period=20", "search.trials=4", "probe.trials=2")
RANDOM = (*SLOW, "search.algorithm=random", "scheduler=null")
SINGLY = "resources.concurrent=1"  # which determines no number


def wait_for(what: Callable[[], bool], process: subprocess.Popen[str], timeout_s: float = 300.0) -> None:
    until = time.monotonic() + timeout_s
    while not what():
        assert process.poll() is None, process.stdout.read() if process.stdout else ""
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.05)


def events(root: Path, kind: str) -> int:
    return sum(event.kind == kind for event in read_events(root)) if (root / "ledger.jsonl").exists() else 0


def started(
    file: Path,
    root: Path,
    overrides: tuple[str, ...],
    kind: str,
    more: int,
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[str]:
    """The command, running until the ledger holds so many more events of a kind."""
    before = events(root, kind)
    process = studies.start(file, root, *overrides, environment=environment)
    wait_for(lambda: events(root, kind) >= before + more, process)
    return process


def kill(process: subprocess.Popen[str]) -> str:
    """Kills the command; all that it has started ends soon by itself. Returns what it had printed."""
    family = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGKILL)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL, output
    assert_gone(family)
    return output


def assert_gone(family: list[psutil.Process]) -> None:
    """No process of a family is left after 30 seconds."""
    assert family
    _, left = psutil.wait_procs(family, timeout=30.0 * crowd())
    assert [process for process in left if process.is_running() and process.status() != psutil.STATUS_ZOMBIE] == []


def interrupt(process: subprocess.Popen[str], by: signal.Signals = signal.SIGINT, whom: str = "it") -> str:
    """Sends a signal, which is answered within five seconds; returns what the command has printed.

    Args:
        process: the command.
        by: what is sent.
        whom: `it`, its `group` (`timeout`, a terminal), or `all` it has started (Slurm).
    """
    family = psutil.Process(process.pid).children(recursive=True)
    asked = time.monotonic()
    if whom == "group":
        os.killpg(process.pid, by)
    else:
        process.send_signal(by)
    for member in family if whom == "all" else ():
        member.send_signal(by)
    output, _ = process.communicate(timeout=120)
    assert time.monotonic() - asked < 5.0 * crowd(), output
    assert process.returncode == 130, output
    assert_gone(family)
    return output


def crowd() -> float:
    """How many processes want each core, 1 on a quiet machine; the other half of the tests counts at once."""
    beside = 2.0 if "PYTEST_XDIST_WORKER" in os.environ else 1.0
    return max(beside, os.getloadavg()[0] / (os.cpu_count() or 1))


def tear(file: Path, size: int) -> None:
    file.write_bytes(file.read_bytes()[:-size])


@pytest.fixture(scope="module")
def undisturbed(ray_up: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A random study that nobody disturbs, in this process: (YAML, directory)."""
    folder = tmp_path_factory.mktemp("undisturbed")
    file = studies.write(folder)
    assert studies.run(file, folder / "run", *RANDOM, SINGLY) == 0
    return file, folder / "run"


@pytest.mark.slow  # a minute and a half; tests/faults tries each of it in its short form, SIGTERM to the group, too
def test_killed_and_interrupted_the_same_command_goes_on_to_the_same_numbers(
    undisturbed: tuple[Path, Path], tmp_path: Path
) -> None:
    file, reference = undisturbed
    root = tmp_path / "run"
    first = studies.start(file, root, *RANDOM)
    wait_for((root / LOCK).exists, first)
    second = studies.start(file, root, *RANDOM)
    wait_for(lambda: events(root, "started") >= 1, first)
    output, _ = second.communicate(timeout=300)
    assert second.returncode == 2
    assert "another akdtune is running this study" in output
    kill(first)

    hostile = hostile_environment(tmp_path)
    output = interrupt(started(file, root, RANDOM, "epoch", 10, hostile), signal.SIGUSR1, "all")
    assert "nothing is lost" in output and "akdtune run" in output and f"--dir {root}" in output
    assert events(root, "interrupted") >= 1, "running trials saved themselves"

    assert "resuming" in kill(started(file, root, RANDOM, "done", 3))
    tear(root / LEDGER, 7)
    assert studies.run(file, root, *RANDOM, SINGLY) == 0
    studies.assert_exactly_once(root, trials=6, epochs=EPOCHS)
    assert studies.metrics(root) == studies.metrics(reference)


def hostile_environment(folder: Path) -> dict[str, str]:
    """Another Ray's address, a home that cannot be written, and a temporary folder with a path too long for sockets."""
    long = folder / ("x" * max(1, 125 - len(str(folder))))
    long.mkdir()
    return {
        "RAY_ADDRESS": "127.0.0.1:1",
        "RAY_AUTH_MODE": "disabled",
        "RAY_JOB_CONFIG_JSON_ENV_VAR": '{"runtime_env": {"working_dir": "gcs://_ray_pkg_none.zip"}, "metadata": {}}',
        "HOME": "/proc/nowhere",
        "TMPDIR": str(long),
    }


def part_of_ray(process: subprocess.Popen[str], name: str) -> psutil.Process:
    """The process of the command's Ray whose program has this name; it is out of reach of a signal to our group."""
    (found,) = [child for child in psutil.Process(process.pid).children(recursive=True) if child.name() == name]
    assert os.getsid(found.pid) == found.pid != os.getsid(process.pid)
    return found


@pytest.mark.parametrize("name", ["raylet", pytest.param("gcs_server", marks=pytest.mark.slow)])
def test_a_ray_that_dies_ends_the_run_with_one_sentence(name: str, ray_up: None, tmp_path: Path) -> None:
    file, root = studies.write(tmp_path), tmp_path / "run"
    process = started(file, root, RANDOM, "epoch", 5)
    family = psutil.Process(process.pid).children(recursive=True)
    part_of_ray(process, name).kill()
    output, _ = process.communicate(timeout=30 * crowd())
    assert process.returncode == 2, output
    said = output[output.index("akdtune: ") :].splitlines()
    assert len(said) == 1 and "Ray is gone" in said[0] and "the same command goes on" in said[0], output
    assert "state-dump" not in output and "Traceback" not in output
    assert_gone(family)
    assert studies.run(file, root, *RANDOM, SINGLY) == 0
    studies.assert_exactly_once(root, trials=6, epochs=EPOCHS)


@pytest.mark.slow
def test_ctrl_c_while_ray_starts(tmp_path: Path) -> None:
    file, root = studies.write(tmp_path), tmp_path / "run"
    process = studies.start(file, root, *RANDOM)
    wait_for(lambda: any(child.name() == "gcs_server" for child in psutil.Process(process.pid).children()), process)
    assert "nothing is lost" in interrupt(process)


@pytest.mark.slow
def test_kill_9_during_tpe_with_asha(ray_up: None, tmp_path: Path) -> None:
    file, root = studies.write(tmp_path), tmp_path / "run"
    kill(started(file, root, SLOW, "epoch", 70))
    tear(root / "optuna.journal", 11)
    assert studies.run(file, root, *SLOW, SINGLY) == 0
    studies.assert_exactly_once(root, trials=6, epochs=EPOCHS)


def test_stopped_while_the_teacher_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AKDTUNE_CACHE", str(tmp_path / "cache"))
    file, root = studies.write(tmp_path), tmp_path / "run"
    methods = "method={choice: [kd, dkd]}"
    process = studies.start(file, root, *SLOW, "teacher.epochs=5000", methods)
    wait_for(lambda: any((tmp_path / "cache").glob("teachers/*/train.lock")), process)
    time.sleep(2)
    output = interrupt(process, signal.SIGHUP, "group")
    assert "goes on where it stopped" in output
    assert shlex.quote(methods) in output, "the command that resumes can be pasted: brackets are no markup"

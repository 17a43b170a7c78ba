"""Small studies to be disturbed, and the real command in a session of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.checkout import ROOT
from tests.faults import judge

EPOCHS = 30
LONG_S = 120.0
"""More than any command here takes."""
DIGITS = "data: {name: digits, validation: 600, pixel_noise: {std: 0.1}}"
BASE = f"""
teacher: {{network: {{name: cnn, widths: [4, 8]}}, epochs: 8, batch_size: 64, lr: 0.2}}
student: {{network: {{name: cnn, widths: [4, 8]}}}}
training: {{epochs: {EPOCHS}, batch_size: 64, lr: 0.2}}
tracking: {{wandb: null}}
"""
STUDIES = {
    # no decision depends on who arrives first
    "grid": """
study: grid
views: {name: angular, variant: constrained, warmup_epochs: 1, num_views: 2, margin: {grid: [0.2, 0.4]}}
method: {choice: [{name: kd}, {name: dkd}]}
search: {algorithm: grid}
scheduler: null
""",
    # one trial at a time, so that the order of decisions is fixed
    "asha": """
study: asha
views: {name: tekap, number: 2, noise: {uniform: [0.05, 0.5]}}
method: {name: kd, weight: {log_uniform: [0.1, 4.0]}}
search: {algorithm: random, trials: 5}
scheduler: {name: asha, grace_period: 5, reduction_factor: 2}
resources: {concurrent: 1}
""",
    "ablation": """
study: ablation
views: {name: tekap, number: 2, noise: 0.2}
method: {name: kd}
search: null
ablation: {base: study, design: leave_one_out, factors: {views.noise: [0.2, 0.4]}, controls: [replica], seeds: [1, 2]}
""",
    # what it needs lies beside it: images, and a plug-in
    "folder": """
study: folder
plugins: [brought]
views: {name: tekap, number: 2, noise: {grid: [0.1, 0.3]}}
method: {name: brought, weight: {grid: [0.5, 1.0]}}
search: {algorithm: grid}
scheduler: null
""",
}
IMAGES_A_CLASS = {"train": 60, "test": 10}


def write(folder: Path, name: str = "grid") -> Path:
    """The YAML of one of `STUDIES`."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.yaml"
    data = DIGITS
    if name == "folder":
        data = f"data: {{name: image_folder, root: {folder / 'images'}, validation: 100, size: 8}}"
        shutil.copy(Path(__file__).parent / "plugins" / "brought.py", folder)
        if not (folder / "images").exists():
            _write_images(folder / "images")
    file.write_text(STUDIES[name] + data + BASE)
    return file


def _write_images(folder: Path) -> None:
    """Digits as one PNG an image, in a folder for each class."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    for label in range(10):
        images = digits.images[digits.target == label]
        first = 0
        for split, number in IMAGES_A_CLASS.items():
            (folder / split / str(label)).mkdir(parents=True)
            for index in range(first, first + number):
                pixels = (images[index] * 15.9375).astype("uint8")
                Image.fromarray(pixels).save(folder / split / str(label) / f"{index}.png")
            first += number


@dataclass
class Study:
    """A study to be disturbed: its file, its directory, and what its commands find in their environment."""

    file: Path
    root: Path
    undisturbed: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    overrides: tuple[str, ...] = ()
    prefix: tuple[str, ...] = ()
    python: str = sys.executable

    def start(self, **environment: str) -> Command:
        """`akdtune run`, in a session of its own."""
        command = [
            *self.prefix, self.python, "-m", "akdtune.cli", "run", str(self.file), *self.overrides,
            "--dir", str(self.root),
        ]  # fmt: skip
        return Command(command, self.root, {**self.environment, **environment})

    def finish(self, times: int = 1, **environment: str) -> list[tuple[int, str]]:
        """The command until it says 0, so many times at most: exit codes and what was printed."""
        said = []
        for _ in range(times):
            said.append(self.start(**environment).end())
            if said[-1][0] == 0:
                break
        return said


class Command:
    """A command that runs in a session of its own, marked so that whatever it starts is found again.

    Attributes:
        marker: text in the environment of all that it starts.
        known: what it was seen to have started: process ids with their start times.
    """

    def __init__(self, command: Sequence[str], root: Path, environment: Mapping[str, str]) -> None:
        self.root = root
        self.marker = f"AKDTUNE_FAULTS={uuid.uuid4().hex}"
        self.printed = Path(tempfile.gettempdir()) / f"{self.marker}.out"  # not on a disk that is made full
        root.parent.mkdir(parents=True, exist_ok=True)
        name, _, value = self.marker.partition("=")
        with self.printed.open("wb") as file:  # no pipe: whoever inherits one holds up its reader
            self.process = subprocess.Popen(
                command,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT), **environment, name: value},
            )
        self.pid = self.process.pid
        self.known: set[tuple[int, str]] = set()
        self.look()

    def look(self) -> list[psutil.Process]:
        """What it has started by now, which is remembered."""
        try:
            below = psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        self.known |= {(child.pid, start) for child in below if (start := judge.started(child.pid)) is not None}
        return below

    def output(self) -> str:
        return self.printed.read_text(errors="replace")

    def wait_for(self, what: Callable[[], bool], timeout_s: float = LONG_S) -> bool:
        """Whether something comes true before the command ends."""
        timeout_s *= patience()
        until = time.monotonic() + timeout_s
        while not what():
            if self.process.poll() is not None:
                return what()
            assert time.monotonic() < until, f"waited {timeout_s:g} s in vain\n{self.output()}"
            self.look()
            time.sleep(0.05)
        return True

    def epochs(self, more: int) -> bool:
        """Waits until the ledger holds so many more epochs; False where the command ends before."""
        before = count(self.root, "epoch")
        return self.wait_for(lambda: count(self.root, "epoch") >= before + more)

    def end(self, timeout_s: float = LONG_S) -> tuple[int, str]:
        """Waits for its end: exit code and what it printed. A command that does not end is killed: NEVER.

        Args:
            timeout_s: on a machine that does nothing else.
        """
        timeout_s *= patience()
        until = time.monotonic() + timeout_s
        while self.process.poll() is None and time.monotonic() < until:
            self.look()
            time.sleep(0.1)
        if self.process.poll() is None:
            output = self.output()
            self.kill_all()
            return NEVER, f"did not end within {timeout_s:g} s\n{output}"
        return self.process.returncode, self.output()

    def kill_all(self) -> None:
        """Kills the command with all it has started."""
        self.look()
        for pid in [self.pid, *judge.processes_of(self.marker), *(pid for pid, at in self.known if alive(pid, at))]:
            kill(pid)
        self.process.wait(30)

    def target(self, name: str) -> int | None:
        """The process id of the driver, of an actor that trains, of the raylet or of the GCS; None where it is gone."""
        if name == "driver":
            return self.pid
        if name == "actor":
            return next(iter(self.actors()), None)
        server = {"raylet": "raylet", "gcs": "gcs_server"}[name]
        pids = [child.pid for child in self.look() if _name(child) == server]
        return next(iter(pids), None)

    def actors(self) -> list[int]:
        """Processes that train a trial now, as the trials' own files say."""
        found = []
        for path in sorted((self.root / "trials").glob("*/attempts/*.json")):
            text = path.read_text() if path.exists() else ""
            pid = judge.json.loads(text)["pid"] if text else 0
            if pid and judge.started(pid) is not None and not path.with_suffix(".closed").exists():
                found.append(pid)
        return found


def patience() -> float:
    """By how much bounds are stretched on a machine that does other work."""
    return min(6.0, max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)))


NEVER = -1000
"""In place of the exit code of a command that did not end."""


def count(root: Path, kind: str) -> int:
    return sum(event.get("event") == kind for event in judge.ledger(root))


def alive(pid: int, start: str) -> bool:
    return judge.started(pid) == start


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _name(process: psutil.Process) -> str:
    try:
        return str(process.name())
    except psutil.NoSuchProcess:
        return ""

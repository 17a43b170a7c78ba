"""No command is silent for long: what loads a heavy library calls itself a stage, and stages go to standard error."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from akdtune import progress
from akdtune.cli import main, planned, reading_commands, verifying
from akdtune.cli.waiting import shown, waiting
from akdtune.errors import unknown_name
from akdtune.planning.timing import TimingProgress

COMMANDS = (
    "run digits_angular --dir there", "plan digits_angular", "rehearse digits_angular", "schema", "methods",
    "views angular", "teacher train digits_angular", "teacher fill digits_angular", "teacher list", "teacher show 1",
    "teacher weights a b", "verify there", "diff there a b", "report there",
)  # fmt: skip
LIGHT = ("show there", "best there", "trial there a", "logs there a", "spaces", "cache list", "--help", "table there")

ASKED = """
import os, sys
from akdtune import progress
from akdtune.cli import main

class Heavy(BaseException):
    pass

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name in ("torch", "ray", "matplotlib", "optuna", "wandb"):
            stages = list(progress._stages)
            raise Heavy(f"{name} while {stages[-1] if stages else 'nobody says so'}")

sys.meta_path.insert(0, Finder())
sys.stderr = open(os.devnull, "w")
for command in sys.argv[1:]:
    out, sys.stdout = sys.stdout, open(os.devnull, "w")
    try:
        main(command.split())
        said = "nothing heavy"
    except Heavy as heavy:
        said = str(heavy)
    sys.stdout = out
    print(f"{command}: {said}")
"""


def test_nothing_heavy_is_loaded_in_silence(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ASKED, *COMMANDS, *LIGHT], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    lines = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert set(lines) == {*COMMANDS, *LIGHT}
    assert not [line for line in lines.items() if "nobody says so" in line[1]]
    assert {lines[command] for command in LIGHT} == {"nothing heavy"}
    assert lines["plan digits_angular"] == "torch while reading the settings"


def test_what_takes_long_is_told_on_standard_error_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "QUIET_S", 0.0)
    with shown():
        listener: Any = progress._listener
        with waiting("loading torch"):
            listener.look()
            print("the answer")
    seen = capsys.readouterr()
    assert (seen.out, seen.err) == ("the answer\n", "loading torch ...\n")


def test_every_command_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[object] = []
    monkeypatch.setattr(reading_commands, "_analyses", lambda: heard.append(progress._listener) or ["nothing"])
    main(["analyze", "ablation", "there"])
    assert isinstance(heard[0], progress.Shown)
    assert progress._listener is None


class Heard:
    def __init__(self) -> None:
        self.said: list[str] = []

    def stage(self, what: str | None) -> None:
        pass

    def at(self, done: int, total: int, unit: str) -> None:
        self.said.append(f"{done} of {total} {unit}")

    def words(self, words: progress.Words) -> None:
        self.said.append(words())


def test_timing_and_verifying_say_how_far_they_are() -> None:
    heard = Heard()
    with progress.shown_by(heard):
        planned._show(TimingProgress("angular/kd", 1, 4, 20.0))
        planned._show(TimingProgress("angular/kd", 3, 4, -1.0))
        verifying._show("trials", 12, 1_000)
    assert heard.said == [
        "timing angular/kd: 1 of 4 kinds of arms are timed, at most 20 s left (Ctrl-C: enough)",
        "timing angular/kd: 3 of 4 kinds of arms are timed, about to end (Ctrl-C: enough)",
        "verifying trials: 12 of 1,000",
    ]


def test_a_name_where_there_is_none_is_no_empty_list() -> None:
    assert unknown_name("key", "x", []) == "unknown key 'x': it takes no settings"
    assert unknown_name("setting", "x", ()) == "unknown setting 'x': it takes no settings"
    assert unknown_name("column", "x", []) == "unknown column 'x': there is none"

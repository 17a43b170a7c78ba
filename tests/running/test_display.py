"""What a running study shows: a table that is laid out once a second, and in a pipe lines that are few."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from akdtune import progress
from akdtune.running import display, printed
from akdtune.running.display import Display


class Clocked:
    """A display whose clock is set by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
        self.now = 1000.0
        clock = SimpleNamespace(monotonic=lambda: self.now)
        monkeypatch.setattr(display, "time", clock)
        monkeypatch.setattr(progress, "time", clock)
        progress.said()
        self.text = io.StringIO()
        console = Console(file=self.text, markup=False, force_terminal=terminal, width=80, color_system=None)
        self.shown = Display(console, "digits", 3, 40)
        self.records: list[Any] = [
            SimpleNamespace(
                trial_id=f"t{number}", plan={"arm": "none/kd", "cell": None, "role": "search"}, terminal=None,
                value=None, test=None, last_epoch=number,
            )
            for number in range(3)
        ]  # fmt: skip

    def run(self, seconds: float) -> None:
        """As Tune does, ten times a second."""
        for _ in range(round(10 * seconds)):
            self.now += 0.1
            self.shown.update(self.records)


def test_a_table_is_laid_out_once_a_second_and_its_clock_goes_on_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    clocked = Clocked(monkeypatch, terminal=True)
    laid_out: list[float] = []
    lay_out = clocked.shown._lay_out
    monkeypatch.setattr(clocked.shown, "_lay_out", lambda records: laid_out.append(clocked.now) or lay_out(records))
    with clocked.shown as shown:
        shown.running["t1"] = clocked.records[1]
        clocked.run(10.0)
        assert 9 <= len(laid_out) <= 11
        live: Any = shown._live
        assert live.auto_refresh, "also while Tune is busy"
        assert live.refresh_per_second == pytest.approx(1.0)
        clocked.now += 60.0
        drawn = io.StringIO()
        Console(file=drawn, width=80, color_system=None).print(shown)
    lines = [line.rstrip() for line in drawn.getvalue().splitlines()]
    assert lines[0] == "digits  1:10  0 of 3 trials"
    assert lines[2].split() == ["none/kd", "3", "0", "0", "–", "–", "search", "1/40"]


def test_a_log_says_that_trials_go_on_where_nothing_else_does(monkeypatch: pytest.MonkeyPatch) -> None:
    clocked = Clocked(monkeypatch, terminal=False)
    with clocked.shown as shown:
        shown.running["t1"] = clocked.records[1]
        clocked.run(5.0)
        assert clocked.text.getvalue().splitlines() == [
            "digits  0:02  0 of 3 trials, running: epoch 1 of 40",
            "digits  0:04  0 of 3 trials, running: epoch 1 of 40",
        ]
        clocked.run(3595.0)
    assert len(clocked.text.getvalue().splitlines()) < 200, "an hour"


def test_a_log_has_how_far_the_teacher_is(monkeypatch: pytest.MonkeyPatch) -> None:
    clocked = Clocked(monkeypatch, terminal=False)
    monkeypatch.setattr(progress, "_LOOK_S", 1e6)
    with clocked.shown as shown, progress.shown_by(shown), progress.stage("training the teacher"):
        for epoch in range(1, 11):
            clocked.now += 1.0
            shown.teacher({"epoch": epoch, "epochs": 10, "loss": 0.5, "train_accuracy": 90.0})
            shown._stages.look()
    assert [line.partition(",")[0] for line in clocked.text.getvalue().splitlines()] == [
        f"teacher: epoch {epoch} of 10" for epoch in (2, 4, 6, 8, 10)
    ]


def test_in_a_pipe_it_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(markup=False)
    beside = printed.beside(console)
    beside.print("starting Ray ...")
    assert not beside.is_terminal
    assert capsys.readouterr() == ("", "starting Ray ...\n")
    own = Console(file=io.StringIO())
    assert printed.beside(own) is own

"""What is long is shown: a moving line on a terminal, a line where it begins and ends elsewhere."""

from __future__ import annotations

import io
import threading
from types import SimpleNamespace

import pytest
from rich.console import Console

from akdtune import progress
from akdtune.progress import Shown, shown_by, stage


class Heard:
    def __init__(self) -> None:
        self.said: list[object] = []

    def stage(self, what: str | None) -> None:
        self.said.append(what)

    def at(self, done: int, total: int, unit: str) -> None:
        self.said.append((done, total, unit))


def test_stages_inside_each_other() -> None:
    heard = Heard()
    with shown_by(heard):
        with stage("reading"), stage("decoding"):
            progress.at(1, 2)
            progress.at(2, 2)  # too soon after the first
        with pytest.raises(ValueError, match="x"), stage("training"):
            raise ValueError("x")
    assert heard.said == ["reading", "decoding", (1, 2, "images"), "reading", None, "training", None, None]


def test_nobody_listens() -> None:
    with stage("reading"):
        progress.at(1, 2)


def test_a_pipe_has_a_line_where_it_is_long_and_none_where_it_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PLAIN_AFTER_S", 0.01)
    text = io.StringIO()
    said = threading.Event()
    console = Console(file=text, markup=False)

    class Noticed(Shown):
        def _say(self) -> None:
            super()._say()
            said.set()

    with shown_by(Noticed(console)), stage("reading [a set]"):
        assert said.wait(10)
        progress.at(1, 2)
    assert text.getvalue() == "reading [a set] ...\nreading [a set]: 0 s\n"
    monkeypatch.setattr(progress, "PLAIN_AFTER_S", 1000.0)
    with shown_by(Shown(console)), stage("short"):
        pass
    assert "short" not in text.getvalue()


def test_a_terminal_has_a_line_that_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "EVERY_S", 0.0)
    text = io.StringIO()
    console = Console(file=text, markup=False, force_terminal=True, width=80, color_system=None)
    with shown_by(Shown(console)), stage("decoding [cifar100]"):
        progress.at(12_345, 60_000)
    assert "decoding [cifar100]: 12,345 of 60,000 images" in text.getvalue()
    assert text.getvalue().rstrip().endswith("\x1b[2K")  # nothing of it stays


def test_many_short_stages_are_no_long_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence counts from the last line on: a stage that begins after all of it is said at once."""
    text = io.StringIO()
    said = threading.Event()

    class Noticed(Shown):
        def _say(self) -> None:
            super()._say()
            said.set()

    shown = Noticed(Console(file=text, markup=False))
    shown._quiet_since -= 10 * progress.PLAIN_AFTER_S
    with shown_by(shown), stage("starting Ray"):
        assert said.wait(10)
    assert text.getvalue() == "starting Ray ...\n"


def test_a_line_that_moves_says_how_long_it_has_taken_and_not_where_it_says_how_far(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text, now = io.StringIO(), [100.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    console = Console(file=text, markup=False, force_terminal=True, width=80, color_system=None)

    def drawn(seconds: float, *far: int) -> str:
        """What stands in the line that many seconds after it began."""
        now[0] = 100.0
        shown = Shown(console)
        shown.stage("starting Ray")
        now[0] += seconds
        if far:
            shown.at(*far, "images")
        line = io.StringIO()
        Console(file=line, markup=False, width=80, color_system=None).print(shown._status.status)
        shown.stage(None)
        return line.getvalue().strip()

    assert drawn(0.9) == "starting Ray"
    assert drawn(4.2) == "starting Ray, 4 s"
    assert drawn(4.0, 1, 3) == "starting Ray: 1 of 3 images, 8 s left"

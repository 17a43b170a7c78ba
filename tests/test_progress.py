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


class Clock:
    """A clock that is set by hand, and a console that is no terminal; nobody looks but who is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(progress, "_LOOK_S", 1e6)
        monkeypatch.setattr(progress, "_last", 0.0)
        self.console = Console(file=io.StringIO(), markup=False)
        progress.said()

    def wait(self, shown: Shown, seconds: float) -> list[str]:
        """What is printed while so many seconds pass."""
        before = len(self.lines)
        for _ in range(round(4 * seconds)):
            self.now += 0.25
            shown.look()
        return self.lines[before:]

    @property
    def lines(self) -> list[str]:
        return self.console.file.getvalue().splitlines()  # type: ignore[attr-defined]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_a_pipe_has_a_line_where_it_is_long_and_none_where_it_is_short(clock: Clock) -> None:
    shown = Shown(clock.console)
    with shown_by(shown), stage("short"):
        assert clock.wait(shown, 1.5) == []
    progress.said()
    with shown_by(shown), stage("reading [a set]"):
        assert clock.wait(shown, 6.0) == ["reading [a set] ...", "reading [a set], 4 s", "reading [a set], 6 s"]
    assert clock.wait(shown, 60.0) == [], "nothing long is done"


def test_many_short_stages_are_no_long_silence(clock: Clock) -> None:
    """Silence counts from the last line on: a stage that begins after all of it is said at once."""
    shown = Shown(clock.console)
    for number in range(8):
        with shown_by(shown), stage(f"reading {number}"):
            clock.wait(shown, 0.5)
    assert clock.lines == ["reading 3 ...", "reading 7 ..."]


def test_a_line_of_somebody_else_counts(clock: Clock) -> None:
    shown = Shown(clock.console)
    with shown_by(shown), stage("training"):
        clock.wait(shown, 1.5)
        progress.said()
        assert clock.wait(shown, 1.5) == []
        assert clock.wait(shown, 0.5) == ["training ..."]


def test_a_stage_goes_on_after_one_inside_it_and_is_not_begun_anew(clock: Clock) -> None:
    shown = Shown(clock.console)
    with shown_by(shown), stage("reading"):
        assert clock.wait(shown, 2.0) == ["reading ..."]
        with stage("decoding"):
            assert clock.wait(shown, 2.0) == ["decoding ..."]
        assert clock.wait(shown, 2.0) == ["reading, 6 s"]


def test_it_says_how_far_it_is(clock: Clock) -> None:
    shown = Shown(clock.console)
    with shown_by(shown), stage("decoding"):
        clock.now += 1.0
        progress.at(100, 400)
        assert clock.wait(shown, 1.0) == ["decoding: 100 of 400 images, 3 s left"]
        progress.words(lambda: f"nearly there at {clock.now:.0f}")
        assert clock.wait(shown, 2.0) == ["nearly there at 1004"]


def test_a_log_of_hours_stays_short_and_is_never_silent_for_long(clock: Clock) -> None:
    shown = Shown(clock.console)
    with shown_by(shown), stage("training"):
        assert len(clock.wait(shown, 45.0)) == 22, "every two seconds at first"
        hour = clock.wait(shown, 3600.0)
        assert len(hour) == 162, "less often, the longer it takes"
        assert len(clock.wait(shown, 3600.0)) == 120, "every half minute"


def test_the_line_comes_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "QUIET_S", 0.01)
    monkeypatch.setattr(progress, "_LOOK_S", 0.01)
    said = threading.Event()

    class Noticed(io.StringIO):
        def write(self, text: str) -> int:
            if text.startswith("reading"):
                said.set()
            return super().write(text)

    with shown_by(Shown(Console(file=Noticed(), markup=False))), stage("reading"):
        assert said.wait(10)


def test_a_terminal_has_a_line_that_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "EVERY_S", 0.0)
    text = io.StringIO()
    console = Console(file=text, markup=False, force_terminal=True, width=80, color_system=None)
    with shown_by(Shown(console)), stage("decoding [cifar100]"):
        progress.at(12_345, 60_000)
    assert "decoding [cifar100]: 12,345 of 60,000 images" in text.getvalue()
    assert text.getvalue().rstrip().endswith("\x1b[2K")  # nothing of it stays


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

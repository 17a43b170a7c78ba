"""How far something long is: told by whoever does it, shown by whoever runs the command.

On a terminal a line moves. In a pipe or a file a line is printed where nothing was for a while, less often the longer a
command takes, so that a log of hours stays short. Nothing here loads a library: who draws brings the console.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

EVERY_S = 0.2
"""Between two looks at how far a stage is."""

DRAWS_PER_S = 4.0
"""How often the moving line is drawn: a spinner that turns, at a cost that no step notices."""

ELAPSED_AFTER_S = 1.0
"""From here on a line says how long something takes already."""

QUIET_S = 2.0
"""How long it may be silent where there is no terminal, whatever number of stages that takes."""

QUIET_SHARE = 24
"""The same as a part of the time that the command has taken, where that is longer: one in so many seconds."""

LONGEST_QUIET_S = 30.0
"""And at most so long."""

_LOOK_S = 0.25

Words = Callable[[], str]
"""What a stage says of itself at this moment."""


class Listener(Protocol):
    """Shows stages."""

    def stage(self, what: str | None) -> None:
        """A stage begins, or goes on after one inside it; None: nothing long is done."""
        ...

    def at(self, done: int, total: int, unit: str) -> None:
        """How far the stage is."""
        ...

    def words(self, words: Words) -> None:
        """What the stage says of itself from here on, in the place of its name."""
        ...


_listener: Listener | None = None
_stages: list[str] = []
_last = 0.0
_said_at = time.monotonic() - min(time.process_time(), QUIET_S)  # since the process began, as far as that is known


def said() -> None:
    """Notes that a line was printed: nobody need be told yet that the command lives."""
    global _said_at
    _said_at = time.monotonic()


def is_silent(since: float) -> bool:
    """Whether nothing was printed for so long that a line is due.

    Args:
        since: when the command began, `time.monotonic()`.
    """
    now = time.monotonic()
    return now - _said_at >= min(LONGEST_QUIET_S, max(QUIET_S, (now - since) / QUIET_SHARE))


@contextmanager
def shown_by(listener: Listener) -> Iterator[None]:
    """Within it, a listener shows what is long; of several, the innermost."""
    global _listener
    outer, _listener = _listener, listener
    try:
        yield
    finally:
        _listener = outer
        listener.stage(None)


@contextmanager
def stage(what: str) -> Iterator[None]:
    """Says what is done within it: `reading the data set cifar100`."""
    _stages.append(what)
    _told()
    try:
        yield
    finally:
        _stages.remove(what)
        _told()


def at(done: int, total: int, unit: str = "images") -> None:
    """Says how far the stage is; may be called as often as one likes."""
    global _last
    if _listener is not None and (now := time.monotonic()) - _last > EVERY_S:
        _last = now
        _listener.at(done, total, unit)


def words(words: Words) -> None:
    """Says what the stage says of itself from here on."""
    if _listener is not None:
        _listener.words(words)


def _told() -> None:
    if _listener is not None:
        _listener.stage(_stages[-1] if _stages else None)


class _Line:
    """A line that moves, as it is drawn.

    Args:
        console: of rich.
        words: what it says at this moment.
    """

    def __init__(self, console: Any, words: Words) -> None:
        self._console, self._words = console, words

    def __rich__(self) -> Any:
        return self._console.render_str(self._words(), markup=False, highlight=False)


class Shown:
    """Stages on a console: one moving line on a terminal; elsewhere a line where it is silent for long.

    Args:
        console: of rich.
    """

    def __init__(self, console: Any) -> None:
        self._console = console
        self._since = time.monotonic()
        self._begun: dict[str, float] = {}
        self._what: str | None = None
        self._words: Words | None = None
        self._status: Any = None
        self._named: set[str] = set()
        self._watched: threading.Event | None = None
        self._lock = threading.Lock()

    @property
    def console(self) -> Any:
        """Where stages are shown."""
        return self._console

    @property
    def is_moving(self) -> bool:
        """Whether a line may move there."""
        return bool(self.console.is_terminal)

    def stage(self, what: str | None) -> None:
        """Shows a stage, or nothing any more."""
        if what == self._what:
            return
        if what is None:
            self._end()
        with self._lock:
            self._what, self._words = what, None
        if what is None:
            self._begun.clear()
            self._named.clear()
            return
        self._begun.setdefault(what, time.monotonic())  # what goes on after a stage inside it began before that
        if self.is_moving:
            self._draw()
        elif self._watched is None:
            self._watched = threading.Event()
            threading.Thread(target=self._watch, args=(self._watched,), name="progress", daemon=True).start()

    def at(self, done: int, total: int, unit: str) -> None:
        """Shows how far the stage is."""
        if (what := self._what) is None:
            return
        passed_s = time.monotonic() - self._begun.get(what, time.monotonic())
        left_s = passed_s / done * (total - done) if done else 0.0
        left = f", {left_s:.0f} s left" if left_s > 1 else ""
        self.words(lambda: f"{what}: {done:,} of {total:,} {unit}{left}")

    def words(self, words: Words) -> None:
        """Shows what the stage says of itself."""
        self._words = words
        if self.is_moving and self._what is not None:
            self._draw()

    def look(self) -> None:
        """Prints a line where nothing was printed for long enough."""
        with self._lock:
            if self._what is not None and is_silent(self._since):
                known = self._what in self._named or self._words is not None
                self._named.add(self._what)
                line = self._line() if known else f"{self._what} ..."
                self.console.print(line, highlight=False, soft_wrap=True)
                said()

    def _line(self) -> str:
        if self._words is not None:
            return self._words()
        what = self._what or ""
        seconds = time.monotonic() - self._begun.get(what, time.monotonic())
        return f"{what}, {seconds:.0f} s" if seconds >= ELAPSED_AFTER_S else what

    def _draw(self) -> None:
        if self._status is None:
            self._status = self.console.status(_Line(self.console, self._line), refresh_per_second=DRAWS_PER_S)
            self._status.start()

    def _watch(self, ended: threading.Event) -> None:
        while not ended.wait(_LOOK_S):
            self.look()

    def _end(self) -> None:
        if self._watched is not None:
            self._watched.set()
            self._watched = None
        if self._status is not None:
            self._status.stop()
            self._status = None

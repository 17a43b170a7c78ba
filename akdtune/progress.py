"""How far something long is: told by whoever does it, shown by whoever runs the command."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

EVERY_S = 0.2
"""Between two looks at how far a stage is."""

ELAPSED_AFTER_S = 1.0
"""From here on a moving line says how long something takes already."""

PLAIN_AFTER_S = 2.5
"""How long it may be silent where there is no terminal, whatever number of stages that takes."""


class Listener(Protocol):
    """Shows stages."""

    def stage(self, what: str | None) -> None:
        """A stage begins, or goes on after one inside it; None: nothing long is done."""
        ...

    def at(self, done: int, total: int, unit: str) -> None:
        """How far the stage is."""
        ...


_listener: Listener | None = None
_stages: list[str] = []
_last = 0.0


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


def _told() -> None:
    if _listener is not None:
        _listener.stage(_stages[-1] if _stages else None)


class _Line:
    """What is done, and for how long already, as it is drawn.

    Args:
        console: of rich.
        line: what is done.
        since: when it began, `time.monotonic()`.
    """

    def __init__(self, console: Any, line: str, since: float) -> None:
        self._console, self._line, self._since = console, line, since

    def __rich__(self) -> Any:
        seconds = time.monotonic() - self._since
        elapsed = f", {seconds:.0f} s" if seconds >= ELAPSED_AFTER_S else ""
        return self._console.render_str(self._line + elapsed, markup=False, highlight=False)


class Shown:
    """Stages on a console: one moving line on a terminal; elsewhere a line for whatever takes long.

    Args:
        console: of rich.
    """

    def __init__(self, console: Any) -> None:
        self.console = console
        self._what: str | None = None
        self._began = 0.0
        self._quiet_since = time.monotonic()
        self._said = False
        self._status: Any = None
        self._timer: threading.Timer | None = None

    def stage(self, what: str | None) -> None:
        """Shows a stage, or nothing any more."""
        if what == self._what:
            return
        self._end()
        self._what, self._began, self._said = what, time.monotonic(), False
        if what is None:
            return
        if self.console.is_terminal:
            self._show(what)
        else:
            left_s = PLAIN_AFTER_S - (self._began - self._quiet_since)
            self._timer = threading.Timer(max(0.0, left_s), self._say)
            self._timer.daemon = True
            self._timer.start()

    def at(self, done: int, total: int, unit: str) -> None:
        """Shows how far it is, on a terminal."""
        if self._what is not None and self.console.is_terminal:
            left_s = (time.monotonic() - self._began) / done * (total - done) if done else 0.0
            left = f", {left_s:.0f} s left" if left_s > 1 else ""
            self._show(f"{self._what}: {done:,} of {total:,} {unit}{left}", told=True)

    def _show(self, line: str, told: bool = False) -> None:
        text = _Line(self.console, line, math.inf if told else self._began)
        if self._status is None:
            self._status = self.console.status(text)
            self._status.start()
        else:
            self._status.update(text)

    def _say(self) -> None:
        if self._what is not None:
            self._said, self._quiet_since = True, time.monotonic()
            self.console.print(f"{self._what} ...", highlight=False, soft_wrap=True)

    def _end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._status is not None:
            self._status.stop()
            self._status = None
        seconds = time.monotonic() - self._began
        if self._said and self._what is not None and seconds >= PLAIN_AFTER_S:
            self._quiet_since = time.monotonic()
            self.console.print(f"{self._what}: {seconds:.0f} s", highlight=False, soft_wrap=True)

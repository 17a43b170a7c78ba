"""Signals that end a command: which they are, when one counts as the second, and with which exit code it ends.

All that trains asks here: studies, single trials, teachers, the teacher cache.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED = 130
"""Exit code of a command that a signal ended; the same command goes on."""

STOPPING = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
"""Ask a command to save what it has and to end: Ctrl-C, `kill`, a closed terminal, warnings of batch systems."""

AT_ONCE = ("SIGQUIT",)
"""End a command at once: the key Ctrl and backslash."""

IMPATIENT = ("SIGINT", "SIGTERM")
"""The second one of these ends a command at once, too; others are sent twice by whoever closes a session."""

SAME_S = 0.5
"""Signals within this time are one: `timeout` sends each to the process and then to its group, systemd two kinds."""


def numbers(*names: str) -> list[signal.Signals]:
    """Those of these signals that this system has."""
    return [signal.Signals[name] for name in names if name in signal.Signals.__members__]


@contextmanager
def taken(first: Callable[[], None], at_once: Callable[[], None]) -> Iterator[Callable[[], None]]:
    """Takes the signals that end a command; does nothing outside the main thread, where signals are somebody else's.

    Gives a function that takes them again: libraries in C, Ray's among them, put their own handlers in the place of
    ours, and Python does not learn of it.

    What the parent ignores stays ignored (`nohup`), but for Ctrl-C, which a shell ignores for what it has put into the
    background.

    Args:
        first: called in the main thread for the first signal that asks to stop.
        at_once: called for the second, and for one that asks to end at once.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    impatient, urgent = numbers(*IMPATIENT), numbers(*AT_ONCE)
    asked = 0.0

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        now = time.monotonic()
        if number in urgent or (asked and now - asked > SAME_S and number in impatient):
            at_once()
        elif not asked:
            asked = now
            first()

    every = numbers(*STOPPING, *AT_ONCE)
    ours = [n for n in every if n == signal.SIGINT or signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.getsignal(number) for number in ours}

    def take() -> None:
        for number in ours:
            signal.signal(number, handle)

    take()
    try:
        yield take
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


@contextmanager
def exiting() -> Iterator[None]:
    """The first signal raises SystemExit where the main thread is, with the exit code of an interrupted command."""

    def leave_in_order() -> None:
        raise SystemExit(INTERRUPTED)

    with taken(leave_in_order, lambda: leave(INTERRUPTED)):
        yield


@contextmanager
def event() -> Iterator[threading.Event]:
    """An event that the first signal sets; the second ends the process."""
    stopping = threading.Event()
    with taken(stopping.set, lambda: leave(INTERRUPTED)):
        yield stopping


@contextmanager
def raising() -> Iterator[None]:
    """The first signal raises KeyboardInterrupt where the main thread is; the second ends the process."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    with taken(interrupt, lambda: leave(INTERRUPTED)):
        yield


def say(line: str) -> None:
    """A line on stderr, wherever that leads: a terminal that is gone is no news."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(line + "\n")
        sys.stderr.flush()


def leave(code: int) -> None:
    """Ends this process with what it has printed, whatever its threads, libraries and exit handlers are at."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.flush()
    os._exit(code)

"""Work that may hang in a library, in a thread of its own; the main thread takes signals and watches.

Signals are answered at once, because the main thread is never inside Ray; Ray and Tune, which take signals for
themselves where they run in the main thread, do not.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from akdtune.errors import AkdtuneError, RayError
from akdtune.running import interruption

POLL_S = 0.05
ANSWER_S = 4.5
"""So long after a signal the work is left behind if it has not ended."""

HARMLESS_S = 1.0
"""The same while it does what leaves nothing to be saved, such as starting Ray."""

WATCH_EVERY_S = 1.0
LAST_WORDS_S = 2.0
"""What runs when Ray is lost has so long to end by itself."""


_left_behind = False


@contextmanager
def leaving() -> Iterator[None]:
    """Ends the process behind what it encloses where a thread was left behind: exit handlers would wait for it."""
    try:
        yield
    except AkdtuneError as error:
        if _left_behind:
            interruption.say(f"akdtune: {error}")
            interruption.leave(error.exit_code)
        raise
    if _left_behind:
        interruption.leave(interruption.INTERRUPTED)


class Supervision:
    """What the thread that works and the thread that watches tell each other.

    Attributes:
        stopping: when a signal asked to stop, `time.monotonic()`; 0 while none has.
        on_stop: called once, soon after a signal; set by who has something to be stopped.
        lost: says why the work can come to nothing any more, None while it can; set while there is something to watch.
        left_behind: whether the work was given up while it still ran.
    """

    def __init__(self) -> None:
        self.stopping = 0.0
        self.on_stop: Callable[[], None] = _nothing
        self.lost: Callable[[], str | None] | None = None
        self.left_behind = False
        self._answer_s = ANSWER_S
        self._bound: tuple[float, str] | None = None
        self._watched = 0.0

    @contextmanager
    def harmless(self, within_s: float, otherwise: str) -> Iterator[None]:
        """While the thread does what may hang and loses nothing when it is left.

        Args:
            within_s: when it is left behind.
            otherwise: the sentence that is said then.
        """
        self._answer_s, self._bound = HARMLESS_S, (time.monotonic() + within_s, otherwise)
        try:
            yield
        finally:
            self._answer_s, self._bound = ANSWER_S, None

    def unhurried(self) -> None:
        """From here on the work only writes what it has, and is not cut short but by a second signal."""
        self._answer_s, self.lost = float("inf"), None

    def run(self, work: Callable[[], int], stopped: Callable[[], int]) -> int:
        """Does the work and returns what it returns, or what `stopped` does where it was left behind after a signal.

        Raises:
            RayError: when the work hangs, or can come to nothing.
        """
        ended: list[int | BaseException] = []

        def body() -> None:
            try:
                ended.append(work())
            except BaseException as error:
                ended.append(error)

        def ask() -> None:
            self.stopping = time.monotonic()

        thread = threading.Thread(target=body, name="study", daemon=True)
        with interruption.taken(ask, _leave_at_once) as take_again:
            thread.start()
            left = self._watch(thread, take_again)
        if not ended:
            global _left_behind
            self.left_behind = _left_behind = True
            if left is None or self.stopping:
                return stopped()
            raise RayError(left)
        if isinstance(ended[0], BaseException):
            if left is not None and not isinstance(ended[0], AkdtuneError):
                raise RayError(left) from ended[0]
            raise ended[0]
        return ended[0]

    def _watch(self, thread: threading.Thread, take_again: Callable[[], None]) -> str | None:
        """Returns when the thread has ended or is given up; then why, where it was not a signal."""
        told = False
        while thread.is_alive():
            thread.join(POLL_S)
            take_again()
            if self.stopping and not told:
                told = True
                self.on_stop()
            if self.stopping and time.monotonic() - self.stopping > self._answer_s:
                return None
            why = self._hanging() or self._why_lost()
            if why is not None:
                thread.join(LAST_WORDS_S)
                return why
        return None

    def _hanging(self) -> str | None:
        bound = self._bound
        return bound[1] if bound is not None and time.monotonic() > bound[0] else None

    def _why_lost(self) -> str | None:
        lost, now = self.lost, time.monotonic()
        if lost is None or now - self._watched < WATCH_EVERY_S:
            return None
        self._watched = now
        return lost()


def _nothing() -> None:
    pass


def _leave_at_once() -> None:
    interruption.say("\x1b[?25hleft at once; the same command resumes from the last saved states")
    interruption.leave(interruption.INTERRUPTED)

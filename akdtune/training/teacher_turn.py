"""Whose turn it is to train a teacher: one process at a time; who waits knows for whom, and not for ever."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from akdtune import atomic
from akdtune.errors import CheckpointError

LOCK, TRAINER = "train.lock", "trainer.json"


@dataclass(frozen=True)
class WaitLimits:
    """How processes wait for one another.

    Attributes:
        poll_s: who waits looks so often.
        say_every_s: and says again for whom, at most so often.
        sign_s: who trains gives a sign of life at most this often.
        patience_s: who waits for a process that gave no sign for so long (stopped, not dead) gives up.
    """

    poll_s: float = 0.2
    say_every_s: float = 60.0
    sign_s: float = 1.0
    patience_s: float = 600.0


class TeacherTurn:
    """The right to train the teacher of a folder.

    Args:
        folder: of the teacher; it is there.
        limits: how it waits.
    """

    def __init__(self, folder: Path, limits: WaitLimits = WaitLimits()) -> None:
        self.folder, self.limits = folder, limits
        self._lock = FileLock(str(folder / LOCK), thread_local=False)

    def take(self, should_stop: Callable[[], bool]) -> Generator[dict[str, Any], None, bool]:
        """Waits until nobody else trains; False when asked to stop before that.

        Yields:
            waits: for whom, in a sentence, now and then.

        Raises:
            CheckpointError: when the other process gives no sign any more.
        """
        began = heard = time.monotonic()
        said, sign = -self.limits.say_every_s, 0
        while True:
            try:
                self._lock.acquire(timeout=self.limits.poll_s)
            except Timeout:
                if should_stop():
                    return False
            else:
                self._sign_on()
                return True
            now = time.monotonic()
            who, latest = self._other()
            if latest != sign:
                sign, heard = latest, now
            elif latest and now - heard > self.limits.patience_s:
                raise CheckpointError(
                    f"{self.folder}: waited for {who}, which trains this teacher and gave no sign for "
                    f"{self.limits.patience_s:g} s; end that process, then give the same command again"
                )
            if now - began - said >= self.limits.say_every_s:
                said = now - began
                yield {"waits": f"teacher: waits for {who}, which trains it in {self.folder}"}

    def giving_signs(self, should_stop: Callable[[], bool]) -> Callable[[], bool]:
        """`should_stop` that shows others that this process lives."""
        return giving_signs(self.folder / TRAINER, self.limits.sign_s, should_stop)

    def release(self) -> None:
        """Lets the next one train, or find what was trained."""
        if self._lock.is_locked:
            with contextlib.suppress(OSError):
                (self.folder / TRAINER).unlink()
        self._lock.release()

    @contextlib.contextmanager
    def until_done(self) -> Iterator[None]:
        """Releases at the end, whatever that is."""
        try:
            yield
        finally:
            self.release()

    def _sign_on(self) -> None:
        who = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%F %T")}
        with contextlib.suppress(OSError):  # a line for others, nothing more
            atomic.write(self.folder / TRAINER, json.dumps(who))

    def _other(self) -> tuple[str, int]:
        """Who trains, and when that process gave its last sign; 0 where it gives none."""
        path = self.folder / TRAINER
        try:
            held = json.loads(path.read_text(encoding="utf-8"))
            return f"process {held['pid']} on {held['host']}, since {held['since']}", path.stat().st_mtime_ns
        except (OSError, ValueError, KeyError, TypeError):  # not yet, not any more, or of an earlier version
            return "another process", 0


def giving_signs(file: Path, every_s: float, should_stop: Callable[[], bool]) -> Callable[[], bool]:
    """`should_stop` that touches a file now and then: whoever waits for this process sees that it lives."""
    given = time.monotonic()

    def asked() -> bool:
        nonlocal given
        if time.monotonic() - given > every_s:
            given = time.monotonic()
            with contextlib.suppress(OSError):
                os.utime(file)
        return should_stop()

    return asked

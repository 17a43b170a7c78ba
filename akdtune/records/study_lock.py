"""Who runs a study: one process, which holds a lock file, and notices when that is taken away from under it."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from filelock import FileLock, Timeout

from akdtune.errors import StudyError
from akdtune.records.ledger.events import StudyFinished, StudyStarted
from akdtune.records.ledger.reading import events
from akdtune.records.processes import born, living

LOCK_FILE = ".lock"


class StudyLock:
    """The lock of a study directory.

    The system frees it when its holder ends. Who removes the file frees it, too, although its holder lives: the next
    one to take it looks for that process in the ledger, and the holder looks at the file before it writes.

    Args:
        root: the study directory.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = root / LOCK_FILE
        self._lock = FileLock(self.path)
        self._file = str(self.path)
        self._holder: int | None = None
        self._inode: tuple[int, int] | None = None

    def take(self) -> None:
        """Takes the lock.

        Raises:
            StudyError: when another process runs the study.
            OSError: as the operating system gives it.
        """
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise StudyError(
                f"{self.root}: another akdtune is running this study (its lock is held); wait or stop it"
            ) from None
        if (pid := running_driver(self.root)) not in (None, os.getpid()):
            self.release()
            raise StudyError(
                f"{self.root}: another akdtune is running this study (process {pid} on this machine; its lock file was "
                "removed); wait or stop it"
            )
        self._holder = os.getpid()
        self._inode = self._seen()
        if self._inode != self._seen():  # a file system that numbers files anew whenever it is asked
            self._inode = None

    @property
    def held(self) -> bool:
        """Whether this process has the lock, as far as it can tell."""
        return self._holder == os.getpid() and (self._inode is None or self._seen() == self._inode)

    def check(self) -> None:
        """Refuses to go on when the file that is locked is no longer the study's.

        Raises:
            StudyError: another process may be running the study by now.
        """
        if self._inode is not None and not self.held:
            raise StudyError(
                f"{self.path}: was removed or replaced while this process ran the study; it stops, so that no two "
                "write here. Nothing recorded so far is lost, the same command goes on"
            )

    def release(self) -> None:
        """Lets others take it."""
        self._holder = None
        self._lock.release()

    def _seen(self) -> tuple[int, int] | None:
        try:
            facts = os.stat(self._file)  # noqa: PTH116  # before each line of the ledger
        except OSError:
            return None
        return facts.st_dev, facts.st_ino


def running_driver(root: Path) -> int | None:
    """The process that runs a study by what the ledger says, if it lives on this machine."""
    started: StudyStarted | None = None
    for event in events(root, {"study_started", "study_finished"}):
        if isinstance(event, StudyStarted | StudyFinished):
            started = event if isinstance(event, StudyStarted) else None
    return driver_of(started)


def driver_of(started: StudyStarted | None) -> int | None:
    """The process that began to run a study, if it lives on this machine.

    Args:
        started: the last event of this kind that no end follows; None where there is none.
    """
    if started is None or started.born is None:  # earlier versions did not say which process a number meant
        return None
    return living({"pid": started.pid, "host": started.host, "born": started.born})


def this_driver() -> StudyStarted:
    """The event that says that this process begins to run trials."""
    pid = os.getpid()
    return StudyStarted(pid=pid, host=socket.gethostname(), born=born(pid))

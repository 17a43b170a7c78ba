"""The folder of a study: whether one may begin there, whether it can be written, what is taken away again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from akdtune import atomic
from akdtune.errors import StudyError
from akdtune.records.files import LOCK
from akdtune.records.study_lock import LOCK_FILE

STOP_FLAG = ".stop"

_PROBE = ".probe"
_OURS = {LOCK_FILE, STOP_FLAG, "trials", f".{LOCK}", _PROBE}
"""What may stand in the directory of a study that has not begun."""

PROBE_BYTES = 1 << 16


def refuse_other_folders(root: Path) -> None:
    """Refuses a folder in which no study could begin or go on.

    Raises:
        StudyError: saying what it is.
    """
    if not root.exists():
        return
    if not root.is_dir():
        raise StudyError(f"{root}: is a file, not a directory; choose another --dir")
    ours = {*_OURS, *(path.name for path in atomic.left_over(root, LOCK))}
    if not (root / LOCK).exists() and any(path.name not in ours for path in root.iterdir()):
        raise StudyError(f"{root}: not empty and not a study directory (no {LOCK}); choose another --dir")


def remove_own_files(root: Path) -> None:
    """Leaves nothing of a study that never began; trials, if there are any, stay."""
    for path in (*(root / name for name in _OURS), *atomic.left_over(root, LOCK)):
        with contextlib.suppress(OSError):
            path.rmdir() if path.is_dir() else path.unlink()


def remove_left_over(folders: Iterable[Path]) -> None:
    """Takes away what killed writers left in folders that nobody else writes to."""
    for folder in folders:
        for path in folder.glob(f".*{atomic.TEMPORARY}"):
            with contextlib.suppress(OSError):
                path.unlink()


def probe(root: Path) -> None:
    """Writes a little and takes it away: a full disk is better found now than after a teacher's training."""
    try:
        (root / _PROBE).write_bytes(bytes(PROBE_BYTES))
    finally:
        (root / _PROBE).unlink(missing_ok=True)


@contextmanager
def writing(root: Path) -> Iterator[None]:
    """Turns a failed write (full or read-only disk) into one sentence."""
    try:
        yield
    except OSError as error:
        raise unwritable(root, error.strerror or str(error)) from error


def unwritable(root: Path, reason: str) -> StudyError:
    """What a study whose directory cannot be written ends with."""
    return StudyError(f"{root}: cannot be written: {reason}; nothing recorded so far is lost, the same command goes on")

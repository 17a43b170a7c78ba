"""Files that stand under their name whole or not at all, whatever ends the writer."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

TEMPORARY = ".tmp"
"""How the name of a file ends that is being written; who cleans up after a killed writer looks for it."""


def write(target: Path, content: str | bytes | memoryview, *, durable: bool = False) -> None:
    """Replaces a file in one step.

    Args:
        target: the file; its folder is there.
        content: all of it; text is written as UTF-8.
        durable: its bytes are on disk before it has its name, so that a power failure leaves no half.

    Raises:
        OSError: as the operating system gives it; the former file stays.
    """
    with opened(target, durable=durable) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def opened(target: Path, *, durable: bool = False) -> Iterator[BinaryIO]:
    """A file to write that takes the target's place in one step; see `write`."""
    with beside(target, durable=durable) as temporary, temporary.open("wb") as file:
        yield file


@contextlib.contextmanager
def beside(target: Path, check: Callable[[], None] | None = None, *, durable: bool = False) -> Iterator[Path]:
    """A path to write that is renamed over the target when all is written, and taken away when not.

    Args:
        target: the file; its folder is there.
        check: called before the target is replaced; what it raises leaves the target as it was.
        durable: see `write`.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{threading.get_ident()}{TEMPORARY}")
    try:
        yield temporary
        if check is not None:
            check()
        if durable:
            _sync(temporary)
        os.replace(temporary, target)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    if durable:
        with contextlib.suppress(OSError):  # some file systems have no such thing; the file itself is on disk
            _sync(target.parent)


def left_over(folder: Path, name: str) -> list[Path]:
    """What killed writers of a file left in its folder; only for who knows that nobody writes it now."""
    return list(folder.glob(f".{glob.escape(name)}.*{TEMPORARY}"))


def append(target: Path, content: bytes, *, durable: bool = False) -> None:
    """Adds bytes at a file's end, all of them or none: what a full disk took of them is cut off again.

    For files with one writer, whose readers look at whole lines.

    Args:
        target: the file; made if absent.
        content: what is added.
        durable: its bytes are on disk when this returns.

    Raises:
        OSError: as the operating system gives it; the file is as it was.
    """
    descriptor = os.open(target, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    added = 0
    try:
        added = os.write(descriptor, content)
        if added != len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        if durable:
            os.fsync(descriptor)
    except OSError:
        if added:
            with contextlib.suppress(OSError):  # a pipe, a device
                os.ftruncate(descriptor, os.fstat(descriptor).st_size - added)
        raise
    finally:
        os.close(descriptor)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

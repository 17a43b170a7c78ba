"""What a long run prints: without what Ray's threads say, and whether or not anybody still listens."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from akdtune import progress

RAYS_THREADS = "ray_"
"""How the names of the threads begin in which Ray prints what its processes log, pages of it when one dies."""


class SteadyOutput:
    """A stream whose loss ends nothing: a closed terminal, a pipe whose reader has left, a full disk behind `>`.

    Args:
        stream: where it goes.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes, if that is possible."""
        if not threading.current_thread().name.startswith(RAYS_THREADS):
            with self._whatever_becomes_of_it():
                self._stream.write(text)
            if "\n" in text:
                progress.said()
        return len(text)

    def flush(self) -> None:
        """Flushes, if that is possible."""
        with self._whatever_becomes_of_it():
            self._stream.flush()

    @contextmanager
    def _whatever_becomes_of_it(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in (errno.EPIPE, errno.EIO):  # nobody is there any more: what is left goes nowhere
                with contextlib.suppress(OSError, ValueError, AttributeError):
                    os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())


@contextmanager
def steady() -> Iterator[None]:
    """While it lasts, what is printed may be lost without harm."""
    out, err = sys.stdout, sys.stderr
    steady_out: Any = SteadyOutput(out)
    steady_err: Any = SteadyOutput(err)
    sys.stdout, sys.stderr = steady_out, steady_err
    try:
        yield
    finally:
        if sys.stdout is steady_out:
            sys.stdout = out
        if sys.stderr is steady_err:
            sys.stderr = err

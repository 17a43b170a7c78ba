"""The ledger as it stands on disk, a block of lines at a time: whole events, or no more of a line than is asked."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Literal, TypeAlias

from akdtune.errors import StudyError
from akdtune.records.files import LEDGER
from akdtune.records.ledger.events import Event
from akdtune.records.ledger.lines import parse

_HEAD = re.compile(rb'"event": "(\w+)"(?:, "trial_id": "([^"\\]*)")?')
_EVENT, _EPOCH = b'"event": "', b'"event": "epoch"'

Epochs: TypeAlias = Literal["all", "last", "none"]

BLOCK = 1 << 20
"""The ledger is read so many bytes at a time; what is looked for is looked for in a block first, then in its lines."""


def read_events(run_dir: str | os.PathLike[str]) -> list[Event]:
    """The ledger's events in order, all at once; see `events`."""
    return list(events(run_dir))


def events(run_dir: str | os.PathLike[str], kinds: Set[str] | None = None) -> Iterator[Event]:
    """The ledger's events in order, one at a time; none without a ledger.

    A line that is not whole (the last one while it is being written, or after a kill) is left out.

    Args:
        run_dir: the study directory, or the ledger itself.
        kinds: only these; the lines of others are not decoded, and epochs are nearly all of a ledger.

    Raises:
        StudyError: when the ledger cannot be read.
    """
    words = None if kinds is None else [f'"{kind}"'.encode() for kind in kinds]
    for block in _blocks(Path(run_dir)):
        if words is not None and not any(word in block for word in words):
            continue
        for kind, _, line in _heads_of(block, "all" if kinds is None or "epoch" in kinds else "none"):
            if kinds is not None and kind and kind not in kinds:
                continue
            event = parse(line)
            if event is not None and (kinds is None or event.kind in kinds):
                yield event


def heads(path: Path, epochs: Epochs = "all") -> Iterator[tuple[str, str, bytes]]:
    """Kind, trial and whole of each line, undecoded; the first two empty where `ledger` would not have put them so.

    Args:
        path: the study directory, or the ledger itself.
        epochs: which of the lines that hold finished epochs: all, at least the last one of several in a row, or none.

    Raises:
        StudyError: when the ledger cannot be read.
    """
    for block in _blocks(path):
        yield from _heads_of(block, epochs)


def ledger_lines(path: Path) -> Iterator[bytes]:
    """Each line of the ledger as it stands, also one that is not whole.

    Raises:
        StudyError: when the ledger cannot be read.
    """
    for block in _blocks(path):
        yield from io.BytesIO(block)


def _heads_of(block: bytes, epochs: Epochs) -> Iterator[tuple[str, str, bytes]]:
    for line in io.BytesIO(block) if epochs == "all" else _few_epochs(block, last=epochs == "last"):
        head = _HEAD.search(line, 0, 200)
        if head is None or line.count(_EVENT) > 1:  # or half a line before a whole one
            yield "", "", line
        else:
            yield head[1].decode("ascii", "replace"), (head[2] or b"").decode("utf-8", "replace"), line


def _few_epochs(block: bytes, last: bool) -> list[bytes]:
    """The lines of a block that are not an epoch's, which one of half a line and a whole one is not; see `heads`."""
    lines = list(io.BytesIO(block))
    others = [place for place, line in enumerate(lines) if _EPOCH not in line]
    if block.count(_EVENT) != len(lines) - len(others) + sum(lines[place].count(_EVENT) for place in others):
        others = [place for place, line in enumerate(lines) if _EPOCH not in line or line.count(_EVENT) > 1]
    if not last:
        return [lines[place] for place in others]
    before = {place - 1 for place in (*others, len(lines)) if place > 0}
    return [lines[place] for place in sorted(before.union(others))]


def _blocks(path: Path) -> Iterator[bytes]:
    """Many whole lines of the ledger at a time."""
    path = path / LEDGER if path.is_dir() else path
    try:
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                yield block + file.readline()
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise StudyError(f"{path}: cannot be read ({error.strerror or error})") from error

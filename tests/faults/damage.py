"""Files that are emptied, cut, replaced or taken away."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

OF_THE_STUDY = ("study.lock.yaml", "plan.parquet", "ledger.jsonl")
"""Without which a study cannot be known; refusing them by name is right, and so is to make them anew."""

DERIVED = ("epochs.parquet", "trials.parquet")
"""Views for readers, which the next run makes anew."""

OF_A_TRIAL = (
    "epochs.parquet", "outcome.json", "checkpoint.pt", "predictions.parquet", "log.txt", "attempts/1.json",
)  # fmt: skip
"""Damage to one of them costs that trial's epochs at most."""

SAVED = ("checkpoint.pt", "epochs.parquet", "log.txt", "attempts/1.json")
"""What a trial has left that has been interrupted."""


def emptied(file: Path, other: Path, draw: random.Random) -> None:
    file.write_bytes(b"")


def cut(file: Path, other: Path, draw: random.Random) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: draw.randrange(1, max(2, len(content)))])


def garbage(file: Path, other: Path, draw: random.Random) -> None:
    file.write_bytes(draw.randbytes(max(64, file.stat().st_size)))


def flipped(file: Path, other: Path, draw: random.Random) -> None:
    """Two bits, somewhere in the middle half: of a Parquet file or a checkpoint those are numbers."""
    content = bytearray(file.read_bytes())
    for _ in range(2):
        at = draw.randrange(len(content) // 4, max(len(content) // 4 + 1, 3 * len(content) // 4))
        content[at : at + 1] = bytes([content[at] ^ 1 << draw.randrange(8)]) if content else b""
    file.write_bytes(bytes(content))


def of_another(file: Path, other: Path, draw: random.Random) -> None:
    """The same file of another trial."""
    shutil.copyfile(other, file)


def removed(file: Path, other: Path, draw: random.Random) -> None:
    file.unlink()


Damage = Callable[[Path, Path, random.Random], None]
DAMAGES: dict[str, Damage] = {
    "emptied": emptied, "cut": cut, "garbage": garbage, "flipped": flipped, "of another trial": of_another,
    "removed": removed,
}  # fmt: skip

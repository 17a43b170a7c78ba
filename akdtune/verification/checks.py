"""What one check says: all right, something found, or not at hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Status = Literal["ok", "found", "not at hand", "differs"]
"""`differs`: other versions or another processor, which makes no number wrong."""

Progress = Callable[[str, int, int], None]
"""Takes what is done, how much of it, and how much there is."""

FOUND, INCOMPLETE = 1, 2
"""Exit codes: something is wrong; what was asked for could not be verified."""


@dataclass(frozen=True)
class Check:
    """One row of the table.

    Attributes:
        name: what was looked at.
        status: see `Status`.
        said: how much was looked at, or why it was not.
        found: what is wrong, a sentence each: file, trial, column, stored, recomputed.
        needed: whether it was asked for, so that `not at hand` means that nothing was verified.
    """

    name: str
    status: Status
    said: str
    found: Sequence[str] = ()
    needed: bool = False


def check(name: str, said: str, found: Sequence[str]) -> Check:
    """A check that could be made."""
    return Check(name, "found" if found else "ok", said, tuple(found))


def not_at_hand(name: str, why: str, needed: bool = False) -> Check:
    """A check that could not be made."""
    return Check(name, "not at hand", why, needed=needed)


def exit_code(checks: Sequence[Check]) -> int:
    """0: all that is at hand is right; 1: something is not; 2: what was asked for could not be verified."""
    if any(one.status == "found" for one in checks):
        return FOUND
    return INCOMPLETE if any(one.needed and one.status in ("not at hand", "differs") for one in checks) else 0


def same(stored: Any, recomputed: Any) -> bool:
    """Whether two values are the same to the last bit; NaN is itself, and a missing value too."""
    if isinstance(stored, float) and isinstance(recomputed, float):
        return stored.hex() == recomputed.hex()
    if isinstance(stored, list) and isinstance(recomputed, list):
        return len(stored) == len(recomputed) and all(map(same, stored, recomputed))
    return bool(stored == recomputed) and isinstance(stored, bool) == isinstance(recomputed, bool)


def differs(place: str, column: str, stored: Any, recomputed: Any) -> str:
    """A sentence for a value that is not what it should be."""
    return f"{place}, {column}: stored {_shown(stored)}, recomputed {_shown(recomputed)}"


def _shown(value: Any) -> str:
    return "nothing" if value is None else repr(value) if isinstance(value, float) else str(value)

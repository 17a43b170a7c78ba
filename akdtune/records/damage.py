"""Which files of trials that have ended are no longer what the trials wrote.

What a trial left is known by the digests in its outcome. Earlier versions, and trials that were stopped, left none:
their rows are read, and must be theirs, from the first epoch to the last.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from akdtune.errors import StudyError
from akdtune.records import recorded_files
from akdtune.records.files import EPOCHS, read_table
from akdtune.records.trial_directory import TrialDirectory, digest_of

PARQUET = b"PAR1"


def damage_of(trial: TrialDirectory, ended: str, epochs: int, compacted: Sequence[int] | None = None) -> dict[str, str]:
    """What is wrong with the files of a trial that has ended, a sentence by file name.

    Args:
        trial: its directory.
        ended: how, as the ledger says.
        epochs: how many it finished, as the ledger says.
        compacted: modification time in ns and size of its rows when they were compacted, and so were whole.
    """
    found: dict[str, str] = {}
    outcome: dict[str, Any] = {}
    if ended != "pruned":
        try:
            outcome = trial.read_outcome() or {}
        except StudyError as error:
            found[trial.outcome.name] = str(error)
        else:
            if not outcome and ended in ("done", "diverged"):
                found[trial.outcome.name] = f"{trial.outcome}: is missing"
            elif outcome.get("trial_id", trial.path.name) != trial.path.name:
                found[trial.outcome.name] = f"{trial.outcome}: is of trial {outcome['trial_id']}"
            elif outcome and outcome["outcome"] != ended:
                found[trial.outcome.name] = f"{trial.outcome}: says {outcome['outcome']}, and the ledger {ended}"
    written = _written(outcome)
    if epochs and (why := _rows_trouble(trial, epochs, written.get(EPOCHS), compacted)):
        found[EPOCHS] = f"{trial.epochs}: {why}"
    asked_for = (name for name in recorded_files.OF_TRIAL if name in written and name != trial.predictions.name)
    for name in (trial.predictions.name, *asked_for) if ended == "done" else ():
        if why := _kept_trouble(trial, name, written.get(name)):
            found[name] = f"{trial.path / name}: {why}"
    return found


def file_trouble(trial: TrialDirectory, name: str) -> str:
    """What is wrong with a file that a trial left, byte by byte; empty where nothing is, or nobody can tell."""
    try:
        written = _written(trial.read_outcome() or {}).get(name)
    except StudyError:
        return ""
    return "" if written is None else _differs(trial.path / name, written)


def _written(outcome: Mapping[str, Any]) -> dict[str, tuple[int, str]]:
    """Size and digest of files, as the outcome holds them."""
    held = outcome.get("files") or {}
    return {
        name: (facts[0], facts[1])
        for name, facts in held.items()
        if isinstance(facts, list) and [type(fact) for fact in facts] == [int, str]
    }


def _rows_trouble(
    trial: TrialDirectory, epochs: int, written: tuple[int, str] | None, compacted: Sequence[int] | None
) -> str:
    try:
        facts = trial.epochs.stat()
    except OSError:
        return "is missing"
    if compacted is not None and list(compacted) == [facts.st_mtime_ns, facts.st_size]:
        return ""
    if written is not None:
        return _differs(trial.epochs, written)
    try:
        table = read_table(trial.epochs)
        ids, numbers = set(table["trial_id"].to_pylist()), set(table["epoch"].to_pylist())
    except StudyError as error:
        return str(error).removeprefix(f"{trial.epochs}: ")
    except KeyError:
        return "holds no epochs of trials"
    if ids != {trial.path.name}:
        return "is not this trial's"
    lacking = set(range(1, epochs + 1)) - numbers
    return f"lacks {len(lacking)} of {epochs} epochs" if lacking else ""


def _kept_trouble(trial: TrialDirectory, name: str, written: tuple[int, str] | None) -> str:
    """What is wrong with the predictions of a trial, or with what else it kept of its networks."""
    path = trial.path / name
    try:
        facts = path.stat()
    except OSError:  # who deleted predictions and states to make room wants no trial trained again
        return "is missing" if written is not None and trial.checkpoint.exists() else ""
    if written is None:
        return "" if _is_framed(path) else "is damaged"
    with contextlib.suppress(OSError):
        if facts.st_size == written[0] and facts.st_mtime_ns <= trial.outcome.stat().st_mtime_ns:
            return ""
    return _differs(path, written)


def _differs(path: Path, written: tuple[int, str]) -> str:
    try:
        size = path.stat().st_size
        if size == written[0] and digest_of(path) == written[1]:
            return ""
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    return (
        f"is not what the trial wrote ({size} bytes, not {written[0]})"
        if size != written[0]
        else ("is not what the trial wrote")
    )


def _is_framed(path: Path) -> bool:
    """Whether a file begins and ends as Parquet files do."""
    try:
        with path.open("rb") as file:
            begins = file.read(4)
            file.seek(-4, 2)
            return begins == file.read(4) == PARQUET
    except OSError:
        return False

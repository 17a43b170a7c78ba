"""A trial's saved state: whose it is, the rows up to it, and a digest of all; what an attempt goes on from.

Rows are in the state, too, so that both agree whatever happens to the files: a state that is damaged, or another
trial's, is put aside and the trial begins again, with the same numbers; rows that differ from the state's are written
anew.
"""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from akdtune.errors import CheckpointError, StudyError
from akdtune.records.trial_directory import TrialDirectory
from akdtune.teacher.checkpoints import load_plain
from akdtune.teacher.sealed import DIGEST, sealed
from akdtune.training.loop import TrialLoop

Row = dict[str, Any]

TRIAL, ROWS = "trial_id", "rows"
"""What a saved state holds besides the trial's own."""


@dataclass(frozen=True)
class GoOn:
    """What an attempt goes on from.

    Attributes:
        state: of the last saved epoch; None where the trial begins.
        rows: up to it; later ones are computed again.
        file_differs: whether the rows' file holds others, so that it has to be written.
        notes: what was found damaged, a sentence each.
    """

    state: dict[str, Any] | None = None
    rows: Sequence[Row] = ()
    file_differs: bool = False
    notes: Sequence[str] = ()


def save_state(directory: TrialDirectory, trial_id: str, state: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """Replaces a trial's saved state; on disk when this returns."""
    buffer = io.BytesIO()  # torch reports a full disk as a RuntimeError without a cause, a plain write does not
    torch.save(sealed({**state, TRIAL: trial_id, ROWS: list(rows)}), buffer)
    with directory.replacing(directory.checkpoint) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def resumed(directory: TrialDirectory, trial_id: str) -> GoOn:
    """What an attempt goes on from: the last saved state if it is whole and this trial's, else the beginning.

    Raises:
        OSError: when the system cannot read a file that is there.
    """
    held, trouble = saved_state(directory, trial_id)
    written, rows_trouble = _written_rows(directory, trial_id)
    notes = (rows_trouble,) if rows_trouble else ()
    if held is None:
        return _put_aside(directory, trouble) if trouble else GoOn(None, (), bool(notes), notes)
    done = held["epoch"] if held["stage"] == "student" else 0
    rows, known = held.get(ROWS), written[:done]
    own = {key: value for key, value in held.items() if key not in (TRIAL, ROWS, DIGEST)}
    if rows is None:  # saved by a version that kept rows in their file alone
        if [row["epoch"] for row in known] == list(range(1, done + 1)):
            return GoOn(own, known, False, notes)
        return _put_aside(directory, f"is of epoch {done}, and {directory.epochs.name} holds {len(written)} epochs")
    if _agree(known, rows):
        return GoOn(own, rows, False, notes)
    if not directory.epochs.exists():
        return GoOn(own, rows, True)
    if not notes:
        notes = (f"{directory.epochs}: does not hold the {len(rows)} epochs of {directory.checkpoint.name}",)
    return GoOn(own, rows, True, (f"{notes[0]}; written anew from {directory.checkpoint.name}",))


def built_to_go_on(
    directory: TrialDirectory | None, begins: GoOn, build: Callable[[], TrialLoop]
) -> tuple[TrialLoop, GoOn]:
    """A trial and what it goes on from; one that does not take its state begins again.

    Args:
        directory: of the trial; None where nothing is kept.
        begins: as `resumed` gives it.
        build: makes the trial, as it begins.
    """
    live = build()
    if directory is not None and begins.state is not None and not _takes(live, begins.state):
        begins = _put_aside(directory, "holds no state of this trial")
        live = build()  # it may have taken a part
    if directory is not None:
        directory.columns = live.columns
    for note in begins.notes:
        print(f"warning: {note}")
    return live, begins


def _takes(live: TrialLoop, state: Mapping[str, Any]) -> bool:
    try:
        live.load_state(state)
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if "out of memory" in str(error) or "CUDA" in str(error):
            raise
        return False
    return True


def _put_aside(directory: TrialDirectory, why: str) -> GoOn:
    """Keeps a state that cannot be used under another name, for who wants to look at it; the trial begins again."""
    path = directory.checkpoint
    os.replace(path, path.with_name(f"{path.stem}.unusable{path.suffix}"))
    return GoOn(None, (), True, (f"{path}: {why}; put aside, the trial begins again",))


def saved_state(directory: TrialDirectory, trial_id: str) -> tuple[dict[str, Any] | None, str]:
    """A trial's saved state as it stands in its file, or what is wrong with that; neither where nothing was saved.

    Raises:
        OSError: when the system cannot read a file that is there.
    """
    path = directory.checkpoint
    try:
        with path.open("rb"):
            held = load_plain(path)
    except FileNotFoundError:
        return None, ""
    except IsADirectoryError:
        return None, "is a folder"
    except CheckpointError as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno not in (None, errno.EINVAL):
            raise cause from None
        return None, str(error).removeprefix(f"{path}: ")
    if held.get(TRIAL, trial_id) != trial_id:
        return None, f"is of trial {held[TRIAL]}"
    if not isinstance(held.get("epoch"), int) or held.get("stage") not in ("warmup", "student"):
        return None, "holds no state of a trial"
    return held, ""


def _written_rows(directory: TrialDirectory, trial_id: str) -> tuple[list[Row], str]:
    """The rows in a trial's file, and what is wrong with it."""
    try:
        rows = directory.read_rows()
    except StudyError as error:
        return [], str(error)
    if any(row.get("trial_id", trial_id) != trial_id or not isinstance(row.get("epoch"), int) for row in rows):
        return [], f"{directory.epochs}: is not this trial's"
    return rows, ""


def _agree(written: Sequence[Row], rows: Sequence[Row]) -> bool:
    """Whether a file holds these rows; the last one may say more there, what was read at the trial's end."""
    return len(written) == len(rows) and all(
        _same(theirs.get(name), value) for theirs, row in zip(written, rows, strict=True) for name, value in row.items()
    )


def _same(first: Any, second: Any) -> bool:
    return bool(first == second or (first != first and second != second))

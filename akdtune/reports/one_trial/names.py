"""What a user calls a trial or a cell of a study, for commands that look at one or at two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from akdtune.errors import AkdtuneError
from akdtune.reports.trials.chosen import chosen

Row = Mapping[str, Any]
LISTED = 8


@dataclass(frozen=True)
class Named:
    """What a name stands for.

    Attributes:
        name: of the cell, or the trial's id.
        rows: its trials, as `trials.parquet` has them.
    """

    name: str
    rows: tuple[Row, ...]

    @property
    def trial_ids(self) -> list[str]:
        """Of its trials."""
        return [str(row["trial_id"]) for row in self.rows]


def named(rows: Sequence[Row], name: str) -> Named:
    """A trial by its id or the beginning of it, or all trials of a cell.

    Args:
        rows: of all trials of the study.
        name: as given.

    Raises:
        AkdtuneError: when nothing, or more than one thing, is called so; names the nearest.
    """
    found = chosen(rows, name)
    return Named(name if found.is_cell else str(found.rows[0]["trial_id"]), tuple(found.rows))


def one_trial(rows: Sequence[Row], name: str) -> Row:
    """The one trial that is called so.

    Raises:
        AkdtuneError: as `named`, and for a cell of several trials, with their ids.
    """
    found = named(rows, name)
    if len(found.rows) > 1:
        listed = ", ".join(f"{row['trial_id']} ({row['role']}, seed {row['seed']})" for row in found.rows[:LISTED])
        more = f" and {len(found.rows) - LISTED} more" if len(found.rows) > LISTED else ""
        raise AkdtuneError(f"cell '{name}' has {len(found.rows)} trials; name one: {listed}{more}")
    return found.rows[0]

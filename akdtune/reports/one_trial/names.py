"""What a user calls a trial or a cell, and which trials that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from akdtune.errors import AkdtuneError, nearest

Row = Mapping[str, Any]
LISTED = 8


@dataclass(frozen=True)
class Named:
    """What a name stands for.

    Attributes:
        name: of the cell, or the trial's id.
        rows: its trials, as `trials.parquet` has them.
        is_cell: whether a configuration was named, not one of its trials.
    """

    name: str
    rows: tuple[Row, ...]
    is_cell: bool

    @property
    def trial_ids(self) -> list[str]:
        """Of its trials."""
        return [str(row["trial_id"]) for row in self.rows]


def named(rows: Sequence[Row], name: str) -> Named:
    """A trial by its id or the beginning of it; a cell by its name, its hash, or that of an arm which has no other.

    Args:
        rows: of all trials of the study.
        name: as given.

    Raises:
        AkdtuneError: when nothing, or more than one thing, is called so; names the nearest.
    """
    if of_id := [row for row in rows if row["trial_id"] == name]:
        return Named(name, tuple(of_id), False)
    cells = _cells(rows)
    if name in cells:
        return _cell(name, cells[name])
    begins = [row for row in rows if str(row["trial_id"]).startswith(name)] if name else []
    if len(begins) == 1:
        return Named(str(begins[0]["trial_id"]), tuple(begins), False)
    if begins:
        raise AkdtuneError(f"'{name}' begins the ids of {len(begins)} trials: {_listed(begins)}")
    close = nearest(name, [*cells, *(str(row["trial_id"]) for row in rows)])
    hint = f"; did you mean '{close}'?" if close else f" among {len(rows)} trials"
    raise AkdtuneError(f"no trial and no cell '{name}'{hint} (`akdtune show RUN` lists them; a beginning is enough)")


def one_trial(rows: Sequence[Row], name: str) -> Row:
    """The one trial that is called so.

    Raises:
        AkdtuneError: as `named`, and for a cell of several trials, with their ids.
    """
    found = named(rows, name)
    if len(found.rows) > 1:
        raise AkdtuneError(f"cell '{name}' has {len(found.rows)} trials; name one: {_listed(found.rows)}")
    return found.rows[0]


def _cells(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Trials by what one may call their configuration."""
    arms: dict[str, list[Row]] = {}
    hashes: dict[str, list[Row]] = {}
    names: dict[str, list[Row]] = {}
    for row in rows:
        for known, key in ((arms, row.get("arm")), (hashes, row.get("cell_id")), (names, row.get("cell"))):
            if key is not None:
                known.setdefault(str(key), []).append(row)
    alone = {arm: of_arm for arm, of_arm in arms.items() if len({row["cell_id"] for row in of_arm}) == 1}
    return {**alone, **hashes, **names}


def _cell(name: str, rows: Sequence[Row]) -> Named:
    if len({row["cell_id"] for row in rows}) > 1:
        raise AkdtuneError(f"several configurations are called '{name}'; name a trial of one: {_listed(rows)}")
    return Named(name, tuple(rows), True)


def _listed(rows: Sequence[Row]) -> str:
    shown = ", ".join(f"{row['trial_id']} ({row['role']}, seed {row['seed']})" for row in rows[:LISTED])
    return shown + (f" and {len(rows) - LISTED} more" if len(rows) > LISTED else "")

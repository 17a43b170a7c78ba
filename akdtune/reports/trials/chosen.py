"""Which trials a name means: a trial's id or its beginning, a cell's name, a cell's hash or its beginning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from akdtune.errors import AkdtuneError, nearest
from akdtune.reports.trials.cell_means import Row

NAMED = 6
"""Trials or cells that a message names."""


@dataclass(frozen=True)
class Chosen:
    """The trials that a name means.

    Attributes:
        rows: one trial, or all of a cell's in the order of their seeds.
        is_cell: whether the name is a cell's.
    """

    rows: Sequence[Row]
    is_cell: bool

    @property
    def trial(self) -> Row:
        """The trial itself; of a cell the first finished one, so that no seed is selected by its result."""
        return next((row for row in self.rows if row["status"] == "done"), self.rows[0])

    @property
    def seeds(self) -> list[int]:
        """The seeds of the trials."""
        return [row["seed"] for row in self.rows]


def chosen(rows: Sequence[Row], name: str) -> Chosen:
    """The trial or the cell that a name means; an exact name wins over a beginning, a trial over a cell.

    Args:
        rows: of `trials.parquet`.
        name: what somebody typed.

    Raises:
        AkdtuneError: where nothing has this name, with the nearest one, or several have.
    """
    for row in rows:
        if row["trial_id"] == name:
            return Chosen([row], is_cell=False)
    of_cell = [row for row in rows if name and name in (row.get("cell"), row["cell_id"])]
    if of_cell:
        return _one_cell(of_cell, name)
    begun = [row for row in rows if name and str(row["trial_id"]).startswith(name)]
    if len(begun) == 1:
        return Chosen(begun, is_cell=False)
    of_hash = [row for row in rows if name and str(row["cell_id"]).startswith(name)]
    if of_hash and len({row["cell_id"] for row in of_hash}) == 1 and len(begun) in (0, len(of_hash)):
        return _one_cell(of_hash, name)
    if begun or of_hash:
        raise AkdtuneError(f"'{name}' is ambiguous: {_listed([str(row['trial_id']) for row in begun or of_hash])}")
    raise AkdtuneError(_unknown(rows, name))


def _one_cell(rows: Sequence[Row], name: str) -> Chosen:
    """The trials of the only cell among some; a name may be that of a pilot's cell, too."""
    cells: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        cells.setdefault((str(row["cell_id"]), str(row["role"])), []).append(row)
    if len(cells) > 1:
        meant = _listed(
            [f"{cell_id} ({role}, {of[0].get('cell') or of[0]['arm']})" for (cell_id, role), of in cells.items()]
        )
        raise AkdtuneError(f"cell '{name}' is ambiguous: {meant}; name a trial, or keep one role (--role)")
    return Chosen(sorted(rows, key=lambda row: (row["seed"] is None, row["seed"] or 0)), is_cell=True)


def _listed(names: Sequence[str]) -> str:
    more = f", ... ({len(names)} in all)" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _unknown(rows: Sequence[Row], name: str) -> str:
    known = _names(rows)
    if name in {row["arm"] for row in rows}:
        return f"'{name}' is an arm, not a trial or a cell (--arm keeps its trials)"
    close = nearest(name, list(known))
    hint = f"; did you mean '{close}'?" if close else f" among {len(rows)} (`akdtune show RUN` lists them)"
    return f"no trial or cell '{name}'{hint}"


def _names(rows: Sequence[Row]) -> Mapping[str, None]:
    """Everything that a name may be, in the plan's order."""
    return dict.fromkeys(
        str(row[column]) for column in ("cell", "trial_id", "cell_id") for row in rows if row.get(column) is not None
    )

"""Studies joined into one table: which entries are the same row, and which seeds count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from akdtune.reports.paper.pairs import Pair
from akdtune.reports.paper.studies import Entry, Group, PaperStudy
from akdtune.reports.text import counted, number

Key: TypeAlias = tuple[Group, str, str]
"""Group, label and components of a row."""

STUDENT = "student, alone"
GROUPS: tuple[Group, ...] = ("student", "method", "control")


@dataclass
class JoinedCell:
    """A configuration in one column, with the seeds of all studies that trained it.

    Attributes:
        entries: out of which it is made, with the place of their study.
        values, lost, asked: as of an entry.
    """

    entries: list[tuple[int, Entry]]
    values: dict[int, float]
    lost: dict[int, str]
    asked: int

    @property
    def studies(self) -> tuple[int, ...]:
        """Places of the studies that it comes from."""
        return tuple(dict.fromkeys(place for place, _ in self.entries))

    @property
    def chosen_from(self) -> int:
        """Among how many configurations a search chose it by these values."""
        return max(entry.chosen_from for _, entry in self.entries)


@dataclass(frozen=True)
class Row:
    """A method: its cells by column."""

    label: str
    group: Group
    cells: Mapping[Pair, JoinedCell]


@dataclass(frozen=True)
class Joined:
    """The numbers of a table.

    Attributes:
        columns: in the order of the studies.
        rows: students, methods, controls, each in the order of the studies.
        notes: about seeds that several studies have.
    """

    columns: list[Pair]
    rows: list[Row]
    notes: list[str] = field(default_factory=list)


def join(studies: Sequence[PaperStudy]) -> Joined:
    """One table of all studies.

    Entries with one label and the same components are one row. Of one configuration (the same cell id) seeds are
    pooled, each counted once; two configurations under one name in one column are rows of their own, named by their
    studies.
    """
    notes: list[str] = []
    found: dict[Key, dict[Pair, list[JoinedCell]]] = {}
    shared: dict[tuple[int, int], list[str]] = {}
    for place, study in enumerate(studies):
        for entry in study.entries:
            key = _key(entry)
            cells = found.setdefault(key, {}).setdefault(entry.pair, [])
            same = next((cell for cell in cells if cell.entries[0][1].cell_id == entry.cell_id), None)
            if same is None:
                cells.append(JoinedCell([(place, entry)], dict(entry.values), dict(entry.lost), entry.asked))
            else:
                _pool(same, place, entry, shared, studies, notes)
    for (first, second), trials in shared.items():
        notes.append(
            f"{counted(len(trials), 'trial')} in both {studies[first].name} and {studies[second].name}, with the same "
            "numbers: counted once"
        )
    columns = list(dict.fromkeys(entry.pair for study in studies for entry in study.entries))
    rows = [row for key, of_key in found.items() for row in _rows(key, of_key, found, studies)]
    return Joined(columns, sorted(rows, key=lambda row: GROUPS.index(row.group)), notes)


def _key(entry: Entry) -> Key:
    if entry.group == "student":
        return "student", STUDENT, ""
    return entry.group, entry.label, entry.arm


def _pool(
    cell: JoinedCell,
    place: int,
    entry: Entry,
    shared: dict[tuple[int, int], list[str]],
    studies: Sequence[PaperStudy],
    notes: list[str],
) -> None:
    """Adds the seeds of a further study; what an earlier one measured stands."""
    first = cell.entries[0][0]
    for seed, value in entry.values.items():
        known = cell.values.get(seed)
        if known is None:
            cell.values[seed] = value
        elif known == value:
            shared.setdefault((first, place), []).append(f"{entry.cell_id}-s{seed}")
        else:
            notes.append(
                f"{entry.label}, seed {seed}: {number(known)} in {studies[first].name} and {number(value)} in "
                f"{studies[place].name}, which should be equal; the first counts"
            )
    cell.lost = {seed: why for seed, why in {**entry.lost, **cell.lost}.items() if seed not in cell.values}
    cell.entries.append((place, entry))
    cell.asked = max(cell.asked, len(cell.values) + len(cell.lost))


def _rows(
    key: Key, of_key: Mapping[Pair, Sequence[JoinedCell]], found: Mapping[Key, object], studies: Sequence[PaperStudy]
) -> list[Row]:
    """The rows of one key: one, or where a column has several configurations one for each study."""
    group, label, arm = key
    if sum(other[1] == label for other in found) > 1 and arm:
        label = f"{label} ({arm})" if arm != label else label
    if all(len(cells) == 1 for cells in of_key.values()):
        return [Row(label, group, {pair: cells[0] for pair, cells in of_key.items()})]
    split: dict[tuple[int, int], dict[Pair, JoinedCell]] = {}
    for pair, cells in of_key.items():
        seen: dict[int, int] = {}
        for cell in cells:
            place = cell.studies[0]
            seen[place] = seen.get(place, 0) + 1
            split.setdefault((place, seen[place]), {})[pair] = cell
    return [
        Row(f"{label} ({studies[place].name})" + (f" #{turn}" if turn > 1 else ""), group, cells)
        for (place, turn), cells in sorted(split.items())
    ]

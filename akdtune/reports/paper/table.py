"""The table of methods against pairs of teacher and student, and its forms: terminal, Markdown, LaTeX, CSV."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from akdtune.errors import AkdtuneError, unknown_name
from akdtune.metric import in_percent
from akdtune.reports.ablation.words import DAGGER
from akdtune.reports.origin import ROUNDING
from akdtune.reports.paper import words
from akdtune.reports.paper.joined import GROUPS, Joined, JoinedCell, Row, join
from akdtune.reports.paper.leading import Leading, leading
from akdtune.reports.paper.pairs import Pair, headings
from akdtune.reports.paper.protocol import differing_studies
from akdtune.reports.paper.studies import PaperStudy, read_study
from akdtune.reports.text import Strong, number
from akdtune.statistics.paired import cell_summary

SORTS = ("study", "mean")
DASH = "\N{EN DASH}"
SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹"
TEACHER = "teacher"
GROUP_NAMES = {"student": "", "method": "methods", "control": "controls"}


@dataclass(frozen=True)
class PaperTable:
    """A table, computed.

    Attributes:
        studies: that it is made from, each once.
        joined: its numbers.
        leads: which rows lead, by column.
        notes: what stands below it.
    """

    studies: tuple[PaperStudy, ...]
    joined: Joined
    leads: Mapping[Pair, Leading]
    notes: tuple[str, ...]

    @property
    def title(self) -> str:
        """What the numbers are."""
        kinds = list(dict.fromkeys(pair.images for pair in self.joined.columns))
        percent = all(in_percent(pair.metric) for pair in self.joined.columns)
        names = dict.fromkeys(pair.metric.partition("_")[2].replace("_", " ") for pair in self.joined.columns)
        what = f"{' and '.join(kinds)} {', '.join(names)}, %" if percent else ", ".join(kinds)
        return f"{what[0].upper()}{what[1:]}: mean ± sd over training seeds"

    @property
    def heads(self) -> list[list[str]]:
        """Lines above each column: data set (where there are several), teacher, student, images and seeds."""
        columns, counts = self.joined.columns, usual_counts(self.joined)
        return [
            [*lines, f"{pair.images}, n = {counts[pair]}"]
            for pair, lines in zip(columns, headings(columns), strict=True)
        ]

    def groups(self) -> dict[str, list[list[str]]]:
        """Rows of texts, first their name, under the name of their group; what leads is `Strong`."""
        groups: dict[str, list[list[str]]] = {"": []}
        known = words.teachers_of(self.studies)
        if known:
            groups[""].append([TEACHER, *(_teacher_text(known.get(pair, [])) for pair in self.joined.columns)])
        texts = {pair: self._column(pair) for pair in self.joined.columns}
        for place, row in enumerate(self.joined.rows):
            cells = [texts[pair].get(place, DASH) for pair in self.joined.columns]
            groups.setdefault(GROUP_NAMES[row.group], []).append([row.label, *cells])
        return groups

    def _column(self, pair: Pair) -> dict[int, str]:
        """The texts of one column by row."""
        usual, lead = usual_counts(self.joined)[pair], self.leads[pair]
        cells = {place: row.cells[pair] for place, row in enumerate(self.joined.rows) if pair in row.cells}
        together = list(dict.fromkeys(study for cell in cells.values() for study in cell.studies))
        marked = differing_studies(self.studies, together)
        texts = {}
        for place, cell in cells.items():
            text = mean_text(cell, usual) + (DAGGER if place in lead.tied else "")
            text += "".join(_superscript(study) for study in cell.studies) if marked else ""
            texts[place] = Strong(text) if lead.settled and place == lead.best else text
        return texts

    def marked_studies(self) -> list[str]:
        """Which study each superscript stands for; empty where no column joins studies that differ."""
        marked: dict[int, str] = {}
        for pair in self.joined.columns:
            cells = [row.cells[pair] for row in self.joined.rows if pair in row.cells]
            together = list(dict.fromkeys(study for cell in cells for study in cell.studies))
            if differing_studies(self.studies, together):
                marked |= {place: f"{_superscript(place)} {self.studies[place].name}" for place in sorted(together)}
        return [", ".join(marked[place] for place in sorted(marked))] if marked else []

    @property
    def footnotes(self) -> list[str]:
        """Everything that stands below the table."""
        return [*self.marked_studies(), *self.notes]

    @property
    def origins(self) -> list[str]:
        """What trained each study, and that rounding may decide."""
        known = list(dict.fromkeys(str(study.origin) for study in self.studies))
        if len(known) == 1:
            return [*known, ROUNDING]
        return [*(f"{study.name}: {study.origin}" for study in self.studies), ROUNDING]


def table_of(runs: Sequence[Path], *, phase: str | None = None, sort: str = "study") -> PaperTable:
    """Joins studies into one table.

    Args:
        runs: study directories; one that is named twice counts once.
        phase: confirm, ablation or search; default: a study's confirmation, else its ablation, else its search.
        sort: `study` for the order of the studies, `mean` for the mean distance to the best of each column.

    Raises:
        AkdtuneError: for an unknown order.
        StudyError: for a directory that is no study, or has nothing for a table.
    """
    if sort not in SORTS:
        raise AkdtuneError(f"--sort: {unknown_name('order', sort, SORTS)}")
    once = {run.resolve(): run for run in reversed(runs)}
    studies = _named([read_study(run, phase) for run in reversed(once.values())])
    joined = join(studies)
    if sort == "mean":
        joined = Joined(joined.columns, _by_mean(joined), joined.notes)
    leads = {pair: _leading(joined, pair) for pair in joined.columns}
    names = {pair: one_line(lines) for pair, lines in zip(joined.columns, headings(joined.columns), strict=True)}
    if len({pair.images for pair in joined.columns}) > 1:
        names = {pair: f"{name} ({pair.images})" for pair, name in names.items()}
    notes = words.notes_of(joined, studies, leads, names, usual_counts(joined))
    if twice := len(runs) - len(once):
        notes.append(f"{twice} of {len(runs)} directories repeat another one: counted once")
    return PaperTable(tuple(studies), joined, leads, tuple(notes))


def _leading(joined: Joined, pair: Pair) -> Leading:
    cells = {place: row.cells[pair] for place, row in enumerate(joined.rows) if pair in row.cells}
    chosen = {place for place, cell in cells.items() if cell.chosen_from > 1}
    return leading({place: cell.values for place, cell in cells.items()}, chosen)


def _named(studies: Sequence[PaperStudy]) -> list[PaperStudy]:
    """The studies, those with folders of one name called by their paths."""
    count = Counter(study.name for study in studies)
    return [replace(study, name=str(study.run)) if count[study.name] > 1 else study for study in studies]


def _by_mean(joined: Joined) -> list[Row]:
    """Rows of each group by their mean distance to the best of each column that they stand in; without values last."""
    means = {
        pair: {place: fmean(cell.values.values()) for place, row in enumerate(joined.rows)
               if (cell := row.cells.get(pair)) is not None and cell.values}
        for pair in joined.columns
    }  # fmt: skip
    distances: dict[int, list[float]] = {}
    for of_column in means.values():
        for place, mean in of_column.items():
            distances.setdefault(place, []).append(max(of_column.values()) - mean)

    def key(place: int) -> tuple[int, float]:
        known = distances.get(place)
        return GROUPS.index(joined.rows[place].group), fmean(known) if known else math.inf

    return [joined.rows[place] for place in sorted(range(len(joined.rows)), key=key)]


def usual_counts(joined: Joined) -> dict[Pair, int]:
    """How many seeds most cells of each column have."""
    counts = {pair: Counter[int]() for pair in joined.columns}
    for row in joined.rows:
        for pair, cell in row.cells.items():
            counts[pair][len(cell.values)] += bool(cell.values)
    return {pair: max(of_column, key=lambda n: (of_column[n], n), default=0) for pair, of_column in counts.items()}


def mean_text(cell: JoinedCell, usual: int) -> str:
    """`73.33 ± 0.25`, with the number of seeds where it is one, or not the usual one of the column."""
    summary = cell_summary(list(cell.values.values()))
    if summary.mean is None:
        return f"{DASH} (0/{cell.asked})" if cell.asked else DASH
    text = number(summary.mean) + ("" if summary.sd is None else f" ± {number(summary.sd)}")
    if summary.n < cell.asked:
        return f"{text} ({summary.n}/{cell.asked})"
    return text if summary.n == usual > 1 else f"{text} (n = {summary.n})"


def _teacher_text(known: Sequence[tuple[float, str]]) -> str:
    return " / ".join(number(value) for value in dict.fromkeys(accuracy for accuracy, _ in known)) or DASH


def _superscript(place: int) -> str:
    """A study's mark: its place, counted from 1."""
    return "".join(SUPERSCRIPTS[int(digit)] for digit in str(place + 1))


def one_line(lines: Sequence[str]) -> str:
    """The heading of a column on one line: `digits: cnn → cnn`."""
    return " ".join(lines)

"""What students have taken over from their teacher's function, against independent students."""

from __future__ import annotations

from collections.abc import Iterator

from akdtune.reports.figures import Bar
from akdtune.reports.page.content import Figure, LeftOut, Panel, Part, Section, Sentences, Table
from akdtune.reports.page.drawing import forest
from akdtune.reports.page.drawing.looks import Look, look
from akdtune.reports.page.material import Material, without_home
from akdtune.reports.transfer import verdict
from akdtune.reports.transfer.comparison import PARTS, Comparison
from akdtune.reports.transfer.figures import FARTHEST
from akdtune.statistics.association import LEVEL

TITLE = "Transfer of the teacher's function"
WHERE = {"agreement_right": "teacher right", "agreement_wrong": "teacher wrong"}


def transfer(material: Material) -> Section | LeftOut:
    """Agreement, distances and asymmetry of every cell, with the verdict of `akdtune analyze transfer`."""
    found = material.transfer
    if isinstance(found, str):
        return LeftOut(TITLE, without_home(found))
    comparison = found.comparison
    if not comparison.findings:
        return LeftOut(TITLE, without_home(found.verdict))
    parts: list[Part] = [Sentences([f"{found.verdict[:1].upper()}{found.verdict[1:]}."], lead=True)]
    parts += _figure(comparison)
    numbers = tuple(range(1, len(verdict.MEAN_HEADINGS)))
    parts.append(
        Table("Students, means", verdict.MEAN_HEADINGS, verdict.mean_rows(comparison), numbers, material.looks)
    )
    parts.append(
        Table("Four cells, % of all images", verdict.CELL_HEADINGS, verdict.cell_rows(comparison), (1, 2, 3, 4))
    )
    rows = _named(verdict.difference_rows(comparison, everything=True))
    against = f"Against {comparison.students.reference}"
    parts.append(Table(against, verdict.DIFFERENCE_HEADINGS, rows, (2, 3, 4)))
    parts.append(Sentences(verdict.notes(comparison), listed=True, folded="How to read this"))
    return Section("transfer", TITLE, parts)


def _figure(comparison: Comparison) -> Iterator[Part]:
    """Gains of agreement where the teacher is right and where it is wrong."""
    bars: list[Bar] = []
    looks: list[Look] = []
    for finding in comparison.findings:
        for place, part in enumerate(PARTS):
            difference = finding.compared[part].difference if part in finding.compared else None
            if difference is None or difference.value is None:
                continue
            bars.append(
                Bar(
                    f"{finding.cell.label}, {WHERE[part]}", difference.value, difference.low, difference.high, None,
                    None, finding.compared[part].test.cell_values, None, not finding.is_setup,
                )
            )  # fmt: skip
            looks.append(look(place))
    if not bars:
        return
    name = "Agreement gained where the teacher is right and where it is wrong"
    xlabel = f"agreement: difference from {comparison.students.reference} (points)"
    wide, narrow = (
        forest.forest(
            bars, name=name, xlabel=xlabel, margin=None, level=LEVEL, floor=None, looks=looks, layout=layout,
            farthest=FARTHEST,
        )
        for layout in (forest.WIDE, forest.NARROW)
    )  # fmt: skip
    caption = "Round: cells; square: controls; thick: 95 % interval of each by itself; arrow: beyond the plot."
    yield Figure(name, [Panel(wide, narrow, broad=True)], caption)


def _named(rows: list[list[str]]) -> list[list[str]]:
    """Rows that each say which cell they are of: a reader may sort them."""
    name = ""
    named = []
    for row in rows:
        name = row[0] or name
        named.append([name, *row[1:]])
    return named

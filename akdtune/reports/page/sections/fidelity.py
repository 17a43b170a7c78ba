"""Whether students attend and answer as their teachers do."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from akdtune.errors import NotRecorded, StudyError
from akdtune.reports.fidelity.answer import Fidelity, fidelity_in
from akdtune.reports.fidelity.relations import OUTCOMES, Outcome
from akdtune.reports.fidelity.report import (
    ANSWER_HEADINGS,
    ATTENTION_HEADINGS,
    READING,
    TEACHER_HEADINGS,
    answer_rows,
    attention_rows,
    left_out_lines,
    measured_columns,
    sanity_lines,
    teacher_rows,
)
from akdtune.reports.page.content import Figure, LeftOut, Panel, Part, Section, Sentences, Table
from akdtune.reports.page.drawing import points
from akdtune.reports.page.drawing.axes import Margins, plot
from akdtune.reports.page.drawing.looks import Look
from akdtune.reports.page.drawing.points import Point
from akdtune.reports.page.material import Material, without_home
from akdtune.reports.text import number

TITLE = "Attention and fidelity"
NOT_RECORDED = "the teachers' answers are not recorded: `record: {teacher: true}`, the default, keeps them from now on"


def fidelity(material: Material) -> Section | LeftOut:
    """Overlap of attention and likeness of answers, a line a cell; what students do against that overlap."""
    try:
        found = fidelity_in([material.run])
    except NotRecorded:
        return LeftOut(TITLE, NOT_RECORDED)
    except StudyError as error:
        return LeftOut(TITLE, without_home(str(error).removeprefix(f"{material.run}: ")))
    if not found.students_taught:
        return LeftOut(TITLE, "no finished trial was taught by the study's teachers")
    parts: list[Part] = [Sentences([found.verdict], lead=True)]
    parts += _figure(material, found)
    (study,) = found.studies
    parts.append(_table("What students answer", ANSWER_HEADINGS, answer_rows(study)))
    parts.append(_table("Where students look", ATTENTION_HEADINGS, attention_rows(study, found.kind)))
    parts.append(_table("Teachers", TEACHER_HEADINGS, teacher_rows(study, found.kind)))
    said = [*sanity_lines(found.studies, found.kind), *left_out_lines(found.studies)]
    return Section("fidelity", TITLE, [*parts, Sentences([f"{READING[0].upper()}{READING[1:]}.", *said])])


def _table(caption: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    headings, rows = measured_columns(headings, rows)
    plain = [heading.replace("\n", " ") for heading in headings]
    return Table(caption, plain, rows, tuple(range(1, len(plain))))


def _figure(material: Material, found: Fidelity) -> list[Part]:
    cells = list(dict.fromkeys(student.cell for study in found.studies for student in study.students))
    looks = {cell: material.looks[cell] for cell in cells if cell in material.looks}
    panels = [Panel(drawn) for outcome in OUTCOMES if (drawn := _scatter(found, outcome, looks)) is not None]
    if not panels:
        return []
    caption = "A point a trial, across how far it attends to the same pixels as its teachers (IoU, mean over teachers)."
    return [Figure("What students do, and where they look", panels, caption, looks)]


def _scatter(found: Fidelity, outcome: Outcome, looks: dict[str, Look]) -> Markup | None:
    held = [
        (pair[0], value, student)
        for study in found.studies
        for student in study.students
        if (pair := student.with_teachers(found.kind)) is not None and (value := outcome.of(student)) is not None
    ]
    if not held:
        return None
    unit = f", {outcome.unit}" if outcome.unit else ""
    drawn = plot(
        f"IoU with the teachers and {outcome.title} of {len(held)} trials", [x for x, _, _ in held],
        [y for _, y, _ in held], x_label="IoU with the teachers", y_label=f"{outcome.title}{unit}",
        margins=Margins(left=52),
    )  # fmt: skip
    points.draw(
        drawn,
        (Point(x, y, f"{student.cell}, seed {student.seed}: {number(y)}, IoU {number(x, 3)}", looks.get(student.cell),
               faint=not student.taught)
         for x, y, student in held),
    )  # fmt: skip
    return drawn.drawing()

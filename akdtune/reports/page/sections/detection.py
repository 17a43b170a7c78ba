"""Whether students were traced to their teachers, as `akdtune analyze detection` left it."""

from __future__ import annotations

from markupsafe import Markup

from akdtune.reports.detection.judged import Detection
from akdtune.reports.detection.outputs import KINDS
from akdtune.reports.detection.report import stored
from akdtune.reports.detection.scores import SCORES
from akdtune.reports.detection.verdict import (
    CHOICE_HEADINGS,
    READING,
    choice_rows,
    counts_of,
    headings,
    rate_text,
    remarks,
    rows,
    sentence,
    sizes,
)
from akdtune.reports.page.content import Figure, LeftOut, Panel, Part, Section, Sentences, Table
from akdtune.reports.page.drawing import svg
from akdtune.reports.page.drawing.axes import Margins, plot
from akdtune.reports.page.drawing.looks import look
from akdtune.reports.page.material import Material, without_home

TITLE = "Detection of teachers"
APART = 0.14
"""Between two scores at the same number of inputs."""


def detection(material: Material) -> Section | LeftOut:
    """Accuracy of the likeliest teacher by kind of inputs, score and number of inputs."""
    found = stored(material.run)
    if found is None:
        return LeftOut(TITLE, "nobody has asked which teacher it was (akdtune analyze detection)")
    parts: list[Part] = [Sentences([sentence(found)], lead=True)]
    if found.rates:
        panels = [Panel(_panel(found, kind)) for kind in KINDS if any(rate.inputs == kind for rate in found.rates)]
        legend = {facts.label: look(place) for place, facts in enumerate(SCORES.values())}
        caption = f"Lines: exact 95 % intervals over students; grey: chance. {sizes(found)}."
        parts.append(Figure("Accuracy by number of inputs", panels, caption, legend))
        table = headings(found), _filled(rows(found))
        parts.append(Table("How often the likeliest teacher is the right one", *table, tuple(range(2, len(table[0])))))
    if unknown := choice_rows(found):
        parts.append(Table("Likeliest teacher, and in which share of the draws", CHOICE_HEADINGS, _filled(unknown)))
    said = [without_home(remark) for remark in remarks(found)]
    parts.append(Sentences([f"{text[0].upper()}{text[1:]}." for text in (*said, READING)], listed=True))
    return Section("detection", TITLE, parts)


def _filled(table: list[list[str]]) -> list[list[str]]:
    """The same rows, each with its own first cell, so that they can be sorted."""
    filled, first = [], ""
    for row in table:
        first = row[0] or first
        filled.append([first, *row[1:]])
    return filled


def _panel(found: Detection, kind: str) -> Markup:
    counts = counts_of(found)
    drawn = plot(
        f"Accuracy of the likeliest teacher by number of {kind} inputs, by score, with chance", range(len(counts)),
        [0.0, 1.0], title=f"{kind} inputs", x_label="inputs, N", y_label="accuracy",
        options=[f"{count:,}" for count in counts], margins=Margins(left=46, top=40),
    )  # fmt: skip
    chance = drawn.y(found.chance)
    drawn.add(svg.line(drawn.x.start, chance, drawn.x.end, chance, "ln chance"))
    for place, (score, facts) in enumerate(SCORES.items()):
        shown, shift = look(place), (place - (len(SCORES) - 1) / 2) * APART
        rates = found.of("distilled", score, kind)
        at = [(counts.index(rate.count) + shift, rate) for rate in rates]
        if len(at) > 1:
            drawn.add(svg.path([drawn.at(x, rate.accuracy) for x, rate in at], f"{shown.name} ln"))
        for x, rate in at:
            said = f"{facts.label}, N = {rate.count}: {rate_text(rate)} of {rate.students} students"
            ends = [drawn.at(x, end) for end in (rate.low, rate.high)]
            mark = svg.mark(*drawn.at(x, rate.accuracy), shown.shape, said, look="mk")
            drawn.add(svg.group(shown.name, svg.line(*ends[0], *ends[1], "ln half"), mark))
    return drawn.drawing()

"""Whether students follow the diversity of their teachers' views."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from akdtune.reports.diversity.figures import panel_title
from akdtune.reports.diversity.measured import HEADLINE, DiversityPanel, cell_means
from akdtune.reports.diversity.report import READING, size_text
from akdtune.reports.diversity.verdict import TABLE_HEADINGS, Judged, Verdict
from akdtune.reports.page.content import Figure, LeftOut, Panel, Part, Section, Sentences, Table
from akdtune.reports.page.drawing import points, svg
from akdtune.reports.page.drawing.axes import Margins, Plot, plot
from akdtune.reports.page.drawing.points import Point
from akdtune.reports.page.drawing.scales import short_number
from akdtune.reports.page.material import Material
from akdtune.reports.page.sections import checks
from akdtune.reports.text import number
from akdtune.statistics.resampling import Floats


def diversity(material: Material) -> Section | LeftOut:
    """Accuracy against each measure of diversity, with the slope within arms; association, never effect."""
    found = material.diversity
    if isinstance(found, str):
        return LeftOut("Diversity and accuracy", found)
    if not any(panel.fitted(measure).any() for panel in found.panels for measure in HEADLINE):
        return LeftOut("Diversity and accuracy", "no finished trial has views whose diversity was measured")
    parts: list[Part] = [Sentences([found.verdict], lead=True)]
    for panel in found.panels:
        verdict = found.verdicts[panel.name]
        if not any(panel.fitted(measure).any() for measure in HEADLINE):
            continue
        drawn = [Panel(_scatter(material, panel, judged)) for judged in verdict.judged]
        arms = {arm: look for arm, look in material.looks.items() if arm in panel.arms}
        caption = f"A point a cell. Lines: the common slope within arms through each arm's mean. {size_text(panel)}."
        parts.append(Figure(panel.title, drawn, caption, arms))
        parts += [_table(panel, verdict), *checks.of_panel(found, panel)]
    parts += [*checks.of_theory(found), Sentences([READING[0].upper() + READING[1:] + "."])]
    return Section("diversity", "Diversity and accuracy", parts)


def _scatter(material: Material, panel: DiversityPanel, judged: Judged) -> Markup:
    measure = judged.relation.measure
    means = cell_means(panel, [measure], panel.fitted(measure))
    x_C, y_C = means.measures_CM[:, 0], means.accuracy_C
    head, _, size = panel_title(judged, means).partition("\n")
    drawn = plot(
        f"{HEADLINE[measure]} and {panel.accuracy_on} {panel.metric.words} of {len(x_C)} cells: {head}",
        x_C.tolist(), y_C.tolist(),
        x_label=HEADLINE[measure], y_label=size, title=head, margins=Margins(left=46, top=42),
    )  # fmt: skip
    _slopes(drawn, judged, x_C, y_C, means.arms, material)
    points.draw(
        drawn,
        (Point(float(x), float(y), f"{arm}, {panel.cells[first]}: {number(float(y))} %, {short_number(float(x))}",
               material.looks.get(arm))
         for x, y, arm, first in zip(x_C, y_C, means.arms, means.first_C, strict=True)),
    )  # fmt: skip
    return drawn.drawing()


def _slopes(drawn: Plot, judged: Judged, x_C: Floats, y_C: Floats, arms: Sequence[str], material: Material) -> None:
    within = judged.relation.within
    if within is None or within.slope is None:
        return
    for arm in dict.fromkeys(arms):
        mine = np.array([own == arm for own in arms], bool)
        x, y = x_C[mine], y_C[mine]
        ends = [
            (end, float(y.mean() + within.slope.value * (end - x.mean()))) for end in (float(x.min()), float(x.max()))
        ]
        if arm in material.looks:
            look = material.looks[arm]
            drawn.add(svg.path([drawn.at(*end) for end in ends], f"{look.name} {look.line} slope"))


def _table(panel: DiversityPanel, verdict: Verdict) -> Table:
    return Table(
        f"Association of diversity and accuracy, {panel.title.split(':')[0]}",
        TABLE_HEADINGS,
        verdict.table(),
        (1, 2, 3, 4),
    )

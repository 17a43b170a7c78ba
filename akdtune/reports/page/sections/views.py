"""The views of teachers: whether students follow their diversity, and how they lie over the epochs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from markupsafe import Markup

from akdtune.reports import curves as curves_report
from akdtune.reports.curves import Curve
from akdtune.reports.diversity.figures import panel_title
from akdtune.reports.diversity.measured import HEADLINE, DiversityPanel, cell_means, is_viewless
from akdtune.reports.diversity.report import READING, size_text
from akdtune.reports.diversity.verdict import TABLE_HEADINGS, Judged, Verdict
from akdtune.reports.page.content import Figure, LeftOut, Panel, Part, Section, Sentences, Table
from akdtune.reports.page.drawing import lines, points, svg
from akdtune.reports.page.drawing.axes import Margins, Plot, plot
from akdtune.reports.page.drawing.lines import Line
from akdtune.reports.page.drawing.looks import Look
from akdtune.reports.page.drawing.points import Point
from akdtune.reports.page.drawing.scales import short_number
from akdtune.reports.page.material import Material, Row
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
        f"{HEADLINE[measure]} and {panel.accuracy_on} accuracy of {len(x_C)} cells: {head}", x_C.tolist(), y_C.tolist(),
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


# ------------------------------------------------------------------------------------------------- geometry


def _degrees(cosine: Floats) -> Floats:
    angles: Floats = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    return angles


def _percent(share: Floats) -> Floats:
    return 100 * share


def _same(value: Floats) -> Floats:
    return value


TRIALS_DRAWN = 200
"""Thin lines of a plot."""

GEOMETRY: dict[str, tuple[str, str, Callable[[Floats], Floats]]] = {
    "teacher_cosine": ("view to teacher, features", "degrees", _degrees),
    "teacher_cosine_prob": ("view to teacher, probabilities", "degrees", _degrees),
    "inter_cosine": ("between two views, features", "degrees", _degrees),
    "inter_cosine_prob": ("between two views, probabilities", "degrees", _degrees),
    "offset_cosine": ("between two offsets from the teacher, features", "degrees", _degrees),
    "offset_cosine_prob": ("between two offsets, probabilities", "degrees", _degrees),
    "margin": ("margin of the features", "1 − cosine", _same),
    "gate_open_train": ("gate open, training images, features", "%", _percent),
    "gate_open_eval": ("gate open, held-out images, features", "%", _percent),
    "gate_open_train_logit": ("gate open, training images, logits", "%", _percent),
    "gate_open_eval_logit": ("gate open, held-out images, logits", "%", _percent),
}
"""Columns of epochs with a title, a unit and what makes the values of it."""


def geometry(material: Material) -> Section | LeftOut:
    """Angles of views to their teacher and to each other, margins and gates over the epochs, by arm."""
    ended = [row for row in material.rows if row["status"] == "done"]
    rows = {row["trial_id"]: row for row in ended or material.rows}
    panels: list[Panel] = []
    arms: dict[str, Look] = {}
    for column, (title, unit, of) in GEOMETRY.items():
        groups = {
            arm: held for arm, held in _curves(material, column, of, rows).items() if not is_viewless(arm)
        }  # fmt: skip
        if not groups:
            continue
        arms |= {arm: material.looks[arm] for arm in groups}
        thin = [line for arm, group in groups.items() for line in _trials(material, arm, group)]
        drawn = [*thin[:TRIALS_DRAWN], *(_mean(material, arm, group) for arm, group in groups.items())]
        name = f"{title}, {unit}, mean of each arm over epochs"
        panels.append(Panel(lines.panel(title, drawn, name=name, y_label=unit)))
    if not panels:
        return LeftOut("Geometry of the views", "no trial has views whose angles or gates were measured")
    caption = (
        "Thin: a trial that is done; bold: mean of its arm. Angles are those of mean cosines over held-out images: 0 "
        "is the same direction, 90 orthogonal. Views that go on changing are measured at rungs, in each tenth and in "
        "the last epoch."
    )
    missing = ["the angle of views to the teacher itself was not recorded by the version that ran this study"]
    said = [] if any(material.course(name) for name in ("teacher_cosine", "teacher_cosine_prob")) else missing
    parts: list[Part] = [Figure("Angles, margins and gates over epochs", panels, caption, arms)]
    return Section("geometry", "Geometry of the views", [*parts, *([Sentences(said)] if said else [])])


def _curves(
    material: Material, column: str, of: Callable[[Floats], Floats], rows: Mapping[str, Row]
) -> dict[str, list[Curve]]:
    groups: dict[str, list[Curve]] = {}
    for trial, (epochs, values) in material.course(column).items():
        held = np.isfinite(values)
        if trial in rows and held.any():
            row = rows[trial]
            curve = Curve(trial, str(row["arm"]), str(row["role"]), str(row["status"]), epochs[held], of(values[held]))
            groups.setdefault(curve.arm, []).append(curve)
    return groups


def _trials(material: Material, arm: str, group: Sequence[Curve]) -> Iterator[Line]:
    look = material.looks[arm]
    for curve in group:
        said = f"{curve.trial_id}, {arm}: {number(float(curve.values[-1]))} after epoch {int(curve.epochs[-1])}"
        yield Line(curve.epochs, curve.values, f"{look.name} ln one", said, look.shape)


def _mean(material: Material, arm: str, group: Sequence[Curve]) -> Line:
    look, (epochs, means) = material.looks[arm], curves_report.mean_of(group)
    return Line(epochs, means, f"{look.name} {look.line} bold", f"{arm}, mean of {len(group)} trials", look.shape)

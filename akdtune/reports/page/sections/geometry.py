"""How views lie over the epochs, about their teacher, and whether their ensemble is calibrated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from markupsafe import Markup

from akdtune.reports import curves as curves_report
from akdtune.reports.curves import Curve
from akdtune.reports.diversity.measured import is_viewless
from akdtune.reports.geometry import calibration, trial_offsets
from akdtune.reports.geometry.calibration import WHO, Calibration, TrialCalibration, calibration_of, pooled
from akdtune.reports.geometry.courses import MEASURES, READING, groups_of
from akdtune.reports.geometry.trial_offsets import offsets_of
from akdtune.reports.left_out import left_out_text
from akdtune.reports.page.content import Figure, LeftOut, Panel, Part, Section, Sentences, Table
from akdtune.reports.page.drawing import lines, points, svg
from akdtune.reports.page.drawing.axes import Margins, plot
from akdtune.reports.page.drawing.lines import Line
from akdtune.reports.page.drawing.looks import Look, look
from akdtune.reports.page.drawing.points import Point
from akdtune.reports.page.material import Material
from akdtune.reports.text import number
from akdtune.statistics.calibration import BINS
from akdtune.statistics.reliability import DRAWS

TRIALS_DRAWN = 200
"""Thin lines of a plot."""


def geometry(material: Material) -> Section | LeftOut:
    """Angles of views to their teacher and to each other, margins and gates, offsets and calibration, by arm."""
    parts = [*_courses(material), *_offsets(material), *_calibration(material)]
    if not parts:
        return LeftOut("Geometry of the views", "no trial has views whose angles or gates were measured")
    return Section("geometry", "Geometry of the views", parts)


def _courses(material: Material) -> Iterator[Part]:
    ended = [row for row in material.rows if row["status"] == "done"]
    rows = {str(row["trial_id"]): row for row in ended or material.rows if not is_viewless(str(row["arm"]))}
    panels: list[Panel] = []
    arms: dict[str, Look] = {}
    for column, (title, unit, of) in MEASURES.items():
        groups = groups_of(material.course(column), of, rows)
        if not groups:
            continue
        arms |= {arm: material.looks[arm] for arm in groups}
        thin = [line for arm, group in groups.items() for line in _trials(material, arm, group)]
        drawn = [*thin[:TRIALS_DRAWN], *(_mean(material, arm, group) for arm, group in groups.items())]
        name = f"{title}, {unit}, mean of each arm over epochs"
        panels.append(Panel(lines.panel(title, drawn, name=name, y_label=unit)))
    if not panels:
        return
    caption = f"Thin: a trial that is done; bold: mean of its arm. {_sentence(READING)}"
    yield Figure("Angles, margins and gates over epochs", panels, caption, arms)
    if not any(material.course(name) for name in ("teacher_cosine", "teacher_cosine_prob")):
        missing = "the angle of views to the teacher itself was not recorded by the version that ran this study"
        yield Sentences([missing])


def _trials(material: Material, arm: str, group: Sequence[Curve]) -> Iterator[Line]:
    own = material.looks[arm]
    for curve in group:
        said = f"{curve.trial_id}, {arm}: {number(float(curve.values[-1]))} after epoch {int(curve.epochs[-1])}"
        yield Line(curve.epochs, curve.values, f"{own.name} ln one", said, own.shape)


def _mean(material: Material, arm: str, group: Sequence[Curve]) -> Line:
    own, (epochs, means) = material.looks[arm], curves_report.mean_of(group)
    return Line(epochs, means, f"{own.name} {own.line} bold", f"{arm}, mean of {len(group)} trials", own.shape)


def _offsets(material: Material) -> Iterator[Part]:
    """The table of offsets; nothing in a study that kept no features."""
    found = offsets_of(material.run, material.rows)
    if not found.trials:
        return
    right = tuple(range(1, len(trial_offsets.HEADINGS)))
    rows = trial_offsets.arm_rows(found)
    yield Table("Offsets of the views' features", trial_offsets.HEADINGS, rows, right, material.looks)
    yield Sentences([_sentence(said) for said in (trial_offsets.READING, left_out_text(found.left_out)) if said])


def _calibration(material: Material) -> Iterator[Part]:
    """Reliability and errors; nothing in a study that kept no answers of views."""
    found = calibration_of(material.run, material.rows, draws=DRAWS)
    if not found.trials:
        return
    looks = {who: look(place) for place, who in enumerate(WHO)}
    drawn = [Panel(reliability_plot(arm, trials, looks)) for arm, trials in found.arms.items()]
    caption = f"Accuracy against confidence, {BINS} bins over all trials of an arm; line: calibrated."
    yield Figure("Calibration of ensemble, teacher and student", drawn, caption, looks)
    yield _errors(found, material)
    yield Sentences(
        [_sentence(said) for said in (calibration.READING, *found.sentences, left_out_text(found.left_out)) if said]
    )


def reliability_plot(arm: str, trials: Sequence[TrialCalibration], looks: dict[str, Look]) -> Markup:
    """Accuracy against confidence of ensemble, teacher and student in one arm."""
    drawn = plot(
        f"calibration in {arm}: accuracy against confidence of ensemble, teacher and student", [0, 100], [0, 100],
        x_label="confidence, %", y_label="accuracy, %", title=arm, margins=Margins(left=46, top=42),
    )  # fmt: skip
    drawn.add(svg.path([drawn.at(0, 0), drawn.at(100, 100)], "ln grid"))
    for who in WHO:
        counts_B, confidence_B, accuracy_B = pooled(trials, who)
        held = np.flatnonzero(counts_B)
        own = looks[who]
        drawn.add(svg.path([drawn.at(float(confidence_B[b]), float(accuracy_B[b])) for b in held], f"{own.name} ln"))
        points.draw(
            drawn,
            (Point(float(confidence_B[b]), float(accuracy_B[b]),
                   f"{who}: {number(float(accuracy_B[b]), 1)} % right at {number(float(confidence_B[b]), 1)} %, "
                   f"{int(counts_B[b]):,} images", own)
             for b in held),
        )  # fmt: skip
    return drawn.drawing()


def _errors(found: Calibration, material: Material) -> Table:
    right = tuple(range(1, len(calibration.ARM_HEADINGS)))
    caption = "Calibration, means over trials"
    return Table(caption, calibration.ARM_HEADINGS, calibration.arm_rows(found), right, material.looks)


def _sentence(said: str) -> str:
    return f"{said[0].upper()}{said[1:]}." if said else said

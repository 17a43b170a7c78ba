"""Figures of the views' geometry: courses over epochs, planes of offsets, reliability."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import ceil
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np

from akdtune.reports.diversity.measured import arms_in_order
from akdtune.reports.figures import BOTH, COLOURS, GREY, MARKERS, Sheet, image_files, sheet, suptitle
from akdtune.reports.geometry.calibration import WHO, Calibration, TrialCalibration, pooled
from akdtune.reports.geometry.courses import MEASURES, Course
from akdtune.reports.geometry.offsets import OffsetPlane
from akdtune.reports.geometry.trial_offsets import Offsets
from akdtune.reports.text import counted, number
from akdtune.statistics.resampling import Floats

COLUMNS = 3
ARMS_SHOWN = 9
"""Panels of a figure that has one an arm."""
Style: TypeAlias = Literal["-", "--", ":", "-."]
_STYLES: tuple[Style, ...] = ("-", "--", ":", "-.")
Trial = TypeVar("Trial")


def draw(
    courses: Sequence[Course], offsets: Offsets, calibration: Calibration, name: str, kinds: Sequence[str] = BOTH
) -> dict[str, bytes]:
    """The figures that there is something for, by file name, as every kind."""
    return image_files({f"geometry_{stem}": drawn for stem, drawn in
                        sheets(courses, offsets, calibration, name).items()}, kinds)  # fmt: skip


def sheets(courses: Sequence[Course], offsets: Offsets, calibration: Calibration, name: str) -> dict[str, Sheet]:
    """Figures by name: epochs, offsets, calibration."""
    drawn: dict[str, Sheet] = {}
    if courses:
        drawn["epochs"] = course_panels(courses, name)
    if offsets.trials:
        drawn["offsets"] = offset_panels(offsets, name)
    if calibration.trials:
        drawn["calibration"] = reliability_panels(calibration, name)
    return drawn


def course_panels(courses: Sequence[Course], name: str) -> Sheet:
    """A panel a measure: a thin line a trial, a bold one for the mean of each arm."""
    measures = [measure for measure in MEASURES if any(course.measure == measure for course in courses)]
    looks = {arm: (COLOURS[index % len(COLOURS)], _STYLES[index // len(COLOURS) % len(_STYLES)])
             for index, arm in enumerate(arms_in_order(course.arm for course in courses))}  # fmt: skip
    columns = min(COLUMNS, len(measures))
    rows = ceil(len(measures) / columns)
    with sheet(max(4.6, 3.3 * columns), 0.9 + 2.2 * rows) as drawn:
        axes = drawn.figure.subplots(rows, columns, squeeze=False)
        for place, axis in enumerate(axes.flat):
            if place >= len(measures):
                axis.set_visible(False)
                continue
            title, unit, _ = MEASURES[measures[place]]
            shown = [course for course in courses if course.measure == measures[place]]
            for course in shown:
                _draw_course(axis, course, *looks[course.arm])
            axis.set_title(title, loc="left")
            axis.set_ylabel(unit)
            axis.xaxis.get_major_locator().set_params(integer=True)
            if len(epochs := {epoch for course in shown for epoch in course.mean[0]}) == 1:
                axis.set_xticks(list(epochs))
            axis.grid(color="#e6e6e6", linewidth=0.5)
            axis.set_axisbelow(True)
            if place >= len(measures) - columns:
                axis.set_xlabel("epoch")
        suptitle(drawn.figure, f"{name}: angles, margins and gates over epochs")
        _legend(drawn.figure, looks)
    return drawn


def _draw_course(axis: Any, course: Course, colour: str, style: Style) -> None:
    for curve in course.curves:
        alone = len(curve.epochs) == 1
        axis.plot(curve.epochs, curve.values, color=colour, linewidth=0.7, alpha=0.35, linestyle=style,
                  marker="." if alone else "", zorder=2)  # fmt: skip
    epochs, means = course.mean
    axis.plot(
        epochs, means, color=colour, linewidth=2.2, linestyle=style, marker="o" if len(epochs) == 1 else "", zorder=3
    )


def _legend(figure: Any, looks: Mapping[str, tuple[str, Style]]) -> None:
    from matplotlib.lines import Line2D  # late: reports without a figure do not wait for it

    handles = [
        Line2D([], [], color=colour, linestyle=style, linewidth=2.2, label=arm)
        for arm, (colour, style) in looks.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)


def offset_panels(offsets: Offsets, name: str) -> Sheet:
    """A panel an arm: offsets of the first trial's views on their plane, the teacher at the cross."""
    return _arm_panels(
        offsets.arms,
        lambda axis, trials: _draw_plane(axis, trials[0].plane),
        lambda trials: trials[0].trial_id,
        f"{name}: offsets of the views' features from their teacher (cross), first trial an arm",
        "a point an image, a large mark the mean of a view; unit: mean length of the teacher's feature",
    )


def _arm_panels(
    arms: Mapping[str, list[Trial]],
    draw_trials: Callable[[Any, list[Trial]], None],
    beside: Callable[[list[Trial]], str],
    title: str,
    footnote: str,
) -> Sheet:
    """A panel for each of the first arms, drawn from its trials; `beside` stands after the arm's name."""
    shown = dict(list(arms.items())[:ARMS_SHOWN])
    columns = min(COLUMNS, len(shown))
    rows = ceil(len(shown) / columns)
    with sheet(max(4.6, 3.3 * columns), 0.95 + 3.0 * rows) as drawn:
        axes = drawn.figure.subplots(rows, columns, squeeze=False)
        for axis, (arm, trials) in zip(axes.flat, shown.items(), strict=False):
            draw_trials(axis, trials)
            axis.set_title(f"{arm}, {beside(trials)}", loc="left")
        for axis in axes.flat[len(shown) :]:
            axis.set_visible(False)
        suptitle(drawn.figure, title)
        drawn.figure.supxlabel(footnote, fontsize=7.5, color=GREY, x=0.01, ha="left")
    return drawn


def _draw_plane(axis: Any, plane: OffsetPlane) -> None:
    axis.axhline(0, color="#dddddd", linewidth=0.6, zorder=1)
    axis.axvline(0, color="#dddddd", linewidth=0.6, zorder=1)
    for index, view in enumerate(plane.views):
        colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
        axis.scatter(view.shown_S2[:, 0], view.shown_S2[:, 1], s=4, c=colour, alpha=0.25, linewidths=0, zorder=2,
                     rasterized=True)  # fmt: skip
        axis.plot(*view.mean_2, marker=marker, color=colour, markersize=8, markeredgecolor="white", zorder=4,
                  linestyle="", label=f"view {index + 1}")  # fmt: skip
    axis.plot(0, 0, marker="+", color="black", markersize=10, markeredgewidth=1.6, zorder=5)
    for axis_name, share, label in zip("xy", plane.shares_2, ("axis 1", "axis 2"), strict=True):
        getattr(axis, f"set_{axis_name}label")(f"{label}, {number(100 * share, 0)} % of the variance")
    axis.set_aspect("equal", adjustable="datalim")
    axis.legend(fontsize=7, frameon=False, loc="best", handletextpad=0.2)


def reliability_panels(calibration: Calibration, name: str) -> Sheet:
    """A panel an arm: accuracy against confidence of ensemble, teacher and student, over the arm's trials."""
    return _arm_panels(
        calibration.arms,
        _draw_reliability,
        lambda trials: counted(len(trials), "trial"),
        f"{name}: calibration of ensemble, teacher and student",
        "bins of equal width over all trials of an arm; area of a mark: images; line: calibrated",
    )


def _draw_reliability(axis: Any, trials: Sequence[TrialCalibration]) -> None:
    axis.plot([0, 100], [0, 100], color=GREY, linewidth=0.9, zorder=1)
    for index, who in enumerate(WHO):
        counts_B, confidence_B, accuracy_B = pooled(trials, who)
        error = float(np.mean([trial.compared.of[who].error.value for trial in trials]))
        axis.plot(confidence_B, accuracy_B, color=COLOURS[index], linewidth=1.1, zorder=2)
        axis.scatter(
            confidence_B, accuracy_B, s=_areas(counts_B), c=COLOURS[index], marker=MARKERS[index], zorder=3,
            linewidths=0.4, edgecolors="white", clip_on=False, label=f"{who}, ECE {number(error, 1)}",
        )  # fmt: skip
    axis.set_xlim(0, 100)
    axis.set_ylim(0, 100)
    axis.set_xlabel("confidence (%)")
    axis.set_ylabel("accuracy (%)")
    axis.grid(color="#e6e6e6", linewidth=0.5)
    axis.set_axisbelow(True)
    axis.legend(fontsize=7, frameon=False, loc="upper left", handletextpad=0.2)


def _areas(counts_B: Floats) -> Floats:
    return np.asarray(8 + 90 * counts_B / counts_B.max())

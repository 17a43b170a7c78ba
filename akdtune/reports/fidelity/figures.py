"""Figures of attention and fidelity: maps of some images with their thresholds, and overlap beside what students do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from akdtune.reports.fidelity.maps import iou, scaled, upsampled
from akdtune.reports.fidelity.measured import AttentionMaps, Kind, StudentMeasured
from akdtune.reports.fidelity.relations import OUTCOMES, Outcome, RankRelation
from akdtune.reports.fidelity.report import Relations
from akdtune.reports.fidelity.study import StudyFidelity
from akdtune.reports.figures import COLOURS, GREY, MARKERS, Sheet, sheet, suptitle
from akdtune.reports.text import interval, signed

STUDIES_SHOWN = 3
"""Of which maps are drawn."""
KIND_WORDS = {"sum": "maps summed over all classes", "predicted": "maps of the predicted class"}


def sheets(studies: Sequence[StudyFidelity], found: Relations, kind: Kind, threshold: float) -> dict[str, Sheet]:
    """The figures by the stem of their files' names; those that there is something for."""
    drawn = {"fidelity": scatter(studies, found, kind)}
    with_maps = [study for study in studies if study.shown is not None]
    if with_maps:
        drawn["fidelity_maps"] = maps(with_maps[:STUDIES_SHOWN], kind, threshold)
    return drawn


# ------------------------------------------------------------------------------------------------------ maps


def maps(studies: Sequence[StudyFidelity], kind: Kind, threshold: float) -> Sheet:
    """Scaled maps of teachers, views and a student, an image a row, and the line at which they count as attended."""
    shown = [(study, study.shown) for study in studies if study.shown is not None]
    columns = max(len(held.networks) for _, held in shown)
    rows = sum(len(held.ids_N) for _, held in shown)
    with sheet(1.5 + 1.15 * columns, 0.9 + 1.1 * rows + 0.45 * len(shown)) as drawn:
        suptitle(
            drawn.figure,
            f"{KIND_WORDS[kind]}, dark 0 to bright 1\nline: attended above "
            f"{threshold:g}; IoU of the image with teacher 1",
        )
        parts = drawn.figure.subfigures(len(shown), 1, squeeze=False, height_ratios=_heights(shown))[:, 0]
        for part, (study, held) in zip(parts, shown, strict=True):
            part.suptitle(f"{study.name}, student of trial {study.shown_trial}", x=0.01, ha="left", fontsize=8.5)
            _draw_maps(part, held, columns, kind, threshold)
    return drawn


def _heights(shown: Sequence[tuple[StudyFidelity, AttentionMaps]]) -> list[float]:
    return [0.45 + 1.1 * len(held.ids_N) for _, held in shown]


def _draw_maps(part: Any, held: AttentionMaps, columns: int, kind: Kind, threshold: float) -> None:
    """A study's rows of images."""
    axes = part.subplots(len(held.ids_N), columns, squeeze=False)
    by_network = {
        name: scaled(upsampled(by_kind[kind], held.height, held.width)) for name, by_kind in held.networks.items()
    }
    first = next(iter(by_network))
    for axis in axes.flat:
        axis.set_axis_off()
    for row, sample in enumerate(held.ids_N.tolist()):
        for column, (name, maps_NHW) in enumerate(by_network.items()):
            axis, map_HW = axes[row, column], maps_NHW[row]
            axis.imshow(map_HW, vmin=0, vmax=1, cmap="cividis", interpolation="nearest")
            if map_HW.min() <= threshold < map_HW.max():
                axis.contour(map_HW, levels=[threshold], colors="#D55E00", linewidths=1.1)
            title = name if row == 0 else ""
            if column:
                masks = [(of_NHW[row] > threshold).reshape(1, -1) for of_NHW in (maps_NHW, by_network[first])]
                shared = iou(*masks)
                title += ("\n" if title else "") + ("IoU n/a" if shared is None else f"IoU {shared:.2f}")
            else:
                title += ("\n" if title else "") + f"image {sample}"
            axis.set_title(title, fontsize=7.5, pad=2)


# --------------------------------------------------------------------------------------------------- scatter


def scatter(studies: Sequence[StudyFidelity], found: Relations, kind: Kind) -> Sheet:
    """Outcomes of students against the overlap of their teachers, or, of one study, against that with their teachers.

    A point is a trial, a line joins the means of a cell over studies.
    """
    several = not isinstance(found, str)
    outcomes = [outcome for outcome in OUTCOMES if _points(studies, outcome, kind, several=several)]
    cells = list(dict.fromkeys(student.cell for study in studies for student in study.students))
    looks = {
        cell: (COLOURS[i % len(COLOURS)], MARKERS[(i + i // len(COLOURS)) % len(MARKERS)])
        for i, cell in enumerate(cells)
    }
    with sheet(3.1 * max(2, len(outcomes)), 3.7) as drawn:
        what = "overlap of the teachers' attention" if several else "overlap of attention with the teachers"
        suptitle(drawn.figure, f"{what} and what students do (association, not effect); {KIND_WORDS[kind]}")
        axes = drawn.figure.subplots(1, max(1, len(outcomes)), squeeze=False)[0]
        for axis, outcome in zip(axes, outcomes, strict=False):
            relation = None if isinstance(found, str) else next(one for one in found if one.outcome is outcome)
            _draw_outcome(axis, studies, outcome, kind, looks, relation)
        if not outcomes:
            axes[0].set_axis_off()
            axes[0].text(0, 0.5, "no attention maps are recorded (record: {attention: N})", fontsize=9)
        _legend(drawn.figure, looks, studies)
    return drawn


Point = tuple[str, float, float, bool]
"""Cell, overlap, outcome, and whether the student was taught."""


def _points(studies: Sequence[StudyFidelity], outcome: Outcome, kind: Kind, *, several: bool) -> list[Point]:
    points = []
    for study in studies:
        for student in study.students:
            x, y = _overlap(study, student, kind, several=several), outcome.of(student)
            if x is not None and y is not None:
                points.append((student.cell, x, y, student.taught))
    return points


def _overlap(study: StudyFidelity, student: StudentMeasured, kind: Kind, *, several: bool) -> float | None:
    if several:
        return study.teachers.iou(kind)
    pair = student.with_teachers(kind)
    return None if pair is None else pair[0]


def _draw_outcome(
    axis: Any,
    studies: Sequence[StudyFidelity],
    outcome: Outcome,
    kind: Kind,
    looks: dict[str, tuple[str, str]],
    relation: RankRelation | None,
) -> None:
    points = _points(studies, outcome, kind, several=relation is not None)
    for cell, (colour, marker) in looks.items():
        mine = [(x, y, taught) for name, x, y, taught in points if name == cell]
        if not mine:
            continue
        x_N, y_N = np.array([(x, y) for x, y, _ in mine]).T
        hollow: dict[str, str] = {} if mine[0][2] else {"markerfacecolor": "white"}
        axis.plot(x_N, y_N, linestyle="", marker=marker, color=colour, markersize=4.5, alpha=0.75, zorder=3, **hollow)
        if relation is not None and len(set(x_N.tolist())) > 1:
            places = np.unique(x_N)
            means = [float(y_N[x_N == place].mean()) for place in places]
            look = "-" if mine[0][2] else ":"
            axis.plot(places, means, color=colour, linewidth=1.2, linestyle=look, zorder=2)
    title = ""
    if relation is not None and relation.over_arms is not None:
        rho = relation.over_arms
        title = f"rank correlation {signed(rho.value)} {interval(rho.low, rho.high)}\n{relation.arms} arms taught"
    axis.set_title(title, loc="left")
    axis.set_xlabel("IoU of the teachers" if relation is not None else "IoU with the teachers")
    unit = f" ({outcome.unit})" if outcome.unit else ""
    axis.set_ylabel(f"{outcome.title}{unit}")
    axis.grid(color="#e6e6e6", linewidth=0.5, zorder=0)
    axis.locator_params(axis="x", nbins=5)


def _legend(figure: Any, looks: dict[str, tuple[str, str]], studies: Sequence[StudyFidelity]) -> None:
    from matplotlib.lines import Line2D  # late: reports without a figure do not wait for it

    taught = {student.cell for study in studies for student in study.taught}
    handles = [
        Line2D([], [], color=colour, marker=marker, linestyle="", markersize=5,
               markerfacecolor=colour if cell in taught else "white",
               label=cell if cell in taught else f"{cell} (not taught, not in the correlation)")
        for cell, (colour, marker) in looks.items()
    ]  # fmt: skip
    names = ", ".join(study.name for study in studies)
    figure.legend(handles=handles, loc="outside lower center", ncols=min(4, max(1, len(handles))), frameon=False,
                  title=names if len(names) < 100 else None, title_fontsize=7.5, labelcolor=GREY)  # fmt: skip

"""Accuracy by number of inputs, for each kind of inputs and score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from akdtune.reports.detection.judged import Detection, Judged, Rate
from akdtune.reports.detection.outputs import KINDS
from akdtune.reports.detection.scores import SCORES
from akdtune.reports.detection.verdict import counts_of, share
from akdtune.reports.figures import BOTH, COLOURS, GREY, MARKERS, Sheet, image_files, sheet, suptitle

APART = 0.16
"""Between two scores at the same number of inputs, as a share of the step to the next number."""

ROWS: Mapping[Judged, str] = {"distilled": "students of these teachers", "control": "students without a teacher"}


def draw(detection: Detection, name: str, kinds: Sequence[str] = BOTH) -> dict[str, bytes]:
    """The figure by file name, as every kind of file; empty where no student's teacher is known."""
    drawn = accuracy(detection, name)
    return {} if drawn is None else image_files({"detection": drawn}, kinds)


def accuracy(detection: Detection, name: str) -> Sheet | None:
    """A column for each kind of inputs, a row for students with and without a teacher; None without any of them.

    Args:
        detection: what was found.
        name: what it is of, for the title.
    """
    rows = [group for group in ROWS if any(rate.group == group for rate in detection.rates)]
    columns = [kind for kind in KINDS if any(rate.inputs == kind for rate in detection.rates)]
    if not rows:
        return None
    with sheet(2.0 + 2.9 * len(columns), 1.1 + 2.5 * len(rows)) as drawn:
        suptitle(drawn.figure, f"{name}: which of {len(detection.teachers)} teachers was it?")
        axes = drawn.figure.subplots(len(rows), len(columns), sharex=True, sharey=True, squeeze=False)
        for of_row, group in zip(axes, rows, strict=True):
            for axis, kind in zip(of_row, columns, strict=True):
                _panel(axis, detection, group, kind)
            of_row[0].set_ylabel(f"accuracy, {ROWS[group]}")
        for axis, kind in zip(axes[0], columns, strict=True):
            axis.set_title(f"{kind} inputs", loc="left", fontweight="bold")
        for axis in axes[-1]:
            axis.set_xlabel("inputs, N")
        _legend(drawn.figure, detection, min(6, 2 * len(columns)))
    return drawn


def _panel(axis: Any, detection: Detection, group: Judged, kind: str) -> None:
    counts = counts_of(detection)
    axis.axhline(detection.chance, color=GREY, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    students = 0
    for index, score in enumerate(SCORES):
        rates = detection.of(group, score, kind)
        students = max([students, *(rate.students for rate in rates)])
        shift = (index - (len(SCORES) - 1) / 2) * APART
        _line(axis, [counts.index(rate.count) + shift for rate in rates], rates, COLOURS[index], MARKERS[index])
    axis.set_xticks(range(len(counts)), [f"{count:,}" for count in counts])
    axis.set_xlim(-0.5, len(counts) - 0.5)
    axis.set_ylim(-0.03, 1.03)
    axis.grid(axis="y", color="#e6e6e6", linewidth=0.5, zorder=0)
    axis.set_axisbelow(True)
    axis.set_title(f"n = {students}", loc="right", color=GREY, fontsize=8)  # in the panel it would meet an interval


def _line(axis: Any, x: Sequence[float], rates: Sequence[Rate], colour: str, marker: str) -> None:
    look = {"color": colour, "zorder": 3}
    axis.plot(x, [rate.accuracy for rate in rates], marker=marker, markersize=5, linewidth=1, markeredgecolor="white",
              markeredgewidth=0.5, **look)  # fmt: skip
    for place, rate in zip(x, rates, strict=True):
        axis.plot([place, place], [rate.low, rate.high], linewidth=1.2, marker="_", markersize=4, **look)


def _legend(figure: Any, detection: Detection, columns: int) -> None:
    from matplotlib.lines import Line2D  # late: reports without a figure do not wait for it

    handles: list[Any] = [
        Line2D([], [], color=COLOURS[index], marker=MARKERS[index], markersize=5, linewidth=1, label=facts.label)
        for index, facts in enumerate(SCORES.values())
    ]
    handles.append(Line2D([], [], color=GREY, linewidth=1, marker="|", label="95 % interval, exact"))
    label = f"chance, {share(detection.chance)}"
    handles.append(Line2D([], [], color=GREY, linewidth=1, linestyle=(0, (4, 3)), label=label))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, columnspacing=1.4)

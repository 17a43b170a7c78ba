"""The figure of functional transfer: where students gain agreement, of what they could gain, and the four cells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from akdtune.reports.figures import (
    BOTH,
    COLOURS,
    GREY,
    Bar,
    Sheet,
    at_right,
    draw_span,
    forest_limits,
    image_files,
    sheet,
    suptitle,
)
from akdtune.reports.text import MINUS, signed
from akdtune.reports.transfer.comparison import PARTS, Comparison, Finding
from akdtune.reports.transfer.measures import CELLS
from akdtune.reports.transfer.verdict import mean_of
from akdtune.statistics.blocks import MeanDifference

LOOKS: Mapping[str, tuple[str, str, str]] = {
    "agreement_right": (COLOURS[0], "o", "where the teacher is right (c+)"),
    "agreement_wrong": (COLOURS[1], "s", "where the teacher is wrong (c\N{MINUS SIGN})"),
}
"""Colour, marker and words of the two parts."""

BARS: Mapping[str, tuple[str, str, str]] = {
    "right_agree": ("#0072B2", "", "teacher right, student agrees"),
    "right_differ": ("#a9d3ec", "///", "right, differs"),
    "wrong_agree": ("#D55E00", "", "teacher wrong, student agrees"),
    "wrong_differ": ("#f3c6a0", "///", "wrong, differs"),
}
"""Colour, hatch and words of the four cells; hatches repeat what colours say."""

APART = 0.13
FARTHEST = 1.0
"""Controls that lie farther beyond what the cells span than so many times its width do not set the axis."""


def draw(comparison: Comparison, name: str, kinds: Sequence[str] = BOTH) -> dict[str, bytes]:
    """The figure by file name, as every kind; `{}` where no cell has a student."""
    return image_files({"transfer": split(comparison, name)}, kinds) if comparison.students.cells else {}


def split(comparison: Comparison, name: str) -> Sheet:
    """A row for each cell: gains in points and as a share of the headroom with intervals, and the four cells.

    Args:
        comparison: what is drawn.
        name: of the studies, for the title.
    """
    students = comparison.students
    findings = {finding.cell.label: finding for finding in comparison.findings}
    first = [cell.label for cell in students.cells if cell.label not in findings]
    labels = [*first, *sorted(findings, key=lambda label: not findings[label].is_setup)]
    heights = [float(index) for index in range(len(labels))]
    with sheet(11.5, 1.75 + 0.34 * len(labels)) as drawn:
        figure = drawn.figure
        points, shares, cells = figure.subplots(1, 3, sharey=True, gridspec_kw={"width_ratios": [3, 3, 3.4]})
        of_points = {label: _in_points(finding) for label, finding in findings.items()}
        of_shares = {label: finding.gained for label, finding in findings.items()}
        for axis, gains in ((points, of_points), (shares, of_shares)):
            limits = forest_limits(list(_bars(comparison, gains)), None, FARTHEST)
            axis.set_xlim(limits)
            for height, label in zip(heights, labels, strict=True):
                if label in findings:
                    _draw_gains(axis, height, gains[label], limits)
        against = " and ".join(sorted(students.controls)) or "none"
        for axis, title, unit in (
            (points, f"agreement gained over {against}", "points [95 %]"),
            (shares, "the same, of what it left to gain", "% of the headroom [95 %]"),
        ):
            axis.axvline(0, color=GREY, linewidth=0.9, zorder=1)
            axis.grid(axis="x", color="#e6e6e6", linewidth=0.5, zorder=0)
            axis.set_axisbelow(True)
            axis.set_title(title, loc="left")
            axis.set_xlabel(unit)
            axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", MINUS))
        points.set_ylim(len(labels) - 0.4, -1.0)
        points.set_yticks(heights, labels)
        _draw_cells(cells, comparison, labels, heights)
        for axis in (points, shares, cells):
            axis.tick_params(axis="y", length=0)
            axis.spines["left"].set_visible(False)
        suptitle(figure, f"{name}: agreement with the teacher, where it is right and where it is wrong")
        _legend(figure, arrows=any(_is_beyond(axis) for axis in (points, shares)))
    return drawn


def _in_points(finding: Finding) -> dict[str, MeanDifference]:
    return {name: finding.compared[name].difference for name in PARTS if name in finding.compared}


def _bars(comparison: Comparison, gains: Mapping[str, Mapping[str, MeanDifference]]) -> Iterator[Bar]:
    """What an axis holds."""
    for finding in comparison.findings:
        for gained in gains[finding.cell.label].values():
            if gained.value is not None:
                yield Bar("", gained.value, gained.low, gained.high, None, None, 0, None, not finding.is_setup)


def _draw_gains(axis: Any, height: float, gains: Mapping[str, MeanDifference], limits: tuple[float, float]) -> None:
    """Both parts; an arrow at the edge for what lies beyond the plot, with its value beside it."""
    for shift, part in zip((-APART, APART), PARTS, strict=True):
        gained = gains.get(part)
        if gained is None or gained.value is None:
            continue
        colour, marker, _ = LOOKS[part]
        within = limits[0] <= gained.value <= limits[1]
        low, high = (gained.value if end is None else end for end in (gained.low, gained.high))
        if gained.low is not None or not within:
            look = {"color": colour, "linewidth": 2, "solid_capstyle": "butt"}
            draw_span(axis, height + shift, low, high, limits, look)
        if within:
            axis.plot(
                gained.value, height + shift, marker, color=colour, markersize=5.5, zorder=4, markeredgecolor="white",
                markeredgewidth=0.6,
            )  # fmt: skip
        else:
            right = gained.value > limits[1]
            axis.annotate(
                signed(gained.value, 1), (limits[right], height + shift), (-7 if right else 7, 0),
                textcoords="offset points", ha="right" if right else "left", va="center", fontsize=6, color=colour,
            )  # fmt: skip


def _draw_cells(axis: Any, comparison: Comparison, labels: Sequence[str], heights: Sequence[float]) -> None:
    """The four cells of each row, which sum to all images."""
    texts = []
    for height, label in zip(heights, labels, strict=True):
        left, shown = 0.0, []
        for cell in CELLS:
            share = mean_of(comparison.students, label, cell) or 0.0
            colour, hatch, _ = BARS[cell]
            axis.barh(height, share, left=left, height=0.62, color=colour, hatch=hatch, edgecolor="white", linewidth=0)
            left += share
            shown.append(f"{share:.1f}")
        texts.append("  ".join(shown))
    axis.set_xlim(0, 100)
    axis.set_title("four cells", loc="left")
    axis.set_xlabel("% of the judged images, mean of students")
    at_right(axis, heights, texts, "each cell, %", -0.75)


def _is_beyond(axis: Any) -> bool:
    """Whether a value stands in words at the edge of the plot."""
    return bool(axis.texts)


def _legend(figure: Any, *, arrows: bool) -> None:
    # late: reports without a figure do not wait for it
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [
        Line2D([], [], color=colour, marker=marker, linewidth=2, markeredgecolor="white", label=words)
        for colour, marker, words in LOOKS.values()
    ]
    handles += [
        Patch(facecolor=colour, hatch=hatch, edgecolor="white", linewidth=0, label=words)
        for colour, hatch, words in BARS.values()
    ]
    if arrows:
        handles.append(Line2D([], [], color=GREY, marker=">", linestyle="", label="beyond the plot, values beside it"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, columnspacing=1.6)

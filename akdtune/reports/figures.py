"""Figures of reports: one look, one way to files; what they show is computed elsewhere."""

from __future__ import annotations

import argparse
import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np

from akdtune import progress
from akdtune.reports.backend import load_matplotlib
from akdtune.reports.text import MINUS, interval, probability, signed

# Okabe and Ito's palette without its yellow, told apart under every common colour blindness; shapes repeat the code.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "v", "P", "X", "d")
STYLE: Any = {
    "font.size": 8.5, "axes.titlesize": 8.5, "axes.labelsize": 8.5, "legend.fontsize": 8.5, "axes.linewidth": 0.6,
    "axes.spines.top": False, "axes.spines.right": False, "xtick.major.width": 0.6, "ytick.major.width": 0.6,
    "svg.fonttype": "none", "svg.hashsalt": "akdtune", "pdf.fonttype": 42, "axes.formatter.use_mathtext": True,
}  # fmt: skip
GREY, BAND = "#555555", "#ececec"
DASH = "\N{EN DASH}"
COLUMNS = 4
"""Panels side by side."""
LONGEST = 4.0
"""Of an interval in a forest plot, as a multiple of the median one's length."""

PNG_DPI, IMAGE_DPI = 200, 120
"""Of a PNG, and of what stands in an SVG or a PDF as an image."""

FORMATS: Mapping[str, tuple[str, ...]] = {
    "png": ("png",), "svg": ("svg",), "pdf": ("pdf",), "both": ("png", "svg"), "all": ("png", "svg", "pdf"),
}  # fmt: skip
"""What `--format` of an analysis may say, and the kinds of files that it means."""
BOTH = FORMATS["both"]

_STAMP: ContextVar[str] = ContextVar("stamp", default="")


@contextlib.contextmanager
def stamped(text: str) -> Iterator[None]:
    """Figures that are drawn within it have a small grey text along their right edge, from the bottom."""
    before = _STAMP.set(text)
    try:
        with progress.stage("drawing the figures"):
            yield
    finally:
        _STAMP.reset(before)


class Sheet:
    """A figure that is being drawn in a `sheet` block, and what can be had of it once the block has ended."""

    def __init__(self, figure: Any) -> None:
        self.figure = figure
        self._images: dict[str, bytes] = {}

    @property
    def files(self) -> dict[str, bytes]:
        """The figure as PNG and SVG."""
        return {kind: self.image(kind) for kind in BOTH}

    def image(self, kind: str) -> bytes:
        """The figure as a file, the same bytes whenever it is drawn; its layout is fixed from then on.

        Args:
            kind: png, svg, or pdf with text that stays text.
        """
        if kind not in self._images:
            self._images[kind] = self._drawn(kind)
        return self._images[kind]

    def _drawn(self, kind: str) -> bytes:
        # late: reports without a figure do not wait for it
        import matplotlib as mpl
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.backends.backend_pdf import FigureCanvasPdf
        from matplotlib.backends.backend_svg import FigureCanvasSVG

        figure, held = self.figure, io.BytesIO()
        with mpl.rc_context(STYLE):
            if not self._images:
                FigureCanvasAgg(figure)
                figure.get_layout_engine().execute(figure)
                figure.set_layout_engine("none")  # savefig would go through the whole figure once more for each format
            figure.set_dpi(PNG_DPI if kind == "png" else IMAGE_DPI)
            if kind == "png":
                FigureCanvasAgg(figure).print_png(held, pil_kwargs={"compress_level": 3})  # type: ignore[no-untyped-call]
            elif kind == "svg":
                svg: Any = FigureCanvasSVG(figure)
                svg.print_svg(held, metadata={"Date": None})
            else:
                pdf: Any = FigureCanvasPdf(figure)
                pdf.print_pdf(held, metadata={"CreationDate": None})
        return held.getvalue()


def image_files(drawn: Mapping[str, Sheet], kinds: Sequence[str] = BOTH) -> dict[str, bytes]:
    """Figures by file name, each as every kind, out of figures by the stem of their names."""
    return {f"{stem}.{kind}": sheet.image(kind) for stem, sheet in drawn.items() for kind in kinds}


def add_format(parser: argparse.ArgumentParser) -> None:
    """Gives an analysis that draws the option `--format`; `FORMATS` says which files each of its values means."""
    parser.add_argument(
        "--format", choices=FORMATS, default="both",
        help="of figures: png, svg, pdf (for papers; its text can be edited), both (png and svg, the default) or all",
    )  # fmt: skip


@contextlib.contextmanager
def sheet(width: float, height: float) -> Iterator[Sheet]:
    """A figure of so many inches in the common look."""
    load_matplotlib()
    # late: reports without a figure do not wait for it
    import matplotlib as mpl

    from akdtune.reports.styled import StyledFigure

    with mpl.rc_context(STYLE):
        figure = StyledFigure(STYLE, figsize=(width, height), dpi=PNG_DPI, layout="constrained")
        if _STAMP.get():
            _stamp(figure, _STAMP.get(), width + STAMP_INCHES, height)
        yield Sheet(figure)


STAMP_INCHES, STAMP_POINTS = 0.12, 5.0


def _stamp(figure: Any, text: str, width: float, height: float) -> None:
    """Widens a figure by a margin at the right, with as much of the text as its height holds."""
    letters = int(height * 72 / (STAMP_POINTS * 0.56))
    shown = text if len(text) <= letters else text[: letters - 1] + "…"
    figure.set_size_inches(width, height)
    figure.get_layout_engine().set(rect=(0, 0, 1 - STAMP_INCHES / width, 1))
    figure.text(1 - 0.2 * STAMP_INCHES / width, 0.01, shown, rotation=90, ha="right", va="bottom",
                fontsize=STAMP_POINTS, color="#888888").set_in_layout(False)  # fmt: skip


@dataclass(frozen=True)
class Bar:
    """One row of a forest plot: a difference, its own interval and the simultaneous one; None where there is none.

    `mark` stands behind the text of the simultaneous interval.
    """

    label: str
    value: float
    low: float | None
    high: float | None
    family_low: float | None
    family_high: float | None
    n: int
    p: float | None
    is_control: bool
    mark: str = ""


def forest(
    bars: Sequence[Bar], *, title: str, xlabel: str, margin: float | None, level: float, floor: float | None = None
) -> Sheet:
    """Paired differences against the reference, controls apart.

    Args:
        bars: from top to bottom; controls are moved below the others.
        title: above the plot.
        xlabel: what is compared, with its unit.
        margin: half the width of the band of equivalence; None for no band.
        level: of the intervals.
        floor: by how much two runs of the same thing may differ; None for no lines.
    """
    ordered = [*(bar for bar in bars if not bar.is_control), *(bar for bar in bars if bar.is_control)]
    own = sum(not bar.is_control for bar in ordered)
    heights = [index + (0.6 if index >= own > 0 else 0.0) for index in range(len(ordered))]
    with sheet(8.4, 1.55 + 0.3 * len(ordered)) as drawn:
        axis = drawn.figure.subplots()
        if margin is not None:
            axis.axvspan(-margin, margin, color=BAND, zorder=0, linewidth=0)
        axis.axvline(0, color=GREY, linewidth=0.9, zorder=1)
        limits = forest_limits(ordered, margin)
        if floor and floor < 2 * max(map(abs, limits)):
            limits = forest_limits(ordered, max(margin or 0.0, floor))
        axis.set_xlim(limits)
        for end in (-floor, floor) if floor else ():
            axis.axvline(end, color=GREY, linewidth=1, linestyle=":", zorder=1)
        for height, bar in zip(heights, ordered, strict=True):
            _draw_bar(axis, height, bar, limits)
        if 0 < own < len(ordered):
            axis.axhline(own - 0.2, color="#bbbbbb", linewidth=0.6, linestyle=(0, (4, 3)))
        axis.set_ylim(max(heights) + 0.6, -1.4)
        axis.set_yticks(heights, [bar.label for bar in ordered])
        axis.tick_params(axis="y", length=0)
        axis.spines["left"].set_visible(False)
        axis.grid(axis="x", color="#e6e6e6", linewidth=0.5, zorder=0)
        axis.set_axisbelow(True)
        axis.set_xlabel(xlabel)
        simultaneous = any(bar.family_low is not None for bar in bars)
        header = f"difference [{100 * level:g} %{' simultaneous], n, Holm p' if simultaneous else '], n'}"
        at_right(axis, heights, [row_text(bar, simultaneous) for bar in ordered], header, -0.95)
        suptitle(drawn.figure, title)
        _forest_legend(drawn.figure, ordered, margin, level, limits, floor)
    return drawn


def forest_limits(bars: Sequence[Bar], margin: float | None, farthest: float | None = None) -> tuple[float, float]:
    """The axis: the margin, every difference and its own interval, the longest cut to what leaves the others legible.

    Simultaneous intervals, and one of two seeds among others of five, would make the rest of the plot a line.

    Args:
        bars: of the plot.
        margin: half the width of the band of equivalence; None for no band.
        farthest: controls that lie farther beyond what the others span than so many times its width do not count; None
            where all count.
    """
    if farthest is not None and any(not bar.is_control for bar in bars):
        low, high = forest_limits([bar for bar in bars if not bar.is_control], margin)
        beyond = farthest * (high - low)
        bars = [bar for bar in bars if not bar.is_control or low - beyond <= bar.value <= high + beyond]
    return interval_limits([(bar.value, bar.low, bar.high) for bar in bars], margin)


def interval_limits(
    lines: Sequence[tuple[float, float | None, float | None]], margin: float | None = None
) -> tuple[float, float]:
    """An axis with 0, the margin and every value with its interval, the longest cut: see `forest_limits`."""
    lengths = [(high - low) / 2 for _, low, high in lines if low is not None and high is not None]
    reach = LONGEST * float(np.median(lengths)) if lengths else 0.0
    ends = [-(margin or 0.0), margin or 0.0]
    for value, *interval_ends in lines:
        low, high = (value if end is None else end for end in interval_ends)
        ends += [max(low, value - reach), min(high, value + reach)]
    low, high = min(ends), max(ends)
    room = 0.06 * (high - low) or 1.0
    return low - room, high + room


def suptitle(figure: Any, title: str) -> None:
    """A bold title at the left."""
    figure.suptitle(title, x=0.01, ha="left", fontsize=9.5, fontweight="bold")


def at_right(axis: Any, heights: Sequence[float], texts: Sequence[str], header: str, at: float) -> None:
    """Text at the right of each row, and a heading for it at the height `at`."""
    right = axis.twinx()
    right.set_ylim(axis.get_ylim())
    right.set_yticks([at, *heights], [header, *texts])
    right.get_yticklabels()[0].set_color(GREY)
    right.tick_params(axis="y", length=0)
    for side in ("left", "right"):
        right.spines[side].set_visible(False)


def _draw_bar(axis: Any, height: float, bar: Bar, limits: tuple[float, float]) -> None:
    colour, marker = (COLOURS[1], "s") if bar.is_control else (COLOURS[0], "o")
    if bar.family_low is not None and bar.family_high is not None:
        look = {"color": colour, "linewidth": 1, "marker": "|", "markersize": 5}
        draw_span(axis, height, bar.family_low, bar.family_high, limits, look)
    if bar.low is not None and bar.high is not None:
        look = {"color": colour, "linewidth": 3.2, "solid_capstyle": "butt"}
        draw_span(axis, height, bar.low, bar.high, limits, look)
    hollow = {"markerfacecolor": "white", "markeredgewidth": 1.2}
    filled = {"markeredgecolor": "white", "markeredgewidth": 0.7}
    look = hollow if bar.low is None else filled
    axis.plot(bar.value, height, marker, color=colour, markersize=6, zorder=4, **look)


def draw_span(
    axis: Any, height: float, low: float, high: float, limits: tuple[float, float], look: Mapping[str, Any]
) -> None:
    """An interval; an arrow at the edge of the plot where it goes on."""
    from matplotlib.markers import CARETLEFT, CARETRIGHT  # late: reports without a figure do not wait for it

    left, right = limits
    axis.plot(np.clip([low, high], left, right), [height] * 2, **{**look, "marker": ""})
    for end, edge, goes_on, arrow in ((low, left, low < left, CARETLEFT), (high, right, high > right, CARETRIGHT)):
        if goes_on:
            size = 5 + look["linewidth"]
            axis.plot(edge, height, marker=arrow, color=look["color"], markersize=size, clip_on=False, zorder=5)
        elif "marker" in look:
            axis.plot(end, height, **look)


def row_text(bar: Bar, simultaneous: bool) -> str:
    """What stands beside a row; a bar outside every family among simultaneous ones is marked as by itself."""
    if bar.low is None:
        return f"{signed(bar.value)}   n = {bar.n}, no interval"
    alone = bar.family_low is None
    span = interval(bar.low, bar.high) if alone else interval(bar.family_low, bar.family_high) + bar.mark
    if alone and simultaneous:
        return f"{signed(bar.value)} {span}   n = {bar.n}, by itself"
    p = probability(bar.p)
    tail = "" if bar.p is None else f"   p {p if p.startswith('<') else '= ' + p}"
    return f"{signed(bar.value)} {span}   n = {bar.n}{tail}"


def _forest_legend(
    figure: Any,
    bars: Sequence[Bar],
    margin: float | None,
    level: float,
    limits: tuple[float, float],
    floor: float | None,
) -> None:
    # late: reports without a figure do not wait for it
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = []
    looks = [(False, "cell", COLOURS[0], "o"), (True, "control", COLOURS[1], "s")]
    for is_control, label, colour, marker in looks:
        if any(bar.is_control == is_control for bar in bars):
            handles.append(Line2D([], [], color=colour, marker=marker, linestyle="", label=label))
    if any(bar.low is not None for bar in bars):
        handles.append(Line2D([], [], color=GREY, linewidth=3.2, label=f"{100 * level:g} % interval"))
    if any(bar.family_low is not None for bar in bars):
        handles.append(Line2D([], [], color=GREY, linewidth=1, marker="|", label="simultaneous interval"))
    ends = [end for bar in bars for end in (bar.low, bar.high, bar.family_low, bar.family_high) if end is not None]
    if min(ends, default=0) < limits[0] or max(ends, default=0) > limits[1]:
        handles.append(Line2D([], [], color=GREY, marker=">", linestyle="", label="goes on beyond the plot"))
    if margin is not None:
        handles.append(Patch(color=BAND, label=f"equivalence margin, ±{margin:g}"))
    if floor:
        beyond = "" if limits[0] < -floor and floor < limits[1] else ", beyond the plot"
        label = f"A/A noise floor, ±{floor:.2f}{beyond}"
        handles.append(Line2D([], [], color=GREY, linewidth=1, linestyle=":", label=label))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, columnspacing=1.6)


@dataclass(frozen=True)
class LevelPoint:
    """A mean with its interval at one level of a factor."""

    level: str
    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class FactorPanel:
    """One small plot: a line of points, or several lines that share their levels.

    Attributes:
        title: above it.
        xlabel: the factor along the axis.
        lines: points by the level of the second factor; one line without a name for a main effect.
        legend: the second factor; empty for a main effect.
    """

    title: str
    xlabel: str
    lines: Mapping[str, Sequence[LevelPoint]]
    legend: str = ""


def factor_panels(panels: Sequence[FactorPanel], *, title: str, ylabel: str, footnote: str) -> Sheet:
    """Means by level of one or two factors on one scale."""
    columns = min(COLUMNS if not panels[0].legend else 3, len(panels))
    rows = ceil(len(panels) / columns)
    with sheet(max(4.6, 0.6 + 2.45 * columns), 0.95 + 2.5 * rows) as drawn:
        axes = drawn.figure.subplots(rows, columns, sharey=True, squeeze=False)
        for place, axis in enumerate(axes.flat):
            if place >= len(panels):
                axis.set_visible(False)
                continue
            _draw_panel(axis, panels[place])
            if place % columns == 0:
                axis.set_ylabel(ylabel)
        suptitle(drawn.figure, title)
        drawn.figure.supxlabel(footnote, fontsize=7.5, color=GREY, x=0.01, ha="left")
    return drawn


def _draw_panel(axis: Any, panel: FactorPanel) -> None:
    levels = list(dict.fromkeys(point.level for line in panel.lines.values() for point in line))
    width = 0.06 * (len(panel.lines) - 1)
    for index, (name, line) in enumerate(panel.lines.items()):
        shift = (2 * index / (len(panel.lines) - 1) - 1) * width / 2 if len(panel.lines) > 1 else 0.0
        x = np.array([levels.index(point.level) for point in line]) + shift
        colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
        axis.plot(
            x, [point.mean for point in line], color=colour, marker=marker, markersize=5, linewidth=1.2, label=name,
            linestyle=("-", "--", ":", "-.")[index % 4], markeredgecolor="white", markeredgewidth=0.5,
        )  # fmt: skip
        for place, point in zip(x, line, strict=True):
            if point.low is not None and point.high is not None:
                axis.plot(
                    [place, place], [point.low, point.high], color=colour, linewidth=1.2, marker="_", markersize=5
                )
    axis.set_xticks(range(len(levels)), [level if len(level) < 15 else level[:13] + "…" for level in levels])
    axis.set_xlim(-0.45, len(levels) - 0.55)
    axis.set_xlabel(panel.xlabel)
    axis.set_title(panel.title.replace(" - ", f" {MINUS} "), loc="left")
    axis.grid(axis="y", color="#e6e6e6", linewidth=0.5)
    if panel.legend:
        axis.legend(title=panel.legend, title_fontsize=7.5, fontsize=7.5, frameon=False, loc="best", handlelength=2.4)

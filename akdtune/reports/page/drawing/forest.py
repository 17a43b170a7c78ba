"""The forest plot as SVG: the same bars, limits and texts as in the figure that an analysis writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from akdtune.reports import figures
from akdtune.reports.figures import Bar
from akdtune.reports.page.drawing import svg
from akdtune.reports.page.drawing.axes import clipped
from akdtune.reports.page.drawing.looks import Look
from akdtune.reports.page.drawing.scales import Scale, tick_texts
from akdtune.reports.text import interval, signed

CELL, CONTROL = 0, 1
"""Shapes of cells and of controls."""


@dataclass(frozen=True)
class Layout:
    """Where things stand: everything in a row, or the words above and below the bar where it is narrow."""

    width: float
    left: float
    right: float
    row: float
    top: float
    letters: int
    stacked: bool


WIDE = Layout(980, 250, 610, 27, 30, 38, False)
NARROW = Layout(360, 12, 348, 56, 12, 44, True)


def forest(
    bars: Sequence[Bar],
    *,
    name: str,
    xlabel: str,
    margin: float | None,
    level: float,
    floor: float | None,
    looks: Sequence[Look],
    layout: Layout,
    farthest: float | None = None,
) -> Markup:
    """Paired differences against the reference, controls below the cells.

    Args:
        bars: in the order of the design.
        name: what it shows, for readers that do not see it.
        xlabel: what is compared, with its unit.
        margin: half the width of the band of equivalence; None for no band.
        level: of the intervals.
        floor: by how much two runs of the same thing may differ; None for no lines.
        looks: of the bars, for their colours.
        layout: wide or narrow.
        farthest: as `figures.forest_limits` has it; an arrow stands for what lies beyond.
    """
    pairs = sorted(zip(bars, looks, strict=True), key=lambda pair: pair[0].is_control)
    ordered = [bar for bar, _ in pairs]
    low, high = figures.forest_limits(ordered, margin, farthest)
    if floor and floor < 2 * max(abs(low), abs(high)):
        low, high = figures.forest_limits(ordered, max(margin or 0.0, floor), farthest)
    x = Scale(low, high, layout.left, layout.right)
    bottom = layout.top + layout.row * len(ordered)
    content = [*_ground(x, layout, bottom, margin, floor)]
    simultaneous = any(bar.family_low is not None for bar in bars)
    if not layout.stacked:
        said = f"difference [{100 * level:g} %{' simultaneous], n, Holm p' if simultaneous else '], n'}"
        content.append(svg.text(layout.right + 14, layout.top - 10, said, look="label"))
    for place, (bar, look) in enumerate(pairs):
        content += _row(bar, look, x, layout, layout.top + layout.row * (place + 0.5), simultaneous)
    content += _foot(x, layout, bottom, xlabel)
    return svg.drawing(layout.width, bottom + (56 if layout.stacked else 42), *content, name=name)


def _ground(x: Scale, layout: Layout, bottom: float, margin: float | None, floor: float | None) -> Iterator[Markup]:
    """Band of equivalence, zero, and the noise floor."""
    top = layout.top - 4
    if margin is not None:
        left, right = (min(max(x(end), x.start), x.end) for end in (-margin, margin))
        yield svg.box(left, top, right - left, bottom - top, "band", f"equivalence margin, ±{margin:g}")
    yield svg.group("ax", *(svg.line(x(tick), top, x(tick), bottom, "grid") for tick in x.ticks(6)))
    yield svg.line(x(0), top, x(0), bottom, "zero")
    for end in (-floor, floor) if floor else ():
        if x.low < end < x.high:
            yield svg.line(x(end), top, x(end), bottom, "floor")


def _row(bar: Bar, look: Look, x: Scale, layout: Layout, y: float, simultaneous: bool) -> Iterator[Markup]:
    shape = CONTROL if bar.is_control else CELL
    said = f"{bar.label}: {figures.row_text(bar, simultaneous)}"
    if layout.stacked:
        yield svg.text(layout.left, y - 14, clipped(bar.label, layout.letters), look="name")
        yield svg.text(layout.left, y + 20, figures.row_text(bar, simultaneous), look="small")
    else:
        yield svg.text(layout.left - 12, y + 4, clipped(bar.label, layout.letters), anchor="end", look="name")
        yield svg.text(layout.right + 14, y + 4, figures.row_text(bar, simultaneous))
    marks: list[Markup] = []
    if bar.family_low is not None and bar.family_high is not None:
        marks += _span(x, y, bar.family_low, bar.family_high, "ln thin", ends=True)
    if bar.low is not None and bar.high is not None:
        marks += _span(x, y, bar.low, bar.high, "ln thick", ends=False)
    if x.low <= bar.value <= x.high:
        marks.append(svg.mark(x(bar.value), y, shape, said, radius=4.4, look="mk hollow" if bar.low is None else "mk"))
    elif bar.low is None:
        marks += _span(x, y, bar.value, bar.value, "ln thick", ends=False)
    yield svg.group(look.name, *marks)


def _span(x: Scale, y: float, low: float, high: float, look: str, *, ends: bool) -> Iterator[Markup]:
    """An interval; an arrow at the edge of the plot where it goes on."""
    left, right = (min(max(x(end), x.start), x.end) for end in (low, high))
    said = interval(low, high)
    yield svg.path([(left, y), (right, y)], look, said)
    for edge, goes_on, way in ((left, x(low) < x.start, -1), (right, x(high) > x.end, 1)):
        if goes_on:
            yield svg.element("path", d=f"M{edge + way * 3:.1f} {y:.1f}l{-way * 7} -4v8z", class_="mk")
        elif ends:
            yield svg.line(edge, y - 4, edge, y + 4, look)


def _foot(x: Scale, layout: Layout, bottom: float, xlabel: str) -> Iterator[Markup]:
    ticks = x.ticks(6)
    texts = tick_texts(ticks)
    yield svg.group(
        "ax", svg.line(x.start, bottom, x.end, bottom, "axis"),
        *(svg.text(x(tick), bottom + 16, signed(tick, _digits(label)) if tick else "0", anchor="middle")
          for tick, label in zip(ticks, texts, strict=True)),
    )  # fmt: skip
    for place, words in enumerate(_folded(xlabel, 56 if layout.stacked else 90)):
        yield svg.text((x.start + x.end) / 2, bottom + 33 + 13 * place, words, anchor="middle", look="label")


def _digits(label: str) -> int:
    return len(label.partition(".")[2])


def _folded(words: str, letters: int) -> list[str]:
    """At most two lines; the second one takes what is behind the colon."""
    head, colon, rest = words.partition(": ")
    if len(words) <= letters or not colon:
        return [clipped(words, letters)]
    return [clipped(head + colon, letters), clipped(rest, letters)]

"""Points: trials against a setting, a measure, or their place in the plan."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from akdtune.reports.page.drawing import svg
from akdtune.reports.page.drawing.axes import Plot
from akdtune.reports.page.drawing.looks import Look

CROWD = 150
"""From so many points on, they are drawn smaller."""


@dataclass(frozen=True)
class Point:
    """One of them.

    Attributes:
        x, y: values; one that is not finite is not drawn.
        said: shown where it is pointed at.
        look: of its arm; None for a colour of its own.
        level: of the colours for numbers, where it has one.
        faint: it stands behind the others: a trial that did not come to its end.
    """

    x: float
    y: float
    said: str
    look: Look | None = None
    level: int | None = None
    faint: bool = False


def draw(plot: Plot, points: Iterable[Point]) -> None:
    """Adds points to a plot, the faint ones first."""
    held = list(points)
    radius = 3.6 if len(held) < CROWD else 2.6
    groups: dict[tuple[bool, str], list[Markup]] = {}
    for point in sorted(held, key=lambda point: not point.faint):
        colour = f"q{point.level}" if point.level is not None else point.look.name if point.look else "c0"
        shape = point.look.shape if point.look else 0
        at = svg.mark(*plot.at(point.x, point.y), shape, point.said, radius=radius)
        groups.setdefault((point.faint, colour), []).append(at)
    for (faint, colour), marks in groups.items():
        plot.add(svg.group(f"{colour} mk{' faint' if faint else ''}", *marks))


def intervals(plot: Plot, spans: Sequence[tuple[float, float, float | None, float | None]], look: str) -> None:
    """Adds means with their intervals, upright: place, mean, low and high; the ends are None where there is none."""
    for place, _, low, high in spans:
        if low is not None and high is not None:
            plot.add(svg.group(look, svg.line(*plot.at(place, low), *plot.at(place, high), "ln")))
    plot.add(svg.group(f"{look} mk", *(svg.mark(*plot.at(x, mean), 1, radius=2.6) for x, mean, _, _ in spans)))

"""Parallel coordinates: an axis for each searched setting, a line for each trial, coloured by its accuracy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from akdtune.reports.page.drawing import svg
from akdtune.reports.page.drawing.axes import clipped
from akdtune.reports.page.drawing.looks import level_of
from akdtune.reports.page.drawing.scales import Scale, scale_of, tick_texts

HEIGHT, TOP, BOTTOM, SIDE = 290.0, 44.0, 22.0, 62.0
AXIS_ROOM, LETTERS = 150.0, 22


def width_of(settings: int) -> float:
    """Of a plot of so many settings, in pixels."""
    return max(360.0, min(980.0, 2 * SIDE + AXIS_ROOM * settings))


@dataclass(frozen=True)
class Axis:
    """A setting.

    Attributes:
        label: its name.
        values: of each trial; None where a trial has none. Places where there are `options`.
        options: names of the places.
        log: whether equal ratios are equally long.
    """

    label: str
    values: Sequence[float | None]
    options: Sequence[str] = ()
    log: bool = False


def parallel(
    axes: Sequence[Axis],
    scores: Sequence[float | None],
    faint: Sequence[bool],
    said: Sequence[str],
    *,
    name: str,
    y_label: str,
) -> Markup:
    """The plot; the last axis holds the scores.

    Args:
        axes: of the settings.
        scores: of each trial; None: it is left out.
        faint: of each trial, whether it did not come to its end.
        said: of each trial, shown where it is pointed at.
        name: what it shows, for readers that do not see it.
        y_label: what the scores are.
    """
    shown = [place for place, score in enumerate(scores) if score is not None]
    every = [*axes, Axis(y_label, scores)]
    width = width_of(len(axes))
    scales = [_scale(axis, shown) for axis in every]
    at = [SIDE + (width - 2 * SIDE) * place / max(1, len(every) - 1) for place in range(len(every))]
    ended = [scores[place] or 0.0 for place in shown if not faint[place]] or [scores[p] or 0.0 for p in shown]
    low, high = (min(ended), max(ended)) if ended else (0.0, 1.0)
    lines = []
    # the best ones last, over the others
    for place in sorted(shown, key=lambda place: (not faint[place], scores[place] or 0.0)):
        values = [axis.values[place] for axis in every]
        points = [
            (x, scale(value)) if value is not None else (x, float("nan"))
            for x, scale, value in zip(at, scales, values, strict=True)
        ]
        colour = "faint" if faint[place] else f"q{level_of(scores[place] or 0.0, low, high)}"
        lines.append(svg.path(points, f"{colour} ln par", said[place]))
    parts = [
        *lines,
        *(part for axis, x, scale in zip(every, at, scales, strict=True) for part in _axis(axis, x, scale)),
    ]
    return svg.drawing(width, HEIGHT, *parts, name=name)


def _scale(axis: Axis, shown: Sequence[int]) -> Scale:
    if axis.options:
        room = 0.5 if len(axis.options) > 1 else 1.0
        return Scale(-room, len(axis.options) - 1 + room, HEIGHT - BOTTOM, TOP)
    held = [value for place in shown if (value := axis.values[place]) is not None]
    return scale_of(held, HEIGHT - BOTTOM, TOP, log=axis.log, room=0.02)


def _axis(axis: Axis, x: float, scale: Scale) -> Iterator[Markup]:
    yield svg.line(x, HEIGHT - BOTTOM, x, TOP, "axis strong")
    yield svg.text(x, 20, clipped(axis.label, LETTERS, keep_end=True), anchor="middle", look="name")
    ticks = [float(place) for place in range(len(axis.options))] or scale.ticks(5)
    texts = [clipped(option, 9) for option in axis.options] or tick_texts(ticks)
    for tick, label in zip(ticks, texts, strict=True):
        yield svg.line(x - 3, scale(tick), x + 3, scale(tick), "axis strong")
        yield svg.text(x + 6, scale(tick) + 4, label, look="halo")

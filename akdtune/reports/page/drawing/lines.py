"""Lines over epochs: one a trial, and what a group of trials has in common."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from akdtune.reports.page.drawing import svg
from akdtune.reports.page.drawing.axes import PANEL, Margins, plot
from akdtune.statistics.resampling import Floats

MOST_POINTS = 64
"""Of a line: more lie closer together than a pixel or two."""


@dataclass(frozen=True)
class Line:
    """Values over epochs.

    Attributes:
        epochs, values: of the same length.
        look: classes of the line, with that of its colour.
        said: shown where it is pointed at.
        shape: of a point for a line of one value.
    """

    epochs: npt.NDArray[np.int64]
    values: Floats
    look: str
    said: str = ""
    shape: int = 0


def thinned(epochs: npt.NDArray[np.int64], values: Floats, most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """So many of the points, evenly spread, with the first and the last one."""
    if len(epochs) > most:
        kept = np.unique(np.linspace(0, len(epochs) - 1, most).round().astype(int))
        epochs, values = epochs[kept], values[kept]
    return list(zip(epochs.tolist(), values.tolist(), strict=True))


def panel(
    title: str,
    lines: Sequence[Line],
    *,
    name: str,
    y_label: str,
    beside: Iterable[float] = (),
    last_epoch: int | None = None,
    marks: Sequence[int] = (),
    size: tuple[float, float] = PANEL,
) -> Markup:
    """A plot of lines over epochs.

    Args:
        title: above it.
        lines: the later ones over the earlier ones.
        name: what it shows, for readers that do not see it.
        y_label: what the lines hold.
        beside: further values that the vertical axis holds, so that plots beside each other share it.
        last_epoch: where the horizontal axis ends; None: where the lines do.
        marks: epochs with a thin line from top to bottom.
        size: in pixels.
    """
    values = np.concatenate([line.values for line in lines]) if lines else np.empty(0)
    last = last_epoch or max((int(line.epochs[-1]) for line in lines if len(line.epochs)), default=1)
    drawn = plot(
        name, [1, max(2, last)], [*values.tolist(), *beside], size=size, x_label="epoch", y_label=y_label, title=title,
        whole=True, margins=Margins(left=46, top=40 if title else 24),
    )  # fmt: skip
    for epoch in marks:
        drawn.add(svg.line(drawn.x(epoch), drawn.y.start, drawn.x(epoch), drawn.y.end, "rung"))
    for line in lines:
        points = [drawn.at(*point) for point in thinned(line.epochs, line.values)]
        if len(points) == 1:
            drawn.add(svg.group(line.look, svg.mark(*points[0], line.shape, line.said, radius=2.6, look="mk")))
        else:
            drawn.add(svg.path(points, line.look, line.said))
    return drawn.drawing()

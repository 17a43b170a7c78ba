"""Accuracy over two settings: a smooth surface in steps of colour, and the trials that it is made from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from akdtune.reports.page.drawing import points, svg
from akdtune.reports.page.drawing.axes import Margins, plot
from akdtune.reports.page.drawing.looks import level_of
from akdtune.reports.page.drawing.points import Point
from akdtune.statistics.resampling import Floats

COLUMNS, ROWS = 76, 56
BANDWIDTH = 0.12
"""Of the kernel, as a share of each axis."""
NEAR = 0.45
"""Weight of all trials together below which a place stays empty: nothing was tried near it."""
SIZE = (460.0, 330.0)


def surface(x_N: Floats, y_N: Floats, scores_N: Floats) -> Floats:
    """Kernel means of scores on a grid [rows, columns] of the unit square; NaN where no trial is near.

    Args:
        x_N: places along the horizontal axis, 0 to 1.
        y_N: along the vertical one.
        scores_N: of the same trials.
    """
    grid_x = (np.arange(COLUMNS) + 0.5) / COLUMNS
    grid_y = (np.arange(ROWS) + 0.5) / ROWS
    across_CN = np.exp(-0.5 * ((grid_x[:, None] - x_N) / BANDWIDTH) ** 2)
    up_RN = np.exp(-0.5 * ((grid_y[:, None] - y_N) / BANDWIDTH) ** 2)
    weight_RC = up_RN @ across_CN.T
    total_RC = (up_RN * scores_N) @ across_CN.T
    means: Floats = np.where(weight_RC >= NEAR, total_RC / np.maximum(weight_RC, 1e-12), np.nan)
    return means


def contour(
    x: Sequence[float],
    y: Sequence[float],
    scores: Sequence[float],
    said: Sequence[str],
    *,
    name: str,
    title: str,
    labels: tuple[str, str],
    log: tuple[bool, bool],
) -> Markup:
    """The plot.

    Args:
        x: values of the first setting.
        y: of the second one.
        scores: of the same trials.
        said: shown where a trial is pointed at.
        name: what it shows, for readers that do not see it.
        title: above it.
        labels: of both axes.
        log: whether equal ratios are equally long on them.
    """
    drawn = plot(
        name, x, y, size=SIZE, x_label=labels[0], y_label=labels[1], title=title, log_x=log[0], log_y=log[1],
        margins=Margins(left=54, top=42), room_x=0.05,
    )  # fmt: skip
    across = np.array([(drawn.x(value) - drawn.x.start) / (drawn.x.end - drawn.x.start) for value in x])
    up = np.array([(drawn.y(value) - drawn.y.start) / (drawn.y.end - drawn.y.start) for value in y])
    means_RC = surface(across, up, np.array(scores))
    low, high = min(scores), max(scores)
    width, height = drawn.x.end - drawn.x.start, drawn.y.start - drawn.y.end
    for level, runs in _runs(means_RC, low, high).items():
        cells = "".join(
            f"M{svg.coordinate(drawn.x.start + width * start / COLUMNS)} "
            f"{svg.coordinate(drawn.y.start - height * (row + 1) / ROWS)}"
            f"h{svg.coordinate(width * (end - start) / COLUMNS)}v{svg.coordinate(height / ROWS)}"
            f"h-{svg.coordinate(width * (end - start) / COLUMNS)}z"
            for row, start, end in runs
        )
        drawn.add(svg.element("path", d=cells, class_=f"q{level} area"))
    tried = zip(x, y, scores, said, strict=True)
    points.draw(drawn, (Point(a, b, words, level=level_of(score, low, high)) for a, b, score, words in tried))
    return drawn.drawing()


def _runs(means_RC: npt.NDArray[np.float64], low: float, high: float) -> dict[int, list[tuple[int, int, int]]]:
    """Row, start and end of neighbouring places of one colour, by colour."""
    found: dict[int, list[tuple[int, int, int]]] = {}
    for row, of_row in enumerate(means_RC):
        for level, start, end in _of_row([None if np.isnan(v) else level_of(float(v), low, high) for v in of_row]):
            found.setdefault(level, []).append((row, start, end))
    return found


def _of_row(levels: Sequence[int | None]) -> Iterator[tuple[int, int, int]]:
    start = 0
    for place in range(1, len(levels) + 1):
        if place == len(levels) or levels[place] != levels[start]:
            level = levels[start]
            if level is not None:
                yield level, start, place
            start = place

"""A curve in one line of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from akdtune.metric import ACCURACY, Metric

BARS = "▁▂▃▄▅▆▇█"
WIDTH = 60
"""Signs of a line at most; of more epochs neighbours are averaged."""


def course(rows: Sequence[Mapping[str, Any]], metric: Metric = ACCURACY) -> tuple[str, dict[int, float]]:
    """What a trial is followed by, and its values by epoch: the metric on validation images, else training accuracy.

    Args:
        rows: of its epochs.
        metric: of its study.
    """
    for column in (metric.validation, "train_accuracy"):
        values = {int(row["epoch"]): float(row[column]) for row in rows if row.get(column) is not None}
        if values:
            return column, values
    return metric.validation, {}


def sparkline(values: Sequence[float], low: float, high: float, width: int = WIDTH) -> str:
    """Values as bars between two ends, at most `width` of them."""
    if len(values) > width:
        edges = [round(place * len(values) / width) for place in range(width + 1)]
        values = [sum(values[start:end]) / (end - start) for start, end in zip(edges[:-1], edges[1:], strict=True)]
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[min(len(BARS) - 1, max(0, round((value - low) * scale)))] for value in values)

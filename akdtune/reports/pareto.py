"""Which trials no other one beats in every objective, as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from akdtune.metric import Metric
from akdtune.reports.short_names import searched, settings_text

_COLUMNS = {"macs": "student_macs", "time": "train_time_s"}
COSTS = tuple(_COLUMNS)
"""Objectives that are minimised."""

_HEADINGS = {"accuracy": "validation %", "macs": "student MMACs", "time": "training s"}


def column(objective: str) -> str:
    """The column of `trials.parquet` that holds an objective; what is not a cost is the study's metric."""
    return _COLUMNS.get(objective) or Metric(objective).validation


def heading(objective: str) -> str:
    """What an objective is called in a table."""
    return _HEADINGS.get(objective) or f"validation {Metric(objective).words} %"


def metric_of(objectives: Sequence[str]) -> str:
    """The objective that is the study's metric."""
    return next(name for name in objectives if name not in _COLUMNS)


def front(points_NO: Sequence[Sequence[float]], objectives: Sequence[str]) -> list[int]:
    """Indices of the points that no other point dominates, in order; equal points all stay.

    Args:
        points_NO: one row per point, one number per objective.
        objectives: the study's metric is maximised, costs are minimised.
    """
    signs = [-1.0 if name in _COLUMNS else 1.0 for name in objectives]
    signed = [[sign * value for sign, value in zip(signs, point, strict=True)] for point in points_NO]

    def beaten(point: Sequence[float]) -> bool:
        return any(
            other != point and all(theirs >= ours for theirs, ours in zip(other, point, strict=True))
            for other in signed
        )

    return [index for index, point in enumerate(signed) if not beaten(point)]


@dataclass(frozen=True)
class Point:
    """One configuration that no other one dominates.

    Attributes:
        first: its first trial, a row of `trials.parquet`.
        seeds: how many trials its numbers are means of.
        values: one per objective.
    """

    first: Mapping[str, Any]
    seeds: int
    values: tuple[float, ...]


def points(rows: Sequence[Mapping[str, Any]], objectives: Sequence[str], top: int | None = None) -> list[Point]:
    """The configurations of the search that no other one dominates, most accurate first.

    Trials of one configuration that differ in their seed count as one point: the mean of each objective.

    Args:
        rows: of trials.parquet; search trials that are done count.
        objectives: as in `search.objectives`.
        top: only so many.
    """
    columns = [column(name) for name in objectives]
    cells: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["role"] == "search" and row["status"] == "done" and all(row[name] is not None for name in columns):
            cells.setdefault(row["cell_id"], []).append(row)
    means = [tuple(sum(float(row[name]) for row in of) / len(of) for name in columns) for of in cells.values()]
    every = [Point(of[0], len(of), values) for of, values in zip(cells.values(), means, strict=True)]
    kept = [every[place] for place in front(means, objectives)]
    return sorted(kept, key=lambda point: -point.values[list(objectives).index(metric_of(objectives))])[:top]


def table(
    rows: Sequence[Mapping[str, Any]], objectives: Sequence[str], top: int | None = None
) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of the points; arguments as `points`."""
    cells = [
        [str(point.first["trial_id"]), str(point.first["arm"]), str(point.seeds), *shown(point, objectives),
         settings_text(searched(point.first), {})]
        for point in points(rows, objectives, top)
    ]  # fmt: skip
    return ["trial", "arm", "seeds", *(heading(name) for name in objectives), "searched settings"], cells


def text(rows: Sequence[Mapping[str, Any]], objectives: Sequence[str], top: int | None = None) -> str:
    """The table as text, columns two spaces apart; as `table`."""
    headings, cells = table(rows, objectives, top)
    widths = [max(map(len, column)) for column in zip(headings, *cells, strict=True)]
    numeric = range(2, 3 + len(objectives))
    form = "  ".join(f"{{:{'>' if place in numeric else '<'}{width}}}" for place, width in enumerate(widths))
    return "\n".join(form.format(*row).rstrip() for row in (headings, *cells))


def shown(point: Point, objectives: Sequence[str]) -> list[str]:
    """A text for each objective: percent, millions of multiply-adds, seconds."""
    return [
        f"{value / 1e6:.3f}" if name == "macs" else f"{value:.2f}"
        for name, value in zip(objectives, point.values, strict=True)
    ]

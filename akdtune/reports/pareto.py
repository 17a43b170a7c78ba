"""Which trials no other one beats in every objective, as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

COLUMNS = {"accuracy": "val_accuracy", "macs": "student_macs", "time": "train_time_s"}
"""The column of trials.parquet that holds an objective."""

HEADINGS = {"accuracy": "validation %", "macs": "student MMACs", "time": "training s"}
_LARGER_IS_BETTER = {"accuracy"}


def front(points_NO: Sequence[Sequence[float]], objectives: Sequence[str]) -> list[int]:
    """Indices of the points that no other point dominates, in order; equal points all stay.

    Args:
        points_NO: one row per point, one number per objective.
        objectives: `accuracy` is maximised, anything else minimised.
    """
    signs = [1.0 if name in _LARGER_IS_BETTER else -1.0 for name in objectives]
    signed = [[sign * value for sign, value in zip(signs, point, strict=True)] for point in points_NO]

    def beaten(point: Sequence[float]) -> bool:
        return any(
            other != point and all(theirs >= ours for theirs, ours in zip(other, point, strict=True))
            for other in signed
        )

    return [index for index, point in enumerate(signed) if not beaten(point)]


def table(rows: Sequence[Mapping[str, Any]], objectives: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of the Pareto table over search trials that are done, most accurate first.

    Trials of one configuration that differ in their seed count as one point: the mean of each objective.

    Args:
        rows: of trials.parquet.
        objectives: as in `search.objectives`.
    """
    columns = [COLUMNS[name] for name in objectives]
    cells: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["role"] == "search" and row["status"] == "done" and all(row[column] is not None for column in columns):
            cells.setdefault(row["cell_id"], []).append(row)
    points = [[sum(float(row[column]) for row in of) / len(of) for column in columns] for of in cells.values()]
    order = sorted(front(points, objectives), key=lambda index: -points[index][list(objectives).index("accuracy")])
    firsts = [(of[0], len(of)) for of in cells.values()]
    lines = []
    for index in order:
        first, seeds = firsts[index]
        settings = {key.removeprefix("param."): value for key, value in first.items() if key.startswith("param.")}
        numbers = [_shown(name, value) for name, value in zip(objectives, points[index], strict=True)]
        text = " ".join(f"{key}={_short(value)}" for key, value in settings.items() if value is not None)
        lines.append([str(first["trial_id"]), str(first["arm"]), str(seeds), *numbers, text])
    return ["trial", "arm", "seeds", *(HEADINGS[name] for name in objectives), "searched settings"], lines


def text(rows: Sequence[Mapping[str, Any]], objectives: Sequence[str]) -> str:
    """The table as text, columns two spaces apart; as `table`."""
    headings, cells = table(rows, objectives)
    widths = [max(map(len, column)) for column in zip(headings, *cells, strict=True)]
    numeric = range(2, 3 + len(objectives))
    form = "  ".join(f"{{:{'>' if place in numeric else '<'}{width}}}" for place, width in enumerate(widths))
    return "\n".join(form.format(*row).rstrip() for row in (headings, *cells))


def _shown(name: str, value: float) -> str:
    return f"{value / 1e6:.3f}" if name == "macs" else f"{value:.2f}"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)

"""Trials counted by status, and configurations by their mean over seeds."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from akdtune.errors import AkdtuneError
from akdtune.reports.short_names import searched
from akdtune.reports.text import counted
from akdtune.roles import STATUSES

Row: TypeAlias = Mapping[str, Any]
"""A row of `trials.parquet`."""


@dataclass(frozen=True)
class CellMean:
    """One configuration in one role.

    Attributes:
        name: of its cell, or its arm.
        arm, role, cell_id: of its trials.
        trials: ids of those that the mean is over.
        seeds: theirs.
        mean, sd: sd is None for one trial.
        left_out: `2 pruned`; other trials of the configuration.
        settings: the searched ones.
    """

    name: str
    arm: str
    role: str
    cell_id: str
    trials: tuple[str, ...]
    seeds: tuple[int, ...]
    mean: float
    sd: float | None
    left_out: str
    settings: Mapping[str, Any]

    @property
    def n(self) -> int:
        """How many trials the mean is over."""
        return len(self.trials)


def tally(rows: Sequence[Row]) -> str:
    """How many trials are in which state: `24 trials: 20 done, 4 pruned`."""
    counts = Counter(row["status"] for row in rows)
    known = ", ".join(f"{counts[status]} {status}" for status in STATUSES if counts[status])
    return counted(len(rows), "trial", thousands="") + (f": {known}" if known else "")


def measured(row: Row, column: str) -> float | None:
    """A finite number out of a row; None where there is none."""
    value = row.get(column)
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if known and value is not None else None


def cell_means(rows: Sequence[Row], column: str) -> list[CellMean]:
    """Mean and standard deviation over the seeds of each configuration in each role, best mean first.

    Only trials that reached their last epoch count. A mean over the seeds that were not stopped is too good, so that
    the others stand beside it.

    Args:
        rows: of `trials.parquet`.
        column: one that holds numbers.

    Raises:
        AkdtuneError: for a column of something else.
    """
    groups: dict[tuple[Any, Any], list[tuple[Row, float]]] = {}
    others: dict[tuple[Any, Any], Counter[str]] = {}
    for row in rows:
        cell, value = (row["role"], row["cell_id"]), row.get(column)
        if row["status"] == "done" and value is not None and not isinstance(value, int | float):
            raise AkdtuneError(f"a summary needs a column of numbers, and '{column}' holds {value!r}")
        if row["status"] == "done" and (number := measured(row, column)) is not None:
            groups.setdefault(cell, []).append((row, number))
        else:
            others.setdefault(cell, Counter())[str(row["status"])] += 1
    means = [_mean(of_cell, others.get(cell, Counter())) for cell, of_cell in groups.items()]
    return sorted(means, key=lambda mean: -mean.mean)


def _mean(of_cell: Sequence[tuple[Row, float]], others: Mapping[str, int]) -> CellMean:
    first, values = of_cell[0][0], [value for _, value in of_cell]
    return CellMean(
        name=str(first.get("cell") or first["arm"]),
        arm=str(first["arm"]),
        role=str(first["role"]),
        cell_id=str(first["cell_id"]),
        trials=tuple(str(row["trial_id"]) for row, _ in of_cell),
        seeds=tuple(row["seed"] for row, _ in of_cell),
        mean=statistics.fmean(values),
        sd=statistics.stdev(values) if len(values) > 1 else None,
        left_out=", ".join(f"{count} {status}" for status, count in others.items()),
        settings=searched(first),
    )

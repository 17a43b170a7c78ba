"""How trials went, epoch by epoch: a column's values by trial and arm, and their plot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from akdtune.errors import AkdtuneError, StudyError, unknown_name
from akdtune.reports.diversity.measured import arms_in_order
from akdtune.reports.figures import COLOURS, GREY, sheet, suptitle
from akdtune.statistics.resampling import Floats

SURVIVORS = "bold: mean of the trials that have the epoch; where some have stopped, of those that went on"
_STYLES = ("-", "--", ":", "-.")


@dataclass(frozen=True)
class Curve:
    """One trial's values.

    Attributes:
        epochs: counted from 1, rising.
        values: of the column, one per epoch; epochs without a value are left out.
    """

    trial_id: str
    arm: str
    role: str
    status: str
    epochs: npt.NDArray[np.int64]
    values: Floats


@dataclass(frozen=True, repr=False)
class Curves:
    """A column's course in every trial.

    Attributes:
        study: its name, for titles.
        column: which one; `unit` is empty for a number without one.
        trials: a curve each, in the plan's order.
    """

    study: str
    column: str
    unit: str
    trials: tuple[Curve, ...]

    @property
    def arms(self) -> list[str]:
        """Names of the arms, in the plan's order."""
        return list(dict.fromkeys(curve.arm for curve in self.trials))

    def of(self, arm: str) -> list[Curve]:
        """The trials of an arm.

        Raises:
            AkdtuneError: for an arm that has none, with the nearest that has.
        """
        if arm not in self.arms:
            raise AkdtuneError(unknown_name("arm", arm, self.arms))
        return [curve for curve in self.trials if curve.arm == arm]

    def figure(self) -> Any:
        """The plot as a matplotlib Figure: a thin line per trial, a bold one for the mean of each arm.

        A mean is over the arm's trials that have the epoch, and is drawn as far as half of them go.
        """
        with sheet(7.4, 3.6) as drawn:
            axis = drawn.figure.subplots()
            for index, arm in enumerate(arms_in_order(self.arms)):
                _draw_arm(axis, self.of(arm), arm, COLOURS[index % len(COLOURS)], _STYLES[index // len(COLOURS) % 4])
            axis.set_xlabel("epoch")
            axis.xaxis.get_major_locator().set_params(integer=True)
            axis.set_ylabel(f"{self.column.replace('_', ' ')}{f' ({self.unit})' if self.unit else ''}")
            axis.grid(color="#e6e6e6", linewidth=0.5)
            axis.set_axisbelow(True)
            suptitle(drawn.figure, f"{self.study}: {self.column.replace('_', ' ')} of {len(self.trials)} trials")
            drawn.figure.legend(loc="outside lower center", ncols=4, frameon=False)
            if any(ends_early(self.of(arm)) for arm in self.arms):
                drawn.figure.supxlabel(SURVIVORS, fontsize=7.5, color=GREY, x=0.01, ha="left")
        return drawn.figure

    def __repr__(self) -> str:
        return f"curves of {self.column} in {self.study}: {len(self.trials)} trials of {', '.join(self.arms)}"

    def _repr_html_(self) -> str:
        return escape(repr(self))


def ends_early(curves: Sequence[Curve]) -> bool:
    """Whether the mean of an arm is drawn where some of its trials have stopped."""
    return bool(len(mean_of(curves)[0]) > min(len(curve.epochs) for curve in curves))


def _draw_arm(axis: Any, curves: Sequence[Curve], arm: str, colour: str, style: str) -> None:
    for curve in curves:
        alone = len(curve.epochs) == 1
        axis.plot(
            curve.epochs, curve.values, color=colour, linewidth=0.8, alpha=0.4, linestyle=style,
            marker="." if alone else "", zorder=2,
        )  # fmt: skip
    epochs, means = mean_of(curves)
    axis.plot(
        epochs, means, color=colour, linewidth=2.2, linestyle=style, marker="o" if len(epochs) == 1 else "",
        label=f"{arm} (n = {len(curves)})", zorder=3,
    )  # fmt: skip


def mean_of(curves: Sequence[Curve]) -> tuple[npt.NDArray[np.int64], Floats]:
    """Mean by epoch, as far as at least half of the trials go."""
    epochs, place = np.unique(np.concatenate([curve.epochs for curve in curves]), return_inverse=True)
    values = np.concatenate([curve.values for curve in curves])
    counts = np.bincount(place)
    kept = 2 * counts >= len(curves)
    return epochs[kept], (np.bincount(place, weights=values) / counts)[kept]


def curves_of(
    study: str, trials: pa.Table, epochs: pa.Table, column: str, unit: str, arm: str | None, role: str | None
) -> Curves:
    """A column's curves out of a study's tables.

    Args:
        study: its name.
        trials: its table of trials.
        epochs: its table of epochs.
        column: of the epochs' table, with numbers.
        unit: of the column.
        arm: only its trials; None for all.
        role: only trials of this one; None for all.

    Raises:
        AkdtuneError: for a column, arm or role that is not there, with the nearest that is.
        StudyError: when no trial has a value yet.
    """
    numbers = [field.name for field in epochs.schema if _is_number(field.type)]
    if column not in numbers:
        raise AkdtuneError(unknown_name("column of epochs", column, set(numbers) - {"attempt", "epoch"}))
    rows = trials.select(["trial_id", "arm", "role", "status"]).to_pylist()
    for key, wanted in (("arm", arm), ("role", role)):
        known = {str(row[key]) for row in rows}
        if wanted is not None and wanted not in known:
            raise AkdtuneError(unknown_name(key, wanted, known))
    values = by_trial(epochs, column)
    curves = tuple(
        Curve(row["trial_id"], str(row["arm"]), str(row["role"]), row["status"], *values[row["trial_id"]])
        for row in rows
        if row["trial_id"] in values and arm in (None, row["arm"]) and role in (None, row["role"])
    )
    if not curves:
        chosen = " ".join(str(part) for part in (role, arm) if part is not None)
        raise StudyError(f"{study}: no {f'{chosen} ' if chosen else ''}trial has a value of {column} yet")
    return Curves(study, column, unit, curves)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def by_trial(epochs: pa.Table, column: str) -> dict[str, tuple[npt.NDArray[np.int64], Floats]]:
    """Epochs with a value and the values, of each trial; of an epoch that two attempts ran, the later one's.

    Args:
        epochs: the table of epochs.
        column: one of its columns of numbers.
    """
    held = epochs.filter(pc.is_valid(epochs[column]))
    if not held.num_rows:
        return {}
    trials = held["trial_id"].combine_chunks().dictionary_encode()
    trial, epoch, attempt = (
        np.asarray(array) for array in (trials.indices, held["epoch"], pc.fill_null(held["attempt"], 0))
    )
    order = np.lexsort((attempt, epoch, trial))
    trial, epoch = trial[order], epoch[order].astype(np.int64)
    values = np.asarray(held[column])[order].astype(np.float64)
    last = np.append((np.diff(trial) != 0) | (np.diff(epoch) != 0), True)
    trial, epoch, values = trial[last], epoch[last], values[last]
    starts = np.flatnonzero(np.append(True, np.diff(trial) != 0))
    of_trials = zip(np.split(epoch, starts[1:]), np.split(values, starts[1:]), strict=True)
    names = trials.dictionary.to_pylist()
    return dict(zip((names[code] for code in trial[starts]), of_trials, strict=True))

"""Angles of views to their teacher and to each other, margins and gates over the epochs, by arm."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from akdtune.reports.curves import Curve, by_trial, mean_of
from akdtune.reports.diversity.measured import is_viewless
from akdtune.statistics.resampling import Floats


def _degrees(cosine: Floats) -> Floats:
    angles: Floats = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    return angles


def _percent(share: Floats) -> Floats:
    return 100 * share


def _same(value: Floats) -> Floats:
    return value


MEASURES: dict[str, tuple[str, str, Callable[[Floats], Floats]]] = {
    "teacher_cosine": ("view to teacher, features", "degrees", _degrees),
    "teacher_cosine_prob": ("view to teacher, probabilities", "degrees", _degrees),
    "inter_cosine": ("between two views, features", "degrees", _degrees),
    "inter_cosine_prob": ("between two views, probabilities", "degrees", _degrees),
    "offset_cosine": ("between two offsets, features", "degrees", _degrees),
    "offset_cosine_prob": ("between two offsets, probabilities", "degrees", _degrees),
    "margin": ("margin, features", "1 − cosine", _same),
    "gate_open_train": ("gate open, training, features", "%", _percent),
    "gate_open_eval": ("gate open, held-out, features", "%", _percent),
    "gate_open_train_logit": ("gate open, training, logits", "%", _percent),
    "gate_open_eval_logit": ("gate open, held-out, logits", "%", _percent),
}
"""Columns of epochs with a title, a unit and what makes the values of it."""
READING = (
    "angles are those of mean cosines over held-out images: 0 is the same direction, 90 orthogonal; offsets: of views "
    "from the teacher; margin: 1 \N{MINUS SIGN} cosine; gate open: share of images; sd: of the last, over trials; "
    "views that go on changing are measured at rungs, in each tenth and in the last epoch"
)


@dataclass(frozen=True)
class Course:
    """A measure over the epochs in the trials of one arm.

    Attributes:
        measure: a key of `MEASURES`.
        arm: of the trials.
        curves: one a trial, in the unit of the measure.
    """

    measure: str
    arm: str
    curves: tuple[Curve, ...]

    @property
    def mean(self) -> tuple[Floats, Floats]:
        """Epochs and the mean over trials, as far as half of them go."""
        epochs, means = mean_of(self.curves)
        return epochs.astype(np.float64), means

    @property
    def first(self) -> float:
        """Mean over trials of their first value."""
        return float(np.mean([curve.values[0] for curve in self.curves]))

    @property
    def last(self) -> float:
        """Mean over trials of their last value."""
        return float(np.mean([curve.values[-1] for curve in self.curves]))

    @property
    def spread(self) -> float | None:
        """Standard deviation over trials of their last value; None for a single trial."""
        last = [float(curve.values[-1]) for curve in self.curves]
        return float(np.std(last, ddof=1)) if len(last) > 1 else None


def courses_of(epochs: pa.Table, rows: Iterable[Mapping[str, Any]]) -> list[Course]:
    """Every measure that was recorded, by arm; trials that are done, or all while none is.

    Args:
        epochs: the study's table of epochs.
        rows: of its table of trials.
    """
    known = list(rows)
    ended = [row for row in known if row["status"] == "done"] or known
    by_id = {str(row["trial_id"]): row for row in ended if not is_viewless(str(row["arm"]))}
    found = []
    for measure, (_, _, of) in MEASURES.items():
        there = measure in epochs.column_names and pa.types.is_floating(epochs.schema.field(measure).type)
        values = by_trial(epochs, measure) if there else {}
        for arm, curves in groups_of(values, of, by_id).items():
            found.append(Course(measure, arm, tuple(curves)))
    return found


def groups_of(
    values: Mapping[str, tuple[Any, Floats]], of: Callable[[Floats], Floats], rows: Mapping[str, Mapping[str, Any]]
) -> dict[str, list[Curve]]:
    """Curves by arm, in the unit that `of` gives; epochs without a number are left out.

    Args:
        values: epochs and values of each trial.
        of: what makes the shown value of a recorded one.
        rows: the trials that count, by their ids.
    """
    groups: dict[str, list[Curve]] = {}
    for trial, (epochs, recorded) in values.items():
        held = np.isfinite(recorded)
        if trial in rows and held.any():
            row = rows[trial]
            about = (trial, str(row["arm"]), str(row["role"]), str(row["status"]))
            curve = Curve(*about, epochs[held], of(recorded[held]))
            groups.setdefault(curve.arm, []).append(curve)
    return groups


def turned(courses: Sequence[Course], measure: str) -> dict[str, tuple[float, float]]:
    """First and last value of a measure by arm."""
    return {course.arm: (course.first, course.last) for course in courses if course.measure == measure}

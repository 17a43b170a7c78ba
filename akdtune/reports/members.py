"""Teacher, views and student of each trial on the same images, as `record` has kept them; what is missing, and why."""

# Shapes: N images, M members (the teacher, then its views), K classes.

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from akdtune import progress
from akdtune.errors import NotRecorded, StudyError
from akdtune.records import recorded
from akdtune.records.files import read_schema, trial_directory
from akdtune.records.recorded import TeacherLogits
from akdtune.records.recorded_files import PREDICTIONS, VIEWS_KEPT
from akdtune.reports.left_out import DAMAGED, OTHER_IMAGES, WITHOUT_PREDICTIONS
from akdtune.statistics.probabilities import log_mean_probability, log_softmax
from akdtune.statistics.resampling import Floats

NO_VIEWS_KEPT = "without answers of views (`record: {views: true}` keeps them)"
NO_VIEWS = "without views"
NO_TEACHER_KEPT = "without logits of the teacher (`record: {teacher: true}` keeps them)"
OTHER_TEACHER = "with a teacher of its own, of which nothing is kept"
REASONS = (NO_VIEWS_KEPT, NO_VIEWS, NO_TEACHER_KEPT, OTHER_TEACHER, WITHOUT_PREDICTIONS, DAMAGED, OTHER_IMAGES)
"""Why trials are left out."""

_SAME_POINTS = 1.0
"""Percentage points that the accuracy of one teacher may differ: logits are kept in float16."""


@dataclass(frozen=True)
class Members:
    """Log-probabilities at temperature 1 on the images that a trial was judged by.

    Attributes:
        trial_id: of the trial.
        arm: of the trial.
        labels_N: true classes.
        members_MNK: of the teacher and its views; of stochastic views of their mean probability.
        student_NK: of the student.
    """

    trial_id: str
    arm: str
    labels_N: npt.NDArray[np.int64]
    members_MNK: Floats
    student_NK: Floats

    @property
    def ensemble_NK(self) -> Floats:
        """Log of the mean probability of all members, equal weights."""
        return log_mean_probability(self.members_MNK)

    @property
    def teacher_NK(self) -> Floats:
        """Of the teacher alone."""
        teacher_NK: Floats = self.members_MNK[0]
        return teacher_NK


class KeptTeacher:
    """The logits that a study kept of its teacher, by split, and whose they are.

    Args:
        run: the study directory.
    """

    def __init__(self, run: Path) -> None:
        self._run = run
        self._held: dict[str, TeacherLogits | str] = {}

    def of(self, row: Mapping[str, Any]) -> TeacherLogits | str:
        """Those on the images that a trial is judged by; a sentence of `REASONS` where there are none."""
        split = recorded.split_of(str(row["role"]))
        if split not in self._held:
            try:
                self._held[split] = recorded.teacher_logits(self._run, split)
            except NotRecorded:
                self._held[split] = NO_TEACHER_KEPT
            except StudyError:
                self._held[split] = DAMAGED
        return self._held[split]

    def is_of(self, row: Mapping[str, Any]) -> bool:
        """Whether a trial's own teacher has the accuracy of the kept one, as far as both are known.

        Controls such as `random_teacher` have a teacher of their own, of which the study keeps nothing.
        """
        kept, measured = self.of(row), row.get("teacher_accuracy")
        if isinstance(kept, str) or not isinstance(measured, float) or not np.isfinite(measured):
            return True
        accuracy = 100 * float((kept.main_NK.argmax(axis=1) == kept.labels_N).mean())
        return abs(accuracy - measured) <= _SAME_POINTS


def members_of(run: Path, rows: Iterable[Mapping[str, Any]]) -> Iterator[Members | str]:
    """For each finished trial what was kept of it, in order; a sentence of `REASONS` where something is missing.

    Args:
        run: the study directory.
        rows: of its table of trials; those that are done.
    """
    kept = KeptTeacher(run)
    done = list(rows)
    for place, row in enumerate(done):
        progress.at(place, len(done), "trials")
        yield _members(run, row, kept)


def _members(run: Path, row: Mapping[str, Any], kept: KeptTeacher) -> Members | str:
    trial = str(row["trial_id"])
    path = trial_directory(run, trial) / PREDICTIONS
    if not path.exists():
        return WITHOUT_PREDICTIONS
    try:
        if VIEWS_KEPT not in (read_schema(path).metadata or {}):  # most studies: nothing else is read of them
            return NO_VIEWS_KEPT
        student, views = recorded.trial_logits(run, trial), recorded.trial_views(run, trial)
    except StudyError:
        return DAMAGED
    if not len(views.log_probabilities_VNK):
        return NO_VIEWS
    teacher = kept.of(row)
    if isinstance(teacher, str):
        return teacher
    if not kept.is_of(row):
        return OTHER_TEACHER
    of_teacher, of_trial = recorded.common_rows(teacher.sample_ids_N, student.sample_ids_N)
    if not len(of_trial):
        return OTHER_IMAGES
    labels_N = student.labels_N[of_trial]
    teacher_NK = log_softmax(teacher.main_NK[of_teacher])
    views_VNK = log_softmax(views.log_probabilities_VNK[:, of_trial])
    members_MNK = np.concatenate([teacher_NK[None], views_VNK])
    return Members(trial, str(row["arm"]), labels_N, members_MNK, log_softmax(student.logits_NK[of_trial]))

"""Offsets of the views' features in every trial that kept features."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from akdtune import progress
from akdtune.errors import NotRecorded, StudyError
from akdtune.records import recorded
from akdtune.records.recorded import Features
from akdtune.records.recorded_files import SplitName
from akdtune.reports.geometry.offsets import OffsetPlane, offset_plane
from akdtune.reports.left_out import DAMAGED, OTHER_IMAGES
from akdtune.reports.members import NO_VIEWS, OTHER_TEACHER, KeptTeacher
from akdtune.reports.text import number

NO_FEATURES = "without features (`record: {features: N}` keeps them)"
NO_TEACHER_FEATURES = "without features of the teacher (`record: {features: N}` keeps them)"
OTHER_WIDTH = "with views whose features are of another width than the teacher's"
UNMOVED = "with views whose features are the teacher's own"


@dataclass(frozen=True)
class TrialOffsets:
    """One trial."""

    trial_id: str
    arm: str
    plane: OffsetPlane


@dataclass(frozen=True)
class Offsets:
    """All trials that kept features of views.

    Attributes:
        trials: in the order of the study's table.
        left_out: how many others there are, by reason.
    """

    trials: tuple[TrialOffsets, ...]
    left_out: dict[str, int]

    @property
    def arms(self) -> dict[str, list[TrialOffsets]]:
        """Trials by arm."""
        arms: dict[str, list[TrialOffsets]] = {}
        for trial in self.trials:
            arms.setdefault(trial.arm, []).append(trial)
        return arms


@progress.stage("offsets of views")
def offsets_of(run: Path, rows: Iterable[Mapping[str, Any]]) -> Offsets:
    """The offsets of every finished trial of some rows of a study's table."""
    found: list[TrialOffsets] = []
    left_out: Counter[str] = Counter()
    teachers: dict[str, Features | str] = {}
    kept = KeptTeacher(run)
    for row in rows:
        if row["status"] != "done":
            continue
        split = recorded.split_of(str(row["role"]))
        if split not in teachers:
            teachers[split] = _teacher(run, split)
        held = _plane(run, row, teachers[split]) if kept.is_of(row) else OTHER_TEACHER
        if isinstance(held, OffsetPlane):
            found.append(TrialOffsets(str(row["trial_id"]), str(row["arm"]), held))
        else:
            left_out[held] += 1
    return Offsets(tuple(found), dict(left_out))


def _teacher(run: Path, split: SplitName) -> Features | str:
    try:
        return recorded.teacher_features(run, split)
    except NotRecorded:
        return NO_TEACHER_FEATURES
    except StudyError:
        return DAMAGED


def _plane(run: Path, row: Mapping[str, Any], teacher: Features | str) -> OffsetPlane | str:
    try:
        own = recorded.trial_features(run, str(row["trial_id"]))
    except NotRecorded:
        return NO_FEATURES
    except StudyError:
        return DAMAGED
    views = [values_NC for name, values_NC in own.of.items() if name.startswith("view_")]
    if not views:
        return NO_VIEWS
    if isinstance(teacher, str):
        return teacher
    teacher_NC = teacher.of["teacher_0"]
    if any(view_NC.shape[1] != teacher_NC.shape[1] for view_NC in views):
        return OTHER_WIDTH
    of_teacher, of_trial = recorded.common_rows(teacher.sample_ids_N, own.sample_ids_N)
    if not len(of_trial):
        return OTHER_IMAGES
    plane = offset_plane(teacher_NC[of_teacher].astype(np.float64), np.stack(views)[:, of_trial].astype(np.float64))
    return UNMOVED if plane is None else plane


HEADINGS = ("arm", "trials", "axis 1, %", "axis 2, %", "length, %", "the same, %", "cosine")
READING = (
    "offset: a view's pooled feature less its teacher's; axes: shares of the variance that the first two principal "
    "components of a trial's offsets hold; length: of the teacher's feature; the same: for all images, share of the "
    "squared length that is the mean offset's; cosine: between mean offsets; means over trials and views"
)


def arm_rows(offsets: Offsets) -> list[list[str]]:
    """Means over the trials of each arm, under `HEADINGS`."""
    rows = []
    for arm, trials in offsets.arms.items():
        planes = [trial.plane for trial in trials]
        views = [view for plane in planes for view in plane.views]
        cosines = [plane.mean_cosine for plane in planes if plane.mean_cosine is not None]
        shares = [100 * float(np.mean([plane.shares_2[axis] for plane in planes])) for axis in (0, 1)]
        sizes = [100 * float(np.mean([getattr(view, part) for view in views])) for part in ("length", "constant")]
        cosine = number(float(np.mean(cosines)) if cosines else None)
        rows.append([arm, str(len(trials)), *(number(value, 1) for value in (*shares, *sizes)), cosine])
    return rows


def offsets_json(offsets: Offsets) -> dict[str, Any]:
    """Everything of offsets but single images, as plain JSON."""
    return {
        "reading": READING, "left_out": offsets.left_out,
        "trials": {
            trial.trial_id: {
                "arm": trial.arm, "images": trial.plane.images, "axis_shares": list(trial.plane.shares_2),
                "mean_cosine": trial.plane.mean_cosine,
                "views": [{"length": view.length, "constant": view.constant, "mean": list(view.mean_2)}
                          for view in trial.plane.views],
            }
            for trial in offsets.trials
        },
    }  # fmt: skip

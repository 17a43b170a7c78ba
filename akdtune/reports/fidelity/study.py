"""A study's teachers and students beside each other, out of what its trials have recorded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from akdtune import progress
from akdtune.errors import AkdtuneError, NotRecorded, StudyError
from akdtune.records import recorded, tables
from akdtune.records.plan_file import read_plan
from akdtune.records.recorded import Attention, TeacherLogits
from akdtune.records.recorded_files import SplitName
from akdtune.reports.fidelity.agreement import Logits
from akdtune.reports.fidelity.maps import THRESHOLD
from akdtune.reports.fidelity.measured import (
    STUDENT,
    AttentionMaps,
    MapsByKind,
    StudentAnswers,
    StudentMeasured,
    TeacherAnswers,
    TeachersMeasured,
    measure_student,
    measure_teachers,
    teacher_name,
)
from akdtune.reports.left_out import DAMAGED, OTHER_IMAGES, WITHOUT_PREDICTIONS
from akdtune.reports.origin import Origin, origin_of
from akdtune.roles import REPORT_ROLES

Row = Mapping[str, Any]

TEACHERLESS = frozenset({"student_only", "label_smoothing", "last_batch", "sdpgo_style"})
"""Methods that read no teacher; one of a plug-in that reads none counts as taught."""
NOISE_TEACHER = "random"
"""The views that put noise in the teacher's place."""

IMAGES_SHOWN = 4
"""In the figure of maps: the first that are recorded, not chosen."""


@dataclass(frozen=True)
class StudyFidelity:
    """What was measured of a study.

    Attributes:
        run: its directory.
        split: the images that its trials are judged by.
        teachers: its teachers, and how they stand to each other.
        students: every finished trial that has left its answers.
        left_out: how many trials do not count, by the reason.
        without_maps: how many of the students have no attention maps that can be compared, by the reason.
        shown: maps of the first images, of teachers, views and the student of `shown_trial`; None without maps.
        shown_trial: whose student is shown.
        origin: what trained the trials.
    """

    run: Path
    split: SplitName
    teachers: TeachersMeasured
    students: Sequence[StudentMeasured]
    left_out: Mapping[str, int]
    without_maps: Mapping[str, int]
    shown: AttentionMaps | None
    shown_trial: str | None
    origin: Origin

    @property
    def name(self) -> str:
        """Of the study in tables."""
        return self.teachers.study

    @property
    def taught(self) -> list[StudentMeasured]:
        """Students that the study's teachers taught."""
        return [student for student in self.students if student.taught]


def study_fidelity(run: Path, threshold: float = THRESHOLD, name: str | None = None) -> StudyFidelity:
    """What the teachers and students of a study say of the same images, and where they look.

    Trials that are judged by the test set count where there are any, else those judged by validation images.

    Args:
        run: the study directory; the study may be running.
        threshold: above which a scaled map counts as attended, 0 to 1.
        name: of the study in tables; default: that of its directory.

    Raises:
        NotRecorded: where the teachers' answers are not recorded; says which setting records them.
        StudyError: while no trial has finished, or for a directory or file that cannot be read.
        AkdtuneError: for a threshold that is none.
    """
    if not 0 <= threshold < 1:
        raise AkdtuneError(f"threshold: {threshold:g} leaves nothing to compare (allowed: 0 up to below 1)")
    rows = tables.read_trials(run).to_pylist()
    by_test, others = ([row for row in rows if (row["role"] in REPORT_ROLES) is wanted] for wanted in (True, False))
    judged = by_test if any(row["status"] == "done" for row in by_test) else others
    done = [row for row in judged if row["status"] == "done"]
    if not done:
        counted = Counter(str(row["status"]) for row in rows)
        said = ", ".join(f"{count} {status}" for status, count in counted.items()) or "no trial is planned"
        raise StudyError(f"{run}: no trial has finished yet ({said})")
    split = recorded.split_of(str(done[0]["role"]))
    unread = others if judged is by_test else by_test
    return _Reading(run, name or run.resolve().name, split, threshold).study(judged, unread)


class _Reading:
    """Reads a study trial by trial, so that answers of one are in memory at a time."""

    def __init__(self, run: Path, name: str, split: SplitName, threshold: float) -> None:
        self.run, self.split, self.threshold = run, split, threshold
        held = recorded.teacher_logits(run, split)
        self.augmented: dict[str, TeacherLogits | None] = {}
        self.maps = _teacher_maps(run, split)
        self.teachers = TeacherAnswers(name, held.sample_ids_N, held.labels_N, list(held.logits_MNK), maps=self.maps)
        self.asked = {str(plan["trial_id"]): plan.get("settings") or {} for plan in read_plan(run)}
        self.shown: tuple[str, AttentionMaps] | None = None
        self.without_maps: Counter[str] = Counter()

    @progress.stage("comparing students with their teachers")
    def study(self, judged: Sequence[Row], others: Sequence[Row]) -> StudyFidelity:
        """Everything that is measured."""
        left_out = Counter(f"judged by other images ({row['role']})" for row in others if row["status"] == "done")
        students: list[StudentMeasured] = []
        for place, row in enumerate(judged):
            progress.at(place, len(judged), "trials")
            if row["status"] != "done":
                left_out[str(row["status"])] += 1
                continue
            try:
                found = self._student(row)
            except StudyError:
                found = DAMAGED
            if isinstance(found, str):
                left_out[found] += 1
            else:
                students.append(measure_student(found, self.teachers, self.threshold))
        known = {name: list(held.logits_MNK) for name, held in self.augmented.items() if held is not None}
        teachers = TeacherAnswers(
            self.teachers.study, self.teachers.ids_N, self.teachers.labels_N, self.teachers.logits, known, self.maps
        )
        return StudyFidelity(
            run=self.run,
            split=self.split,
            teachers=measure_teachers(teachers, self.threshold),
            students=students,
            left_out=dict(left_out),
            without_maps=dict(self.without_maps),
            shown=None if self.shown is None else self.shown[1],
            shown_trial=None if self.shown is None else self.shown[0],
            origin=origin_of(self.run),
        )

    def _student(self, row: Row) -> StudentAnswers | str:
        """What a trial left; or why it does not count."""
        trial_id = str(row["trial_id"])
        try:
            held = recorded.trial_logits(self.run, trial_id)
        except NotRecorded:
            return WITHOUT_PREDICTIONS
        if not np.array_equal(held.sample_ids_N, self.teachers.ids_N):
            return OTHER_IMAGES
        asked = self.asked.get(trial_id, {})
        taught = is_taught(asked)
        maps = self._maps(trial_id, taught)
        augmentation, augmented = self._augmented(trial_id)
        return StudentAnswers(
            trial_id=trial_id, cell=str(row.get("cell") or row["arm"]), seed=int(row["seed"]), role=str(row["role"]),
            taught=taught,
            logits_NK=held.logits_NK,
            augmentation=augmentation,
            augmented=augmented,
            train_accuracy=_finite(row.get("plain_train_accuracy")),
            running_accuracy=_finite(row.get("train_accuracy")),
            maps=maps,
        )  # fmt: skip

    def _augmented(self, trial_id: str) -> tuple[str | None, tuple[Logits, Sequence[Logits] | None] | None]:
        """The augmentation, its logits on images with it, and its teachers' on the same."""
        try:
            held = recorded.trial_augmented_logits(self.run, trial_id)
        except NotRecorded:
            return None, None
        name = held.augmentation or ""
        if name not in self.augmented:
            try:
                self.augmented[name] = recorded.teacher_augmented_logits(self.run, name, self.split)
            except NotRecorded:
                self.augmented[name] = None
        teachers = self.augmented[name]
        same = teachers is not None and np.array_equal(held.sample_ids_N, teachers.sample_ids_N)
        return name, (held.logits_NK, list(teachers.logits_MNK) if teachers is not None and same else None)

    def _maps(self, trial_id: str, taught: bool) -> AttentionMaps | None:
        try:
            maps = _maps_of(recorded.trial_attention(self.run, trial_id))
        except NotRecorded:
            self.without_maps["none recorded"] += 1
            return None
        if self.maps is None:
            self.without_maps["none recorded of the teachers"] += 1
            return None
        if not np.array_equal(maps.ids_N, self.maps.ids_N):
            self.without_maps["of other images than the teachers'"] += 1
            return None
        if taught and self.shown is None and STUDENT in maps.networks:
            self.shown = trial_id, _first(self.maps, maps, IMAGES_SHOWN)
        return maps


def is_taught(asked: Mapping[str, Any]) -> bool:
    """Whether a trial with these settings learns from the study's teachers."""
    views, method = asked.get("views") or {}, asked.get("method") or []
    view = views.get("name") if isinstance(views, Mapping) else views
    terms = [method] if isinstance(method, str | Mapping) else method
    names = {term.get("name") if isinstance(term, Mapping) else term for term in terms}
    return view != NOISE_TEACHER and not (names and names <= TEACHERLESS)


def _finite(value: float | None) -> float | None:
    return value if value is not None and isfinite(value) else None


def _teacher_maps(run: Path, split: SplitName) -> AttentionMaps | None:
    try:
        return _maps_of(recorded.teacher_attention(run, split))
    except NotRecorded:
        return None


def _maps_of(held: Attention) -> AttentionMaps:
    networks: dict[str, MapsByKind] = {
        _name(whose): {"sum": maps.sum_NHW, "predicted": maps.predicted_NHW} for whose, maps in held.of.items()
    }
    return AttentionMaps(held.sample_ids_N, held.image_size, held.image_size, networks)


def _name(whose: str) -> str:
    """`teacher 1` for teacher_0, `view 1` for view_1."""
    kind, _, place = whose.partition("_")
    if kind == "teacher":
        return teacher_name(int(place))
    return STUDENT if whose == STUDENT else whose.replace("_", " ")


def _first(teachers: AttentionMaps, student: AttentionMaps, images: int) -> AttentionMaps:
    """Of the first images: teachers, views, student."""
    views = {name: maps for name, maps in student.networks.items() if name != STUDENT}
    of = {**teachers.networks, **views, STUDENT: student.networks[STUDENT]}
    shown = {name: {kind: maps[:images] for kind, maps in by_kind.items()} for name, by_kind in of.items()}
    return AttentionMaps(teachers.ids_N[:images], teachers.height, teachers.width, shown)

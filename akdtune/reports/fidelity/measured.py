"""What is measured of a study's teachers and of each student beside them, from stored logits and maps."""

# Shapes: N images, K classes, P pixels of an image, h and w height and width of a map.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from akdtune.reports.fidelity.agreement import (
    Answering,
    Labels,
    Likeness,
    Logits,
    affinity,
    answering,
    likeness,
    mean_logits,
    percent_right,
)
from akdtune.reports.fidelity.maps import THRESHOLD, Chance, Masks, attended, chance, iou

Kind: TypeAlias = Literal["sum", "predicted"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""`sum`: a map summed over all classes, as published; `predicted`: that of the class which the network predicts."""

MapsByKind: TypeAlias = Mapping[Kind, npt.NDArray[np.floating[Any]]]


@dataclass(frozen=True)
class AttentionMaps:
    """Unscaled maps [N, h, w] of several networks on the same images.

    Attributes:
        ids_N: of the images.
        height, width: of the images, pixels.
        networks: by the name of a network and the kind of map.
    """

    ids_N: npt.NDArray[np.int64]
    height: int
    width: int
    networks: Mapping[str, MapsByKind]
    _made: dict[tuple[Kind, float], dict[str, Masks]] = field(default_factory=dict, repr=False, compare=False)

    def masks(self, kind: Kind, threshold: float) -> dict[str, Masks]:
        """What each network attends to; made once."""
        if (kind, threshold) not in self._made:
            self._made[kind, threshold] = {
                name: attended(by_kind[kind], self.height, self.width, threshold)
                for name, by_kind in self.networks.items()
            }
        return self._made[kind, threshold]


@dataclass(frozen=True)
class TeacherAnswers:
    """What the teachers of a study said on one split.

    Attributes:
        study: name of the study.
        ids_N, labels_N: of the images.
        logits: of each teacher, the main one first [N, K].
        augmented: the same on augmented images, by the name of the augmentation.
        maps: of the first of these images, of teachers that have any; None where none are recorded.
    """

    study: str
    ids_N: npt.NDArray[np.int64]
    labels_N: Labels
    logits: Sequence[Logits]
    augmented: Mapping[str, Sequence[Logits]] = field(default_factory=dict)
    maps: AttentionMaps | None = None


@dataclass(frozen=True)
class StudentAnswers:
    """What a trial left; its images stand in the order of its teachers'.

    Attributes:
        cell: of the design, or the arm.
        taught: whether the study's teachers taught it.
        logits_NK: on the images that it is judged by.
        augmentation: name of what its training images go through; None where nothing is recorded.
        augmented: on the same images, augmented as in its training, and the teachers' logits on the same augmented
            images where those are known; None where nothing is recorded.
        train_accuracy: on plain training images, percent; None where it was not measured.
        running_accuracy: the mean over the last epoch's steps, on augmented images, percent.
        maps: of student and views as far as they have any; None where none are recorded.
    """

    trial_id: str
    cell: str
    seed: int
    role: str
    taught: bool
    logits_NK: Logits
    augmentation: str | None = None
    augmented: tuple[Logits, Sequence[Logits] | None] | None = None
    train_accuracy: float | None = None
    running_accuracy: float | None = None
    maps: AttentionMaps | None = None


@dataclass(frozen=True)
class Overlap:
    """How far networks attend to the same pixels.

    Attributes:
        between: their names.
        iou: pixels of all over those of any; None where nobody attends to anything.
        chance: the same at images paired at random.
    """

    between: tuple[str, ...]
    iou: float | None
    chance: Chance | None

    def report(self) -> dict[str, Any]:
        """As plain JSON."""
        level = self.chance
        ends = None if level is None or level.low is None else [level.low, level.high]
        value = None if level is None else level.value
        return {"between": list(self.between), "iou": self.iou, "by_chance": value, "by_chance_95": ends}


Overlaps: TypeAlias = Mapping[Kind, Sequence[Overlap]]


def teacher_name(place: int) -> str:
    """Of the teacher at a place, the main one at 0: `teacher 1`."""
    return f"teacher {place + 1}"


STUDENT, NOISE = "student", "noise"


def overlap(masks: Mapping[str, Masks], between: Sequence[str]) -> Overlap:
    """How far the networks of these names attend to the same pixels."""
    chosen = [masks[name] for name in between]
    return Overlap(tuple(between), iou(*chosen), chance(*chosen))


@dataclass(frozen=True)
class TeachersMeasured:
    """The teachers of a study, and how they stand to each other.

    Attributes:
        study: its name.
        images: how many they were asked.
        attended_images: how many have maps.
        alone: each by itself.
        augmented: accuracy of each on augmented images, percent, by the name of the augmentation.
        pairs: how each two answer, by their places.
        overlaps: of each two, and of all where there are more; by kind of map.
        itself: IoU of the main teacher with itself: 1.
        noise: IoU of the main teacher with maps of white noise, which lies at its chance level.
    """

    study: str
    images: int
    attended_images: int
    alone: Sequence[Answering]
    augmented: Mapping[str, Sequence[float]]
    pairs: Mapping[tuple[int, int], Likeness]
    overlaps: Overlaps
    itself: Mapping[Kind, float | None]
    noise: Mapping[Kind, Overlap]

    def iou(self, kind: Kind) -> float | None:
        """IoU of two teachers, mean over all pairs; None with a single teacher, or without maps."""
        values = [overlap.iou for overlap in self.overlaps.get(kind, ()) if len(overlap.between) == 2]
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if known else None

    def affinity(self, augmentation: str) -> list[float | None]:
        """Of each teacher: accuracy on images with this augmentation over that on plain ones."""
        return [
            affinity(accuracy, alone.accuracy)
            for accuracy, alone in zip(self.augmented[augmentation], self.alone, strict=True)
        ]


def measure_teachers(teachers: TeacherAnswers, threshold: float = THRESHOLD) -> TeachersMeasured:
    """The teachers of a study, and how they stand to each other.

    Args:
        teachers: what they said.
        threshold: above which a scaled map counts as attended.
    """
    overlaps: dict[Kind, list[Overlap]] = {}
    itself: dict[Kind, float | None] = {}
    noise: dict[Kind, Overlap] = {}
    maps, names = teachers.maps, [] if teachers.maps is None else list(teachers.maps.networks)
    for kind in KINDS if maps is not None else ():
        assert maps is not None
        masks = maps.masks(kind, threshold) | {NOISE: _noise(maps, maps.networks[names[0]][kind].shape, threshold)}
        groups: list[Sequence[str]] = [*combinations(names, 2), *([names] if len(names) > 2 else [])]
        overlaps[kind] = [overlap(masks, group) for group in groups]
        itself[kind] = iou(masks[names[0]], masks[names[0]])
        noise[kind] = overlap(masks, (NOISE, names[0]))
    return TeachersMeasured(
        study=teachers.study,
        images=len(teachers.ids_N),
        attended_images=0 if maps is None else len(maps.ids_N),
        alone=[answering(logits_NK, teachers.labels_N) for logits_NK in teachers.logits],
        augmented={
            name: [percent_right(logits_NK, teachers.labels_N) for logits_NK in logits]
            for name, logits in teachers.augmented.items()
        },
        pairs={
            (first, second): likeness(teachers.logits[first], teachers.logits[second])
            for first, second in combinations(range(len(teachers.logits)), 2)
        },
        overlaps=overlaps,
        itself=itself,
        noise=noise,
    )


def _noise(maps: AttentionMaps, shape: tuple[int, ...], threshold: float) -> Masks:
    """What a network attends to whose maps are drawn anew for each image, of the same size."""
    drawn_Nhw = np.random.default_rng(0).normal(size=shape)
    return attended(drawn_Nhw, maps.height, maps.width, threshold)


@dataclass(frozen=True)
class StudentMeasured:
    """A student beside its study's teachers.

    Attributes:
        study, cell, trial_id, seed, role, taught: as it was asked.
        alone: by itself.
        ensemble: beside the mean of all teachers' logits.
        each: beside each teacher.
        augmentation: name of what its training images go through.
        augmented_accuracy: on images augmented as in its training, percent.
        augmented_ensemble: beside the teachers on those augmented images.
        gap: accuracy on plain training images less that on the judged ones, points.
        running_gap: the same with the running mean of the last epoch's augmented images, as published.
        overlaps: of student and each teacher, of all of them, and of each view and the main teacher; by kind of map.
    """

    study: str
    cell: str
    trial_id: str
    seed: int
    role: str
    taught: bool
    alone: Answering
    ensemble: Likeness
    each: Sequence[Likeness]
    augmentation: str | None
    augmented_accuracy: float | None
    augmented_ensemble: Likeness | None
    gap: float | None
    running_gap: float | None
    overlaps: Overlaps

    @property
    def affinity(self) -> float | None:
        """Accuracy on augmented images over that on plain ones."""
        return None if self.augmented_accuracy is None else affinity(self.augmented_accuracy, self.alone.accuracy)

    @property
    def any_gap(self) -> float | None:
        """The gap with plain training images; where it was not measured, the published one."""
        return self.running_gap if self.gap is None else self.gap

    def with_teachers(self, kind: Kind) -> tuple[float, float] | None:
        """IoU with a teacher and its chance level, each the mean over teachers."""
        pairs = [held for held in self.overlaps.get(kind, ()) if len(held.between) == 2 and held.between[0] == STUDENT]
        known = [(held.iou, held.chance.value) for held in pairs if held.iou is not None and held.chance is not None]
        if not known:
            return None
        ious, levels = zip(*known, strict=True)
        return float(np.mean(ious)), float(np.mean(levels))

    def of_views(self, kind: Kind) -> float | None:
        """IoU of a view and the main teacher, mean over views; None without views that have maps."""
        pairs = [held for held in self.overlaps.get(kind, ()) if STUDENT not in held.between]
        known = [held.iou for held in pairs if held.iou is not None]
        return float(np.mean(known)) if known else None

    def with_all(self, kind: Kind) -> float | None:
        """IoU of the student and all teachers: pixels of all over those of any."""
        found = [held.iou for held in self.overlaps.get(kind, ()) if len(held.between) > 2]
        return found[0] if found else None


def measure_student(student: StudentAnswers, teachers: TeacherAnswers, threshold: float = THRESHOLD) -> StudentMeasured:
    """A student beside its study's teachers.

    Args:
        student: what it said.
        teachers: what they said, of the same images in the same order.
        threshold: above which a scaled map counts as attended.

    Raises:
        ValueError: for other images or classes than the teachers'.
    """
    alone = answering(student.logits_NK, teachers.labels_N)
    augmented_accuracy, augmented_ensemble = None, None
    if student.augmented is not None:
        augmented_NK, of_teachers = student.augmented
        augmented_accuracy = percent_right(augmented_NK, teachers.labels_N)
        augmented_ensemble = None if of_teachers is None else likeness(augmented_NK, mean_logits(of_teachers))
    return StudentMeasured(
        study=teachers.study, cell=student.cell, trial_id=student.trial_id, seed=student.seed, role=student.role,
        taught=student.taught,
        alone=alone,
        ensemble=likeness(student.logits_NK, mean_logits(teachers.logits)),
        each=[likeness(student.logits_NK, logits_NK) for logits_NK in teachers.logits],
        augmentation=student.augmentation,
        augmented_accuracy=augmented_accuracy,
        augmented_ensemble=augmented_ensemble,
        gap=_gap(student.train_accuracy, alone),
        running_gap=_gap(student.running_accuracy, alone),
        overlaps=_overlaps(student.maps, teachers.maps, threshold),
    )  # fmt: skip


def _gap(train_accuracy: float | None, alone: Answering) -> float | None:
    return None if train_accuracy is None else train_accuracy - alone.accuracy


def _overlaps(
    student: AttentionMaps | None, teachers: AttentionMaps | None, threshold: float
) -> dict[Kind, list[Overlap]]:
    if student is None or teachers is None or not np.array_equal(student.ids_N, teachers.ids_N):
        return {}
    found: dict[Kind, list[Overlap]] = {}
    names = list(teachers.networks)
    views = [name for name in student.networks if name != STUDENT]
    for kind in KINDS:
        masks = teachers.masks(kind, threshold) | student.masks(kind, threshold)
        groups: list[tuple[str, ...]] = []
        if STUDENT in student.networks:
            groups += [(STUDENT, name) for name in names]
            groups += [(STUDENT, *names)] if len(names) > 1 else []
        groups += [(view, names[0]) for view in views]
        found[kind] = [overlap(masks, group) for group in groups]
    return found

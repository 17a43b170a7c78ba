"""What trials and teachers of a study answered on judged images, as stored: what analyses read.

Every reader gives arrays in the order of the images' ids. What a study does not hold raises `NotRecorded`, which says
which setting of `record` keeps it: trials that were stopped or diverged leave nothing, and analyses count them.
"""

# Shapes: N images, M teachers, V views, K classes, J answers, C feature width, H, W of a map.

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from akdtune.errors import NotRecorded, StudyError
from akdtune.records import recorded_files
from akdtune.records.damage import file_trouble
from akdtune.records.files import read_table, trial_directory
from akdtune.records.number_lists import Floats, read_lists
from akdtune.records.recorded_files import (
    ATTENTION,
    AUGMENTED,
    FEATURES,
    GROUP,
    PREDICTIONS,
    TOP_CLASSES,
    VALUE,
    Maps,
    SplitName,
)
from akdtune.records.trial_directory import TrialDirectory
from akdtune.roles import REPORT_ROLES

Integers: TypeAlias = npt.NDArray[np.int64]
Run: TypeAlias = str | os.PathLike[str]


@dataclass(frozen=True)
class TrialLogits:
    """What a trial's student says about the images that it is judged by.

    Attributes:
        sample_ids_N: of the images, ascending.
        labels_N: their true classes.
        logits_NK: of the student.
        augmentation: what the images went through; None: they are plain.
        stored_values_N, stored_groups_N: as stored; None where `values_N` and `groups_N` follow from the rest.
    """

    sample_ids_N: Integers
    labels_N: Integers
    logits_NK: Floats
    augmentation: str | None = None
    stored_values_N: Floats | None = None
    stored_groups_N: Integers | None = None

    @property
    def values_N(self) -> Floats:
        """What each row contributes to the study's metric, in its unit: of accuracy 100 where it is right, else 0."""
        if self.stored_values_N is not None:
            return self.stored_values_N
        return np.where(self.logits_NK.argmax(axis=1) == self.labels_N, np.float32(100), np.float32(0))

    @property
    def groups_N(self) -> Integers:
        """What rows are drawn together where others are drawn; each alone unless stored otherwise."""
        return self.sample_ids_N if self.stored_groups_N is None else self.stored_groups_N


@dataclass(frozen=True)
class TeacherLogits:
    """What the teachers of a study say about the images of a split.

    Attributes:
        sample_ids_N: of the images, ascending.
        labels_N: their true classes.
        logits_MNK: of every teacher: the main one, then `teacher.others` in their order.
        augmentation: what the images went through; None: they are plain.
    """

    sample_ids_N: Integers
    labels_N: Integers
    logits_MNK: Floats
    augmentation: str | None = None

    @property
    def main_NK(self) -> Floats:
        """Logits of the main teacher."""
        main_NK: Floats = self.logits_MNK[0]
        return main_NK


@dataclass(frozen=True)
class ViewLogits:
    """What the views of a trial say about the images that it is judged by.

    Attributes:
        sample_ids_N: of the images, ascending.
        labels_N: their true classes.
        log_probabilities_VNK: of each view at temperature 1; of stochastic views the log of the mean probability over
            fixed draws. V is 0 for a plain teacher.
    """

    sample_ids_N: Integers
    labels_N: Integers
    log_probabilities_VNK: Floats


@dataclass(frozen=True)
class Answers:
    """Every answer of a student whose network gives several, such as early exits or time steps.

    Attributes:
        sample_ids_N: of the images, ascending.
        labels_N: their true classes.
        logits_NJK: of each answer, in the network's order.
    """

    sample_ids_N: Integers
    labels_N: Integers
    logits_NJK: Floats


@dataclass(frozen=True)
class Features:
    """Pooled features on the first of the judged images.

    Attributes:
        sample_ids_N: of the images, ascending.
        of: [N, C] by whose they are: `student`, `view_1`, ..., or `teacher_0`, ....
    """

    sample_ids_N: Integers
    of: Mapping[str, Floats]


@dataclass(frozen=True)
class Attention:
    """Attention maps of the first of the judged images.

    Attributes:
        sample_ids_N: of the images, ascending.
        image_size: height = width of the images in pixels.
        of: maps at their own size by whose they are: `student`, `view_1`, ..., or `teacher_0`, ....
    """

    sample_ids_N: Integers
    image_size: int
    of: Mapping[str, Maps]


def split_of(role: str) -> SplitName:
    """The images that trials of a role are judged by: the test set, or those of validation."""
    return "test" if role in REPORT_ROLES else "validation"


def trial_logits(run: Run, trial_id: str) -> TrialLogits:
    """What a trial's student says about the images that it is judged by.

    Raises:
        NotRecorded: where the trial left nothing: it did not reach its end, or the file was deleted.
        StudyError: for a file that is damaged.
    """
    return _student(_of_trial(run, trial_id, PREDICTIONS, NO_PREDICTIONS))


def trial_augmented_logits(run: Run, trial_id: str) -> TrialLogits:
    """The same on augmented images: one pass, with the same draws for every trial of the study.

    Raises:
        NotRecorded, StudyError: as `trial_logits`.
    """
    return _student(_of_trial(run, trial_id, AUGMENTED, _asks("logits on augmented images", "augmented: true")))


def trial_views(run: Run, trial_id: str) -> ViewLogits:
    """What the views of a trial say about the images that it is judged by.

    Raises:
        NotRecorded, StudyError: as `trial_logits`.
    """
    held = _of_trial(run, trial_id, PREDICTIONS, NO_PREDICTIONS)
    kept = held.said(recorded_files.VIEWS_KEPT)
    if kept is None:
        raise NotRecorded(f"{held.path}: trial {trial_id} left {_asks('answers of its views', 'views: true')}")
    views = [held.lists(f"view_{index}") for index in range(1, int(kept) + 1)]
    none_VNK = np.zeros((0, *held.lists("logits").shape), np.float32)
    return ViewLogits(held.sample_ids_N, held.labels_N, np.stack(views) if views else none_VNK)


def trial_answers(run: Run, trial_id: str) -> Answers:
    """Every answer of a trial's student where its network gives several.

    Raises:
        NotRecorded, StudyError: as `trial_logits`.
    """
    held = _of_trial(run, trial_id, PREDICTIONS, NO_PREDICTIONS)
    if "answers" not in held.table.column_names:
        raise NotRecorded(
            f"{held.path}: trial {trial_id} left no answers: its network gives one, or `record.answers` is false"
        )
    classes = held.lists("logits").shape[1]
    answers_NX = held.lists("answers")
    return Answers(held.sample_ids_N, held.labels_N, answers_NX.reshape(len(answers_NX), -1, classes))


def trial_features(run: Run, trial_id: str) -> Features:
    """Pooled features of a trial's student and views.

    Raises:
        NotRecorded, StudyError: as `trial_logits`.
    """
    held = _of_trial(run, trial_id, FEATURES, _asks("features", "features: N"))
    return Features(held.sample_ids_N, {name: held.lists(name) for name in held.columns})


def trial_attention(run: Run, trial_id: str) -> Attention:
    """Attention maps of a trial's student and views.

    Raises:
        NotRecorded, StudyError: as `trial_logits`.
    """
    return _attention(_of_trial(run, trial_id, ATTENTION, _asks("attention maps", "attention: N")))


def teacher_logits(run: Run, split: SplitName = "test") -> TeacherLogits:
    """What the teachers of a study say about the images of a split.

    Raises:
        NotRecorded: where no trial of this split has ended since they are kept, or there is no teacher.
        StudyError: for a file that is damaged.
    """
    path = recorded_files.teacher_logits_file(run, split)
    return _teachers(_of_study(path, f"logits of the teacher on the {split} images", "teacher: true, the default"))


def teacher_classes(run: Run, split: SplitName = "test") -> tuple[Integers, Integers, Integers]:
    """Ids and labels of a split's rows, and the class that the main teacher predicts, whatever is kept of it.

    Raises:
        NotRecorded, StudyError: as `teacher_logits`.
    """
    path = recorded_files.teacher_logits_file(run, split)
    held = _of_study(path, f"predictions of the teacher on the {split} rows", "teacher: true, the default")
    likeliest = f"{TOP_CLASSES}_0"
    if likeliest in held.columns:
        return held.sample_ids_N, held.labels_N, held.lists(likeliest)[:, 0].astype(np.int64)
    return held.sample_ids_N, held.labels_N, _teachers(held).main_NK.argmax(axis=1)


def teacher_augmented_logits(run: Run, augmentation: str, split: SplitName = "test") -> TeacherLogits:
    """The same on the augmented images that students are given whose `augmentation` is this.

    Raises:
        NotRecorded, StudyError: as `teacher_logits`.
    """
    path = recorded_files.teacher_augmented_file(run, augmentation, split)
    what = f"logits of the teacher on {split} images under the augmentation '{augmentation}'"
    return _teachers(_of_study(path, what, "augmented: true"))


def teacher_features(run: Run, split: SplitName = "test") -> Features:
    """Pooled features of the teachers of a study.

    Raises:
        NotRecorded, StudyError: as `teacher_logits`.
    """
    path = recorded_files.teacher_features_file(run, split)
    held = _of_study(path, f"features of the teacher on the {split} images", "features: N")
    of = {f"teacher_{index}": held.lists(name) for index, name in enumerate(_numbered(held, "features"))}
    return Features(held.sample_ids_N, of)


def teacher_attention(run: Run, split: SplitName = "test") -> Attention:
    """Attention maps of the teachers of a study.

    Raises:
        NotRecorded, StudyError: as `teacher_logits`.
    """
    path = recorded_files.teacher_attention_file(run, split)
    return _attention(_of_study(path, f"attention maps of the teacher on the {split} images", "attention: N"))


def common_rows(*sample_ids: Integers) -> list[Integers]:
    """Of several records, the rows of the images that all of them hold, in one order."""
    shared_N = sample_ids[0]
    for ids_N in sample_ids[1:]:
        shared_N = np.intersect1d(shared_N, ids_N)
    return [np.searchsorted(ids_N, shared_N) for ids_N in sample_ids]


# ------------------------------------------------------------------------------------------------------------ reading

NO_PREDICTIONS = "no predictions: only trials that reach their end do, and who makes room may delete them"


def _asks(what: str, setting: str) -> str:
    return f"no {what}: `record: {{{setting}}}` keeps them of trials that end from then on"


class _Held:
    """A file whose rows are in the order of the images' ids."""

    def __init__(self, path: Path) -> None:
        self.path, self.table = path, read_table(path)
        self._order_N = np.argsort(self._whole("sample_id"), kind="stable")

    @property
    def sample_ids_N(self) -> Integers:
        """Of the images, ascending."""
        return self._whole("sample_id")[self._order_N]

    @property
    def labels_N(self) -> Integers:
        """True classes of the images."""
        return self._whole("label")[self._order_N]

    @property
    def columns(self) -> list[str]:
        """Columns that hold numbers of networks."""
        of_rows = ("sample_id", "label", VALUE, GROUP)
        return [name for name in self.table.column_names if name not in of_rows]

    def lists(self, name: str) -> Floats:
        """A column of lists, [N, ...]."""
        try:
            return read_lists(self.table, name)[self._order_N]
        except (KeyError, ValueError, IndexError, pa.ArrowException) as error:
            raise StudyError(f"{self.path}: damaged, it holds no {name} of each image ({error})") from error

    def numbers(self, name: str, kind: type[Any]) -> npt.NDArray[Any] | None:
        """A column with a number of each row, None where there is none."""
        return np.asarray(self.table[name].to_numpy(), kind)[self._order_N] if name in self.table.column_names else None

    def said(self, key: bytes) -> str | None:
        """What the file says about itself."""
        held = (self.table.schema.metadata or {}).get(key)
        return None if held is None else held.decode(errors="replace")

    def _whole(self, name: str) -> Integers:
        try:
            return np.asarray(self.table[name].to_numpy(), np.int64)
        except (KeyError, ValueError, pa.ArrowException) as error:
            raise StudyError(f"{self.path}: damaged, it holds no {name} of each image ({error})") from error


def _of_trial(run: Run, trial_id: str, name: str, lacking: str) -> _Held:
    trial = TrialDirectory(trial_directory(run, trial_id))
    path = trial.path / name
    if not path.exists():
        raise NotRecorded(f"{path}: trial {trial_id} left {lacking}")
    if why := file_trouble(trial, name):
        raise StudyError(f"{path}: {why}; `akdtune run` mends it")
    return _Held(path)


def _of_study(path: Path, what: str, setting: str) -> _Held:
    if not path.exists():
        raise NotRecorded(f"{path}: there is none: {what} are kept by trials that end under `record: {{{setting}}}`")
    return _Held(path)


def _student(held: _Held) -> TrialLogits:
    said = held.said(recorded_files.AUGMENTATION)
    _refuse_tops(held, TOP_CLASSES)
    of_rows = held.numbers(VALUE, np.float32), held.numbers(GROUP, np.int64)
    return TrialLogits(held.sample_ids_N, held.labels_N, held.lists("logits"), said, *of_rows)


def _teachers(held: _Held) -> TeacherLogits:
    _refuse_tops(held, f"{TOP_CLASSES}_0")
    logits = [held.lists(name) for name in _numbered(held, "logits")]
    if not logits:
        raise StudyError(f"{held.path}: damaged, it holds no logits_0")
    return TeacherLogits(held.sample_ids_N, held.labels_N, np.stack(logits), held.said(recorded_files.AUGMENTATION))


def _refuse_tops(held: _Held, column: str) -> None:
    """Says what a file holds in place of logits."""
    if column in held.table.column_names:
        raise NotRecorded(f"{held.path}: holds the likeliest classes of each row alone: all logits are too many")


def _numbered(held: _Held, begin: str) -> Sequence[str]:
    """Columns `begin_0`, `begin_1`, ... as far as there are any."""
    names = (f"{begin}_{index}" for index in range(len(held.columns)))
    return [name for name in names if name in held.columns]


def _attention(held: _Held) -> Attention:
    size = held.said(recorded_files.IMAGE_SIZE)
    of: dict[str, Maps] = {}
    for whose in _whose(held.columns):
        of[whose] = Maps(*(_map(held, recorded_files.map_column(whose, kind)) for kind in ("sum", "predicted")))
    if size is None or not of:
        raise StudyError(f"{held.path}: damaged, it holds no maps, or does not say of which images")
    return Attention(held.sample_ids_N, int(size), of)


def _whose(columns: Sequence[str]) -> list[str]:
    """Whose maps some columns are, in their order."""
    sums = [name for name in columns if name == "sum" or name.endswith("_sum") or name.startswith("sum_")]
    return [
        "student" if name == "sum" else name.removesuffix("_sum") if name.endswith("_sum") else f"teacher_{name[4:]}"
        for name in sums
    ]


def _map(held: _Held, name: str) -> Floats:
    """A column of maps, [N, H, W]."""
    try:
        about = held.table.schema.field(name).metadata or {}
        height, width = int(about[recorded_files.HEIGHT]), int(about[recorded_files.WIDTH])
        return held.lists(name).reshape(-1, height, width)
    except (KeyError, ValueError) as error:
        raise StudyError(f"{held.path}: damaged, it holds no maps {name} of a known size ({error})") from error

"""What a trial that ends puts on disk of its networks, as `record` asks for, and what it keeps of the study's teachers.

Teachers are the same for all trials of a split: the first one that ends writes what they say, under the study's own
folder. Two that end at once write the same, and each file takes its place in one step.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from torch import Tensor

from akdtune import atomic
from akdtune.records import recorded_files
from akdtune.records.recorded_files import ATTENTION, AUGMENTED, FEATURES, PREDICTIONS, Maps, SplitName, TopClasses
from akdtune.records.trial_directory import TrialDirectory
from akdtune.settings.record import RecordSettings, held_record
from akdtune.training.evaluation import Predictions
from akdtune.training.likeliest import Likeliest
from akdtune.training.recording import ClassMaps, Recording
from akdtune.training.request import TrialRequest

Write: TypeAlias = Callable[[Path], None]


def keep(directory: TrialDirectory, request: TrialRequest, recording: Recording, predictions: Predictions) -> None:
    """Writes the files of a trial that has been closed, and those of its study's teachers that are not there yet.

    Args:
        directory: of the trial.
        request: what it was asked; without a study's root, nothing is kept of teachers.
        recording: its networks.
        predictions: its student's answers on the images that it is judged by.

    Raises:
        Superseded: when a later attempt writes the trial's files.
        StudyError, OSError: when something cannot be written.
    """
    record = held_record(request.record)
    for name, write in _of_trial(record, request, recording, predictions).items():
        if write is None:  # an earlier attempt may have been asked for more
            (directory.path / name).unlink(missing_ok=True)
            continue
        with directory.replacing(directory.path / name) as temporary:
            write(temporary)
    if request.root and record.teacher and recording.has_teacher:
        for path, write_anew in _of_teachers(record, request, recording, predictions).items():
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                with atomic.beside(path, durable=True) as temporary:
                    write_anew(temporary)


def _of_trial(
    record: RecordSettings, request: TrialRequest, recording: Recording, predictions: Predictions
) -> dict[str, Write | None]:
    """How each file of a trial is written; None for one that is not asked for, or that there is nothing for."""
    ids_N, labels_N = predictions.sample_ids_N.numpy(), predictions.labels_N.numpy()
    half = record.predictions == "float16"

    def logits(path: Path) -> None:
        if predictions.logits_NK is None:
            _write_tops(predictions, half, path)
            return
        views = [_array(view_NK) for view_NK in recording.views()] if record.views else None
        answers_NJK = recording.answers() if record.answers else None
        logits_NK = _array(predictions.logits_NK)
        values_N, groups_N = (
            None if numbers is None else numbers.numpy() for numbers in (predictions.values_N, predictions.groups_N)
        )
        recorded_files.write_trial_logits(
            path, ids_N, labels_N, logits_NK, half=half, views=views,
            answers_NJK=None if answers_NJK is None else _array(answers_NJK), values_N=values_N, groups_N=groups_N,
        )  # fmt: skip

    def features(path: Path) -> None:
        held = _arrays(recording.features(record.features))
        recorded_files.write_features(path, ids_N[: record.features], held)

    def augmented(path: Path) -> None:
        logits_NK, label = _array(recording.augmented()), augmentation_label(request.settings)
        recorded_files.write_trial_logits(path, ids_N, labels_N, logits_NK, half=half, augmentation=label)

    maps = recording.attention(record.attention_images) if record.attention_images else {}
    return {
        PREDICTIONS: logits,
        FEATURES: features if record.features else None,
        ATTENTION: partial(_write_maps, recording, ids_N[: record.attention_images], maps) if maps else None,
        AUGMENTED: augmented if record.augmented else None,
    }


def _of_teachers(
    record: RecordSettings, request: TrialRequest, recording: Recording, predictions: Predictions
) -> dict[Path, Write]:
    """How each file about the study's teachers on the images of this trial is written."""
    ids_N, labels_N = predictions.sample_ids_N.numpy(), predictions.labels_N.numpy()
    run, split = request.root, split_name(recording)

    def logits(path: Path) -> None:
        if predictions.logits_NK is None:
            tops = [top_classes(of) for of in recording.teacher_likeliest()]
            recorded_files.write_teacher_tops(path, ids_N, labels_N, tops)
            return
        said = [_array(logits_NK) for logits_NK in recording.teacher_logits()]
        recorded_files.write_teacher_logits(path, ids_N, labels_N, said)

    def features(path: Path) -> None:
        held = _arrays(recording.teacher_features(record.features))
        recorded_files.write_features(path, ids_N[: record.features], held)

    def attention(path: Path) -> None:
        images = record.attention_images
        _write_maps(recording, ids_N[:images], recording.teacher_attention(images), path)

    def augmented(path: Path) -> None:
        said = [_array(logits_NK) for logits_NK in recording.teacher_augmented()]
        recorded_files.write_teacher_logits(path, ids_N, labels_N, said, augmentation=label)

    label = augmentation_label(request.settings)
    files: dict[Path, Write] = {recorded_files.teacher_logits_file(run, split): logits}
    if record.features:
        files[recorded_files.teacher_features_file(run, split)] = features
    if record.attention_images:
        files[recorded_files.teacher_attention_file(run, split)] = attention
    if record.augmented:
        files[recorded_files.teacher_augmented_file(run, label, split)] = augmented
    return files


def _write_tops(predictions: Predictions, half: bool, path: Path) -> None:
    assert predictions.likeliest is not None, "they stand in the place of logits"
    numbers = (None if part is None else part.numpy() for part in (predictions.values_N, predictions.groups_N))
    values_N, groups_N = numbers
    recorded_files.write_trial_tops(
        path,
        predictions.sample_ids_N.numpy(),
        predictions.labels_N.numpy(),
        top_classes(predictions.likeliest),
        half=half,
        values_N=values_N,
        groups_N=groups_N,
    )


def top_classes(of: Likeliest) -> TopClasses:
    """The same as files hold it."""
    return TopClasses(_array(of.log_p_label_R), of.classes_RT.numpy(), _array(of.log_p_RT))


def split_name(recording: Recording) -> SplitName:
    """The images of a recording, as files are named after them."""
    return "test" if recording.reads_test else "validation"


def augmentation_label(settings: Mapping[str, Any]) -> str:
    """What a trial's training images go through, as part of a file's name: a preset, or one with changes of its own.

    Args:
        settings: of the trial.
    """
    given = settings["training"].get("augmentation") or settings["data"].get("augmentation") or "weak"
    if isinstance(given, str):
        return given
    parts = {key: value for key, value in given.items() if value is not None}
    preset = str(parts.pop("preset", "weak"))
    if not parts:
        return preset
    return f"{preset}-{hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:8]}"


def _write_maps(recording: Recording, ids_N: npt.NDArray[np.int64], maps: Mapping[str, ClassMaps], path: Path) -> None:
    arrays = {whose: Maps(_array(of.sum_NHW), _array(of.predicted_NHW)) for whose, of in maps.items()}
    recorded_files.write_attention(path, ids_N, recording.image_size, arrays)


def _arrays(tensors: Mapping[str, Tensor]) -> dict[str, npt.NDArray[np.float32]]:
    return {name: _array(tensor) for name, tensor in tensors.items()}


def _array(tensor: Tensor) -> npt.NDArray[np.float32]:
    array: npt.NDArray[np.float32] = tensor.float().numpy()
    return array

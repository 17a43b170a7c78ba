"""How much space what `record` keeps of trials takes, from what their networks say about two images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from akdtune.settings.record import RecordSettings
from akdtune.training.likeliest import KEPT as LIKELIEST
from akdtune.training.loop import TrialLoop
from akdtune.training.recording import ClassMaps, Recording

ASKED = 2
"""Images that networks are asked about."""

HALF, SINGLE, NAMED = 2, 4, 16
"""Bytes of a number in float16 and in float32, and of an image's id and label."""

VALUED = 12
"""Bytes of a row's contribution to the metric, and of its group."""


@dataclass(frozen=True)
class KeptBytes:
    """Bytes that an image takes in the files of `record`, by kind: predictions, views, features, ....

    Attributes:
        trial: in those of a trial.
        teacher: in those about the study's teachers.
    """

    trial: Mapping[str, int]
    teacher: Mapping[str, int]


@dataclass(frozen=True)
class KeptSize:
    """Space that the files of `record` take.

    Attributes:
        trial_mib: of one trial, by kind; of the images that most trials are judged by.
        trials_mib: of all trials.
        teacher_mib: of the study's teachers, once.
    """

    trial_mib: Mapping[str, float]
    trials_mib: float
    teacher_mib: float


def kept_bytes(trial: TrialLoop, record: RecordSettings) -> KeptBytes:
    """Bytes of an image, by what the networks of a trial say about two; the trial must not be run any more."""
    trial.evaluation.share_as = ""  # what teachers say about two images is not what they say about all
    recording = Recording(trial.evaluation, trial.evaluation.judged.first(ASKED))
    classes, width = trial.dataset.inputs.num_classes, SINGLE if record.predictions == "float32" else HALF
    if trial.config.task.in_parts:
        teachers = len(recording.teacher_likeliest()) if record.teacher else 0
        of_student = NAMED + VALUED + width + LIKELIEST * (width + SINGLE)
        of_row = HALF + LIKELIEST * (HALF + SINGLE)
        return KeptBytes({"predictions": of_student}, {"predictions": NAMED + teachers * of_row} if teachers else {})
    teachers = len(recording.teacher_logits()) if record.teacher else 0
    logits = classes * width + NAMED
    of_trial = {"predictions": logits}
    of_teachers = {"predictions": teachers * classes * HALF + NAMED} if teachers else {}
    if record.views:
        of_trial["views"] = _numbers(recording.views()) * HALF
    if record.answers and (answers_NJK := recording.answers()) is not None:
        of_trial["answers"] = _numbers([answers_NJK]) * HALF
    if record.features:
        of_trial["features"] = _numbers(recording.features(ASKED).values()) * HALF
        of_teachers |= {"features": _numbers(recording.teacher_features(ASKED).values()) * HALF} if teachers else {}
    if record.attention_images:
        of_trial["attention"] = _numbers(_flat(recording.attention(ASKED))) * HALF
        of_teachers |= {"attention": _numbers(_flat(recording.teacher_attention(ASKED))) * HALF} if teachers else {}
    if record.augmented:
        of_trial["augmented"] = logits
        of_teachers |= {"augmented": of_teachers["predictions"]} if teachers else {}
    return KeptBytes(of_trial, of_teachers)


def kept_size(
    of_arms: Iterable[KeptBytes],
    record: RecordSettings,
    trials_by_images: Iterable[tuple[int, int]],
    augmentations: int = 1,
) -> KeptSize:
    """Space at most, each trial taking what the arm takes that takes most.

    Args:
        of_arms: of an image, by what was timed.
        record: of how many images what is kept.
        trials_by_images: of each split that trials are judged by, how many trials, and its images.
        augmentations: that students train on; teachers answer under each.
    """
    largest = max(of_arms, key=lambda kept: sum(kept.trial.values()))
    splits = [(trials, images) for trials, images in trials_by_images if trials and images]
    of_trial = {images: _mib(largest.trial, record, images) for _, images in splits}
    of_teacher = dict(largest.teacher)
    if "augmented" in of_teacher:
        of_teacher["augmented"] *= augmentations
    most_images = max(splits, default=(0, 0))[1]
    return KeptSize(
        trial_mib=of_trial.get(most_images, {}),
        trials_mib=sum(trials * sum(of_trial[images].values()) for trials, images in splits),
        teacher_mib=sum(sum(_mib(of_teacher, record, images).values()) for _, images in splits),
    )


def _mib(kept: Mapping[str, int], record: RecordSettings, images: int) -> dict[str, float]:
    few = {"features": record.features, "attention": record.attention_images}
    return {kind: size * min(images, few.get(kind, images)) / 2**20 for kind, size in kept.items()}


def _numbers(tensors: Iterable[Tensor]) -> int:
    """Numbers of one image."""
    return sum(tensor.numel() // len(tensor) for tensor in tensors)


def _flat(maps: Mapping[str, ClassMaps]) -> Iterable[Tensor]:
    return [tensor for of in maps.values() for tensor in of]

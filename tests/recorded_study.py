"""What `record` keeps of networks, written beside the trials of a small study without training anything."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from akdtune.records import recorded_files
from akdtune.records.files import trial_directory
from akdtune.statistics.probabilities import log_softmax

Floats = npt.NDArray[np.float64]
IMAGES, CLASSES, WIDTH = 60, 4, 6


def labels() -> npt.NDArray[np.int64]:
    """True classes of the images, whose ids are 100, 101, ...."""
    return np.arange(IMAGES) % CLASSES


def ids() -> npt.NDArray[np.int64]:
    """Of the images."""
    return 100 + np.arange(IMAGES)


def scores(seed: int, strength: float = 2.0) -> Floats:
    """Logits of a classifier that is right more often the stronger it is."""
    return strength * np.eye(CLASSES)[labels()] + np.random.default_rng(seed).normal(size=(IMAGES, CLASSES))


def write_teacher(run: Path, logits_NK: Floats, split: recorded_files.SplitName = "validation") -> None:
    """The logits that a study keeps of its teacher."""
    path = recorded_files.teacher_logits_file(run, split)
    recorded_files.write_teacher_logits(path, ids(), labels(), [logits_NK])


def write_trial(run: Path, trial: str, student_NK: Floats, views: Sequence[Floats] | None) -> None:
    """What a trial keeps; views are logits, kept as log-probabilities; None: without `record.views`."""
    kept = None if views is None else [log_softmax(view_NK) for view_NK in views]
    path = trial_directory(run, trial) / recorded_files.PREDICTIONS
    order = np.random.default_rng(0).permutation(IMAGES)  # readers go by the id
    recorded_files.write_trial_logits(
        path, ids()[order], labels()[order], student_NK[order],
        views=None if kept is None else [view_NK[order] for view_NK in kept],
    )  # fmt: skip


def features(seed: int) -> Floats:
    """Pooled features of a network."""
    return 1.0 + np.random.default_rng(seed).normal(size=(IMAGES, WIDTH))


def write_features(
    run: Path, trial: str, teacher_NC: Floats, views: Sequence[Floats], split: recorded_files.SplitName = "validation"
) -> None:
    """Features of a trial's views, and of the study's teacher."""
    of_trial = {"student": features(99), **{f"view_{index}": view_NC for index, view_NC in enumerate(views, 1)}}
    recorded_files.write_features(trial_directory(run, trial) / recorded_files.FEATURES, ids(), of_trial)
    recorded_files.write_features(recorded_files.teacher_features_file(run, split), ids(), {"features_0": teacher_NC})

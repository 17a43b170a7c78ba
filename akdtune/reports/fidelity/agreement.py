"""How far two classifiers say the same of the same images: top-1 fidelity, divergence, mutual information, affinity.

The measures of RethinkKD (Guo et al. 2024, arXiv 2405.00739). Each is computed once over the whole set; the published
code averages over batches, which biases mutual information upwards, the more so the smaller the batches.
"""

# Shapes: N images, K classes, M teachers.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from akdtune.statistics.calibration import calibration_error
from akdtune.statistics.mutual_information import MutualInformation, mutual_information
from akdtune.statistics.probabilities import divergence_nats, log_softmax
from akdtune.statistics.resampling import Floats

Logits: TypeAlias = npt.NDArray[np.floating[Any]]
Labels: TypeAlias = npt.NDArray[np.integer[Any]]

PUBLISHED_KL = 10.0
"""By what the published code multiplies its divergence, KL(student || teacher) at temperature 1, mean over images."""


def mean_logits(logits_MNK: Sequence[Logits]) -> Floats:
    """What an ensemble of teachers says [N, K]: the mean of their logits, as published."""
    return np.asarray(np.mean([logits_NK.astype(np.float64) for logits_NK in logits_MNK], axis=0))


def percent_right(logits_NK: Logits, labels_N: Labels) -> float:
    """Accuracy."""
    return 100 * float((logits_NK.argmax(axis=1) == labels_N).mean())


def percent_alike(first_NK: Logits, second_NK: Logits) -> float:
    """Top-1 fidelity: images of which both predict the same class."""
    return 100 * float((first_NK.argmax(axis=1) == second_NK.argmax(axis=1)).mean())


def mean_divergence_nats(of_NK: Logits, from_NK: Logits) -> float:
    """KL(of || from) of both networks' probabilities at temperature 1, mean over images, in nats."""
    return float(divergence_nats(log_softmax(of_NK), log_softmax(from_NK)).mean())


def entropy_nats(logits_NK: Logits) -> float:
    """Shannon entropy of the probabilities at temperature 1, mean over images, in nats."""
    logs_NK = log_softmax(logits_NK)
    return max(0.0, float(-(np.exp(logs_NK) * logs_NK).sum(axis=1).mean()))


@dataclass(frozen=True)
class Likeness:
    """How a student answers beside a teacher, or beside the ensemble of several.

    Attributes:
        fidelity: images of which both predict the same class, percent.
        kl_teacher_student: KL(teacher || student), nats: what distillation lowers.
        kl_student_teacher: KL(student || teacher), nats; the published number is ten times this.
        information: of the two lists of predicted classes.
    """

    fidelity: float
    kl_teacher_student: float
    kl_student_teacher: float
    information: MutualInformation

    def report(self) -> dict[str, float | None]:
        """As plain JSON."""
        return {
            "fidelity_percent": self.fidelity,
            "kl_teacher_student_nats": self.kl_teacher_student,
            "kl_student_teacher_nats": self.kl_student_teacher,
            "kl_as_published": PUBLISHED_KL * self.kl_student_teacher,
            "mutual_information_nats": self.information.nats,
            "mutual_information_by_chance_nats": self.information.expected_nats,
            "mutual_information_adjusted": self.information.adjusted,
        }


def likeness(student_NK: Logits, teacher_NK: Logits) -> Likeness:
    """How a student answers beside a teacher, on the same images in the same order.

    Raises:
        ValueError: for logits of other shapes.
    """
    if student_NK.shape != teacher_NK.shape:
        raise ValueError(f"logits must be of the same images and classes, got {student_NK.shape}, {teacher_NK.shape}")
    return Likeness(
        percent_alike(student_NK, teacher_NK),
        mean_divergence_nats(teacher_NK, student_NK),
        mean_divergence_nats(student_NK, teacher_NK),
        mutual_information(student_NK.argmax(axis=1), teacher_NK.argmax(axis=1)),
    )


@dataclass(frozen=True)
class Answering:
    """How a network answers by itself.

    Attributes:
        accuracy: percent.
        calibration_error: expected, ten bins, percentage points.
        entropy: mean Shannon entropy, nats.
    """

    accuracy: float
    calibration_error: float
    entropy: float

    def report(self) -> dict[str, float]:
        """As plain JSON."""
        return {
            "accuracy_percent": self.accuracy,
            "calibration_error_points": self.calibration_error,
            "entropy_nats": self.entropy,
        }


def answering(logits_NK: Logits, labels_N: Labels) -> Answering:
    """How a network answers by itself."""
    probabilities_NK = np.exp(log_softmax(logits_NK))
    return Answering(
        percent_right(logits_NK, labels_N), calibration_error(probabilities_NK, labels_N), entropy_nats(logits_NK)
    )


def affinity(augmented_accuracy: float, plain_accuracy: float) -> float | None:
    """Accuracy on augmented images over that on the same images as they are; None where nothing is right."""
    return augmented_accuracy / plain_accuracy if plain_accuracy > 0 else None

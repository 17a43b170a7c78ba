"""How much of a teacher's function a student has: agreement, distances, and both split by whether the teacher is right.

After Mason-Williams et al. (2025, arXiv 2510.12615), who compare distilled students with independent ones by activation
distance, Jensen-Shannon divergence and prediction agreement. Rank disagreement, the conditional agreements and what is
made of them are our choice.
"""

# Shapes: N images, K classes.

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from akdtune.statistics.probabilities import divergence_nats, log_mean_probability, log_softmax
from akdtune.statistics.resampling import Floats, Integers

Logits = npt.NDArray[np.floating[Any]]
_ROWS = 4096
"""Images at a time: doubles of a thousand classes for all of ImageNet's would take gigabytes."""


@dataclass(frozen=True)
class Measure:
    """A number of a student beside its teacher.

    Attributes:
        label: in tables.
        unit: percent, points, nats or none.
        sign: 1 where more of it is more of the teacher's function, -1 where less is.
        digits: behind the point.
        sentence: what it is.
    """

    label: str
    unit: str
    sign: int
    digits: int
    sentence: str


MEASURES: Mapping[str, Measure] = {
    "accuracy": Measure("accuracy", "percent", 1, 2, "images that the student classifies rightly"),
    "agreement": Measure("agreement", "percent", 1, 2, "images that student and teacher classify alike"),
    "activation_distance": Measure(
        "distance", "", -1, 4, "mean Euclidean distance of the student's and the teacher's probabilities"
    ),
    "js_divergence": Measure(
        "JS", "nats", -1, 4, "mean Jensen-Shannon divergence of the two predictions, natural logarithm, at most log 2"
    ),
    "rank_disagreement": Measure(
        "rank", "percent", -1, 2, "mean share of classes to which student and teacher give different ranks"
    ),
    "agreement_right": Measure("c+", "percent", 1, 2, "agreement on the images that the teacher classifies rightly"),
    "agreement_wrong": Measure("c-", "percent", 1, 2, "agreement on the images that the teacher classifies wrongly"),
    "asymmetry": Measure("c- less c+", "points", 1, 2, "agreement where the teacher is wrong less where it is right"),
}
"""What is measured of a student and compared with its control."""

CELLS = ("right_agree", "right_differ", "wrong_agree", "wrong_differ")
"""Percent of all images, by whether the teacher is right and the student agrees; they sum to 100."""


def measured(student_NK: Logits, teacher_NK: Logits, labels_N: Integers) -> dict[str, float]:
    """Every measure and every cell of one student; without those that are not defined.

    A teacher that is never wrong (or never right) leaves nothing to agree on there: `agreement_wrong` and `asymmetry`
    (or `agreement_right`) are not there then.

    Args:
        student_NK: its logits.
        teacher_NK: the teacher's, of the same images and classes.
        labels_N: the images' classes.

    Raises:
        ValueError: for shapes that do not fit, no images, or logits that are not finite.
    """
    if student_NK.shape != teacher_NK.shape or student_NK.shape[:1] != labels_N.shape or not labels_N.size:
        shapes = f"{student_NK.shape}, {teacher_NK.shape} and {labels_N.shape}"
        raise ValueError(f"logits of both must be images x classes, and there must be a label an image; got {shapes}")
    sums = np.zeros(3)
    for start in range(0, len(labels_N), _ROWS):
        rows = slice(start, start + _ROWS)
        student, teacher = (np.asarray(logits[rows], np.float64) for logits in (student_NK, teacher_NK))
        if not (np.isfinite(student).all() and np.isfinite(teacher).all()):
            raise ValueError("logits must be finite")
        sums += [
            activation_distance_N(student, teacher).sum(),
            js_divergence_N(student, teacher).sum(),
            rank_disagreement_N(student, teacher).sum(),
        ]
    distance, divergence, ranks = (float(total) / len(labels_N) for total in sums)
    answers_N, teacher_N = student_NK.argmax(axis=1), teacher_NK.argmax(axis=1)
    cells = quadrants(answers_N, teacher_N, labels_N)
    values = {
        "accuracy": 100 * int((answers_N == labels_N).sum()) / len(labels_N),
        "agreement": 100 * int((answers_N == teacher_N).sum()) / len(labels_N),
        "activation_distance": distance,
        "js_divergence": divergence,
        "rank_disagreement": 100 * ranks,
    }
    return values | split(answers_N, teacher_N, labels_N) | cells


def quadrants(answers_N: Integers, teacher_N: Integers, labels_N: Integers) -> dict[str, float]:
    """The four cells, percent of all images; the first and the third are correct and incorrect agreement."""
    agree_N, right_N = answers_N == teacher_N, teacher_N == labels_N
    counts = {
        "right_agree": right_N & agree_N,
        "right_differ": right_N & ~agree_N,
        "wrong_agree": ~right_N & agree_N,
        "wrong_differ": ~right_N & ~agree_N,
    }
    return {name: 100 * int(chosen_N.sum()) / len(labels_N) for name, chosen_N in counts.items()}


def split(answers_N: Integers, teacher_N: Integers, labels_N: Integers) -> dict[str, float]:
    """Agreement on the images that the teacher classifies rightly, on the others, and their difference."""
    agree_N, right_N = answers_N == teacher_N, teacher_N == labels_N
    found: dict[str, float] = {}
    for name, chosen_N in (("agreement_right", right_N), ("agreement_wrong", ~right_N)):
        if chosen_N.any():
            found[name] = 100 * int(agree_N[chosen_N].sum()) / int(chosen_N.sum())
    if len(found) == 2:
        found["asymmetry"] = found["agreement_wrong"] - found["agreement_right"]
    return found


def activation_distance_N(student_NK: Floats, teacher_NK: Floats) -> Floats:
    """Euclidean distance of the two predictive distributions of each image, 0 to the root of 2."""
    difference_NK = np.exp(log_softmax(student_NK)) - np.exp(log_softmax(teacher_NK))
    return np.asarray(np.sqrt((difference_NK**2).sum(axis=1)))


def js_divergence_N(student_NK: Floats, teacher_NK: Floats) -> Floats:
    """Jensen-Shannon divergence of the two predictive distributions of each image, in nats, 0 to log 2."""
    log_student_NK, log_teacher_NK = log_softmax(student_NK), log_softmax(teacher_NK)
    log_middle_NK = log_mean_probability(np.stack([log_student_NK, log_teacher_NK]))
    return (divergence_nats(log_student_NK, log_middle_NK) + divergence_nats(log_teacher_NK, log_middle_NK)) / 2


def rank_disagreement_N(student_NK: Floats, teacher_NK: Floats) -> Floats:
    """Share of classes at different ranks, by image; of equal logits the class with the lower number ranks first."""
    ranks = []
    for logits_NK in (student_NK, teacher_NK):
        order_NK = np.argsort(-logits_NK, axis=1, kind="stable")
        ranks_NK = np.empty_like(order_NK)
        np.put_along_axis(ranks_NK, order_NK, np.arange(logits_NK.shape[1])[None], axis=1)
        ranks.append(ranks_NK)
    return np.asarray((ranks[0] != ranks[1]).mean(axis=1))

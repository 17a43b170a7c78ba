"""How much a teacher's outputs are like a student's: point by point, and as sets.

Larger is more alike. Shapes: P inputs, R draws of N of them, K teachers, D classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from akdtune.statistics.probabilities import divergence_nats, log_softmax
from akdtune.statistics.resampling import Floats, Integers

EPSILON = 1e-6
"""Added to a divergence before it is inverted; the paper's own is not known."""

TINY = 1e-12


@dataclass(frozen=True)
class Score:
    """What is known of a score.

    Attributes:
        label: in tables and figures.
        least: how many inputs it needs.
    """

    label: str
    least: int = 1


SCORES: Mapping[str, Score] = {
    "kl": Score("KL"),
    "inverse_kl": Score("mean 1/KL"),
    "acs": Score("ACS", least=2),
    "cka": Score("RBF-CKA", least=2),
}
"""Point-wise ones first. A set of one input has no directions, so the others need two."""

HEADLINE = "kl"
"""The score that the verdict goes by, fixed before any number is seen."""


def scores(
    student_PD: npt.NDArray[np.float32], teachers_KPD: npt.NDArray[np.float32], draws_RN: Integers
) -> dict[str, Floats]:
    """Every score of each teacher for each draw of inputs, [R, K]; those that need more inputs are left out.

    Args:
        student_PD: the student's logits.
        teachers_KPD: each teacher's logits on the same inputs.
        draws_RN: which inputs belong to each draw.

    References:
        arXiv 2510.02302: s = mean of 1 / (divergence + epsilon) over inputs, aligned cosine similarity, RBF-CKA.

    Differs: `kl` is minus the mean divergence, by which the published code decides; the published formula is
        `inverse_kl`. Sets are compared by their logits, less each image's mean over the classes, which a softmax does
        not see.
    """
    student, teachers = student_PD.astype(np.float64), teachers_KPD.astype(np.float64)
    divergence_KP = divergence(student, teachers)
    found = {
        "kl": -divergence_KP[:, draws_RN].mean(axis=-1).T,
        "inverse_kl": (1 / (divergence_KP + EPSILON))[:, draws_RN].mean(axis=-1).T,
    }
    if draws_RN.shape[1] >= SCORES["acs"].least:
        student_RND = _of_classes(student)[draws_RN]
        teachers_KRND = _of_classes(teachers)[:, draws_RN]
        found["acs"] = aligned_cosine(student_RND, teachers_KRND).T
        found["cka"] = rbf_cka(student_RND, teachers_KRND).T
    return found


def divergence(student_PD: Floats, teachers_KPD: Floats) -> Floats:
    """KL(student || teacher) of the softmax at temperature 1 for each input, [K, P], in nats.

    Differs: the paper writes the student first, and does not say which way round its KL is meant.
    """
    return divergence_nats(log_softmax(student_PD), log_softmax(teachers_KPD))


def aligned_cosine(student_RND: Floats, teachers_KRND: Floats) -> Floats:
    """Aligned cosine [K, R]: mean over rows after the best rotation of the teacher's set onto the student's.

    Both sets are centred. By hand: what scipy.linalg.orthogonal_procrustes gives (a test compares), for all draws in
    one call.
    """
    student = student_RND - student_RND.mean(axis=-2, keepdims=True)
    teachers = teachers_KRND - teachers_KRND.mean(axis=-2, keepdims=True)
    left, _, right = np.linalg.svd(np.swapaxes(teachers, -1, -2) @ student)
    turned = teachers @ (left @ right)
    lengths = np.linalg.norm(turned, axis=-1) * np.linalg.norm(student, axis=-1)
    cosines: Floats = (turned * student).sum(axis=-1) / np.maximum(lengths, TINY)
    mean: Floats = cosines.mean(axis=-1)
    return mean


def rbf_cka(student_RND: Floats, teachers_KRND: Floats) -> Floats:
    """Centred kernel alignment [K, R] of Gaussian kernels, each as wide as the median squared distance of its own set.

    kernel = exp(-squared distance / (2 * median over pairs)); alignment = HSIC(X, Y) / sqrt(HSIC(X, X) HSIC(Y, Y)).

    References:
        Kornblith et al., ICML 2019, arXiv 1905.00414.

    Differs: the width is our choice; that paper tries shares of the median distance.
    """
    student, teachers = _centred_kernel(student_RND), _centred_kernel(teachers_KRND)
    together = (student * teachers).sum(axis=(-1, -2))
    alone = np.linalg.norm(student, axis=(-1, -2)) * np.linalg.norm(teachers, axis=(-1, -2))
    found: Floats = together / np.maximum(alone, TINY)
    return found


def _centred_kernel(rows_ND: Floats) -> Floats:
    """The kernel matrix [.., N, N] of each set, centred over rows and columns."""
    squares_N = (rows_ND**2).sum(axis=-1)
    distances_NN = squares_N[..., :, None] + squares_N[..., None, :] - 2 * rows_ND @ np.swapaxes(rows_ND, -1, -2)
    first, second = np.triu_indices(rows_ND.shape[-2], k=1)
    width = np.median(distances_NN[..., first, second], axis=-1)[..., None, None]
    kernel_NN = np.exp(-np.maximum(distances_NN, 0.0) / (2 * np.maximum(width, TINY)))
    by_rows = kernel_NN - kernel_NN.mean(axis=-1, keepdims=True)
    centred: Floats = by_rows - by_rows.mean(axis=-2, keepdims=True)
    return centred


def _of_classes(logits: Floats) -> Floats:
    """Logits less their mean over the classes."""
    centred: Floats = logits - logits.mean(axis=-1, keepdims=True)
    return centred

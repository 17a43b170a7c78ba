"""The ensemble's loss against the mean loss of its members less their diversity, on stored predictions.

For squared loss the two are equal whatever is predicted; for cross-entropy the second bounds the first. A difference,
or a bound that is broken, is therefore a fault of the stored predictions or of the formulas, never a finding. What is
found is how much of the members' loss diversity takes away, and how close the bound is.

References:
    Ortega, Cabanas and Masegosa, Diversity and Generalization in Neural Network Ensembles, AISTATS 2022
    (arXiv 2110.13786): the decomposition and the bound; Liao and Berg, The American Statistician 73:278, 2019: the
    sharper form of Jensen's inequality, which the authors' code has as an option.

Differs: the sharper form is evaluated as a series where members agree, where the authors' code limits the ratio.
"""

# Shapes: N images, M members (teacher and views, equal weights), K classes.

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from akdtune.statistics.resampling import Floats

TOLERANCE = 1e-9
"""Rounding of the sums: what the ensemble's loss may lie above a bound without breaking it."""
_NEAR = 1e-2
"""1 - mean / max of p(label) below which the sharper form is a series."""


@dataclass(frozen=True)
class Decomposition:
    """Means over images, of one loss.

    Attributes:
        ensemble: the loss of the mean probability.
        members: the mean loss of the members.
        diversity: what the decomposition takes away from it.
    """

    ensemble: float
    members: float
    diversity: float

    @property
    def slack(self) -> float:
        """How far the ensemble's loss lies below the members' less diversity; 0 for an equality."""
        return self.members - self.diversity - self.ensemble


@dataclass(frozen=True)
class EnsembleLosses:
    """What an ensemble loses on labelled images, and what its members do.

    Attributes:
        members: how many, the teacher counted.
        images: over which losses are averaged.
        squared: of probabilities, summed over classes; an equality.
        cross_entropy: of p(label), in nats; a bound.
        sharper: the same loss with the sharper bound.
        largest_gap: of the equality, over images.
        broken, broken_sharper: images whose loss lies above the bound.
        ensemble_accuracy, members_accuracy: percent; the second is the mean over members.
    """

    members: int
    images: int
    squared: Decomposition
    cross_entropy: Decomposition
    sharper: Decomposition
    largest_gap: float
    broken: int
    broken_sharper: int
    ensemble_accuracy: float
    members_accuracy: float

    @property
    def holds(self) -> bool:
        """Whether both statements hold on every image."""
        return self.largest_gap <= TOLERANCE and not self.broken and not self.broken_sharper


def ensemble_losses(log_probabilities_MNK: Floats, labels_N: npt.NDArray[np.int64]) -> EnsembleLosses:
    """Both decompositions, image by image and then averaged.

    Args:
        log_probabilities_MNK: of every member, the teacher first; of one member, diversity is 0.
        labels_N: clean labels.
    """
    probabilities_MNK = np.exp(log_probabilities_MNK)
    mean_NK = probabilities_MNK.mean(axis=0)
    is_label_NK = np.eye(mean_NK.shape[1])[labels_N]
    squared_N = (
        ((mean_NK - is_label_NK) ** 2).sum(axis=1),
        ((probabilities_MNK - is_label_NK) ** 2).sum(axis=2).mean(axis=0),
        probabilities_MNK.var(axis=0).sum(axis=1),
    )
    log_label_MN = log_probabilities_MNK[:, np.arange(len(labels_N)), labels_N]
    highest_N = log_label_MN.max(axis=0)
    share_MN = np.exp(log_label_MN - highest_N)  # p / max p, without underflow
    variance_N, mean_share_N = share_MN.var(axis=0), share_MN.mean(axis=0)
    loss_N, losses_N = -(np.log(mean_share_N) + highest_N), -log_label_MN.mean(axis=0)
    simple_N, sharper_N = variance_N / 2, variance_N * sharper_factor(mean_share_N)
    right_MN = log_probabilities_MNK.argmax(axis=2) == labels_N
    return EnsembleLosses(
        members=len(log_probabilities_MNK),
        images=len(labels_N),
        squared=_means(*squared_N),
        cross_entropy=_means(loss_N, losses_N, simple_N),
        sharper=_means(loss_N, losses_N, sharper_N),
        largest_gap=float(np.abs(squared_N[0] - (squared_N[1] - squared_N[2])).max(initial=0.0)),
        broken=int((loss_N > losses_N - simple_N + TOLERANCE).sum()),
        broken_sharper=int((loss_N > losses_N - sharper_N + TOLERANCE).sum()),
        ensemble_accuracy=100 * float((mean_NK.argmax(axis=1) == labels_N).mean()),
        members_accuracy=100 * float(right_MN.mean()),
    )


def sharper_factor(mean_share: Floats) -> Floats:
    """What multiplies the variance of p(label) / max p(label) in the sharper bound; at least 1/2, which it tends to.

    Args:
        mean_share: the mean of the shares, in (0, 1]; with M members at least 1 / M.
    """
    distance = 1 - mean_share
    far = np.where(distance < _NEAR, 0.5, mean_share)
    exact = np.log(far) / (1 - far) ** 2 + 1 / (far * (1 - far))
    series = np.zeros_like(distance)
    for power in range(7, -1, -1):  # the sum over k of (1 - 1 / (k + 2)) d^k
        series = series * distance + (1 - 1 / (power + 2))
    return np.asarray(np.where(distance < _NEAR, series, exact))


def _means(ensemble_N: Floats, members_N: Floats, diversity_N: Floats) -> Decomposition:
    return Decomposition(*(float(values_N.mean()) for values_N in (ensemble_N, members_N, diversity_N)))

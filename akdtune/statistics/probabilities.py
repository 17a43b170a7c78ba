"""Probabilities of classes, from the scores of a classifier, and how far two of them lie apart."""

# Shapes: K classes, M classifiers; `...` are images, or classifiers and images.

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from akdtune.statistics.resampling import Floats


def log_softmax(scores: npt.NDArray[np.floating[Any]]) -> Floats:
    """Log-probabilities at temperature 1 [..., K], in float64; rounded ones add up to 1 again."""
    from scipy.special import log_softmax as of_scores  # late: help and lists of trials do not wait for it

    return np.asarray(of_scores(scores.astype(np.float64), axis=-1))


def log_mean_probability(log_probabilities_MNK: Floats) -> Floats:
    """Log of the classifiers' mean probability [N, K], equal weights, without underflow."""
    from scipy.special import logsumexp  # late: help and lists of trials do not wait for it

    summed_NK = logsumexp(log_probabilities_MNK, axis=0)
    return np.asarray(summed_NK - np.log(len(log_probabilities_MNK)))


def divergence_nats(of: Floats, against: Floats) -> Floats:
    """Kullback-Leibler divergence KL(of || against) of log-probabilities [..., K], in nats [...].

    Never negative, also where rounding would make it so.
    """
    return np.asarray(np.maximum((np.exp(of) * (of - against)).sum(axis=-1), 0.0))

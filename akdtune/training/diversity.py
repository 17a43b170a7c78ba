"""How different the members of an ensemble are: variances, angles, ensemble accuracy.

Members are the teacher and its views, with equal weights whatever the training target weighs; softmax temperature 1.
Callers pass outputs in eval mode on plain images of a fixed split.

Shapes: B batch, M members (teacher first), V = M - 1 views, K classes, R width of any representation.

References: squared-error and cross-entropy diversity: Ortega, Cabanas, Masegosa, AISTATS 2022.
Angles: Angular-KD, arXiv 2510.22480.
"""

from __future__ import annotations

import torch
from torch import Tensor

from akdtune.columns import Column

CHUNK = 1024
"""Rows worked on at a time."""

_SQ = "squared-error diversity: variance over teacher and views, summed over"
_PAIR = "squared-error diversity times M / (M - 1) for M members, which frees it of their number:"
DIVERSITY_COLUMNS = tuple(
    Column(name, unit, sentence, teacher="judged")
    for name, unit, sentence in (
        ("ensemble_accuracy", "percent", "accuracy of the mean probability of teacher and views"),
        ("diversity_sq_prob", "", f"{_SQ} class probabilities"),
        ("diversity_sq_logit", "", f"{_SQ} logits"),
        ("diversity_sq_feature", "", f"{_SQ} the pooled feature"),
        ("diversity_pair_prob", "", f"{_PAIR} class probabilities"),
        ("diversity_pair_logit", "", f"{_PAIR} logits"),
        ("diversity_pair_feature", "", f"{_PAIR} the pooled feature"),
        ("diversity_ce", "", "cross-entropy diversity: variance of p(label) over twice its squared maximum"),
        ("teacher_cosine", "", "mean cosine between the features of a view and the teacher's"),
        ("teacher_cosine_prob", "", "mean cosine between the class probabilities of a view and the teacher's"),
        ("inter_cosine", "", "mean cosine between the features of two views"),
        ("inter_cosine_prob", "", "mean cosine between the class probabilities of two views"),
        ("offset_cosine", "", "mean cosine between two views' offsets from the teacher, in features"),
        ("offset_cosine_prob", "", "mean cosine between two views' offsets from the teacher, in class probabilities"),
    )
)
"""Means over the held-out images, in eval mode; those of pairs are null where there are fewer members."""


def variance_B(members_BMR: Tensor) -> Tensor:
    """Sum over the width of the population variance over members, per sample [B] (squared-error diversity).

    Equals 1 / (2 M^2) times the sum over all ordered pairs of squared distances; for vectors of length 1 it is 1
    minus the mean of all M^2 cosines.
    """
    # offsets from the teacher have the same variance, and are exactly 0 for equal members
    return _variance_B(_gram_BVV(members_BMR[:, 1:] - members_BMR[:, :1]))


def cross_entropy_diversity_B(log_probabilities_BMK: Tensor, labels_B: Tensor) -> Tensor:
    """Variance over members of p(label), over twice the square of its maximum, per sample [B]; at most 1/8."""
    index_BM1 = labels_B[:, None, None].expand(-1, log_probabilities_BMK.shape[1], 1)
    log_label_BM = log_probabilities_BMK.gather(2, index_BM1).squeeze(2)
    share_BM = (log_label_BM - log_label_BM.amax(dim=1, keepdim=True)).exp()  # p / max p, without underflow
    return share_BM.var(dim=1, correction=0) / 2


def mean_pair_cosine_B(vectors_BVR: Tensor) -> Tensor:
    """Mean over pairs i < j of the cosine between vectors, per sample [B]; V of at least 2."""
    return _mean_pair_cosine_B(_gram_BVV(vectors_BVR))


def mean_cosine_with_first_B(members_BMR: Tensor) -> Tensor:
    """Mean over all other members of the cosine between them and the first one, per sample [B]; M of at least 2."""
    dot_BM = (members_BMR @ members_BMR[:, 0].unsqueeze(2)).squeeze(2)
    length_BM: Tensor = members_BMR.norm(dim=2).clamp_min(1e-12)
    cosine_BV = dot_BM[:, 1:] / (length_BM[:, 1:] * length_BM[:, :1])
    return cosine_BV.mean(dim=1)


def _variance_B(offsets_BVV: Tensor) -> Tensor:
    """`variance_B` from the dot products of the views' offsets from the teacher."""
    members = offsets_BVV.shape[1] + 1
    return _trace_B(offsets_BVV) / members - offsets_BVV.sum(dim=(1, 2)) / members**2


def _mean_pair_cosine_B(gram_BVV: Tensor) -> Tensor:
    """`mean_pair_cosine_B` from the vectors' dot products."""
    views = gram_BVV.shape[1]
    length_BV = gram_BVV.diagonal(dim1=1, dim2=2).sqrt().clamp_min(1e-12)
    cosine_BVV = gram_BVV / (length_BV.unsqueeze(1) * length_BV.unsqueeze(2))
    return (cosine_BVV.sum(dim=(1, 2)) - _trace_B(cosine_BVV)) / (views * (views - 1))


def _gram_BVV(vectors_BVR: Tensor) -> Tensor:
    """All dot products within a sample: one small matrix product each, far cheaper than reductions over members."""
    return vectors_BVR @ vectors_BVR.mT


def _trace_B(x_BVV: Tensor) -> Tensor:
    return x_BVV.diagonal(dim1=1, dim2=2).sum(dim=-1)


class DiversityMeter:
    """Averages all measures over a split, batch by batch; per sample in the dtype of the outputs, summed in float64.

    Logits and features may have different numbers of members (a view augmenter that perturbs only one of them).
    """

    def __init__(self) -> None:
        self._count = 0
        self._sums: dict[str, Tensor | None] = {}

    def update(self, logits_BMK: Tensor, pooled_BMC: Tensor, labels_B: Tensor) -> None:
        """Adds a batch.

        Args:
            logits_BMK: logits of every member, the teacher first.
            pooled_BMC: pooled features of every member, the teacher first.
            labels_B: clean labels.
        """
        for start in range(0, len(labels_B), CHUNK):
            rows = slice(start, start + CHUNK)
            for name, values_B in _per_sample(logits_BMK[rows], pooled_BMC[rows], labels_B[rows]).items():
                before = self._sums.get(name)
                if values_B is None:
                    self._sums[name] = None
                else:
                    total = values_B.sum(dtype=torch.float64)
                    self._sums[name] = total if before is None else before + total
        self._count += len(labels_B)

    def result(self) -> dict[str, float | None]:
        """Means over all samples; None where a measure needs more members than there are.

        Keys: the names of `DIVERSITY_COLUMNS`.
        """
        return {name: None if total is None else float(total) / self._count for name, total in self._sums.items()}


def _per_sample(logits_BMK: Tensor, pooled_BMC: Tensor, labels_B: Tensor) -> dict[str, Tensor | None]:
    log_probabilities_BMK = torch.log_softmax(logits_BMK, dim=-1)
    probabilities_BMK = log_probabilities_BMK.exp()
    ensemble_right_B = (probabilities_BMK.mean(dim=1).argmax(dim=-1) == labels_B).double()
    values: dict[str, Tensor | None] = {
        "ensemble_accuracy": 100 * ensemble_right_B,
        "diversity_ce": cross_entropy_diversity_B(log_probabilities_BMK, labels_B),
    }
    for level, members_BMR in (("prob", probabilities_BMK), ("logit", logits_BMK), ("feature", pooled_BMC)):
        members, views_BVR = members_BMR.shape[1], members_BMR[:, 1:]
        offsets_BVV = _gram_BVV(views_BVR - members_BMR[:, :1])  # for variance and angles alike
        squared_B = _variance_B(offsets_BVV)
        values[f"diversity_sq_{level}"] = squared_B
        values[f"diversity_pair_{level}"] = squared_B * (members / (members - 1)) if members > 1 else None
        if level != "logit":
            suffix = "" if level == "feature" else f"_{level}"
            two = members > 2
            values[f"teacher_cosine{suffix}"] = mean_cosine_with_first_B(members_BMR) if members > 1 else None
            values[f"inter_cosine{suffix}"] = mean_pair_cosine_B(views_BVR) if two else None
            values[f"offset_cosine{suffix}"] = _mean_pair_cosine_B(offsets_BVV) if two else None
    return values

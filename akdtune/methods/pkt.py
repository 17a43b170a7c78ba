"""Probabilistic knowledge transfer (Passalis & Tefas, ECCV 2018, arXiv 1803.10837).

Shapes: B batch, C feature width.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor
from typing_extensions import override

from akdtune.methods import Method, MethodContext
from akdtune.methods._maps import full_precision, unit
from akdtune.registry import ComponentSettings, register
from akdtune.signals import Batch, Signals, Target, Terms

EPSILON = 1e-7
"""Added to lengths and to probabilities, as published."""


@full_precision
def neighbour_divergence(student_BC: Tensor, teacher_BC: Tensor) -> Tensor:
    """Mean over all pairs of q log(q / p), the teacher's and the student's neighbour probabilities, a scalar (eq. 7).

    A mean over B^2 pairs, as published: the KL of an image's neighbours over B.
    """
    teacher_BB, student_BB = neighbours(teacher_BC), neighbours(student_BC)
    gap_BB = teacher_BB - student_BB
    # each row of gaps sums to 0: without them, terms of one sign are left where larger ones of both would cancel
    return (teacher_BB * torch.log1p(gap_BB / (student_BB + EPSILON)) - gap_BB).mean()


def neighbours(features_BC: Tensor) -> Tensor:
    """Probability that image i picks image j: (cosine + 1) / 2 over the sum of its row, [B, B] (eq. 3 to 5)."""
    directions_BC = unit(features_BC, dim=1, epsilon=EPSILON)
    affinities_BB = ((directions_BC @ directions_BC.T + 1) / 2).clamp_min(0.0)  # cosines may round below -1
    return affinities_BB / affinities_BB.sum(dim=1, keepdim=True)


@register("pkt")
class PKT(Method):
    """Matches which images of a batch are each other's neighbours in feature space.

    Terms:
        pkt: divergence of the student's neighbour probabilities, from cosines of pooled features, from the target's:
            the mean over all pairs of images.

    Differs: a feature of length zero gets no gradient (the published code sets the resulting NaN to zero in the
        value only).

    Example:
        >>> pkt = PKT.alone(num_classes=10)
        >>> student, teacher = Signals.random(8), Signals.random(8)
        >>> loss = pkt.terms(student, Target.of(teacher), Batch.of(torch.arange(8)))["pkt"]
    """

    source = "Passalis and Tefas, ECCV 2018, arXiv 1803.10837"
    consumes = "pooled"
    reads_labels = False

    class Settings(ComponentSettings):
        """Settings of `pkt`; the default is that of RepDistiller and mdistiller."""

        weight: NonNegativeFloat = Field(30000.0, description="weight of the term")

    def __init__(self, settings: PKT.Settings, context: MethodContext) -> None:
        super().__init__(settings, context)
        self.settings = settings

    @override
    def terms(self, student: Signals, target: Target, batch: Batch) -> Terms:
        return {"pkt": neighbour_divergence(student.pooled_BC, target.pooled_BC)}

    @override
    def weights(self, epoch: int) -> Mapping[str, float]:
        return {"pkt": self.settings.weight}

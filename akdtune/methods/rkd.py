"""Relational knowledge distillation (Park et al., CVPR 2019, arXiv 1904.05068).

Shapes: B batch, C feature width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor, nn
from typing_extensions import override

from akdtune.methods import Method, MethodContext
from akdtune.methods._maps import full_precision, unit
from akdtune.registry import ComponentSettings, IdleAtZero, register
from akdtune.signals import Batch, Signals, Target, Terms

SMALLEST_SQUARED_DISTANCE = 1e-12
"""Smaller squared distances count as this, without a gradient, as published."""


@full_precision
def distance_loss(student_BC: Tensor, teacher_BC: Tensor) -> Tensor:
    """Huber loss between the distances of all pairs, each side over its mean distance, a scalar (eq. 4, 5)."""
    return nn.functional.smooth_l1_loss(_relative_distances_BB(student_BC), _relative_distances_BB(teacher_BC))


@full_precision
def angle_loss(student_BC: Tensor, teacher_BC: Tensor) -> Tensor:
    """Huber loss between the cosines of the angles of all triples, a scalar (eq. 6, 7)."""
    return nn.functional.smooth_l1_loss(_cosines_BBB(student_BC), _cosines_BBB(teacher_BC))


def _relative_distances_BB(features_BC: Tensor) -> Tensor:
    squares_BB = _differences_BBC(features_BC).square().sum(dim=-1)
    is_self_BB = torch.eye(len(features_BC), dtype=torch.bool, device=features_BC.device)
    distances_BB = squares_BB.clamp_min(SMALLEST_SQUARED_DISTANCE).sqrt().masked_fill(is_self_BB, 0.0)
    pairs = max(len(features_BC) * (len(features_BC) - 1), 1)
    return distances_BB / (distances_BB.sum() / pairs).clamp_min(SMALLEST_SQUARED_DISTANCE)


def _cosines_BBB(features_BC: Tensor) -> Tensor:
    directions_BBC = unit(_differences_BBC(features_BC), dim=-1)
    return directions_BBC @ directions_BBC.mT


def _differences_BBC(features_BC: Tensor) -> Tensor:
    return features_BC[None, :] - features_BC[:, None]


@register("rkd")
class RKD(Method):
    """Matches distances of pairs and angles of triples of pooled features.

    Terms:
        distance: Huber loss between the distances of all pairs of images, each network's over its mean distance.
        angle: Huber loss between the cosines of the angle at each image that any two others span.

    Differs: distances come from differences of features and not from their products, which cancel in single
        precision; two images with equal features span no angle and give it no gradient.

    Example:
        >>> rkd = RKD.alone(num_classes=10)
        >>> student, teacher = Signals.random(8), Signals.random(8)
        >>> loss = rkd.terms(student, Target.of(teacher), Batch.of(torch.arange(8)))["angle"]
    """

    source = "Park et al., CVPR 2019, arXiv 1904.05068"
    consumes = "pooled"
    reads_labels = False

    class Settings(ComponentSettings):
        """Settings of `rkd`; the defaults are those of RepDistiller and mdistiller."""

        idle_at_zero: ClassVar[IdleAtZero] = {
            ("weight",): ("distance_weight", "angle_weight"),
            ("distance_weight", "angle_weight"): ("weight",),
        }

        distance_weight: NonNegativeFloat = Field(25.0, description="weight of the pairs' distances")
        angle_weight: NonNegativeFloat = Field(50.0, description="weight of the triples' angles")
        weight: NonNegativeFloat = Field(1.0, description="weight of both terms together")

    def __init__(self, settings: RKD.Settings, context: MethodContext) -> None:
        super().__init__(settings, context)
        self.settings = settings

    @override
    def terms(self, student: Signals, target: Target, batch: Batch) -> Terms:
        features = student.pooled_BC, target.pooled_BC
        return {"distance": distance_loss(*features), "angle": angle_loss(*features)}

    @override
    def weights(self, epoch: int) -> Mapping[str, float]:
        settings = self.settings
        return {
            "distance": settings.weight * settings.distance_weight,
            "angle": settings.weight * settings.angle_weight,
        }

"""Knowledge review (Chen et al., CVPR 2021, arXiv 2104.09044).

Shapes: B batch, C channels or feature width, H, W.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt
from torch import Tensor, nn
from typing_extensions import override

from akdtune.methods import CIFAR100, IMAGENET, Method, MethodContext, published_on
from akdtune.methods._maps import BatchNorm, full_precision, initialised, pooled_to, shape_pairs, stage_pairs
from akdtune.registry import ComponentSettings, IdleAtZero, Pair, register
from akdtune.signals import Batch, Signals, Target, Terms

POOLED_SIZES = (4, 2, 1)
"""Sizes to which the loss also averages a map; the map itself counts 1, each of them half as much as the one before."""

WEIGHTS = {
    (CIFAR100, "wrn_40_2", "wrn_16_2"): 5.0,
    (CIFAR100, "wrn_40_2", "wrn_40_1"): 5.0,
    (CIFAR100, "wrn_40_2", "ShuffleV1"): 5.0,
    (CIFAR100, "resnet32x4", "resnet8x4"): 5.0,
    (CIFAR100, "resnet32x4", "ShuffleV1"): 5.0,
    (CIFAR100, "resnet32x4", "ShuffleV2"): 8.0,
    (CIFAR100, "resnet56", "resnet20"): 0.6,
    (CIFAR100, "resnet110", "resnet32"): 1.0,
    (IMAGENET, "torchvision_resnet34", "torchvision_resnet18"): 1.0,
    (IMAGENET, "torchvision_resnet50", "torchvision_mobilenet_v2"): 8.0,
}
"""By data set and pair: the authors' on CIFAR-100, mdistiller's on ImageNet (that of MobileNetV2 taken from V1)."""


@full_precision
def hierarchical_context_loss(student_BCHW: Tensor, teacher_BCHW: Tensor) -> Tensor:
    """Mean squared difference of two maps of one shape and of their averages to sizes 4, 2 and 1, a scalar.

    Sizes that are not smaller than the map are left out; the weights 1, 1/2, 1/4, 1/8 are scaled to sum to 1.
    """
    loss, weight, weights = nn.functional.mse_loss(student_BCHW, teacher_BCHW), 1.0, 1.0
    for size in POOLED_SIZES:
        if size < min(student_BCHW.shape[-2:]):
            weight /= 2
            weights += weight
            averages = pooled_to(student_BCHW, size, size), pooled_to(teacher_BCHW, size, size)
            loss = loss + weight * nn.functional.mse_loss(*averages)
    return loss / weights


class AttentionFusion(nn.Module):
    """Fuses a student's map with what came from the next deeper one, and reshapes it into the teacher's map.

    Args of the constructor: channels of the student's map, in between, and of the teacher's map; whether there is a
    deeper map.
    """

    def __init__(self, before: int, between: int, after: int, fuses: bool) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Conv2d(before, between, 1, bias=False), BatchNorm(between))
        self.leave = nn.Sequential(nn.Conv2d(between, after, 3, padding=1, bias=False), BatchNorm(after))
        self.attend = nn.Sequential(nn.Conv2d(2 * between, 2, 1), nn.Sigmoid()) if fuses else None
        for convolution in (self.enter[0], self.leave[0]):
            assert isinstance(convolution, nn.Conv2d)
            nn.init.kaiming_uniform_(convolution.weight, a=1)

    def forward(self, map_BCHW: Tensor, deeper_BCHW: Tensor | None, size: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The map in the teacher's shape, and the fused map for the next shallower one.

        Args:
            map_BCHW: the student's.
            deeper_BCHW: the fused map of the next deeper level, of any size; None for the deepest.
            size: height and width of the teacher's map.
        """
        fused_BCHW = self.enter(map_BCHW)
        if self.attend is not None and deeper_BCHW is not None:
            deeper_BCHW = nn.functional.interpolate(deeper_BCHW, fused_BCHW.shape[-2:], mode="nearest")
            shares_B2HW = self.attend(torch.cat([fused_BCHW, deeper_BCHW], dim=1))
            fused_BCHW = fused_BCHW * shares_B2HW[:, :1] + deeper_BCHW * shares_B2HW[:, 1:]
        if fused_BCHW.shape[-2:] != torch.Size(size):
            fused_BCHW = nn.functional.interpolate(fused_BCHW, tuple(size), mode="nearest")
        return self.leave(fused_BCHW), fused_BCHW


@register("reviewkd")
class ReviewKD(Method):
    """Lets each level of the student review the deeper ones before it is compared with the teacher's level.

    Levels are the stages after the stem and the pooled feature as a map of one pixel. From the deepest on, a level is
    fused with the one before by attention and reshaped into the teacher's map; all shapes follow from the networks.

    Terms:
        reviewkd: hierarchical context loss summed over the levels: mean squared difference of the maps and of their
            averages to 4, 2 and 1 pixels, weighted 1, 1/2, 1/4, 1/8 over the sum of the weights. The student's maps
            are those after their ReLU, the teacher's those before it, as published on CIFAR-100.

    Differs: `max_width` bounds the width in between (mdistiller ignores the setting and takes 512); the pooled level's
        target is the views' where they change the feature, and over a sum of several targets the teacher's maps count
        once for each of them, with its weight; stages are paired from the last one backwards where the
        networks have different numbers of them; a training batch of one image is normalised with running statistics
        at the pooled level.

    Example:
        >>> reviewkd = ReviewKD.alone(num_classes=10, max_width=64)
        >>> student, teacher = Signals.random(8), Signals.random(8)
        >>> loss = reviewkd.terms(student, Target.of(teacher), Batch.of(torch.arange(8)))["reviewkd"]
    """

    source = "Chen et al., CVPR 2021, arXiv 2104.09044"
    consumes = "pooled"
    needs = frozenset({"stages", "preact"})
    reads_labels = False

    class Settings(ComponentSettings):
        """Settings of `reviewkd`; the defaults are those of mdistiller for resnet32x4 to resnet8x4 on CIFAR-100."""

        idle_at_zero: ClassVar[IdleAtZero] = {("weight",): ("warmup_epochs", "student_preact")}

        weight: NonNegativeFloat = Field(5.0, description="weight of the term; published: 0.6 to 8 by pair")
        warmup_epochs: NonNegativeInt = Field(
            20, description="the weight rises linearly over these student epochs (published: 1 on ImageNet)"
        )
        max_width: PositiveInt = Field(
            512, description="channels of the fused maps: this, or the width of the student's feature if smaller"
        )
        student_preact: bool = Field(
            False, description="take the student's maps before their ReLU, too (mdistiller does on ImageNet)"
        )

    def __init__(self, settings: ReviewKD.Settings, context: MethodContext) -> None:
        super().__init__(settings, context)
        self.settings = settings
        levels = shape_pairs("reviewkd", context)
        levels.append(((context.student_dim, 1, 1), (context.teacher_dim, 1, 1)))
        width = min(settings.max_width, context.student_dim)

        def build() -> nn.ModuleList:
            return nn.ModuleList(
                AttentionFusion(student[0], width, teacher[0], fuses=level + 1 < len(levels))
                for level, (student, teacher) in enumerate(levels)
            )

        self.fusions = initialised(build, context)

    @override
    def terms(self, student: Signals, target: Target, batch: Batch) -> Terms:
        maps = student.preact_stages if self.settings.student_preact else student.stages
        levels = stage_pairs(maps, target.preact_stages)
        levels.append((student.pooled_BC[:, :, None, None], target.pooled_BC[:, :, None, None]))
        loss = student.pooled_BC.new_zeros(())
        fused_BCHW: Tensor | None = None
        for (student_BCHW, teacher_BCHW), fusion in zip(reversed(levels), reversed(self.fusions), strict=True):
            reviewed_BCHW, fused_BCHW = fusion(student_BCHW, fused_BCHW, teacher_BCHW.shape[-2:])
            loss = loss + hierarchical_context_loss(reviewed_BCHW, teacher_BCHW)
        return {"reviewkd": loss}

    @override
    def weights(self, epoch: int) -> Mapping[str, float]:
        """The weight, rising to its full value at epoch `warmup_epochs` (epochs count from 1)."""
        ramp = min(epoch / self.settings.warmup_epochs, 1.0) if self.settings.warmup_epochs else 1.0
        return {"reviewkd": ramp * self.settings.weight}

    @override
    @classmethod
    def published(cls, pair: Pair) -> Mapping[str, Any]:
        """The weight of this pair; on ImageNet mdistiller's settings, with its default weight of 1 for any other."""
        weight = WEIGHTS.get((published_on(pair), pair.teacher or "", pair.student))
        if pair.data == IMAGENET:
            return {"weight": 1.0 if weight is None else weight, "warmup_epochs": 1, "student_preact": True}
        return {} if weight is None else {"weight": weight}

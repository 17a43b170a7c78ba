"""Variational information distillation (Ahn et al., CVPR 2019, arXiv 1904.05835).

Shapes: B batch, C channels, H, W.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator
from torch import Tensor, nn
from typing_extensions import override

from akdtune.methods import Method, MethodContext
from akdtune.methods._maps import full_precision, initialised, same_size, shape_pairs, stage_pairs
from akdtune.registry import ComponentSettings, IdleAtZero, register
from akdtune.signals import Batch, Signals, Target, Terms


@full_precision
def negative_log_likelihood(
    predicted_BCHW: Tensor, teacher_BCHW: Tensor, log_scale_C: Tensor, smallest: float
) -> Tensor:
    """Mean of [(teacher - predicted)^2 / variance + log variance] / 2, a scalar in nats without log(2 pi) / 2 (eq. 6).

    Args:
        predicted_BCHW: mean of the Gaussian over the teacher's activations.
        teacher_BCHW: those activations.
        log_scale_C: the variance of channel c is softplus(log_scale) + smallest.
        smallest: lower bound of the variances.
    """
    variance_C = nn.functional.softplus(log_scale_C) + smallest
    squares_C = (predicted_BCHW - teacher_BCHW).square().mean(dim=(0, 2, 3))
    return 0.5 * (squares_C / variance_C + variance_C.log()).mean()


@register("vid")
class VID(Method):
    """Maximises a variational bound on what each student stage knows about the teacher's.

    Three 1x1 convolutions with ReLU between them predict the teacher's map from the student's; the variance of each
    teacher channel is learned beside them.

    Terms:
        vid: negative log-likelihood of the teacher's activations under these Gaussians, averaged over everything,
            summed over the stages after the stem. The larger of two maps is averaged to the smaller size.

    Differs: the variances are trained parameters, as in the paper and RepDistiller (mdistiller leaves them at their
        first value); stages are paired from the last one backwards where the networks have different numbers of them
        (the published code drops the last ones of the longer list).

    Example:
        >>> vid = VID.alone(num_classes=10)
        >>> student, teacher = Signals.random(8), Signals.random(8)
        >>> loss = vid.terms(student, Target.of(teacher), Batch.of(torch.arange(8)))["vid"]
    """

    source = "Ahn et al., CVPR 2019, arXiv 1904.05835"
    consumes = "stages"
    needs = frozenset({"stages"})
    reads_labels = False

    class Settings(ComponentSettings):
        """Settings of `vid`; the defaults are those of RepDistiller and mdistiller."""

        idle_at_zero: ClassVar[IdleAtZero] = {("weight",): ("first_variance", "smallest_variance")}

        weight: NonNegativeFloat = Field(1.0, description="weight of the term")
        first_variance: PositiveFloat = Field(5.0, description="variance of every channel before training")
        smallest_variance: PositiveFloat = Field(1e-5, description="lower bound of the variances")

        @model_validator(mode="after")
        def _check(self) -> VID.Settings:
            if self.first_variance <= self.smallest_variance:
                raise ValueError(f"first_variance must exceed smallest_variance, {self.smallest_variance}")
            return self

    def __init__(self, settings: VID.Settings, context: MethodContext) -> None:
        super().__init__(settings, context)
        self.settings = settings
        shapes = shape_pairs("vid", context)
        # the inverse of softplus; expm1 alone would overflow for variances beyond 700
        inside = settings.first_variance - settings.smallest_variance
        log_scale = inside + math.log(-math.expm1(-inside))
        self.predictors = initialised(
            lambda: nn.ModuleList(_predictor(student[0], teacher[0]) for student, teacher in shapes), context
        )
        self.log_scales = nn.ParameterList(
            nn.Parameter(torch.full((teacher[0],), log_scale, device=context.device)) for _, teacher in shapes
        )

    @override
    def terms(self, student: Signals, target: Target, batch: Batch) -> Terms:
        losses = []
        pairs = stage_pairs(student.stages, target.stages)
        for maps, predictor, log_scale_C in zip(pairs, self.predictors, self.log_scales, strict=True):
            student_BCHW, teacher_BCHW = same_size(*maps)
            predicted_BCHW = predictor(student_BCHW)
            smallest = self.settings.smallest_variance
            losses.append(negative_log_likelihood(predicted_BCHW, teacher_BCHW, log_scale_C, smallest))
        return {"vid": sum(losses[1:], losses[0])}

    @override
    def weights(self, epoch: int) -> Mapping[str, float]:
        return {"vid": self.settings.weight}


def _predictor(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 1, bias=False),
        nn.ReLU(),
        nn.Conv2d(after, after, 1, bias=False),
        nn.ReLU(),
        nn.Conv2d(after, after, 1, bias=False),
    )

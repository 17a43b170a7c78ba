"""Monte-Carlo dropout of the teacher's head (Gal and Ghahramani, ICML 2016, arXiv 1506.02142).

Shapes: B batch, V views, M members (views, and the teacher where it is one), K classes, C feature width.
"""

from __future__ import annotations

import torch
from pydantic import Field, PositiveInt
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from akdtune.registry import ComponentSettings, register
from akdtune.signals import Batch, Signals, Target, Teaching, Views, WeightedTarget
from akdtune.views import ViewAugmenter, ViewContext


class DropoutSettings(ComponentSettings):
    """Settings of `dropout`."""

    number: PositiveInt = Field(5, le=1000, description="views, each with a mask of its own")
    rate: float = Field(0.2, ge=0, lt=1, description="share of the pooled feature's numbers that a view loses")
    include_teacher: bool = Field(True, description="the plain teacher is a member of the ensemble, too")


@register("dropout")
class Dropout(ViewAugmenter):
    """Views are the teacher with fresh dropout on its pooled feature, classified by its own last layer.

    The student's target is the uniform mean of the views, with or without the plain teacher, for logits (as
    probabilities) and for features.

    Differs: the paper's networks are trained with dropout before every weight layer and averaged at test time; here a
        teacher that was trained without it gets dropout before its last layer only, and the average teaches.

    Example:
        >>> views = Dropout.alone(num_classes=10, teacher_dim=64, number=3, rate=0.3)
        >>> teacher, student = Signals.random(8), Signals.random(8)
        >>> teaching = views.teach(teacher, student, Batch.of(torch.arange(8)))
    """

    Settings = DropoutSettings
    source = "Gal and Ghahramani, ICML 2016, arXiv 1506.02142"
    stochastic = True
    weight_KC: Tensor
    bias_K: Tensor

    def __init__(self, settings: DropoutSettings, context: ViewContext) -> None:
        super().__init__(settings, context)
        self.settings = settings
        weight_KC, bias_K = context.teacher_classifier
        self.register_buffer("weight_KC", weight_KC.detach(), persistent=False)
        self.register_buffer("bias_K", bias_K.detach(), persistent=False)

    @override
    @classmethod
    def logits_made(cls, settings: ComponentSettings) -> tuple[int, str]:
        assert isinstance(settings, DropoutSettings)
        return settings.number, "views.number"

    @override
    @classmethod
    def draws(cls, settings: ComponentSettings) -> bool:
        """Which features are dropped."""
        return True

    @override
    def views(self, teacher: Signals, generator: torch.Generator, student: Signals | None = None) -> Views:
        """The teacher under masks drawn anew at every call, in training and evaluation mode alike."""
        own_B1C, keep = teacher.pooled_BC.detach().unsqueeze(1), 1 - self.settings.rate
        shape = (len(own_B1C), self.settings.number, own_B1C.shape[2])
        kept_BVC = torch.rand(shape, generator=generator, device=own_B1C.device) < keep
        pooled_BVC = own_B1C * kept_BVC / keep
        return Views(functional.linear(pooled_BVC, self.weight_KC, self.bias_K), pooled_BVC)

    @override
    def teach(self, teacher: Signals, student: Signals, batch: Batch) -> Teaching:
        """The ensemble as the only target."""
        teacher = teacher.detach()
        target = self.evaluation_target(teacher, self.views(teacher, batch.generator))
        only = (WeightedTarget(1.0, target),)
        return Teaching(only, only, {})

    @override
    def evaluation_target(self, teacher: Signals, views: Views) -> Target:
        """The uniform mean of the members."""
        logits_BMK, pooled_BMC = views.logits_BVK, views.pooled_BVC
        if self.settings.include_teacher:
            logits_BMK = torch.cat([teacher.logits_BK.unsqueeze(1), logits_BMK], dim=1)
            pooled_BMC = torch.cat([teacher.pooled_BC.unsqueeze(1), pooled_BMC], dim=1)
        members = logits_BMK.shape[1]
        return Target(logits_BMK, pooled_BMC, logits_BMK.new_full((members,), 1 / members))

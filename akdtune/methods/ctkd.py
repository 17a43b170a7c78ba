"""CTKD, curriculum temperature (Li et al., AAAI 2023, arXiv 2211.16231).

Shapes: B batch, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn
from typing_extensions import override

from akdtune.methods import IMAGENET, RESNET18, Method, MethodContext
from akdtune.methods._logits import StandardizeSettings, kl_of_logs, log_student_BK, log_target_BK
from akdtune.registry import IdleAtZero, Pair, register
from akdtune.signals import Batch, Signals, Target, Terms

INITIAL_LOGIT = 1.0
"""Where the temperature's parameter starts, as published: 1 + 20 * sigmoid(1) = 15.6 at the default range."""


def reversal(epoch: int, ramp_epochs: int, strength: float) -> float:
    """Factor of the temperature's gradient at an epoch (counted from 1): from 0 to -strength along half a cosine."""
    return -strength * (1 - math.cos(math.pi * min(epoch / ramp_epochs, 1.0))) / 2


def scaled_gradient(value: Tensor, factor: float) -> Tensor:
    """The same number; its gradient times `factor`."""
    constant = value.detach()
    return constant + factor * (value - constant)


@register("ctkd")
class CTKD(Method):
    """KD at a temperature that is trained against the student: its gradient is reversed, more and more.

    temperature = minimum + span * sigmoid(parameter), one for all images (the paper's global form). The parameter is
    trained by the student's optimiser, weight decay included, as published.

    Terms:
        kd: KL(target || student) at the trained temperature, times temperature squared, in nats; sum over classes,
            mean over the batch. Its gradient reaches the temperature (in both softmaxes and in the square) times
            -reversal * (1 - cos(pi * min(epoch / ramp_epochs, 1))) / 2.

    Differs: a target with a temperature of its own (Angular-KD's `released` ensemble) keeps it, so that the trained one
        softens the student alone. The paper's instance-wise form, a small network on both logits, is not offered: the
        published code does not contain it.

    Example:
        >>> ctkd = CTKD.alone(num_classes=10, ramp_epochs=5)
        >>> student, teacher = Signals.of(torch.randn(8, 10)), Signals.of(torch.randn(8, 10))
        >>> loss = ctkd.terms(student, Target.of(teacher), Batch.of(torch.arange(8)))["kd"]
    """

    source = "Li, Li, Yang, Zhao, Song, Luo, Li, Yang, AAAI 2023, arXiv 2211.16231"
    reads_labels = False
    imagenet_pairs = (RESNET18,)
    default_ce_weight = 0.1

    class Settings(StandardizeSettings):
        """Settings of `ctkd`; the defaults are those of the authors' CIFAR-100 script."""

        when_standardized: ClassVar[Mapping[str, Any]] = {"weight": 9.0}

        idle_at_zero: ClassVar[IdleAtZero] = {
            ("weight",): ("minimum", "span", "reversal", "ramp_epochs", "standardize"),
        }

        weight: NonNegativeFloat = Field(0.9, description="weight of the term (temperature squared is in the term)")
        minimum: PositiveFloat = Field(1.0, description="lowest temperature")
        span: PositiveFloat = Field(20.0, description="highest temperature minus the lowest")
        reversal: NonNegativeFloat = Field(1.0, description="factor of the reversed gradient once it is at its full")
        ramp_epochs: PositiveInt = Field(10, description="epochs over which the reversed gradient grows to its full")

    def __init__(self, settings: CTKD.Settings, context: MethodContext) -> None:
        super().__init__(settings, context)
        self.settings = settings
        self.temperature_logit = nn.Parameter(torch.full((), INITIAL_LOGIT, device=context.device))

    def temperature(self, epoch: int) -> Tensor:
        """The trained temperature, a scalar whose gradient is reversed by as much as the epoch asks for."""
        factor = reversal(epoch, self.settings.ramp_epochs, self.settings.reversal)
        logit = scaled_gradient(self.temperature_logit, factor)
        return self.settings.minimum + self.settings.span * torch.sigmoid(logit)

    @override
    def terms(self, student: Signals, target: Target, batch: Batch) -> Terms:
        temperature = self.temperature(batch.epoch)
        scale = temperature, self.settings.standardize
        divergence = kl_of_logs(log_target_BK(target, *scale), log_student_BK(student.logits_BK, *scale))
        return {"kd": temperature**2 * divergence}

    @override
    def weights(self, epoch: int) -> Mapping[str, float]:
        return {"kd": self.settings.weight}

    @override
    @classmethod
    def published(cls, pair: Pair) -> Mapping[str, Any]:
        """ImageNet: weight 1, five epochs of ramp."""
        return {"weight": 1.0, "ramp_epochs": 5} if pair.data == IMAGENET else {}

    @override
    @classmethod
    def ce_weight(cls, pair: Pair) -> float:
        """0.1; on ImageNet 1."""
        return 1.0 if pair.data == IMAGENET else cls.default_ce_weight

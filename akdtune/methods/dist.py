"""DIST, knowledge distillation from a stronger teacher (Huang et al., NeurIPS 2022, arXiv 2205.10536).

Shapes: B batch, K classes, R rows, N columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor
from typing_extensions import override

from akdtune.methods import IMAGENET, Method, MethodContext
from akdtune.methods._logits import LogitSettings, log_student_BK, log_target_BK
from akdtune.registry import IdleAtZero, Pair, register
from akdtune.signals import Batch, Signals, Target, Terms

EPSILON = 1e-8
"""Added to the product of both lengths, as published; a constant row correlates with nothing."""


def correlation_R(found_RN: Tensor, wanted_RN: Tensor) -> Tensor:
    """Pearson correlation of each row of one matrix with the same row of another, [R]."""
    found_RN = found_RN - found_RN.mean(dim=1, keepdim=True)
    wanted_RN = wanted_RN - wanted_RN.mean(dim=1, keepdim=True)
    lengths_R = torch.linalg.vector_norm(found_RN, dim=1) * torch.linalg.vector_norm(wanted_RN, dim=1)
    correlations_R: Tensor = (found_RN * wanted_RN).sum(dim=1) / (lengths_R + EPSILON)
    return correlations_R


@register("dist")
class DIST(Method):
    """Asks for the same order instead of the same numbers: correlation of rows and columns of the probabilities.

    Consumes an ensemble as its mixture of probabilities; what the mixture sums to does not matter.

    Terms:
        inter: temperature squared times (1 - Pearson correlation over the classes), mean over the images.
        intra: temperature squared times (1 - Pearson correlation over the images), mean over the classes.

    Differs: the temperature is a setting, as in torchdistill and mmrazor, with their factor of temperature squared;
        the authors' first release has none, which is `temperature: 1`. The authors' CIFAR-100 code is not public:
        temperature 4 and both weights 2 are what later papers report for it.

    Example:
        >>> dist = DIST.alone(num_classes=10, temperature=1.0)
        >>> student, teacher = Signals.of(torch.randn(8, 10)), Signals.of(torch.randn(8, 10))
        >>> loss = dist.terms(student, Target.of(teacher), Batch.of(torch.arange(8)))["inter"]
    """

    source = "Huang, You, Wang, Qian, Xu, NeurIPS 2022, arXiv 2205.10536"
    reads_labels = False

    class Settings(LogitSettings):
        """Settings of `dist`; the defaults are those reported for CIFAR-100."""

        idle_at_zero: ClassVar[IdleAtZero] = {("beta", "gamma"): ("temperature", "standardize")}

        beta: NonNegativeFloat = Field(2.0, description="weight of the correlation over classes (inter)")
        gamma: NonNegativeFloat = Field(2.0, description="weight of the correlation over images (intra)")

    def __init__(self, settings: DIST.Settings, context: MethodContext) -> None:
        super().__init__(settings, context)
        self.settings = settings

    @override
    def terms(self, student: Signals, target: Target, batch: Batch) -> Terms:
        scale = self.settings.temperature, self.settings.standardize
        found_BK = log_student_BK(student.logits_BK, *scale).exp()
        wanted_BK = log_target_BK(target, *scale).exp()
        squared = self.settings.temperature**2
        return {
            "inter": squared * (1 - correlation_R(found_BK, wanted_BK).mean()),
            "intra": squared * (1 - correlation_R(found_BK.T, wanted_BK.T).mean()),
        }

    @override
    def weights(self, epoch: int) -> Mapping[str, float]:
        return {"inter": self.settings.beta, "intra": self.settings.gamma}

    @override
    @classmethod
    def published(cls, pair: Pair) -> Mapping[str, Any]:
        """ImageNet: no temperature."""
        return {"temperature": 1.0} if pair.data == IMAGENET else {}

"""NKD, normalised knowledge distillation (Yang et al., ICCV 2023, arXiv 2303.13005).

Shapes: B batch, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field, NonNegativeFloat, PositiveFloat
from typing_extensions import override

from akdtune.methods import IMAGENET, Method, MethodContext
from akdtune.methods._logits import LogitSettings, is_label, log_others, log_student_BK, log_target_BK
from akdtune.registry import IdleAtZero, Pair, register
from akdtune.signals import Batch, Signals, Target, Terms


@register("nkd")
class NKD(Method):
    """Splits the soft cross-entropy into the label's part and the other classes', normalised among themselves.

    Consumes an ensemble as its mixture of probabilities; the other classes' part normalises it.

    Terms:
        label: - target's probability of the label times the student's log-probability of it, at temperature 1, mean
            over the batch, in nats.
        others: cross-entropy between both sides' probabilities among the other classes at `temperature`, times
            temperature squared, mean over the batch, in nats (a cross-entropy: not 0 for a perfect imitation).

    Differs: nothing known. The published code has one number per data set: temperature 3 and gamma 3.5 on CIFAR-100
        (ResNet-34 to ResNet-18), temperature 1 and gamma 1.5 on ImageNet, the defaults of its class.

    Example:
        >>> nkd = NKD.alone(num_classes=10, gamma=1.5)
        >>> student, teacher = Signals.of(torch.randn(8, 10)), Signals.of(torch.randn(8, 10))
        >>> loss = nkd.terms(student, Target.of(teacher), Batch.of(torch.arange(8)))["others"]
    """

    source = "Yang, Zeng, Li, Zhang, Yuan, Li, ICCV 2023, arXiv 2303.13005"
    reads_labels = True

    class Settings(LogitSettings):
        """Settings of `nkd`; the defaults are those of the authors' CIFAR-100 configuration."""

        idle_at_zero: ClassVar[IdleAtZero] = {
            ("weight",): ("gamma", "temperature", "standardize"),
            ("gamma",): ("temperature",),
        }

        temperature: PositiveFloat = Field(3.0, description="softmax temperature of the term of the other classes")
        gamma: NonNegativeFloat = Field(3.5, description="weight of the other classes' term")
        weight: NonNegativeFloat = Field(1.0, description="weight of both terms together")

    def __init__(self, settings: NKD.Settings, context: MethodContext) -> None:
        super().__init__(settings, context)
        self.settings = settings

    @override
    def terms(self, student: Signals, target: Target, batch: Batch) -> Terms:
        temperature, standardize = self.settings.temperature, self.settings.standardize
        is_label_BK = is_label(batch.labels_B, student.logits_BK.shape[-1])
        found_BK = log_student_BK(student.logits_BK, 1.0, standardize)
        wanted_BK = log_target_BK(target, 1.0, standardize)
        label = -(wanted_BK.exp() * found_BK).masked_fill(~is_label_BK, 0.0).sum(dim=-1).mean()
        found_BK = log_others(log_student_BK(student.logits_BK, temperature, standardize), is_label_BK)
        wanted_BK = log_others(log_target_BK(target, temperature, standardize), is_label_BK)
        others = -(wanted_BK.exp() * found_BK).masked_fill(is_label_BK, 0.0).sum(dim=-1).mean()
        return {"label": label, "others": temperature**2 * others}

    @override
    def weights(self, epoch: int) -> Mapping[str, float]:
        return {"label": self.settings.weight, "others": self.settings.weight * self.settings.gamma}

    @override
    @classmethod
    def published(cls, pair: Pair) -> Mapping[str, Any]:
        """ImageNet: temperature 1, gamma 1.5."""
        return {"temperature": 1.0, "gamma": 1.5} if pair.data == IMAGENET else {}

"""Knowledge distillation from softened outputs (Hinton et al., 2015, arXiv 1503.02531).

Shapes: B batch, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field, NonNegativeFloat
from typing_extensions import override

from akdtune.methods import IMAGENET, Method, MethodContext
from akdtune.methods._logits import LogitSettings, kl_of_logs, log_student_BK, log_target_BK
from akdtune.registry import IdleAtZero, Pair, register
from akdtune.signals import Batch, Signals, Target, Terms


@register("kd")
class KD(Method):
    """Distils the target's softened probabilities.

    Consumes an ensemble as one mixture of probabilities: sum over members of weight * softmax(logits / temperature).

    Terms:
        kd: KL(target || student) at `temperature`, times temperature squared, in nats; sum over classes, mean over
            the batch.

    Example:
        >>> kd = KD.alone(num_classes=10, temperature=4.0)
        >>> student, teacher = Signals.of(torch.randn(8, 10)), Signals.of(torch.randn(8, 10))
        >>> loss = kd.terms(student, Target.of(teacher), Batch.of(torch.arange(8)))["kd"]
    """

    source = "Hinton, Vinyals, Dean, 2015, arXiv 1503.02531"
    reads_labels = False
    default_ce_weight = 0.1

    class Settings(LogitSettings):
        """Settings of `kd`; the defaults are those of RepDistiller and mdistiller on CIFAR-100."""

        when_standardized: ClassVar[Mapping[str, Any]] = {"temperature": 2.0, "weight": 9.0}

        idle_at_zero: ClassVar[IdleAtZero] = {("weight",): ("temperature", "standardize")}

        weight: NonNegativeFloat = Field(0.9, description="weight of the term (temperature squared is in the term)")

    def __init__(self, settings: KD.Settings, context: MethodContext) -> None:
        super().__init__(settings, context)
        self.settings = settings

    @override
    def terms(self, student: Signals, target: Target, batch: Batch) -> Terms:
        scale = self.settings.temperature, self.settings.standardize
        divergence = kl_of_logs(log_target_BK(target, *scale), log_student_BK(student.logits_BK, *scale))
        return {"kd": self.settings.temperature**2 * divergence}

    @override
    def weights(self, epoch: int) -> Mapping[str, float]:
        return {"kd": self.settings.weight}

    @override
    @classmethod
    def published(cls, pair: Pair) -> Mapping[str, Any]:
        """ImageNet: mdistiller's temperature 1 and weight 0.5."""
        return {"temperature": 1.0, "weight": 0.5} if pair.data == IMAGENET else {}

    @override
    @classmethod
    def ce_weight(cls, pair: Pair) -> float:
        """0.1; on ImageNet 0.5."""
        return 0.5 if pair.data == IMAGENET else cls.default_ce_weight

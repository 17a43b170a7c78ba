"""Knowledge distillation from softened outputs (Hinton et al., 2015, arXiv 1503.02531).

Shapes: B batch, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat, SerializerFunctionWrapHandler, model_serializer
from torch import Tensor
from typing_extensions import override

from akdtune.methods import IMAGENET, Method, MethodContext
from akdtune.methods._logits import LogitSettings, jensen_shannon_of_logs, kl_of_logs, log_student_BK, log_target_BK
from akdtune.registry import IdleAtZero, Pair, register
from akdtune.signals import Batch, Signals, Target, Terms


@register("kd")
class KD(Method):
    """Distils the target's softened probabilities.

    Consumes an ensemble as one mixture of probabilities: sum over members of weight * softmax(logits / temperature).

    Terms:
        kd: KL(target || student) at `temperature`, times temperature squared, in nats; sum over classes, mean over
            the batch. With `divergence: reverse` KL(student || target) (MiniLLM: Gu et al., ICLR 2024, arXiv
            2306.08543), with `jsd` the generalised Jensen-Shannon divergence (GKD: Agarwal et al., ICLR 2024, arXiv
            2306.13649, eq. 1).

    Differs: MiniLLM and GKD take these divergences on text that the student has written; here contexts are those of the
        data, which GKD calls supervised. Reverse and jsd take a target that does not sum to 1 (an ensemble as released)
        normalised, as the forward divergence alone has a meaning for it.

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

        idle_at_zero: ClassVar[IdleAtZero] = {("weight",): ("temperature", "standardize", "divergence", "jsd_beta")}

        weight: NonNegativeFloat = Field(0.9, description="weight of the term (temperature squared is in the term)")
        divergence: Literal["forward", "reverse", "jsd"] = Field(
            "forward",
            description="forward: KL(target || student); reverse: KL(student || target); jsd: the generalised"
            " Jensen-Shannon divergence",
        )
        jsd_beta: float = Field(0.5, gt=0, lt=1, description="jsd: share of the target in the mixture")

        @override
        def idle(self) -> dict[str, str]:
            """`jsd_beta` belongs to one divergence."""
            idle = super().idle()
            return idle if self.divergence == "jsd" else {"jsd_beta": f"divergence is {self.divergence}", **idle}

        @model_serializer(mode="wrap")
        def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
            """Without what earlier versions did not have, as far as it says nothing: ids and locks stay."""
            values: dict[str, Any] = handler(self)
            later = "divergence", "jsd_beta"
            said = {"forward": (), "reverse": later[:1], "jsd": later}[self.divergence]
            return {key: item for key, item in values.items() if key not in later or key in said}

    def __init__(self, settings: KD.Settings, context: MethodContext) -> None:
        super().__init__(settings, context)
        self.settings = settings

    @override
    def terms(self, student: Signals, target: Target, batch: Batch) -> Terms:
        scale = self.settings.temperature, self.settings.standardize
        divergence = self._divergence(log_target_BK(target, *scale), log_student_BK(student.logits_BK, *scale))
        return {"kd": self.settings.temperature**2 * divergence}

    def _divergence(self, log_target_BK: Tensor, log_student_BK: Tensor) -> Tensor:
        if self.settings.divergence == "forward":
            return kl_of_logs(log_target_BK, log_student_BK)
        proper_BK = torch.log_softmax(log_target_BK, dim=-1)
        if self.settings.divergence == "reverse":
            return kl_of_logs(log_student_BK, proper_BK)
        return jensen_shannon_of_logs(proper_BK, log_student_BK, self.settings.jsd_beta)

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

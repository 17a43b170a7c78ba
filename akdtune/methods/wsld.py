"""WSLD, weighted soft labels (Zhou et al., ICLR 2021, arXiv 2102.00650).

Shapes: B batch, K classes.
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

EPSILON = 1e-7
"""Added to the teacher's cross-entropy, as published."""


@torch.no_grad()
def soft_label_weights_B(log_found_BK: Tensor, log_wanted_BK: Tensor, labels_B: Tensor) -> Tensor:
    """1 - exp(-CE of the student / CE of the target) of each image, [B]: small where the student is ahead."""
    found_B, wanted_B = (
        -log_BK.gather(1, labels_B[:, None]).squeeze(1).clamp(max=0.0) for log_BK in (log_found_BK, log_wanted_BK)
    )
    return 1 - torch.exp(-found_B / (wanted_B + EPSILON))


@register("wsld")
class WSLD(Method):
    """Weighs each image's soft label by how far the student is behind the teacher on it.

    Consumes an ensemble as its mixture of probabilities.

    Terms:
        wsld: cross-entropy between target and student at `temperature`, each image times 1 - exp(-CE_student /
            CE_target) (a constant; at temperature 1), times temperature squared, mean over the batch, in nats.

    Differs: nothing in the formula. The CIFAR-100 numbers come from the authors' answer to a question, as that code is
        not public; users report less than the paper with them.

    Example:
        >>> wsld = WSLD.alone(num_classes=10, temperature=4.0)
        >>> student, teacher = Signals.of(torch.randn(8, 10)), Signals.of(torch.randn(8, 10))
        >>> loss = wsld.terms(student, Target.of(teacher), Batch.of(torch.arange(8)))["wsld"]
    """

    source = "Zhou, Song, Chen, Zhou, Wang, Yuan, Zhang, ICLR 2021, arXiv 2102.00650"
    reads_labels = True

    class Settings(LogitSettings):
        """Settings of `wsld`; the defaults are those for CIFAR-100."""

        idle_at_zero: ClassVar[IdleAtZero] = {("alpha",): ("temperature", "standardize")}

        alpha: NonNegativeFloat = Field(2.25, description="weight of the term (temperature squared is in the term)")

    def __init__(self, settings: WSLD.Settings, context: MethodContext) -> None:
        super().__init__(settings, context)
        self.settings = settings

    @override
    def terms(self, student: Signals, target: Target, batch: Batch) -> Terms:
        temperature, standardize = self.settings.temperature, self.settings.standardize
        weights_B = soft_label_weights_B(
            log_student_BK(student.logits_BK, 1.0, standardize),
            log_target_BK(target, 1.0, standardize),
            batch.labels_B,
        )
        found_BK = log_student_BK(student.logits_BK, temperature, standardize)
        entropies_B = -(log_target_BK(target, temperature, standardize).exp() * found_BK).sum(dim=-1)
        return {"wsld": temperature**2 * (weights_B * entropies_B).mean()}

    @override
    def weights(self, epoch: int) -> Mapping[str, float]:
        return {"wsld": self.settings.alpha}

    @override
    @classmethod
    def published(cls, pair: Pair) -> Mapping[str, Any]:
        """ImageNet: temperature 2, alpha 2.5."""
        return {"temperature": 2.0, "alpha": 2.5} if pair.data == IMAGENET else {}

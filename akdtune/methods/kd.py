"""Knowledge distillation from softened outputs (Hinton et al., 2015, arXiv 1503.02531).

Shapes: B batch, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor

from akdtune.methods import Method, MethodContext
from akdtune.registry import ComponentSettings, register
from akdtune.signals import Batch, Signals, Target, Terms, tempered


def kl_of_logs(log_target_BK: Tensor, log_student_BK: Tensor) -> Tensor:
    """Sum over classes of target * (log target - log student), mean over the batch: a scalar in nats.

    A target that does not sum to 1 is taken as it is: its sum multiplies the gradient to the student.
    """
    difference_BK = log_target_BK - log_student_BK
    return torch.dot(log_target_BK.exp().flatten(), difference_BK.flatten()) / len(difference_BK)


@register("kd")
class KD(Method):
    """Distils the target's softened probabilities.

    Consumes an ensemble as one mixture of probabilities: sum over members of weight * softmax(logits / temperature).

    Terms:
        kd: KL(target || student) at `temperature`, times temperature squared, in nats; sum over classes, mean over
            the batch.
    """

    default_ce_weight = 0.1

    class Settings(ComponentSettings):
        """Settings of `kd`; the defaults are those of RepDistiller and mdistiller on CIFAR-100."""

        temperature: PositiveFloat = Field(4.0, description="softmax temperature of student and target")
        weight: NonNegativeFloat = Field(0.9, description="weight of the term (temperature squared is in the term)")

    def __init__(self, settings: KD.Settings, context: MethodContext) -> None:
        super().__init__(settings, context)
        self.settings = settings

    def terms(self, student: Signals, target: Target, batch: Batch) -> Terms:
        """See the class."""
        temperature = self.settings.temperature
        log_student_BK = torch.log_softmax(tempered(student.logits_BK, temperature), dim=-1)
        return {"kd": temperature**2 * kl_of_logs(target.log_probabilities_BK(temperature), log_student_BK)}

    def weights(self, epoch: int) -> Mapping[str, float]:
        """The same at every epoch."""
        return {"kd": self.settings.weight}

"""Decoupled knowledge distillation (Zhao et al., CVPR 2022, arXiv 2203.08679).

Shapes: B batch, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat
from torch import Tensor

from akdtune.methods import Method, MethodContext
from akdtune.registry import ComponentSettings, register
from akdtune.signals import Batch, Signals, Target, Terms, tempered


def target_class_kl(log_target_BK: Tensor, log_student_BK: Tensor, is_label_BK: Tensor) -> Tensor:
    """KL between the pairs (label class, all others), mean over the batch: a scalar in nats (eq. 7, first term).

    The target's pair is not normalised: if its classes sum to 2.44, so does the pair.
    """
    log_target_B2 = _log_pair(log_target_BK, is_label_BK)
    log_student_B2 = _log_pair(log_student_BK, is_label_BK)
    return (log_target_B2.exp() * (log_target_B2 - log_student_B2)).sum(dim=-1).mean()


def other_classes_kl(log_target_BK: Tensor, log_student_BK: Tensor, is_label_BK: Tensor) -> Tensor:
    """KL among the classes other than the label, each side normalised over them: a scalar in nats (eq. 7)."""
    log_target_BK = _log_others(log_target_BK, is_label_BK)
    log_student_BK = _log_others(log_student_BK, is_label_BK)
    divergence_BK = log_target_BK.exp() * (log_target_BK - log_student_BK)
    return divergence_BK.masked_fill(is_label_BK, 0.0).sum(dim=-1).mean()


def _log_pair(log_p_BK: Tensor, is_label_BK: Tensor) -> Tensor:
    label_B = log_p_BK.masked_fill(~is_label_BK, 0.0).sum(dim=-1)
    others_B = torch.logsumexp(log_p_BK.masked_fill(is_label_BK, -torch.inf), dim=-1)
    return torch.stack([label_B, others_B], dim=-1)


def _log_others(log_p_BK: Tensor, is_label_BK: Tensor) -> Tensor:
    log_others_BK = torch.log_softmax(log_p_BK.masked_fill(is_label_BK, -torch.inf), dim=-1)
    return log_others_BK.masked_fill(is_label_BK, 0.0)  # finite, so that 0 * log 0 is no NaN


@register("dkd")
class DKD(Method):
    """Distils the label's class and the other classes as two separate problems.

    Consumes an ensemble as the log of its mixture of probabilities. Where the mixture does not sum to 1 (Angular-KD's
    `released` ensemble), `tckd` takes its pair as it is, so that its gradient grows by the sum, while `nckd`
    normalises over the other classes and does not change.

    Terms:
        tckd: KL between (label, rest) pairs at `temperature`, times temperature squared, in nats.
        nckd: KL among the other classes at `temperature`, times temperature squared, in nats.

    Differs: works on log-probabilities throughout, where the published code subtracts 1000 from the label's logit and
        adds up probabilities; equal numbers, but finite when either side is certain.
    """

    class Settings(ComponentSettings):
        """Settings of `dkd`; the defaults are those of mdistiller for resnet32x4 to resnet8x4 on CIFAR-100."""

        temperature: PositiveFloat = Field(4.0, description="softmax temperature of student and target")
        alpha: NonNegativeFloat = Field(1.0, description="weight of the label's class (tckd)")
        beta: NonNegativeFloat = Field(8.0, description="weight of the other classes (nckd); published: 2 to 8 by pair")
        weight: NonNegativeFloat = Field(1.0, description="weight of both terms together")
        warmup_epochs: NonNegativeInt = Field(20, description="both weights rise linearly over these student epochs")

    def __init__(self, settings: DKD.Settings, context: MethodContext) -> None:
        super().__init__(settings, context)
        self.settings = settings

    def terms(self, student: Signals, target: Target, batch: Batch) -> Terms:
        """See the class."""
        temperature = self.settings.temperature
        log_student_BK = torch.log_softmax(tempered(student.logits_BK, temperature), dim=-1)
        log_target_BK = target.log_probabilities_BK(temperature)
        classes_K = torch.arange(log_student_BK.shape[-1], device=batch.labels_B.device)
        is_label_BK = batch.labels_B[:, None] == classes_K
        return {
            "tckd": temperature**2 * target_class_kl(log_target_BK, log_student_BK, is_label_BK),
            "nckd": temperature**2 * other_classes_kl(log_target_BK, log_student_BK, is_label_BK),
        }

    def weights(self, epoch: int) -> Mapping[str, float]:
        """Alpha and beta, rising to their full value at epoch `warmup_epochs` (epochs count from 1)."""
        ramp = min(epoch / self.settings.warmup_epochs, 1.0) if self.settings.warmup_epochs else 1.0
        strength = self.settings.weight * ramp
        return {"tckd": strength * self.settings.alpha, "nckd": strength * self.settings.beta}

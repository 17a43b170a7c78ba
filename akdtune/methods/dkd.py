"""Decoupled knowledge distillation (Zhao et al., CVPR 2022, arXiv 2203.08679).

Shapes: B batch, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt
from torch import Tensor
from typing_extensions import override

from akdtune.methods import IMAGENET, Method, MethodContext
from akdtune.methods._logits import LogitSettings, is_label, log_others, log_student_BK, log_target_BK
from akdtune.registry import IdleAtZero, Pair, register
from akdtune.signals import Batch, Signals, Target, Terms

BETA_BY_PAIR: Mapping[tuple[str, str], float] = {
    ("resnet56", "resnet20"): 2.0,
    ("resnet110", "resnet32"): 2.0,
    ("wrn_40_2", "wrn_16_2"): 6.0,
    ("wrn_40_2", "wrn_40_1"): 6.0,
    ("vgg13", "vgg8"): 6.0,
    ("vgg13", "MobileNetV2"): 6.0,
}
"""Beta of mdistiller on CIFAR-100 by (teacher, student) where it is not 8; taken on all data sets but ImageNet."""


def target_class_kl(log_target_BK: Tensor, log_student_BK: Tensor, is_label_BK: Tensor) -> Tensor:
    """KL between the pairs (label class, all others), mean over the batch: a scalar in nats (eq. 7, first term).

    The target's pair is not normalised: if its classes sum to 2.44, so does the pair.
    """
    log_target_B2 = _log_pair(log_target_BK, is_label_BK)
    log_student_B2 = _log_pair(log_student_BK, is_label_BK)
    return (log_target_B2.exp() * (log_target_B2 - log_student_B2)).sum(dim=-1).mean()


def other_classes_kl(log_target_BK: Tensor, log_student_BK: Tensor, is_label_BK: Tensor) -> Tensor:
    """KL among the classes other than the label, each side normalised over them: a scalar in nats (eq. 7)."""
    log_target_BK = log_others(log_target_BK, is_label_BK)
    log_student_BK = log_others(log_student_BK, is_label_BK)
    divergence_BK = log_target_BK.exp() * (log_target_BK - log_student_BK)
    return divergence_BK.masked_fill(is_label_BK, 0.0).sum(dim=-1).mean()


def _log_pair(log_p_BK: Tensor, is_label_BK: Tensor) -> Tensor:
    label_B = log_p_BK.masked_fill(~is_label_BK, 0.0).sum(dim=-1)
    others_B = torch.logsumexp(log_p_BK.masked_fill(is_label_BK, -torch.inf), dim=-1)
    return torch.stack([label_B, others_B], dim=-1)


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
        adds up probabilities; equal numbers, but finite when either side is certain. `standardize: true` is the
        recipe (temperature 2, alpha and beta times 9); the code released with it leaves the temperature at 4 and
        multiplies beta by the alpha it has already multiplied, which makes it 81 for every pair.

    Example:
        >>> dkd = DKD.alone(num_classes=10, beta=2.0)
        >>> student, teacher = Signals.of(torch.randn(8, 10)), Signals.of(torch.randn(8, 10))
        >>> loss = dkd.terms(student, Target.of(teacher), Batch.of(torch.arange(8)))["nckd"]
    """

    source = "Zhao, Cui, Song, Qiu, Liang, CVPR 2022, arXiv 2203.08679"
    reads_labels = True

    class Settings(LogitSettings):
        """Settings of `dkd`; the defaults are those of mdistiller for resnet32x4 to resnet8x4 on CIFAR-100."""

        when_standardized: ClassVar[Mapping[str, Any]] = {"temperature": 2.0, "weight": 9.0}

        idle_at_zero: ClassVar[IdleAtZero] = {
            ("weight",): ("alpha", "beta", "warmup_epochs", "temperature", "standardize"),
            ("alpha", "beta"): ("weight", "warmup_epochs", "temperature", "standardize"),
        }

        alpha: NonNegativeFloat = Field(1.0, description="weight of the label's class (tckd)")
        beta: NonNegativeFloat = Field(8.0, description="weight of the other classes (nckd); published: 2 to 8 by pair")
        weight: NonNegativeFloat = Field(1.0, description="weight of both terms together")
        warmup_epochs: NonNegativeInt = Field(20, description="both weights rise linearly over these student epochs")

    def __init__(self, settings: DKD.Settings, context: MethodContext) -> None:
        super().__init__(settings, context)
        self.settings = settings

    @override
    def terms(self, student: Signals, target: Target, batch: Batch) -> Terms:
        scale = self.settings.temperature, self.settings.standardize
        found_BK, wanted_BK = log_student_BK(student.logits_BK, *scale), log_target_BK(target, *scale)
        is_label_BK = is_label(batch.labels_B, found_BK.shape[-1])
        return {
            "tckd": self.settings.temperature**2 * target_class_kl(wanted_BK, found_BK, is_label_BK),
            "nckd": self.settings.temperature**2 * other_classes_kl(wanted_BK, found_BK, is_label_BK),
        }

    @override
    def weights(self, epoch: int) -> Mapping[str, float]:
        """Alpha and beta, rising to their full value at epoch `warmup_epochs` (epochs count from 1)."""
        ramp = min(epoch / self.settings.warmup_epochs, 1.0) if self.settings.warmup_epochs else 1.0
        strength = self.settings.weight * ramp
        return {"tckd": strength * self.settings.alpha, "nckd": strength * self.settings.beta}

    @override
    @classmethod
    def published(cls, pair: Pair) -> Mapping[str, Any]:
        """CIFAR-100: beta by pair. ImageNet: temperature 1, one epoch of warm-up, beta 0.5.

        ResNet-50 to a MobileNet on ImageNet: beta 2, taken from MobileNetV1 for its successors.
        """
        if pair.data == IMAGENET:
            to_mobilenet = pair.teacher == "torchvision_resnet50" and "mobilenet" in pair.student
            return {"temperature": 1.0, "warmup_epochs": 1, "beta": 2.0 if to_mobilenet else 0.5}
        beta = BETA_BY_PAIR.get((str(pair.teacher), pair.student))
        return {} if beta is None else {"beta": beta}

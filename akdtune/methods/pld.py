"""PLD, Plackett-Luce distillation (Bassam et al., NeurIPS 2025, arXiv 2506.12542).

Shapes: B batch, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor
from typing_extensions import override

from akdtune.methods import IMAGENET, Method, MethodContext
from akdtune.methods._logits import LogitSettings, is_label, log_target_BK, widened
from akdtune.registry import IdleAtZero, Pair, register
from akdtune.signals import Batch, Signals, Target, Terms, standardized


def ranking_BK(scores_BK: Tensor, is_label_BK: Tensor) -> Tensor:
    """The label, then the other classes by falling score (equal scores: by class), as class indices [B, K]."""
    keys_BK = scores_BK.detach().masked_fill(is_label_BK, torch.inf)
    return torch.argsort(keys_BK, dim=-1, descending=True, stable=True)


def plackett_luce_loss(ranked_logits_BK: Tensor, shares_BK: Tensor) -> Tensor:
    """Weighted negative log-likelihood of a ranking, mean over the batch: a scalar in nats.

    sum over ranks k of share_k * (log sum over l >= k of exp(logit_l) - logit_k); the last rank costs nothing.

    Args:
        ranked_logits_BK: logits in the order of the ranking.
        shares_BK: weight of each rank.
    """
    remaining_BK = torch.logcumsumexp(ranked_logits_BK.flip(-1), dim=-1).flip(-1)
    costs_BK = remaining_BK - ranked_logits_BK
    return (shares_BK * costs_BK)[:, :-1].sum(dim=-1).mean()  # without the last: exactly nothing, gradient included


@register("pld")
class PLD(Method):
    """Teaches the teacher's ranking with the label put first, each rank weighted by the teacher's confidence in it.

    Consumes an ensemble as its mixture of probabilities. The label is in the term: there is no cross-entropy beside it
    (its published weight is 0).

    Terms:
        pld: sum over ranks of the target's probability (at `temperature`) of the class at that rank, times the
            negative log-probability that the student, with untempered logits, picks it among the classes not yet
            ranked; mean over the batch, in nats.

    Differs: nothing in the formula. The paper states temperature 4 on CIFAR-100, while its own sweep on ImageNet finds
        1 best; both are kept. Its CIFAR-100 numbers come from another recipe than this tool's default: AdamW with
        learning rate 1e-3, a cosine schedule, 250 epochs, batches of 128.

    Example:
        >>> pld = PLD.alone(num_classes=10)
        >>> student, teacher = Signals.of(torch.randn(8, 10)), Signals.of(torch.randn(8, 10))
        >>> loss = pld.terms(student, Target.of(teacher), Batch.of(torch.arange(8)))["pld"]
    """

    source = "Bassam, Zhu, Bian, NeurIPS 2025, arXiv 2506.12542"
    reads_labels = True
    default_ce_weight = 0.0

    class Settings(LogitSettings):
        """Settings of `pld`; the defaults are those stated for CIFAR-100."""

        idle_at_zero: ClassVar[IdleAtZero] = {("weight",): ("temperature", "standardize")}

        temperature: PositiveFloat = Field(4.0, description="softmax temperature of the target alone")
        weight: NonNegativeFloat = Field(1.0, description="weight of the term")

    def __init__(self, settings: PLD.Settings, context: MethodContext) -> None:
        super().__init__(settings, context)
        self.settings = settings

    @override
    def terms(self, student: Signals, target: Target, batch: Batch) -> Terms:
        logits_BK = widened(student.logits_BK)
        if self.settings.standardize:
            logits_BK = standardized(logits_BK)
        log_shares_BK = log_target_BK(target, self.settings.temperature, self.settings.standardize)
        order_BK = ranking_BK(log_shares_BK, is_label(batch.labels_B, logits_BK.shape[-1]))
        return {"pld": plackett_luce_loss(logits_BK.gather(1, order_BK), log_shares_BK.gather(1, order_BK).exp())}

    @override
    def weights(self, epoch: int) -> Mapping[str, float]:
        return {"pld": self.settings.weight}

    @override
    @classmethod
    def published(cls, pair: Pair) -> Mapping[str, Any]:
        """ImageNet: temperature 1."""
        return {"temperature": 1.0} if pair.data == IMAGENET else {}

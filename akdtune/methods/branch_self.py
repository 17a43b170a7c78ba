"""Enhanced self-distillation (Zhao et al., NeurIPS 2025, arXiv 2510.06254): exits learn from those that are right.

Shapes: B batch, J answers (exits, the last is the network's own), K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, StrictBool
from torch import Tensor, nn
from typing_extensions import override

from akdtune.methods import Method, MethodContext
from akdtune.methods._logits import log_student_BK, widened
from akdtune.registry import ComponentSettings, IdleAtZero, register
from akdtune.signals import Batch, Signals, Target, Terms


def teaching_answers(answers_BJK: Tensor, labels_B: Tensor, reliable: bool) -> tuple[Tensor, Tensor]:
    """The mean logits of those answers that teach, [B, K], without a gradient, and whether there are any, bool [B].

    Args:
        answers_BJK: logits of all answers.
        labels_B: the right classes.
        reliable: whether only answers teach whose largest logit is the label's; else all do.
    """
    answers_BJK = answers_BJK.detach()
    teach_BJ = torch.ones_like(answers_BJK[..., 0], dtype=torch.bool)
    if reliable:
        teach_BJ = answers_BJK.argmax(dim=-1) == labels_B[:, None]
    counts_B = teach_BJ.sum(dim=1)
    summed_BK = (answers_BJK * teach_BJ[..., None]).sum(dim=1)
    return summed_BK / counts_B.clamp_min(1)[:, None], counts_B > 0


def distillation(answers_BJK: Tensor, labels_B: Tensor, temperature: float, reliable: bool) -> Tensor:
    """Sum over answers of KL(mean of the teaching answers || answer), mean over rows with a teaching answer, in nats.

    A row without any counts 0, and so does a batch of such rows.
    """
    answers_BJK = widened(answers_BJK)
    teacher_BK, taught_B = teaching_answers(answers_BJK, labels_B, reliable)
    log_teacher_B1K = log_student_BK(teacher_BK, temperature)[:, None]
    differences_BJK = log_teacher_B1K - log_student_BK(answers_BJK, temperature)
    divergences_B = (log_teacher_B1K.exp() * differences_BJK).sum(dim=(1, 2))
    return (divergences_B * taught_B).sum() / taught_B.sum().clamp_min(1)


def label_term(answers_BJK: Tensor, batch: Batch) -> Tensor:
    """Sum over all answers but the last of their cross-entropy with the labels, mean over the batch, in nats.

    Of mixed images with each label by its share.
    """
    others_BJK = widened(answers_BJK[:, :-1])
    rows_KBJ = others_BJK.movedim(-1, 1)

    def summed(labels_B: Tensor) -> Tensor:
        labels_BJ = labels_B[:, None].expand(-1, others_BJK.shape[1])
        return nn.functional.cross_entropy(rows_KBJ, labels_BJ, reduction="sum") / len(labels_B)

    if batch.partner_labels_B is None:
        return summed(batch.labels_B)
    return torch.lerp(summed(batch.partner_labels_B), summed(batch.labels_B), batch.share)


@register("branch_self")
class BranchSelf(Method):
    """Each exit of a network learns the label, and what those exits say on average that are right about the image.

    Needs no teacher, but a network with several answers, as `lif` is with `branches: 1`. The answers of one without
    exits are its time steps.

    Terms:
        ce: sum over all answers but the last of their cross-entropy with the label, in nats; the last answer is the
            network's own, whose cross-entropy has the weight `training.ce_weight`.
        kl: temperature squared times the sum over all answers of KL(q || answer), both at `temperature`, in nats; mean
            over the images that have a teacher q: the mean of the logits of their right answers, without a gradient
            (`reliable: false`: of all answers).

    Differs: an image that no exit is right about has no teacher and costs nothing, as published; where a batch has no
        other, the term is 0 (the published code divides by their number and logs NaN in the first epoch). The authors'
        code divides the sum of both terms by the number of time steps; here it is as the formula has it.

    Example:
        >>> branch_self = BranchSelf.alone(num_classes=10, weight=0.3)
        >>> student = Signals.random(8)
        >>> loss = branch_self.terms(student, Target.of(student.detach()), Batch.of(torch.arange(8)))["kl"]
    """

    source = "Zhao, Yu, Yu, Liu, Wang, NeurIPS 2025, arXiv 2510.06254"
    consumes = "self"
    needs = frozenset({"answers"})
    reads_labels = True

    class Settings(ComponentSettings):
        """Settings of `branch_self`; the defaults are the paper's for CIFAR-100."""

        idle_at_zero: ClassVar[IdleAtZero] = {("weight",): ("temperature", "reliable")}

        reliable: StrictBool = Field(True, description="whether only answers that are right teach; false: all do")
        temperature: PositiveFloat = Field(3.0, description="softmax temperature of teacher and answers")
        weight: NonNegativeFloat = Field(0.3, description="weight of kl (temperature squared is in the term)")
        branch_ce_weight: NonNegativeFloat = Field(1.0, description="weight of ce, of the answers but the last")

    def __init__(self, settings: BranchSelf.Settings, context: MethodContext) -> None:
        super().__init__(settings, context)
        self.settings = settings

    @override
    def terms(self, student: Signals, target: Target, batch: Batch) -> Terms:
        assert student.answers_BJK is not None, "a network without answers is refused"
        temperature = self.settings.temperature
        divergence = distillation(student.answers_BJK, batch.labels_B, temperature, self.settings.reliable)
        return {"ce": label_term(student.answers_BJK, batch), "kl": temperature**2 * divergence}

    @override
    def weights(self, epoch: int) -> Mapping[str, float]:
        return {"ce": self.settings.branch_ce_weight, "kl": self.settings.weight}

"""DLB, self-distillation from the last mini-batch (Shen et al., CVPR 2022, arXiv 2203.16172).

Shapes: R rows that the batch repeats from the one before, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field, NonNegativeFloat, PositiveFloat
from typing_extensions import override

from akdtune.methods import Method, MethodContext
from akdtune.methods._history import LastBatch
from akdtune.methods._logits import kl_of_logs, log_student_BK, widened
from akdtune.registry import ComponentSettings, IdleAtZero, register
from akdtune.signals import Batch, Signals, Target, Terms


@register("last_batch")
class LastMiniBatch(Method):
    """The student imitates what it said about the same images one step ago.

    Needs no teacher. Each batch begins with the last images of the batch before.

    Terms:
        kl: KL(one step ago || now) at `temperature`, times temperature squared, in nats; sum over classes, mean over
            the repeated images; 0 in the first batch of an epoch.

    Differs: the repeated images come in the same crops, where the published code augments them anew; repeated and new
        images go through the network together and share its BatchNorm statistics, where the published code takes two
        passes; each epoch begins without a memory, where the published code goes on from the last batch of the epoch
        before.

    Example:
        >>> last_batch = LastMiniBatch.alone(num_classes=10, temperature=3.0)
        >>> student = Signals.of(torch.randn(8, 10))
        >>> loss = last_batch.terms(student, Target.of(student.detach()), Batch.of(torch.arange(8)))["kl"]
    """

    source = "Shen, Xu, Yang, Li, Guo, CVPR 2022, arXiv 2203.16172"
    consumes = "self"
    reads_labels = False
    overlaps_batches = True

    class Settings(ComponentSettings):
        """Settings of `last_batch`; the defaults are the paper's for CIFAR-100."""

        idle_at_zero: ClassVar[IdleAtZero] = {("weight",): ("temperature",)}

        temperature: PositiveFloat = Field(3.0, description="softmax temperature of both steps")
        weight: NonNegativeFloat = Field(1.0, description="weight of the term (temperature squared is in the term)")

    def __init__(self, settings: LastMiniBatch.Settings, context: MethodContext) -> None:
        super().__init__(settings, context)
        self.settings = settings
        self._memory = LastBatch()

    @override
    def terms(self, student: Signals, target: Target, batch: Batch) -> Terms:
        logits_BK, temperature = widened(student.logits_BK), self.settings.temperature
        recalled = self._memory.recall(batch, logits_BK)
        if not recalled:
            return {"kl": logits_BK.new_zeros(())}
        now_RK = log_student_BK(logits_BK[: batch.repeated], temperature)
        return {"kl": temperature**2 * kl_of_logs(log_student_BK(recalled[0], temperature), now_RK)}

    @override
    def weights(self, epoch: int) -> Mapping[str, float]:
        return {"kl": self.settings.weight}

    @override
    def after_step(self) -> None:
        """Keeps the batch's logits for the next step."""
        self._memory.advance()

"""Correlation congruence as RepDistiller has it (Peng et al., ICCV 2019, arXiv 1904.01802).

Shapes: B batch, C feature width, E embedding width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor, nn
from typing_extensions import override

from akdtune.methods import Method, MethodContext
from akdtune.methods._maps import full_precision, initialised
from akdtune.registry import ComponentSettings, IdleAtZero, register
from akdtune.signals import Batch, Signals, Target, Terms


@full_precision
def correlation_loss(student_BE: Tensor, teacher_BE: Tensor) -> Tensor:
    """Mean over neighbouring rows of the dot product of |student - teacher|, a scalar; 0 for a single row."""
    gaps_BE = (student_BE - teacher_BE).abs()
    return (gaps_BE[:-1] * gaps_BE[1:]).sum() / max(len(gaps_BE) - 1, 1)


@register("cc")
class CC(Method):
    """Makes the errors of neighbouring images in feature space uncorrelated.

    Linear embeddings of the pooled features of both networks train with the student.

    Terms:
        cc: dot product of the absolute differences of the embeddings of one image and of the next, averaged over
            the batch.

    Differs: this is RepDistiller's loss over neighbouring rows of the batch, not the paper's congruence of Taylor
        series kernels over all pairs; a batch of one image costs nothing (the published code returns NaN).

    Example:
        >>> cc = CC.alone(num_classes=10, embedding_dim=32)
        >>> student, teacher = Signals.random(8), Signals.random(8)
        >>> loss = cc.terms(student, Target.of(teacher), Batch.of(torch.arange(8)))["cc"]
    """

    source = "Peng et al., ICCV 2019, arXiv 1904.01802"
    consumes = "pooled"
    reads_labels = False

    class Settings(ComponentSettings):
        """Settings of `cc`; the defaults are those of RepDistiller."""

        idle_at_zero: ClassVar[IdleAtZero] = {("weight",): ("embedding_dim",)}

        weight: NonNegativeFloat = Field(0.02, description="weight of the term")
        embedding_dim: PositiveInt = Field(128, description="width of both embeddings")

    def __init__(self, settings: CC.Settings, context: MethodContext) -> None:
        super().__init__(settings, context)
        self.settings = settings
        width = settings.embedding_dim
        self.embed_student = initialised(lambda: nn.Linear(context.student_dim, width), context)
        self.embed_teacher = initialised(lambda: nn.Linear(context.teacher_dim, width), context)

    @override
    def terms(self, student: Signals, target: Target, batch: Batch) -> Terms:
        return {
            "cc": correlation_loss(self.embed_student(student.pooled_BC), self.embed_teacher(target.pooled_BC)),
        }

    @override
    def weights(self, epoch: int) -> Mapping[str, float]:
        return {"cc": self.settings.weight}

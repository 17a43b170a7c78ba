"""The student alone, without distillation."""

from __future__ import annotations

from collections.abc import Mapping

from typing_extensions import override

from akdtune.methods import Method
from akdtune.registry import register
from akdtune.signals import Batch, Signals, Target, Terms


@register("student_only")
class StudentOnly(Method):
    """No distillation: the student's cross-entropy alone, the row every table begins with.

    Needs no teacher.

    Terms:
        none; the objective's cross-entropy has weight 1.

    Example:
        >>> student_only = StudentOnly.alone(num_classes=10)
        >>> student = Signals.of(torch.randn(8, 10))
        >>> terms = student_only.terms(student, Target.of(student.detach()), Batch.of(torch.arange(8)))
    """

    source = "no paper: cross-entropy alone"
    consumes = "self"
    reads_labels = False

    @override
    def terms(self, student: Signals, target: Target, batch: Batch) -> Terms:
        return {}

    @override
    def weights(self, epoch: int) -> Mapping[str, float]:
        return {}

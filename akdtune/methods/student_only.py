"""The student alone, without distillation."""

from __future__ import annotations

from collections.abc import Mapping

from akdtune.methods import Method
from akdtune.registry import register
from akdtune.signals import Batch, Signals, Target, Terms


@register("student_only")
class StudentOnly(Method):
    """No distillation: the student's cross-entropy alone, the row every table begins with.

    Needs no teacher.

    Terms:
        none; the objective's cross-entropy has weight 1.
    """

    source = "no paper: cross-entropy alone"
    consumes = "self"

    def terms(self, student: Signals, target: Target, batch: Batch) -> Terms:
        """None."""
        return {}

    def weights(self, epoch: int) -> Mapping[str, float]:
        """None."""
        return {}

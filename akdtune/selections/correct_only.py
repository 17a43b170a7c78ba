"""Rows that the teacher gets right.

Shapes: B rows of a batch.
"""

from __future__ import annotations

from typing_extensions import override

from akdtune.registry import ComponentSettings, register
from akdtune.selections import Selected, Selection
from akdtune.signals import Batch, Signals


@register("correct_only")
class CorrectOnly(Selection):
    """The rows whose label is the teacher's most likely class; a row without a label is never among them.

    How many there are differs from batch to batch. A batch without any costs the student's cross-entropy alone. A mixed
    image counts by the label of its larger share.

    Differs: from schemes that put the label in the place of the teacher's mistakes; a row that the teacher gets wrong
        is left to the cross-entropy.

    Example:
        >>> correct_only = CorrectOnly.alone()
        >>> student, teacher = Signals.random(8), Signals.random(8)
        >>> rows = correct_only.select(student, teacher, Batch.of(torch.arange(8))).rows_R
    """

    source = "Meng, Li, Zhao, Gong, ICASSP 2019, arXiv 1904.12399 (conditional teacher-student learning)"
    needs_teacher = True
    reads_labels = True
    capturable = False

    def __init__(self, settings: ComponentSettings) -> None:
        super().__init__(settings)

    @override
    def select(self, student: Signals, teacher: Signals | None, batch: Batch) -> Selected:
        """Where the teacher is right."""
        assert teacher is not None, "refused where there is no teacher"
        return Selected((teacher.logits_BK.argmax(dim=-1) == batch.labels_B).nonzero().squeeze(1))

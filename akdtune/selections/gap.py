"""AdaSPEC's choice of rows (Hu, Guo, Feng, Zhao, 2025, arXiv 2510.19779): those that a student can still learn.

Shapes: B rows of a batch, R kept rows, K classes.
"""

from __future__ import annotations

from pydantic import Field, PositiveFloat
from torch import Tensor
from typing_extensions import override

from akdtune.columns import Column
from akdtune.registry import register
from akdtune.selections import Selected, Selection, ShareSettings, kept_of, log_probabilities, top_rows
from akdtune.signals import Batch, Signals


class GapSettings(ShareSettings):
    """Settings of `gap`; the defaults are AdaSPEC's."""

    temperature: PositiveFloat = Field(1.0, description="softmax temperature of all three networks")


def gap_B(student_BK: Tensor, teacher_BK: Tensor, reference_BK: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(P || Q) - KL(P || R) of each row, in nats, [B]: P teacher, Q student, R reference; from their logits."""
    log_student_BK, log_teacher_BK, log_reference_BK = (
        log_probabilities(logits_BK, temperature) for logits_BK in (student_BK, teacher_BK, reference_BK)
    )
    return (log_teacher_BK.exp() * (log_reference_BK - log_student_BK)).sum(dim=-1)


@register("gap")
class Gap(Selection):
    """The share of each batch in which the student lags furthest behind a reference of its size.

    The reference is the first of `teacher.others`: a network like the student that was distilled from the same teacher
    (`distilled_from`). Where it imitates the teacher badly, too, a student of its size cannot do better, and the row is
    left out. Measured are the mean of the gap over all rows of a batch and over those that are kept.

    Differs: keeps exactly the share of a batch, where the published code keeps what is at or above a quantile. The
        reference is what `teacher.others` says, where the paper's begins with the draft's own weights.

    Example:
        >>> gap = Gap.alone(share=0.5)
        >>> teacher = Signals.of(torch.randn(8, 10), others=[Signals.random(8)])
        >>> rows = gap.select(Signals.random(8), teacher, Batch.of(torch.arange(8))).rows_R
    """

    source = "Hu, Guo, Feng, Zhao, 2025, arXiv 2510.19779"
    Settings = GapSettings
    needs_teacher = True
    needs_others = True
    columns = (
        *Selection.columns,
        Column(
            "gap_train",
            "nats",
            "KL(teacher, student) - KL(teacher, reference), mean over training rows",
            section="loss",
        ),
        Column("gap_selected_train", "nats", "the same over the rows that are distilled", section="loss"),
    )

    def __init__(self, settings: GapSettings) -> None:
        super().__init__(settings)
        self.share, self.temperature = settings.share, settings.temperature

    @override
    def select(self, student: Signals, teacher: Signals | None, batch: Batch) -> Selected:
        """The rows with the largest gap."""
        assert teacher is not None and teacher.others, "refused where there is no further teacher"
        reference_BK = teacher.others[0].logits_BK
        found_B = gap_B(student.logits_BK, teacher.logits_BK, reference_BK, self.temperature)
        rows_R = top_rows(found_B, kept_of(self.share, len(found_B)))
        return Selected(rows_R, {"gap_train": found_B.mean(), "gap_selected_train": found_B[rows_R].mean()})

"""Rows in which student and teacher disagree most.

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


class DisagreementSettings(ShareSettings):
    """Settings of `disagreement`."""

    temperature: PositiveFloat = Field(1.0, description="softmax temperature of both networks")


def disagreement_B(student_BK: Tensor, teacher_BK: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(P || Q) + KL(Q || P) of each row, in nats, [B], from the logits of both."""
    log_student_BK, log_teacher_BK = (log_probabilities(of_BK, temperature) for of_BK in (student_BK, teacher_BK))
    return ((log_teacher_BK.exp() - log_student_BK.exp()) * (log_teacher_BK - log_student_BK)).sum(dim=-1)


@register("disagreement")
class Disagreement(Selection):
    """The share of each batch in which student and teacher differ most: KL(P || Q) + KL(Q || P), P teacher, Q student.

    Differs: the measure is PKD's between two teachers, by which it chooses the nodes that are annotated; here it stands
        between the teacher and the student of the moment, which is our choice.

    Example:
        >>> disagreement = Disagreement.alone(share=0.5)
        >>> student, teacher = Signals.random(8), Signals.random(8)
        >>> rows = disagreement.select(student, teacher, Batch.of(torch.arange(8))).rows_R
    """

    source = "Wei, Chen, Fan, Cao, Medya, Ye (PKD), NeurIPS 2025, arXiv 2510.10116 (the measure)"
    Settings = DisagreementSettings
    needs_teacher = True
    columns = (
        *Selection.columns,
        Column(
            "disagreement_train", "nats", "KL both ways of teacher and student, mean over training rows", section="loss"
        ),
        Column("disagreement_selected_train", "nats", "the same over the rows that are distilled", section="loss"),
    )

    def __init__(self, settings: DisagreementSettings) -> None:
        super().__init__(settings)
        self.share, self.temperature = settings.share, settings.temperature

    @override
    def select(self, student: Signals, teacher: Signals | None, batch: Batch) -> Selected:
        """The rows with the largest disagreement."""
        assert teacher is not None, "refused where there is no teacher"
        found_B = disagreement_B(student.logits_BK, teacher.logits_BK, self.temperature)
        rows_R = top_rows(found_B, kept_of(self.share, len(found_B)))
        measured = {"disagreement_train": found_B.mean(), "disagreement_selected_train": found_B[rows_R].mean()}
        return Selected(rows_R, measured)

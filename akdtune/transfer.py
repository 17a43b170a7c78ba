"""How much of the teacher's function a student took over: agreement and divergence of predictions.

Shapes: B batch, K classes.

References: measures as in Mason-Williams et al., arXiv 2510.12615; natural logarithms.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from akdtune.columns import Column

TRANSFER_COLUMNS = (
    Column("agreement", "percent", "held-out images that student and teacher classify alike", teacher="needed"),
    Column(
        "js_divergence", "nats", "mean Jensen-Shannon divergence of the student's and the teacher's predictions on"
        " held-out images, at most log 2", teacher="needed",
    ),
)  # fmt: skip


def js_divergence_B(student_logits_BK: Tensor, teacher_logits_BK: Tensor) -> Tensor:
    """Jensen-Shannon divergence of the two predictive distributions, per sample [B], in nats (0 to log 2)."""
    log_student_BK = torch.log_softmax(student_logits_BK, dim=-1)
    log_teacher_BK = torch.log_softmax(teacher_logits_BK, dim=-1)
    log_middle_BK = torch.logaddexp(log_student_BK, log_teacher_BK) - math.log(2)
    of_student_BK = log_student_BK.exp() * (log_student_BK - log_middle_BK)
    of_teacher_BK = log_teacher_BK.exp() * (log_teacher_BK - log_middle_BK)
    return (of_student_BK + of_teacher_BK).sum(dim=-1) / 2


class TransferMeter:
    """Averages student-teacher agreement over a split, batch by batch, in float64."""

    def __init__(self) -> None:
        self._count = 0
        self._divergence = 0.0
        self._cells = {"right_agree": 0, "right_differ": 0, "wrong_agree": 0, "wrong_differ": 0}

    def update(self, student_logits_BK: Tensor, teacher_logits_BK: Tensor, labels_B: Tensor) -> None:
        """Adds a batch of predictions on the same images and their clean labels."""
        teacher_B = teacher_logits_BK.argmax(dim=-1)
        agree_B, right_B = student_logits_BK.argmax(dim=-1) == teacher_B, teacher_B == labels_B
        self._count += len(labels_B)
        self._divergence += float(js_divergence_B(student_logits_BK.double(), teacher_logits_BK.double()).sum())
        for name, chosen_B in (("right", right_B), ("wrong", ~right_B)):
            self._cells[f"{name}_agree"] += int((chosen_B & agree_B).sum())
            self._cells[f"{name}_differ"] += int((chosen_B & ~agree_B).sum())

    def result(self) -> dict[str, float]:
        """The columns of `TRANSFER_COLUMNS`."""
        agreeing = self._cells["right_agree"] + self._cells["wrong_agree"]
        return {"agreement": 100 * agreeing / self._count, "js_divergence": self._divergence / self._count}

    def cells(self) -> dict[str, float]:
        """Percent of images by whether the teacher is right or wrong and the student agrees or differs; sums to 100."""
        return {name: 100 * count / self._count for name, count in self._cells.items()}

"""Images, each with one label: what every study trains for that names no task.

Shapes: R images, J answers, K classes.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Tensor
from typing_extensions import override

from akdtune.columns import Column
from akdtune.registry import register
from akdtune.signals import Signals
from akdtune.training.measures import TRANSFER_COLUMNS, TransferMeter, percent_right
from akdtune.training.task import Meter, Task


@register("image")
class ImageTask(Task):
    """Classification of images, judged by the share of them that is classified rightly."""

    offers = frozenset({"stages", "preact", "last_map", "strong", "answers"})
    further = (
        Column("teacher_accuracy", "percent", "accuracy of the teacher on held-out images", teacher="judged"),
        *TRANSFER_COLUMNS,
    )

    @override
    def meter(self) -> Meter:
        return Accuracies()


class Accuracies:
    """Accuracy of student and teacher, and how they relate."""

    def __init__(self) -> None:
        self._student: list[tuple[Tensor, int]] = []
        self._teacher: list[tuple[Tensor, int]] = []
        self._transfer = TransferMeter()
        self._answers: dict[str, list[tuple[Tensor, int]]] = {}

    def update(self, student: Signals, teacher: Signals | None, labels_R: Tensor) -> None:
        """Takes a part up."""
        self._student.append((percent_right(student.logits_BK, labels_R), len(labels_R)))
        for number, logits_RK in enumerate(answered(student), start=1):
            parts = self._answers.setdefault(f"accuracy_{student.answer}_{number}", [])
            parts.append((percent_right(logits_RK, labels_R), len(labels_R)))
        if teacher is not None:
            self._teacher.append((percent_right(teacher.logits_BK, labels_R), len(labels_R)))
            self._transfer.update(student.logits_BK, teacher.logits_BK, labels_R)

    def result(self) -> dict[str, float | None]:
        """`accuracy`, that of each answer of several, and with a teacher the rest."""
        row: dict[str, float | None] = {"accuracy": _over_parts(self._student)}
        row |= {name: _over_parts(parts) for name, parts in self._answers.items()}
        if not self._teacher:
            return row
        return {**row, "teacher_accuracy": _over_parts(self._teacher), **self._transfer.result()}


def answered(student: Signals) -> Sequence[Tensor]:
    """What a network of several answers says by each, logits [R, K]: by an exit, or after so many time steps."""
    if student.answers_BJK is None:
        return ()
    answers = student.answers_BJK.unbind(dim=1)
    if student.answer == "step":
        answers = tuple(itertools.accumulate(answers))  # sums are as good as means: the largest stays the largest
    return (*answers[:-1], student.logits_BK)


def _over_parts(parts: list[tuple[Tensor, int]]) -> float:
    """The mean of means; of one part that mean itself, to the last bit."""
    if len(parts) == 1:
        return float(parts[0][0])
    return sum(float(mean) * rows for mean, rows in parts) / sum(rows for _, rows in parts)

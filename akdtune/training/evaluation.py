"""How a trial is judged: accuracy of its student, and how teacher, views and student relate, on held-out images.

Everything in eval mode, on plain images, in float32; nothing here changes what a trial trains.

Shapes: N images of a split, B batch, V views, K classes, C feature width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from akdtune import networks
from akdtune.columns import Column, declarations, joined
from akdtune.data.splits import Split, Splits
from akdtune.devices import float32_as_set
from akdtune.roles import REPORT_ROLES
from akdtune.signals import Inputs, Signals
from akdtune.teacher.frozen import FrozenTeacher
from akdtune.training.config import TrialConfig
from akdtune.training.diversity import DIVERSITY_COLUMNS
from akdtune.training.measures import TRANSFER_COLUMNS, VIEW_COLUMNS, TransferMeter, measure_views, percent_right
from akdtune.training.objective import Objective

SCORE_WINDOW = 3
"""A rung is scored by the mean validation accuracy of this many last epochs."""

EVALUATION_BATCH = 256

HELD_OUT_COLUMNS = joined(
    (
        Column("val_accuracy", "percent", "accuracy of the student on the validation images"),
        Column("test_accuracy", "percent", "accuracy of the student on the test set, read once, at a trial's end"),
        Column("score", "percent", f"mean val_accuracy of the last {SCORE_WINDOW} epochs, which rungs decide by"),
        Column("teacher_accuracy", "percent", "accuracy of the teacher on held-out images", teacher="judged"),
    ),
    TRANSFER_COLUMNS,
    DIVERSITY_COLUMNS,
    VIEW_COLUMNS,
)
"""What is measured on held-out images: those of validation, the test set in a row with `test_accuracy`."""

VIEWS_EVERY = 10
"""Views that change from epoch to epoch are measured in each tenth epoch, at rungs and in the last one."""

KEPT_MIB = 256
"""What teachers say about plain images is kept by a process up to this size, the newest first."""

_KEPT: dict[str, Signals] = {}


def _keep(key: str, signals: Signals) -> None:
    """Keeps signals for later trials of this process, and lets the oldest go that no longer fit."""
    _KEPT[key] = signals
    while len(_KEPT) > 1 and sum(map(_mib, _KEPT.values())) > KEPT_MIB:
        del _KEPT[next(iter(_KEPT))]


def _mib(signals: Signals) -> float:
    own = signals.logits_BK.nbytes + signals.pooled_BC.nbytes
    return own / 2**20 + sum(map(_mib, signals.others))


@dataclass(frozen=True)
class Predictions:
    """Student logits on the images a role is judged by.

    Attributes:
        sample_ids_N, labels_N, logits_NK: of each image.
        values_N: what each contributes to the metric; None: whether it is right.
        groups_N: which are drawn together where others are drawn; None: each alone.
    """

    sample_ids_N: Tensor
    labels_N: Tensor
    logits_NK: Tensor
    values_N: Tensor | None = None
    groups_N: Tensor | None = None


class Evaluation:
    """What is measured of one trial.

    Args:
        share_as: names teachers and images; what the teachers say about plain images is then kept for later trials of
            this process. Empty: it is not.
        views_every: how often views that change are measured.

    Attributes:
        recent_scores: validation accuracies of the last epochs, at most SCORE_WINDOW; part of a trial's state.
        at_close: what the student says about the judged images at the trial's end; None before.
    """

    def __init__(
        self,
        config: TrialConfig,
        splits: Splits,
        student: networks.Network,
        objective: Objective,
        teacher: FrozenTeacher | None,
        share_as: str = "",
        views_every: int = VIEWS_EVERY,
    ) -> None:
        self.config = config
        self.views_every = views_every
        self.share_as = share_as
        self.splits = splits
        self.student = student
        self.objective = objective
        self.teacher = teacher
        self.recent_scores: list[float] = []
        self.at_close: Signals | None = None
        self._judged: tuple[Split, Signals] | None = None
        self._viewed: tuple[Split, list[Tensor], dict[str, float | None]] | None = None

    def validation_row(self, epoch: int) -> dict[str, float | None]:
        """Columns of an epoch's row; empty without validation images.

        Views that change from epoch to epoch are left out in most epochs: what they say to the validation images can
        cost a good part of what a small epoch trains. Which epochs these are depends on their numbers alone.
        """
        if self.splits.validation is None:
            return {}
        decisive = epoch in (*self.config.rungs, self.config.training.epochs)
        row = self.measure(
            self.splits.validation, of_views=decisive or epoch % self.views_every == 0 or not self._views_change
        )
        accuracy = row.pop("accuracy")
        assert accuracy is not None
        self.recent_scores = [*self.recent_scores, accuracy][-SCORE_WINDOW:]
        if self.config.teacher_file.saw_validation:  # its numbers there would be those of training images
            known = declarations(row, HELD_OUT_COLUMNS)
            judged = {name for name, column in known.items() if column.teacher == "judged"}
            row = {name: None if name in judged else value for name, value in row.items()}
        return {**row, "val_accuracy": accuracy, "score": sum(self.recent_scores) / len(self.recent_scores)}

    @torch.no_grad()
    def measure(self, split: Split, of_views: bool = True) -> dict[str, float | None]:
        """Accuracy of the student on plain images, and how teacher, views and student relate there.

        Column `accuracy` is the student's; the rest are those of `HELD_OUT_COLUMNS` that need a teacher, without a
        teacher none of them, and without `of_views` none of `measure_views`.
        """
        return self._measured(split, self.student_signals(split), of_views)

    def _measured(self, split: Split, student_N: Signals, of_views: bool) -> dict[str, float | None]:
        row: dict[str, float | None] = {"accuracy": float(percent_right(student_N.logits_BK, split.labels_N))}
        teacher_N = self.teacher_signals(split)
        if teacher_N is None:
            return row
        transfer = TransferMeter()
        transfer.update(student_N.logits_BK, teacher_N.logits_BK, split.labels_N)
        return {
            **row,
            "teacher_accuracy": float(percent_right(teacher_N.logits_BK, split.labels_N)),
            **transfer.result(),
            **(self._view_row(split, teacher_N, student_N) if of_views else {}),
        }

    @property
    def _views_change(self) -> bool:
        """Whether views may be others after each epoch of the student."""
        return self.objective.views.trains_jointly or self.objective.views.needs_student

    def _view_row(self, split: Split, teacher_N: Signals, student_N: Signals) -> dict[str, float | None]:
        """`measure_views`, computed once for as long as the views stay as they are: its draws are always the same."""
        views = self.objective.views
        measured = views, teacher_N, student_N, split.labels_N, self.config.seeds.noise
        if self._views_change:
            return measure_views(*measured)
        state = [tensor.clone() for tensor in (*views.parameters(), *views.buffers())]
        if self._viewed is None or self._viewed[0] is not split or not all(map(torch.equal, self._viewed[1], state)):
            self._viewed = (split, state, measure_views(*measured))
        return self._viewed[2]

    @torch.no_grad()
    def student_signals(self, split: Split) -> Signals:
        """What the student says about plain images, through the head that it predicts with."""
        with float32_as_set(split.labels_N.device, self.config.training.tf32):
            return networks.signals(self.asked_student(), split, EVALUATION_BATCH)

    def asked_student(self) -> Callable[[Inputs], Signals]:
        """The student in eval mode, through the head that it predicts with."""
        self.student.eval()
        self.objective.eval()
        head = self.objective.head
        if head is None:
            return self.student

        def predict(inputs: Inputs) -> Signals:
            signals = replace(self.student(inputs, True), classifier=self.student.classifier())
            return Signals(head.logits(signals), signals.pooled_BC)

        return predict

    @torch.no_grad()
    def teacher_signals(self, split: Split) -> Signals | None:
        """The teachers on a whole split of plain images, computed once per trial; None without a teacher."""
        if self.teacher is None:
            return None
        if self._judged is None or self._judged[0] is not split:
            which = "test" if split is self.splits.test else "validation"
            key = f"{self.share_as}/{which}/{self.config.training.tf32}"
            signals = _KEPT.get(key) if self.share_as else None
            if signals is None:
                with float32_as_set(split.labels_N.device, self.config.training.tf32):
                    main, *others = (
                        networks.signals(network, split, EVALUATION_BATCH)
                        for network in (self.teacher.network, *self.teacher.others)
                    )
                signals = replace(main, others=tuple(others))
                if self.share_as:
                    _keep(key, signals)
            self._judged = (split, signals)
        return self._judged[1]

    @property
    def judged(self) -> Split:
        """The images that the trial is judged by: the test set for report roles, else those of validation."""
        split = self.splits.test if self.config.role in REPORT_ROLES else self.splits.validation
        assert split is not None, "a role that does not read the test set has a validation set"
        return split

    @torch.no_grad()
    def close(self) -> tuple[dict[str, float | None], Predictions]:
        """The last reading: the test set for report roles (their only one), the validation set for the others."""
        split = self.judged
        row: dict[str, float | None] = {}
        student_N = self.student_signals(split)
        if split is self.splits.test:
            row = self._measured(split, student_N, of_views=True)
            row["test_accuracy"] = row.pop("accuracy")
        self.at_close = student_N
        return row, Predictions(split.sample_ids_N.cpu(), split.labels_N.cpu(), student_N.logits_BK.cpu())

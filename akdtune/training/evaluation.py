"""How a trial is judged: what its student is worth, and how teacher, views and student relate, on held-out images.

Everything in eval mode, on plain images, in float32; nothing here changes what a trial trains.

Shapes: N images of a split, B batch, V views, K classes, C feature width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor

from akdtune import networks
from akdtune.columns import Column, declarations, joined
from akdtune.data.row_sets import RowSplit, Splits
from akdtune.devices import float32_as_set
from akdtune.roles import REPORT_ROLES
from akdtune.signals import ANSWERS, Inputs, Signals
from akdtune.teacher.frozen import FrozenTeacher
from akdtune.training.config import TrialConfig
from akdtune.training.diversity import DIVERSITY_COLUMNS
from akdtune.training.likeliest import Likeliest
from akdtune.training.measures import VIEW_COLUMNS, measure_views
from akdtune.training.objective import Objective
from akdtune.training.task import SCORE_WINDOW, Task

EVALUATION_BATCH = 256


def held_out_columns(task: type[Task]) -> tuple[Column, ...]:
    """What is measured on held-out images: those of validation, the test set in a row with the metric's test value."""
    return joined(task.columns(), DIVERSITY_COLUMNS, VIEW_COLUMNS)


VIEWS_EVERY = 10
"""Views that change from epoch to epoch are measured in each tenth epoch, at rungs and in the last one."""

KEPT_MIB = 256
"""What teachers say about plain images is kept by a process up to this size, the newest first."""

Part: TypeAlias = tuple[Signals, Signals | None, Tensor]
"""What the student and its teachers say about some rows of a split, and their labels."""

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
    """What a student says about the items that a role is judged by.

    Attributes:
        sample_ids_N, labels_N, logits_NK: of each row; no logits where they would be too many.
        values_N: what each contributes to the metric; None: whether it is right.
        groups_N: which are drawn together where others are drawn; None: each alone.
        likeliest: what is kept in place of logits.
    """

    sample_ids_N: Tensor
    labels_N: Tensor
    logits_NK: Tensor | None
    values_N: Tensor | None = None
    groups_N: Tensor | None = None
    likeliest: Likeliest | None = None


class Evaluation:
    """What is measured of one trial.

    Args:
        share_as: names teachers and images; what the teachers say about plain images is then kept for later trials of
            this process. Empty: it is not.
        views_every: how often views that change are measured.

    Attributes:
        task: what it is judged by, and what is measured of it.
        recent_scores: validation values of the last epochs, at most SCORE_WINDOW; part of a trial's state.
        at_close: what the student says about the judged images at the trial's end; None before.
    """

    def __init__(
        self,
        config: TrialConfig,
        splits: Splits[RowSplit],
        student: networks.Network,
        objective: Objective,
        teacher: FrozenTeacher | None,
        share_as: str = "",
        views_every: int = VIEWS_EVERY,
    ) -> None:
        self.config, self.task = config, config.task
        self.views_every = views_every
        self.share_as = share_as
        self.splits = splits
        self.student = student
        self.objective = objective
        self.teacher = teacher
        self.recent_scores: list[float] = []
        self.at_close: Signals | None = None
        self._judged: tuple[RowSplit, Signals] | None = None
        self._viewed: tuple[RowSplit, list[Tensor], dict[str, float | None]] | None = None

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
        value = row.pop(self.task.metric.name)
        assert value is not None
        self.recent_scores = [*self.recent_scores, value][-SCORE_WINDOW:]
        if self.config.teacher_file.saw_validation:  # its numbers there would be those of training images
            known = declarations(row, held_out_columns(type(self.task)))
            judged = {name for name, column in known.items() if column.teacher == "judged"}
            row = {name: None if name in judged else value for name, value in row.items()}
        score = sum(self.recent_scores) / len(self.recent_scores)
        if epoch == self.config.training.epochs:
            row |= self._last_measures(self.splits.validation)
        of_answers = self._of_answers(row, "val")
        return {**row, self.task.metric.validation: value, "score": score, **of_answers}

    @torch.no_grad()
    def measure(self, split: RowSplit, of_views: bool = True) -> dict[str, float | None]:
        """What the student is worth on plain images, and how teacher, views and student relate there.

        The metric stands under its own name; the rest are columns of the task, and of `measure_views` where there is a
        teacher, without `of_views` none of those.
        """
        return self._measured(split, self._parts(split), of_views)

    def _measured(self, split: RowSplit, parts: Iterable[Part], of_views: bool = True) -> dict[str, float | None]:
        meter = self.task.meter()
        rows: list[tuple[int, dict[str, float | None]]] = []
        for student_R, teacher_R, labels_R in parts:
            meter.update(student_R, teacher_R, labels_R)
            if of_views and teacher_R is not None:
                rows.append((len(labels_R), self._view_row(split, teacher_R, student_R, labels_R)))
        return {**meter.result(), **_over_parts(rows)}

    def _parts(self, split: RowSplit) -> Iterator[Part]:
        """What student and teachers say about a split, and its labels: as one, or in parts of which none is kept."""
        at_once = split.at_once if self.task.in_parts else self.task.items_at_once
        if at_once is None or (at_once >= split.items and not self.task.in_parts):
            yield self.student_signals(split), self.teacher_signals(split), split.labels_N
            return
        asked, of_teacher = self.asked_student(), self.teacher
        with float32_as_set(split.labels_N.device, self.config.training.tf32):
            for positions_R, inputs in split.plain_batches(at_once):
                teacher_R = None
                if of_teacher is not None:
                    others = tuple(other(inputs) for other in of_teacher.others)
                    teacher_R = replace(of_teacher.network(inputs), others=others)
                yield asked(inputs), teacher_R, split.labels_N[positions_R]

    def _of_answers(self, row: dict[str, float | None], split: str) -> dict[str, float | None]:
        """Takes the metric of each answer of several out of a row, under the names of a split."""
        names = [name for name in row if name.startswith(tuple(f"{self.task.metric.name}_{of}_" for of in ANSWERS))]
        return {f"{split}_{name}": row.pop(name) for name in names}

    @property
    def _views_change(self) -> bool:
        """Whether views may be others after each epoch of the student."""
        return self.objective.views.trains_jointly or self.objective.views.needs_student

    def _view_row(
        self, split: RowSplit, teacher_R: Signals, student_R: Signals, labels_R: Tensor
    ) -> dict[str, float | None]:
        """`measure_views`, computed once for as long as the views stay as they are: its draws are always the same."""
        views = self.objective.views
        measured = views, teacher_R, student_R, labels_R, self.config.seeds.noise
        if self._views_change or len(labels_R) < len(split):
            return measure_views(*measured)
        state = [tensor.clone() for tensor in (*views.parameters(), *views.buffers())]
        if self._viewed is None or self._viewed[0] is not split or not all(map(torch.equal, self._viewed[1], state)):
            self._viewed = (split, state, measure_views(*measured))
        return self._viewed[2]

    @torch.no_grad()
    def student_signals(self, split: RowSplit) -> Signals:
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
    def teacher_signals(self, split: RowSplit) -> Signals | None:
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
    def judged(self) -> RowSplit:
        """The images that the trial is judged by: the test set for report roles, else those of validation."""
        split = self.splits.test if self.config.role in REPORT_ROLES else self.splits.validation
        assert split is not None, "a role that does not read the test set has a validation set"
        return split

    @torch.no_grad()
    def close(self) -> tuple[dict[str, float | None], Predictions]:
        """The last reading: the test set for report roles (their only one), the validation set for the others."""
        if self.task.in_parts:
            return self._closed_in_parts()
        split, metric = self.judged, self.task.metric
        row: dict[str, float | None] = {}
        self.at_close = student_N = self.student_signals(split)
        if split is self.splits.test:
            whole = self.task.items_at_once is None
            parts = [(student_N, self.teacher_signals(split), split.labels_N)] if whole else self._parts(split)
            row = self._measured(split, parts)
            row[metric.test] = row.pop(metric.name)
            row |= self._last_measures(split) | self._of_answers(row, "test")
        values_N = self.task.values(student_N, lambda: self.teacher_signals(split), split.labels_N)
        groups_N = self.task.groups(split.sample_ids_N)
        values_N, groups_N = (None if numbers is None else numbers.cpu() for numbers in (values_N, groups_N))
        of_rows = split.sample_ids_N.cpu(), split.labels_N.cpu()
        return row, Predictions(*of_rows, student_N.logits_BK.cpu(), values_N, groups_N)

    @torch.no_grad()
    def _closed_in_parts(self) -> tuple[dict[str, float | None], Predictions]:
        """The last reading where nothing of all rows and classes at once is made."""
        split, metric = self.judged, self.task.metric
        kept: list[tuple[Likeliest, Tensor | None]] = []

        def gathered() -> Iterator[Part]:
            for student_R, teacher_R, labels_R in self._parts(split):
                values_R = self.task.values(student_R, partial(_same, teacher_R), labels_R)
                kept.append((Likeliest.of(student_R.logits_BK, labels_R), None if values_R is None else values_R.cpu()))
                yield student_R, teacher_R, labels_R

        row: dict[str, float | None] = {}
        if split is self.splits.test:
            row = self._measured(split, gathered())
            row[metric.test] = row.pop(metric.name)
            row |= self._last_measures(split)
        else:
            for _ in gathered():
                pass
        values = [values_R for _, values_R in kept if values_R is not None]
        groups_N = self.task.groups(split.sample_ids_N)
        return row, Predictions(
            split.sample_ids_N.cpu(),
            split.labels_N.cpu(),
            None,
            torch.cat(values) if values else None,
            None if groups_N is None else groups_N.cpu(),
            Likeliest.joined([likeliest for likeliest, _ in kept]),
        )

    @torch.no_grad()
    def _last_measures(self, split: RowSplit) -> dict[str, float | None]:
        """What the task measures of the last epoch alone."""
        which = "test" if split is self.splits.test else "validation"
        key = f"{self.share_as}/{which}" if self.share_as else ""
        of_teacher = None if self.teacher is None else self.teacher.network
        with float32_as_set(split.labels_N.device, self.config.training.tf32):
            return self.task.last_measures(self.asked_student(), of_teacher, split, key)


def _same(said: Signals | None) -> Signals | None:
    """What is known already."""
    return said


def _over_parts(rows: Sequence[tuple[int, dict[str, float | None]]]) -> dict[str, float | None]:
    """What was measured of each part, as means over all rows; of one part as it is, of none nothing."""
    if len(rows) < 2:
        return dict(rows[0][1]) if rows else {}
    means: dict[str, float | None] = {}
    for name in rows[0][1]:
        known = [(count, value) for count, row in rows if (value := row[name]) is not None]
        total = sum(count for count, _ in known)
        means[name] = sum(count * value for count, value in known) / total if known else None
    return means

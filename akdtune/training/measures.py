"""What is measured of views, teacher and student on held-out images at the end of an epoch."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from akdtune.columns import Column
from akdtune.randomness import derived_seed
from akdtune.signals import Signals, Views
from akdtune.training.diversity import DiversityMeter
from akdtune.views import ViewAugmenter

STOCHASTIC_DRAWS = 8
"""Fixed draws over which the diversity of stochastic views is averaged."""

VIEW_COLUMNS = (
    Column("target_accuracy", "percent", "accuracy of the target that the student imitates", teacher="judged"),
    Column("target_entropy", "nats", "mean entropy of the target that the student imitates", teacher="judged"),
    Column("gate_open_eval", "share", "held-out images whose diversity gate of the features is open", teacher="judged"),
    Column("gate_open_eval_*", "share", "held-out images whose diversity gate of this name is open", teacher="judged"),
)
"""What `measure_views` adds to `DIVERSITY_COLUMNS`."""


def fixed_views(views: ViewAugmenter, teacher: Signals, student: Signals, noise_seed: int) -> Iterator[Views]:
    """What eval-mode views say about a split: once, and where they are stochastic in each of some fixed draws."""
    for draw in range(STOCHASTIC_DRAWS if views.stochastic else 1):
        generator = torch.Generator(teacher.logits_BK.device).manual_seed(derived_seed("measure", noise_seed, draw))
        yield views.views(teacher, generator, student)


@torch.no_grad()
def measure_views(
    views: ViewAugmenter, teacher_signals: Signals, student_signals: Signals, labels_N: Tensor, noise_seed: int
) -> dict[str, float | None]:
    """Diversity, angles, gates, ensemble and training target of eval-mode views on one split of plain images.

    Stochastic views are averaged over fixed draws. Definitions: `akdtune.training.diversity`.
    """
    rows: list[dict[str, float | None]] = []
    for of_views in fixed_views(views, teacher_signals, student_signals, noise_seed):
        meter = DiversityMeter()
        meter.update(
            torch.cat([teacher_signals.logits_BK.unsqueeze(1), of_views.logits_BVK], dim=1),
            torch.cat([teacher_signals.pooled_BC.unsqueeze(1), of_views.pooled_BVC], dim=1),
            labels_N,
        )
        log_target_NK = torch.log_softmax(
            views.evaluation_target(teacher_signals, of_views).log_probabilities_BK(1.0), dim=-1
        )
        row: dict[str, float | None] = dict(meter.result())
        row["target_accuracy"] = float(percent_right(log_target_NK, labels_N))
        row["target_entropy"] = float(-(log_target_NK.exp() * log_target_NK).sum(dim=-1).mean())
        row |= {gate_column("eval", name): float(v) for name, v in views.gates(teacher_signals, of_views).items()}
        rows.append(row)
    return {name: _mean([row[name] for row in rows]) for name in rows[0]}


def percent_right(logits_BK: Tensor, labels_B: Tensor) -> Tensor:
    """Share of rows whose largest score is the label's, in percent, as a scalar on the device."""
    return (logits_BK.argmax(dim=-1) == labels_B).mean(dtype=torch.float64) * 100


def gate_column(mode: str, gate: str) -> str:
    """The column of a gate: `mode` is train or eval; the features' own gate has no name of its own."""
    return f"gate_open_{mode}" if gate == "feature" else f"gate_open_{mode}_{gate}"


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


TRANSFER_COLUMNS = (
    Column(
        "agreement", "percent", "held-out images that student and teacher classify alike", teacher="needed",
        section="student",
    ),
    Column(
        "js_divergence", "nats", "mean Jensen-Shannon divergence of the student's and the teacher's predictions on"
        " held-out images, at most log 2", teacher="needed", section="student",
    ),
    Column(
        "right_agree", "percent", "held-out images that the teacher classifies rightly, and the student like it",
        teacher="judged", section="student",
    ),
    Column(
        "right_differ", "percent", "held-out images that the teacher classifies rightly, and the student otherwise",
        teacher="judged", section="student",
    ),
    Column(
        "wrong_agree", "percent", "held-out images that the teacher classifies wrongly, and the student like it",
        teacher="judged", section="student",
    ),
    Column(
        "wrong_differ", "percent", "held-out images that the teacher classifies wrongly, and the student otherwise",
        teacher="judged", section="student",
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
        mean = {"agreement": 100 * agreeing / self._count, "js_divergence": self._divergence / self._count}
        return {**mean, **self.cells()}

    def cells(self) -> dict[str, float]:
        """Percent of images by whether the teacher is right or wrong and the student agrees or differs; sums to 100."""
        return {name: 100 * count / self._count for name, count in self._cells.items()}

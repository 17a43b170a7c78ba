"""What is measured of views, teacher and student on held-out images at the end of an epoch."""

from __future__ import annotations

import torch
from torch import Tensor

from akdtune.columns import Column
from akdtune.diversity import DiversityMeter
from akdtune.recipe import derived_seed
from akdtune.signals import Signals
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


@torch.no_grad()
def measure_views(
    views: ViewAugmenter, teacher_signals: Signals, student_signals: Signals, labels_N: Tensor, noise_seed: int
) -> dict[str, float | None]:
    """Diversity, angles, gates, ensemble and training target of eval-mode views on one split of plain images.

    Stochastic views are averaged over fixed draws. Definitions: akdtune.diversity.
    """
    draws = STOCHASTIC_DRAWS if views.stochastic else 1
    found: list[dict[str, float | None]] = []
    for draw in range(draws):
        generator = torch.Generator(labels_N.device).manual_seed(derived_seed("measure", noise_seed, draw))
        of_views = views.views(teacher_signals, generator, student_signals)
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
        found.append(row)
    return {name: _mean([row[name] for row in found]) for name in found[0]}


def percent_right(logits_BK: Tensor, labels_B: Tensor) -> Tensor:
    """Share of rows whose largest score is the label's, in percent, as a scalar on the device."""
    return (logits_BK.argmax(dim=-1) == labels_B).double().mean() * 100


def gate_column(mode: str, gate: str) -> str:
    """The column of a gate: `mode` is train or eval; the features' own gate has no name of its own."""
    return f"gate_open_{mode}" if gate == "feature" else f"gate_open_{mode}_{gate}"


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None

"""The plain teacher: no views."""

from __future__ import annotations

import torch
from typing_extensions import override

from akdtune.registry import NoSettings, register
from akdtune.signals import Batch, Signals, Teaching, Views
from akdtune.views import ViewAugmenter, plain_teaching


@register("none")
class NoViews(ViewAugmenter):
    """The teacher itself is the only target; the baseline of every comparison.

    Example:
        >>> views = NoViews.alone(num_classes=10, teacher_dim=64)
        >>> teacher, student = Signals.random(8), Signals.random(8)
        >>> teaching = views.teach(teacher, student, Batch.of(torch.arange(8)))
    """

    Settings = NoSettings
    source = "Hinton, Vinyals and Dean, 2015, arXiv 1503.02531"

    @override
    def views(self, teacher: Signals, generator: torch.Generator, student: Signals | None = None) -> Views:
        """Zero views."""
        return Views(teacher.logits_BK.unsqueeze(1)[:, :0], teacher.pooled_BC.unsqueeze(1)[:, :0])

    @override
    def teach(self, teacher: Signals, student: Signals, batch: Batch) -> Teaching:
        """The teacher as the only target."""
        return plain_teaching(teacher)

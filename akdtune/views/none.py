"""The plain teacher: no views."""

from __future__ import annotations

import torch

from akdtune.registry import NoSettings, register
from akdtune.signals import Batch, Signals, Teaching, Views
from akdtune.views import ViewAugmenter, plain_teaching


@register("none")
class NoViews(ViewAugmenter):
    """The teacher itself is the only target; the baseline of every comparison."""

    Settings = NoSettings
    source = "Hinton, Vinyals and Dean, 2015, arXiv 1503.02531"

    def views(self, teacher: Signals, generator: torch.Generator, student: Signals | None = None) -> Views:
        """Zero views."""
        return Views(teacher.logits_BK.unsqueeze(1)[:, :0], teacher.pooled_BC.unsqueeze(1)[:, :0])

    def teach(self, teacher: Signals, student: Signals, batch: Batch) -> Teaching:
        """The teacher as the only target."""
        return plain_teaching(teacher)

"""Nodes of one graph, each with one label."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from typing_extensions import override

from akdtune.columns import Column
from akdtune.registry import register
from akdtune.signals import Takes
from akdtune.tasks.image import Accuracies
from akdtune.training.measures import TRANSFER_COLUMNS
from akdtune.training.task import Meter, Task


@register("graph")
class GraphTask(Task):
    """Classification of nodes, judged by the share of them that is classified rightly.

    All nodes of the graph are seen in every step, test nodes without their labels among them (transductive); an epoch
    is one step.
    """

    source = "Kipf and Welling, ICLR 2017, arXiv 1609.02907, for the setting"
    takes: ClassVar[Takes] = "nodes"
    called = "nodes"
    idle_training: ClassVar[Mapping[str, str]] = {"batch_size": "an epoch is one step over the whole graph"}
    further = (
        Column("teacher_accuracy", "percent", "accuracy of the teacher on held-out nodes", teacher="judged"),
        *(replace(column, sentence=column.sentence.replace("images", "nodes")) for column in TRANSFER_COLUMNS),
    )

    @override
    def meter(self) -> Meter:
        return Accuracies()

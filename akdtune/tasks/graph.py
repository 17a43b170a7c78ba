"""Nodes of one graph, each with one label."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar

from typing_extensions import override

from akdtune.columns import Column
from akdtune.registry import register
from akdtune.settings.data import data_settings
from akdtune.settings.domains import Issue
from akdtune.settings.graphs import GraphSettings
from akdtune.signals import Takes
from akdtune.tasks.image import Accuracies
from akdtune.training.measures import TRANSFER_COLUMNS
from akdtune.training.task import Meter, Task

RKD_ROWS = 256
"""Nodes of a batch that triples are made of at most: 1,000 take 20 s a step on a CPU, and gigabytes."""


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

    @classmethod
    @override
    def misfits(cls, settings: Mapping[str, Any], study: Mapping[str, Any]) -> Iterator[Issue]:
        """Triples of more nodes than a step can compare."""
        if "data" not in study or all(term["name"] != "rkd" for term in settings["method"]):
            return  # what is wrong with the data is said elsewhere
        data = data_settings(study["data"])
        given = settings.get("selection") or {}
        share = float(given.get("share", 1)) if given.get("name", "none") != "none" else 1.0
        rows = round(share * data.pool_nodes) if isinstance(data, GraphSettings) else 0
        if rows > RKD_ROWS:
            yield (
                ("method",),
                f"'rkd' compares all triples of a batch, and the task 'graph' has {rows:,} nodes in one (allowed: "
                f"{RKD_ROWS}); lower data.pool, or distil a share of them (selection)",
            )

    @override
    def meter(self) -> Meter:
        return Accuracies()

"""Small trials on a made-up graph: three teachers that are trained once a session, configurations."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from akdtune.data.dataset import load_data
from akdtune.data.row_sets import RowDataSet
from akdtune.registry import typed
from akdtune.settings.data import data_settings
from akdtune.settings.teacher import TeacherSettings
from akdtune.settings.training import Seeds, StudentSettings, TrainingSettings
from akdtune.teacher.file import TeacherFile
from akdtune.training.config import TrialConfig
from akdtune.training.task import task_of
from akdtune.training.teachers import train_teachers

CPU = torch.device("cpu")
BLOCKS: dict[str, Any] = {
    "name": "sbm", "nodes": 80, "features": 6, "pool": 0.6, "validation": 12, "labels_per_class": 4,
    "annotate": {"share": 0.2, "by": "random", "error": 0.1},
}  # fmt: skip
TEACHERS = [{"name": name, "width": 8, "dropout": 0.0} for name in ("gcn", "appnp", "mlp_nodes")]
RECIPE: dict[str, Any] = {"optimizer": "adamw", "schedule": "cosine", "lr": 0.05, "epochs": 60}


@functools.cache
def blocks() -> RowDataSet:
    """The graph, on the CPU."""
    return load_data(data_settings(BLOCKS), CPU)


def teachers() -> TeacherSettings:
    """The section `teacher`."""
    main, *others = ({"network": network, **RECIPE} for network in TEACHERS)
    return TeacherSettings(**main, others=others)


@functools.cache
def trained() -> TeacherFile:
    """All three."""
    (*_, last) = train_teachers(teachers(), blocks(), "subset", CPU)
    return TeacherFile(**last["teacher"])


def configured(
    views: Mapping[str, Any],
    methods: Sequence[Mapping[str, Any]],
    *,
    network: str = "sage",
    student: Mapping[str, Any] | None = None,
    changes: Mapping[str, Any] | None = None,
    **training: Any,
) -> TrialConfig:
    """A trial of a small student; `changes` are further fields of the configuration, the rest training settings."""
    return TrialConfig(
        data=data_settings(BLOCKS),
        student=StudentSettings(**(student or {"network": {"name": network, "width": 8}})),
        views=(views["name"], typed("views", views)),
        methods=tuple((method["name"], typed("methods", method)) for method in methods),
        training=TrainingSettings(**{"epochs": 2, "optimizer": "adamw", "lr": 0.01, **training}),
        task=task_of({"task": {"name": "graph"}}),
        **{"seeds": Seeds(), "role": "search", "teacher_file": trained(), **(changes or {})},
    )

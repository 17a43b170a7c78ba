"""Small trials on sums that are made up: a teacher and a reference that are trained once a session, configurations."""

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
SUMS: dict[str, Any] = {"name": "arithmetic", "window": 24, "sums": 240, "below": 10, "validation": 8, "test": 8}
TARGET: dict[str, Any] = {"name": "transformer", "width": 16, "layers": 2, "heads": 2}
DRAFT: dict[str, Any] = {"name": "transformer", "width": 8, "layers": 1, "heads": 2}
TEACHER: dict[str, Any] = {"network": TARGET, "optimizer": "adamw", "lr": 0.01, "epochs": 2, "batch_size": 16}
LANGUAGE: dict[str, Any] = {"name": "language", "sampled_windows": 4}


@functools.cache
def texts() -> RowDataSet:
    """The sums, on the CPU."""
    return load_data(data_settings(SUMS), CPU)


@functools.cache
def trained(others: int = 0) -> TeacherFile:
    """The target, and further teachers of the draft's size."""
    further = [{**TEACHER, "network": DRAFT, "seed": seed} for seed in range(1, 1 + others)]
    (*_, last) = train_teachers(TeacherSettings(**TEACHER, others=further), texts(), "subset", CPU)
    return TeacherFile(**last["teacher"])


def configured(
    views: Mapping[str, Any],
    methods: Sequence[Mapping[str, Any]],
    *,
    others: int = 0,
    changes: Mapping[str, Any] | None = None,
    **training: Any,
) -> TrialConfig:
    """A trial of the draft; `changes` are further fields of the configuration, the rest training settings."""
    recipe = {"batch_size": 8, "epochs": 2, "optimizer": "adamw", "lr": 0.01, "schedule": "cosine"}
    return TrialConfig(
        data=data_settings(SUMS),
        student=StudentSettings(network=DRAFT),
        views=(views["name"], typed("views", views)),
        methods=tuple((method["name"], typed("methods", method)) for method in methods),
        training=TrainingSettings(**{**recipe, **training}),
        task=task_of({"task": LANGUAGE}),
        **{"seeds": Seeds(), "role": "search", "teacher_file": trained(others), **(changes or {})},
    )

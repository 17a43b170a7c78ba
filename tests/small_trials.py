"""Small trials on digits: teachers that are trained once a session, configurations, and the numbers of a run."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from akdtune.data.dataset import load_data
from akdtune.registry import typed
from akdtune.settings.data import DataSettings
from akdtune.settings.teacher import TeacherSettings
from akdtune.settings.training import Seeds, StudentSettings, TrainingSettings
from akdtune.teacher.file import TeacherFile
from akdtune.training.config import TrialConfig
from akdtune.training.loop import Epoch
from akdtune.training.teachers import train_teachers

CPU = torch.device("cpu")
DIGITS: dict[str, Any] = {"name": "digits", "validation": 600}
TEACHER = TeacherSettings(network={"name": "cnn", "widths": [4, 8]}, epochs=1, batch_size=32)
ANGULAR = {"name": "angular", "variant": "constrained", "warmup_epochs": 3, "num_views": 3, "margin": 0.4}
TIMINGS = {"wall_time_s", "images_per_s", "peak_memory_mib"}
CACHE_RATES = {"teacher_cache_hit_rate", "teacher_cache_fill_rate"}


def roomy_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stores fill whatever room the machine that tests has left."""
    facts = os.statvfs
    plenty = 2**40

    def statvfs(path: Any) -> Any:
        said = facts(path)
        names = [name for name in dir(said) if name.startswith("f_")]
        free = {"f_bavail": plenty // said.f_frsize, "f_bfree": plenty // said.f_frsize}
        return SimpleNamespace(**({name: getattr(said, name) for name in names} | free))

    monkeypatch.setattr(os, "statvfs", statvfs)


def trained(of_data: DataSettings | Mapping[str, Any] = DIGITS, settings: TeacherSettings = TEACHER) -> TeacherFile:
    """The teacher of these settings on these images, trained when it is asked for first."""
    settings_of_data = of_data if isinstance(of_data, DataSettings) else DataSettings(**of_data)
    return _trained(settings_of_data.model_dump_json(), settings.model_dump_json())


@functools.cache
def _trained(of_data: str, settings: str) -> TeacherFile:
    dataset = load_data(DataSettings.model_validate_json(of_data), CPU)
    (*_, last) = train_teachers(TeacherSettings.model_validate_json(settings), dataset, "subset", CPU)
    return TeacherFile(**last["teacher"])


def configured(
    of_data: DataSettings,
    teacher_file: TeacherFile,
    views: Mapping[str, Any],
    methods: Sequence[Mapping[str, Any]],
    *,
    student: Any = None,
    changes: Mapping[str, Any] | None = None,
    **training: Any,
) -> TrialConfig:
    """A trial of a small student; `changes` are further fields of the configuration, the rest training settings."""
    return TrialConfig(
        data=of_data,
        student=StudentSettings(network=student or {"name": "cnn", "widths": [2, 4]}),
        views=(views["name"], typed("views", views)),
        methods=tuple((method["name"], typed("methods", method)) for method in methods),
        training=TrainingSettings(**{"batch_size": 32, **training}),
        **{"seeds": Seeds(), "role": "search", "teacher_file": teacher_file, **(changes or {})},
    )


def numbers(epochs: Sequence[Epoch], without: frozenset[str] | set[str] = frozenset()) -> list[tuple[Any, ...]]:
    """Every metric of every epoch but timings and what is named."""
    left_out = TIMINGS | without
    return [(e.stage, e.epoch, {k: v for k, v in e.row.items() if k not in left_out}) for e in epochs]

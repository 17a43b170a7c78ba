"""What determines a trial's numbers, typed: its own settings sections, its seeds, and all of them together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from akdtune.registry import ComponentSettings, Kind, Pair, load_plugins, lookup, may_draw, network_name
from akdtune.roles import REPORT_ROLES
from akdtune.settings.data import AnyDataSettings, data_settings
from akdtune.settings.teacher import CacheSettings, Compute, teacher_compute
from akdtune.settings.training import Seeds, StudentSettings, TrainingSettings
from akdtune.teacher.file import TeacherFile
from akdtune.training.request import TrialRequest
from akdtune.training.task import Task, task_of


@dataclass(frozen=True)
class TrialConfig:
    """What determines a trial's numbers, typed.

    Attributes:
        role: search | probe | pilot | confirm | ablation | control; decides which data is seen.
        teacher_file: where the frozen teacher lies.
        teacher_cache: through which its numbers come; None: live.
        report_trains_on: what trials that read the test set train on.
        rungs: epochs after which it may be stopped early.
        task: what its study trains for.
        selection: which rows are distilled; None: all.
    """

    data: AnyDataSettings
    student: StudentSettings
    views: tuple[str, ComponentSettings]
    methods: tuple[tuple[str, ComponentSettings], ...]
    training: TrainingSettings
    seeds: Seeds
    role: str
    teacher_file: TeacherFile
    teacher_cache: CacheSettings | None = None
    report_trains_on: Literal["subset", "full"] = "full"
    rungs: tuple[int, ...] = ()
    task: Task = field(default_factory=lambda: task_of({}))
    selection: tuple[str, ComponentSettings] | None = None

    @classmethod
    def parse(cls, request: TrialRequest) -> TrialConfig:
        """Types what a trial is asked, after importing its plugins."""
        load_plugins(request.plugins, request.plugin_folders)
        settings = request.settings
        return cls(
            data=data_settings(settings["data"]),
            student=StudentSettings(**settings["student"]),
            views=_component("views", settings["views"]),
            methods=tuple(_component("methods", method) for method in settings["method"]),
            training=TrainingSettings(**settings["training"]),
            seeds=Seeds(**request.seeds),
            role=request.role,
            teacher_file=request.teacher_file,
            teacher_cache=request.teacher_cache,
            report_trains_on=request.report_trains_on,
            rungs=tuple(request.rungs),
            task=task_of(settings),
            selection=_component("selections", settings["selection"]) if "selection" in settings else None,
        )

    @property
    def teacher_compute(self) -> Compute:
        """How its frozen teachers are computed."""
        return teacher_compute(self.teacher_cache, {"precision": self.training.precision})

    @property
    def pair(self) -> Pair:
        """What published settings depend on."""
        teacher_name = None if self.teacher_file.absent else network_name(self.teacher_file.network)
        return Pair(self.data.name, teacher_name, network_name(self.student.network))

    @property
    def draws(self) -> bool:
        """Whether views, methods or the selection draw random numbers while the student trains."""
        selecting = self.selection is not None and may_draw("selections", *self.selection)
        return selecting or may_draw("views", *self.views) or any(may_draw("methods", *of) for of in self.methods)

    @property
    def train_on(self) -> Literal["subset", "full"]:
        """`subset`: the training pool minus validation; `full`: all of it."""
        return self.report_trains_on if self.role in REPORT_ROLES else "subset"


def _component(kind: Kind, setting: Mapping[str, Any]) -> tuple[str, ComponentSettings]:
    name = str(setting["name"])
    values = {key: value for key, value in setting.items() if key != "name"}
    return name, lookup(kind, name).Settings(**values)

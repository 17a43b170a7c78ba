"""What determines a trial's numbers, typed: its own settings sections, its seeds, and all of them together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field, NonNegativeFloat, model_validator
from torch import nn

from akdtune import data, networks, teacher
from akdtune.methods import Pair
from akdtune.recipe import Dot, Recipe, sgd
from akdtune.registry import ComponentSettings, load_plugins, lookup
from akdtune.results import REPORT_ROLES
from akdtune.teacher_cache import CacheSettings


class TrainingSettings(Recipe):
    """How the student trains."""

    optimizer: Literal["sgd", "dot", "adamw"] = Field(
        "sgd", description="dot: SGD with momentums of their own for cross-entropy and distillation (2307.08436)"
    )
    dot_delta: NonNegativeFloat = Field(
        0.075, description="dot: momentum - delta for cross-entropy, momentum + delta for distillation (ImageNet: 0.09)"
    )
    schedule: Literal["step", "cosine"] = Field("step", description="step: at the milestones; cosine: to zero")
    ce_weight: NonNegativeFloat | None = Field(
        None, description="weight of the student's cross-entropy; null: the base method's published one"
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: the GPU where Ray or torch offers one")
    precision: Literal["fp32", "bf16"] = Field(
        "fp32",
        description="bf16: the student's forward and backward in bfloat16 (weights, losses, views, teacher and every"
        " evaluation stay in float32), which is faster and not the same result; one for all trials of a study. To"
        " repeat a finalist: `akdtune best RUN --export best.yaml`, `akdtune run best.yaml training.precision=fp32`",
    )
    tf32: bool = Field(
        False,
        description="on CUDA, float32 products and convolutions of the whole trial in TF32 (factors of 11 significant"
        " bits); false: in full, also the convolutions, which torch would run in TF32; one for all trials of a study",
    )
    cuda_graphs: bool = Field(
        False,
        description="on CUDA, record a whole training step once and launch it as one: faster for small networks, the"
        " same operations; where a component cannot be recorded a line in the log says so",
    )
    compile: bool = Field(
        False,
        description="run the training student through torch.compile: a minute or more at the start of every trial;"
        " changes rounding only, so that it does not count for what a trial is; one for all trials of a study",
    )

    @model_validator(mode="after")
    def _dot_is_stable(self) -> TrainingSettings:
        if self.optimizer == "dot" and not self.dot_delta <= min(self.momentum, 1 - self.momentum):
            raise ValueError(
                f"dot_delta must be at most momentum and 1 - momentum (momentum is {self.momentum}), "
                f"got {self.dot_delta}"
            )
        return self

    def idle(self) -> dict[str, str]:
        """What the optimiser and the schedule do not read (AdamW ignores the momentum, a warm-up of views reads it)."""
        found = super().idle()
        if self.optimizer != "dot":
            found["dot_delta"] = f"optimizer is {self.optimizer}"
        if self.schedule == "cosine":
            found |= dict.fromkeys(("milestones", "lr_decay"), "schedule is cosine")
        elif self.lr_decay == 1:
            found["milestones"] = "lr_decay is 1"
        elif all(milestone >= self.epochs for milestone in self.resolved_milestones()):
            found["lr_decay"] = "no milestone comes before the last epoch"
        return found

    def learning_rate(self, epoch: int) -> float:
        """Learning rate of `epoch` (counted from 1)."""
        if self.schedule == "cosine":
            return self.lr * (1 + math.cos(math.pi * (epoch - 1) / self.epochs)) / 2
        return super().learning_rate(epoch)


class StudentSettings(ComponentSettings):
    """The network that learns."""

    network: str | dict[str, Any] = Field(description="a registered network, or {name: ..., its settings}")
    checkpoint: str | None = Field(
        None,
        min_length=1,
        description="weights to begin with: a trial's checkpoint.pt or a published file; a classifier for other classes"
        " is left as drawn",
    )
    train: Literal["all", "classifier"] = Field(
        "all", description="classifier: everything else keeps its weights and statistics (linear transfer)"
    )

    @model_validator(mode="after")
    def _a_frozen_body_has_weights(self) -> StudentSettings:
        if self.train == "classifier" and self.checkpoint is None:
            raise ValueError("train is classifier, which needs a checkpoint: the frozen body would be a random one")
        return self


class Seeds(ComponentSettings):
    """Separate sources of randomness, shared across arms so that differences are paired by seed."""

    init: int = Field(0, description="weights of student, heads and projectors")
    order: int = Field(0, description="batches and augmentation")
    noise: int = Field(0, description="dropout, view noise, drawn negatives")


def build_optimizer(settings: TrainingSettings, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimiser of these parameters."""
    if settings.optimizer == "dot":
        return Dot(parameters, settings, settings.dot_delta)
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(list(parameters), lr=settings.lr, weight_decay=settings.weight_decay)
    return sgd(parameters, settings)


@dataclass(frozen=True)
class TrialConfig:
    """What determines a trial's numbers, typed.

    Attributes:
        role: search | probe | pilot | confirm | ablation | control; decides which data is seen.
        teacher_file: where the frozen teacher lies.
        teacher_cache: through which its numbers come; None: live.
        report_trains_on: what trials that read the test set train on.
        rungs: epochs after which it may be stopped early.
    """

    data: data.DataSettings
    student: StudentSettings
    views: tuple[str, ComponentSettings]
    methods: tuple[tuple[str, ComponentSettings], ...]
    training: TrainingSettings
    seeds: Seeds
    role: str
    teacher_file: teacher.TeacherFile
    teacher_cache: CacheSettings | None = None
    report_trains_on: Literal["subset", "full"] = "full"
    rungs: tuple[int, ...] = ()

    @classmethod
    def parse(cls, trial: Mapping[str, Any]) -> TrialConfig:
        """Types a trial's plain JSON.

        Args:
            trial: settings, seeds, role, teacher_file; and, where given, teacher_cache, rungs, plugins, plugin_folders.
        """
        cache = trial.get("teacher_cache")
        load_plugins(trial.get("plugins", ()), trial.get("plugin_folders", ()))
        settings = trial["settings"]
        return cls(
            data=data.DataSettings(**settings["data"]),
            student=StudentSettings(**settings["student"]),
            views=_component("views", settings["views"]),
            methods=tuple(_component("methods", method) for method in settings["method"]),
            training=TrainingSettings(**settings["training"]),
            seeds=Seeds(**trial["seeds"]),
            role=trial["role"],
            teacher_file=teacher.TeacherFile(**trial["teacher_file"]),
            teacher_cache=None if cache is None else CacheSettings(**cache),
            report_trains_on=trial.get("report_trains_on", "full"),
            rungs=tuple(trial.get("rungs", ())),
        )

    @property
    def pair(self) -> Pair:
        """What published settings depend on."""
        teacher_name = None if self.teacher_file.absent else networks.network_name(self.teacher_file.network)
        return Pair(self.data.name, teacher_name, networks.network_name(self.student.network))

    @property
    def train_on(self) -> Literal["subset", "full"]:
        """`subset`: the training pool minus validation; `full`: all of it."""
        return self.report_trains_on if self.role in REPORT_ROLES else "subset"


def _component(kind: Literal["views", "methods"], setting: Mapping[str, Any]) -> tuple[str, ComponentSettings]:
    name = str(setting["name"])
    values = {key: value for key, value in setting.items() if key != "name"}
    return name, lookup(kind, name).Settings(**values)

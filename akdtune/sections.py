"""Typed settings of the sections that describe a whole study: how it searches, stops, probes, reports and runs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, field_validator, model_validator

from akdtune.registry import ComponentSettings
from akdtune.teacher_cache import CacheSettings


class SearchSettings(ComponentSettings):
    """How configurations are proposed."""

    algorithm: Literal["tpe", "random", "grid"] = Field(default="tpe", description="grid runs all listed values")
    trials: PositiveInt | None = Field(default=None, description="trials over all arms; grid: null for all")
    fair: Literal["per_arm", "pooled"] = Field(
        default="per_arm",
        description="per_arm: equal trials, a searcher and a bracket for each; pooled: one search",
    )
    seed: int = Field(default=0, description="of the proposals")
    trial_seed: int = Field(default=0, description="of each search trial's training; probe seeds differ")
    seeds: list[int] | None = Field(
        default=None,
        min_length=1,
        description="grid and random without early stopping: trains every configuration once with each of these seeds"
        " instead of trial_seed",
    )

    @model_validator(mode="after")
    def _seeds_repeat_a_design(self) -> SearchSettings:
        if self.seeds is not None and self.algorithm == "tpe":
            raise ValueError("seeds go with algorithm grid or random: tpe learns from one trial a configuration")
        if self.seeds is not None and len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must differ, got {self.seeds}")
        return self

    @property
    def training_seeds(self) -> list[int]:
        """The seeds with which each configuration of the search is trained."""
        return [self.trial_seed] if self.seeds is None else self.seeds


class SchedulerSettings(ComponentSettings):
    """Early stopping of search trials."""

    name: Literal["asha", "none"] = Field(default="asha", description="none: every trial runs to its last epoch")
    grace_period: PositiveInt = Field(default=1, description="student epochs before the first rung; give it with asha")
    reduction_factor: float = Field(default=4.0, gt=1, description="one in this many passes a rung")

    @model_validator(mode="after")
    def _grace_is_given(self) -> SchedulerSettings:
        if self.name == "asha" and "grace_period" not in self.model_fields_set:
            raise ValueError("grace_period is needed: the epoch of the first rung, best after the first milestone")
        return self

    def rungs(self, epochs: int) -> list[int]:
        """The epochs at which trials are compared; the last epoch is none of them."""
        if self.name == "none" or self.grace_period >= epochs:
            return []
        count = math.floor(math.log(epochs / self.grace_period) / math.log(self.reduction_factor)) + 2
        steps = (math.ceil(self.grace_period * self.reduction_factor**k) for k in range(count))
        return sorted({step for step in steps if step < epochs})


def _flat(nested: dict[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in nested.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


class ProbeSettings(ComponentSettings):
    """Unpruned trials spread evenly over the settings of the views, for the diversity-accuracy fit."""

    trials: PositiveInt = Field(description="trials over all arms whose views have something to vary")
    seeds: list[int] = Field(default=[1], min_length=1, description="training seeds of each configuration")
    fixed: dict[str, Any] = Field(default={}, description="key path: value, for settings not at their centre")

    @field_validator("fixed", mode="before")
    @classmethod
    def _key_paths(cls, value: Any) -> Any:
        """Nested mappings are key paths written another way, as `probe.fixed.views.margin=0.3` makes them."""
        return dict(_flat(value)) if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _seeds_differ(self) -> ProbeSettings:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must differ, got {self.seeds}")
        return self


class ReportSettings(ComponentSettings):
    """What trials that may read the test set train on."""

    train_on: Literal["full", "subset"] = Field(default="full", description="full: validation images train too")


class ResourcesSettings(ComponentSettings):
    """What one trial takes."""

    cpu: PositiveFloat = Field(default=1.0, description="CPUs of a trial; one thread each")
    gpu: NonNegativeFloat = Field(default=0.0, description="GPUs of a trial; 0.25 lets four share one")
    concurrent: PositiveInt | None = Field(default=None, description="trials at a time; null: as many as fit")


class WandbSettings(ComponentSettings):
    """Where Weights & Biases shows the trials."""

    project: str = "akdtune"
    entity: str | None = Field(default=None, description="team or user; null: the key's own")
    mode: Literal["auto", "online", "offline", "disabled"] = Field(
        default="auto", description="auto: online with a key"
    )
    tags: list[str] = Field(default=[], description="shown on every run")


class TrackingSettings(ComponentSettings):
    """Live tracking; results are in the study directory in any case."""

    wandb: WandbSettings | None = Field(default=None, description="null: no Weights & Biases")
    finish_timeout_s: PositiveFloat = Field(default=5.0, description="seconds a trial waits for its run to close")


STUDY_LEVEL: dict[str, type[ComponentSettings]] = {
    "search": SearchSettings,
    "scheduler": SchedulerSettings,
    "probe": ProbeSettings,
    "report": ReportSettings,
    "resources": ResourcesSettings,
    "tracking": TrackingSettings,
    "teacher_cache": CacheSettings,
}
TRIAL_LEVEL = ("student", "views", "method", "training")
LATER = ("confirm", "ablation")
"""Sections that a later version reads; null is accepted."""

SECTIONS = ("study", "data", "teacher", *TRIAL_LEVEL, *STUDY_LEVEL, *LATER, "plugins")

"""Typed settings of the sections that describe a whole study: how it searches, stops, probes, reports and runs."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from akdtune.metric import ACCURACY
from akdtune.registry import ComponentSettings
from akdtune.settings.file import BASE, shown
from akdtune.settings.record import RecordSettings
from akdtune.settings.teacher import CacheSettings
from akdtune.settings.tracking import TrackingSettings

MOST_TRIALS = 100_000
"""Of one phase of a study; more than this can only be a mistake."""

MOST_SEEDS = 10_000

LONGEST_ARM = 150
"""Bytes of an arm's name, which stands in tables and figures and may name a file."""

COSTS = ("macs", "time")
"""Objectives beside the metric of the study, smaller being better."""

_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
_NUMBER = r"[0-9]{1,12}(?:\.[0-9]{1,12})?"
_TEXT = re.compile(r"\s*" + "".join(rf"(?:({_NUMBER})\s*{unit}\s*)?" for unit in _UNITS))
_CLOCK = re.compile(r"\s*([0-9]{1,6}):([0-5][0-9]):([0-5][0-9])\s*")
_TWO_PARTS = re.compile(r"\s*([0-9]+):([0-9]{1,2})\s*")

LONGEST_S = 3650 * 86400.0
"""Ten years."""


def seconds(value: float | str) -> float:
    """The seconds that a number stands for, or a text such as `90m`, `1h30m`, `1.5 d` or `2:30:00` (h:mm:ss).

    Raises:
        ValueError: when it is none of these, may be two of them (`1:30`), or nothing is left of it.
    """
    if isinstance(value, str) and (two := _TWO_PARTS.fullmatch(value)):
        first, second = two.groups()
        raise ValueError(
            f"{shown(value)} may be {first} h {second} min or {first} min {second} s: write {first}h{second}m or "
            f"{first}m{second}s"
        )
    number = _read_time(value) if isinstance(value, str) else value
    if not 0 < number <= LONGEST_S:
        raise ValueError(
            "must be a number of seconds above 0 (ten years at most), text like 90m, 1h30m or 2d, or h:mm:ss like "
            f"2:30:00, got {shown(value)}"
        )
    return number


def _read_time(text: str) -> float:
    if clock := _CLOCK.fullmatch(text):
        return int(clock[1]) * 3600.0 + int(clock[2]) * 60.0 + int(clock[3])
    if parts := _TEXT.fullmatch(text):
        return sum(float(part) * unit for part, unit in zip(parts.groups(), _UNITS.values(), strict=True) if part)
    return float(text) if re.fullmatch(rf"\s*{_NUMBER}\s*", text) else 0.0


class SearchSettings(ComponentSettings):
    """How configurations are proposed."""

    algorithm: Literal["tpe", "gp", "random", "qmc", "grid", "none"] = Field(
        default="tpe",
        description="tpe and gp (a Gaussian process) learn from what has ended; qmc: a scrambled Halton sequence;"
        " grid runs all listed values; none: no search, as when the section is left out",
    )
    trials: PositiveInt | None = Field(
        default=None, le=MOST_TRIALS, description="configurations over all arms; grid: null for all"
    )
    fair: Literal["per_arm", "pooled"] = Field(
        default="per_arm",
        description="per_arm: equal trials, a searcher and a bracket for each; pooled: one search",
    )
    seed: int = Field(default=0, description="of the proposals")
    trial_seed: int = Field(default=0, description="of each search trial's training; probe seeds differ")
    seeds: list[int] | None = Field(
        default=None,
        min_length=1,
        description="trains configurations with each of these seeds instead of trial_seed; with early stopping, tpe"
        " or gp the first goes ahead, and a configuration that ends gets the others, never pruned",
    )
    objectives: list[str] = Field(
        default=[ACCURACY.name],
        description="accuracy (the metric of the study's task) alone, or with the student's multiply-adds (macs) and/or"
        " the training time (time; no early stopping)",
    )
    time_budget: float | str | None = Field(
        default=None,
        description="seconds, or text like 90m, 1h30m or 2:30:00: once spent, no further configuration starts",
    )

    enqueue: list[dict[str, Any]] = Field(
        default=[],
        description="known points, tried first in every arm that they fit: values of searched settings by key path, or"
        " the sections of an exported configuration; what a point leaves open is at the arm's centre",
    )

    @field_validator("time_budget")
    @classmethod
    def _is_a_time(cls, value: float | str | None) -> float | str | None:
        if value is not None:
            seconds(value)
        return value

    @model_validator(mode="after")
    def _lists_make_sense(self) -> SearchSettings:
        if self.seeds is not None and len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must differ, got {self.seeds}")
        if len(set(self.objectives)) < len(self.objectives):
            raise ValueError(f"objectives must hold each at most once, got {self.objectives}")
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without points where there are none: a setting that earlier versions did not have changes no lock."""
        values: dict[str, Any] = handler(self)
        return {key: value for key, value in values.items() if value or key != "enqueue"}

    @property
    def searches(self) -> bool:
        """Whether there is a search at all."""
        return self.algorithm != "none"

    @property
    def metric(self) -> str:
        """The objective that is the study's metric: what is not a cost, the larger the better."""
        return next((name for name in self.objectives if name not in COSTS), ACCURACY.name)

    @property
    def learns(self) -> bool:
        """Whether proposals are made as results come in; otherwise all are planned at the start."""
        return self.algorithm in ("tpe", "gp")

    @property
    def budget_s(self) -> float | None:
        """`time_budget` as a number of seconds; None without one."""
        return None if self.time_budget is None else seconds(self.time_budget)

    @property
    def training_seeds(self) -> list[int]:
        """The seeds with which each configuration of the search is trained."""
        return [self.trial_seed] if self.seeds is None else self.seeds


class SchedulerSettings(ComponentSettings):
    """Early stopping of search trials."""

    name: Literal["asha", "median", "racing", "none"] = Field(
        default="asha",
        description="asha: at rungs; median: below the others' median; racing: configurations over search.seeds;"
        " none: every trial runs to its last epoch",
    )
    grace_period: PositiveInt = Field(
        default=1, description="asha: student epochs before the first rung; median: before any stop; give it with both"
    )
    reduction_factor: float = Field(default=4.0, gt=1, description="asha: one in this many passes a rung")
    pilot: NonNegativeInt = Field(
        default=0, description="asha: so many first trials of each arm are not pruned, and show how rungs rank"
    )
    pilot_threshold: float = Field(
        default=0.5, ge=-1, le=1, description="asha: warns when a rung's rank correlation in the pilot is below this"
    )
    min_trials: PositiveInt = Field(default=3, description="median: of other trials, before a stop")
    min_seeds: int = Field(default=6, ge=2, description="racing: seeds of every configuration before the first test")
    alpha: float = Field(default=0.05, gt=0, lt=1, description="racing: level of the tests of one round together")

    @model_validator(mode="after")
    def _grace_is_given(self) -> SchedulerSettings:
        if "grace_period" in self.used and "grace_period" not in self.model_fields_set:
            first = "the epoch of the first rung" if self.name == "asha" else "the epoch before which nothing stops"
            raise ValueError(f"grace_period is needed: {first}, best after the first milestone")
        return self

    @property
    def used(self) -> tuple[str, ...]:
        """The keys that mean something for this scheduler."""
        return _USED[self.name]

    def resolved(self) -> dict[str, Any]:
        """What matters with defaults filled in; a pilot only where there is one, which earlier versions had not."""
        shown = [key for key in self.used if self.pilot or not key.startswith("pilot")]
        return {"name": self.name, **{key: getattr(self, key) for key in shown}}

    def rungs(self, epochs: int) -> list[int]:
        """The epochs at which ASHA compares trials; the last epoch is none of them."""
        if self.name != "asha" or self.grace_period >= epochs:
            return []
        count = math.floor(math.log(epochs / self.grace_period) / math.log(self.reduction_factor)) + 2
        steps = (math.ceil(self.grace_period * self.reduction_factor**k) for k in range(count))
        return sorted({step for step in steps if step < epochs})


_USED: dict[str, tuple[str, ...]] = {
    "asha": ("grace_period", "reduction_factor", "pilot", "pilot_threshold"),
    "median": ("grace_period", "min_trials"),
    "racing": ("min_seeds", "alpha"),
    "none": (),
}


def _flat(nested: dict[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in nested.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


class ProbeSettings(ComponentSettings):
    """Unpruned trials spread evenly over the settings of the views, for the diversity-accuracy fit."""

    trials: PositiveInt = Field(le=MOST_TRIALS, description="trials over all arms whose views have something to vary")
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


class ConfirmSettings(ComponentSettings):
    """The best configurations of the search, trained again with fresh seeds, the test set read once."""

    top: PositiveInt = Field(
        default=1, le=MOST_TRIALS, description="configurations of each arm, by validation accuracy in the search"
    )
    seeds: list[int] = Field(min_length=1, description="training seeds; none of them may be a seed of the search")
    baselines: list[str] = Field(
        default=[], description="trained beside them: names of methods, views or controls, with their defaults"
    )

    @model_validator(mode="after")
    def _nothing_stands_twice(self) -> ConfirmSettings:
        for name in ("seeds", "baselines"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name} must differ, got {values}")
        return self


class AutoSeeds(ComponentSettings):
    """A pilot that says how many seeds a difference needs."""

    pilot: int = Field(
        default=5, ge=3, le=MOST_SEEDS, description="seeds of the pilot, judged on validation images, not reported"
    )
    resolve: PositiveFloat = Field(default=0.3, description="points of accuracy that are to be resolved")
    power: float = Field(default=0.8, gt=0, lt=1, description="probability with which they are")
    at_most: int = Field(
        default=20, ge=2, le=MOST_SEEDS, description="more seeds than this are not taken, and the report says so"
    )
    take: bool = Field(default=True, description="false: the study ends with the proposal")
    first: int = Field(
        default=100, ge=0, le=2**60, description="report seeds are first, first + 1, ...; the pilot's follow them"
    )

    @property
    def pilot_seeds(self) -> list[int]:
        """The pilot's seeds, none of which is a report seed."""
        return [self.first + self.at_most + number for number in range(self.pilot)]


class AblationSettings(ComponentSettings):
    """Cells that differ on purpose, each with all seeds, never pruned, the test set read once at the end."""

    design: Literal["full_factorial", "fractional_factorial", "leave_one_out", "add_one_in", "path", "arms"] = Field(
        description="which combinations of the factors are trained"
    )
    base: Literal["study", "winner"] = Field(
        default="study", description="what the factors change: the study's configuration, or the search's best one"
    )
    factors: dict[str, list[Any]] = Field(
        default={}, description="key path: its values, the base's own first; values may be mappings"
    )
    resolution: int | None = Field(default=None, ge=3, le=5, description="fractional_factorial: III, IV or V")
    arms: dict[str, dict[str, Any]] = Field(
        default={}, description="design arms: name: the key paths that it changes, with their values"
    )
    controls: list[str] = Field(default=[], description="arms that isolate a confound, made from the base")
    reference: str | None = Field(
        default=None, description="the cell that all others are compared with; null: the base"
    )
    seeds: list[int] | Literal["auto"] | AutoSeeds = Field(
        description="training seeds, the same for every cell; auto: a pilot says how many"
    )
    metric: str = Field(default="test_accuracy", description="what is compared, a column of trials.parquet")
    equivalence_margin: PositiveFloat = Field(
        default=0.3, description="points within which two cells count as equivalent"
    )
    alpha: float = Field(default=0.05, gt=0, lt=1, description="family-wise error of the comparisons")
    families: list[list[str]] | None = Field(
        default=None, description="cells that are judged together; null: all of them against the reference"
    )

    @field_validator("factors", mode="before")
    @classmethod
    def _key_paths(cls, value: Any) -> Any:
        """Nested mappings are key paths written another way, as `ablation.factors.views.inter=...` makes them."""
        return dict(_flat(value)) if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _fits_the_design(self) -> AblationSettings:
        if long := [name for name in self.arms if len(name.encode()) > LONGEST_ARM]:
            raise ValueError(f"arms have names of at most {LONGEST_ARM} bytes, got {shown(long[0])}")
        if self.design == "arms" and not self.arms:
            raise ValueError("arms is needed by design arms: a name for each configuration and what it changes")
        if self.design != "arms" and not self.factors:
            raise ValueError(f"factors is needed by design {self.design}: key paths and their values")
        if self.design != "arms" and self.arms:
            raise ValueError(f"arms goes with design arms, not with {self.design}")
        if self.design == "arms" and self.factors:
            raise ValueError("factors goes with the other designs, not with arms")
        if self.resolution is not None and self.design != "fractional_factorial":
            raise ValueError(f"resolution goes with design fractional_factorial, not with {self.design}")
        for path, values in self.factors.items():
            if len(values) < 2:
                raise ValueError(f"factors.{path} needs two values or more, got {values}")
            if any(value in values[:place] for place, value in enumerate(values)):
                raise ValueError(f"factors.{path} holds a value twice: {values}")
        for name in ("controls", "seeds"):
            values = getattr(self, name)
            if isinstance(values, list) and len(set(values)) < len(values):
                raise ValueError(f"{name} must differ, got {values}")
        if isinstance(self.seeds, list) and not self.seeds:
            raise ValueError("seeds needs one seed or more")
        return self

    @property
    def auto_seeds(self) -> AutoSeeds | None:
        """How a pilot decides on the seeds; None where they are given."""
        if isinstance(self.seeds, list):
            return None
        return AutoSeeds() if self.seeds == "auto" else self.seeds

    def possible_seeds(self) -> list[int]:
        """Every seed that a cell may be trained and reported with."""
        auto = self.auto_seeds
        if auto is None:
            assert isinstance(self.seeds, list)
            return self.seeds
        return list(range(auto.first, auto.first + auto.at_most))


class ResourcesSettings(ComponentSettings):
    """What one trial takes."""

    cpu: PositiveFloat = Field(default=1.0, le=10_000, description="CPUs of a trial; one thread each")
    gpu: NonNegativeFloat = Field(default=0.0, le=10_000, description="GPUs of a trial; 0.25 lets four share one")
    concurrent: PositiveInt | None = Field(
        default=None, le=MOST_TRIALS, description="trials at a time; null: as many as fit"
    )


STUDY_LEVEL: dict[str, type[ComponentSettings]] = {
    "search": SearchSettings,
    "scheduler": SchedulerSettings,
    "probe": ProbeSettings,
    "confirm": ConfirmSettings,
    "ablation": AblationSettings,
    "report": ReportSettings,
    "resources": ResourcesSettings,
    "tracking": TrackingSettings,
    "record": RecordSettings,
    "teacher_cache": CacheSettings,
}
TRIAL_LEVEL = ("student", "views", "method", "selection", "training")
"""What a trial is made of; a selection only where there is one, so that trials of earlier versions are as they were."""

SECTIONS = ("study", BASE, "task", "data", "teacher", *TRIAL_LEVEL, *STUDY_LEVEL, "plugins")

"""A study's settings: YAML in, typed and checked, every problem at once; and out again."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from akdtune.designs.cells import CellPlan, plan_cells
from akdtune.errors import SettingsError, StudyError
from akdtune.metric import ACCURACY, Metric
from akdtune.settings import overrides as overriding
from akdtune.settings.data import AnyDataSettings
from akdtune.settings.file import SettingsFile
from akdtune.settings.record import RecordSettings
from akdtune.settings.sections import (
    STUDY_LEVEL,
    TRIAL_LEVEL,
    AblationSettings,
    ConfirmSettings,
    ProbeSettings,
    ReportSettings,
    ResourcesSettings,
    SchedulerSettings,
    SearchSettings,
)
from akdtune.settings.space import Arm, Pooled, Space, assert_plain
from akdtune.settings.task import DEFAULT_TASK, named_task
from akdtune.settings.teacher import CacheSettings, Compute, TeacherSettings, teacher_compute
from akdtune.settings.tracking import TrackingSettings
from akdtune.settings.trial import pair_of
from akdtune.study import check, record_rules, taking_over
from akdtune.study.written import with_defaults


@dataclass(frozen=True)
class Study:
    """A checked study.

    Attributes:
        name: of the study and its directory.
        source: the settings file as the user named it.
        values: the settings as written, overrides applied, shorthands spelled out; domains are mappings.
        overrides: as given on the command line.
        arms: one choice of every component each, in the order of the file.
        pooled: all arms as one space.
        epochs: student epochs of every trial.
        probe: None when no probes are asked for.
        confirm: None where the search's best configurations are not trained again.
        ablation: None without a design.
        teacher_cache: None where teachers run live.
        warnings: sentences to show, one each, about settings that are odd or ignored.
        taken_over: the files that the settings file takes over (`base`), the nearest first.
        task: what it trains for: a registered name and its settings.
        metric: what its trials are judged by.
    """

    name: str
    source: str
    values: dict[str, Any]
    overrides: tuple[str, ...]
    arms: tuple[Arm, ...]
    pooled: Pooled
    epochs: int
    data: AnyDataSettings
    teacher: TeacherSettings
    search: SearchSettings
    scheduler: SchedulerSettings
    probe: ProbeSettings | None
    confirm: ConfirmSettings | None
    ablation: AblationSettings | None
    report: ReportSettings
    resources: ResourcesSettings
    tracking: TrackingSettings
    record: RecordSettings
    teacher_cache: CacheSettings | None
    plugins: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    taken_over: tuple[str, ...] = ()
    task: Mapping[str, Any] = field(default_factory=lambda: {"name": DEFAULT_TASK})
    metric: Metric = ACCURACY

    @property
    def spaces(self) -> tuple[Space, ...]:
        """What is searched separately: the arms, or all of them pooled."""
        return (self.pooled,) if self.search.fair == "pooled" else self.arms

    def begun_as(self, lock: Mapping[str, Any]) -> Study:
        """The study with the names of arms that its directory holds.

        Args:
            lock: content of `study.lock.yaml`; one from before arms were named by their settings has no names.
        """
        names = lock.get("arms") or [arm.drawn_as for arm in self.arms]
        if len(names) != len(self.arms):
            raise StudyError(
                f"study.lock.yaml: damaged, arms has {len(names)} names, and the settings make {len(self.arms)} arms; "
                "restore it from a copy"
            )
        arms = tuple(arm.named(name) for arm, name in zip(self.arms, names, strict=True))
        return replace(self, arms=arms, pooled=self.pooled.of(arms))

    @property
    def constants(self) -> dict[str, Any]:
        """The sections that all trials share, `data`, `teacher` and a task that is not images, as plain JSON."""
        constants = {"data": self.data.model_dump(mode="json"), "teacher": self.teacher.model_dump(mode="json")}
        return {**named_task({"task": self.task}), **constants}

    @property
    def reports(self) -> bool:
        """Whether there are trials that read the test set."""
        return self.confirm is not None or self.ablation is not None

    @functools.cached_property
    def configurations(self) -> list[dict[str, Any]]:
        """Settings that together hold every option and end of what is searched, and every cell that is known."""
        known = [] if self.cell_plan is None else [cell.settings for cell in self.cell_plan.cells]
        searching = self.search.searches or self.probe is not None or not known
        corners = [proposal.settings for arm in self.arms for proposal in arm.corners()] if searching else []
        return corners + known

    @functools.cached_property
    def teachers_compute(self) -> list[Compute]:
        """Each precision in which trials that are known have their frozen teachers computed, the first one's first."""
        return list(dict.fromkeys(teacher_compute(self.teacher_cache, of["training"]) for of in self.configurations))

    @functools.cached_property
    def cell_plan(self) -> CellPlan | None:
        """The ablation's cells; None without one, and where its base is the winner of a search still to come."""
        if self.ablation is None or self.ablation.base == "winner":
            return None
        return plan_cells(self.ablation, self.arms[0].centre().written, self.constants)

    @functools.cached_property
    def possible_cells(self) -> list[CellPlan]:
        """The ablation's cells; where a search decides on their base, those of each arm at its centre."""
        if self.ablation is None:
            return []
        if self.cell_plan is not None:
            return [self.cell_plan]
        return [plan_cells(self.ablation, arm.centre().written, self.constants) for arm in self.arms]

    @functools.cached_property
    def rungs(self) -> list[int]:
        """Epochs at which search trials are compared."""
        return self.scheduler.rungs(self.epochs)

    def resolved(self) -> dict[str, Any]:
        """Everything with defaults filled in, as plain JSON that `load` accepts again.

        What differs between the options of a searched setting, or between searched students, is left open: presets and
        published values then follow from what a trial draws.
        """
        values: dict[str, Any] = {
            "study": self.name,
            "plugins": list(self.plugins),
            **named_task({"task": self.task}),
            "data": self.data.model_dump(mode="json"),
            "teacher": self.teacher.model_dump(mode="json"),
        }
        pairs = {pair_of(values, arm.centre().settings["student"]) for arm in self.arms}
        for section in (section for section in TRIAL_LEVEL if section in self.values):
            values[section] = with_defaults(self.values[section], section, pairs)
        for section in STUDY_LEVEL:
            settings = getattr(self, section)
            values[section] = None if settings is None else settings.model_dump(mode="json")
        if not values["record"]:
            del values["record"]  # as by default, which earlier versions wrote nothing of
        values["scheduler"] = self.scheduler.resolved()
        cache = values["teacher_cache"]
        if cache is not None and cache["compute"] is None and _float32_alone(values):
            del cache["compute"]  # which is what earlier versions wrote, and means the same
        assert_plain(values)
        return values


def _float32_alone(values: Mapping[str, Any]) -> bool:
    """Whether no trial of a study can be one in another precision, whatever follows from its search."""
    return "bf16" not in json.dumps([values["training"], values["ablation"]])


def load(
    source: str | Path, overrides: Iterable[str] = (), change: Callable[[SettingsFile], None] | None = None
) -> Study:
    """Reads a study from a YAML file or from a packaged name.

    Args:
        source: path of a file, or a name out of `packaged()`.
        overrides: `key.path=value` texts that win over the file.
        change: what is done to the values after that, before they are checked.

    Raises:
        SettingsError: with every problem of the file and the overrides.
    """
    overrides = tuple(overrides)
    file = taking_over.read_file(str(source))
    overriding.apply(file, overrides)
    if change is not None:
        change(file)
    taken_over = tuple(name for _, name in file.bases)
    parts = check.Reading(file).study(str(source))
    study = Study(source=str(source), overrides=overrides, taken_over=taken_over, **parts)
    return study if study.record == RecordSettings() else _with_what_is_recorded(study, file)


def _with_what_is_recorded(study: Study, file: SettingsFile) -> Study:
    """The study with warnings about what it asks to keep and some of its trials have not.

    Raises:
        SettingsError: for what its networks cannot give.
    """
    record, configurations = study.record, study.configurations
    if found := list(record_rules.problems(record, study.teacher, configurations, study.task["name"])):
        raise SettingsError([file.problem(*issue) for issue in found])
    more = (str(file.problem(*issue)) for issue in record_rules.oddities(record, configurations))
    return replace(study, warnings=(*study.warnings, *more))


def plain_values(source: str | None) -> dict[str, Any]:
    """What stands in a file, unchecked, to tell what was meant by something else; empty where it cannot be read."""
    if source is None:
        return {}
    try:
        return taking_over.read_file(source).values
    except SettingsError:
        return {}

"""What a study would do and cost, as one value: `akdtune plan` puts it into words, a notebook reads it."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from typing_extensions import Self

from akdtune.devices import one_thread
from akdtune.planning.checkpoint_files import check_checkpoints, missing_students
from akdtune.planning.cost import (
    CPU,
    ArmCost,
    Bench,
    CacheUse,
    Machine,
    UntrainedTeacher,
    cache_use,
    maps_needed_by,
    missing,
    missing_checkpoints,
    surviving_share,
    untrained_teachers,
)
from akdtune.planning.equal_cells import MeasuredPlan
from akdtune.planning.identity import Identity, initial_rows
from akdtune.planning.kept import KeptBytes, KeptSize, kept_size
from akdtune.planning.prepared import Prepared, network_label
from akdtune.planning.timing import TIMING_S, Timing
from akdtune.roles import TrainOn
from akdtune.settings.space import Dimension
from akdtune.study.proposals import Outline
from akdtune.study.spec import Study
from akdtune.teacher.file import TeacherFile
from akdtune.teacher.rows import live_reason


@dataclass(frozen=True)
class PlannedArm:
    """What is searched of one arm.

    Attributes:
        name: `views/method[/network]`.
        dimensions: the searched settings.
        grid_size: configurations of its grid; None where a range has no countable values.
        configurations: how many the search trains; None where all arms are searched as one.
        trials: of these, with every seed.
    """

    name: str
    dimensions: tuple[Dimension, ...]
    grid_size: int | None
    configurations: int | None
    trials: int | None


@dataclass(frozen=True)
class Images:
    """How many images a study's first trials train and are judged on."""

    training: int
    validation: int
    test: int


@dataclass(frozen=True)
class Configuration:
    """One configuration that stands for an arm, or for cells that cost something else.

    Attributes:
        settings: all of a trial.
        facts: what follows from data, networks and methods, see `Prepared.facts`.
        live: why its teacher runs live; None where it is cached, or where there is none.
        cost: None where nothing was timed.
    """

    settings: Mapping[str, Any]
    facts: Mapping[str, Any]
    live: str | None
    cost: ArmCost | None


@dataclass(frozen=True)
class Total:
    """What all trials of a study cost on this machine, at most.

    Attributes:
        slots: trials that run at once.
        longest_s: seconds where every trial runs to its end.
        likely_s: where early stopping ends as many as its rungs intend to.
        checkpoints_mib: space of the saved states.
        kept: space of what `record` keeps; None where that is not known.
    """

    slots: int
    longest_s: float
    likely_s: float
    checkpoints_mib: float
    kept: KeptSize | None = None


@dataclass(frozen=True)
class StudyEstimate:
    """What is known of a study once its files are there.

    Attributes:
        bench: its data and its teachers' networks, which timing shares.
        images: of its first trials.
        teachers: by what they are trained on; None where one is not trained yet. Empty where a named file is missing.
        untrained: the teachers that a run trains first, by key path, in order.
        gradient_factors: by what the views of each cell multiply the gradient of each loss term; None before the
            teacher of the ablation is trained.
        configurations: those that stand for all trials, by name of the arm, or of arm and network.
        cache: None where no teacher is cached on what any student sees.
        total: None where nothing was timed.
    """

    bench: Bench
    images: Images
    teachers: Mapping[TrainOn, TeacherFile | None]
    untrained: Mapping[str, UntrainedTeacher]
    gradient_factors: Mapping[str, Mapping[str, float]] | None
    configurations: Mapping[str, Configuration]
    cache: CacheUse | None
    total: Total | None

    @property
    def prepared(self) -> Prepared:
        """The study and its data."""
        return self.bench.prepared

    @property
    def teacher(self) -> TeacherFile | None:
        """The teacher of the study's first trials."""
        return self.teachers.get(self.prepared.train_on)

    @functools.cached_property
    def identity(self) -> Identity | None:
        """Gives trials their ids; None before every teacher is trained."""
        trained = [file for file in self.teachers.values() if file is not None]
        complete = trained and len(trained) == len(self.teachers)
        return Identity(self.prepared.study, self.prepared, *trained) if complete else None


@dataclass(frozen=True)
class Plan:
    """What a study would do and cost.

    Attributes:
        outline: the study, its trials by role, the cells of its ablation.
        arms: what is searched of each.
        missing_data: files that are not there yet.
        missing_checkpoints: of teachers that are named and not there, by key path.
        missing_students: checkpoints that students are to begin with and that are not there.
        lacking: what a trial asks for that this machine does not have, a sentence each.
        estimate: None while data or a student's checkpoint is missing, and before the data is read.
        slots: trials that this machine runs at once.
    """

    outline: Outline
    arms: tuple[PlannedArm, ...]
    missing_data: tuple[str, ...]
    missing_checkpoints: Mapping[str, str]
    missing_students: tuple[str, ...]
    lacking: tuple[str, ...]
    estimate: StudyEstimate | None
    slots: int = 1

    @classmethod
    def of(cls, study: Study, timed: bool = True) -> Self:
        """Plans a study; nothing is trained, downloaded or written but what the first look at a teacher leaves.

        Args:
            study: the checked settings.
            timed: whether a few real steps are run for times and sizes, for half a minute at most.

        Raises:
            AkdtuneError: for data or components that do not fit.
        """
        plan = cls.outlined(study).with_data()
        timing = plan.timing() if timed else None
        if timing is None:
            return plan
        timing.run()
        return plan.with_times(timing)

    @classmethod
    def outlined(cls, study: Study) -> Self:
        """What is known before any data is read: trials, arms, what is missing here."""
        outline, machine = Outline(study), Machine.here(study.resources)
        return cls(
            outline=outline,
            arms=_arms(outline),
            missing_data=tuple(missing(study)),
            missing_checkpoints=missing_checkpoints(study),
            missing_students=tuple(missing_students(study)),
            lacking=tuple(machine.lacking(study.resources)),
            estimate=None,
            slots=machine.slots(study.resources),
        )

    def with_data(self) -> Self:
        """The plan with what the data and the teachers say; the same where files are missing.

        Raises:
            AkdtuneError: for files, data or components that do not fit.
        """
        check_checkpoints(self.study, missing=False)
        if self.missing_data or self.missing_students:
            return self
        with one_thread():
            outline, estimate = _estimate(self.outline, with_teacher=not self.missing_checkpoints)
        return replace(self, outline=outline, estimate=estimate)

    def timing(self, within_s: float = TIMING_S) -> Timing | None:
        """What times a few steps of this plan; None without data.

        Args:
            within_s: the longest that it takes.
        """
        known = self.estimate
        if known is None:
            return None
        settings = {name: configuration.settings for name, configuration in known.configurations.items()}
        return Timing(known.bench, settings, known.untrained, within_s)

    def with_times(self, timing: Timing) -> Self:
        """The plan with what was timed so far; what was not is estimated from that."""
        known, costs = self.estimate, timing.costs
        assert known is not None
        configurations = {
            name: replace(configuration, cost=costs.get(name)) for name, configuration in known.configurations.items()
        }
        total = self.total(list(costs.values())) if costs else None
        return replace(
            self, estimate=replace(known, configurations=configurations, untrained=timing.teachers, total=total)
        )

    def total(self, costs: Sequence[ArmCost]) -> Total:
        """Of all trials, each at the mean cost of the configurations."""
        study, outline, trials = self.study, self.outline, self.outline.trials
        mean_s = sum(cost.trial_s for cost in costs) / len(costs)
        slots = min(study.resources.concurrent or self.slots, trials)
        search_s = mean_s * outline.search_trials / slots
        rest_s = mean_s * (trials - outline.search_trials) / slots
        return Total(
            slots=slots,
            longest_s=search_s + rest_s,
            likely_s=search_s * surviving_share(study) + rest_s,
            checkpoints_mib=trials * max(cost.checkpoint_mib for cost in costs),
            kept=self._kept([cost.kept for cost in costs if cost.kept is not None]),
        )

    def _kept(self, of_arms: Sequence[KeptBytes]) -> KeptSize | None:
        if not of_arms or self.estimate is None:
            return None
        outline, images = self.outline, self.estimate.images
        selecting = outline.search_trials + outline.probe_trials
        splits = ((selecting, images.validation), (outline.trials - selecting, images.test))
        return kept_size(of_arms, self.study.record, splits, len(self.estimate.prepared.seen))

    @property
    def study(self) -> Study:
        """The checked settings."""
        return self.outline.study

    @property
    def trials(self) -> dict[str, int]:
        """How many trials there are of each role, at most."""
        outline = self.outline
        return {
            "search": outline.search_trials,
            "probe": outline.probe_trials,
            "confirm": outline.confirm_trials,
            "ablation": outline.ablation_trials,
        }

    @functools.cached_property
    def rows(self) -> list[dict[str, Any]] | None:
        """Rows of plan.parquet that a run begins with, their trials' ids among them; None before they have any."""
        identity = None if self.estimate is None else self.estimate.identity
        return None if identity is None else initial_rows(self.outline, identity)


def _arms(outline: Outline) -> tuple[PlannedArm, ...]:
    seeds = len(outline.study.search.training_seeds)
    planned = []
    for arm in outline.study.arms:
        count = outline.quotas.get(arm.name)
        trials = None if count is None else count * seeds
        planned.append(PlannedArm(arm.name, arm.dimensions, arm.grid_size(), count, trials))
    return tuple(planned)


def _estimate(outline: Outline, with_teacher: bool) -> tuple[Outline, StudyEstimate]:
    """Data, and teachers; of teachers whose files are missing with untrained ones' networks.

    The outline is the same with the ablation's cells measured, where their teacher is trained.
    """
    study, prepared = outline.study, Prepared.load(outline.study, checked=True)
    splits = prepared.split(prepared.train_on)
    files: dict[TrainOn, TeacherFile | None] = {}
    if with_teacher:
        files = {train_on: prepared.find_teacher(train_on) for train_on in prepared.trains_on}
    bench = Bench(prepared, files.get(prepared.train_on))
    cached = study.teacher_cache is not None and any(live_reason(seen) is None for seen in prepared.seen)
    cached = cached and not study.teacher.absent
    measured = _measured(bench, files)
    if measured is not None:
        outline = replace(outline, measured=measured.plan)
    return outline, StudyEstimate(
        bench=bench,
        images=Images(len(splits.train), len(splits.validation) if splits.validation else 0, len(splits.test)),
        teachers=files,
        untrained=untrained_teachers(prepared) if None in files.values() else {},
        gradient_factors=measured.factors if measured is not None else None if _awaited(outline, files) else {},
        configurations={
            name: Configuration(
                settings=settings,
                facts=prepared.facts(settings),
                live=_live(prepared, settings),
                cost=None,
            )
            for name, settings in _representative(outline).items()
        },
        cache=cache_use(bench) if cached else None,
        total=None,
    )


def _measured(bench: Bench, files: Mapping[TrainOn, TeacherFile | None]) -> MeasuredPlan | None:
    """The ablation's cells with what their teacher says of them; None where one of both is not there."""
    prepared = bench.prepared
    plan, file = prepared.study.cell_plan, files.get(prepared.study.report.train_on)
    if plan is None or file is None or prepared.study.teacher.absent:
        return None
    teachers = bench.teacher_networks(CPU) if file is bench.teacher else ()
    return Identity(prepared.study, prepared, file).measured(plan, teachers)


def _awaited(outline: Outline, files: Mapping[TrainOn, TeacherFile | None]) -> bool:
    """Whether cells are known whose teacher has to be trained first."""
    study = outline.study
    return study.cell_plan is not None and not study.teacher.absent and study.report.train_on in files


def _representative(outline: Outline) -> dict[str, Mapping[str, Any]]:
    """One configuration of every arm that is searched, and of every kind of cell that costs something else."""
    study, plan = outline.study, outline.cell_plan
    searching = study.search.searches or outline.probe_trials or plan is None
    settings: dict[str, Mapping[str, Any]] = {arm.name: arm.random(0).settings for arm in study.arms if searching}
    if plan is None:
        return settings
    of_base = plan.base.settings["student"]["network"]
    for cell in plan.cells:
        network = cell.settings["student"]["network"]
        settings.setdefault(cell.arm if network == of_base else f"{cell.arm}/{network_label(network)}", cell.settings)
    return settings


def _live(prepared: Prepared, settings: Mapping[str, Any]) -> str | None:
    """Why the teachers of a configuration run live, the main one at least; None where all are cached."""
    study = prepared.study
    if study.teacher.absent:
        return None
    if study.teacher_cache is None:
        return "teacher_cache is null"
    if reason := live_reason(prepared.seen_by(settings)):
        return reason
    needy = maps_needed_by(settings)
    if not needy:
        return None
    besides = "; further teachers are cached" if study.teacher.others else ""
    return f"{' and '.join(needy)} need{'s' * (len(needy) == 1)} its maps{besides}"

"""Checks a whole settings file: every section, every option and end of the search space, and what must fit together."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from typing_extensions import override

from akdtune.designs.cells import CellProblems, baseline_cells, plan_cells
from akdtune.errors import AkdtuneError, SettingsError, unknown_name
from akdtune.registry import NO_NETWORK, load_plugins, names
from akdtune.settings import domains
from akdtune.settings.data import data_model
from akdtune.settings.domains import Issue
from akdtune.settings.file import COMPONENTS, DOMAINS, KeyPath, choice_key, related, shown
from akdtune.settings.hints import right_form
from akdtune.settings.messages import typed
from akdtune.settings.sections import (
    MOST_TRIALS,
    SECTIONS,
    STUDY_LEVEL,
    TRIAL_LEVEL,
    AblationSettings,
    ProbeSettings,
    ReportSettings,
    SchedulerSettings,
    SearchSettings,
)
from akdtune.settings.space import Arm, Pooled
from akdtune.settings.task import named_task
from akdtune.settings.teacher import TeacherSettings
from akdtune.settings.tracking import TrackingSettings, lacking, tracking_model
from akdtune.settings.training import Recipe, TrainingSettings
from akdtune.settings.trial import selection_of
from akdtune.study import enqueued, search_rules, selection_rules, task_rules
from akdtune.study.paths import make_paths_absolute
from akdtune.study.plugins import folders_of, module_names
from akdtune.study.searched import NO_DOMAIN, Remarks, Searched
from akdtune.study.teacher_rules import check_networks, network_is, used_of

LONGEST_NAME = 150
"""Bytes of a study's name: with what is put behind it, it names folders, which may have 255."""


class Reading(Remarks):
    """One pass over a settings file, collecting problems until the end."""

    @override
    def problem(self, path: KeyPath, message: str) -> None:
        super().problem(path, right_form.with_hint(path, message, self.file.values))

    def study(self, source: str) -> dict[str, Any]:
        """The checked parts of the study, by attribute of `spec.Study`.

        Raises:
            SettingsError: with every problem found.
        """
        self.problems += self.file.problems
        values = self.file.values
        self._sections(values)
        plugins = self._plugins(values.get("plugins"))
        for path, message in make_paths_absolute(values):
            self.problem(path, message)
        name = self._name(values.get("study"), source)
        task, metric = task_rules.checked(self, values.get("task"))
        models = {"data": data_model(values.get("data")), **_fixed_models()}
        fixed = {section: self._fixed_section(section, model) for section, model in models.items()}
        task_rules.check_data(self, task, values.get("data"))
        task_rules.check_teacher(self, task, fixed["teacher"])
        for section in TRIAL_LEVEL:
            values[section] = _spelled_out(values.get(section), section)
        if selection_of(values) is None:
            del values["selection"]  # all rows, as for every study of before
        constants = {
            section: fixed[section].model_dump(mode="json") for section in ("data", "teacher") if fixed[section]
        }
        constants = {**named_task({"task": task}), **constants}
        searched = Searched(self, {section: values[section] for section in TRIAL_LEVEL if section in values}, constants)
        task_rules.name_the_metric(self, fixed, metric)
        self._cross_checks(fixed, searched)
        self._cache_without_teacher(fixed)
        if self.problems:
            raise SettingsError(sorted(dict.fromkeys(self.problems), key=lambda problem: problem.line or 0))
        arms, pooled = searched.arms(constants, fixed["probe"].fixed if fixed["probe"] else {})
        self._check_cells(fixed, arms, constants)
        self._check_amount(fixed, arms)
        if not self.problems:
            self._check_enqueued(fixed["search"], arms, pooled)
        if self.problems:
            raise SettingsError(sorted(dict.fromkeys(self.problems), key=lambda problem: problem.line or 0))
        self._oddities(fixed, arms)
        own: dict[str, Any] = {
            "name": name,
            "values": values,
            "plugins": plugins,
            "warnings": tuple(dict.fromkeys(self.warnings)),
        }
        own |= {"task": task, "metric": metric}
        return {**own, **fixed, "arms": arms, "pooled": pooled, "epochs": searched.epochs}

    def _sections(self, values: dict[str, Any]) -> None:
        for section in values:
            if section not in SECTIONS:
                lines = right_form.lines_meant(section, values[section], values)
                meant = f"unknown section '{section}'; did you mean {' or '.join(lines)}?"
                self.problem((section,), meant if lines else unknown_name("section", section, SECTIONS))
        for section in ("data", "teacher", "student", "method"):
            if values.get(section) is None:
                self.problem((section,), "is missing")
        if values.get("search") is None and values.get("ablation") is None:
            self.problem(("search",), "is missing (without a search, a study needs an ablation)")

    def _plugins(self, value: Any) -> tuple[str, ...]:
        try:
            modules = module_names(value)
            load_plugins(modules, folders_of(self.file))
        except AkdtuneError as error:
            self.problem(("plugins",), str(error).removeprefix("plugins: "))
            return ()
        return tuple(modules)

    def _name(self, value: Any, source: str) -> str:
        name = Path(source).stem if value is None else value
        fits = isinstance(name, str) and name[:1].isalnum() and all(c.isalnum() or c in "._-" for c in name)
        if not fits:
            quotes = (
                "; a name that is also a number, true or false stands in quotes"
                if isinstance(name, bool | int | float)
                else ""
            )
            self.problem(("study",), f"must be a name of letters, digits, '.', '_' and '-', got {shown(name)}{quotes}")
        elif len(name.encode()) > LONGEST_NAME:
            self.problem(
                ("study",),
                f"must have at most {LONGEST_NAME} bytes, as a folder is called so: {shown(name)}",
            )
        return str(name)

    def _fixed_section(self, section: str, model: type[BaseModel]) -> Any:
        """The typed settings of a section that holds no domains; None when it is absent or wrong."""
        value = self.file.values.get(section)
        if value is None and section == "search" and self.file.values.get("ablation") is not None:
            return SearchSettings(algorithm="none")
        if value is None and section in ("probe", "confirm", "ablation", "data", "teacher", "search"):
            return None
        if value is None and section == "teacher_cache" and section in self.file.values:
            return None  # null: teachers run live; without the section, the cache is used
        if value is None:
            return SchedulerSettings(name="none") if section == "scheduler" else model()
        reason = NO_DOMAIN.get(section, "it describes the whole study")
        refused = list(_domains_in(value, (section,)))
        for path in refused:
            self.problem(path, f"cannot be searched over: {reason}")
        if refused:  # go on with first options, to find what else is wrong
            value = domains.decided(domains.parse(value, [], []), domains.first, {})
        if not isinstance(value, dict):
            self.problem((section,), f"must be a mapping, got {shown(value)}")
            return None
        issues: list[Issue] = []
        if section == "data" and isinstance(value.get("name"), str) and value["name"] not in names("data"):
            issues = [(("name",), unknown_name("data set", value["name"], names("data")))]
        if section == "teacher":
            issues = check_networks(value)
        also: list[str] = []
        if section == "tracking":
            model, also = tracking_model(value)
        settings, more = typed(model, value, also)
        if isinstance(settings, TrackingSettings):
            more += [((name,), why) for name, why in lacking(settings).items()]
        # What was just said here, placed precisely, needs no second message from there or from what holds it.
        more = [(path, message) for path, message in more if not any(related(path, said) for said, _ in issues)]
        for path, message in issues + more:
            if not any((section, *path)[: len(other)] == other for other in refused):
                self.problem((section, *path), message)
        return None if issues or refused else settings

    def _cross_checks(self, fixed: Mapping[str, Any], searched: Searched) -> None:
        """What must fit together across sections."""
        search, probe, scheduler = (fixed[section] for section in ("search", "probe", "scheduler"))
        self._check_validation(fixed)
        self._check_report_seeds(fixed)
        if search is not None and search.algorithm == "grid":
            searched.refuse_uncountable()
        elif search is not None and search.searches and search.trials is None:
            self.problem(("search", "trials"), f"is missing: how many trials '{search.algorithm}' may use")
        taken = set(search.training_seeds) & set(probe.seeds) if search is not None and probe is not None else set()
        if taken:
            key = "trial_seed" if search.seeds is None else "seeds"
            self.problem(
                ("probe", "seeds"),
                f"must not hold {min(taken)}, the seed of the search's trials (search.{key}), got {probe.seeds}",
            )
        for path, message in search_rules.problems(search, scheduler, searched.epochs):
            self.problem(path, message)
        if probe is not None:
            searched.check_fixed(probe.fixed)

    def _check_validation(self, fixed: Mapping[str, Any]) -> None:
        """Whoever is judged on validation images needs some."""
        data, search, probe, ablation = (fixed[section] for section in ("data", "search", "probe", "ablation"))
        if data is None or data.validation > 0:
            return
        judged = []
        if search is not None and search.searches:
            judged.append("the search is")
        elif probe is not None:
            judged.append("probes are")
        elif ablation is not None and ablation.auto_seeds is not None:
            judged.append("the pilot of ablation.seeds is")
        elif fixed["report"] is not None and fixed["report"].train_on == "subset":
            judged.append("report.train_on is subset, and every epoch is")
        if judged:
            self.problem(("data", "validation"), f"must be above 0, got 0: {judged[0]} judged on validation images")

    def _check_report_seeds(self, fixed: Mapping[str, Any]) -> None:
        """Search seeds and report seeds are disjoint, so that nothing is reported on what it was selected with."""
        search, probe, confirm, ablation = (fixed[name] for name in ("search", "probe", "confirm", "ablation"))
        searching = search is not None and search.searches
        if confirm is not None and not searching:
            self.problem(("confirm",), "needs a search, whose best configurations it trains again")
        if ablation is not None and ablation.base == "winner" and not searching:
            self.problem(("ablation", "base"), "winner needs a search; study takes the study's own configuration")
        used = dict.fromkeys(search.training_seeds, "search") if searching else {}
        used |= dict.fromkeys(probe.seeds, "probe") if probe is not None else {}
        reported = [(("confirm", "seeds"), confirm.seeds)] if confirm is not None else []
        if ablation is not None:
            pilot = ablation.auto_seeds.pilot_seeds if ablation.auto_seeds is not None else []
            reported.append((("ablation", "seeds"), [*ablation.possible_seeds(), *pilot]))
        for path, seeds in reported:
            taken = sorted(set(seeds) & used.keys())
            if taken:
                self.problem(
                    path,
                    f"must not hold {taken[0]}, a seed of the {used[taken[0]]}: what was selected with a seed is "
                    "reported with others",
                )

    def _check_cells(self, fixed: Mapping[str, Any], arms: Sequence[Arm], constants: dict[str, Any]) -> None:
        """Builds the ablation's cells from the study's configuration, or from the centre of every arm that may win."""
        ablation: AblationSettings | None = fixed["ablation"]
        confirm = fixed["confirm"]
        if ablation is not None and ablation.base == "study":
            searched = [dimension.path for arm in arms for dimension in arm.dimensions]
            if searched or len(arms) > 1:
                what = f"{searched[0]} is searched" if searched else f"there are {len(arms)} arms"
                self.problem(
                    ("ablation", "base"),
                    f"study needs one configuration, and {what}: give every setting one value, or write winner",
                )
                return
        refused: set[Issue] = set()
        for arm in arms if ablation is not None or confirm is not None else ():
            centre = arm.centre()
            try:
                if ablation is not None:
                    plan = plan_cells(ablation, centre.written, constants)
                    for line in plan.warnings:
                        self.warn(("ablation",), line)
                    trials = len(plan.cells) * len(ablation.possible_seeds())
                    if trials > MOST_TRIALS:
                        refused.add((("ablation", "seeds"), f"make {_counted(trials)} trials ({ALLOWED})"))
                if confirm is not None:
                    baseline_cells(confirm.baselines, centre.settings, constants)
            except CellProblems as error:
                refused.update(error.issues)
        for path, message in sorted(refused, key=str):
            self.problem(path, message)

    def _check_amount(self, fixed: Mapping[str, Any], arms: Sequence[Arm]) -> None:
        """Refuses more trials than any study has, before they are listed."""
        search, confirm = fixed["search"], fixed["confirm"]
        if search.searches:
            grid = sum(arm.grid_size() or 0 for arm in arms) if search.algorithm == "grid" else 0
            trials = search.trials or grid
            if trials > MOST_TRIALS:
                first = "search.trials takes the first ones"
                self.problem(("search",), f"the grid has {_counted(trials)} configurations ({ALLOWED}); {first}")
            elif trials * len(search.training_seeds) > MOST_TRIALS:
                self.problem(("search", "seeds"), f"make {_counted(trials * len(search.training_seeds))} ({ALLOWED})")
        if confirm is not None:
            trials = (len(arms) * confirm.top + len(confirm.baselines)) * len(confirm.seeds)
            if trials > MOST_TRIALS:
                self.problem(("confirm",), f"makes {_counted(trials)} trials ({ALLOWED})")

    def _check_enqueued(self, search: SearchSettings, arms: Sequence[Arm], pooled: Pooled) -> None:
        """Refuses known points that are none of the space."""
        for path, message in enqueued.problems(search, arms, pooled):
            self.problem(path, message)
        for path, message in enqueued.passed_over(search):
            self.warn(path, message)

    def _cache_without_teacher(self, fixed: dict[str, Any]) -> None:
        if fixed["teacher"] is not None and fixed["teacher"].absent:
            fixed["teacher_cache"] = None
            if self.file.values.get("teacher_cache") is not None:
                self.warn(("teacher_cache",), f"is ignored: teacher.network is {NO_NETWORK}")

    def _oddities(self, fixed: Mapping[str, Any], arms: Sequence[Arm]) -> None:
        """Warnings about settings that are valid, but odd or ignored."""

        training = TrainingSettings(**arms[0].centre().settings["training"])
        for section, recipe in (("training", training), ("teacher", fixed["teacher"])):
            if section == "teacher" and fixed["teacher"].absent:
                continue
            late = [milestone for milestone in recipe.milestones or [] if milestone >= recipe.epochs]
            if late:
                self.warn((section, "milestones"), f"{late} have no effect: there are {recipe.epochs} epochs")
        self._odd_search(fixed["search"], arms)
        self._odd_scheduler(fixed["search"], fixed["scheduler"], training, arms)
        if fixed["probe"] is not None:
            self._odd_probe(fixed["probe"], arms)
        self._odd_teacher(self.file.values["teacher"], ("teacher",))
        odd = list(selection_rules.unread_others(fixed["teacher"], arms, self.file.values.get("ablation")))
        odd += selection_rules.chosen_alone(fixed["confirm"], arms) if fixed["ablation"] is None else []
        for path, message in odd:
            self.warn(path, message)
        if fixed["report"] != ReportSettings() and not (fixed["confirm"] or fixed["ablation"]):
            self.warn(("report",), "is ignored: without confirm and ablation, no trial reads the test set")

    def _odd_teacher(self, teacher: Mapping[str, Any], path: KeyPath) -> None:
        """Settings that a teacher does not use, be it imported or none at all; further teachers included."""
        used = used_of(teacher)
        why = "there is no teacher" if network_is(teacher, NO_NETWORK) else "the teacher comes from a checkpoint"
        for key in teacher:
            if key not in used:
                self.warn((*path, key), f"is ignored: {why}")
        for key in ("others", "distilled_from"):
            for index, further in enumerate(teacher.get(key) or ()):
                self._odd_teacher(further, (*path, key, index))

    def _odd_search(self, search: SearchSettings, arms: Sequence[Arm]) -> None:
        if not search.searches:
            return
        if search.algorithm == "grid":
            size = sum(arm.grid_size() or 0 for arm in arms)
            if search.trials is not None and search.trials != size:
                what = "the rest is left out" if search.trials < size else "there are no more"
                self.warn(
                    ("search", "trials"),
                    f"is {search.trials}, but the grid has {_counted(size)} configurations: {what}",
                )
            return
        if search.fair == "per_arm" and (search.trials or 0) % len(arms):
            self.warn(
                ("search", "trials"),
                f"{search.trials} trials over {len(arms)} arms: some arms get one more than others",
            )
        if any(dimension.kind == "grid" for arm in arms for dimension in arm.dimensions):
            self.warn(
                ("search", "algorithm"),
                f"'{search.algorithm}' draws from `grid` values as from a `choice`; 'grid' would run all of them",
            )

    def _odd_scheduler(
        self, search: SearchSettings, scheduler: SchedulerSettings, training: Recipe, arms: Sequence[Arm]
    ) -> None:
        groups = [list(arms)] if search.fair == "pooled" else [[arm] for arm in arms]
        grid = max(sum(arm.grid_size() or 0 for arm in group) for group in groups)
        largest = -(-(search.trials or grid) // len(groups)) if search.algorithm != "grid" else grid
        given = self.file.values.get("scheduler") or {}
        for path, message in search_rules.oddities(search, scheduler, given, training, arms, largest):
            self.warn(path, message)

    def _odd_probe(self, probe: ProbeSettings, arms: Sequence[Arm]) -> None:
        varied = [arm for arm in arms if arm.probed]
        if not varied:
            self.warn(("probe",), "is ignored: no setting of the views is searched, so there is nothing to probe")
            return
        if probe.trials % (len(probe.seeds) * len(varied)):
            self.warn(
                ("probe", "trials"),
                f"{probe.trials} trials do not divide evenly over arms ({len(varied)}) x seeds ({len(probe.seeds)})",
            )


def _counted(number: int) -> str:
    return f"{number:,}" if number < 10**12 else f"about 10^{math.log10(number):.0f}"


ALLOWED = f"allowed: {MOST_TRIALS:,}"


def _fixed_models() -> dict[str, type[BaseModel]]:

    return {"teacher": TeacherSettings, **STUDY_LEVEL}


def _domains_in(value: Any, path: KeyPath) -> Iterator[KeyPath]:
    if isinstance(value, dict):
        if any(key in DOMAINS for key in value):
            yield path
        for key, item in value.items():
            yield from _domains_in(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _domains_in(item, (*path, index))


def _spelled_out(value: Any, section: str) -> Any:
    """Shorthands as mappings: `views: none`, `method: kd`, `method: [kd, crd]`, also inside choices."""
    options = choice_key(value)
    if options is not None and section in COMPONENTS and isinstance(value[options], list):
        return {options: [_spelled_out(option, section) for option in value[options]]}
    if section == "method" and isinstance(value, list):
        return [_spelled_out(term, section) for term in value]
    if section == "views" and value is None:
        return {"name": "none"}
    if section == "training" and value is None:
        return {}
    return {"name": value} if section in COMPONENTS and isinstance(value, str) else value

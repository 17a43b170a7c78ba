"""Checks a whole settings file: every section, every option and end of the search space, and what must fit together."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from akdtune import domains, search_rules, space
from akdtune.cells import CellProblems, baseline_cells, plan_cells
from akdtune.domains import Choice, Found, Issue, Range
from akdtune.errors import AkdtuneError, Problem, SettingsError, unknown_name
from akdtune.registry import NO_NETWORK, load_plugins, lookup, names
from akdtune.sections import (
    SECTIONS,
    STUDY_LEVEL,
    TRIAL_LEVEL,
    AblationSettings,
    ProbeSettings,
    ReportSettings,
    SchedulerSettings,
    SearchSettings,
)
from akdtune.settings_errors import typed
from akdtune.settings_file import DOMAINS, KeyPath, SettingsFile, choice_key, shown, written
from akdtune.space import Arm, Pooled
from akdtune.trial_settings import network_settings, trial_settings

if TYPE_CHECKING:
    from akdtune.recipe import Recipe

_NO_DOMAIN: dict[str | KeyPath, str] = {
    "data": "one split serves the teacher and every comparison; make one study per data set",
    "teacher": "all trials of a study share one teacher; make one study per teacher",
    ("training", "epochs"): "rungs and probes compare trials of equal length; make one study per length",
    ("training", "precision"): "trials are compared with each other; make one study per precision",
    ("training", "tf32"): "trials are compared with each other; make one study per precision",
    ("training", "compile"): "it is how a study runs, and changes rounding only",
}


@dataclass
class Remarks:
    """What is wrong with a settings file and what is odd about it, as far as it has been read."""

    file: SettingsFile
    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def problem(self, path: KeyPath, message: str) -> None:
        """Notes what is wrong at a path of the file."""
        self.problems.append(self.file.problem(path, message))

    def warn(self, path: KeyPath, message: str) -> None:
        """Notes what is odd at a path of the file."""
        self.warnings.append(str(self.file.problem(path, message)))


class Reading(Remarks):
    """One pass over a settings file, collecting problems until the end."""

    def study(self, source: str) -> dict[str, Any]:
        """The checked parts of the study, by attribute of `spec.Study`.

        Raises:
            SettingsError: with every problem found.
        """
        self.problems += self.file.problems
        values = self.file.values
        self._sections(values)
        plugins = self._plugins(values.get("plugins"))
        _make_paths_absolute(values)
        name = self._name(values.get("study"), source)
        fixed = {section: self._fixed_section(section, model) for section, model in _fixed_models().items()}
        for section in TRIAL_LEVEL:
            values[section] = _spelled_out(values.get(section), section)
        constants = {
            section: fixed[section].model_dump(mode="json") for section in ("data", "teacher") if fixed[section]
        }
        searched = Searched(self, {section: values[section] for section in TRIAL_LEVEL}, constants)
        self._cross_checks(fixed, searched)
        self._cache_without_teacher(fixed)
        if self.problems:
            raise SettingsError(sorted(dict.fromkeys(self.problems), key=lambda problem: problem.line or 0))
        arms, pooled = searched.arms(constants, fixed["probe"].fixed if fixed["probe"] else {})
        self._check_cells(fixed, arms, constants)
        if self.problems:
            raise SettingsError(sorted(dict.fromkeys(self.problems), key=lambda problem: problem.line or 0))
        self._oddities(fixed, arms)
        own = {"name": name, "values": values, "plugins": plugins, "warnings": tuple(dict.fromkeys(self.warnings))}
        return {**own, **fixed, "arms": arms, "pooled": pooled, "epochs": searched.epochs}

    def _sections(self, values: dict[str, Any]) -> None:
        for section in values:
            if section not in SECTIONS:
                self.problem((section,), unknown_name("section", section, SECTIONS))
        for section in ("data", "teacher", "student", "method"):
            if values.get(section) is None:
                self.problem((section,), "is missing")
        if values.get("search") is None and values.get("ablation") is None:
            self.problem(("search",), "is missing (without a search, a study needs an ablation)")

    def _plugins(self, value: Any) -> tuple[str, ...]:
        modules = [] if value is None else [value] if isinstance(value, str) else value
        if not isinstance(modules, list) or not all(isinstance(module, str) for module in modules):
            self.problem(("plugins",), f"must be a list of module names, got {shown(value)}")
            return ()
        try:
            load_plugins(modules, (str(Path.cwd()), str(Path(self.file.name).expanduser().absolute().parent)))
        except AkdtuneError as error:
            self.problem(("plugins",), str(error).removeprefix("plugins: "))
        return tuple(modules)

    def _name(self, value: Any, source: str) -> str:
        name = Path(source).stem if value is None else value
        fits = isinstance(name, str) and name[:1].isalnum() and all(c.isalnum() or c in "._-" for c in name)
        if not fits:
            self.problem(("study",), f"must be a name of letters, digits, '.', '_' and '-', got {shown(name)}")
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
        reason = _NO_DOMAIN.get(section, "it describes the whole study")
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
            issues = _check_networks(value)
        settings, more = typed(model, value)
        # What was just said here, placed precisely, needs no second message from there or from what holds it.
        more = [(path, message) for path, message in more if not any(_related(path, said) for said, _ in issues)]
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
        found: set[Issue] = set()
        for arm in arms if ablation is not None or confirm is not None else ():
            centre = arm.centre()
            try:
                if ablation is not None:
                    plan = plan_cells(ablation, centre.written, constants)
                    for line in plan.warnings:
                        self.warn(("ablation",), line)
                if confirm is not None:
                    baseline_cells(confirm.baselines, centre.settings, constants)
            except CellProblems as error:
                found.update(error.issues)
        for path, message in sorted(found, key=str):
            self.problem(path, message)

    def _cache_without_teacher(self, fixed: dict[str, Any]) -> None:
        if fixed["teacher"] is not None and fixed["teacher"].absent:
            fixed["teacher_cache"] = None
            if self.file.values.get("teacher_cache") is not None:
                self.warn(("teacher_cache",), f"is ignored: teacher.network is {NO_NETWORK}")

    def _oddities(self, fixed: Mapping[str, Any], arms: Sequence[Arm]) -> None:
        """Warnings about settings that are valid, but odd or ignored."""
        from akdtune.trial_config import TrainingSettings

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
        if fixed["teacher"].others and not any(lookup("views", arm.tree["views"]["name"]).needs_others for arm in arms):
            reading = [name for name in names("views") if lookup("views", name).needs_others]
            self.warn(("teacher", "others"), f"are read by no views of this study (by: {', '.join(reading)})")
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
            for index, one in enumerate(teacher.get(key) or ()):
                self._odd_teacher(one, (*path, key, index))

    def _odd_search(self, search: SearchSettings, arms: Sequence[Arm]) -> None:
        if not search.searches:
            return
        if search.algorithm == "grid":
            size = sum(arm.grid_size() or 0 for arm in arms)
            if search.trials is not None and search.trials != size:
                what = "the rest is left out" if search.trials < size else "there are no more"
                self.warn(("search", "trials"), f"is {search.trials}, but the grid has {size} configurations: {what}")
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


class Searched:
    """The part of a study that may be searched: the tree, its arms, and what is wrong with either."""

    def __init__(self, remarks: Remarks, values: dict[str, Any], constants: dict[str, Any]) -> None:
        self.remarks = remarks
        self.constants = constants
        self.epochs = 0
        self._refused: set[str | int] = set()
        self._trained: dict[str, set[Any]] = {"epochs": set(), "precision": set(), "tf32": set(), "compile": set()}
        issues: list[Issue] = []
        notes: list[Issue] = []
        self.tree = domains.parse(values, issues, notes)
        self._broken = [path for path, _ in issues] + [(section,) for section in values if values[section] is None]
        for path, message in issues:
            remarks.problem(path, message)
        for path, message in notes:
            remarks.warn(path, message)
        for found in domains.domains(self.tree):
            if reason := _NO_DOMAIN.get(found.logical[:2]):
                remarks.problem(found.domain.path, f"cannot be searched over: {reason}")
                self._refused.add(found.logical[1])
        self.expanded = space.expand(self.tree)
        self._seen: set[Issue] = set()
        for tree, origins, _ in self.expanded:
            self._check_arm(tree, origins)

    def _check_arm(self, tree: dict[str, Any], origins: dict[KeyPath, KeyPath]) -> None:
        """Types the base configuration, then each option and each end of every domain, one at a time."""
        self._check(tree, origins, {})
        for found in domains.domains(tree):
            under = {choice.path: index for choice, index in found.under}
            ends = range(len(found.domain.options)) if isinstance(found.domain, Choice) else found.domain.ends()
            for value in ends:
                self._check(tree, origins, {**under, found.domain.path: value})
        for key, known in self._trained.items():
            if len(known) > 1 and key not in self._refused:
                several = "numbers of epochs" if key == "epochs" else f"values of {key}"
                self._add(("training",), f"has several {several}: {_NO_DOMAIN['training', key]}")
        self.epochs = max(self._trained["epochs"], default=0)

    def _check(self, tree: Any, origins: dict[KeyPath, KeyPath], forced: Mapping[KeyPath, Any]) -> None:
        """Notes what is wrong with one configuration, and how it trains."""
        places: dict[KeyPath, KeyPath] = {}

        def decide(domain: domains.Domain, _: KeyPath) -> Any:
            return forced.get(domain.path, domains.first(domain))

        values = domains.decided(tree, decide, places)
        settings, issues = trial_settings(values, self.constants)
        for logical, message in issues:
            # An unknown key is wrong whatever its value: it is shown once, not for every option.
            cut = len(logical) - message.startswith("unknown key")
            self._add((*_place(logical[:cut], places, origins), *logical[cut:]), message)
        for key, known in self._trained.items():
            if "training" in settings:
                known.add(settings["training"][key])

    def _add(self, path: KeyPath, message: str) -> None:
        if (path, message) in self._seen or any(path[: len(broken)] == broken for broken in self._broken):
            return
        self._seen.add((path, message))
        self.remarks.problem(path, message)

    def refuse_uncountable(self) -> None:
        """A grid needs values that can be listed."""
        for found in domains.domains(self.tree):
            if isinstance(found.domain, Range) and found.domain.count() is None:
                self._add(
                    found.domain.path,
                    f"'{found.domain.kind}' has no values to list: with search.algorithm grid, use `grid` or `choice`",
                )

    def check_fixed(self, fixed: Mapping[str, Any]) -> None:
        """Refuses values of `probe.fixed` for settings that are not searched, or outside their domain."""
        known: dict[str, list[Found]] = {}
        for tree, _, _ in self.expanded:
            for found in domains.domains(tree):
                known.setdefault(space.setting_path(found.logical, tree), []).append(found)
        for path, value in fixed.items():
            at: KeyPath = ("probe", "fixed", path)
            if path not in known:
                self._add(at, unknown_name("searched setting", path, known))
            elif not all(_holds(found.domain, value) for found in known[path]):
                allowed = " and ".join(dict.fromkeys(_described(found.domain) for found in known[path]))
                self._add(at, f"must be within {allowed}, got {shown(value)}")

    def arms(self, constants: dict[str, Any], fixed: Mapping[str, Any]) -> tuple[tuple[Arm, ...], Pooled]:
        """The arms with their names, and all of them pooled."""
        given: space.Names = {}
        decided = [[logical for _, logical, _ in taken] for _, _, taken in self.expanded]
        labels = [_arm_name(tree, paths) for (tree, _, _), paths in zip(self.expanded, decided, strict=True)]
        alike = {label for label in labels if labels.count(label) > 1}
        for place, (tree, _, _) in enumerate(self.expanded):
            if labels[place] in alike and "variant" in tree["views"]:
                labels[place] = _arm_name(tree, [*decided[place], ("views", "variant")])
        complete = functools.partial(_complete, constants)
        arms = tuple(
            Arm(name, tree, given, complete, fixed)
            for name, (tree, _, _) in zip(domains.unique(labels), self.expanded, strict=True)
        )
        return arms, Pooled(arms, [taken for _, _, taken in self.expanded], given)


def _place(logical: KeyPath, places: Mapping[KeyPath, KeyPath], origins: Mapping[KeyPath, KeyPath]) -> KeyPath:
    """Where in the file a path of a trial stands: by what was decided last, else by what made it an arm."""
    for length in range(len(logical), -1, -1):
        head, rest = logical[:length], logical[length:]
        if head in places and places[head] != head:
            return (*places[head], *rest)
        if head in origins:
            return (*origins[head], *rest)
    return logical


def _holds(domain: domains.Domain, value: Any) -> bool:
    if isinstance(domain, Choice):
        return domains.label(value) in domain.labels
    return domain.holds(value)


def _described(domain: domains.Domain) -> str:
    if isinstance(domain, Choice):
        return "[" + ", ".join(domain.labels) + "]"
    return f"{domain.kind} [{domain.low}, {domain.high}]"


def _arm_name(tree: Mapping[str, Any], decided: Sequence[KeyPath]) -> str:
    """`views[:variant]/method[+method][/network]`; variant and network where they distinguish arms."""
    views, terms = tree["views"], tree["method"]
    name = str(views["name"])
    if ("views", "variant") in decided:
        name += f":{views['variant']}"
    parts = [name, "+".join(str(term["name"]) for term in (terms if isinstance(terms, list) else [terms]))]
    if any(path[:2] == ("student", "network") or path == ("student",) for path in decided):
        parts.append(domains.label(tree["student"]["network"]))
    return "/".join(parts)


def _complete(constants: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """All settings of a trial; a combination that no single value forbade may still be wrong."""
    settings, issues = trial_settings(values, constants)
    if issues:
        raise SettingsError(Problem(written(path), message) for path, message in issues)
    return {**copy.deepcopy(constants), **settings}


def _fixed_models() -> dict[str, type[BaseModel]]:
    from akdtune.data import DataSettings
    from akdtune.teacher import TeacherSettings

    return {"data": DataSettings, "teacher": TeacherSettings, **STUDY_LEVEL}


def _related(path: KeyPath, other: KeyPath) -> bool:
    """Whether one of two key paths leads to the other."""
    return path[: len(other)] == other or other[: len(path)] == path


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
    if options is not None and section in ("views", "method") and isinstance(value[options], list):
        return {options: [_spelled_out(option, section) for option in value[options]]}
    if section == "method" and isinstance(value, list):
        return [_spelled_out(term, section) for term in value]
    if section == "views" and value is None:
        return {"name": "none"}
    if section == "training" and value is None:
        return {}
    return {"name": value} if section in ("views", "method") and isinstance(value, str) else value


def _check_networks(teacher: dict[str, Any], path: KeyPath = ()) -> list[Issue]:
    """Types the networks of a teacher, of further teachers, and of those it is distilled from, in place."""
    issues: list[Issue] = []
    if network_is(teacher, NO_NETWORK):
        issues = [((*path, "network"), f"{NO_NETWORK} is not a teacher")] if path else []
    elif "network" in teacher:
        teacher["network"], issues = network_settings(teacher["network"], (*path, "network"))
    if teacher.get("checkpoint") == "pretrained" and not issues and (problem := _without_weights(teacher)):
        issues = [((*path, "checkpoint"), problem)]
    if path and teacher.get("others"):
        return [*issues, ((*path, "others"), "only the study's main teacher has others")]
    for key in ("others", "distilled_from"):
        nested = teacher.get(key)
        for index, one in enumerate(nested if isinstance(nested, list) else []):
            if isinstance(one, dict):
                issues += _check_networks(one, (*path, key, index))
    return issues


def network_is(teacher: Mapping[str, Any], name: str) -> bool:
    """Whether a teacher's network, as a name or a mapping, has this name."""
    network = teacher.get("network")
    return (network.get("name") if isinstance(network, dict) else network) == name


def used_of(teacher: Mapping[str, Any]) -> list[str]:
    """The keys of a teacher's settings that say something: an imported one has no recipe, and none at all nothing."""
    if network_is(teacher, NO_NETWORK):
        return ["network"]
    if teacher.get("checkpoint", "auto") == "auto":
        return list(teacher)
    return [key for key in ("network", "checkpoint", "clean_validation", "others") if key in teacher]


def _without_weights(teacher: Mapping[str, Any]) -> str | None:
    """Why `checkpoint: pretrained` cannot work with a (typed) network; None when it can, or when there is none."""
    network = teacher.get("network", NO_NETWORK)
    if network_is(teacher, NO_NETWORK) or (isinstance(network, dict) and network.get("weights")):
        return None
    name = network["name"] if isinstance(network, dict) else network
    if "weights" in lookup("networks", name).Settings.model_fields:
        how = f"name them: network: {{name: {name}, weights: ...}}"
    else:
        having = [one for one in names("networks") if "weights" in lookup("networks", one).Settings.model_fields]
        how = f"'{name}' has none (networks that have: {', '.join(having) or 'none'})"
    return f"pretrained needs a network with weights of its own: {how}"


def _make_paths_absolute(values: dict[str, Any]) -> None:
    """Workers run elsewhere: `~` and relative paths are resolved here, against the working directory."""
    data, teacher = values.get("data"), values.get("teacher")
    if teacher == NO_NETWORK:
        values["teacher"] = {"network": NO_NETWORK}
    _make_checkpoints_absolute(teacher)
    _make_cache_absolute(values.get("teacher_cache"))
    _make_checkpoints_absolute(values.get("student"))
    if not isinstance(data, dict):
        return
    root = data.get("root")
    if isinstance(root, str):
        data["root"] = root = _absolute(root)
    for key in ("train", "test"):
        base = root if isinstance(root, str) else "."
        if isinstance(data.get(key), str):
            data[key] = _absolute(data[key], base)
        elif isinstance(data.get(key), list):
            data[key] = [_absolute(item, base) if isinstance(item, str) else item for item in data[key]]


def _make_checkpoints_absolute(section: Any) -> None:
    if not isinstance(section, dict):
        return
    options = choice_key(section)
    if options is not None:
        for option in section[options] if isinstance(section[options], list) else []:
            _make_checkpoints_absolute(option)
        return
    if "checkpoint" in section:
        section["checkpoint"] = _absolute_checkpoint(section["checkpoint"])
    for key in ("others", "distilled_from"):
        for one in section[key] if isinstance(section.get(key), list) else []:
            _make_checkpoints_absolute(one)


def _absolute_checkpoint(value: Any) -> Any:
    """A path, or a choice of paths, made absolute; words that are no paths stay."""
    options = choice_key(value)
    if options is not None and isinstance(value[options], list):
        return {options: [_absolute_checkpoint(option) for option in value[options]]}
    return _absolute(value) if isinstance(value, str) and value not in ("auto", "pretrained") else value


def _make_cache_absolute(section: Any) -> None:
    """Folders of the teacher cache; one that begins with a variable is each node's own to resolve."""
    for key in ("location", "seed_from") if isinstance(section, dict) else ():
        if isinstance(section.get(key), str) and not section[key].startswith("$"):
            section[key] = _absolute(section[key])


def _absolute(path: str, base: str = ".") -> str:
    return str((Path.cwd() / base / Path(path).expanduser()).absolute()) if path else path

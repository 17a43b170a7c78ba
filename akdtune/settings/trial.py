"""The settings of one trial: each component typed by its own settings class, and pairs that cannot work refused."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

from pydantic import BaseModel

from akdtune.errors import AkdtuneError
from akdtune.registry import NO_NETWORK, Kind, Pair, lookup, names, network_name
from akdtune.registry import typed as component_settings
from akdtune.settings.data import AugmentationSettings, student_augmentation
from akdtune.settings.domains import Issue
from akdtune.settings.file import KeyPath, shown
from akdtune.settings.messages import typed
from akdtune.settings.task import DEFAULT_TASK
from akdtune.settings.training import StudentSettings, TrainingSettings

ALL_ROWS = "none"
"""The selection of trials that name none."""

LARGEST_COUNT = 10_000_000
"""Of anything inside a component."""


def trial_settings(values: Mapping[str, Any], study: Mapping[str, Any]) -> tuple[dict[str, Any], list[Issue]]:
    """Types the settings of one trial.

    Args:
        values: student, views, method, selection and training without domains.
        study: the sections `data` and `teacher` as plain JSON, as far as they are known to be right: published
            settings depend on the data set and the teacher's network.

    Returns:
        The same with defaults filled in and `method` as a list, and what is wrong, by path; a section that is wrong
        is left out, and so is a selection of all rows.
    """

    settings: dict[str, Any] = {}
    issues: list[Issue] = []

    def keep(section: str, value: Any, wrong: list[Issue]) -> None:
        issues.extend(wrong)
        if not wrong:
            settings[section] = value

    keep("views", *_component("views", values.get("views"), ("views",)))
    keep("student", *_student(values.get("student"), StudentSettings))
    keep("method", *_methods(values.get("method"), pair_of(study, settings.get("student"))))
    if chosen := selection_of(values):
        keep("selection", *_component("selections", chosen, ("selection",)))
    keep("training", *_mapping(values.get("training") or {}, TrainingSettings, ("training",)))
    if "views" in settings and "method" in settings:
        issues += misfits(settings, study)
    order = ("views", "method", "selection", "student", "training")
    return {section: settings[section] for section in order if section in settings}, issues


def selection_of(sections: Mapping[str, Any]) -> Any:
    """The selection of a trial as a mapping, wrong values as they are; None for all rows, which no settings name."""
    given = sections.get("selection")
    spelled = {"name": given} if isinstance(given, str) else given
    return None if spelled in (None, {"name": ALL_ROWS}) else spelled


def selected(sections: Mapping[str, Any]) -> str:
    """What stands behind the methods in the name of an arm that distils some rows only: `@gap`."""
    given = selection_of(sections)
    return f"@{given['name']}" if isinstance(given, Mapping) and "name" in given else ""


def pair_of(study: Mapping[str, Any], student: Mapping[str, Any] | None) -> Pair | None:
    """What published settings depend on; None where it is not known (yet)."""
    if student is None or not {"data", "teacher"} <= study.keys():
        return None
    teacher = network_name(study["teacher"]["network"])
    return Pair(study["data"]["name"], None if teacher == NO_NETWORK else teacher, network_name(student["network"]))


def misfits(settings: Mapping[str, Any], study: Mapping[str, Any]) -> list[Issue]:
    """Which components of a trial cannot work together, naming them."""
    views, methods = settings["views"]["name"], [term["name"] for term in settings["method"]]
    teacher, of_clients = study.get("teacher"), lookup("views", views).of_clients
    issues: list[Issue] = []

    def add(message: str | None, section: str = "method") -> None:
        if message:
            issues.append(((section,), message))

    for method in methods:
        add(pair_problem(views, method))
        if teacher is not None:
            add(None if of_clients else _without_teacher(method, teacher))
            add(_lacking(method, "teacher", teacher["network"]))
        if "student" in settings:
            add(_lacking(method, "student", settings["student"]["network"]))
    components = {method: lookup("methods", method) for method in methods}
    if len(heads := [name for name, component in components.items() if component.replaces_logits]) > 1:
        add(f"'{heads[0]}' and '{heads[1]}' both replace the student's prediction: only one can")
    idle = all(component.consumes in ("stages", "self") for component in components.values())
    alone = teacher is not None and network_name(teacher["network"]) == NO_NETWORK
    if views != "none" and idle and not alone:
        named = " and ".join(f"'{name}'" for name in methods)
        add(f"nothing of the views '{views}' would reach the student: {named} read{'s' * (len(methods) == 1)} no views")
    if teacher is not None and views != "none" and not of_clients:
        if alone:
            add(f"'{views}' needs a teacher, and teacher.network is {NO_NETWORK}", "views")
        elif lookup("views", views).needs_others and not teacher.get("others"):
            add(f"'{views}' needs further teachers: list them under teacher.others", "views")
    issues += _selecting(settings, study)
    issues += _beside_the_task(settings, study)
    if mixing := _mixing(settings, study):
        for name, component in components.items():
            if component.overlaps_batches:
                add(f"'{name}' repeats images of the last batch, which {mixing} mixes with others")
    return issues


def _selecting(settings: Mapping[str, Any], study: Mapping[str, Any]) -> Iterator[Issue]:
    """What a selection of rows cannot work with, naming both; and what it needs."""
    if "selection" not in settings:
        return
    name, teacher = settings["selection"]["name"], study.get("teacher")
    components = {term["name"]: lookup("methods", term["name"]) for term in settings["method"]}
    reasons = {
        method: "it keeps what the student said about the last batch"
        if component.overlaps_batches
        else "the student predicts through it, for all rows"
        for method, component in components.items()
        if component.overlaps_batches or component.replaces_logits
    }
    for method, why in reasons.items():
        yield ("method",), f"'{method}' cannot work with the selection '{name}': {why}"
    if not reasons and all(component.consumes == "self" for component in components.values()):
        named = " and ".join(f"'{method}'" for method in components)
        yield (
            ("selection",),
            f"'{name}' says which rows are distilled, and {named} distil{'s' * (len(components) == 1)} none",
        )
    for asked in _asking(settings["selection"]):
        component = lookup("selections", asked)
        if teacher is None or not component.needs_teacher:
            continue
        if network_name(teacher["network"]) == NO_NETWORK:
            yield ("selection",), f"'{asked}' needs a teacher, and teacher.network is {NO_NETWORK}"
        elif component.needs_others and not teacher.get("others"):
            yield (
                ("selection",),
                f"'{asked}' needs a reference: list a network of the student's size under teacher.others",
            )


def _asking(selection: Mapping[str, Any]) -> Iterator[str]:
    """The names of a selection and of that inside it."""
    name = str(selection["name"])
    yield name
    inside = lookup("selections", name).inside(component_settings("selections", selection))
    if inside is not None:
        yield from _asking(inside)


def _beside_the_task(settings: Mapping[str, Any], study: Mapping[str, Any]) -> Iterator[Issue]:
    """What the task of a study has nothing for: networks of another kind, signals that it does not give."""
    name = str((study.get("task") or {"name": DEFAULT_TASK})["name"])
    task = lookup("tasks", name)
    if "student" in settings:
        yield from of_another_kind(("student", "network"), settings["student"]["network"], name, task.takes)
    views = settings["views"]["name"]
    if task.has_clients != lookup("views", views).of_clients and (views != "none" or not task.has_clients):
        taught = "clients teach there, and the views are clients or none" if task.has_clients else "it has no clients"
        yield ("views",), f"the views '{views}' cannot work with the task '{name}': {taught}"
    yield from task.misfits(settings, study)
    for term in settings["method"]:
        component = lookup("methods", term["name"])
        if lacking := sorted(component.needs - task.offers):
            yield (
                ("method",),
                f"'{term['name']}' cannot work with the task '{name}': it needs {', '.join(lacking)}, which the task "
                "lacks",
            )
        elif component.overlaps_batches and task.takes != "images":
            yield ("method",), f"'{term['name']}' repeats images of the last batch: the task '{name}' has none"
    if task.takes != "images" and settings.get("training", {}).get("augmentation") is not None:
        yield ("training", "augmentation"), f"is of images, and the task '{name}' takes {task.takes}"


def of_another_kind(path: KeyPath, network: str | Mapping[str, Any], task: str, takes: str) -> Iterator[Issue]:
    """A network that the task has no inputs for, naming both."""
    name = network_name(network)
    if name != NO_NETWORK and (own := lookup("networks", name).takes) != takes:
        fitting = [known for known in names("networks") if lookup("networks", known).takes == takes]
        yield (
            path,
            f"the network '{name}' takes {own}, and the task '{task}' gives {takes} (networks of {takes}: "
            f"{', '.join(fitting)})",
        )


def _mixing(settings: Mapping[str, Any], study: Mapping[str, Any]) -> str | None:
    """The key path that has images of a trial's batches mixed with each other; None where none has."""
    given, key = student_augmentation(settings.get("training") or {}), "training.augmentation"
    if given is None and (of_data := (study.get("data") or {}).get("augmentation")) is not None:
        given, key = AugmentationSettings.model_validate(of_data), "data.augmentation"
    parts = [part for part in ("cutmix", "mixup") if getattr(given, part, None)]
    return f"{key}.{parts[0]}" if parts else None


def pair_problem(views: str, method: str) -> str | None:
    """Why a view augmenter and a method cannot work together, naming both; None when they can."""
    augmenter, component = lookup("views", views), lookup("methods", method)
    if component.consumes in ("stages", "self"):
        return None
    if component.consumes == "pooled" and augmenter.several_widths and not component.any_width:
        return (
            f"'{method}' cannot work with the views '{views}': their features differ in width by architecture, and it "
            "takes features of one width"
        )
    if component.consumes in augmenter.offers:
        return None
    return (
        f"'{method}' cannot work with the views '{views}': it needs {component.consumes}, "
        f"and these views offer {', '.join(sorted(augmenter.offers))} only"
    )


def _without_teacher(method: str, teacher: Mapping[str, Any]) -> str | None:
    if network_name(teacher["network"]) != NO_NETWORK or lookup("methods", method).consumes == "self":
        return None
    alone = [name for name in names("methods") if lookup("methods", name).consumes == "self"]
    return f"'{method}' needs a teacher, and teacher.network is {NO_NETWORK} (without one: {', '.join(alone)})"


def _lacking(method: str, role: str, network: str | Mapping[str, Any]) -> str | None:
    name, needs = network_name(network), lookup("methods", method).needs - {"strong"}
    needs -= {"answers"} if role == "teacher" else set()
    if name == NO_NETWORK or not needs:
        return None
    component = lookup("networks", name)
    lacking = sorted(needs - component.offered(component_settings("networks", network)))
    if not lacking:
        return None
    which = "which it lacks" if set(lacking) - component.offers else "which it lacks as it is set"
    return f"'{method}' cannot work with the {role} network '{name}': it needs {', '.join(lacking)}, {which}"


def published(method: str, given: Mapping[str, Any], pair: Pair | None) -> dict[str, Any]:
    """Settings of a method that are published for this data set and pair of networks and were not given.

    What a preset fills in (a `variant`, `standardize`) counts as given: it was published as a whole.
    """
    if pair is None:
        return {}
    component = lookup("methods", method)
    preset = getattr(component.Settings, "preset", None)
    taken = given.keys() | (preset(given).keys() if preset else set())
    return {key: value for key, value in component.published(pair).items() if key not in taken}


def _methods(value: Any, pair: Pair | None) -> tuple[list[Any], list[Issue]]:
    terms = value if isinstance(value, list) else [value]
    if not terms:
        return [], [(("method",), "needs at least one method, got an empty list")]
    result, issues = [], []
    seen: set[str] = set()
    for index, term in enumerate(terms):
        path: KeyPath = ("method", index) if isinstance(value, list) else ("method",)
        settings, wrong = _component("methods", term, path, pair)
        if not wrong and settings["name"] in seen:
            wrong = [(path, f"'{settings['name']}' stands twice in the sum: give it one weight instead")]
        result.append(settings)
        issues += wrong
        seen.add(str(settings.get("name")))
    return result, issues


def _student(value: Any, model: type[BaseModel]) -> tuple[dict[str, Any], list[Issue]]:
    if not isinstance(value, dict) or "network" not in value:
        return _mapping(value, model, ("student",))
    network, issues = network_settings(value["network"], ("student", "network"))
    settings, more = _mapping({**value, "network": "any" if issues else network}, model, ("student",))
    return settings, issues + more


def network_settings(value: Any, path: KeyPath) -> tuple[Any, list[Issue]]:
    """A network's settings: just its name when it has none of its own, else a mapping with defaults filled in."""
    if isinstance(value, str):
        settings, issues = _component("networks", {"name": value}, path)
        issues = [(path if at == (*path, "name") else at, message) for at, message in issues]
    else:
        settings, issues = _component("networks", value, path)
    return (value, issues) if issues else (settings["name"] if len(settings) == 1 else settings, [])


def _component(kind: Kind, value: Any, path: KeyPath, pair: Pair | None = None) -> tuple[dict[str, Any], list[Issue]]:
    if not isinstance(value, dict):
        return {}, [(path, f"must be a name or a mapping with a 'name', got {shown(value)}")]
    name = value.get("name")
    if name is None:
        return {}, [((*path, "name"), f"is missing (allowed: {', '.join(names(kind))})")]
    try:
        if not isinstance(name, str):
            raise AkdtuneError(f"must be a name, got {shown(name)} (allowed: {', '.join(names(kind))})")
        model = lookup(kind, name).Settings
    except AkdtuneError as error:
        return {}, [((*path, "name"), str(error))]
    given = {key: item for key, item in value.items() if key != "name"}
    if kind == "methods":
        given = {**published(name, given, pair), **given}
    settings, issues = _mapping(given, model, path, ("name",))
    issues += [] if issues else list(_beyond_reason(given, path))
    return {"name": name, **settings}, issues


def _beyond_reason(value: Any, path: KeyPath) -> Iterator[Issue]:
    """Whole numbers that are no count of anything in a component, whatever its own settings allow; seeds are free."""
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            if not str(key).endswith("seed"):
                yield from _beyond_reason(item, (*path, key))
    elif isinstance(value, int) and abs(value) > LARGEST_COUNT:
        yield path, f"must be at most {LARGEST_COUNT:,}, got {value}"


def _mapping(
    value: Any, model: type[BaseModel], path: KeyPath, also: Iterable[str] = ()
) -> tuple[dict[str, Any], list[Issue]]:
    if not isinstance(value, dict):
        return {}, [(path, f"must be a mapping, got {shown(value)}")]
    settings, issues = typed(model, value, also, searched=path[0] != "teacher")
    return ({} if settings is None else settings.model_dump(mode="json")), [((*path, *at), text) for at, text in issues]


class Weighted(Protocol):
    """A base method, or its class: what knows the published weight of the cross-entropy."""

    def ce_weight(self, pair: Pair) -> float:
        """The published weight for a data set and a pair of networks."""
        ...


def resolve_ce_weight(settings: TrainingSettings, methods: Iterable[Weighted], pair: Pair) -> float:
    """The set weight, or the largest published one among the methods (0.1 for kd alone, 1 for kd+crd)."""
    if settings.ce_weight is not None:
        return settings.ce_weight
    return max(method.ce_weight(pair) for method in methods)

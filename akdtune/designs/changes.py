"""Settings changed by key paths: what a factor, a control or a cell sets."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from akdtune.designs.no_effect import Idle
from akdtune.errors import AkdtuneError, unknown_name
from akdtune.registry import Kind, lookup, names
from akdtune.settings.file import shown, written
from akdtune.settings.messages import typed
from akdtune.settings.sections import TRIAL_LEVEL
from akdtune.settings.task import DEFAULT_TASK
from akdtune.settings.training import StudentSettings, TrainingSettings
from akdtune.settings.trial import selection_of

# --------------------------------------------------------------------------------------------------------------- apply


def apply(changes: Mapping[str, Any], base: Mapping[str, Any]) -> tuple[dict[str, Any], list[Idle]]:
    """The sections of a trial with some key paths set.

    A path is `views.inter`, `views` (everything), `method.kd.weight` (a term of a sum by its name), `method.weight`
    (of a single method), `method.crd` (a mapping puts the term in or replaces it, null takes it out), `student.network`
    or `training.lr`. Shorter paths come first, so that a component can be chosen and then changed.

    Args:
        changes: key path to value.
        base: views, method, selection, student and training as written, without domains; shorthands are allowed.

    Returns:
        The sections spelled out, and the paths that do not exist for the components that were chosen, with a reason.

    Raises:
        AkdtuneError: for a path that exists for no component at all.
    """
    sections = {**spelled_out(base), "selection": _spelled("selection", copy.deepcopy(base.get("selection")))}
    idle: list[Idle] = []
    of_trial = [path for path in changes if path.partition(".")[0] != "task"]
    for path in sorted(of_trial, key=lambda path: (path.count("."), not path.endswith(".name"))):
        section, *keys = path.split(".")
        if section not in TRIAL_LEVEL:
            raise AkdtuneError(unknown_name("section", section, TRIAL_LEVEL))
        value = copy.deepcopy(changes[path])
        if not keys:
            sections[section] = _spelled(section, value)
            continue
        setter = {
            "views": _set_views, "method": _set_method, "selection": _set_selection, "student": _set_student,
            "training": _set_training,
        }  # fmt: skip
        reason = setter[section](sections, keys, value, path)
        if reason is not None:
            idle.append((path, reason))
    return spelled_out(sections), idle


def with_task(changes: Mapping[str, Any], constants: Mapping[str, Any]) -> dict[str, Any]:
    """The sections that all trials of a study share, with settings of its task set by their key paths (`task.clients`).

    Args:
        changes: key path to value; paths of other sections are passed over.
        constants: the shared sections, filled in; without `task` for images, which have no settings.

    Raises:
        AkdtuneError: for a setting that the task has not, or a value that does not fit.
    """
    own = {path: value for path, value in changes.items() if path.partition(".")[0] == "task"}
    if not own:
        return dict(constants)
    section = {"name": DEFAULT_TASK, **copy.deepcopy(constants.get("task") or {})}
    model = lookup("tasks", section["name"]).Settings
    for path in sorted(own, key=lambda path: path.count(".")):
        _, *keys = path.split(".")
        if not keys or keys[0] == "name":
            raise AkdtuneError(f"{path}: all trials of a study train for one task; name one of its settings")
        if keys[0] not in model.model_fields:
            raise AkdtuneError(f"{path}: {unknown_name('setting', keys[0], model.model_fields)}")
        _put(section, keys, copy.deepcopy(own[path]), path)
    settings, issues = typed(model, {key: value for key, value in section.items() if key != "name"}, ("name",))
    if settings is None:
        raise AkdtuneError("; ".join(f"{written(('task', *at))}: {message}" for at, message in issues))
    return {**constants, "task": {"name": section["name"], **settings.model_dump(mode="json")}}


def spelled_out(sections: Mapping[str, Any]) -> dict[str, Any]:
    """The sections of a trial with their shorthands as mappings, `method` as a list; a selection where there is one."""
    there = (section for section in TRIAL_LEVEL if section != "selection" or selection_of(sections) is not None)
    return {section: _spelled(section, copy.deepcopy(sections.get(section))) for section in there}


def _spelled(section: str, value: Any) -> Any:
    """A section as a mapping, `method` as a list of mappings."""
    if section == "method":
        return [{"name": term} if isinstance(term, str) else term for term in (_listed(value))]
    if section in ("views", "selection") and not isinstance(value, Mapping):
        return {"name": "none" if value is None else value}
    return {} if value is None else value


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _set_views(sections: dict[str, Any], keys: list[str], value: Any, path: str) -> str | None:
    return _set_component("views", sections["views"], keys, value, path)


def _set_selection(sections: dict[str, Any], keys: list[str], value: Any, path: str) -> str | None:
    return _set_component("selections", sections["selection"], keys, value, path)


def _set_component(kind: Kind, component: dict[str, Any], keys: list[str], value: Any, path: str) -> str | None:
    """Sets a key of a component; the reason why it has none such, or None."""
    key, *rest = keys
    name = component["name"]
    if key == "name" and not rest:
        known = lookup(kind, value).Settings.model_fields
        for other in [setting for setting in component if setting not in known]:
            del component[other]
        component["name"] = value
        return None
    if key not in lookup(kind, name).Settings.model_fields:
        everywhere = {field for other in names(kind) for field in lookup(kind, other).Settings.model_fields}
        if key not in everywhere:
            raise AkdtuneError(f"{path}: {unknown_name('setting', key, everywhere)}")
        subject = {
            "views": "views are",
            "methods": "method is",
            "networks": "network is",
            "selections": "selection is",
        }.get(kind, kind)
        return f"the {subject} {name}, which has no setting {key}"
    _put(component, keys, value, path)
    return None


def _put(node: dict[str, Any], keys: Sequence[str], value: Any, path: str) -> None:
    """Sets a value below a mapping; what stands on the way as a name becomes a mapping with that name or preset."""
    key, *rest = keys
    if not rest:
        node[key] = value
        return
    inside = node.get(key)
    if isinstance(inside, str):
        inside = {"preset" if key == "augmentation" else "name": inside}
    if inside is not None and not isinstance(inside, Mapping):
        raise AkdtuneError(f"{path}: {key} is {shown(inside)}, which has no keys of its own")
    node[key] = dict(inside or {})
    _put(node[key], rest, value, path)


def _set_method(sections: dict[str, Any], keys: list[str], value: Any, path: str) -> str | None:
    terms: list[dict[str, Any]] = sections["method"]
    key, *rest = keys
    present = [term["name"] for term in terms]
    if key in names("methods"):
        if not rest:
            sections["method"] = _with_term(terms, key, value, path)
            return None
        if key not in present:
            if rest[0] not in (known := lookup("methods", key).Settings.model_fields):
                raise AkdtuneError(f"{path}: {unknown_name('setting', rest[0], known)}")
            return f"{key} is not among the methods ({', '.join(present)})"
        return _set_component("methods", terms[present.index(key)], rest, value, path)
    if len(terms) > 1:
        meant = f"method.{present[0]}.{'.'.join(keys)}"
        raise AkdtuneError(f"{path}: which of {', '.join(present)} is meant? Write e.g. {meant}")
    return _set_component("methods", terms[0], keys, value, path)


def _with_term(terms: list[dict[str, Any]], name: str, value: Any, path: str) -> list[dict[str, Any]]:
    """The sum with one term put in, replaced or taken out."""
    others = [term for term in terms if term["name"] != name]
    if value is None:
        if not others:
            raise AkdtuneError(f"{path}: null would leave no method: use student_only instead")
        return others
    if not isinstance(value, Mapping):
        raise AkdtuneError(f"{path}: must be a mapping of settings, or null to leave it out, got {shown(value)}")
    new = {**value, "name": name}
    if len(others) == len(terms):
        return [*terms, new]
    return [new if term["name"] == name else term for term in terms]


def _set_student(sections: dict[str, Any], keys: list[str], value: Any, path: str) -> str | None:

    student = sections["student"]
    if keys[0] not in StudentSettings.model_fields:
        raise AkdtuneError(f"{path}: {unknown_name('setting', keys[0], StudentSettings.model_fields)}")
    if keys[0] != "network" or len(keys) == 1:
        _put(student, keys, value, path)
        return None
    network = student.get("network")
    student["network"] = {"name": network} if isinstance(network, str) else dict(network)
    return _set_component("networks", student["network"], keys[1:], value, path)


def _set_training(sections: dict[str, Any], keys: list[str], value: Any, path: str) -> str | None:

    if keys[0] not in TrainingSettings.model_fields:
        raise AkdtuneError(f"{path}: {unknown_name('setting', keys[0], TrainingSettings.model_fields)}")
    _put(sections["training"], keys, value, path)
    return None

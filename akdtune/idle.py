"""Nonsense cells: settings that have no effect given others, found out and merged.

A component declares them (`ComponentSettings.idle`). Two cells whose settings are equal apart from idle ones train the
same to the last bit, so that one of them stands for both.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from akdtune.errors import AkdtuneError, unknown_name
from akdtune.factors import Cell
from akdtune.registry import Kind, lookup, names, typed
from akdtune.sections import TRIAL_LEVEL
from akdtune.settings_file import shown

Idle = tuple[str, str]
"""A key path and why it has no effect."""


# ----------------------------------------------------------------------------------------------------------- canonical


def idle_settings(settings: Mapping[str, Any]) -> dict[str, str]:
    """Every setting of a trial that changes nothing in its training, by key path.

    Args:
        settings: filled in: views, method (a list), student, training.
    """
    from akdtune.trial_config import TrainingSettings

    found: dict[str, str] = {}
    views = typed("views", settings["views"])
    for key, reason in views.idle().items():
        found[f"views.{key}"] = reason
    for term in settings["method"]:
        found |= {f"method.{term['name']}.{key}": why for key, why in typed("methods", term).idle().items()}
    network = settings["student"]["network"]
    if isinstance(network, Mapping):
        found |= {f"student.network.{key}": why for key, why in typed("networks", network).idle().items()}
    training = TrainingSettings(**settings["training"])
    found |= {f"training.{key}": why for key, why in training.idle().items()}
    warmup = lookup("views", settings["views"]["name"]).warmup_epochs_of(views)
    if training.optimizer == "adamw" and not warmup:  # a warm-up of views is SGD
        found["training.momentum"] = "optimizer is adamw"
    return found


def canonical(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a trial without those that have no effect: equal for trials that train the same.

    Args:
        settings: filled in; sections beside the trial's own are kept as they are.
    """
    idle = idle_settings(settings)
    result = copy.deepcopy(dict(settings))
    result["method"] = {term["name"]: {k: v for k, v in term.items() if k != "name"} for term in settings["method"]}
    for path in idle:
        *sections, key = path.split(".")
        node: Any = result
        for section in sections:
            node = node[section]
        node.pop(key, None)
    # the order of a sum stays part of what a trial is, as it decides about the last bits
    result["method"] = [{"name": name, **values} for name, values in result["method"].items()]
    return result


@dataclass(frozen=True)
class Merged:
    """A cell that is run, and the cells that it stands for.

    Attributes:
        cell: as the design names it.
        settings: filled in.
        merged: a line for each cell that would train the same.
    """

    cell: Cell
    settings: Mapping[str, Any]
    merged: Sequence[str] = ()


def merge(
    cells: Iterable[tuple[Cell, Mapping[str, Any]]], unapplied: Mapping[str, Sequence[Idle]] | None = None
) -> tuple[list[Merged], list[str]]:
    """Cells that differ, each with the names of those that train the same, and all lines about merged ones.

    Args:
        cells: with their filled-in settings; the first of several that are the same is kept.
        unapplied: by cell name, changes that led nowhere (`apply`).
    """
    kept: dict[str, Merged] = {}
    lines: list[str] = []
    for cell, settings in cells:
        key = json.dumps(canonical(settings), sort_keys=True)
        if key not in kept:
            kept[key] = Merged(cell, settings)
            continue
        first = kept[key]
        reasons = [f"{path} has no effect: {why}" for path, why in _differing(settings, first.settings)]
        reasons += [f"{path} has no effect: {why}" for path, why in (unapplied or {}).get(cell.name, ())]
        why = "; ".join(dict.fromkeys(reasons)) or "their settings are equal"
        lines.append(f"{cell.name}: the same as {first.cell.name} ({why})")
        kept[key] = replace(first, merged=(*first.merged, lines[-1]))
    return list(kept.values()), lines


def _differing(settings: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[Idle]:
    """Idle settings whose values differ."""
    idle = idle_settings(settings) | idle_settings(other)
    mine, theirs = (dict(_flat(one)) for one in (settings, other))
    for path in sorted(path for path in idle if mine.get(path) != theirs.get(path)):
        yield path, idle[path]


def _flat(node: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Values by key path; terms of a sum by their name."""
    for key, value in node.items():
        if f"{before}{key}" == "method":
            value = {term["name"]: term for term in value}
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


# --------------------------------------------------------------------------------------------------------------- apply


def apply(changes: Mapping[str, Any], base: Mapping[str, Any]) -> tuple[dict[str, Any], list[Idle]]:
    """The sections of a trial with some key paths set.

    A path is `views.inter`, `views` (everything), `method.kd.weight` (a term of a sum by its name), `method.weight`
    (of a single method), `method.crd` (a mapping puts the term in or replaces it, null takes it out), `student.network`
    or `training.lr`. Shorter paths come first, so that a component can be chosen and then changed.

    Args:
        changes: key path to value.
        base: views, method, student and training as written, without domains; shorthands are allowed.

    Returns:
        The sections spelled out, and the paths that do not exist for the components that were chosen, with a reason.

    Raises:
        AkdtuneError: for a path that exists for no component at all.
    """
    sections = {section: _spelled(section, copy.deepcopy(base.get(section))) for section in TRIAL_LEVEL}
    idle: list[Idle] = []
    for path in sorted(changes, key=lambda one: (one.count("."), not one.endswith(".name"))):
        section, *keys = path.split(".")
        if section not in TRIAL_LEVEL:
            raise AkdtuneError(unknown_name("section", section, TRIAL_LEVEL))
        value = copy.deepcopy(changes[path])
        if not keys:
            sections[section] = _spelled(section, value)
            continue
        setter = {"views": _set_views, "method": _set_method, "student": _set_student, "training": _set_training}
        reason = setter[section](sections, keys, value, path)
        if reason is not None:
            idle.append((path, reason))
    return sections, idle


def spelled_out(sections: Mapping[str, Any]) -> dict[str, Any]:
    """The sections of a trial with their shorthands as mappings, `method` as a list."""
    return {section: _spelled(section, copy.deepcopy(sections.get(section))) for section in TRIAL_LEVEL}


def _spelled(section: str, value: Any) -> Any:
    """A section as a mapping, `method` as a list of mappings."""
    if section == "method":
        return [{"name": term} if isinstance(term, str) else term for term in (_listed(value))]
    if section == "views" and not isinstance(value, Mapping):
        return {"name": "none" if value is None else value}
    return {} if value is None else value


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _set_views(sections: dict[str, Any], keys: list[str], value: Any, path: str) -> str | None:
    return _set_component("views", sections["views"], keys, value, path)


def _set_component(kind: Kind, component: dict[str, Any], keys: list[str], value: Any, path: str) -> str | None:
    """Sets a key of a component; the reason why it has none such, or None."""
    key, *rest = keys
    name = component["name"]
    if key == "name" and not rest:
        known = lookup(kind, value).Settings.model_fields
        for other in [one for one in component if one not in known]:
            del component[other]
        component["name"] = value
        return None
    if key not in lookup(kind, name).Settings.model_fields:
        everywhere = {field for one in names(kind) for field in lookup(kind, one).Settings.model_fields}
        if key not in everywhere:
            raise AkdtuneError(f"{path}: {unknown_name('setting', key, everywhere)}")
        one = {"views": "views are", "methods": "method is", "networks": "network is"}.get(kind, kind)
        return f"the {one} {name}, which has no setting {key}"
    _put(component, keys, value, path)
    return None


def _put(node: dict[str, Any], keys: Sequence[str], value: Any, path: str) -> None:
    """Sets a value below a mapping; what stands on the way as a name becomes a mapping with that name."""
    key, *rest = keys
    if not rest:
        node[key] = value
        return
    inside = node.get(key)
    if isinstance(inside, str):
        inside = {"name": inside}
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
    from akdtune.trial_config import StudentSettings

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
    from akdtune.trial_config import TrainingSettings

    if keys[0] not in TrainingSettings.model_fields:
        raise AkdtuneError(f"{path}: {unknown_name('setting', keys[0], TrainingSettings.model_fields)}")
    _put(sections["training"], keys, value, path)
    return None

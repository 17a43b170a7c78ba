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

from akdtune.designs.factors import DesignCell
from akdtune.registry import lookup, typed
from akdtune.settings.data import own_augmentation
from akdtune.settings.task import DEFAULT_TASK
from akdtune.settings.training import HOW_IT_RUNS, TrainingSettings

Idle = tuple[str, str]
"""A key path and why it has no effect."""


# ----------------------------------------------------------------------------------------------------------- canonical


def idle_settings(settings: Mapping[str, Any]) -> dict[str, str]:
    """Every setting of a trial that changes nothing in its training, by key path.

    Args:
        settings: filled in: views, method (a list), student, training, and data where they are a trial's.
    """

    idle: dict[str, str] = {}
    views = typed("views", settings["views"])
    for key, reason in views.idle().items():
        idle[f"views.{key}"] = reason
    for term in settings["method"]:
        idle |= {f"method.{term['name']}.{key}": why for key, why in typed("methods", term).idle().items()}
    if "selection" in settings:
        chosen = typed("selections", settings["selection"])
        idle |= {f"selection.{key}": reason for key, reason in chosen.idle().items()}
    network = settings["student"]["network"]
    if isinstance(network, Mapping):
        idle |= {f"student.network.{key}": why for key, why in typed("networks", network).idle().items()}
    training = TrainingSettings(**settings["training"])
    idle |= {f"training.{key}": why for key, why in training.idle().items()}
    task = lookup("tasks", str((settings.get("task") or {"name": DEFAULT_TASK})["name"]))
    idle |= {f"training.{key}": why for key, why in task.idle_training.items()}
    idle |= {f"training.{key}": "it says how a trial runs, not what it is" for key in sorted(HOW_IT_RUNS)}
    if training.augmentation and own_augmentation(settings.get("data") or {}, settings["training"]) is None:
        idle["training.augmentation"] = "data.augmentation says the same"
    warmup = lookup("views", settings["views"]["name"]).warmup_epochs_of(views)
    if training.optimizer == "adamw" and not warmup:  # a warm-up of views is SGD
        idle["training.momentum"] = "optimizer is adamw"
    return idle


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

    cell: DesignCell
    settings: Mapping[str, Any]
    merged: Sequence[str] = ()


def merge(
    cells: Iterable[tuple[DesignCell, Mapping[str, Any]]], unapplied: Mapping[str, Sequence[Idle]] | None = None
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
    mine, theirs = (dict(_flat(trial)) for trial in (settings, other))
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

"""What a teacher's settings may say, and which of them say something."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from akdtune.registry import NO_NETWORK, lookup, names
from akdtune.settings.domains import Issue
from akdtune.settings.file import KeyPath
from akdtune.settings.trial import network_settings


def check_networks(teacher: dict[str, Any], path: KeyPath = ()) -> list[Issue]:
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
        for index, further in enumerate(nested if isinstance(nested, list) else []):
            if isinstance(further, dict):
                issues += check_networks(further, (*path, key, index))
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
        takes = lookup("networks", name).takes
        alike = [known for known in names("networks") if lookup("networks", known).takes == takes]
        having = [known for known in alike if "weights" in lookup("networks", known).Settings.model_fields]
        how = f"'{name}' has none (networks that have: {', '.join(having) or 'none'})"
    return f"pretrained needs a network with weights of its own: {how}"

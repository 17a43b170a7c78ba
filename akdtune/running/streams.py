"""Finished trials that drew from other random streams than trials draw from now: found, counted, said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from akdtune.randomness import STREAMS
from akdtune.records.study_directory import StudyDirectory
from akdtune.registry import Kind, may_draw, typed


def draws(settings: Mapping[str, Any]) -> bool:
    """Whether views, methods or selection of a trial draw random numbers while the student trains."""
    parts: list[tuple[Kind, Mapping[str, Any]]] = [("views", settings["views"])]
    parts += [("methods", method) for method in settings["method"]]
    parts += [("selections", settings["selection"])] if "selection" in settings else []
    return any(may_draw(kind, part["name"], typed(kind, part)) for kind, part in parts)


def is_current(outcome: Mapping[str, Any]) -> bool:
    """Whether a trial that left this outcome drew all its random numbers as trials do now."""
    return bool(outcome.get("streams", 1) == STREAMS)


def drawn_before(directory: StudyDirectory, lock: Mapping[str, Any]) -> str | None:
    """A line about finished trials whose random numbers new trials do not share; None where there are none.

    Args:
        directory: loaded.
        lock: what the study began with; only one of before the present streams makes anybody look.
    """
    if lock.get("streams", 1) == STREAMS:
        return None
    count = 0
    for record in directory.records.values():
        if record.terminal == "done" and draws(record.plan["settings"]):
            count += not is_current(directory.trial(record.trial_id).read_outcome() or {})
    if not count:
        return None
    trials = "1 finished trial" if count == 1 else f"{count} finished trials"
    return (
        f"{trials} drew random numbers (negatives of crd, noise and dropout of views) before random streams had names:"
        " pairs of such a trial and a new one share fewer of them; --new trains all pairs alike"
    )

"""What must fit together in `search` and `scheduler`, what is odd there, and how a plan says it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from akdtune.metric import ACCURACY
from akdtune.settings.file import KeyPath, shown
from akdtune.settings.sections import SchedulerSettings, SearchSettings
from akdtune.settings.space import Arm, Proposal
from akdtune.settings.training import Recipe

Finding = tuple[KeyPath, str]
"""A key path of the settings file and what is wrong or odd there."""

_GRACE: KeyPath = ("scheduler", "grace_period")


def problems(search: SearchSettings | None, scheduler: SchedulerSettings | None, epochs: int) -> Iterator[Finding]:
    """What is refused; a section that is None was refused already.

    Args:
        search: the section.
        scheduler: the section.
        epochs: student epochs of a trial, 0 where they are not known.
    """
    if scheduler is not None and "grace_period" in scheduler.used and epochs and scheduler.grace_period >= epochs:
        what = "there is a rung" if scheduler.name == "asha" else "something can be stopped"
        yield (
            _GRACE,
            f"must be below training.epochs ({epochs}), so that {what}, got {scheduler.grace_period}",
        )
    if search is None or scheduler is None:
        return
    if scheduler.name == "racing":
        if search.learns:
            yield (
                ("search", "algorithm"),
                f"must be grid, random or qmc with scheduler.name racing, got '{search.algorithm}': "
                "configurations race that stand from the start",
            )
        if len(search.training_seeds) < scheduler.min_seeds:
            yield (
                ("search", "seeds"),
                f"must hold at least scheduler.min_seeds ({scheduler.min_seeds}) seeds with scheduler.name racing, "
                f"got {shown(search.seeds)}",
            )
    if len(search.objectives) > 1 and scheduler.name != "none":
        compared = "accuracies" if search.metric == ACCURACY.name else f"values of {search.metric}"
        yield (
            ("search", "objectives"),
            f"must be [{search.metric}] with scheduler.name {scheduler.name}, got [{', '.join(search.objectives)}]: "
            f"early stopping compares {compared} alone, so several objectives need scheduler.name none",
        )


def oddities(
    search: SearchSettings,
    scheduler: SchedulerSettings,
    given: Mapping[str, Any],
    training: Recipe,
    arms: Sequence[Arm],
    largest: int,
) -> Iterator[Finding]:
    """What is valid, but odd or ignored.

    Args:
        search: the section.
        scheduler: the section.
        given: the scheduler's section as written.
        training: the recipe of the students.
        arms: of the study.
        largest: configurations of the largest arm.
    """
    for key in given:
        if key != "name" and key not in scheduler.used:
            yield ("scheduler", key), f"is ignored: scheduler.name is {scheduler.name}"
    if "grace_period" in scheduler.used:
        yield from too_early(scheduler.grace_period, training, arms)
    if scheduler.pilot >= largest and "pilot" in scheduler.used and scheduler.pilot:
        yield ("scheduler", "pilot"), f"is {scheduler.pilot}, but no arm gets more than {largest}: nothing is pruned"
    if scheduler.name == "racing" and largest > 1:
        needed = math.ceil(math.log2((largest - 1) / scheduler.alpha))
        if len(search.training_seeds) < needed:
            yield (
                ("search", "seeds"),
                f"{len(search.training_seeds)} seeds can drop nothing of {largest} configurations at once: the "
                f"smallest p of n seeds is 1 in 2^n, and Holm's first step needs {scheduler.alpha:g}/{largest - 1} "
                f"({needed} seeds); fewer candidates or more seeds help",
            )


def too_early(grace: int, training: Recipe, arms: Sequence[Arm]) -> Iterator[Finding]:
    """Why accuracies at the grace period would say little about the final order."""
    first = min((m for m in training.resolved_milestones() if m < training.epochs), default=None)
    if first is not None and grace <= first:
        yield (
            _GRACE,
            f"{grace} is not after the first milestone ({first}): before the learning rate drops, "
            "accuracies say little about the final order",
        )
    risen = rise_ends(training)
    if grace <= risen:
        yield _GRACE, f"{grace} is not after the learning rate's warm-up, which ends with epoch {risen}"
    for key, ramp in sorted(ramps(arms).items()):
        if grace < ramp:
            yield (
                _GRACE,
                f"{grace} is before the end of the ramp {key} ({ramp}): accuracies there come from losses that do "
                "not have their full weight yet",
            )


def rise_ends(training: Recipe) -> int:
    """The epoch at which the learning rate has risen from its start to its first maximum; 0 where it begins there."""
    epoch = 1
    while epoch < training.epochs and training.learning_rate(epoch + 1) > training.learning_rate(epoch):
        epoch += 1
    return epoch if epoch > 1 else 0


def ramps(arms: Sequence[Arm]) -> dict[str, int]:
    """The largest `warmup_epochs` of each method over whose first epochs its weights rise, by key path."""
    longest: dict[str, int] = {}
    for arm in arms:
        of_arm = {
            f"method.{term['name']}.warmup_epochs": int(term["warmup_epochs"])
            for term in arm.centre().settings["method"]
            if term.get("warmup_epochs")
        }
        for dimension in arm.dimensions:
            if dimension.path.startswith("method.") and dimension.path.endswith(".warmup_epochs"):
                ends = [dimension.high] if dimension.high is not None else map(float, dimension.options)
                of_arm[dimension.path] = int(max(end for end in ends if end is not None))
        for key, ramp in of_arm.items():
            longest[key] = max(longest.get(key, 0), ramp)
    return longest


def stopping(scheduler: SchedulerSettings, rungs: Sequence[int]) -> str:
    """Early stopping in a few words: `ASHA decides after epoch 26, 52`."""
    if scheduler.name == "median":
        return f"median stopping from epoch {scheduler.grace_period} on"
    if scheduler.name == "racing":
        return f"racing: after {scheduler.min_seeds} seeds, and after each further one, the worse are dropped"
    if not rungs:
        return "no early stopping"
    pilot = f", the first {scheduler.pilot} of each arm are not pruned" if scheduler.pilot else ""
    return f"ASHA decides after epoch {', '.join(map(str, rungs))}{pilot}"


def first_seed_leads(search: SearchSettings, scheduler: SchedulerSettings) -> bool:
    """Whether a configuration runs with its first seed, and with the others only where that trial is done."""
    several = len(search.training_seeds) > 1
    return several and scheduler.name != "racing" and (search.learns or scheduler.name in ("asha", "median"))


def further_lines(
    search: SearchSettings, scheduler: SchedulerSettings, enqueued: Mapping[str, Sequence[Proposal]]
) -> list[str]:
    """What a plan says beside counts and rungs: known points, seeds of survivors, objectives, time budget."""
    lines = []
    if enqueued:
        by_bracket = ", ".join(f"{len(points)} of {name}" for name, points in enqueued.items())
        lines.append(
            f"known points come first: {by_bracket} (search.enqueue; what they leave open is at the arm's centre)"
        )
    if first_seed_leads(search, scheduler):
        first, *rest = search.training_seeds
        others = f"seed{'s' * (len(rest) > 1)} {', '.join(map(str, rest))}"
        lines.append(
            f"each configuration runs with seed {first}; where that trial is done, {others} follow"
            f"{'s' * (len(rest) == 1)}, never pruned"
        )
    if len(search.objectives) > 1:
        names = {"macs": "the student's multiply-adds", "time": "training time"}
        weighed = ", ".join(names.get(objective, objective) for objective in search.objectives)
        lines.append(f"objectives: {weighed} (`akdtune show RUN --pareto`)")
    if search.budget_s is not None:
        lines.append(f"time budget: no new configuration starts after {search.budget_s / 3600:.3g} h of running trials")
    return lines

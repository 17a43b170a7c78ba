"""A few real steps of what a study trains, for as long as they are worth waiting for."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from akdtune.devices import one_thread
from akdtune.planning.cost import (
    ArmCost,
    Bench,
    UntrainedTeacher,
    arm_cost,
    teacher_seconds,
    teacher_step_s,
)
from akdtune.planning.prepared import Prepared, network_label
from akdtune.registry import lookup
from akdtune.settings.teacher import TeacherSettings

TIMING_S = 30.0
"""All of it takes no longer: what is not timed by then is estimated from what is."""

TEACHERS_SHARE = 0.3
"""Of that time, at most, for teachers that are not trained yet."""


@dataclass(frozen=True)
class TimingProgress:
    """How far timing is.

    Attributes:
        what: is timed now.
        done, groups: groups of like cost that are timed, and all of them.
        left_s: seconds after which the rest is estimated.
    """

    what: str
    done: int
    groups: int
    left_s: float


Seen = Callable[[TimingProgress], None]


def like_cost(settings: Mapping[str, Any]) -> str:
    """What the cost of a step follows from: configurations with the same text cost alike.

    Networks, views and their number, batch, precision, augmentation. Methods that read logits and nothing else are
    alike, since next to the networks a loss on logits takes no time, and so are those that need no teacher; every other
    is itself.
    """
    views, training = settings["views"], settings["training"]
    methods = sorted({_method_kind(term["name"]) for term in settings["method"]})
    of_views = [views["name"], views.get("num_views"), bool(views.get("warmup_epochs"))]
    rest = [training.get(key) for key in ("batch_size", "precision", "device", "optimizer", "augmentation")]
    return json.dumps([settings["student"]["network"], of_views, methods, rest], sort_keys=True, default=str)


def _method_kind(name: str) -> str:
    method = lookup("methods", name)
    if method.consumes not in ("logits", "self") or method.needs or method.overlaps_batches or method.replaces_logits:
        return name
    return f"on {method.consumes}"


class Timing:
    """Times untrained teachers and one configuration of each group of like cost.

    Can be left at any moment: what was timed until then is kept.

    Args:
        bench: data and teachers' networks.
        configurations: settings of those that stand for all trials, by name.
        untrained: teachers that a run trains first, by key path.
        within_s: the longest that all of it takes.
    """

    def __init__(
        self,
        bench: Bench,
        configurations: Mapping[str, Mapping[str, Any]],
        untrained: Mapping[str, UntrainedTeacher],
        within_s: float = TIMING_S,
    ) -> None:
        self.bench, self.configurations, self.untrained, self.within_s = bench, configurations, untrained, within_s
        self.groups: dict[str, list[str]] = {}
        for name, settings in configurations.items():
            self.groups.setdefault(like_cost(settings), []).append(name)
        self._timed: dict[str, ArmCost] = {}
        self._teachers: dict[str, float] = {}

    def run(self, seen: Seen = lambda _: None) -> None:
        """Times one after the other until all are timed or the time is up.

        Args:
            seen: told before each.
        """
        began = time.monotonic()
        until = began + self.within_s
        with one_thread():
            self._time_teachers(began + TEACHERS_SHARE * self.within_s, until, seen)
            for done, (kind, names) in enumerate(self.groups.items()):
                now = time.monotonic()
                if now >= until and self._timed:
                    return
                seen(TimingProgress(names[0], done, len(self.groups), until - now))
                share_s = max(0.0, until - now) / (len(self.groups) - done)
                self._timed[kind] = arm_cost(self.configurations[names[0]], self.bench, now + share_s)

    def _time_teachers(self, until: float, end: float, seen: Seen) -> None:
        if not self.untrained:
            return

        def step_s(settings: TeacherSettings, prepared: Prepared) -> float:
            what = f"teacher {network_label(settings.network)}"
            seen(TimingProgress(what, 0, len(self.groups), end - time.monotonic()))
            return teacher_step_s(settings, prepared, until) if time.monotonic() < until else math.nan

        listed = list(self.untrained.values())
        seconds = teacher_seconds(listed, self.bench.prepared, step_s)
        self._teachers = {
            path: taken_s for path, taken_s in zip(self.untrained, seconds, strict=True) if not math.isnan(taken_s)
        }

    @property
    def teachers(self) -> dict[str, UntrainedTeacher]:
        """The untrained teachers with the time that each takes; None where it was not timed."""
        return {path: replace(teacher, train_s=self._teachers.get(path)) for path, teacher in self.untrained.items()}

    @property
    def costs(self) -> dict[str, ArmCost]:
        """The cost of each configuration: timed, taken from one of like cost, or estimated; empty before the first."""
        if not self._timed:
            return {}
        costs = {}
        for kind, names in self.groups.items():
            for name in names:
                if kind not in self._timed:
                    costs[name] = self._estimated(name)
                else:
                    costs[name] = self._timed[kind] if name == names[0] else replace(self._timed[kind], like=names[0])
        return {name: costs[name] for name in self.configurations}

    def _estimated(self, name: str) -> ArmCost:
        """The mean of what was timed with the same student, else of all that was timed."""
        network = self.configurations[name]["student"]["network"]
        timed = {kind: self.configurations[self.groups[kind][0]]["student"]["network"] for kind in self._timed}
        kinds = [kind for kind, other in timed.items() if other == network] or list(timed)
        costs = [self._timed[kind] for kind in kinds]

        def mean(part: Callable[[ArmCost], float]) -> float:
            return sum(map(part, costs)) / len(costs)

        return ArmCost(
            warmup_s=mean(lambda cost: cost.warmup_s),
            student_s=mean(lambda cost: cost.student_s),
            evaluation_s=mean(lambda cost: cost.evaluation_s),
            checkpoint_mib=max(cost.checkpoint_mib for cost in costs),
            estimated=True,
            kept=costs[0].kept,
        )

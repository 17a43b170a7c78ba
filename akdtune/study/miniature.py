"""A study in miniature: the same arms, phases and controls, with the fewest trials, epochs and images that run them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from akdtune.registry import lookup
from akdtune.settings.data import DataSettings
from akdtune.settings.file import COMPONENTS, SettingsFile, choice_key, has_domain
from akdtune.settings.task import DEFAULT_TASK
from akdtune.settings.training import TrainingSettings
from akdtune.study.proposals import Outline
from akdtune.study.spec import Study

EPOCHS = 2
"""One before the first rung and one after it."""

STEPS = 2
"""Of an epoch, at least."""

EACH = 2
"""Trials of each arm in each phase, and seeds of each cell."""

_SMALL_SIDE = 64
_CPU_BATCH = {True: 32, False: 8}
"""The largest batch without a GPU, by whether images are at most `_SMALL_SIDE` pixels wide."""


@dataclass(frozen=True)
class Miniature:
    """How a study is made small.

    Attributes:
        study: the whole one.
        size: pixels a side of its images.
        gpus: of this machine.
        cache: folder of what its frozen teachers say.
        stand_in: a checkpoint and the network it is for to the file that is used instead, itself where it is there.
        notes: what differs from the study besides its length, a sentence each; filled by `__call__`.
    """

    study: Study
    size: int
    gpus: float
    cache: str
    stand_in: Callable[[Any, Any], Any]
    notes: list[str] = field(default_factory=list)

    def __call__(self, file: SettingsFile) -> None:
        """Changes the values of the study's settings file, overrides applied, in place."""
        values = file.values
        values["study"] = f"{self.study.name}_rehearsal"
        self._training(values)
        for section in ("teacher", "student"):
            if _replace_networks(values.get(section)):
                self.notes.append(
                    f"{section}.network: without the weights that it brings itself, which are not fetched"
                )
        self._data(values)
        self._phases(values)
        if self.study.teacher_cache is not None:
            values["teacher_cache"] = {**(values.get("teacher_cache") or {}), "location": self.cache, "seed_from": None}
        given = self.study.resources
        gpu = given.gpu if self.gpus >= given.gpu else 0
        if gpu < given.gpu:
            self.notes.append(f"resources.gpu is {given.gpu:g}, here there is none: trials run on the CPU")
        values["resources"] = {"cpu": 1, "gpu": gpu}
        tracking = values.get("tracking") or {}
        if tracking.get("wandb"):
            values["tracking"] = {**tracking, "wandb": {**tracking["wandb"], "mode": "offline"}}
            self.notes.append("Weights & Biases: runs are written offline, nothing is sent")

    @property
    def _most(self) -> int | None:
        """The largest batch; None where there is a GPU to find out whether the study's own fits."""
        return None if self.gpus >= 1 else _CPU_BATCH[self.size <= _SMALL_SIDE]

    @property
    def _batch(self) -> int:
        """The largest batch of the rehearsal."""
        given = [TrainingSettings(**settings["training"]).batch_size for settings in self.study.configurations]
        largest = max([*given, *(teacher.batch_size for _, teacher in self.study.teacher.with_paths())])
        return largest if self._most is None else min(largest, self._most)

    def _data(self, values: dict[str, Any]) -> None:
        data = self.study.data
        needed = max([STEPS * self._batch, *map(_smallest_pool, self.study.configurations)])
        pool = (needed * 4 + 2) // 3  # a quarter of it validates
        changed: dict[str, Any] = {"rehearsal": pool}
        if isinstance(data, DataSettings):
            changed["limit_per_class"] = None
        if data.validation:
            changed["validation"] = pool // 4
        values["data"] = {**_mapping(values["data"]), **changed}

    def _training(self, values: dict[str, Any]) -> None:
        """Few epochs and small batches for students and teachers; checkpoints that are here, or stand-ins."""
        values["training"] = _mapping(values.get("training"))
        _set(values["training"], "epochs", EPOCHS, always=True)
        _set(values["training"], "milestones", None)
        _set(values.get("views"), "warmup_epochs", 1)
        before = len(self.notes)
        self._smaller_batches(values["training"], "training")
        if not self.study.teacher.absent:
            values["teacher"] = _mapping(values["teacher"])
            self._teacher(values["teacher"])
        _replace(values.get("student"), "checkpoint", self._student_file)
        for changes in _changes(values.get("ablation")):
            _replace(changes, "student.checkpoint", self._student_file)
            _replace(changes, "training.epochs", self._fewer_epochs)
            if isinstance(levels := changes.get("training.epochs"), list):
                changes["training.epochs"] = list(dict.fromkeys(levels))
            if "views.warmup_epochs" in changes and not isinstance(changes["views.warmup_epochs"], list):
                changes["views.warmup_epochs"] = min(1, changes["views.warmup_epochs"])
        self.notes[before:] = dict.fromkeys(self.notes[before:])

    def _fewer_epochs(self, epochs: Any) -> Any:
        """Epochs of a cell that trains for another time: still fewer or more than the base."""
        if not isinstance(epochs, int):
            return epochs
        return EPOCHS + (epochs > self.study.epochs) - (epochs < self.study.epochs)

    def _student_file(self, path: Any) -> Any:
        """What a student begins with in place of this file, by the first network that begins with it."""
        students = [settings["student"] for settings in self.study.configurations]
        own = [student["network"] for student in students if student.get("checkpoint") == path]
        return self.stand_in(path, (own or [students[0]["network"]])[0])

    def _teacher(self, teacher: dict[str, Any]) -> None:
        if teacher.get("checkpoint", "auto") == "auto":
            teacher |= {"epochs": 1, "milestones": None}
        else:
            teacher["checkpoint"] = self.stand_in(teacher["checkpoint"], teacher["network"])
        self._smaller_batches(teacher, "teacher")
        for key in ("others", "distilled_from"):
            for further in teacher.get(key) or ():
                self._teacher(further)

    def _smaller_batches(self, recipe: dict[str, Any], section: str) -> None:
        most = self._most
        if most is None:
            return
        if "batch_size" not in recipe and choice_key(recipe) is None and recipe.get("checkpoint", "auto") == "auto":
            recipe["batch_size"] = 64
        changed = _replace(recipe, "batch_size", lambda size: min(size, most) if isinstance(size, int) else size)
        if changed:
            self.notes.append(f"{section}.batch_size is at most {most} without a GPU")

    def _phases(self, values: dict[str, Any]) -> None:
        """Two trials of each arm, probe, confirmed configuration and cell; early stopping after the first epoch."""
        outline, search = Outline(self.study), self.study.search
        if search.searches:
            values["search"] = {**values["search"], "trials": EACH * len(self.study.arms), "fair": "per_arm"}
            for key in ("time_budget", "enqueue"):
                values["search"].pop(key, None)
            if search.seeds is not None:
                values["search"]["seeds"] = search.seeds[:EACH]
        values["scheduler"] = self._scheduler()
        if self.study.probe is not None:
            seeds = self.study.probe.seeds[:EACH]
            trials = EACH * max(1, len(outline.probed_arms))
            values["probe"] = {**values["probe"], "trials": trials, "seeds": seeds}
        if self.study.confirm is not None:
            values["confirm"] = {**values["confirm"], "top": 1, "seeds": self.study.confirm.seeds[:EACH]}
        ablation = self.study.ablation
        if ablation is not None:
            auto = ablation.auto_seeds
            few: Any = {"pilot": 3, "at_most": EACH, "first": auto.first} if auto else ablation.possible_seeds()[:EACH]
            values["ablation"] = {**values["ablation"], "seeds": few}

    def _scheduler(self) -> dict[str, Any]:
        name = self.study.scheduler.name
        if name == "asha":
            return {"name": name, "grace_period": 1, "reduction_factor": 2}
        if name == "median":
            return {"name": name, "grace_period": 1, "min_trials": 1}
        return {"name": name, "min_seeds": EACH} if name == "racing" else {"name": name}


def _smallest_pool(settings: Mapping[str, Any]) -> int:
    """Training items that the task of a trial needs."""
    section = settings.get("task") or {"name": DEFAULT_TASK}
    task = lookup("tasks", section["name"])
    needed: int = task(task.Settings(**{key: item for key, item in section.items() if key != "name"})).smallest_pool
    return needed


def _mapping(section: Any) -> dict[str, Any]:
    """A section as a mapping of its own; a name alone is that of a network or a data set."""
    if isinstance(section, str):
        return {"network" if section not in COMPONENTS else "name": section}
    return dict(section or {})


def _changes(ablation: Any) -> list[dict[str, Any]]:
    """The mappings of key paths that an ablation changes."""
    if not isinstance(ablation, Mapping):
        return []
    return [found for found in (ablation.get("factors"), *(ablation.get("arms") or {}).values()) if found]


def _set(node: Any, key: str, value: Any, always: bool = False) -> None:
    """Sets a key wherever it stands in a tree of settings, and where `always`, in every mapping that could hold it.

    A value that is 0 or null already stays: what is off is not turned on.
    """
    options = choice_key(node)
    if options is not None or isinstance(node, list):
        for item in node[options] if options is not None else node:
            _set(item, key, value, always)
    elif isinstance(node, dict) and (always or node.get(key)):
        node[key] = value


def _replace(node: Any, key: str, change: Callable[[Any], Any]) -> bool:
    """Changes the values of a key wherever it stands in a tree of settings; whether any is another one now."""
    options = choice_key(node)
    if options is not None or isinstance(node, list):
        items = node[options] if options is not None else node
        return isinstance(items, list) and sum(_replace(item, key, change) for item in items) > 0
    if not isinstance(node, dict) or node.get(key) is None:
        return False
    before = node[key]
    options = choice_key(before)
    if options is not None:
        node[key] = {options: list(dict.fromkeys(change(item) for item in before[options]))}
    elif isinstance(before, list):
        node[key] = [change(item) for item in before]
    elif not has_domain(before):
        node[key] = change(before)
    return bool(node[key] != before)


def without_weights(network: Any) -> Any:
    """A network's setting without the weights that it brings itself."""
    copied = copy.deepcopy(network)
    _replace_networks(copied)
    return copied


def _replace_networks(node: Any) -> bool:
    """Takes `weights` out of every network in a tree of settings; whether there were any."""
    if isinstance(node, list):
        return sum(map(_replace_networks, node)) > 0
    if not isinstance(node, dict):
        return False
    had = node.pop("weights", None) is not None
    return sum(map(_replace_networks, node.values())) > 0 or had

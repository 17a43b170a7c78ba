"""A study's data and components, loaded and built once before anything runs: what does not fit is refused here."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from akdtune import networks
from akdtune.contexts import method_context, view_context
from akdtune.data.row_sets import RowDataSet, RowSplit, Splits
from akdtune.errors import AkdtuneError, DataError, Problem, SettingsError
from akdtune.methods import Method, MethodContext
from akdtune.networks import Network
from akdtune.planning.checkpoint_files import check_checkpoints
from akdtune.registry import lookup
from akdtune.roles import TrainOn
from akdtune.settings.checkpoint import checkpoint_file
from akdtune.settings.data import student_augmentation
from akdtune.settings.file import written
from akdtune.settings.training import StudentSettings
from akdtune.settings.trial import pair_of, published
from akdtune.signals import UNLABELLED
from akdtune.study.proposals import trains_on
from akdtune.study.spec import Study
from akdtune.teacher import find
from akdtune.teacher.file import TeacherFile
from akdtune.training.parts import begin_with
from akdtune.training.task import task_of
from akdtune.views import ViewAugmenter, ViewContext

OF_STUDENTS = "training.augmentation"


@dataclass(frozen=True)
class Prepared:
    """The study's data, loaded on the driver to know its hash and its classes.

    Attributes:
        study: checked settings.
        dataset: its data.
        notes: how the files that students begin with were read, where that is not plain, by file.
    """

    study: Study
    dataset: RowDataSet
    notes: dict[str, str] = field(default_factory=dict, init=False, repr=False, compare=False)
    _splits: dict[TrainOn, Splits[RowSplit]] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def load(cls, study: Study, *, checked: bool = False) -> Prepared:
        """Loads (and where allowed downloads) the data; the study's checkpoints come first unless they are checked."""
        if not checked:
            check_checkpoints(study, missing=True)
        prepared = cls(study, task_of({"task": study.task}).load(study.data, torch.device("cpu")))
        prepared.check_components()
        return prepared

    def check_components(self) -> None:
        """Builds every network, view and method once on the data's shape: what does not fit is refused at once.

        Raises:
            SettingsError: naming the setting, and the networks where a view or a method does not fit them.
        """
        problems: dict[Problem, None] = dict.fromkeys(too_large_augmentations(self.study, self.dataset), None)
        settings, built = self.study.teacher, dict[str, Network | None]()
        teachers = {
            path: self._built(written(("teacher", *path, "network")), teacher.network, problems)
            for path, teacher in settings.with_paths()
            if not teacher.absent
        }
        main = teachers.get(())
        others = (network for path, network in teachers.items() if path[:1] == ("others",) and len(path) == 2)
        known_others = [network for network in others if network]
        corners = self.study.configurations
        for network in _distinct(corner["student"]["network"] for corner in corners):
            built[network_label(network)] = self._built("student.network", network, problems)
        for student in _distinct(corner["student"] for corner in corners):
            self._begin(student, built[network_label(student["network"])], problems)
        if not problems:
            widths: dict[str, tuple[int, ...]] = {}
            for parts in _distinct(_taught(corner) for corner in corners):
                network, views, task = parts
                student = built[network_label(network)]
                assert student is not None
                further, alike = self._clients(task)
                known = (main, [*known_others, *further], self.dataset.num_classes, torch.device("cpu"), 0, alike)
                view = self._try("views", views, view_context(student, *known), settings.network, problems)
                widths[json.dumps(parts)] = view.pooled_dims if isinstance(view, ViewAugmenter) else ()
            labels_N = self.split(self.train_on).train.training_labels_N
            of_corners = ((corner, method) for corner in corners for method in corner["method"])
            triples = ([of["student"]["network"], method, widths[json.dumps(_taught(of))]] for of, method in of_corners)
            for network, method, pooled_dims in _distinct(triples):
                student = built[network_label(network)]
                assert student is not None
                rest = (labels_N, self.dataset.num_classes, self.study.epochs, 0, pooled_dims)
                of_method = method_context(method["name"], student, main, *rest)
                self._try("methods", method, of_method, settings.network, problems, network)
        if problems:
            raise SettingsError(problems)

    def _built(self, key: str, network: Any, problems: dict[Problem, None]) -> Network | None:
        try:
            return networks.build(network, self.dataset.inputs, 0)
        except AkdtuneError as error:
            problems[Problem(key, str(error), None, self.study.source)] = None
            return None

    def _clients(self, task: Mapping[str, Any] | None) -> tuple[Sequence[Network], Sequence[int]]:
        """Networks of the clients that teach in a task, and a number each for their architecture.

        Raises:
            SettingsError: for clients that cannot be built, and data that the task cannot use.
        """
        of_trials = task_of({"task": task})
        try:
            for train_on in self.trains_on:
                of_trials.check_splits(self.split(train_on))
            return of_trials.clients(self.dataset.inputs), of_trials.others_alike
        except AkdtuneError as error:
            key, colon, message = str(error).partition(": ")
            placed = colon and key.startswith("task.")
            said = (key, message) if placed else ("task", str(error))
            raise SettingsError([Problem(*said, None, self.study.source)]) from error

    def _begin(self, student: Mapping[str, Any], built: Network | None, problems: dict[Problem, None]) -> None:
        """Reads the file that a student begins with, as a trial would, into a copy of its network."""
        if student["checkpoint"] is None or built is None:
            return
        try:
            if note := begin_with(copy.deepcopy(built), StudentSettings(**student)):
                self.notes[checkpoint_file(student["checkpoint"]).label] = note
        except AkdtuneError as error:
            problems[Problem("student.checkpoint", str(error), None, self.study.source)] = None

    def _try(
        self,
        kind: Literal["views", "methods"],
        setting: Mapping[str, Any],
        context: ViewContext | MethodContext,
        teacher: str | dict[str, Any],
        problems: dict[Problem, None],
        student: str | dict[str, Any] | None = None,
    ) -> ViewAugmenter | Method | None:
        """A view or a method as a trial would build it; None where it does not fit."""
        component = lookup(kind, setting["name"])
        typed = component.Settings(**{key: value for key, value in setting.items() if key != "name"})
        section = "views" if kind == "views" else "method"
        try:
            built: ViewAugmenter | Method = component(typed, context)
        except AkdtuneError as error:
            key, colon, message = str(error).partition(": ")
            if not (colon and key.startswith(f"{section}.")):
                key, message = section, str(error)
            networks = f" (teacher network: {network_label(teacher)}"
            networks += f", student network: {network_label(student)})" if student is not None else ")"
            problems[Problem(key, message + networks, None, self.study.source)] = None
            return None
        return built

    @property
    def data_hash(self) -> str:
        """Content hash of the stored images and labels."""
        return self.dataset.content_hash

    @functools.cached_property
    def trains_on(self) -> list[TrainOn]:
        """Which images trials of the study train on, those of its first trials first."""
        return trains_on(self.study)

    @property
    def train_on(self) -> TrainOn:
        """The images of the study's first trials, by which its settings are checked."""
        return self.trains_on[0]

    def split(self, train_on: TrainOn) -> Splits[RowSplit]:
        """The images that trials train and are judged on."""
        if train_on not in self._splits:
            self._splits[train_on] = self.dataset.split(train_on)
        return self._splits[train_on]

    def seen_by(self, settings: Mapping[str, Any]) -> RowDataSet:
        """The data under the augmentation of a trial's student."""
        return self.dataset.under(student_augmentation(settings["training"]), OF_STUDENTS)

    @functools.cached_property
    def seen(self) -> list[RowDataSet]:
        """The data under every augmentation that students may train on, that of the first trial first."""
        return seen_by_students(self.study, self.dataset)

    def find_teacher(self, train_on: TrainOn | None = None) -> TeacherFile | None:
        """The study's teacher if it exists already; that of its first trials by default."""
        return find.find_teacher(self.study.teacher, self.dataset, train_on or self.train_on)

    @functools.cached_property
    def class_counts(self) -> list[int]:
        """Training images of each class, as the methods see them (label noise included)."""
        labels = self.split(self.train_on).train.training_labels_N.cpu()
        counts = torch.bincount(labels[labels != UNLABELLED], minlength=self.dataset.inputs.num_classes)
        return [int(count) for count in counts]

    def facts(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """What follows from data, networks and methods where the settings leave it open.

        `method.<name>.<fact>`, e.g. CRD's resolved negatives; `method.<name>.published`, the values taken because they
        are published for this data set and pair of networks; `training.ce_weight[<methods>]`, the weight of the
        cross-entropy where none is set. Where the study has several students the last two name the one they hold for.
        """
        counts = self.class_counts
        pair = pair_of(settings, settings["student"])
        assert pair is not None, "the settings of a trial name every network"
        of_student = f", {pair.student}" if len(self._student_names) > 1 else ""
        facts: dict[str, Any] = {}
        for method in settings["method"]:
            name = method["name"]
            component = lookup("methods", name)
            typed = component.Settings(**{key: value for key, value in method.items() if key != "name"})
            facts |= {f"method.{name}.{key}": value for key, value in component.facts(typed, counts).items()}
            taken = [(key, value) for key, value in published(name, {}, pair).items() if method.get(key) == value]
            if taken:
                values = ", ".join(f"{key} {value}" for key, value in sorted(taken))
                key = f"method.{name}.published" + (f"[{pair.student}]" if of_student else "")
                facts[key] = f"{values} (for {component.published_for(pair)})"
        if settings["training"]["ce_weight"] is None and not task_of(settings).has_clients:
            terms = [method["name"] for method in settings["method"]]
            weight = max(lookup("methods", name).ce_weight(pair) for name in terms)
            facts[f"training.ce_weight[{'+'.join(terms)}{of_student}]"] = weight
        return facts

    @functools.cached_property
    def _student_names(self) -> set[str]:
        networks = (arm.centre().settings["student"]["network"] for arm in self.study.arms)
        return {network if isinstance(network, str) else network["name"] for network in networks}


def too_large_augmentations(study: Study, dataset: RowDataSet) -> list[Problem]:
    """Parts of what teachers and students see that are larger than the images."""
    given = [
        (written(("teacher", *path, "augmentation")), teacher.augmentation)
        for path, teacher in study.teacher.with_paths()
        if teacher.checkpoint == "auto"
    ]
    of_students = _given_to_students(study)
    given += [(OF_STUDENTS, student_augmentation({"augmentation": augmentation})) for augmentation in of_students]
    problems: dict[Problem, None] = {}
    for key, augmentation in given:
        try:
            dataset.under(augmentation, key)
        except DataError as error:
            at, _, message = str(error).partition(" ")
            problems[Problem(at, message, None, study.source)] = None
    return list(problems)


def seen_by_students(study: Study, dataset: RowDataSet) -> list[RowDataSet]:
    """The data under every augmentation that students may train on, each once."""
    given = _given_to_students(study)
    seen: dict[str, RowDataSet] = {}
    for augmentation in given:
        under = dataset.under(student_augmentation({"augmentation": augmentation}), OF_STUDENTS)
        seen.setdefault(json.dumps(under.augmentation.facts()), under)
    return list(seen.values())


def _given_to_students(study: Study) -> list[Any]:
    """`training.augmentation` of known trials, and of cells whose base a search decides on; each value once."""
    cells = [cell.settings for plan in study.possible_cells for cell in plan.cells]
    return _distinct(settings["training"].get("augmentation") for settings in [*study.configurations, *cells])


def _taught(corner: Mapping[str, Any]) -> list[Any]:
    """What the views of a configuration are built for."""
    return [corner["student"]["network"], corner["views"], corner.get("task")]


def _distinct(values: Iterable[Any]) -> list[Any]:
    return list({json.dumps(value, sort_keys=True): value for value in values}.values())


def network_label(network: str | Mapping[str, Any]) -> str:
    """A network as a message shows it: `resnet20`, `cnn (widths: [4, 8])`."""
    if isinstance(network, str):
        return network
    settings = ", ".join(f"{key}: {value}" for key, value in network.items() if key != "name")
    return f"{network['name']} ({settings})" if settings else str(network["name"])

"""Measured on real images: what the targets of each cell do to the student.

Cells whose views have heads that still have to be trained are left out: their targets are not known yet. The controls
that put the teacher's own output in the views' place are exact at any time.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from akdtune import networks
from akdtune.data.row_sets import RowDataSet
from akdtune.designs.cells import Cell
from akdtune.designs.no_effect import canonical
from akdtune.methods import Method
from akdtune.registry import lookup
from akdtune.roles import TrainOn
from akdtune.settings.training import TrainingSettings
from akdtune.settings.trial import pair_of, resolve_ce_weight
from akdtune.signals import Batch, Inputs, Signals, labelled_rows
from akdtune.teacher.file import TeacherFile
from akdtune.teacher.find import load_others, load_teacher
from akdtune.training.config import TrialConfig
from akdtune.training.gradient_factor import gradient_factors
from akdtune.training.objective import Objective
from akdtune.training.parts import build_parts
from akdtune.training.pull import Pull, largest_difference, pull
from akdtune.training.request import TrialRequest
from akdtune.training.told import untaught_rows
from akdtune.views import ViewAugmenter
from akdtune.views.none import NoViews

IMAGES = 256
"""Training images on which targets are measured."""

ROUNDING = 2e-5
"""By so much, as a share of its length, rounding alone changes a gradient at most: 4e-7 where the plain teacher stands
in the place of views, 6e-6 where its temperature was solved for (half of the last interval of log T)."""


@dataclass(frozen=True)
class Taught:
    """What the targets of one cell do to a student, on real images.

    Attributes:
        factors: by what they multiply the gradient of each loss term; empty without views, or where none reads them.
        pulls: those gradients for two students; None where the targets are not the same whenever they are asked for,
            and where nobody asked.
    """

    factors: Mapping[str, float]
    pulls: tuple[Pull, ...] | None

    def difference(self, other: Taught) -> float | None:
        """The largest difference of two cells' gradients, as a share of their length; None where it says nothing."""
        if self.pulls is None or other.pulls is None:
            return None
        return max(largest_difference(*pair) for pair in zip(self.pulls, other.pulls, strict=True))


@dataclass(frozen=True)
class Sample:
    """The first training items of a study, and the networks that say something about them.

    Attributes:
        inputs, labels_B, sample_ids_B: of the items, as a student trains on them.
        teachers: networks, the main one first.
        untaught_B, right_labels_B: as of a `Batch`.
    """

    inputs: Inputs
    labels_B: Tensor
    sample_ids_B: Tensor
    teachers: Sequence[networks.Network]
    untaught_B: Tensor | None = None
    right_labels_B: Tensor | None = None

    def batch(self, views: ViewAugmenter, seed: int = 0, epoch: int = 1) -> Batch:
        """These images as a batch for some views, whose draws follow from a seed."""
        generator = torch.Generator().manual_seed(seed)
        positions_B, labelled_B = torch.arange(len(self.labels_B)), labelled_rows(self.labels_B)
        right_B = self.right_labels_B if views.reads_right_labels else None
        return Batch(
            self.labels_B,
            self.sample_ids_B,
            positions_B,
            epoch,
            generator,
            labelled_B=labelled_B,
            untaught_B=self.untaught_B,
            right_labels_B=right_B,
        )

    def of_teacher(self, maps: bool) -> Signals:
        """What the teachers say."""
        return _signals(self.teachers[0], self.teachers[1:], self.inputs, maps)

    def of_students(self, student: networks.Network, teacher: Signals, maps: bool) -> tuple[Signals, Signals]:
        """What a student says, and what a second one does: as sure as the teacher, and of other images."""
        first = _signals(student, (), self.inputs, maps)
        drawn_BK = torch.randn(teacher.logits_BK.shape, generator=torch.Generator().manual_seed(0))
        if isinstance(self.inputs, Tensor):
            elsewhere = _signals(student, (), self.inputs.roll(1, 0), maps)
        else:
            elsewhere = first.rows(torch.arange(len(self.labels_B)).roll(1))
        second = replace(elsewhere, logits_BK=drawn_BK * teacher.logits_BK.std(), strong=None)
        return first, replace(second, strong=second)


@torch.no_grad()
def _signals(main: networks.Network, others: Sequence[networks.Network], inputs: Inputs, maps: bool) -> Signals:
    """What a network says about plain inputs, with every signal that a method may read."""
    own: Signals = main(inputs, maps)
    if maps:
        own = replace(own, classifier=main.classifier())
    further = tuple(other(inputs) for other in others)
    return replace(own, others=further, strong=own)  # a second version of the images shows the same factors


def of_cells(
    cells: Sequence[Cell],
    dataset: RowDataSet,
    train_on: TrainOn,
    file: TeacherFile,
    teachers: Sequence[networks.Network] = (),
) -> dict[str, Taught]:
    """What is measured, by name; of cells with views, and of those that differ from another cell in views alone.

    Cells that are declared to repeat another one are left out.

    Args:
        cells: with filled-in settings.
        dataset: loaded.
        train_on: the split whose training images are taken.
        file: the trained teacher.
        teachers: its networks on the CPU, the main one first, where they are loaded already.
    """
    own = [cell for cell in cells if cell.replica_of is None]
    alike = Counter(map(beside_views, own))
    looked_at = [cell for cell in own if cell.settings["views"]["name"] != "none" or alike[beside_views(cell)] > 1]
    if file.absent or not looked_at:
        return {}
    device = torch.device("cpu")
    if not teachers:
        teachers = (load_teacher(file, dataset.inputs, device), *load_others(file, dataset.inputs, device))
    train = dataset.split(train_on).train
    positions_B, inputs = train.sample(max(1, IMAGES * train.items // len(train)))
    labels_B = train.training_labels_N[positions_B].cpu()
    untaught_N = untaught_rows(train)
    untaught_B = None if untaught_N is None else untaught_N[positions_B].cpu()
    of_rows = untaught_B, train.labels_N[positions_B].cpu()
    sample = Sample(inputs, labels_B, train.sample_ids_N[positions_B].cpu(), teachers, *of_rows)
    by_cell: dict[str, Taught] = {}
    for cell in looked_at:
        compared = alike[beside_views(cell)] > 1
        config = TrialConfig.parse(TrialRequest(settings=cell.settings, role=cell.role, teacher_file=file))
        objective, student = build_parts(config, teachers[0], teachers[1:], dataset, train.training_labels_N)
        if not objective.views.warmup_epochs and not objective.views.trains_jointly:
            by_cell[cell.name] = taught(objective, student, sample, config.training.epochs if compared else None)
    return by_cell


def beside_views(cell: Cell) -> str:
    """Equal for cells that differ in nothing but their views, the weight of the cross-entropy as a number."""
    settings = {section: values for section, values in canonical(cell.settings).items() if section != "views"}
    methods = [lookup("methods", term["name"]) for term in cell.settings["method"]]
    pair = pair_of(cell.settings, cell.settings["student"])
    assert pair is not None, "a cell's data, teacher and student are known"
    weight = resolve_ce_weight(TrainingSettings(**cell.settings["training"]), methods, pair)
    return json.dumps({**settings, "training": {**settings["training"], "ce_weight": weight}}, sort_keys=True)


def taught(objective: Objective, student: networks.Network, sample: Sample, epochs: int | None) -> Taught:
    """What an objective's targets do to a student that has not trained yet.

    Views are asked twice, with other random draws, another student and another epoch: targets that depend on one of
    these are compared with nobody's. Methods draw from a generator of their own, whatever views have drawn.

    Args:
        objective: as built.
        student: as built.
        sample: images, and the trained teachers.
        epochs: of the student; None where the targets are not to be compared.
    """
    maps = objective.needs_maps
    of_teacher = sample.of_teacher(maps)
    students = sample.of_students(student.eval(), of_teacher, maps)
    methods: Mapping[str, Any] = {
        name: method for name, method in objective.methods.items() if isinstance(method, Method)
    }
    views = objective.train().views
    teaching, batch = views.teach(of_teacher, students[0], sample.batch(views)), sample.batch(views)
    factors = {}
    if not isinstance(views, NoViews):
        factors = gradient_factors(methods, of_teacher, students[0], batch, teaching, teaching)
    if epochs is None:
        return Taught(factors, None)
    again = views.teach(of_teacher, students[1], sample.batch(views, seed=1, epoch=epochs))
    first, elsewhere = (
        pull(methods, of_teacher, students[0], batch, given, given, epochs) for given in (teaching, again)
    )
    if largest_difference(first, elsewhere) > ROUNDING:
        return Taught(factors, None)
    second = pull(methods, of_teacher, students[1], sample.batch(views), teaching, teaching, epochs)
    return Taught(factors, (first, second))

"""Measured on real images: by what the views of each cell multiply the gradient of every loss term.

Cells whose views have heads that still have to be trained are left out: their targets are not known yet. The controls
that put the teacher's own output in the views' place are exact at any time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from akdtune import networks
from akdtune.data.dataset import DataSet
from akdtune.designs.cells import Cell
from akdtune.methods import Method
from akdtune.roles import TrainOn
from akdtune.signals import Batch, Signals
from akdtune.teacher.file import TeacherFile
from akdtune.teacher.find import load_others, load_teacher
from akdtune.training.config import TrialConfig
from akdtune.training.gradient_factor import gradient_factors
from akdtune.training.parts import build_parts
from akdtune.training.request import TrialRequest

IMAGES = 256
"""Training images on which factors are measured."""


@torch.no_grad()
def _signals(main: networks.Network, others: Sequence[networks.Network], images_BCHW: Tensor, maps: bool) -> Signals:
    """What a network says about plain images, with every signal that a method may read."""
    own: Signals = main(images_BCHW, maps=True) if maps else main(images_BCHW)
    if maps:
        own = replace(own, classifier=main.classifier())
    further = tuple(other(images_BCHW) for other in others)
    return replace(own, others=further, strong=own)  # a second version of the images shows the same factors


def of_cells(
    cells: Sequence[Cell],
    dataset: DataSet,
    train_on: TrainOn,
    file: TeacherFile,
    teachers: Sequence[networks.Network] = (),
) -> dict[str, dict[str, float]]:
    """Factor by cell name and loss term; cells without views, whose methods read none, or that repeat another are
    left out.

    Args:
        cells: with filled-in settings.
        dataset: loaded.
        train_on: the split whose training images are taken.
        file: the trained teacher.
        teachers: its networks on the CPU, the main one first, where they are loaded already.
    """
    viewed = [cell for cell in cells if cell.settings["views"]["name"] != "none" and cell.replica_of is None]
    if file.absent or not viewed:
        return {}
    device = torch.device("cpu")
    if not teachers:
        teachers = (load_teacher(file, dataset.inputs, device), *load_others(file, dataset.inputs, device))
    main, others = teachers[0], teachers[1:]
    train = dataset.split(train_on).train
    positions_B = torch.arange(min(IMAGES, len(train)))
    images_BCHW = train.images(positions_B).cpu()
    labels_B = train.training_labels_N[positions_B].cpu()
    by_cell: dict[str, dict[str, float]] = {}
    for cell in viewed:
        config = TrialConfig.parse(TrialRequest(settings=cell.settings, role=cell.role, teacher_file=file))
        objective, student = build_parts(config, main, others, dataset, train.training_labels_N)
        if objective.views.warmup_epochs or objective.views.trains_jointly:
            continue
        of_teacher = _signals(main, others, images_BCHW, objective.needs_maps)
        of_student = _signals(student.eval(), (), images_BCHW, objective.needs_maps)
        generator = torch.Generator().manual_seed(0)
        batch = Batch(labels_B, train.sample_ids_N[positions_B].cpu(), positions_B, 1, generator)
        objective.train()
        teaching = objective.views.teach(of_teacher, of_student, batch)
        methods: Mapping[str, Any] = {
            name: method for name, method in objective.methods.items() if isinstance(method, Method)
        }
        factors = gradient_factors(methods, of_teacher, of_student, batch, teaching, teaching)
        if factors:
            by_cell[cell.name] = factors
    return by_cell

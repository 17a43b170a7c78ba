"""Small inputs for tests of views and methods: contexts, signals, batches. Seeded, tiny, on the CPU."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from akdtune.methods import Method, MethodContext
from akdtune.registry import lookup
from akdtune.signals import Batch, Signals
from akdtune.views import ViewAugmenter, ViewContext

CLASSES, STUDENT_DIM, TEACHER_DIM, IMAGES = 7, 6, 12, 42
EPOCHS = 30
STUDENT_STAGES = ((4, 8, 8), (5, 8, 8), (STUDENT_DIM, 4, 4))
TEACHER_STAGES = ((6, 8, 8), (8, 8, 8), (TEACHER_DIM, 4, 4))
OTHERS_DIMS = (TEACHER_DIM, 10)
CPU = torch.device("cpu")
LABELS_N = torch.arange(IMAGES) % CLASSES


def method_context(classes: int = CLASSES, seed: int = 3, **changes: Any) -> MethodContext:
    """What methods know of the small world; `changes` replace attributes."""
    generator = torch.Generator().manual_seed(seed)
    weight_KC = torch.randn(classes, TEACHER_DIM, generator=generator)
    norms = tuple(
        (torch.rand(shape[0], generator=generator) + 0.5, torch.randn(shape[0], generator=generator) * 0.2)
        for shape in TEACHER_STAGES[1:]
    )
    context = MethodContext(
        num_classes=classes,
        student_dim=STUDENT_DIM,
        teacher_dim=TEACHER_DIM,
        student_stages=STUDENT_STAGES,
        teacher_stages=TEACHER_STAGES,
        student_last_map=STUDENT_STAGES[-1],
        teacher_last_map=TEACHER_STAGES[-1],
        teacher_classifier=(weight_KC, torch.zeros(classes)),
        teacher_norms=norms,
        train_labels_N=LABELS_N % classes,
        epochs=EPOCHS,
        device=CPU,
        generator=torch.Generator().manual_seed(seed),
    )
    return replace(context, **changes)


def method(name: str, pooled_dims: tuple[int, ...] = (), **settings: Any) -> Method:
    """A method on the small world, always initialised alike; `pooled_dims` are widths of its pooled targets."""
    component = lookup("methods", name)
    built: Method = component(component.Settings(**settings), method_context(pooled_dims=pooled_dims))
    return built


def view_context(classes: int = CLASSES, dim: int = TEACHER_DIM, seed: int = 4) -> ViewContext:
    """What views know of the small world."""
    generator = torch.Generator().manual_seed(seed)
    classifier = (torch.randn(classes, dim, generator=generator), torch.zeros(classes))
    return ViewContext(classes, dim, classifier, STUDENT_DIM, OTHERS_DIMS, CPU, generator)


def views(name: str, **settings: Any) -> ViewAugmenter:
    """A view augmenter on the small world, always initialised alike."""
    component = lookup("views", name)
    built: ViewAugmenter = component(component.Settings(**settings), view_context())
    return built


def signals(
    seed: int, dim: int, size: int = 9, requires_grad: bool = False, strong: bool = True, classes: int = CLASSES
) -> Signals:
    """Everything that a network may say about a batch, random, with maps of the student's or the teacher's shapes.

    The last map is the last stage's, and the pooled feature its spatial mean, as in a real network; logits are drawn
    on their own, so that each signal can be followed alone.
    """
    generator = torch.Generator().manual_seed(seed)
    shapes = STUDENT_STAGES if dim == STUDENT_DIM else TEACHER_STAGES
    preact = tuple(torch.randn(size, *shape, generator=generator).requires_grad_(requires_grad) for shape in shapes)
    stages = tuple(stage.relu() for stage in preact)
    logits_BK = (torch.randn(size, classes, generator=generator) * 3).requires_grad_(requires_grad)
    weight_KC = torch.randn(classes, dim, generator=generator).requires_grad_(requires_grad)
    pooled_BC = (stages[-1].mean(dim=(2, 3)) + 0.01).detach().requires_grad_(requires_grad)
    others = ()
    if dim == TEACHER_DIM:
        others = tuple(
            Signals(torch.randn(size, classes, generator=generator) * 3, torch.rand(size, width, generator=generator))
            for width in OTHERS_DIMS
        )
    again = signals(seed + 1000, dim, size, requires_grad, strong=False, classes=classes) if strong else None
    answers_BJK = (torch.randn(size, 3, classes, generator=generator) * 3).requires_grad_(requires_grad)
    maps = stages, preact, stages[-1], (weight_KC, torch.zeros(classes))
    return Signals(logits_BK, pooled_BC, *maps, again, others, answers_BJK=answers_BJK)


def batch(size: int = 9, epoch: int = 1, seed: int = 5) -> Batch:
    """A batch of the first images of a fixed permutation, with a fresh generator."""
    generator = torch.Generator().manual_seed(seed)
    positions_B = torch.randperm(IMAGES, generator=torch.Generator().manual_seed(6))[:size]
    return Batch(LABELS_N[positions_B], positions_B + 1000, positions_B, epoch, generator)

"""Small inputs for tests of views and methods: contexts, signals, batches. Seeded, tiny, on the CPU."""

from __future__ import annotations

from typing import Any

import torch

from akdtune.methods import Method, MethodContext
from akdtune.registry import lookup
from akdtune.signals import Batch, Signals
from akdtune.views import ViewAugmenter, ViewContext

CLASSES, STUDENT_DIM, TEACHER_DIM, IMAGES = 7, 6, 12, 42
CPU = torch.device("cpu")
LABELS_N = torch.arange(IMAGES) % CLASSES


def method(name: str, **settings: Any) -> Method:
    """A method on the small world, always initialised alike."""
    component = lookup("methods", name)
    stages = ((4, 8, 8), (6, 4, 4))
    generator = torch.Generator().manual_seed(3)
    context = MethodContext(CLASSES, STUDENT_DIM, TEACHER_DIM, stages, stages, LABELS_N, CPU, generator)
    built: Method = component(component.Settings(**settings), context)
    return built


def view_context(classes: int = CLASSES, dim: int = TEACHER_DIM, seed: int = 4) -> ViewContext:
    """What views know of the small world."""
    generator = torch.Generator().manual_seed(seed)
    classifier = (torch.randn(classes, dim, generator=generator), torch.zeros(classes))
    return ViewContext(classes, dim, classifier, CPU, generator)


def views(name: str, **settings: Any) -> ViewAugmenter:
    """A view augmenter on the small world, always initialised alike."""
    component = lookup("views", name)
    built: ViewAugmenter = component(component.Settings(**settings), view_context())
    return built


def signals(seed: int, dim: int, size: int = 9, requires_grad: bool = False) -> Signals:
    """Random logits and (like a pooled ReLU feature) non-negative features."""
    generator = torch.Generator().manual_seed(seed)
    logits_BK = torch.randn(size, CLASSES, generator=generator) * 3
    pooled_BC = torch.randn(size, dim, generator=generator).relu() + 0.01
    return Signals(logits_BK.requires_grad_(requires_grad), pooled_BC.requires_grad_(requires_grad))


def batch(size: int = 9, epoch: int = 1, seed: int = 5) -> Batch:
    """A batch of the first images of a fixed permutation, with a fresh generator."""
    generator = torch.Generator().manual_seed(seed)
    positions_B = torch.randperm(IMAGES, generator=torch.Generator().manual_seed(6))[:size]
    return Batch(LABELS_N[positions_B], positions_B + 1000, positions_B, epoch, generator)

"""Base distillation methods: one file each, registered under the file's name.

A method maps (student signals, target, batch) to unweighted named terms. It multiplies no term by its weight: that
is `objective.py`'s work, with the numbers that `weights` gives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from akdtune.registry import Component, ComponentSettings, Kind
from akdtune.signals import Batch, Signals, Target, Terms


@dataclass(frozen=True)
class MethodContext:
    """What a method may know about the trial it serves.

    Attributes:
        num_classes: K.
        student_dim, teacher_dim: widths of the pooled features.
        student_stages, teacher_stages: shapes (C, H, W) of the stage maps, stem first.
        train_labels_N: the labels of the training subset in position order, int64, on the device.
        device: where parameters and buffers live.
        generator: seeded by the trial's init seed; every random initialisation of the method draws from it (CPU).
    """

    num_classes: int
    student_dim: int
    teacher_dim: int
    student_stages: tuple[tuple[int, int, int], ...]
    teacher_stages: tuple[tuple[int, int, int], ...]
    train_labels_N: Tensor
    device: torch.device
    generator: torch.Generator


class Method(Component, nn.Module):
    """Contract of a base method.

    Class attributes:
        consumes: which targets of the view augmenter it is given: `logits` or `pooled`.
        needs_stages: whether student and teacher stage maps must be computed.
        default_ce_weight: the published weight of the student's cross-entropy beside this method; a sum of methods
            takes the largest.
    """

    kind: ClassVar[Kind] = "methods"
    consumes: ClassVar[Literal["logits", "pooled"]] = "logits"
    needs_stages: ClassVar[bool] = False
    default_ce_weight: ClassVar[float] = 1.0

    def __init__(self, settings: ComponentSettings, context: MethodContext) -> None:
        super().__init__()

    def terms(self, student: Signals, target: Target, batch: Batch) -> Terms:
        """Unweighted named scalar terms for one target; called once per target of a sum over views."""
        raise NotImplementedError

    def weights(self, epoch: int) -> Mapping[str, float]:
        """The weight of each term at a student epoch (counted from 1), ramps included."""
        raise NotImplementedError

    def after_step(self) -> None:
        """Called after backward and the optimiser step: the place to update memory banks."""

    @classmethod
    def facts(cls, settings: ComponentSettings, class_counts_K: list[int]) -> dict[str, Any]:
        """Numbers that follow from the data, for the lock file and the plan (CRD: the resolved negatives)."""
        return {}

"""Base distillation methods: one file each, registered under the file's name.

A method maps (student signals, target, batch) to unweighted named terms. It multiplies no term by its weight: that
is the work of `akdtune.training.objective`, with the numbers that `weights` gives. In a notebook, `Method.alone` builds
one without a trial.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from typing_extensions import Self

from akdtune.columns import Column
from akdtune.registry import Component, ComponentSettings, Kind, Pair, settings_given
from akdtune.signals import SMALL_STAGES, Batch, Signals, Target, Terms

CIFAR100, IMAGENET = "cifar100", "imagenet"
"""Names of the data sets that settings are published for."""

RESNET18, MOBILENET_V1 = ("torchvision_resnet34", "torchvision_resnet18"), ("torchvision_resnet50", "MobileNetV1")
"""Teacher and student of the two pairs that ImageNet's numbers are published for.

CAT-KD's code and an early version of mdistiller call the second student MobileNetV2; its blocks are V1's."""

Shape = tuple[int, int, int]
"""(C, H, W) of a map."""


def published_on(pair: Pair) -> str:
    """The data set whose published numbers a pair takes: ImageNet's on `imagenet` alone, CIFAR-100's on any other.

    So images that come through `parquet` or `image_folder` take CIFAR-100's numbers for their pair of networks, as do
    data sets that nothing is published for; what a study gives wins.
    """
    return IMAGENET if pair.data == IMAGENET else CIFAR100


@dataclass(frozen=True)
class MethodContext:
    """What a method may know about the trial it serves.

    Attributes:
        num_classes: K.
        student_dim, teacher_dim: widths of the pooled features (0 without a teacher).
        student_stages, teacher_stages: shapes of the stage maps, stem first.
        student_last_map, teacher_last_map: shapes of the maps whose spatial mean is the pooled feature; None where a
            network has none.
        teacher_classifier: (weight [K, C], bias [K]) of the teacher's last layer, without a gradient; None without a
            teacher.
        teacher_norms: (weight [C], bias [C]) of the BatchNorm that ends in each pre-ReLU stage map, without the stem;
            empty where the teacher has none.
        train_labels_N: the labels of the training subset in position order, int64, on the device.
        epochs: student epochs of the trial.
        device: where parameters and buffers live.
        generator: seeded by the trial's init seed; every random initialisation of the method draws from it (CPU).
        pooled_dims: width of each kind of pooled target, by `Target.place`; empty: one kind, of the teacher's width.
    """

    num_classes: int
    student_dim: int
    teacher_dim: int
    student_stages: tuple[Shape, ...]
    teacher_stages: tuple[Shape, ...]
    student_last_map: Shape | None
    teacher_last_map: Shape | None
    teacher_classifier: tuple[Tensor, Tensor] | None
    teacher_norms: tuple[tuple[Tensor, Tensor], ...]
    train_labels_N: Tensor
    epochs: int
    device: torch.device
    generator: torch.Generator
    pooled_dims: tuple[int, ...] = ()


class Method(Component, nn.Module):
    """Contract of a base method.

    Class attributes:
        consumes: what its target is. `logits`: each logit target of the views. `pooled`: each pooled target of the
            views. `stages`: the plain teacher's maps, whatever the views are. `self`: the student's own output
            without a gradient, so that no teacher is needed.
        needs: which maps student and teacher must offer, `strong` for signals of strongly augmented images, and
            `answers` for several answers of the student, which are asked of no teacher.
        default_ce_weight: the published weight of the student's cross-entropy beside this method; a sum of methods
            takes the largest.
        imagenet_pairs: the pairs that ImageNet's numbers are published for; any other takes them over.
        reads_labels: whether its terms depend on labels; it is then given the rows only that have one. A method that
            does not say so is taken to read them.
        replaces_logits: the student predicts through `logits` (SimKD), in training and evaluation.
        overlaps_batches: each batch begins with the images of the one before (`Batch.repeated`).
        any_width: whether its pooled targets may differ in width, as it has a part for each (`pooled_dims`).
        columns: what `measures` returns: unit, meaning, and how the epochs of a trial become one value.
    """

    kind: ClassVar[Kind] = "methods"
    consumes: ClassVar[Literal["logits", "pooled", "stages", "self"]] = "logits"
    needs: ClassVar[frozenset[Literal["stages", "preact", "last_map", "strong", "answers"]]] = frozenset()
    default_ce_weight: ClassVar[float] = 1.0
    imagenet_pairs: ClassVar[tuple[tuple[str, str], ...]] = (RESNET18, MOBILENET_V1)
    reads_labels: ClassVar[bool] = True
    replaces_logits: ClassVar[bool] = False
    overlaps_batches: ClassVar[bool] = False
    any_width: ClassVar[bool] = False
    columns: ClassVar[tuple[Column, ...]] = ()

    def __init__(self, settings: ComponentSettings, context: MethodContext) -> None:
        super().__init__()

    @classmethod
    def alone(
        cls,
        num_classes: int = 10,
        *,
        student_dim: int = SMALL_STAGES[-1][0],
        teacher_dim: int = SMALL_STAGES[-1][0],
        student_stages: Sequence[Shape] = SMALL_STAGES,
        teacher_stages: Sequence[Shape] = SMALL_STAGES,
        teacher_classifier: tuple[Tensor, Tensor] | None = None,
        train_labels_N: Tensor | None = None,
        epochs: int = 240,
        device: str | torch.device = "cpu",
        init_seed: int = 0,
        **settings: Any,
    ) -> Self:
        """This method without a trial, for a notebook or a training loop of one's own.

        `terms` gives the unweighted losses, `weights(epoch)` what to multiply them by, `parameters()` what else has
        to train; `after_step()` belongs after each step of the optimiser. In a study the networks and the data say
        all that is given here.

        Args:
            num_classes: K.
            student_dim: width of the student's pooled feature.
            teacher_dim: width of the teacher's.
            student_stages: (C, H, W) of the student's stage maps, stem first; the last one is its last map, too.
            teacher_stages: the same of the teacher. The BatchNorms of its stages are plain ones.
            teacher_classifier: weight [K, C] and bias [K] of the teacher's last layer; by default random.
            train_labels_N: labels of the training images, int64; by default 10 images a class, in turn.
            epochs: student epochs.
            device: where parameters and buffers live.
            init_seed: of everything that the method draws when it is built.
            settings: the method's own, as in a study's `method:`; what is not given has its default.

        Raises:
            AkdtuneError: for settings or shapes that the method does not take.
        """
        where, generator = torch.device(device), torch.Generator().manual_seed(init_seed)
        if teacher_classifier is None:
            teacher_classifier = torch.randn(num_classes, teacher_dim, generator=generator), torch.zeros(num_classes)
        if train_labels_N is None:
            train_labels_N = torch.arange(10 * num_classes) % num_classes
        weight_KC, bias_K = teacher_classifier
        context = MethodContext(
            num_classes=num_classes,
            student_dim=student_dim,
            teacher_dim=teacher_dim,
            student_stages=tuple(student_stages),
            teacher_stages=tuple(teacher_stages),
            student_last_map=student_stages[-1] if student_stages else None,
            teacher_last_map=teacher_stages[-1] if teacher_stages else None,
            teacher_classifier=(weight_KC.detach().to(where), bias_K.detach().to(where)),
            teacher_norms=tuple((torch.ones(stage[0]), torch.zeros(stage[0])) for stage in teacher_stages[1:]),
            train_labels_N=train_labels_N.to(where),
            epochs=epochs,
            device=where,
            generator=generator,
        )
        return cls(settings_given(cls, settings), context).to(where)

    def terms(self, student: Signals, target: Target, batch: Batch) -> Terms:
        """Unweighted named scalar terms for one target; called once per target of a sum over views.

        It may be given some rows of a batch only, but at least one; where there is none it is not asked.
        """
        raise NotImplementedError

    def weights(self, epoch: int) -> Mapping[str, float]:
        """The weight of each term at a student epoch (counted from 1), ramps included."""
        raise NotImplementedError

    def after_step(self) -> None:
        """Called after backward and the optimiser step: the place to update memory banks."""

    def measures(self) -> dict[str, float]:
        """Further numbers for the epoch row, e.g. a learned temperature; read once per epoch, declared in `columns`."""
        return {}

    def logits(self, student: Signals) -> Tensor:
        """The student's prediction [B, K], for methods that replace it."""
        raise NotImplementedError

    @classmethod
    def needs_maps(cls) -> bool:
        """Whether student and teacher must return maps."""
        return bool(cls.needs - {"strong", "answers"})

    @classmethod
    def published(cls, pair: Pair) -> Mapping[str, Any]:
        """Settings published for this pair of networks, on the data set of `published_on`, where not the defaults."""
        return {}

    @classmethod
    def published_for(cls, pair: Pair) -> str:
        """A pair on the data set of `published_on`, and whose numbers `published` gives it where not its own."""
        given = f"{pair.teacher} to {pair.student} on {published_on(pair)}"
        if pair.data != IMAGENET or (pair.teacher, pair.student) in cls.imagenet_pairs:
            return given
        if pair.teacher == MOBILENET_V1[0] and "mobilenet" in pair.student and MOBILENET_V1 in cls.imagenet_pairs:
            return f"{given}, taken from MobileNetV1"
        return f"{given}, taken from {' and '.join(' to '.join(names) for names in cls.imagenet_pairs)}"

    @classmethod
    def ce_weight(cls, pair: Pair) -> float:
        """The published weight of the cross-entropy for this data set and pair."""
        return cls.default_ce_weight

    @classmethod
    def facts(cls, settings: ComponentSettings, class_counts_K: list[int]) -> dict[str, Any]:
        """Numbers that follow from the data, for the lock file and the plan (CRD: the resolved negatives)."""
        return {}

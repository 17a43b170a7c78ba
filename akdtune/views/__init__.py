"""View augmenters: one file each, registered under the file's name.

A view augmenter turns the frozen teacher's signals into targets for the methods, and into unweighted penalties for
its own parameters, if it has any. In a notebook, `ViewAugmenter.alone` builds one without a trial.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pydantic import model_validator
from torch import Tensor, nn
from typing_extensions import Self, override

from akdtune.columns import Column
from akdtune.registry import Component, ComponentSettings, Kind, settings_given
from akdtune.signals import SMALL_STAGES, Batch, Signals, Target, Teaching, Terms, Views, WeightedTarget


class VariantSettings(ComponentSettings):
    """Settings with a key `variant` that names a preset: it fills in the keys that were not given.

    What was given wins, and the filled-in settings hold every number, so that they can be written down and read back.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    @classmethod
    def preset(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """The values for keys that were not given."""
        variant = given.get("variant", cls.model_fields["variant"].default)
        return cls.presets.get(variant, {}) if isinstance(variant, str) else {}

    @override
    def idle(self) -> dict[str, str]:
        """The variant, which only fills in other settings, and what the class declares."""
        return {"variant": "it only fills in other settings", **super().idle()}

    @model_validator(mode="before")
    @classmethod
    def _fill_preset(cls, values: Any) -> Any:
        return {**cls.preset(values), **values} if isinstance(values, Mapping) else values


@dataclass(frozen=True)
class ViewContext:
    """What a view augmenter may know about the trial it serves.

    Attributes:
        num_classes: K.
        teacher_dim: C, width of the teacher's pooled feature.
        teacher_classifier: (weight [K, C], bias [K]) of the teacher's last layer.
        student_dim: width of the student's pooled feature.
        others_dims: widths of the pooled features of further teachers (`teacher.others`, or clients), in order.
        device: where parameters live.
        generator: seeded by the trial's init seed; every random initialisation draws from it (CPU).
        others_alike: a number for each further teacher, the same for those of one architecture; empty: all differ.
    """

    num_classes: int
    teacher_dim: int
    teacher_classifier: tuple[Tensor, Tensor]
    student_dim: int
    others_dims: tuple[int, ...]
    device: torch.device
    generator: torch.Generator
    others_alike: tuple[int, ...] = ()


class ViewAugmenter(Component, nn.Module):
    """Contract of a view augmenter.

    Class attributes:
        offers: which kinds of targets `teach` gives: `logits`, `pooled`.
        stochastic: whether `views` draws anew at every call in eval mode (diversity then averages over 8 fixed draws).
        affine: whether in eval mode each view's logits are an affine function of the teacher's pooled feature alone, so
            that the same function of each place of the teacher's last map is an exact map of the view.
        needs_student: whether `views` and `teach` read the student's signals.
        needs_others: whether further teachers (`teacher.others`) are needed.
        of_clients: whether these are the clients of a federated trial, which takes no other views; refused elsewhere.
        several_widths: whether the pooled targets differ in width, so that a method needs a part for each.
        columns: what `measures` returns: unit, meaning, and how the epochs of a trial become one value.
    Attributes:
        warmup_epochs: epochs in which only the views' own parameters train, before the student's first epoch.
        trains_jointly: whether the parameters go on training beside the student.
        reads_right_labels: whether `Batch.right_labels_B` is filled in: for references that no method may be.
        pooled_dims: width of each kind of pooled target, by `Target.place`.
    """

    kind: ClassVar[Kind] = "views"
    offers: ClassVar[frozenset[str]] = frozenset({"logits", "pooled"})
    stochastic: ClassVar[bool] = False
    affine: ClassVar[bool] = False
    needs_student: ClassVar[bool] = False
    needs_others: ClassVar[bool] = False
    of_clients: ClassVar[bool] = False
    several_widths: ClassVar[bool] = False
    columns: ClassVar[tuple[Column, ...]] = ()
    warmup_epochs: int = 0
    trains_jointly: bool = False
    reads_right_labels: bool = False
    pooled_dims: tuple[int, ...] = ()

    def __init__(self, settings: ComponentSettings, context: ViewContext) -> None:
        super().__init__()
        self.pooled_dims = (context.teacher_dim,)

    @classmethod
    def alone(
        cls,
        num_classes: int = 10,
        *,
        teacher_dim: int = SMALL_STAGES[-1][0],
        student_dim: int = SMALL_STAGES[-1][0],
        teacher_classifier: tuple[Tensor, Tensor] | None = None,
        others_dims: Sequence[int] = (),
        device: str | torch.device = "cpu",
        init_seed: int = 0,
        **settings: Any,
    ) -> Self:
        """These views without a trial, for a notebook or a training loop of one's own.

        `teach` gives targets for the methods and unweighted penalties, `penalty_weights()` what to multiply them by;
        `warmup_penalties` what `parameters()` are warmed up with. In a study the networks say all that is given here.

        Args:
            num_classes: K.
            teacher_dim: width of the teacher's pooled feature.
            student_dim: width of the student's.
            teacher_classifier: weight [K, C] and bias [K] of the teacher's last layer; by default random.
            others_dims: widths of the pooled features of further teachers.
            device: where parameters and buffers live.
            init_seed: of everything that is drawn when the views are built.
            settings: the views' own, as in a study's `views:`; what is not given has its default.

        Raises:
            AkdtuneError: for settings or shapes that the views do not take.
        """
        where, generator = torch.device(device), torch.Generator().manual_seed(init_seed)
        if teacher_classifier is None:
            teacher_classifier = torch.randn(num_classes, teacher_dim, generator=generator), torch.zeros(num_classes)
        weight_KC, bias_K = teacher_classifier
        context = ViewContext(
            num_classes=num_classes,
            teacher_dim=teacher_dim,
            teacher_classifier=(weight_KC.detach().to(where), bias_K.detach().to(where)),
            student_dim=student_dim,
            others_dims=tuple(others_dims),
            device=where,
            generator=generator,
        )
        return cls(settings_given(cls, settings), context).to(where)

    @classmethod
    def warmup_epochs_of(cls, settings: ComponentSettings) -> int:
        """`warmup_epochs` of views with these settings; a setting of that name unless a class says otherwise."""
        return int(getattr(settings, "warmup_epochs", cls.warmup_epochs))

    @classmethod
    def logits_made(cls, settings: ComponentSettings) -> tuple[int, str]:
        """How many versions of a batch's logits these views make at a time, and the setting that says so."""
        return 0, ""

    @classmethod
    def without_noise(cls, settings: ComponentSettings) -> ComponentSettings | None:
        """The same views with their noise off and what they do to the teacher's output beside it (a shrink) kept.

        None where nothing but the teacher's own output would be left.
        """
        return None

    @classmethod
    def control_settings(cls, name: str, settings: ComponentSettings) -> dict[str, Any] | None:
        """The settings of a control that these views have, None where it makes no sense for them.

        Args:
            name: `heads_labels_only` (heads that learn from labels alone) or `ensemble_without_losses` (heads that
                never learn).
            settings: of the views that are controlled.
        """
        return None

    def views(self, teacher: Signals, generator: torch.Generator, student: Signals | None = None) -> Views:
        """The views of a batch in the module's present mode (eval: no dropout, running statistics); V = 0 for none.

        `student` is given to views that need it, without a gradient.
        """
        raise NotImplementedError

    def teach(self, teacher: Signals, student: Signals, batch: Batch) -> Teaching:
        """Targets and penalties for one training batch."""
        raise NotImplementedError

    def warmup_penalties(self, teacher: Signals, batch: Batch) -> Terms:
        """The penalties alone, for the warm-up stage."""
        return {}

    def unused_in_warmup(self) -> frozenset[str]:
        """Names of settings that the warm-up stage does not depend on: trials that differ in them alone share it."""
        return frozenset()

    def warmup_learning_rate(self, epoch: int) -> float:
        """Learning rate of warm-up epoch `epoch` (counted from 1)."""
        raise NotImplementedError

    def penalty_weights(self) -> Mapping[str, float]:
        """The weight of each penalty."""
        return {}

    def evaluation_target(self, teacher: Signals, views: Views) -> Target:
        """The logit target actually used in training, from eval-mode views (for target accuracy and entropy)."""
        return Target.of(teacher)

    def gates(self, teacher: Signals, views: Views) -> dict[str, Tensor]:
        """Share of samples whose diversity gate is open: keys `feature` and `logit`; empty without gates."""
        return {}

    def measures(self) -> dict[str, float]:
        """Further numbers for the epoch row, e.g. a learned margin; read once per epoch, declared in `columns`."""
        return {}


def plain_teaching(teacher: Signals) -> Teaching:
    """The teacher itself as the only target."""
    only = (WeightedTarget(1.0, Target.of(teacher)),)
    return Teaching(only, only, {})

"""What a trial is made of: student, views, methods and their objective, drawn from the trial's init seed alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from akdtune import data, networks
from akdtune.checkpoints import fill_weights
from akdtune.methods import Method, MethodContext, Pair
from akdtune.objective import Objective
from akdtune.recipe import derived_seed
from akdtune.registry import lookup
from akdtune.trial_config import StudentSettings, TrainingSettings, TrialConfig
from akdtune.views import ViewAugmenter, ViewContext


def build_parts(
    config: TrialConfig,
    frozen: networks.Network | None,
    others: Sequence[networks.Network],
    dataset: data.DataSet,
    train_labels_N: Tensor,
) -> tuple[Objective, networks.Network]:
    """The objective (methods and views) and the student, initialised from the trial's init seed alone."""
    device, inputs, seed = train_labels_N.device, dataset.inputs, config.seeds.init
    student = networks.build(config.student.network, inputs, derived_seed("student", seed)).to(device)
    begin_with(student, config.student)
    view_name, view_settings = config.views
    views: ViewAugmenter = lookup("views", view_name)(
        view_settings, view_context(student, frozen, others, inputs.num_classes, device, seed)
    )
    methods: dict[str, Method] = {}
    of_trial = (student, frozen, train_labels_N, inputs.num_classes, config.training.epochs, seed)
    for name, settings in config.methods:
        context = method_context(name, *of_trial)
        methods[name] = lookup("methods", name)(settings, context)
    objective = Objective(methods, views, resolve_ce_weight(config.training, methods.values(), config.pair))
    return objective.to(device), student


def begin_with(student: networks.Network, settings: StudentSettings) -> None:
    """Loads the weights a student begins with, and freezes what does not train.

    Raises:
        CheckpointError: for a file that is missing or does not fit the network.
    """
    if settings.checkpoint is None:
        return
    own = {tensor.data_ptr() for tensor in student.classifier()}
    last_layer = {name for name, parameter in student.named_parameters() if parameter.data_ptr() in own}
    fill_weights(student, settings.checkpoint, may_differ=last_layer)
    if settings.train == "classifier":
        for name, parameter in student.named_parameters():
            parameter.requires_grad_(name in last_layer)


def view_context(
    student: networks.Network,
    frozen: networks.Network | None,
    others: Sequence[networks.Network],
    num_classes: int,
    device: torch.device,
    seed: int,
) -> ViewContext:
    """What the views of a trial may know; a missing teacher has width 0."""
    return ViewContext(
        num_classes=num_classes,
        teacher_dim=0 if frozen is None else frozen.pooled_dim,
        teacher_classifier=_classifier(frozen) or (torch.empty(num_classes, 0), torch.empty(num_classes)),
        student_dim=student.pooled_dim,
        others_dims=tuple(other.pooled_dim for other in others),
        device=device,
        generator=torch.Generator().manual_seed(derived_seed("views", seed)),
    )


def method_context(
    name: str,
    student: networks.Network,
    frozen: networks.Network | None,
    train_labels_N: Tensor,
    num_classes: int,
    epochs: int,
    seed: int,
) -> MethodContext:
    """What a method of a trial may know; parameters and buffers live where the labels are."""
    return MethodContext(
        num_classes=num_classes,
        student_dim=student.pooled_dim,
        teacher_dim=0 if frozen is None else frozen.pooled_dim,
        student_stages=student.stage_shapes,
        teacher_stages=() if frozen is None else frozen.stage_shapes,
        student_last_map=student.last_map_shape,
        teacher_last_map=None if frozen is None else frozen.last_map_shape,
        teacher_classifier=_classifier(frozen),
        teacher_norms=() if frozen is None else frozen.stage_norms(),
        train_labels_N=train_labels_N,
        epochs=epochs,
        device=train_labels_N.device,
        generator=torch.Generator().manual_seed(derived_seed("method", name, seed)),
    )


def _classifier(network: networks.Network | None) -> tuple[Tensor, Tensor] | None:
    if network is None:
        return None
    weight_KC, bias_K = network.classifier()
    return weight_KC.detach(), bias_K.detach()


class Weighted(Protocol):
    """A base method, or its class: what knows the published weight of the cross-entropy."""

    def ce_weight(self, pair: Pair) -> float:
        """The published weight for a data set and a pair of networks."""
        ...


def resolve_ce_weight(settings: TrainingSettings, methods: Iterable[Weighted], pair: Pair) -> float:
    """The set weight, or the largest published one among the methods (0.1 for kd alone, 1 for kd+crd)."""
    if settings.ce_weight is not None:
        return settings.ce_weight
    return max(method.ce_weight(pair) for method in methods)

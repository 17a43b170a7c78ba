"""What views and methods may know of a trial: built from its networks and data alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from akdtune import networks
from akdtune.methods import MethodContext
from akdtune.randomness import derived_seed
from akdtune.views import ViewContext


def view_context(
    student: networks.Network,
    frozen: networks.Network | None,
    others: Sequence[networks.Network],
    num_classes: int,
    device: torch.device,
    seed: int,
    others_alike: Sequence[int] = (),
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
        others_alike=tuple(others_alike),
    )


def method_context(
    name: str,
    student: networks.Network,
    frozen: networks.Network | None,
    train_labels_N: Tensor,
    num_classes: int,
    epochs: int,
    seed: int,
    pooled_dims: Sequence[int] = (),
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
        pooled_dims=tuple(pooled_dims),
    )


def _classifier(network: networks.Network | None) -> tuple[Tensor, Tensor] | None:
    if network is None:
        return None
    weight_KC, bias_K = network.classifier()
    return weight_KC.detach(), bias_K.detach()

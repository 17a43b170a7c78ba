"""Distillation of features through an orthogonal projection for each kind of teacher (FedFD, arXiv 2507.10348).

Shapes: B batch, C feature width of the student, D of a target.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from typing_extensions import override

from akdtune.columns import Column
from akdtune.methods import Method, MethodContext
from akdtune.methods._maps import full_precision, initialised
from akdtune.registry import ComponentSettings, IdleAtZero, register
from akdtune.signals import Batch, Signals, Target, Terms


@full_precision
def projected_mse(projected_BD: Tensor, target_BD: Tensor) -> Tensor:
    """Mean squared difference of a projected feature and its target, over batch and width, a scalar."""
    return (projected_BD - target_BD).square().mean()


def projection_error(weight_DC: Tensor) -> Tensor:
    """max |M M^T - I| of a projection with at most as many rows as columns, max |M^T M - I| of a taller one."""
    rows, columns = weight_DC.shape
    wide = weight_DC if rows <= columns else weight_DC.T
    return (wide @ wide.T - torch.eye(len(wide), dtype=wide.dtype, device=wide.device)).abs().max()


@register("fedfd")
class FedFD(Method):
    """Draws the student's feature, projected, to the feature of each kind of teacher, with a projection of its own.

    In a federated study the kinds are the architectures of the clients, and the student is the server's network; with
    one teacher there is one projection.

    Terms:
        fedfd: mean squared difference of M F(x) and the target's feature; with `normalize` of both without their mean,
            over their standard deviation.

    Differs: the loss is a reconstruction from the paper's description, as it could not be read: features instead of
        logits are distilled, one projection for each architecture, kept orthogonal by its parametrisation. Here that
        is torch's, by the Cayley transform of a skew-symmetric matrix; torch's default for matrices that are not
        square, Householder reflections, keeps signs on a diagonal that weight decay moves off 1, whereupon rows
        become zero. A target wider than the student gets orthonormal columns instead of rows. The mean over the width
        keeps wide architectures from dominating.

    References:
        Li et al., "Feature Distillation is the Better Choice for Model-Heterogeneous Federated Learning", 2025, arXiv
        2507.10348. Orthogonal projections in distillation: Miles, Elezi and Deng (VkD), CVPR 2024, arXiv 2403.06213,
        who normalise the target, too.

    Example:
        >>> fedfd = FedFD.alone(num_classes=10, projection="orthogonal")
        >>> student, teacher = Signals.random(8), Signals.random(8)
        >>> loss = fedfd.terms(student, Target.of(teacher), Batch.of(torch.arange(8)))["fedfd"]
    """

    source = "Li et al. (FedFD), 2025, arXiv 2507.10348"
    consumes = "pooled"
    reads_labels = False
    any_width = True
    columns = (
        Column(
            "projection_error",
            "",
            "largest entry of |M M^T - I| over the projections M of the feature (|M^T M - I| of a tall one)",
            "max",
        ),
    )

    class Settings(ComponentSettings):
        """Settings of `fedfd`."""

        idle_at_zero: ClassVar[IdleAtZero] = {("weight",): ("projection", "normalize")}

        projection: Literal["orthogonal", "linear"] = Field(
            "orthogonal", description="orthogonal: rows stay orthonormal while it trains; linear: free, begun alike"
        )
        normalize: bool = Field(False, description="compare features without their mean, over their standard deviation")
        weight: NonNegativeFloat = Field(1.0, description="weight of the term")

    def __init__(self, settings: FedFD.Settings, context: MethodContext) -> None:
        super().__init__(settings, context)
        self.settings = settings
        widths = context.pooled_dims or (context.teacher_dim,)
        self.projections = initialised(lambda: self._drawn(context.student_dim, widths), context)

    def _drawn(self, student_dim: int, widths: tuple[int, ...]) -> nn.ModuleList:
        """A projection for each kind of target, begun at an orthogonal matrix whichever kind it is."""
        layers = [nn.Linear(student_dim, width, bias=False) for width in widths]
        for layer in layers:
            nn.init.orthogonal_(layer.weight)
            if self.settings.projection == "orthogonal":
                parametrizations.orthogonal(layer, orthogonal_map="cayley")
        return nn.ModuleList(layers)

    @override
    def terms(self, student: Signals, target: Target, batch: Batch) -> Terms:
        projected_BD, target_BD = self.projections[target.place](student.pooled_BC), target.pooled_BC
        if self.settings.normalize:
            projected_BD, target_BD = (
                nn.functional.layer_norm(feature_BD, feature_BD.shape[1:]) for feature_BD in (projected_BD, target_BD)
            )
        return {"fedfd": projected_mse(projected_BD, target_BD)}

    @override
    def weights(self, epoch: int) -> Mapping[str, float]:
        return {"fedfd": self.settings.weight}

    @override
    @torch.no_grad()
    def measures(self) -> dict[str, float]:
        errors = [projection_error(layer.weight) for layer in self.projections if isinstance(layer, nn.Linear)]
        return {"projection_error": float(torch.stack(errors).max())}

"""The teacher's classifier reused (SimKD; Chen et al., CVPR 2022, arXiv 2203.14001).

Shapes: B batch, C channels or feature width, H, W, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor, nn
from typing_extensions import override

from akdtune.methods import Method, MethodContext
from akdtune.methods._maps import BatchNorm, full_precision, initialised, last_maps, pooled_to
from akdtune.registry import ComponentSettings, register
from akdtune.signals import Batch, Signals, Target, Terms


@full_precision
def alignment_loss(projected_BCHW: Tensor, teacher_BCHW: Tensor) -> Tensor:
    """Mean squared difference of two maps of one shape, a scalar (eq. 2)."""
    return (projected_BCHW - teacher_BCHW).square().mean()


@register("simkd")
class SimKD(Method):
    """Projects the student's last map onto the teacher's, and predicts with the teacher's frozen classifier.

    The projection is 1x1, 3x3 and 1x1 convolutions, each with BatchNorm and ReLU. The cross-entropy has weight 0 as
    published, so that the student's own classifier is not trained.

    Terms:
        simkd: mean squared difference of the projected student map and the teacher's last map, the larger of both
            averaged to the smaller size.

    Differs: heights and widths are compared each on their own (the published code takes them for equal).

    Example:
        >>> simkd = SimKD.alone(num_classes=10, factor=2)
        >>> student, teacher = Signals.random(8), Signals.random(8)
        >>> loss = simkd.terms(student, Target.of(teacher), Batch.of(torch.arange(8)))["simkd"]
    """

    source = "Chen et al., CVPR 2022, arXiv 2203.14001"
    consumes = "stages"
    needs = frozenset({"last_map"})
    reads_labels = False
    default_ce_weight = 0.0
    replaces_logits = True

    class Settings(ComponentSettings):
        """Settings of `simkd`; the defaults are those of the authors."""

        weight: NonNegativeFloat = Field(1.0, description="weight of the term")
        factor: PositiveInt = Field(2, description="the projection is narrower than the teacher's map by this factor")

    classifier_KC: Tensor
    bias_K: Tensor

    def __init__(self, settings: SimKD.Settings, context: MethodContext) -> None:
        super().__init__(settings, context)
        self.settings = settings
        (before, *student_size), (after, *teacher_size) = last_maps("simkd", context)
        self.size = min(student_size[0], teacher_size[0]), min(student_size[1], teacher_size[1])
        between = max(after // settings.factor, 1)
        self.projection = initialised(lambda: _projection(before, between, after), context)
        assert context.teacher_classifier is not None
        weight_KC, bias_K = context.teacher_classifier
        self.register_buffer("classifier_KC", weight_KC.detach().clone().to(context.device))
        self.register_buffer("bias_K", bias_K.detach().clone().to(context.device))
        self._known: tuple[Tensor, Tensor] | None = None  # the last map that `logits` projected, for `terms`

    @override
    def logits(self, student: Signals) -> Tensor:
        """The teacher's classifier on the mean of the projected map, [B, K]."""
        assert student.last_map is not None
        projected_BCHW = self._projected(student.last_map)
        if self.training and torch.is_grad_enabled():
            self._known = student.last_map, projected_BCHW
        return nn.functional.linear(projected_BCHW.mean(dim=(2, 3)), self.classifier_KC, self.bias_K)

    @override
    def terms(self, student: Signals, target: Target, batch: Batch) -> Terms:
        assert student.last_map is not None and target.last_map is not None
        known, self._known = self._known, None
        # one projection a step, so that its BatchNorms count each batch once
        fits = known is not None and known[0] is student.last_map
        projected_BCHW = known[1] if known is not None and fits else self._projected(student.last_map)
        return {"simkd": alignment_loss(projected_BCHW, pooled_to(target.last_map, *self.size))}

    @override
    def weights(self, epoch: int) -> Mapping[str, float]:
        return {"simkd": self.settings.weight}

    @override
    def after_step(self) -> None:
        """Forgets the batch's maps."""
        self._known = None

    def _projected(self, map_BCHW: Tensor) -> Tensor:
        projected_BCHW: Tensor = self.projection(pooled_to(map_BCHW, *self.size))
        return projected_BCHW


def _projection(before: int, between: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(before, between, 1, bias=False), BatchNorm(between), nn.ReLU()),
        *(nn.Conv2d(between, between, 3, padding=1, bias=False), BatchNorm(between), nn.ReLU()),
        *(nn.Conv2d(between, after, 1, bias=False), BatchNorm(after), nn.ReLU()),
    )

"""SDPGO-style self-distillation: a reconstruction of the idea of NeurIPS 2025, OpenReview pbokMgz8e1.

Shapes: B batch, R rows that the batch repeats from the one before, K classes, C feature width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor, nn
from typing_extensions import override

from akdtune.methods import Method, MethodContext
from akdtune.methods._history import LastBatch
from akdtune.methods._logits import kl_of_logs, log_student_BK, widened
from akdtune.registry import ComponentSettings, IdleAtZero, register
from akdtune.signals import Batch, Signals, Target, Terms


def proximal_weights_RC(gradients_RC: Tensor, sparsity: float) -> Tensor:
    """max(|gradient| / mean of the row - sparsity, 0), each row scaled to mean 1, [R, C].

    A row without a gradient, or whose entries all fall to 0, weighs everything alike.
    """
    sizes_RC = gradients_RC.abs()
    tiny = torch.finfo(sizes_RC.dtype).tiny
    relative_RC = sizes_RC / sizes_RC.mean(dim=1, keepdim=True).clamp_min(tiny)
    kept_RC = (relative_RC - sparsity).clamp_min(0.0)
    means_R1 = kept_RC.mean(dim=1, keepdim=True)
    return torch.where(means_R1 > 0, kept_RC / means_R1.clamp_min(tiny), torch.ones_like(kept_RC))


def cross_entropy_gradient(student: Signals, labels_B: Tensor) -> Tensor | None:
    """Gradient of the summed cross-entropy to the pooled feature [B, C]; None where the logits do not come from it."""
    return student.pooled_gradient(nn.functional.cross_entropy(student.logits_BK, labels_B, reduction="sum"))


@register("sdpgo_style")
class SDPGOStyle(Method):
    """SDPGO-style (a reconstruction): the student keeps to its last step's outputs, most where the loss is sensitive.

    Needs no teacher. Each batch begins with the last images of the batch before.

    Terms:
        feature: mean of w * (feature - feature one step ago)^2 over the repeated images and the channels, with
            w = max(|g| / mean|g| - sparsity, 0) scaled to mean 1 for each image, where g is the gradient of the
            cross-entropy to the pooled feature (a constant).
        kl: KL(one step ago || now) at `temperature`, times temperature squared, in nats; sum over classes, mean over
            the repeated images.
        Both are 0 in the first batch of an epoch.

    Differs: from a paper whose text and code could not be read. Known are gradient magnitudes that weigh features,
        a proximal step with a sparsity, and a KL to the predictions of the last mini-batch; everything else here, and
        every number, is ours. Results with it say nothing about the published method.

    Example:
        >>> sdpgo = SDPGOStyle.alone(num_classes=10, sparsity=0.5)
        >>> student = Signals.random(8)
        >>> loss = sdpgo.terms(student, Target.of(student.detach()), Batch.of(torch.arange(8)))["feature"]
    """

    source = "reconstruction of SDPGO, NeurIPS 2025, OpenReview pbokMgz8e1"
    consumes = "self"
    reads_labels = True
    overlaps_batches = True

    class Settings(ComponentSettings):
        """Settings of `sdpgo_style`; all defaults are ours."""

        idle_at_zero: ClassVar[IdleAtZero] = {("kl_weight",): ("temperature",), ("feature_weight",): ("sparsity",)}

        feature_weight: NonNegativeFloat = Field(1.0, description="weight of the feature term")
        kl_weight: NonNegativeFloat = Field(1.0, description="weight of the prediction term")
        temperature: PositiveFloat = Field(3.0, description="softmax temperature of the prediction term")
        sparsity: NonNegativeFloat = Field(
            0.5, description="channels whose gradient is below this share of the mean weigh nothing (lambda)"
        )

    def __init__(self, settings: SDPGOStyle.Settings, context: MethodContext) -> None:
        super().__init__(settings, context)
        self.settings = settings
        self._memory = LastBatch()

    @override
    def terms(self, student: Signals, target: Target, batch: Batch) -> Terms:
        logits_BK, pooled_BC = widened(student.logits_BK), widened(student.pooled_BC)
        recalled = self._memory.recall(batch, logits_BK, pooled_BC)
        if not recalled:
            return {"feature": logits_BK.new_zeros(()), "kl": logits_BK.new_zeros(())}
        rows, temperature = batch.repeated, self.settings.temperature
        last_RK, last_RC = recalled
        squared_RC = (pooled_BC[:rows] - last_RC).square()
        gradient_BC = cross_entropy_gradient(student, batch.labels_B)
        if gradient_BC is not None:
            squared_RC = proximal_weights_RC(widened(gradient_BC[:rows]), self.settings.sparsity) * squared_RC
        now_RK = log_student_BK(logits_BK[:rows], temperature)
        divergence = kl_of_logs(log_student_BK(last_RK, temperature), now_RK)
        return {"feature": squared_RC.mean(), "kl": temperature**2 * divergence}

    @override
    def weights(self, epoch: int) -> Mapping[str, float]:
        return {"feature": self.settings.feature_weight, "kl": self.settings.kl_weight}

    @override
    def after_step(self) -> None:
        """Keeps the batch's outputs for the next step."""
        self._memory.advance()

"""Views grown from the student's own feature, in the style of SAKD (arXiv 2607.11557).

Shapes: B batch, V views, K classes, C teacher's feature width.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from akdtune.errors import AkdtuneError
from akdtune.registry import ComponentSettings, register
from akdtune.signals import Batch, Signals, Target, Teaching, Terms, Views, WeightedTarget
from akdtune.views import ViewAugmenter, ViewContext
from akdtune.views._angular_losses import Level, intra_loss_L, similarities
from akdtune.views._drawn import drawn_linear


class SAKDStyleSettings(ComponentSettings):
    """Settings of `sakd_style`."""

    number: PositiveInt = Field(5, le=1000, description="views; the number of parameters does not depend on it")
    teacher_share: float = Field(0.9, ge=0, lt=1, description="a: a view is a * teacher + (1 - a) * shifted feature")
    hidden: PositiveInt = Field(
        120, description="width inside the generator; 120 gives the reported 46 thousand parameters for 256 -> 128"
    )
    consistency_weight: NonNegativeFloat = Field(1.0, description="weight of keeping the views near the teacher")
    diversity_weight: NonNegativeFloat = Field(1.0, description="weight of spreading the views' offsets")
    detach_targets: bool = Field(True, description="keep the student's losses from training the generator")

    @model_validator(mode="after")
    def _trains(self) -> SAKDStyleSettings:
        if self.detach_targets and not any(self.penalty_weights().values()):
            raise ValueError("neither penalty has a weight and targets are detached: the generator would never train")
        return self

    def penalty_weights(self) -> dict[str, float]:
        """The weight of each penalty."""
        return {"consistency": self.consistency_weight, "diversity": self.diversity_weight}


@register("sakd_style")
class SAKDStyle(ViewAugmenter):
    """A small generator turns the student's feature into one perturbation, and cyclic shifts of it into all views.

    A reconstruction: no formula and no code of SAKD were available, only its description. With the student's feature
    f_S (without a gradient) and the teacher's f_T of width C:
        u = G(f_S), G: linear, ReLU, linear through a bottleneck
        view_i = a f_T + (1 - a) roll(u, i floor(C / V)), i = 0 .. V - 1; its logits by the teacher's own classifier
    The student's target is the uniform mean of the teacher and all views, for logits and for features.

    Penalties (train the generator, never the student):
        consistency: 1 - cos(view_i, f_T), mean over views and batch.
        diversity: softplus of the cosine between two offsets f_T - view_i, mean over pairs and batch.

    Differs: whatever the authors do otherwise is not known: the shape of G, the number of views, how views become a
        target, and the exact form of both penalties are this reconstruction's.

    Example:
        >>> views = SAKDStyle.alone(num_classes=10, teacher_dim=64, student_dim=64)
        >>> teacher, student = Signals.random(8), Signals.random(8)
        >>> teaching = views.teach(teacher, student, Batch.of(torch.arange(8)))
    """

    Settings = SAKDStyleSettings
    source = "SAKD, arXiv 2607.11557; reconstruction"
    needs_student = True
    trains_jointly = True
    weight_KC: Tensor
    bias_K: Tensor
    shifted_VC: Tensor

    def __init__(self, settings: SAKDStyleSettings, context: ViewContext) -> None:
        super().__init__(settings, context)
        self.settings = settings
        width, number = context.teacher_dim, settings.number
        if number > width:
            raise AkdtuneError(
                f"views.number: {number} views cannot be shifts of {width} numbers (the teacher's pooled feature); use"
                f" at most {width}"
            )
        self.squeeze = drawn_linear(context.student_dim, settings.hidden, context.generator).to(context.device)
        self.expand = drawn_linear(settings.hidden, width, context.generator).to(context.device)
        weight_KC, bias_K = context.teacher_classifier
        self.register_buffer("weight_KC", weight_KC.detach(), persistent=False)
        self.register_buffer("bias_K", bias_K.detach(), persistent=False)
        shifts_V1 = (torch.arange(number) * (width // number)).unsqueeze(1)
        shifted_VC = (torch.arange(width) - shifts_V1) % width
        self.register_buffer("shifted_VC", shifted_VC.to(context.device), persistent=False)

    @override
    def views(self, teacher: Signals, generator: torch.Generator, student: Signals | None = None) -> Views:
        """One view per shift; the same in training and evaluation mode."""
        assert student is not None, "these views need the student's signals"
        perturbation_BC = self.expand(functional.relu(self.squeeze(student.pooled_BC.detach())))
        share = self.settings.teacher_share
        own_B1C = teacher.pooled_BC.detach().unsqueeze(1)
        pooled_BVC = share * own_B1C + (1 - share) * perturbation_BC[:, self.shifted_VC]
        return Views(functional.linear(pooled_BVC, self.weight_KC, self.bias_K), pooled_BVC)

    @override
    def teach(self, teacher: Signals, student: Signals, batch: Batch) -> Teaching:
        """The ensemble as the only target, and the generator's penalties."""
        teacher = teacher.detach()
        views = self.views(teacher, batch.generator, student)
        target = self.evaluation_target(teacher, views)
        only = (WeightedTarget(1.0, target.detach() if self.settings.detach_targets else target),)
        return Teaching(only, only, self.penalties(teacher, views))

    def penalties(self, teacher: Signals, views: Views) -> Terms:
        """The penalties of given views: every one whose weight is not 0."""
        pooled_BVC = views.pooled_BVC
        with torch.autocast(pooled_BVC.device.type, enabled=False):  # cosines near 1 need more digits than bfloat16
            precise = torch.promote_types(pooled_BVC.dtype, torch.float32)
            similar = similarities([Level(teacher.pooled_BC.to(precise), pooled_BVC.to(precise))])
            terms = {
                "consistency": (1 - similar.own_LBV).mean(),
                "diversity": intra_loss_L(similar.offsets_LBP, "sample").squeeze(0),
            }
        weights = self.penalty_weights()
        return {name: value for name, value in terms.items() if weights[name]}

    @override
    def penalty_weights(self) -> Mapping[str, float]:
        return self.settings.penalty_weights()

    @override
    def evaluation_target(self, teacher: Signals, views: Views) -> Target:
        """The uniform mean of teacher and views."""
        logits_BMK = torch.cat([teacher.logits_BK.unsqueeze(1), views.logits_BVK], dim=1)
        pooled_BMC = torch.cat([teacher.pooled_BC.unsqueeze(1), views.pooled_BVC], dim=1)
        members = logits_BMK.shape[1]
        return Target(logits_BMK, pooled_BMC, logits_BMK.new_full((members,), 1 / members))

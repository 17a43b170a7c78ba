"""TeKAP: random views of the teacher (ICLR 2025, OpenReview DmEHmZ89iB).

Shapes: B batch, V views, K classes, C feature width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator
from torch import Tensor
from typing_extensions import override

from akdtune.registry import ComponentSettings, register
from akdtune.signals import Batch, Signals, Target, Teaching, Views, WeightedTarget
from akdtune.views import VariantSettings, ViewAugmenter, ViewContext

_PAPER: dict[str, Any] = {
    "number": 3,
    "feature_number": 3,
    "shrink": 0.1,
    "noise": 0.1,
    "feature_noise": 0.1,
    "teacher_weight": 0.8,
    "view_weight": 0.2,
    "feature_teacher_weight": 0.8,
    "feature_view_weight": 0.2,
}
_RELEASED: dict[str, Any] = {
    **_PAPER,
    "feature_number": 1,
    "feature_noise": 0.01,
    "teacher_weight": 1.0,
    "view_weight": 0.8,
    "feature_teacher_weight": 1.0,
    "feature_view_weight": 1.0,
}


class TeKAPSettings(VariantSettings):
    """Settings of `tekap`. `variant` fills in whatever is not given; the resolved settings hold every number."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"paper": _PAPER, "released": _RELEASED}

    variant: Literal["paper", "released"] = Field(
        "paper",
        description="paper: lambda on the teacher, 1 - lambda on each view, the same noise at both levels; released:"
        " 1 + 3 x 0.8 for logits (3.4 times the KD weight), one feature view with a tenth of the noise",
    )
    level: Literal["logit", "feature", "both"] = Field("both", description="what is perturbed")
    number: PositiveInt = Field(3, le=1000, description="logit views")
    feature_number: PositiveInt = Field(3, le=1000, description="feature views")
    shrink: float = Field(0.1, ge=0, lt=1, description="a view is (1 - shrink) * teacher + noise * N(0, 1)")
    noise: NonNegativeFloat = Field(0.1, description="standard deviation of the noise on logits")
    feature_noise: NonNegativeFloat = Field(0.1, description="standard deviation of the noise on the pooled feature")
    teacher_weight: NonNegativeFloat = Field(0.8, description="weight of the teacher's own logits (paper: lambda)")
    view_weight: NonNegativeFloat = Field(0.2, description="weight of each logit view (paper: 1 - lambda)")
    feature_teacher_weight: NonNegativeFloat = Field(0.8, description="weight of the teacher's own feature")
    feature_view_weight: NonNegativeFloat = Field(0.2, description="weight of each feature view")

    @model_validator(mode="after")
    def _check(self) -> TeKAPSettings:
        if self.logit_views and not self.teacher_weight + self.view_weight:
            raise ValueError("teacher_weight and view_weight are both 0: the logits would teach nothing")
        if self.feature_views and not self.feature_teacher_weight + self.feature_view_weight:
            raise ValueError(
                "feature_teacher_weight and feature_view_weight are both 0: the feature would teach nothing"
            )
        return self

    @override
    def idle(self) -> dict[str, str]:
        """Settings of a level that is not perturbed, and of noise that weighs nothing."""
        reasons = super().idle()
        of_level = {
            "logit": ("number", "noise", "teacher_weight", "view_weight"),
            "feature": ("feature_number", "feature_noise", "feature_teacher_weight", "feature_view_weight"),
        }
        weights = {"logit": self.view_weight, "feature": self.feature_view_weight}
        used = [level for level in of_level if self.level in (level, "both")]
        for level, (_, noise, _, view_weight) in of_level.items():
            if level not in used:
                reasons |= dict.fromkeys(of_level[level], f"level is {self.level}")
            elif not weights[level]:
                reasons[noise] = f"{view_weight} is 0"
        if not any(weights[level] for level in used):
            named = " and ".join(of_level[level][3] for level in used)
            reasons["shrink"] = f"{named} {'is' if len(used) == 1 else 'are'} 0"
        return reasons

    @property
    def logit_views(self) -> int:
        """Number of logit views at this level."""
        return 0 if self.level == "feature" else self.number

    @property
    def feature_views(self) -> int:
        """Number of feature views at this level."""
        return 0 if self.level == "logit" else self.feature_number


@register("tekap")
class TeKAP(ViewAugmenter):
    """The teacher and copies of it with fresh Gaussian noise; a method's loss is summed over all of them.

    A level that is not perturbed keeps the plain teacher as its only target, with weight 1.

    Differs: the paper's lambda is not given, 0.8 is the code's. In `released` the memory banks of crd are updated once
        per step, with the teacher's own feature (the published code updates them a second time with the noisy one),
        and the student's side is compared anew for each view, which gives the published sum of twice the same number.

    Example:
        >>> views = TeKAP.alone(num_classes=10, teacher_dim=64)
        >>> teacher, student = Signals.random(8), Signals.random(8)
        >>> teaching = views.teach(teacher, student, Batch.of(torch.arange(8)))
    """

    Settings = TeKAPSettings
    source = "Hossain et al. (TeKAP), ICLR 2025, OpenReview DmEHmZ89iB"
    stochastic = True

    def __init__(self, settings: TeKAPSettings, context: ViewContext) -> None:
        super().__init__(settings, context)
        self.settings = settings

    @override
    @classmethod
    def without_noise(cls, settings: ComponentSettings) -> ComponentSettings | None:
        """Views that are the shrunk teacher; None without a shrink."""
        assert isinstance(settings, TeKAPSettings)
        if "shrink" in settings.idle() or not settings.shrink:
            return None
        return TeKAPSettings(**{**settings.model_dump(), "noise": 0.0, "feature_noise": 0.0})

    @override
    @classmethod
    def logits_made(cls, settings: ComponentSettings) -> tuple[int, str]:
        assert isinstance(settings, TeKAPSettings)
        return settings.logit_views, "views.number (or views.level: feature)"

    @override
    @classmethod
    def draws(cls, settings: ComponentSettings) -> bool:
        """The noise."""
        return True

    @override
    def views(self, teacher: Signals, generator: torch.Generator, student: Signals | None = None) -> Views:
        """Noisy copies, drawn anew at every call; logits and features may differ in number (0 where not perturbed)."""
        settings = self.settings
        return Views(
            self._noisy(teacher.logits_BK, settings.logit_views, settings.noise, generator),
            self._noisy(teacher.pooled_BC, settings.feature_views, settings.feature_noise, generator),
        )

    @override
    def teach(self, teacher: Signals, student: Signals, batch: Batch) -> Teaching:
        """The teacher and each view as targets of their own."""
        settings = self.settings
        views = self.views(teacher, batch.generator)
        logits = [Signals(logits_BK, teacher.pooled_BC) for logits_BK in views.logits_BVK.unbind(1)]
        pooled = [Signals(teacher.logits_BK, pooled_BC) for pooled_BC in views.pooled_BVC.unbind(1)]
        return Teaching(
            _targets(teacher, logits, settings.teacher_weight, settings.view_weight),
            _targets(teacher, pooled, settings.feature_teacher_weight, settings.feature_view_weight),
            {},
        )

    @override
    def evaluation_target(self, teacher: Signals, views: Views) -> Target:
        """The weighted mean of the distributions: the sum of KL terms has its gradient, up to the sum of weights."""
        settings = self.settings
        logits_BMK = torch.cat([teacher.logits_BK.unsqueeze(1), views.logits_BVK], dim=1)
        weights = [settings.teacher_weight] + [settings.view_weight] * views.num_views
        if views.num_views == 0 or not sum(weights):
            return Target.of(teacher)
        weights_M = logits_BMK.new_tensor(weights)
        pooled_BMC = teacher.pooled_BC.unsqueeze(1).expand(-1, len(weights), -1)
        return Target(logits_BMK, pooled_BMC, weights_M / weights_M.sum())

    def _noisy(self, teacher_BR: Tensor, number: int, noise: float, generator: torch.Generator) -> Tensor:
        shape = (teacher_BR.shape[0], number, teacher_BR.shape[1])
        draws_BVR = torch.randn(shape, generator=generator, device=teacher_BR.device, dtype=teacher_BR.dtype)
        return (1 - self.settings.shrink) * teacher_BR.unsqueeze(1) + noise * draws_BVR


def _targets(
    teacher: Signals, views: Sequence[Signals], teacher_weight: float, view_weight: float
) -> tuple[WeightedTarget, ...]:
    own = Target.of(teacher)
    if not views:
        return (WeightedTarget(1.0, own),)
    return (WeightedTarget(teacher_weight, own), *(WeightedTarget(view_weight, Target.of(view)) for view in views))

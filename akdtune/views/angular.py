"""Angular-KD: learned views of the teacher, spread out by angles (NeurIPS 2025, arXiv 2510.22480).

Shapes: B batch, V views, M members (teacher and views), K classes, C feature width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn
from typing_extensions import override

from akdtune.columns import Column
from akdtune.registry import ComponentSettings, register
from akdtune.signals import Batch, Signals, Target, Teaching, Terms, Views, WeightedTarget, tempered
from akdtune.views import VariantSettings, ViewAugmenter, ViewContext
from akdtune.views._angular_heads import ViewHeads
from akdtune.views._angular_idle import LEVELS, idle
from akdtune.views._angular_losses import (
    Constraint,
    Level,
    Similarities,
    constraint_loss_L,
    diversity_loss_L,
    gate_BV,
    ground_truth_loss,
    inside_margin_LB,
    intra_loss_L,
    similarities,
)

_PAPER: dict[str, Any] = {
    "constraint": "infonce_clip",
    "angle_temperature": 1.0,
    "logit_sim": "cosine",
    "div_norm": "feature",
    "softplus_of": "sample",
    "con_extra_1_over_N": False,
    "ensemble": "uniform",
    "target_temperature": None,
    "detach_targets": True,
    "target_mode": "eval",
    "feature_inter_weight": 1.0,
    "constraint_weight": 1.0,
    "norm_init": "standard",
}
_RELEASED: dict[str, Any] = {
    **_PAPER,
    "angle_temperature": 4.0,
    "logit_sim": "dot",
    "div_norm": "view",
    "softplus_of": "batch_mean",
    "con_extra_1_over_N": True,
    "ensemble": "weighted_l2",
    "target_temperature": 4.0,
    "detach_targets": False,
    "target_mode": "train",
    "feature_inter_weight": 0.1,
    "norm_init": "released",
}
_CONSTRAINED: dict[str, Any] = {**_PAPER, "constraint": "hinge", "constraint_weight": 10.0}


_AFTER_WARMUP = frozenset(
    "variant train_heads ensemble view_weight target_temperature detach_targets target_mode".split()
)
"""Settings that make the student's target, or only fill in others."""


class AngularSettings(VariantSettings):
    """Settings of `angular`. `variant` fills in whatever is not given; the resolved settings hold every number."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": _PAPER,
        "released": _RELEASED,
        "constrained": _CONSTRAINED,
    }

    variant: Literal["paper", "released", "constrained"] = Field(
        "paper",
        description="paper: as described; released: as the published code computes it; constrained: ours, the paper"
        " with a constraint that keeps views inside the margin, so that margin and diversity weight have an effect",
    )
    num_views: PositiveInt = Field(5, description="number of heads")
    margin: float = Field(0.2, gt=0, le=1, description="a view is inside the margin at similarity >= 1 - margin")
    logit_margin: float | None = Field(
        None, gt=0, le=1, description="margin of the logit views; null: the same as `margin`"
    )
    learnable_margin: bool = Field(False, description="learn one margin for features and logits; refused with released")
    margin_max: float = Field(0.6, gt=0, le=1, description="bound of a learned margin (margin_max * sigmoid)")
    margin_penalty: NonNegativeFloat = Field(1.0, description="price per unit of a learned margin")
    inter: bool = Field(True, description="the constraint and the diversity between views")
    intra: bool = Field(True, description="the spread of the offsets from the teacher")
    feature_inter_weight: NonNegativeFloat = Field(1.0, description="weight of constraint and diversity of features")
    feature_intra_weight: NonNegativeFloat = Field(1.0, description="weight of the offsets of features")
    logit_inter_weight: NonNegativeFloat = Field(1.0, description="weight of constraint and diversity of logits")
    logit_intra_weight: NonNegativeFloat = Field(1.0, description="weight of the offsets of logits")
    constraint_weight: NonNegativeFloat = Field(1.0, description="weight of the constraint inside both inter losses")
    diversity_weight: NonNegativeFloat = Field(1.0, description="weight of the diversity inside both inter losses")
    gt_weight: NonNegativeFloat = Field(0.8, description="weight of the views' cross-entropy with the label")
    gt_reduction: Literal["sum", "mean"] = Field("sum", description="that cross-entropy over views")
    constraint: Constraint = Field(
        "infonce_clip",
        description="infonce_clip: contrast with the batch, own similarity set to 1 inside the margin; infonce_shift:"
        " own similarity + margin, at most 1; hinge: relu(1 - margin - similarity)",
    )
    contrast_temperature: PositiveFloat = Field(0.07, description="temperature of the contrast of both infonce forms")
    con_extra_1_over_N: bool = Field(False, description="divide the constraint by the number of views once more")
    angle_temperature: PositiveFloat = Field(1.0, description="softmax temperature of the compared probabilities")
    logit_sim: Literal["cosine", "dot"] = Field("cosine", description="similarity between probability vectors")
    div_norm: Literal["feature", "view"] = Field(
        "feature", description="scale view features to length 1 over their own axis, or (released) over the views"
    )
    div_denominator: Literal["B", "active"] = Field("B", description="mean over the batch, or over open gates")
    intra_norm: Literal["raw", "unit"] = Field("raw", description="offsets between vectors as they are, or of length 1")
    softplus_of: Literal["sample", "batch_mean"] = Field("sample", description="softplus before or after the mean")
    ensemble: Literal["uniform", "weighted_l1", "weighted_l2"] = Field(
        "uniform",
        description="uniform: mean of teacher and views; weighted_l1: teacher 1 and views view_weight, scaled to sum 1;"
        " weighted_l2: scaled to length 1, which sums to 2.44 for 5 views and multiplies the KD weight by that",
    )
    view_weight: PositiveFloat = Field(0.8, description="weight of a view beside the teacher's 1; not used by uniform")
    target_temperature: PositiveFloat | None = Field(
        None, description="softmax temperature of the ensemble's members; null: the method's"
    )
    detach_targets: bool = Field(True, description="keep the student's losses from training the heads")
    target_mode: Literal["train", "eval"] = Field(
        "eval", description="targets with dropout and batch statistics (train) or without (eval)"
    )
    train_heads: Literal["pretrain", "joint", "both", "frozen"] = Field(
        "both", description="when heads train: in the warm-up stage, beside the student, both, or never"
    )
    warmup_epochs: NonNegativeInt = Field(30, description="epochs of the warm-up stage (used by pretrain and both)")
    warmup_lr: PositiveFloat = Field(0.1, description="its learning rate, a tenth after 1/3 and again after 2/3")
    heads_orthogonal: bool = Field(True, description="initial rows of different heads are orthogonal")
    norm_init: Literal["standard", "released"] = Field(
        "standard", description="batch-norm scale and shift: 1 and 0, or one random pair per head"
    )
    dropout: float | list[float] | None = Field(
        None, description="dropout rate of all heads, or one per head; null: 0.15, 0.20 ... 0.40, then 0.40"
    )

    @override
    @classmethod
    def preset(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """The variant's values; `paper` shifts where the margin is learned, as clipping has no gradient to it."""
        values = super().preset(given)
        if given.get("learnable_margin") is True and given.get("variant", "paper") == "paper":
            return {**values, "constraint": "infonce_shift"}
        return values

    @model_validator(mode="after")
    def _check(self) -> AngularSettings:
        rates = [self.dropout] if isinstance(self.dropout, float) else self.dropout or []
        if any(not 0 <= rate < 1 for rate in rates):
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}")
        if isinstance(self.dropout, list) and len(self.dropout) != self.num_views:
            raise ValueError(f"dropout needs one rate per view ({self.num_views}), got {len(self.dropout)}")
        if self.train_heads != "frozen" and not any(self.penalty_weights().values()):
            raise ValueError("no view loss has a weight, so heads cannot train; use train_heads: frozen")
        if self.learnable_margin:
            self._check_learnable_margin()
        return self

    def _check_learnable_margin(self) -> None:
        if self.variant == "released":
            raise ValueError("learnable_margin does not go with variant released, whose margin is a constant")
        if self.constraint == "infonce_clip":
            raise ValueError("learnable_margin needs constraint infonce_shift or hinge: infonce_clip never moves it")
        if self.margin >= self.margin_max:
            raise ValueError(f"margin {self.margin} must be below margin_max {self.margin_max} when it is learned")
        if self.logit_margin not in (None, self.margin):
            raise ValueError("logit_margin must be null when the margin is learned: there is one for both")

    @override
    def idle(self) -> dict[str, str]:
        """Settings of penalties that are off, of a warm-up that is left out, of weights that are not used."""
        return super().idle() | idle(self)

    def penalty_weights(self) -> dict[str, float]:
        """The weight of each penalty; penalties that are switched off are left out."""
        weights = {"ground_truth": self.gt_weight}
        if self.inter:
            for level, weight in (("feature", self.feature_inter_weight), ("logit", self.logit_inter_weight)):
                weights[f"{level}_constraint"] = weight * self.constraint_weight
                weights[f"{level}_diversity"] = weight * self.diversity_weight
        if self.intra:
            weights |= {"feature_intra": self.feature_intra_weight, "logit_intra": self.logit_intra_weight}
        if self.learnable_margin:
            weights["margin"] = self.margin_penalty
        return weights

    def dropout_rates(self) -> list[float]:
        """The dropout rate of each head."""
        if isinstance(self.dropout, list):
            return self.dropout
        if self.dropout is not None:
            return [self.dropout] * self.num_views
        return [min(0.15 + 0.05 * head, 0.40) for head in range(self.num_views)]


@register("angular")
class Angular(ViewAugmenter):
    """Heads on the teacher's feature, kept near the teacher and apart from each other by angles.

    The student's target is an ensemble of the teacher and all views, for logits and for features.

    Penalties (train the heads, never the student):
        feature_constraint, logit_constraint: keep each view within the margin of the teacher.
        feature_diversity, logit_diversity: spread views of a sample whose views all lie inside the margin.
        feature_intra, logit_intra: spread the offsets teacher - view.
        ground_truth: cross-entropy of each view with the label.
        margin: the learned margin itself, if it is learned.

    Differs: in `released`, from the published code: every parameter enters the optimiser once (it listed heads twice
        in the warm-up, which doubled the step); more than six heads work; losses are the same for every base method
        and no extra KD or CRD term is added unless the study lists it; the margin is a number, not a parameter that
        never trains. Heads train beside the student here for any method (there only with CRD).

    Example:
        >>> views = Angular.alone(num_classes=10, teacher_dim=64, num_views=3)
        >>> teacher, student = Signals.random(8), Signals.random(8)
        >>> teaching = views.teach(teacher, student, Batch.of(torch.arange(8)))
    """

    Settings = AngularSettings
    source = "Yu, Nam, Katabi and Son (Angular-KD), NeurIPS 2025, arXiv 2510.22480"
    columns = (
        Column("margin", "", "margin of the features, learned or set: views at similarity >= 1 - margin are inside"),
    )
    weights_M: Tensor
    margin_L1: Tensor

    def __init__(self, settings: AngularSettings, context: ViewContext) -> None:
        super().__init__(settings, context)
        self.settings = settings
        self.warmup_epochs = self.warmup_epochs_of(settings)
        self.trains_jointly = settings.train_heads in ("joint", "both")
        self.heads = ViewHeads(
            context.teacher_dim,
            context.num_classes,
            settings.dropout_rates(),
            settings.heads_orthogonal,
            settings.norm_init,
            context.generator,
        ).to(context.device)
        weights_M = torch.tensor(_ensemble_weights(settings), device=context.device)
        self.register_buffer("weights_M", weights_M, persistent=False)
        margins = [settings.margin, settings.logit_margin or settings.margin]
        self.register_buffer("margin_L1", torch.tensor(margins, device=context.device).unsqueeze(1), persistent=False)
        self.raw_margin: nn.Parameter | None = None
        if settings.learnable_margin:
            share = settings.margin / settings.margin_max
            self.raw_margin = nn.Parameter(torch.tensor(math.log(share / (1 - share)), device=context.device))

    @override
    @classmethod
    def warmup_epochs_of(cls, settings: ComponentSettings) -> int:
        """None where the heads train beside the student only, or never."""
        assert isinstance(settings, AngularSettings)
        return settings.warmup_epochs if settings.train_heads in ("pretrain", "both") else 0

    @override
    @classmethod
    def control_settings(cls, name: str, settings: ComponentSettings) -> dict[str, Any] | None:
        """Heads without angular losses; for `heads_labels_only` they must learn from labels in the first place."""
        assert isinstance(settings, AngularSettings)
        off = {**settings.model_dump(), "inter": False, "intra": False, "learnable_margin": False}
        if name == "heads_labels_only":
            return off if settings.gt_weight and settings.train_heads != "frozen" else None
        return off | {"gt_weight": 0.0, "train_heads": "frozen"} if name == "ensemble_without_losses" else None

    @override
    def views(self, teacher: Signals, generator: torch.Generator, student: Signals | None = None) -> Views:
        """One view per head, with dropout and batch statistics only in training mode."""
        return self.heads(teacher.pooled_BC.detach(), self.training, generator)  # type: ignore[no-any-return]

    @override
    def teach(self, teacher: Signals, student: Signals, batch: Batch) -> Teaching:
        """The ensemble as the only target, and the heads' penalties where they train beside the student."""
        teacher = teacher.detach()
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.trains_jointly):
            if self.training and self.settings.target_mode == "train":
                target_views = trained_views = self.views(teacher, batch.generator)
            else:
                target_views = self._steady_views(teacher)
                trained_views = self.views(teacher, batch.generator) if self.trains_jointly else target_views
            similar = self._similarities(teacher, trained_views)
            open_LB = self._open_LB(similar.gate_LBV)
            penalties = self._penalties(similar, open_LB, trained_views, batch.labels_B) if self.trains_jointly else {}
        target = self.evaluation_target(teacher, target_views)
        only = (WeightedTarget(1.0, target.detach() if self.settings.detach_targets else target),)
        return Teaching(only, only, penalties, self._open_shares(open_LB))

    @override
    def warmup_penalties(self, teacher: Signals, batch: Batch) -> Terms:
        """The heads' penalties alone."""
        teacher = teacher.detach()
        return self.penalties(teacher, self.views(teacher, batch.generator), batch.labels_B)

    def penalties(self, teacher: Signals, views: Views, labels_B: Tensor) -> Terms:
        """The penalties of given views: every one whose weight is not 0."""
        similar = self._similarities(teacher, views)
        return self._penalties(similar, self._open_LB(similar.gate_LBV), views, labels_B)

    @override
    def unused_in_warmup(self) -> frozenset[str]:
        """What makes the student's target, what bounds a margin that is not learned, a margin that no term reads."""
        unused, weights = _AFTER_WARMUP, self.penalty_weights()
        if not self.settings.learnable_margin:
            unused |= {"margin_max", "margin_penalty"}
            if not any(weights.get(f"{level}_{kind}") for level in LEVELS for kind in ("constraint", "diversity")):
                unused |= {"margin", "logit_margin"}
        return unused

    @override
    def warmup_learning_rate(self, epoch: int) -> float:
        """`warmup_lr`, a tenth of it after one third and a hundredth after two thirds of the warm-up."""
        passed = sum(3 * (epoch - 1) >= third * self.warmup_epochs for third in (1, 2))
        return self.settings.warmup_lr * 0.1**passed

    @override
    def penalty_weights(self) -> Mapping[str, float]:
        return self.settings.penalty_weights()

    @override
    def evaluation_target(self, teacher: Signals, views: Views) -> Target:
        """The mixture of teacher and views that the student imitates."""
        return Target(
            torch.cat([teacher.logits_BK.unsqueeze(1), views.logits_BVK], dim=1),
            torch.cat([teacher.pooled_BC.unsqueeze(1), views.pooled_BVC], dim=1),
            self.weights_M.to(teacher.logits_BK.dtype),
            self.settings.target_temperature,
            teacher.stages,
        )

    @override
    @torch.no_grad()
    def gates(self, teacher: Signals, views: Views) -> dict[str, Tensor]:
        """Share of samples whose views all lie inside the margin."""
        gate_LBV = torch.stack([gate_BV(level) for level in self._levels(teacher, views)])
        return self._open_shares(self._open_LB(gate_LBV))

    @override
    @torch.no_grad()
    def measures(self) -> dict[str, float]:
        """The margin of the features, learned or set."""
        return {"margin": self.settings.margin if self.raw_margin is None else float(self._margin_L1())}

    def _steady_views(self, teacher: Signals) -> Views:
        """Views without dropout, with running statistics; without a gradient where targets are detached."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.settings.detach_targets):
            return self.heads(teacher.pooled_BC, False)  # type: ignore[no-any-return]

    def _margin_L1(self) -> Tensor | float:
        """One number where both levels have the same, else one a level."""
        settings = self.settings
        if self.raw_margin is not None:
            return settings.margin_max * torch.sigmoid(self.raw_margin)
        if settings.logit_margin in (None, settings.margin):
            return settings.margin
        return self.margin_L1

    def _levels(self, teacher: Signals, views: Views) -> tuple[Level, Level]:
        """Features, and probabilities at the angular losses' own temperature: in the order of LEVELS."""
        settings = self.settings
        teacher_BK, views_BVK = (
            torch.softmax(tempered(logits, settings.angle_temperature), dim=-1)
            for logits in (teacher.logits_BK, views.logits_BVK)
        )
        return (
            Level(teacher.pooled_BC, views.pooled_BVC, spread_over=settings.div_norm),
            Level(teacher_BK, views_BVK, cosine=settings.logit_sim == "cosine"),
        )

    def _similarities(self, teacher: Signals, views: Views) -> Similarities:
        settings = self.settings
        return similarities(
            self._levels(teacher, views),
            unit_offsets=settings.intra_norm == "unit",
            contrast=settings.inter and settings.constraint != "hinge",
        )

    def _penalties(self, similar: Similarities, open_LB: Tensor, views: Views, labels_B: Tensor) -> Terms:
        """Every penalty whose weight is not 0; both levels of a kind are computed together."""
        settings, margin_L1 = self.settings, self._margin_L1()
        wanted = {name for name, weight in self.penalty_weights().items() if weight}
        kinds: dict[str, Callable[[], Tensor]] = {
            "constraint": lambda: self._constraint_L(similar, margin_L1),
            "diversity": lambda: diversity_loss_L(similar.pairs_LBP, open_LB, settings.div_denominator),
            "intra": lambda: intra_loss_L(similar.offsets_LBP, settings.softplus_of),
        }
        terms: Terms = {}
        for kind, loss_L in kinds.items():
            names = [f"{level}_{kind}" for level in LEVELS]
            if wanted.intersection(names):
                terms |= dict(zip(names, loss_L().unbind(), strict=True))
        terms = {name: value for name, value in terms.items() if name in wanted}
        if "ground_truth" in wanted:
            terms["ground_truth"] = ground_truth_loss(views.logits_BVK, labels_B, settings.gt_reduction)
        if "margin" in wanted:
            terms["margin"] = torch.as_tensor(margin_L1)
        return terms

    def _constraint_L(self, similar: Similarities, margin_L1: Tensor | float) -> Tensor:
        settings = self.settings
        margin_L11 = margin_L1.unsqueeze(-1) if isinstance(margin_L1, Tensor) and margin_L1.ndim else margin_L1
        loss_L = constraint_loss_L(similar, margin_L11, settings.constraint, settings.contrast_temperature)
        return loss_L / settings.num_views if settings.con_extra_1_over_N else loss_L

    @torch.no_grad()
    def _open_LB(self, gate_LBV: Tensor) -> Tensor:
        """1 where a sample's gate is open, else 0."""
        return inside_margin_LB(gate_LBV, self._margin_L1()).to(gate_LBV.dtype)

    def _open_shares(self, open_LB: Tensor) -> dict[str, Tensor]:
        return dict(zip(LEVELS, open_LB.mean(dim=1).unbind(), strict=True))


def _ensemble_weights(settings: AngularSettings) -> list[float]:
    """Weights of the teacher and of each view."""
    if settings.ensemble == "uniform":
        return [1 / (settings.num_views + 1)] * (settings.num_views + 1)
    weights = [1.0] + [settings.view_weight] * settings.num_views
    scale = sum(weights) if settings.ensemble == "weighted_l1" else math.hypot(*weights)
    return [weight / scale for weight in weights]

"""Settings of Angular-KD's views, the three variants, and which settings change nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, TypeAlias

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from typing_extensions import override

from akdtune.views import VariantSettings
from akdtune.views._angular_losses import Constraint

LEVELS = ("feature", "logit")

Add: TypeAlias = Callable[..., None]
"""Notes a reason for several keys."""

_CONSTRAINT = ("constraint", "contrast_temperature", "con_extra_1_over_N")
_DIVERSITY = ("div_denominator",)
_INTER = (*_CONSTRAINT, *_DIVERSITY, "constraint_weight", "diversity_weight")
_INTER_WEIGHTS = tuple(f"{level}_inter_weight" for level in LEVELS)
_INTRA_WEIGHTS = tuple(f"{level}_intra_weight" for level in LEVELS)
_INTRA = ("intra_norm", "softplus_of")
_LEARNED = ("learnable_margin", "margin_max", "margin_penalty")


def idle_settings(settings: AngularSettings) -> dict[str, str]:
    """Key to reason; the first reason that holds is given."""
    reasons: dict[str, str] = {}

    def add(reason: str, *keys: str) -> None:
        for key in keys:
            reasons.setdefault(key, reason)

    _of_training(settings, add)
    _of_inter(settings, add)
    _of_intra(settings, add)
    read = {name for name, weight in _trained_weights(settings).items() if weight}
    _of_levels(settings, read, add)
    if not settings.gt_weight:
        add("gt_weight is 0", "gt_reduction")
    if settings.num_views == 1:
        add("there is one view", "gt_reduction")
    if settings.ensemble == "uniform":
        add("ensemble is uniform", "view_weight")
    return reasons


def _trains(settings: AngularSettings) -> bool:
    warmed_up = settings.train_heads in ("pretrain", "both") and settings.warmup_epochs > 0
    return warmed_up or settings.train_heads in ("joint", "both")


def _trained_weights(settings: AngularSettings) -> dict[str, float]:
    """The penalties that reach the heads: with one view nothing can be spread."""
    if not _trains(settings):
        return {}
    spread = () if settings.num_views > 1 else ("diversity", "intra")
    return {name: weight for name, weight in settings.penalty_weights().items() if not name.endswith(spread)}


def _of_training(settings: AngularSettings, add: Add) -> None:
    if settings.train_heads in ("joint", "frozen"):
        add(f"train_heads is {settings.train_heads}", "warmup_epochs")
    if settings.train_heads in ("joint", "frozen") or not settings.warmup_epochs:
        reason = f"train_heads is {settings.train_heads}" if settings.warmup_epochs else "warmup_epochs is 0"
        add(reason, "warmup_lr")
    if settings.train_heads in ("pretrain", "frozen"):
        add(f"train_heads is {settings.train_heads}", "detach_targets")
    if _trains(settings):
        return
    reason = "the heads never train"
    add(reason, "inter", "intra", "gt_weight", "gt_reduction", "margin", "logit_margin", *_LEARNED, *_INTER)
    add(reason, *_INTER_WEIGHTS, *_INTRA_WEIGHTS, *_INTRA, "div_norm", "logit_sim", "angle_temperature")
    if settings.target_mode == "eval":
        add(reason, "dropout")


def _of_inter(settings: AngularSettings, add: Add) -> None:
    if not settings.inter:
        add("inter is false", *_INTER, *_INTER_WEIGHTS)
    if not any(getattr(settings, weight) for weight in _INTER_WEIGHTS):
        add("feature_inter_weight and logit_inter_weight are 0", "inter", *_INTER)
    constraint, diversity = settings.constraint_weight, settings.diversity_weight
    if settings.num_views == 1:
        add("there is one view", "diversity_weight", *_DIVERSITY)
        diversity = 0.0
    if not constraint and not diversity:
        add("neither constraint nor diversity has a weight", "inter", *_INTER_WEIGHTS)
    if not constraint:
        add("constraint_weight is 0", *_CONSTRAINT)
    if not diversity:
        add("diversity_weight is 0", *_DIVERSITY)
    if settings.constraint == "hinge":
        add("constraint is hinge", "contrast_temperature")


def _of_intra(settings: AngularSettings, add: Add) -> None:
    if not settings.intra:
        add("intra is false", *_INTRA, *_INTRA_WEIGHTS)
    if settings.num_views == 1:
        add("there is one view", "intra", *_INTRA, *_INTRA_WEIGHTS)
    if not any(getattr(settings, weight) for weight in _INTRA_WEIGHTS):
        add("feature_intra_weight and logit_intra_weight are 0", "intra", *_INTRA)


def _of_levels(settings: AngularSettings, read: set[str], add: Add) -> None:
    """Settings of what is compared at each level, which several penalties read."""
    near = {level: bool(read & {f"{level}_constraint", f"{level}_diversity"}) for level in LEVELS}
    why = "inter is false" if not settings.inter else "no constraint and no diversity has a weight"
    if "feature_diversity" not in read:
        add("inter is false" if not settings.inter else "the diversity of features has no weight", "div_norm")
    if not near["logit"]:
        add(why if not any(near.values()) else "no constraint and no diversity of logits has a weight", "logit_sim")
        if "logit_intra" not in read:
            add("no angular penalty of logits has a weight", "angle_temperature")
    if not any(near.values()):
        add(why, "margin", "logit_margin", *_LEARNED)
        return
    if not settings.learnable_margin:
        add("learnable_margin is false", "margin_max", "margin_penalty")
        if not near["logit"]:
            add("no constraint and no diversity of logits has a weight", "logit_margin")
        elif not near["feature"] and settings.logit_margin is not None:
            add("no constraint and no diversity of features has a weight", "margin")


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
    num_views: PositiveInt = Field(5, le=1000, description="number of heads")
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
    warmup_epochs: NonNegativeInt = Field(
        30, le=100_000, description="epochs of the warm-up stage (used by pretrain and both)"
    )
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
        return super().idle() | idle_settings(self)

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

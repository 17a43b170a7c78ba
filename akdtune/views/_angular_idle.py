"""Which settings of Angular-KD change nothing in training, given the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from akdtune.views.angular import AngularSettings

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


def idle(settings: AngularSettings) -> dict[str, str]:
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

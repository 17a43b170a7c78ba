"""The angular losses of Angular-KD as free functions, for features and for probabilities alike.

Shapes: B batch, V views, R width of what is compared (features or classes), M = 1 + 2 V teacher, views and offsets.

References: arXiv 2510.22480; both readings (the paper's, and the released code's) are reached by arguments.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

Constraint = Literal["infonce_clip", "infonce_shift", "hinge"]

MIN_NORM = 1e-6
"""Shorter vectors are not scaled up to length 1: where teacher and view coincide the offset's angle means nothing."""


class Similarities(NamedTuple):
    """How teacher and views relate within each sample, at one level.

    Attributes:
        own_BV: each view with its own teacher output, as the constraint sees it.
        gate_BV: the same as the gate of the diversity sees it.
        pairs_BVV: views with each other.
        offsets_BVV: cosines of the offsets teacher - view with each other.
        others_BVB: each view with every teacher output of the batch; None unless asked for.
    """

    own_BV: Tensor
    gate_BV: Tensor
    pairs_BVV: Tensor
    offsets_BVV: Tensor
    others_BVB: Tensor | None


def unit(x: Tensor, dim: int = -1) -> Tensor:
    """The same vectors scaled to length 1 along `dim`."""
    return x * (x * x).sum(dim=dim, keepdim=True).clamp_min(MIN_NORM**2).rsqrt()


def similarities(
    teacher_BR: Tensor,
    views_BVR: Tensor,
    *,
    cosine: bool = True,
    spread_over: Literal["feature", "view"] = "feature",
    unit_offsets: bool = False,
    contrast: bool = False,
) -> Similarities:
    """All similarities of one level.

    One matrix of products holds them: teacher, views and offsets of a sample against each other, with the lengths on
    its diagonal, so that nothing is scaled to length 1 before it is multiplied.

    Args:
        teacher_BR: the teacher's features or probabilities.
        views_BVR: the views' of the same samples.
        cosine: cosines, or plain dot products (released, for probabilities); offsets are always compared by cosines.
        spread_over: `view` (released) scales views to length 1 over the view axis for gate and pairs.
        unit_offsets: offsets between vectors of length 1.
        contrast: also compare with the other teacher outputs of the batch.
    """
    batch, views, _ = views_BVR.shape
    if unit_offsets:
        offsets_BVR = unit(teacher_BR).unsqueeze(1) - unit(views_BVR)
    else:
        offsets_BVR = teacher_BR.unsqueeze(1) - views_BVR
    products_BMM = _products(torch.cat([teacher_BR.unsqueeze(1), views_BVR, offsets_BVR], dim=1))
    scale_BM = products_BMM.diagonal(dim1=1, dim2=2).clamp_min(MIN_NORM**2).rsqrt()
    cosines_BMM = products_BMM * scale_BM.unsqueeze(2) * scale_BM.unsqueeze(1)
    compared_BMM = cosines_BMM if cosine else products_BMM
    own_BV = gate_BV = compared_BMM[:, 0, 1 : views + 1]
    pairs_BVV = compared_BMM[:, 1 : views + 1, 1 : views + 1]
    if spread_over == "view":
        spread_BVR = unit(views_BVR, dim=1)
        gate_BV = (spread_BVR * unit(teacher_BR).unsqueeze(1)).sum(dim=-1)
        pairs_BVV = _products(spread_BVR)
    others_BVB = None
    if contrast:
        compared_BR = unit(teacher_BR) if cosine else teacher_BR
        others_BVB = (views_BVR.reshape(batch * views, -1) @ compared_BR.T).view(batch, views, batch)
        if cosine:
            others_BVB = others_BVB * scale_BM[:, 1 : views + 1].unsqueeze(2)
    return Similarities(own_BV, gate_BV, pairs_BVV, cosines_BMM[:, views + 1 :, views + 1 :], others_BVB)


def inside_margin_B(gate_BV: Tensor, margin: Tensor | float) -> Tensor:
    """Whether the diversity gate of each sample is open: all its views lie inside the margin, boolean [B]."""
    return gate_BV.amin(dim=1) > 1 - margin


def constraint_loss(found: Similarities, margin: Tensor | float, kind: Constraint, temperature: float) -> Tensor:
    """Keeps every view near its own teacher output: a scalar, mean over batch and views.

    Args:
        found: with `others_BVB` for both infonce forms.
        margin: a view with a similarity of at least 1 - margin is near enough.
        kind: `infonce_clip`: contrast with the batch's other teacher outputs, the own similarity replaced by 1 inside
            the margin (the negatives still push); `infonce_shift`: the same with min(similarity + margin, 1);
            `hinge`: relu(1 - margin - similarity), the only form without any gradient inside the margin.
        temperature: of the contrast.
    """
    own_BV = found.own_BV
    if kind == "hinge":
        return functional.relu(1 - margin - own_BV).mean()
    assert found.others_BVB is not None, "similarities(contrast=True) comes before an infonce constraint"
    if kind == "infonce_clip":
        own_BV = torch.where(own_BV >= 1 - margin, 1.0, own_BV)
    else:
        own_BV = (own_BV + margin).clamp_max(1.0)
    is_own_B1B = torch.eye(len(own_BV), dtype=torch.bool, device=own_BV.device).unsqueeze(1)
    contrast_BVB = torch.where(is_own_B1B, own_BV.unsqueeze(2), found.others_BVB) / temperature
    return (torch.logsumexp(contrast_BVB, dim=2) - own_BV / temperature).mean()


def diversity_loss(pairs_BVV: Tensor, open_B: Tensor, denominator: Literal["B", "active"]) -> Tensor:
    """Mean softplus of the similarities between views, over the samples whose gate is open: a scalar.

    Args:
        pairs_BVV: similarities between the views of a sample.
        open_B: the gate of each sample.
        denominator: `B` divides by the batch, `active` by the number of open gates.
    """
    per_sample_B = mean_over_pairs(functional.softplus(pairs_BVV)) * open_B
    if denominator == "active":
        return per_sample_B.sum() / open_B.sum().clamp_min(1)
    return per_sample_B.mean()


def intra_loss(offsets_BVV: Tensor, softplus_of: Literal["sample", "batch_mean"]) -> Tensor:
    """Softplus of the cosines between offsets, mean over pairs: a scalar.

    Args:
        offsets_BVV: cosines between the offsets of a sample.
        softplus_of: `sample`: softplus of each sample's cosine, then the mean over the batch; `batch_mean`: softplus
            of the batch's mean cosine of each pair.
    """
    if softplus_of == "batch_mean":
        return mean_over_pairs(functional.softplus(offsets_BVV.mean(dim=0)))
    return mean_over_pairs(functional.softplus(offsets_BVV)).mean()


def ground_truth_loss(logits_BVK: Tensor, labels_B: Tensor, reduction: Literal["sum", "mean"]) -> Tensor:
    """Cross-entropy of every view with the label, mean over the batch, sum or mean over views: a scalar in nats."""
    batch, views, classes = logits_BVK.shape
    labels_BV = labels_B.unsqueeze(1).expand(batch, views)
    loss = functional.cross_entropy(logits_BVK.reshape(batch * views, classes), labels_BV.reshape(-1))
    return loss * views if reduction == "sum" else loss


def mean_over_pairs(x_xVV: Tensor) -> Tensor:
    """Mean over ordered pairs of different views, `[..., V, V]` -> `[...]`; 0 for a single view, which has no pair."""
    return (x_xVV * _pair_weights_VV(x_xVV.shape[-1], x_xVV.dtype, x_xVV.device)).sum(dim=(-2, -1))


@lru_cache(maxsize=32)
def _pair_weights_VV(views: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return (1 - torch.eye(views, dtype=dtype, device=device)) / max(views * (views - 1), 1)


class _Products(torch.autograd.Function):
    """x @ x^T per sample. Autograd's own backward takes two products of badly shaped matrices; one is enough."""

    @staticmethod
    def forward(ctx: Any, x_BMR: Tensor) -> Tensor:
        ctx.save_for_backward(x_BMR)
        return x_BMR @ x_BMR.mT

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x_BMR,) = ctx.saved_tensors
        return (gradients[0] + gradients[0].mT) @ x_BMR  # type: ignore[no-any-return]


def _products(x_BMR: Tensor) -> Tensor:
    return _Products.apply(x_BMR)  # type: ignore[no-any-return]

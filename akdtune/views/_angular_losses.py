"""The angular losses of Angular-KD as free functions, for features and for probabilities alike.

Shapes: B batch, V views, P = V (V - 1) / 2 pairs of different views, R width of what is compared (features or
classes), M = 1 + 2 V members: teacher, views and offsets.

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
        pairs_BP: views with each other.
        offsets_BP: cosines of the offsets teacher - view with each other.
        others_BVB: each view with every teacher output of the batch; None unless asked for.
    """

    own_BV: Tensor
    gate_BV: Tensor
    pairs_BP: Tensor
    offsets_BP: Tensor
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

    One matrix of products holds those within a sample: teacher, views and offsets against each other, with their
    lengths on its diagonal, so that nothing has to be scaled to length 1 first.

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
    members_BMR = torch.cat([teacher_BR.unsqueeze(1), views_BVR, offsets_BVR], dim=1)
    own_BV, pairs_BP, offset_cosines_BP = _compare(members_BMR, views, True)
    if not cosine:
        own_BV, pairs_BP, _ = _compare(members_BMR, views, False)
    gate_BV = own_BV
    if spread_over == "view":
        spread_BVR = unit(views_BVR, dim=1)
        gate_BV = (spread_BVR * unit(teacher_BR).unsqueeze(1)).sum(dim=-1)
        first_P, second_P = torch.triu_indices(views, views, 1, device=views_BVR.device)
        pairs_BP = (spread_BVR[:, first_P] * spread_BVR[:, second_P]).sum(dim=-1)
    others_BVB = None
    if contrast:
        compared_BR = unit(teacher_BR) if cosine else teacher_BR
        compared_BVR = unit(views_BVR) if cosine else views_BVR
        others_BVB = (compared_BVR.reshape(batch * views, -1) @ compared_BR.T).view(batch, views, batch)
    return Similarities(own_BV, gate_BV, pairs_BP, offset_cosines_BP, others_BVB)


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


def diversity_loss(pairs_BP: Tensor, open_B: Tensor, denominator: Literal["B", "active"]) -> Tensor:
    """Mean softplus of the similarities between views, over the samples whose gate is open: a scalar.

    Args:
        pairs_BP: similarities between the views of a sample.
        open_B: the gate of each sample.
        denominator: `B` divides by the batch, `active` by the number of open gates.
    """
    per_sample_B = mean_over_pairs(functional.softplus(pairs_BP)) * open_B
    if denominator == "active":
        return per_sample_B.sum() / open_B.sum().clamp_min(1)
    return per_sample_B.mean()


def intra_loss(offsets_BP: Tensor, softplus_of: Literal["sample", "batch_mean"]) -> Tensor:
    """Softplus of the cosines between offsets, mean over pairs: a scalar.

    Args:
        offsets_BP: cosines between the offsets of a sample.
        softplus_of: `sample`: softplus of each sample's cosine, then the mean over the batch; `batch_mean`: softplus
            of the batch's mean cosine of each pair.
    """
    if softplus_of == "batch_mean":
        return mean_over_pairs(functional.softplus(offsets_BP.mean(dim=0)))
    return mean_over_pairs(functional.softplus(offsets_BP)).mean()


def ground_truth_loss(logits_BVK: Tensor, labels_B: Tensor, reduction: Literal["sum", "mean"]) -> Tensor:
    """Cross-entropy of every view with the label, mean over the batch, sum or mean over views: a scalar in nats."""
    batch, views, classes = logits_BVK.shape
    labels_BV = labels_B.unsqueeze(1).expand(batch, views)
    loss = functional.cross_entropy(logits_BVK.reshape(batch * views, classes), labels_BV.reshape(-1))
    return loss * views if reduction == "sum" else loss


def mean_over_pairs(x_xP: Tensor) -> Tensor:
    """Mean over the last axis; 0 for a single view, which has no pair."""
    return x_xP.sum(dim=-1) / max(x_xP.shape[-1], 1)


class _Compare(torch.autograd.Function):
    """Similarities among [teacher, V views, V offsets] of each sample, with a backward of one product.

    Autograd would walk back through every slice and scaling of small matrices, at several times the cost. With
    C = S X X^T S (S: inverse lengths), A = dL/dC + its transpose: dL/dX = (S A S - diag(rowsum(A * C) S^2)) X.
    """

    @staticmethod
    def forward(ctx: Any, members_BMR: Tensor, views: int, cosine: bool) -> tuple[Tensor, ...]:
        compared_BMM = members_BMR @ members_BMR.mT
        scale_BM1 = None
        if cosine:
            squared_BM1 = compared_BMM.diagonal(dim1=1, dim2=2).unsqueeze(2)
            scale_BM1 = squared_BM1.clamp_min(MIN_NORM**2).rsqrt()
            compared_BMM = compared_BMM * (scale_BM1 * scale_BM1.mT)
        ctx.save_for_backward(members_BMR, compared_BMM, scale_BM1)
        ctx.wanted_X = _wanted_X(views, members_BMR.device)
        pairs = views * (views - 1) // 2
        wanted_BX = compared_BMM.flatten(1).index_select(1, ctx.wanted_X)
        return torch.split_with_sizes(wanted_BX, [views, pairs, pairs], dim=1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        members_BMR, compared_BMM, scale_BM1 = ctx.saved_tensors
        a_BMM = torch.zeros_like(compared_BMM)
        a_BMM.flatten(1).index_copy_(1, ctx.wanted_X, torch.cat(gradients, dim=1))
        a_BMM = a_BMM + a_BMM.mT
        if scale_BM1 is None:
            return a_BMM @ members_BMR, None, None
        # a vector too short to be scaled to length 1 has a constant scale: nothing to take off for it
        squared_BM1 = (scale_BM1 * (scale_BM1 < 1 / MIN_NORM)).square()
        lengthwise_BM1 = (a_BMM * compared_BMM).sum(dim=2, keepdim=True) * squared_BM1
        inner_BMM = a_BMM * (scale_BM1 * scale_BM1.mT)
        inner_BMM.diagonal(dim1=1, dim2=2).sub_(lengthwise_BM1.squeeze(2))
        return inner_BMM @ members_BMR, None, None


def _compare(members_BMR: Tensor, views: int, cosine: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Each view with the teacher [B, V], views with each other and offsets with each other [B, P]."""
    return _Compare.apply(members_BMR, views, cosine)  # type: ignore[no-any-return]


@lru_cache(maxsize=32)
def _wanted_X(views: int, device: torch.device) -> Tensor:
    """Where the wanted entries stand in a flattened M x M matrix: teacher-view, view-view, offset-offset."""
    members = 1 + 2 * views
    own_V = torch.arange(1, views + 1)
    first_P, second_P = torch.triu_indices(views, views, 1) + 1
    offsets_P = (first_P + views) * members + second_P + views
    return torch.cat([own_V, first_P * members + second_P, offsets_P]).to(device)

"""The angular losses of Angular-KD as free functions, for features and for probabilities alike.

Shapes: L levels, B batch, V views, P = V (V - 1) / 2 pairs of different views, R width of what is compared (features
or classes), M = 1 + 2 V members: teacher, views and offsets.

References: arXiv 2510.22480; both readings (the paper's, and the released code's) are reached by arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from akdtune.signals import labelled_cross_entropy

Constraint = Literal["infonce_clip", "infonce_shift", "hinge"]

MIN_NORM = 1e-6
"""Shorter vectors are not scaled up to length 1: where teacher and view coincide the offset's angle means nothing."""


class Level(NamedTuple):
    """What is compared at one level (features or probabilities) of the same samples.

    Attributes:
        teacher_BR: the teacher's features or probabilities; taken as constants.
        views_BVR: the views'.
        cosine: cosines, or plain dot products (released, for probabilities); offsets are always compared by cosines.
        spread_over: `view` (released) scales views to length 1 over the view axis for gate and pairs.
    """

    teacher_BR: Tensor
    views_BVR: Tensor
    cosine: bool = True
    spread_over: Literal["feature", "view"] = "feature"


class Similarities(NamedTuple):
    """How teacher and views relate within each sample, at all levels.

    Attributes:
        own_LBV: each view with its own teacher output, as the constraint sees it.
        gate_LBV: the same as the gate of the diversity sees it.
        pairs_LBP: views with each other.
        offsets_LBP: cosines of the offsets teacher - view with each other.
        others_LBVB: each view with every teacher output of the batch; None unless asked for.
    """

    own_LBV: Tensor
    gate_LBV: Tensor
    pairs_LBP: Tensor
    offsets_LBP: Tensor
    others_LBVB: Tensor | None


def unit(x: Tensor, dim: int = -1) -> Tensor:
    """The same vectors scaled to length 1 along `dim`."""
    return x * (x * x).sum(dim=dim, keepdim=True).clamp_min(MIN_NORM**2).rsqrt()


def similarities(levels: Sequence[Level], *, unit_offsets: bool = False, contrast: bool = False) -> Similarities:
    """All similarities of all levels, stacked: levels differ in width only, and small batches cost by the operation.

    One matrix of products a level holds those within a sample: teacher, views and offsets against each other, with
    their lengths on its diagonal, so that nothing has to be scaled to length 1 first.

    Args:
        levels: with the same number of views.
        unit_offsets: offsets between vectors of length 1.
        contrast: also compare with the other teacher outputs of the batch.
    """
    members = [_members_BMR(level, unit_offsets) for level in levels]
    own_LBV, pairs_LBP, offsets_LBP = _compare(members, levels)
    gate_LBV = own_LBV
    if any(level.spread_over == "view" for level in levels):
        gates, pairs = list(own_LBV.unbind()), list(pairs_LBP.unbind())
        for index, level in enumerate(levels):
            if level.spread_over == "view":
                gates[index], pairs[index] = gate_BV(level), _spread_pairs_BP(level)
        gate_LBV, pairs_LBP = torch.stack(gates), torch.stack(pairs)
    others_LBVB = torch.stack([_others_BVB(level) for level in levels]) if contrast else None
    return Similarities(own_LBV, gate_LBV, pairs_LBP, offsets_LBP, others_LBVB)


def gate_BV(level: Level) -> Tensor:
    """Each view with its own teacher output as the gate of the diversity sees it, [B, V]."""
    if level.spread_over == "view":
        return (unit(level.views_BVR, dim=1) * unit(level.teacher_BR).unsqueeze(1)).sum(dim=-1)
    own_BV = (level.views_BVR @ level.teacher_BR.unsqueeze(2)).squeeze(2)
    if not level.cosine:
        return own_BV
    teacher_B1, views_BV = (
        torch.linalg.vector_norm(x, dim=-1).clamp_min(MIN_NORM) for x in (level.teacher_BR[:, None], level.views_BVR)
    )
    cosine_BV: Tensor = own_BV / (teacher_B1 * views_BV)
    return cosine_BV


def _members_BMR(level: Level, unit_offsets: bool) -> Tensor:
    """Teacher, views and offsets teacher - view."""
    teacher_B1R, views_BVR = level.teacher_BR.unsqueeze(1), level.views_BVR
    offsets_BVR = unit(teacher_B1R) - unit(views_BVR) if unit_offsets else teacher_B1R - views_BVR
    return torch.cat([teacher_B1R, views_BVR, offsets_BVR], dim=1)


def _spread_pairs_BP(level: Level) -> Tensor:
    """Views with each other, scaled over the view axis."""
    spread_BVR, views = unit(level.views_BVR, dim=1), level.views_BVR.shape[1]
    first_P, second_P = torch.triu_indices(views, views, 1, device=spread_BVR.device)
    return (spread_BVR[:, first_P] * spread_BVR[:, second_P]).sum(dim=-1)


def _others_BVB(level: Level) -> Tensor:
    """Each view with every teacher output of the batch."""
    batch, views, _ = level.views_BVR.shape
    teacher_BR, views_BVR = level.teacher_BR, level.views_BVR
    if level.cosine:
        teacher_BR, views_BVR = unit(teacher_BR), unit(views_BVR)
    return (views_BVR.reshape(batch * views, -1) @ teacher_BR.T).view(batch, views, batch)


def inside_margin_LB(gate_LBV: Tensor, margin_L1: Tensor | float) -> Tensor:
    """Whether the diversity gate of each sample is open: all its views lie inside the margin, boolean [L, B]."""
    return gate_LBV.detach().amin(dim=-1) > 1 - margin_L1


def constraint_loss_L(
    similar: Similarities, margin_L11: Tensor | float, kind: Constraint, temperature: float
) -> Tensor:
    """Keeps every view near its own teacher output: mean over batch and views, [L].

    Args:
        similar: with `others_LBVB` for both infonce forms.
        margin_L11: a view with a similarity of at least 1 - margin is near enough; one number, or one a level.
        kind: `infonce_clip`: contrast with the batch's other teacher outputs, the own similarity replaced by 1 inside
            the margin (the negatives still push); `infonce_shift`: the same with min(similarity + margin, 1);
            `hinge`: relu(1 - margin - similarity), the only form without any gradient inside the margin.
        temperature: of the contrast.
    """
    own_LBV = similar.own_LBV
    if kind == "hinge":
        return functional.relu(1 - margin_L11 - own_LBV).mean(dim=(1, 2))
    assert similar.others_LBVB is not None, "similarities(contrast=True) comes before an infonce constraint"
    if kind == "infonce_clip":
        own_LBV = torch.where(own_LBV >= 1 - margin_L11, 1.0, own_LBV)
    else:
        own_LBV = (own_LBV + margin_L11).clamp_max(1.0)
    is_own_B1B = torch.eye(own_LBV.shape[1], dtype=torch.bool, device=own_LBV.device).unsqueeze(1)
    contrast_LBVB = torch.where(is_own_B1B, own_LBV.unsqueeze(3), similar.others_LBVB) / temperature
    return (torch.logsumexp(contrast_LBVB, dim=3) - own_LBV / temperature).mean(dim=(1, 2))


def diversity_loss_L(pairs_LBP: Tensor, open_LB: Tensor, denominator: Literal["B", "active"]) -> Tensor:
    """Mean softplus of the similarities between views, over the samples whose gate is open, [L].

    Args:
        pairs_LBP: similarities between the views of a sample.
        open_LB: the gate of each sample.
        denominator: `B` divides by the batch, `active` by the number of open gates.
    """
    per_sample_LB = mean_over_pairs(functional.softplus(pairs_LBP)) * open_LB
    if denominator == "active":
        return per_sample_LB.sum(dim=1) / open_LB.sum(dim=1).clamp_min(1)
    return per_sample_LB.mean(dim=1)


def intra_loss_L(offsets_LBP: Tensor, softplus_of: Literal["sample", "batch_mean"]) -> Tensor:
    """Softplus of the cosines between offsets, mean over pairs, [L].

    Args:
        offsets_LBP: cosines between the offsets of a sample.
        softplus_of: `sample`: softplus of each sample's cosine, then the mean over the batch; `batch_mean`: softplus
            of the batch's mean cosine of each pair.
    """
    if softplus_of == "batch_mean":
        return mean_over_pairs(functional.softplus(offsets_LBP.mean(dim=1)))
    return mean_over_pairs(functional.softplus(offsets_LBP)).mean(dim=1)


def ground_truth_loss(
    logits_BVK: Tensor, labels_B: Tensor, reduction: Literal["sum", "mean"], some_unlabelled: bool = False
) -> Tensor:
    """Cross-entropy of every view with the label, mean over the batch, sum or mean over views: a scalar in nats.

    Rows without a label do not count; whether there may be such rows is said by `some_unlabelled`.
    """
    views = logits_BVK.shape[1]
    logits_XK = logits_BVK.transpose(0, 1).flatten(0, 1)  # view by view, as the heads lay them out: no copy
    loss = labelled_cross_entropy(logits_XK, torch.cat([labels_B] * views), some_unlabelled)
    return loss * views if reduction == "sum" else loss


def mean_over_pairs(x_xP: Tensor) -> Tensor:
    """Mean over the last axis; 0 for a single view, which has no pair."""
    return x_xP.mean(dim=-1) if x_xP.shape[-1] else x_xP.sum(dim=-1)


class _Compare(torch.autograd.Function):
    """Similarities among [teacher, V views, V offsets] of each sample, with a backward of one product a level.

    Autograd would walk back through every slice and scaling of small matrices, at several times the cost. With
    C = S X X^T S (S: inverse lengths), A = dL/dC + its transpose: dL/dX = (S A S - diag(rowsum(A * C) S^2)) X.
    Where a level is compared by dot products, S is 1 for its teacher and views, and constant.
    """

    @staticmethod
    def forward(ctx: Any, dot_L: list[int], *members: Tensor) -> tuple[Tensor, ...]:
        views = members[0].shape[1] // 2
        compared_LBMM = torch.stack([torch.bmm(of_level_BMR, of_level_BMR.mT) for of_level_BMR in members])
        scale_LBM = compared_LBMM.diagonal(dim1=2, dim2=3).clamp_min(MIN_NORM**2).rsqrt_()
        for level in dot_L:  # one by one: a list of numbers would go to a GPU anew in every step, which waits for it
            scale_LBM[level, :, : 1 + views] = 1.0
        scales_LBMM = scale_LBM.unsqueeze(3) * scale_LBM.unsqueeze(2)
        compared_LBMM *= scales_LBMM
        ctx.save_for_backward(scale_LBM, scales_LBMM, compared_LBMM, *members)
        ctx.dot_L, ctx.views = dot_L, views
        pairs = views * (views - 1) // 2
        wanted_X, _ = _wanted(views, compared_LBMM.device)
        return compared_LBMM.flatten(2).index_select(2, wanted_X).split_with_sizes([views, pairs, pairs], dim=2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        scale_LBM, scales_LBMM, compared_LBMM, *members = ctx.saved_tensors
        _, source_Y = _wanted(ctx.views, scale_LBM.device)
        padded_LBX = torch.cat([*gradients, gradients[0].new_zeros(*scale_LBM.shape[:2], 1)], dim=2)
        a_LBMM = padded_LBX.index_select(2, source_Y).view_as(compared_LBMM)
        # a vector too short to be scaled to length 1 has a constant scale: nothing to take off for it
        squared_LBM = scale_LBM.square().mul_(scale_LBM < 1 / MIN_NORM)
        for level in ctx.dot_L:
            squared_LBM[level, :, : 1 + ctx.views] = 0.0
        lengthwise_LBM = (a_LBMM * compared_LBMM).sum(dim=3).mul_(squared_LBM)
        inner_LBMM = a_LBMM.mul_(scales_LBMM)
        inner_LBMM.diagonal(dim1=2, dim2=3).sub_(lengthwise_LBM)
        return None, *map(torch.bmm, inner_LBMM, members)


def _compare(members: Sequence[Tensor], levels: Sequence[Level]) -> tuple[Tensor, Tensor, Tensor]:
    """Each view with the teacher [L, B, V], views with each other and offsets with each other [L, B, P]."""
    dot_L = [index for index, level in enumerate(levels) if not level.cosine]
    return _Compare.apply(dot_L, *members)  # type: ignore[no-any-return]


@lru_cache(maxsize=32)
def _wanted(views: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Where the X wanted entries stand in a flattened M x M matrix, and the way back from all Y = M M of them.

    The order is teacher-view, view-view, offset-offset. Back, an entry and its mirror image both have the number of
    the wanted one; entries that are not wanted have number X.
    """
    members = 1 + 2 * views
    own_V = torch.arange(1, views + 1)
    first_P, second_P = torch.triu_indices(views, views, 1) + 1
    row_X = torch.cat([torch.zeros_like(own_V), first_P, first_P + views])
    column_X = torch.cat([own_V, second_P, second_P + views])
    source_MM = torch.full((members, members), len(row_X))
    source_MM[row_X, column_X] = source_MM[column_X, row_X] = torch.arange(len(row_X))
    return (row_X * members + column_X).to(device), source_MM.flatten().to(device)

"""How much stronger views, or a control of them, pull at the student than the plain teacher would: measured, per term.

A target that does not sum to 1, or a sum over several targets, multiplies the gradient of a base method's loss. What
that is worth is no effect of the views, so that a comparison needs it as a number.

Shapes: B batch, K classes, C feature width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from akdtune.methods import Method
from akdtune.signals import Batch, Signals, Teaching
from akdtune.training.pull import READS_VIEWS, summed_terms
from akdtune.views import plain_teaching


def gradient_factors(
    methods: Mapping[str, Method],
    teacher: Signals,
    student: Signals,
    batch: Batch,
    teaching: Teaching,
    strong: Teaching | None = None,
) -> dict[str, float]:
    """Length of a term's gradient under some targets over its length under the plain teacher's.

    The gradient is the one with respect to the student's logits for methods that consume logits, to its pooled feature
    for those that consume features, over all images of the batch. Both sides are the sum over targets with their
    weights, as it enters the loss. Run it with methods that have not trained yet, or expect their banks to be as they
    are.

    Args:
        methods: by name.
        teacher: on real images, with `strong` where a method asks for it.
        student: on the same images.
        batch: of the same images.
        teaching: the targets in question, of `teacher` and `batch`.
        strong: of `teacher.strong`.

    Returns:
        Term to factor, named as in the log (`kd`, `dkd.tckd`). Terms without a weight, or that pull at nothing under
        the plain teacher, and methods that read no targets of views are left out.
    """
    plain = plain_teaching(teacher.detach())
    plain_strong = None if teacher.strong is None else plain_teaching(teacher.strong.detach())
    student, leaves = _leaf(student)
    factors: dict[str, float] = {}
    for name, method in methods.items():
        if method.consumes not in READS_VIEWS:
            continue
        given = _lengths(method, student, leaves, teacher, batch, teaching, strong)
        of_plain = _lengths(method, student, leaves, teacher, batch, plain, plain_strong)
        for term, length in of_plain.items():
            if length > 0:
                factors[name if term == name else f"{name}.{term}"] = given[term] / length
    return factors


def _leaf(student: Signals) -> tuple[Signals, dict[str, list[Tensor]]]:
    """The student's signals as variables, by what methods consume."""
    logits_BK = student.logits_BK.detach().clone().requires_grad_()
    pooled_BC = student.pooled_BC.detach().clone().requires_grad_()
    leaves = {"logits": [logits_BK], "pooled": [pooled_BC]}
    again = None
    if student.strong is not None:
        again, more = _leaf(student.strong)
        leaves = {kind: leaves[kind] + more[kind] for kind in leaves}
    return replace(student.detach(), logits_BK=logits_BK, pooled_BC=pooled_BC, strong=again), leaves


def _lengths(
    method: Method,
    student: Signals,
    leaves: Mapping[str, Sequence[Tensor]],
    teacher: Signals,
    batch: Batch,
    teaching: Teaching,
    strong: Teaching | None,
) -> dict[str, float]:
    """Length of the gradient of each weighted term's sum over targets."""
    totals = summed_terms(method, student, teacher, batch, teaching, strong)
    of_kind, lengths = list(leaves[method.consumes]), {}
    for term, weight in method.weights(batch.epoch).items():
        if not weight:
            continue
        if totals[term].requires_grad:
            gradients = torch.autograd.grad(totals[term], of_kind, retain_graph=True, allow_unused=True)
            squares = [gradient.double().square().sum() for gradient in gradients if gradient is not None]
            lengths[term] = float(sum(squares)) ** 0.5
    return lengths

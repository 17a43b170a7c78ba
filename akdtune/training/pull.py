"""What targets do to a student: the gradient of every loss term, to tell whether two configurations teach the same.

Shapes: B batch, K classes, C feature width, P numbers that a term's gradient has.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

import torch
from torch import Tensor

from akdtune.methods import Method
from akdtune.signals import Batch, Signals, Teaching, Terms
from akdtune.training.objective import dot, given_rows, targets_of, terms_of

READS_VIEWS = ("logits", "pooled")
"""What methods consume that read the targets of views; the others are taught the same under any views."""

Pull: TypeAlias = Mapping[str, Tensor]
"""Gradient of each loss term, [P] in double precision, by its name in the log (`kd`, `dkd.tckd`)."""


def pull(
    methods: Mapping[str, Method],
    teacher: Signals,
    student: Signals,
    batch: Batch,
    teaching: Teaching,
    strong: Teaching | None = None,
    epochs: int = 1,
) -> Pull:
    """The gradient of each loss term, summed over targets with their weights, as it enters the loss.

    It is the one with respect to everything that the student says and a method reads, and to the method's own
    parameters, over all images of the batch. Methods that read no targets of views are left out. Run it with methods
    that have not trained yet; memory banks are as they are.

    Args:
        methods: by name.
        teacher: on real images, with `strong` where a method asks for it.
        student: on the same images.
        batch: of the same images; methods draw from its generator.
        teaching: the targets in question, of `teacher`.
        strong: of `teacher.strong`.
        epochs: of the student; a term without a weight in each of them is left out.
    """
    said, leaves = _as_variables(student)
    by_term = {}
    for name, method in methods.items():
        if method.consumes not in READS_VIEWS:
            continue
        totals = summed_terms(method, said, teacher, batch, teaching, strong)
        trained = [*leaves, *(parameter for parameter in method.parameters() if parameter.requires_grad)]
        weights = [method.weights(epoch) for epoch in range(1, epochs + 1)]
        for term in weights[0]:
            if any(of_epoch[term] for of_epoch in weights) and totals[term].requires_grad:
                by_term[name if term == name else f"{name}.{term}"] = _gradient_P(totals[term], trained)
    return by_term


def summed_terms(
    method: Method, student: Signals, teacher: Signals, batch: Batch, teaching: Teaching, strong: Teaching | None
) -> Terms:
    """Each loss term of a method, summed over targets with their weights, as it enters the loss."""
    targets = targets_of(method, student, teacher, teaching, strong)
    parts = terms_of(method, student, targets, batch, given_rows(method.reads_labels, batch))
    return {term: dot([target.weight for target in targets], [part[term] for part in parts]) for term in parts[0]}


def _gradient_P(total: Tensor, variables: Sequence[Tensor]) -> Tensor:
    gradients = torch.autograd.grad(total, variables, retain_graph=True, allow_unused=True)
    return torch.cat([gradient.flatten().double() for gradient in gradients if gradient is not None])


def _as_variables(student: Signals) -> tuple[Signals, list[Tensor]]:
    """The student's signals as variables, and these."""
    leaves: list[Tensor] = []

    def variable(tensor: Tensor) -> Tensor:
        leaves.append(tensor.detach().clone().requires_grad_())
        return leaves[-1]

    said = replace(
        student,
        logits_BK=variable(student.logits_BK),
        pooled_BC=variable(student.pooled_BC),
        stages=None if student.stages is None else tuple(map(variable, student.stages)),
        preact_stages=None if student.preact_stages is None else tuple(map(variable, student.preact_stages)),
        last_map=None if student.last_map is None else variable(student.last_map),
        answers_BJK=None if student.answers_BJK is None else variable(student.answers_BJK),
    )
    if student.strong is None:
        return said, leaves
    again, more = _as_variables(student.strong)
    return replace(said, strong=again), [*leaves, *more]


def largest_difference(one: Pull, other: Pull) -> float:
    """Length of the difference of two gradients over that of the longer one, of the term where it is largest.

    Infinite where the terms are not the same; 0 for terms that pull at nothing on both sides.
    """
    if one.keys() != other.keys():
        return math.inf
    return max((_difference(gradient_P, other[term]) for term, gradient_P in one.items()), default=0.0)


def _difference(one_P: Tensor, other_P: Tensor) -> float:
    if one_P.shape != other_P.shape:
        return math.inf
    longest = float(torch.maximum(one_P.norm(), other_P.norm()))
    share = float((one_P - other_P).norm()) / longest if longest else 0.0
    return share if math.isfinite(share) else math.inf

"""PLD: its limits, its gradient, its ranking."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from akdtune.methods.pld import PLD, plackett_luce_loss, ranking_BK
from akdtune.signals import Signals, Target
from tests.small_world import STUDENT_DIM, TEACHER_DIM, batch, method, signals


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3


def test_all_weight_on_the_label_is_cross_entropy() -> None:
    logits_BK = drawn(0, 5, 7)
    shares_BK = torch.zeros_like(logits_BK)
    shares_BK[:, 0] = 1.0
    expected = torch.nn.functional.cross_entropy(logits_BK, torch.zeros(5, dtype=torch.long))
    torch.testing.assert_close(plackett_luce_loss(logits_BK, shares_BK), expected)


def test_a_teacher_sure_of_the_label_is_cross_entropy() -> None:
    student, now = signals(1, STUDENT_DIM), batch()
    sure = Signals(1e3 * torch.nn.functional.one_hot(now.labels_B, 7).float(), torch.zeros(9, TEACHER_DIM))
    loss = method("pld", temperature=1.0).terms(student, Target.of(sure), now)["pld"]
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(student.logits_BK, now.labels_B))


def test_uniform_weights_are_listmle() -> None:
    logits_BK = drawn(1, 4, 6)
    # ListMLE: -log of the probability of drawing the classes in this order, without putting back
    expected = 0.0
    for row in logits_BK.tolist():
        weights = [math.exp(value) for value in row]
        for rank in range(len(weights)):
            expected -= math.log(weights[rank] / sum(weights[rank:])) / len(logits_BK)
    loss = plackett_luce_loss(logits_BK, torch.full_like(logits_BK, 1 / 6))
    assert float(loss) == pytest.approx(expected / 6, rel=1e-12)


@pytest.mark.parametrize("scale", [1.0, 25.0])
def test_gradient_is_the_weighted_sum_of_choices(scale: float) -> None:
    # sum over ranks of share * (softmax over the remaining classes - the class of the rank), classes by index
    student_BK = (drawn(2, 5, 7) * scale).requires_grad_()
    teacher_BK = drawn(3, 5, 7)
    labels_B = torch.tensor([0, 3, 6, 3, 1])
    target, now = Target.of(Signals(teacher_BK, teacher_BK)), batch(5)
    now.labels_B.copy_(labels_B)
    loss = method("pld").terms(Signals(student_BK, student_BK), target, now)["pld"]
    (gradient_BK,) = torch.autograd.grad(loss, student_BK)
    expected = torch.zeros_like(gradient_BK)
    for b, label in enumerate(labels_B.tolist()):
        remaining = sorted(range(7), key=lambda c, row=b, y=label: (c != y, -float(teacher_BK[row, c])))
        shares_K = torch.softmax(teacher_BK[b] / 4, dim=0)
        while remaining:
            share = shares_K[remaining[0]]
            expected[b, remaining] += share * torch.softmax(student_BK[b, remaining].detach(), dim=0)
            expected[b, remaining[0]] -= share
            remaining.pop(0)
    torch.testing.assert_close(gradient_BK, expected / 5)


def test_last_rank_costs_nothing() -> None:
    logits_BK = drawn(4, 3, 4).requires_grad_()
    shares_BK = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64).expand(3, 4)
    loss = plackett_luce_loss(logits_BK, shares_BK)
    (gradient,) = torch.autograd.grad(loss, logits_BK)
    assert float(loss.detach()) == 0.0
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_shift_of_the_students_logits_does_not_matter() -> None:
    student, target = signals(1, STUDENT_DIM), Target.of(signals(2, TEACHER_DIM))
    moved = Signals(student.logits_BK + 11.0, student.pooled_BC)
    one, other = (method("pld").terms(who, target, batch())["pld"] for who in (student, moved))
    torch.testing.assert_close(one, other)


def test_label_ranks_first_and_equal_scores_by_class() -> None:
    scores_BK = torch.tensor([[0.1, 0.5, 0.3, 0.5], [0.9, 0.2, 0.2, 0.1]])
    is_label_BK = torch.tensor([[True, False, False, False], [False, False, False, True]])
    assert ranking_BK(scores_BK, is_label_BK).tolist() == [[0, 1, 3, 2], [3, 0, 1, 2]]


def test_no_cross_entropy_beside_it() -> None:
    assert PLD.default_ce_weight == 0.0
    assert method("pld", weight=2.0).weights(4) == {"pld": 2.0}

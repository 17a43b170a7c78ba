"""NKD: its relation to KD, and its weights."""

from __future__ import annotations

import pytest
import torch

from akdtune.signals import Signals, Target
from tests.small_world import STUDENT_DIM, TEACHER_DIM, batch, method, signals


def test_soft_cross_entropy_is_the_label_and_a_share_of_the_others() -> None:
    # sum p log q = p_y log q_y + (1 - p_y) [sum of normalised others] + (1 - p_y) log(1 - q_y), here for one image
    student, teacher, now = signals(1, STUDENT_DIM, size=1), signals(2, TEACHER_DIM, size=1), batch(1)
    terms = method("nkd", temperature=1.0).terms(student, Target.of(teacher), now)
    p_K = torch.softmax(teacher.logits_BK, dim=-1)[0]
    log_q_K = torch.log_softmax(student.logits_BK, dim=-1)[0]
    rest = 1 - p_K[now.labels_B[0]]
    left = rest * torch.log1p(-log_q_K[now.labels_B[0]].exp())
    torch.testing.assert_close(-(p_K * log_q_K).sum(), terms["label"] + rest * terms["others"] - left)


def test_two_classes_leave_nothing_for_the_other_part() -> None:
    student = Signals(torch.tensor([[1.0, -1.0]], requires_grad=True), torch.zeros(1, STUDENT_DIM))
    teacher = Signals(torch.tensor([[3.0, 0.0]]), torch.zeros(1, TEACHER_DIM))
    now = batch(1)
    now.labels_B.zero_()
    others = method("nkd").terms(student, Target.of(teacher), now)["others"]
    (gradient,) = torch.autograd.grad(others, student.logits_BK)
    assert float(others.detach()) == 0.0
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_others_are_normalised_on_both_sides() -> None:
    student = signals(1, STUDENT_DIM)
    teacher = signals(2, TEACHER_DIM)
    lifted_BK = teacher.logits_BK + 9.0 * torch.nn.functional.one_hot(batch().labels_B, 7)
    one, other = (
        method("nkd").terms(student, Target.of(Signals(logits_BK, teacher.pooled_BC)), batch())
        for logits_BK in (teacher.logits_BK, lifted_BK)
    )
    torch.testing.assert_close(one["others"], other["others"])
    assert float(one["label"]) != pytest.approx(float(other["label"]))


def test_weights() -> None:
    assert method("nkd").weights(1) == {"label": 1.0, "others": 3.5}
    assert method("nkd", gamma=1.5, weight=2.0).weights(9) == {"label": 2.0, "others": 3.0}

"""WSLD: the weight of each image's soft label."""

from __future__ import annotations

import math

import pytest
import torch

from akdtune.methods.wsld import soft_label_weights_B
from akdtune.signals import Signals, Target
from tests.small_world import STUDENT_DIM, TEACHER_DIM, batch, method, signals


def log_p(*of_label: float) -> torch.Tensor:
    """Log-probabilities of two classes, the label first."""
    return torch.tensor([[p, 1 - p] for p in of_label], dtype=torch.float64).log()


def test_weight_grows_with_the_students_distance_from_the_label() -> None:
    labels_B = torch.zeros(3, dtype=torch.long)
    weights_B = soft_label_weights_B(log_p(0.9, 0.5, 0.1), log_p(0.5, 0.5, 0.5), labels_B)
    expected = [1 - math.exp(-math.log(q) / math.log(0.5)) for q in (0.9, 0.5, 0.1)]
    assert weights_B.tolist() == pytest.approx(expected, rel=1e-6)
    assert weights_B[1] == pytest.approx(1 - math.exp(-1))


def test_certain_teacher_gives_full_weight_and_certain_student_none() -> None:
    labels_B = torch.zeros(2, dtype=torch.long)
    assert soft_label_weights_B(log_p(0.5, 1.0), log_p(1.0, 0.5), labels_B).tolist() == [1.0, 0.0]


def test_no_gradient_through_the_weight() -> None:
    student, teacher = signals(1, STUDENT_DIM, size=1, requires_grad=True), signals(2, TEACHER_DIM, size=1)
    now, at = batch(1), 4.0
    (gradient,) = torch.autograd.grad(method("wsld").terms(student, Target.of(teacher), now)["wsld"], student.logits_BK)
    log_q_BK, log_p_BK = (torch.log_softmax(who.logits_BK.detach(), dim=-1) for who in (student, teacher))
    weight = soft_label_weights_B(log_q_BK, log_p_BK, now.labels_B)
    p_BK, q_BK = (torch.softmax(who.logits_BK.detach() / at, dim=-1) for who in (teacher, student))
    torch.testing.assert_close(gradient, at * weight[:, None] * (q_BK - p_BK))


def test_a_target_that_sums_to_more_than_one_stays_finite() -> None:
    sure = Signals(torch.tensor([[9.0, 0.0], [0.0, 9.0]]), torch.zeros(2, TEACHER_DIM))
    plain = Target.of(sure)
    heavier = Target(plain.logits_BMK, plain.pooled_BMC, 2.44 * plain.weights_M)
    now = batch(2)
    now.labels_B.copy_(torch.tensor([0, 1]))
    student = Signals(torch.zeros(2, 2), torch.zeros(2, STUDENT_DIM))
    assert torch.isfinite(method("wsld").terms(student, heavier, now)["wsld"])


def test_weights() -> None:
    assert method("wsld").weights(1) == {"wsld": 2.25}

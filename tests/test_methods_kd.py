"""KD: what an ensemble target means for it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from akdtune.signals import Signals, Target
from tests.small_world import STUDENT_DIM, TEACHER_DIM, batch, method, signals


def ensemble(total: float, count: int = 4) -> Target:
    """A mixture of several members whose weights sum to `total`."""
    members = [signals(seed, TEACHER_DIM) for seed in range(20, 20 + count)]
    logits_BMK = torch.stack([member.logits_BK for member in members], dim=1)
    pooled_BMC = torch.stack([member.pooled_BC for member in members], dim=1)
    return Target(logits_BMK, pooled_BMC, torch.full((count,), total / count))


def student_gradient(name: str, term: str, target: Target) -> Tensor:
    """The gradient of one term to the student's logits."""
    student = signals(1, STUDENT_DIM, requires_grad=True)
    loss = method(name).terms(student, target, batch())[term]
    (gradient,) = torch.autograd.grad(loss, student.logits_BK)
    return gradient


def test_gradient_is_student_minus_target() -> None:
    target = ensemble(1.0)
    student = signals(1, STUDENT_DIM)
    at = 4.0
    difference_BK = torch.softmax(student.logits_BK / at, dim=-1) - target.probabilities_BK(at)
    expected_BK = at / len(student.logits_BK) * difference_BK
    torch.testing.assert_close(student_gradient("kd", "kd", target), expected_BK)
    torch.testing.assert_close(target.probabilities_BK(at).sum(dim=-1), torch.ones(9))


@pytest.mark.parametrize(("name", "term", "factor"), [("kd", "kd", 2.44), ("dkd", "tckd", 2.44), ("dkd", "nckd", 1.0)])
def test_a_target_that_sums_to_2_44_multiplies_the_gradient(name: str, term: str, factor: float) -> None:
    proper, released = (student_gradient(name, term, ensemble(total)) for total in (1.0, 2.44))
    torch.testing.assert_close(released, factor * proper, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["kd", "dkd", "crd"])
def test_order_of_members_does_not_matter(name: str) -> None:
    target = ensemble(1.0)
    weights_M = torch.tensor([0.1, 0.2, 0.3, 0.4])
    turned = [2, 0, 3, 1]
    one = Target(target.logits_BMK, target.pooled_BMC, weights_M)
    other = Target(target.logits_BMK[:, turned], target.pooled_BMC[:, turned], weights_M[turned])
    student = signals(1, STUDENT_DIM)
    found = [method(name).terms(student, which, batch()) for which in (one, other)]
    for term, value in found[0].items():
        torch.testing.assert_close(value, found[1][term])


@pytest.mark.parametrize("name", ["kd", "dkd"])
def test_perfect_imitation_costs_nothing(name: str) -> None:
    teacher = signals(1, STUDENT_DIM)
    for value in method(name).terms(teacher, Target.of(teacher), batch()).values():
        assert float(value) == pytest.approx(0.0, abs=1e-6)


def test_certain_student_and_teacher_stay_finite() -> None:
    certain = torch.eye(7)[torch.arange(9) % 7] * 1e4
    student = Signals((-certain).requires_grad_(), torch.zeros(9, STUDENT_DIM))
    for name in ("kd", "dkd"):
        for value in method(name).terms(student, Target.of(Signals(certain, certain)), batch()).values():
            (gradient,) = torch.autograd.grad(value, student.logits_BK, retain_graph=True)
            assert torch.isfinite(value)
            assert torch.isfinite(gradient).all()


def test_weight_and_published_ce_weight() -> None:
    kd = method("kd", weight=1.7)
    assert kd.weights(1) == kd.weights(200) == {"kd": 1.7}
    assert kd.default_ce_weight == 0.1

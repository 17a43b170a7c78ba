"""CTKD: the temperature rises against the student, by as much as the epoch allows."""

from __future__ import annotations

import math

import pytest
import torch

from akdtune.methods.ctkd import CTKD, reversal, scaled_gradient
from akdtune.signals import Target
from tests.small_world import STUDENT_DIM, TEACHER_DIM, batch, method, signals


def ctkd(**settings: float) -> CTKD:
    built = method("ctkd", **settings)
    assert isinstance(built, CTKD)
    return built


def gradient(epoch: int, **settings: float) -> float:
    """The gradient that the optimiser sees at the temperature's parameter."""
    built = ctkd(**settings)
    terms = built.terms(signals(1, STUDENT_DIM), Target.of(signals(2, TEACHER_DIM)), batch(epoch=epoch))
    terms["kd"].backward()
    assert built.temperature_logit.grad is not None
    return float(built.temperature_logit.grad)


def test_reversal_follows_half_a_cosine() -> None:
    assert reversal(0, 10, 1.0) == 0.0
    assert reversal(5, 10, 1.0) == pytest.approx(-0.5)
    assert reversal(1, 10, 1.0) == pytest.approx((math.cos(math.pi / 10) + 1) / 2 - 1)
    assert reversal(10, 10, 1.0) == reversal(240, 10, 1.0) == -1.0
    assert reversal(240, 5, 0.3) == -0.3


def test_scaled_gradient_keeps_the_number() -> None:
    value = torch.tensor([1.7, -2.3], requires_grad=True)
    scaled = scaled_gradient(value, -0.25)
    assert torch.equal(scaled, value)
    scaled.sum().backward()
    assert value.grad is not None
    assert value.grad.tolist() == [-0.25, -0.25]


def test_gradient_is_the_reversed_derivative_of_the_term() -> None:
    student, target = signals(1, STUDENT_DIM), Target.of(signals(2, TEACHER_DIM))

    def term(logit: float) -> float:
        at = 1 + 20 / (1 + math.exp(-logit))
        p, q = (torch.softmax(z.double() / at, dim=-1) for z in (target.logits_BMK[:, 0], student.logits_BK))
        return at**2 * float((p * (p / q).log()).sum(dim=-1).mean())

    derivative = (term(1 + 1e-4) - term(1 - 1e-4)) / 2e-4
    assert gradient(epoch=10) == pytest.approx(-derivative, rel=1e-3)
    assert gradient(epoch=5) == pytest.approx(-derivative / 2, rel=1e-3)
    assert gradient(epoch=5, reversal=3.0) == pytest.approx(-1.5 * derivative, rel=1e-3)
    assert gradient(epoch=5, reversal=0.0) == 0.0


def test_descent_makes_the_task_harder() -> None:
    built = ctkd()
    student, target, now = signals(1, STUDENT_DIM), Target.of(signals(2, TEACHER_DIM)), batch(epoch=20)
    losses = []
    for _ in range(3):
        loss = built.terms(student, target, now)["kd"]
        (gradient,) = torch.autograd.grad(loss, built.temperature_logit)
        built.temperature_logit.data -= 0.5 * gradient
        losses.append(float(loss.detach()))
    assert losses == sorted(losses)
    assert losses[0] < losses[-1]


def test_temperature_starts_where_published_and_stays_in_its_range() -> None:
    built = ctkd(minimum=2.0, span=3.0)
    assert float(ctkd().temperature(1).detach()) == pytest.approx(1 + 20 / (1 + math.exp(-1)))
    for logit, expected in ((-1e3, 2.0), (1e3, 5.0)):
        built.temperature_logit.data.fill_(logit)
        assert float(built.temperature(1).detach()) == expected


def test_same_numbers_as_kd_at_that_temperature() -> None:
    student, target = signals(1, STUDENT_DIM), Target.of(signals(2, TEACHER_DIM))
    at = float(ctkd().temperature(1).detach())
    expected = method("kd", temperature=at).terms(student, target, batch())["kd"]
    torch.testing.assert_close(ctkd().terms(student, target, batch())["kd"].detach(), expected)


def test_a_target_keeps_its_own_temperature() -> None:
    plain = Target.of(signals(2, TEACHER_DIM))
    own = Target(plain.logits_BMK, plain.pooled_BMC, plain.weights_M, temperature=4.0)
    built = ctkd()
    student = signals(1, STUDENT_DIM)
    at = built.temperature(1).detach()
    p_BK = torch.softmax(plain.logits_BMK[:, 0] / 4, dim=-1)
    log_q_BK = torch.log_softmax(student.logits_BK / at, dim=-1)
    expected = at**2 * (p_BK * (p_BK.log() - log_q_BK)).sum(dim=-1).mean()
    torch.testing.assert_close(built.terms(student, own, batch())["kd"].detach(), expected)


def test_weight() -> None:
    assert ctkd().weights(3) == {"kd": 0.9}
    assert CTKD.default_ce_weight == 0.1
    assert list(ctkd().state_dict()) == ["temperature_logit"]

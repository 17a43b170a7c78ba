"""KD's divergences: their values by hand, their gradients, their limits; and that the forward one is as it was."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from akdtune.methods.kd import KD
from akdtune.registry import typed
from akdtune.signals import Batch, Signals, Target

P, Q = (0.7, 0.2, 0.1), (0.1, 0.6, 0.3)
BATCH = Batch.of(torch.zeros(1, dtype=torch.int64))


def log(p: tuple[float, ...]) -> Tensor:
    return torch.tensor([p], dtype=torch.float64).log()


def cost(target: tuple[float, ...] = P, student: tuple[float, ...] = Q, **settings: Any) -> float:
    kd = KD.alone(num_classes=3, **{"temperature": 1.0, **settings})
    of = Target.of(Signals.of(log(target)))
    return float(kd.terms(Signals.of(log(student)), of, BATCH)["kd"])


def kl(p: tuple[float, ...], q: tuple[float, ...]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def test_values_by_hand() -> None:
    assert kl(P, Q) == pytest.approx(0.7 * math.log(7) - 0.2 * math.log(3) - 0.1 * math.log(3))
    assert cost(divergence="forward") == cost() == pytest.approx(kl(P, Q))
    assert cost(divergence="reverse") == pytest.approx(kl(Q, P))
    middle = tuple(0.3 * a + 0.7 * b for a, b in zip(P, Q, strict=True))
    assert cost(divergence="jsd", jsd_beta=0.3) == pytest.approx(0.3 * kl(P, middle) + 0.7 * kl(Q, middle))
    assert cost(divergence="jsd") == pytest.approx(cost(Q, P, divergence="jsd"))


def test_jsd_between_strangers_is_the_entropy_of_beta() -> None:
    apart = (1 - 2e-12, 1e-12, 1e-12), (1e-12, 1e-12, 1 - 2e-12)
    assert cost(*apart, divergence="jsd", jsd_beta=0.25) == pytest.approx(
        -0.25 * math.log(0.25) - 0.75 * math.log(0.75), abs=1e-9
    )


@pytest.mark.parametrize(("beta", "share", "limit"), [(1e-5, 1e-5, (P, Q)), (1 - 1e-5, 1e-5, (Q, P))])
def test_limits_of_jsd(beta: float, share: float, limit: tuple[tuple[float, ...], tuple[float, ...]]) -> None:
    assert cost(divergence="jsd", jsd_beta=beta) / share == pytest.approx(kl(*limit), rel=1e-3)


@pytest.mark.parametrize("divergence", ["forward", "reverse", "jsd"])
def test_gradient_and_perfect_imitation(divergence: str) -> None:
    kd = KD.alone(num_classes=3, temperature=2.0, divergence=divergence, jsd_beta=0.3)
    target = Target.of(Signals.of(log(P)))

    def loss(logits: Tensor) -> Tensor:
        return kd.terms(Signals.of(logits), target, BATCH)["kd"]

    assert float(loss(log(P))) == pytest.approx(0.0, abs=1e-12)
    assert torch.autograd.gradcheck(loss, (log(Q).requires_grad_(),))


@pytest.mark.parametrize("divergence", ["reverse", "jsd"])
def test_a_target_that_sums_to_more_is_normalised(divergence: str) -> None:
    kd = KD.alone(num_classes=3, temperature=1.0, divergence=divergence)
    proper = Target.of(Signals.of(log(P)))
    heavy = Target(proper.logits_BMK, proper.pooled_BMC, torch.tensor([2.44], dtype=torch.float64))
    one, other = (kd.terms(Signals.of(log(Q)), of, BATCH)["kd"] for of in (proper, heavy))
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("divergence", ["reverse", "jsd"])
def test_certain_student_and_teacher_stay_finite(divergence: str) -> None:
    certain = torch.eye(7)[torch.arange(9) % 7] * 1e4
    student = (-certain).requires_grad_()
    kd = KD.alone(num_classes=7, divergence=divergence)
    loss = kd.terms(Signals.of(student), Target.of(Signals.of(certain)), BATCH)["kd"]
    (gradient,) = torch.autograd.grad(loss, student)
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient).all()


def test_what_is_written_down_names_only_what_was_not_there_before() -> None:
    before = {"standardize": False, "temperature": 4.0, "weight": 0.9}
    assert typed("methods", "kd").model_dump() == before
    assert typed("methods", {"name": "kd", "jsd_beta": 0.3}).model_dump() == before
    assert typed("methods", {"name": "kd", "divergence": "reverse"}).model_dump() == {**before, "divergence": "reverse"}
    jsd = {**before, "divergence": "jsd", "jsd_beta": 0.3}
    assert typed("methods", {"name": "kd", "divergence": "jsd", "jsd_beta": 0.3}).model_dump() == jsd
    assert typed("methods", {"name": "kd", "jsd_beta": 0.3}).idle() == {"jsd_beta": "divergence is forward"}

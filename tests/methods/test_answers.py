"""Methods over several answers of one network, by hand: exits learn from right ones, time steps from each other."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from akdtune.methods.branch_self import teaching_answers
from akdtune.methods.time_self import TimeSelf, by_confidence
from akdtune.registry import may_draw, typed
from akdtune.signals import Batch, Signals, Target
from tests.small_world import CLASSES, method


def told(answers_BJK: Tensor) -> Signals:
    return Signals.of(answers_BJK[:, -1], answers_BJK=answers_BJK)


def terms(name: str, answers_BJK: Tensor, labels: list[int], seed: int = 0, **settings: Any) -> dict[str, Tensor]:
    student = told(answers_BJK)
    return method(name, **settings).terms(
        student, Target.of(student.detach()), Batch.of(torch.tensor(labels), seed=seed)
    )


def kl(teacher: Tensor, student: Tensor, temperature: float) -> float:
    """The sum over classes, as it is written down."""
    p, q = (torch.softmax(logits.double() / temperature, dim=-1) for logits in (teacher, student))
    return float((p * (p / q).log()).sum())


def answers(*rows: list[list[float]]) -> Tensor:
    return torch.tensor(rows).requires_grad_()


# Image 0 (label 0): answers 0 and 2 are right, 1 is wrong. Image 1 (label 1): none is right.
SPLIT = ([[4.0, 0, 0], [0, 3, 0], [2, 1, 0]], [[1.0, 0, 0], [0, 0, 2], [3, 0, 0]])


def test_right_answers_teach() -> None:
    said_BJK = answers(*SPLIT)
    teacher_BK, taught_B = teaching_answers(said_BJK, torch.tensor([0, 1]), reliable=True)
    assert taught_B.tolist() == [True, False]
    assert teacher_BK[0].tolist() == [3.0, 0.5, 0.0]
    assert not teacher_BK.requires_grad
    everyone_BK, all_B = teaching_answers(said_BJK, torch.tensor([0, 1]), reliable=False)
    assert all_B.tolist() == [True, True]
    torch.testing.assert_close(everyone_BK, torch.tensor([[2.0, 4 / 3, 0.0], [4 / 3, 0.0, 2 / 3]]))


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_exits_learn_from_the_right_ones(temperature: float) -> None:
    said_BJK = answers(*SPLIT)
    found = terms("branch_self", said_BJK, [0, 1], temperature=temperature)
    teacher_K = torch.tensor([3.0, 0.5, 0.0])
    expected = sum(kl(teacher_K, answer_K, temperature) for answer_K in said_BJK[0].detach())
    assert float(found["kl"].detach()) == pytest.approx(temperature**2 * expected, rel=1e-5)
    (gradient_BJK,) = torch.autograd.grad(found["kl"], said_BJK)
    assert bool(gradient_BJK[0].any(dim=1).all()), "all its exits learn, the right ones and the last included"
    assert not gradient_BJK[1].any(), "an image without a right answer costs nothing"
    p_JK, q_K = (torch.softmax(logits / temperature, dim=-1) for logits in (said_BJK[0].detach(), teacher_K))
    torch.testing.assert_close(gradient_BJK[0], temperature * (p_JK - q_K))


def test_unreliable_answers_teach_where_they_are_asked_to() -> None:
    said_BJK = answers(*SPLIT)
    found = terms("branch_self", said_BJK, [0, 1], temperature=2.0, reliable=False)["kl"]
    means_BK = said_BJK.detach().mean(dim=1)
    expected = sum(kl(means_BK[b], said_BJK.detach()[b, j], 2.0) for b in range(2) for j in range(3)) / 2
    assert float(found.detach()) == pytest.approx(4 * expected, rel=1e-5)


def test_a_batch_without_any_right_answer_costs_nothing() -> None:
    said_BJK = answers(SPLIT[1], SPLIT[1])
    found = terms("branch_self", said_BJK, [1, 1])
    assert float(found["kl"].detach()) == 0.0
    (gradient_BJK,) = torch.autograd.grad(found["kl"], said_BJK)
    assert not gradient_BJK.any() and bool(gradient_BJK.isfinite().all())


def test_labels_are_for_all_answers_but_the_last() -> None:
    said_BJK = answers(*SPLIT)
    found = terms("branch_self", said_BJK, [0, 1])["ce"]
    logs_BJK = said_BJK.detach().double().log_softmax(dim=-1)
    expected = -(logs_BJK[0, :2, 0].sum() + logs_BJK[1, :2, 1].sum()) / 2
    assert float(found.detach()) == pytest.approx(float(expected), rel=1e-6)
    assert not torch.autograd.grad(found, said_BJK)[0][:, -1].any()


def test_labels_of_mixed_images() -> None:
    said_BJK = answers(*SPLIT)
    student, labels_B = told(said_BJK), torch.tensor([0, 1])
    mixed = Batch.of(labels_B, partner_labels_B=torch.tensor([2, 0]), share=0.75)
    mixture = method("branch_self").terms(student, Target.of(student), mixed)["ce"]
    own, partner = (terms("branch_self", said_BJK, labels)["ce"] for labels in ([0, 1], [2, 0]))
    torch.testing.assert_close(mixture, 0.75 * own + 0.25 * partner)


def test_weights_of_exits() -> None:
    assert method("branch_self").weights(1) == {"ce": 1.0, "kl": 0.3}
    assert method("branch_self", weight=0.0, branch_ce_weight=0.5).weights(9) == {"ce": 0.5, "kl": 0.0}


# Over the batch, step 1 is the most confident one and step 2 the least.
STEPS = ([[1.0, 0, 0], [5, 0, 0], [0, 0, 0]], [[0.0, 1, 0], [0, 3, 0], [0, 0.5, 0]])


def test_order_of_confidence() -> None:
    assert by_confidence(answers(*STEPS)).tolist() == [1, 0, 2]
    assert by_confidence(torch.zeros(2, 4, 3)).tolist() == [0, 1, 2, 3], "of equal ones the first is first"


def expected_kl(pairs: list[tuple[Tensor, Tensor]], temperature: float = 2.0) -> float:
    """Mean over pairs and images; each is (teacher, student), [B, K]."""
    each = [kl(a_K, b_K, temperature) for teacher, student in pairs for a_K, b_K in zip(teacher, student, strict=True)]
    return sum(each) / len(each)


def test_steps_teach_each_other() -> None:
    said_BJK = answers(*STEPS)
    first, strong, weak = said_BJK.detach().unbind(dim=1)
    found = {
        direction: float(terms("time_self", said_BJK, [0, 1], direction=direction)["kl"].detach())
        for direction in ("s2w", "w2s", "ensemble", "cascade")
    }
    assert found["s2w"] == pytest.approx(expected_kl([(strong, weak)]), rel=1e-5)
    assert found["w2s"] == pytest.approx(expected_kl([(weak, strong)]), rel=1e-5)
    assert found["ensemble"] == pytest.approx(expected_kl([(said_BJK.detach().mean(dim=1), weak)]), rel=1e-5)
    assert found["cascade"] == pytest.approx(expected_kl([(strong, first), (first, weak)]), rel=1e-5)


def test_a_detached_teacher_gets_no_gradient() -> None:
    def reached(**settings: Any) -> list[bool]:
        said_BJK = answers(*STEPS)
        loss = terms("time_self", said_BJK, [0, 1], **settings)["kl"]
        (gradient_BJK,) = torch.autograd.grad(loss, said_BJK)
        return [bool(gradient_BK.any()) for gradient_BK in gradient_BJK.unbind(dim=1)]

    assert reached() == [False, True, True], "published: both"
    assert reached(detach=True) == [False, False, True]
    assert reached(direction="w2s", detach=True) == [False, True, False]
    assert reached(direction="cascade", detach=True) == [True, False, True]
    assert reached(direction="ensemble") == [True, True, True]


def test_random_pairs_are_two_different_steps_drawn_by_the_batch() -> None:
    said_BJK = answers(*STEPS)
    steps = said_BJK.detach().unbind(dim=1)
    possible = [expected_kl([(a, b)]) for a in steps for b in steps if a is not b]

    def drawn(seed: int) -> float:
        return float(terms("time_self", said_BJK, [0, 1], seed, direction="random")["kl"].detach())

    found = [drawn(seed) for seed in range(40)]
    for value in found:
        assert min(abs(value - one) for one in possible) < 1e-5
    for one in possible:
        assert min(abs(value - one) for value in found) < 1e-5, "every pair comes"
    assert [drawn(seed) for seed in range(9)] == found[:9]
    for direction in ("s2w", "random"):
        assert may_draw("methods", "time_self", typed("methods", {"name": "time_self", "direction": direction})) is (
            direction == "random"
        )


def test_equal_steps_have_nothing_to_teach() -> None:
    said_BJK = torch.randn(4, 1, CLASSES).expand(-1, 3, -1)
    for direction in ("s2w", "w2s", "ensemble", "cascade", "random"):
        assert math.isclose(float(terms("time_self", said_BJK, [0] * 4, direction=direction)["kl"]), 0, abs_tol=1e-6)


def test_its_weight_is_published() -> None:
    assert method("time_self").weights(1) == {"kl": 1.0}
    assert TimeSelf.Settings().temperature == 2.0 and TimeSelf.Settings().detach is False

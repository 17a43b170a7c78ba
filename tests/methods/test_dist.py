"""DIST: what a correlation ignores, and its weights."""

from __future__ import annotations

import pytest
import torch

from akdtune.methods.dist import correlation_R
from akdtune.signals import Signals, Target
from tests.small_world import STUDENT_DIM, TEACHER_DIM, batch, method, signals


def test_correlation_ignores_scale_and_offset_of_each_row() -> None:
    drawn = torch.Generator().manual_seed(0)
    rows_RN, other_RN = (torch.rand(4, 6, generator=drawn, dtype=torch.float64) for _ in range(2))
    moved_RN = rows_RN * torch.rand(4, 1, generator=drawn, dtype=torch.float64) + 3
    torch.testing.assert_close(correlation_R(rows_RN, moved_RN), torch.ones(4, dtype=torch.float64), rtol=0, atol=1e-6)
    torch.testing.assert_close(
        correlation_R(rows_RN, other_RN), correlation_R(moved_RN, other_RN), rtol=1e-6, atol=1e-6
    )
    torch.testing.assert_close(correlation_R(rows_RN, -other_RN), -correlation_R(rows_RN, other_RN))


def test_perfect_imitation_costs_nothing() -> None:
    teacher = signals(1, STUDENT_DIM)
    for value in method("dist").terms(teacher, Target.of(teacher), batch()).values():
        assert float(value) == pytest.approx(0.0, abs=1e-4)


def test_a_constant_row_correlates_with_nothing() -> None:
    flat = Signals(torch.zeros(9, 7, requires_grad=True), torch.zeros(9, STUDENT_DIM))
    terms = method("dist", temperature=2.0).terms(flat, Target.of(signals(2, TEACHER_DIM)), batch())
    assert {term: float(value.detach()) for term, value in terms.items()} == pytest.approx({"inter": 4.0, "intra": 4.0})


def test_sum_of_the_targets_weights_does_not_matter() -> None:
    plain = Target.of(signals(2, TEACHER_DIM))
    heavier = Target(plain.logits_BMK, plain.pooled_BMC, 2.44 * plain.weights_M)
    one, other = (method("dist").terms(signals(1, STUDENT_DIM), which, batch()) for which in (plain, heavier))
    for term, value in one.items():
        torch.testing.assert_close(value, other[term])


def test_weights() -> None:
    assert method("dist").weights(1) == {"inter": 2.0, "intra": 2.0}
    assert method("dist", beta=1.0, gamma=0.0).weights(200) == {"inter": 1.0, "intra": 0.0}

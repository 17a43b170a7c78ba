"""PKT: neighbour probabilities in loops."""

from __future__ import annotations

import math

import pytest
import torch

from akdtune.methods.pkt import neighbour_divergence, neighbours
from akdtune.signals import Target
from tests.small_world import STUDENT_DIM, TEACHER_DIM, batch, method, signals


def test_formula_one_pair_at_a_time() -> None:
    student, teacher = signals(1, STUDENT_DIM), signals(2, TEACHER_DIM)
    probabilities = []
    for features in (student.pooled_BC.double().tolist(), teacher.pooled_BC.double().tolist()):
        rows = []
        for a in features:
            cosines = [
                sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b) for b in features
            ]
            total = sum((cosine + 1) / 2 for cosine in cosines)
            rows.append([(cosine + 1) / 2 / total for cosine in cosines])
        probabilities.append(rows)
    expected = 0.0
    for row, goal in zip(*probabilities, strict=True):
        expected += sum(q * math.log(q / p) for p, q in zip(row, goal, strict=True)) / 81
    built = method("pkt")
    assert float(built.terms(student, Target.of(teacher), batch())["pkt"]) == pytest.approx(expected, rel=1e-4)
    assert built.weights(1) == {"pkt": 30000.0}


def test_opposite_features_are_never_neighbours() -> None:
    features = torch.tensor([[1.0, 2.0], [-1.0, -2.0]], requires_grad=True)
    assert (neighbours(features) >= 0).all()
    torch.testing.assert_close(neighbours(features), torch.eye(2))
    loss = neighbour_divergence(features, torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
    loss.backward()
    assert torch.isfinite(loss)
    assert features.grad is not None
    assert torch.isfinite(features.grad).all()

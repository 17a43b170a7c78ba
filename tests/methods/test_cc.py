"""CC: neighbouring rows in loops, one image."""

from __future__ import annotations

import pytest
import torch

from akdtune.methods.cc import CC, correlation_loss
from akdtune.signals import Target
from tests.small_world import STUDENT_DIM, TEACHER_DIM, batch, method, signals


def test_formula_one_pair_of_neighbours_at_a_time() -> None:
    student, teacher = signals(1, STUDENT_DIM), signals(2, TEACHER_DIM)
    built = method("cc", embedding_dim=5)
    assert isinstance(built, CC)
    embedded = []
    for layer, pooled in ((built.embed_student, student.pooled_BC), (built.embed_teacher, teacher.pooled_BC)):
        weight, bias = layer.weight.tolist(), layer.bias.tolist()
        embedded.append(
            [
                [sum(w * x for w, x in zip(row, feature, strict=True)) + b for row, b in zip(weight, bias, strict=True)]
                for feature in pooled.tolist()
            ]
        )
    gaps = [[abs(s - t) for s, t in zip(*rows, strict=True)] for rows in zip(*embedded, strict=True)]
    products = [sum(a * b for a, b in zip(gaps[i], gaps[i + 1], strict=True)) for i in range(8)]
    loss = built.terms(student, Target.of(teacher), batch())["cc"].detach()
    assert float(loss) == pytest.approx(sum(products) / 8, rel=1e-5)
    assert built.weights(1) == {"cc": 0.02}


def test_one_image_costs_nothing() -> None:
    student = torch.rand(1, 4, requires_grad=True)
    loss = correlation_loss(student, torch.rand(1, 4))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert student.grad is not None
    assert torch.equal(student.grad, torch.zeros(1, 4))

"""Agreement and Jensen-Shannon divergence against their definitions."""

from __future__ import annotations

import math

import pytest
import torch

from akdtune.training.measures import TransferMeter, js_divergence_B


def test_js_divergence_by_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(5, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    for b in range(5):
        p, q = torch.softmax(student[b], dim=0), torch.softmax(teacher[b], dim=0)
        middle = (p + q) / 2
        expected = 0.5 * float((p * (p / middle).log()).sum()) + 0.5 * float((q * (q / middle).log()).sum())
        assert float(js_divergence_B(student, teacher)[b]) == pytest.approx(expected, rel=1e-12)
    torch.testing.assert_close(js_divergence_B(student, teacher), js_divergence_B(teacher, student))


def test_js_divergence_at_its_ends() -> None:
    left, right = torch.tensor([[2000.0, 0.0]]), torch.tensor([[0.0, 2000.0]])
    assert float(js_divergence_B(left, left)) == 0.0
    assert float(js_divergence_B(left, right)) == pytest.approx(math.log(2))


def test_meter_counts_cells_over_batches() -> None:
    # teacher right: 3 of 4; the student agrees on two of these and differs where the teacher is wrong
    teacher = torch.eye(3)[[0, 1, 2, 0]] * 5
    student = torch.eye(3)[[0, 1, 0, 1]] * 5
    labels = torch.tensor([0, 1, 2, 2])
    meter = TransferMeter()
    meter.update(student[:3], teacher[:3], labels[:3])
    meter.update(student[3:], teacher[3:], labels[3:])
    assert meter.result()["agreement"] == 50.0
    expected = float(js_divergence_B(student.double(), teacher.double()).mean())
    assert meter.result()["js_divergence"] == pytest.approx(expected, rel=1e-12)
    assert meter.cells() == {"right_agree": 50.0, "right_differ": 25.0, "wrong_agree": 0.0, "wrong_differ": 25.0}

"""RKD: pairs and triples in loops, zero distances."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from akdtune.methods.rkd import angle_loss, distance_loss
from akdtune.signals import Target
from tests.small_world import STUDENT_DIM, TEACHER_DIM, batch, method, signals


def huber(gap: float) -> float:
    return 0.5 * gap**2 if abs(gap) < 1 else abs(gap) - 0.5


def test_formula_one_pair_and_triple_at_a_time() -> None:
    student, teacher = signals(1, STUDENT_DIM, size=5), signals(2, TEACHER_DIM, size=5)
    distances, cosines = [], []
    for features in (student.pooled_BC.double().numpy(), teacher.pooled_BC.double().numpy()):
        far = np.array([[np.linalg.norm(a - b) for b in features] for a in features])
        distances.append(far / far[far > 0].mean())
        cos = np.zeros((5, 5, 5))
        for i in range(5):
            for j in range(5):
                for k in range(5):
                    if i not in (j, k):
                        cos[i, j, k] = (features[j] - features[i]) @ (features[k] - features[i]) / far[i, j] / far[i, k]
        cosines.append(cos)
    terms = method("rkd").terms(student, Target.of(teacher), batch(5))
    for name, (mine, theirs) in (("distance", distances), ("angle", cosines)):
        expected = np.mean([huber(a - b) for a, b in zip(mine.ravel(), theirs.ravel(), strict=True)])
        assert float(terms[name]) == pytest.approx(expected, rel=1e-4)


def test_weights_multiply() -> None:
    assert method("rkd").weights(1) == {"distance": 25.0, "angle": 50.0}
    assert method("rkd", weight=0.5, angle_weight=4.0).weights(7) == {"distance": 12.5, "angle": 2.0}


def test_equal_features_span_no_angle_and_pull_at_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    student = torch.rand(4, 3, generator=generator)
    student[1] = student[0]
    student.requires_grad_()
    teacher = torch.rand(4, 3, generator=generator)
    (angle_loss(student, teacher) + distance_loss(student, teacher)).backward()
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()
    assert float(student.grad.abs().max()) < 100
    assert float(student.grad[2].abs().sum()) > 0


def test_far_features_keep_their_small_distances() -> None:
    # distances from products lose these in single precision: 1e4 squared has no room for 1e-1 squared
    offsets = torch.tensor([[0.0, 0.0], [0.25, 0.0], [0.0, 0.5]])
    far = offsets + 8192.0
    assert float(distance_loss(far, offsets)) == pytest.approx(0.0, abs=1e-10)

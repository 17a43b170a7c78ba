"""SP: similarities of every pair of images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from akdtune.methods.sp import similarity_loss
from akdtune.signals import Target
from tests.small_world import STUDENT_DIM, TEACHER_DIM, batch, method, signals


def test_formula_one_pair_of_images_at_a_time() -> None:
    student, teacher = signals(1, STUDENT_DIM), signals(2, TEACHER_DIM)
    assert student.stages is not None and teacher.stages is not None
    rows = []
    for map_BCHW in (student.stages[-1], teacher.stages[-1]):
        flat = map_BCHW.double().flatten(1).numpy()
        rows.append(np.array([[float(a @ b) for b in flat] for a in flat]))
        for row in rows[-1]:
            row /= np.sqrt(sum(value**2 for value in row))
    expected = sum((a - b) ** 2 for a, b in zip(rows[0].ravel(), rows[1].ravel(), strict=True)) / 81
    built = method("sp")
    assert float(built.terms(student, Target.of(teacher), batch())["sp"]) == pytest.approx(expected, rel=1e-5)
    assert built.weights(1) == {"sp": 3000.0}


def test_a_single_image_is_similar_to_itself_whatever_the_shapes() -> None:
    assert float(similarity_loss(torch.rand(1, 3, 8, 8), torch.rand(1, 5, 2, 2))) == pytest.approx(0.0, abs=1e-12)

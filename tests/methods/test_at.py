"""AT: the paper's formula one image at a time, odd powers, sizes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from akdtune.methods.at import attention, attention_loss
from akdtune.signals import Target
from tests.small_world import STUDENT_DIM, TEACHER_DIM, batch, method, signals


@pytest.mark.parametrize("power", [1, 2, 3])
def test_formula_one_image_at_a_time(power: int) -> None:
    student, teacher = signals(1, STUDENT_DIM), signals(2, TEACHER_DIM)
    assert student.stages is not None and teacher.stages is not None
    expected = 0.0
    for of_student, of_teacher in zip(student.stages[1:], teacher.stages[1:], strict=True):
        squares = []
        for image in range(9):
            flat = []
            for map_BCHW in (of_student, of_teacher):
                at = (np.abs(map_BCHW[image].double().numpy()) ** power).mean(axis=0).ravel()
                flat.append(at / np.sqrt((at**2).sum()))
            squares.append((flat[0] - flat[1]) ** 2)
        expected += float(np.mean(squares))
    built = method("at", power=power)
    loss = built.terms(student, Target.of(teacher), batch())["at"]
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert built.weights(1) == built.weights(99) == {"at": 1000.0}


def test_signs_and_scales_of_activations_do_not_matter() -> None:
    map_BCHW = torch.randn(2, 5, 4, 4, generator=torch.Generator().manual_seed(0))
    for power in (1, 2, 3):
        torch.testing.assert_close(attention(map_BCHW, power), attention(-3 * map_BCHW, power))


def test_the_larger_map_is_averaged() -> None:
    generator = torch.Generator().manual_seed(0)
    large, small = torch.rand(2, 5, 8, 8, generator=generator), torch.rand(2, 3, 4, 4, generator=generator)
    averaged = large.reshape(2, 5, 4, 2, 4, 2).mean(dim=(3, 5))
    torch.testing.assert_close(attention_loss(large, small, 2), attention_loss(averaged, small, 2))
    torch.testing.assert_close(attention_loss(small, large, 2), attention_loss(averaged, small, 2))
    assert float(attention_loss(small, small, 2)) == 0.0

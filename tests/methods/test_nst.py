"""NST: the kernel over every pair of channels, sizes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from akdtune.methods.nst import maximum_mean_discrepancy
from akdtune.signals import Target
from tests.small_world import STUDENT_DIM, TEACHER_DIM, batch, method, signals


def mean_kernel(one: Tensor, other: Tensor) -> float:
    kernels = []
    for image in range(len(one)):
        for a in one[image].double().flatten(1).numpy():
            for b in other[image].double().flatten(1).numpy():
                kernels.append((a @ b / np.sqrt((a @ a) * (b @ b))) ** 2)
    return float(np.mean(kernels))


def test_formula_one_pair_of_channels_at_a_time() -> None:
    student, teacher = signals(1, STUDENT_DIM, size=3), signals(2, TEACHER_DIM, size=3)
    assert student.stages is not None and teacher.stages is not None
    expected = 0.0
    for s, t in zip(student.stages[1:], teacher.stages[1:], strict=True):
        expected += mean_kernel(t, t) + mean_kernel(s, s) - 2 * mean_kernel(s, t)
    built = method("nst")
    assert float(built.terms(student, Target.of(teacher), batch(3))["nst"]) == pytest.approx(expected, rel=1e-4)
    assert built.weights(1) == {"nst": 50.0}


def test_equal_channels_in_any_order_cost_nothing_and_sizes_may_differ() -> None:
    generator = torch.Generator().manual_seed(0)
    map_BCHW = torch.rand(2, 6, 4, 4, generator=generator, dtype=torch.float64)
    assert float(maximum_mean_discrepancy(map_BCHW, map_BCHW.flip(1))) == pytest.approx(0.0, abs=1e-12)
    large = map_BCHW.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    assert float(maximum_mean_discrepancy(large, map_BCHW)) == pytest.approx(0.0, abs=1e-12)
    other = torch.rand(2, 3, 4, 4, generator=generator, dtype=torch.float64)
    assert float(maximum_mean_discrepancy(other, map_BCHW)) > 1e-6

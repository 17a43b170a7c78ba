"""KDSVD: the whole formula on numpy's decomposition, gradients against torch's, degenerate maps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from akdtune.methods.kdsvd import KDSVD, aligned_vectors, relation_loss, singular_vectors
from akdtune.signals import Signals, Target
from tests.small_world import STUDENT_DIM, TEACHER_DIM, batch, method, signals

SHAPES = ((6, 5, 5), (8, 4, 4), (9, 2, 2))  # the last has fewer places than channels


def drawn(seed: int, size: int = 3, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(size, *shape, generator=generator, dtype=dtype) for shape in SHAPES]


def by_hand(student: list[Tensor], teacher: list[Tensor], rank: int) -> float:
    total = 0.0
    for image in range(len(student[0])):
        before: list[np.ndarray] = []
        for s_map, t_map in zip(student, teacher, strict=True):
            _, s_values, s_rows = np.linalg.svd(s_map[image].flatten(1).numpy().T, full_matrices=False)
            _, t_values, t_rows = np.linalg.svd(t_map[image].flatten(1).numpy().T, full_matrices=False)
            assert s_values.min() > 1e-3
            t_values, t_rows, s_rows = t_values[:rank], t_rows[:rank], s_rows[: rank + 3]
            t_values = t_values / np.sqrt((t_values**2).sum())
            now_s, now_t = [], []
            for value, row in zip(t_values, t_rows, strict=True):
                row = row if row.sum() >= 0 else -row
                cosines = [float(candidate @ row) for candidate in s_rows]
                best = int(np.argmax(np.abs(cosines)))
                now_s.append(value * s_rows[best] * np.sign(cosines[best]))
                now_t.append(value * row)
            now = [np.stack(now_s), np.stack(now_t)]
            if before:
                for n in range(rank):
                    kernels = [
                        np.exp(-((after[n][:, None] - earlier[n][None, :]) ** 2) / 8)
                        for after, earlier in zip(now, before, strict=True)
                    ]
                    total += ((kernels[0] - kernels[1]) ** 2).sum()
            before = now
    return total / len(student[0])


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-3)])
def test_formula_one_image_at_a_time(rank: int, dtype: torch.dtype, tolerance: float) -> None:
    student, teacher = drawn(1), drawn(2)
    maps = [map_BCHW.to(dtype) for pair in zip(student, teacher, strict=True) for map_BCHW in pair]
    loss = relation_loss(*maps, rank=rank)
    assert float(loss) == pytest.approx(by_hand(student, teacher, rank), rel=tolerance)


def test_stem_is_left_out_and_weight() -> None:
    student, teacher = drawn(1, dtype=torch.float32), drawn(2, dtype=torch.float32)
    said = [
        Signals(torch.zeros(3, 7), torch.zeros(3, 6), (torch.rand(3, 2, 9, 9), *maps)) for maps in (student, teacher)
    ]
    built = method("kdsvd")
    loss = built.terms(said[0], Target.of(said[1]), batch(3))["kdsvd"]
    expected = relation_loss(*[map_BCHW for pair in zip(student, teacher, strict=True) for map_BCHW in pair], rank=1)
    assert torch.equal(loss, expected)
    assert built.weights(1) == {"kdsvd": 1.0}


@pytest.mark.parametrize("shape", [(6, 5, 5), (9, 2, 2)])
def test_gradient_of_singular_vectors_is_that_of_a_full_decomposition(shape: tuple[int, int, int]) -> None:
    generator = torch.Generator().manual_seed(3)
    map_BCHW = torch.rand(2, *shape, generator=generator, dtype=torch.float64).requires_grad_()
    mix = torch.rand(2, shape[0], 3, generator=generator, dtype=torch.float64)
    own, _ = singular_vectors(map_BCHW, 3)
    full = torch.linalg.svd(map_BCHW.flatten(2).mT, full_matrices=False).Vh.mT[:, :, :3]
    torch.testing.assert_close(own.abs(), full.abs())
    gradients = [torch.autograd.grad(((mix * v) ** 2).sum(), map_BCHW)[0] for v in (own, full)]  # signs do not matter
    torch.testing.assert_close(*gradients, rtol=1e-7, atol=1e-9)


def test_equal_singular_values_have_a_finite_gradient() -> None:
    map_BCHW = torch.eye(4).reshape(1, 4, 2, 2).requires_grad_()
    vectors, values = singular_vectors(map_BCHW, 2)
    (vectors * torch.rand(1, 4, 2)).sum().backward()
    assert torch.equal(values, torch.ones(1, 2))
    assert map_BCHW.grad is not None
    assert torch.isfinite(map_BCHW.grad).all()


def test_absent_directions_are_zero() -> None:
    map_BCHW = torch.rand(2, 1, 4, 4).expand(2, 5, 4, 4)  # rank one
    vectors, values = singular_vectors(map_BCHW, 3)
    torch.testing.assert_close(vectors[:, :, 0].abs(), torch.full((2, 5), 5**-0.5))
    assert torch.equal(vectors[:, :, 1:], torch.zeros(2, 5, 2))
    assert (values[:, 0] > 0).all()


def test_sign_and_order_of_the_students_vectors_do_not_matter() -> None:
    teacher = drawn(2)[1]
    of_student, of_teacher = aligned_vectors(-teacher, teacher, 2)
    torch.testing.assert_close(of_student, of_teacher)
    same = [map_BCHW for maps in drawn(1) for map_BCHW in (2 * maps, maps)]
    assert float(relation_loss(*same, rank=2)) == pytest.approx(0.0, abs=1e-20)


def test_the_wider_map_is_averaged_in_groups_of_channels() -> None:
    narrow = drawn(1)[0]
    wide = narrow.repeat_interleave(2, dim=1)
    torch.testing.assert_close(*aligned_vectors(wide, narrow, 1))
    loss = method("kdsvd").terms(signals(1, STUDENT_DIM), Target.of(signals(2, TEACHER_DIM)), batch())["kdsvd"]
    assert torch.isfinite(loss) and float(loss) > 0
    assert KDSVD.needs == {"stages"}

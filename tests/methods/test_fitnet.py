"""FitNet: regressors for every ratio of sizes, which stage is the hint."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from akdtune.errors import AkdtuneError
from akdtune.methods.fitnet import FitNet, regressor
from akdtune.signals import Target
from tests import small_world
from tests.small_world import STUDENT_DIM, TEACHER_DIM, batch, method, signals


@pytest.mark.parametrize(
    ("student", "teacher", "kind", "kernel", "result"),
    [
        ((4, 8, 8), (6, 8, 8), nn.Conv2d, (1, 1), (8, 8)),
        ((4, 16, 16), (6, 8, 8), nn.Conv2d, (3, 3), (8, 8)),
        ((4, 4, 4), (6, 8, 8), nn.ConvTranspose2d, (4, 4), (8, 8)),
        ((4, 8, 8), (6, 6, 5), nn.Conv2d, (3, 4), (6, 5)),
        ((4, 2, 2), (6, 8, 8), nn.Conv2d, (1, 1), (2, 2)),
        ((4, 2, 9), (6, 8, 8), nn.Conv2d, (1, 2), (2, 8)),
    ],
)
def test_regressors_fit_the_shapes(
    student: tuple[int, int, int],
    teacher: tuple[int, int, int],
    kind: type[nn.Module],
    kernel: tuple[int, int],
    result: tuple[int, int],
) -> None:
    built = regressor(student, teacher)
    assert type(built[0]) is kind
    assert built[0].kernel_size == kernel
    assert built(torch.rand(2, *student)).shape == (2, teacher[0], *result)


def test_formula_one_image_at_a_time() -> None:
    student, teacher, fitnet = signals(1, STUDENT_DIM), signals(2, TEACHER_DIM), method("fitnet").train()
    assert isinstance(fitnet, FitNet)
    assert student.stages is not None and teacher.stages is not None
    kernel = fitnet.regressor[0].weight.detach().numpy()[:, :, 0, 0].astype(float)
    bias = fitnet.regressor[0].bias.detach().numpy()[:, None, None]
    convolved = np.stack([np.tensordot(kernel, image.double().numpy(), axes=1) + bias for image in student.stages[2]])
    centred = convolved - convolved.mean(axis=(0, 2, 3), keepdims=True)
    normed = centred / np.sqrt((centred**2).mean(axis=(0, 2, 3), keepdims=True) + 1e-5)
    squares = [(np.maximum(s, 0) - t.double().numpy()) ** 2 for s, t in zip(normed, teacher.stages[2], strict=True)]
    loss = fitnet.terms(student, Target.of(teacher), batch())["fitnet"].detach()
    assert float(loss) == pytest.approx(np.mean(squares), rel=1e-5)
    assert fitnet.weights(1) == {"fitnet": 100.0}


def test_a_larger_teacher_map_is_averaged() -> None:
    shapes = {"student_stages": ((4, 8, 8), (5, 2, 2)), "teacher_stages": ((6, 8, 8), (8, 8, 8))}
    fitnet = FitNet(FitNet.Settings(hint_stage=1), small_world.method_context(**shapes)).eval()
    student, teacher = signals(1, STUDENT_DIM), signals(2, TEACHER_DIM)
    map_BCHW = torch.rand(9, 5, 2, 2)
    assert teacher.stages is not None
    hint = teacher.stages[1].reshape(9, 8, 2, 4, 2, 4).mean(dim=(3, 5))
    given = small_world.replace(student, stages=(torch.rand(9, 4, 8, 8), map_BCHW))
    goal = small_world.replace(teacher, stages=teacher.stages[:2])
    loss = fitnet.terms(given, Target.of(goal), batch())["fitnet"].detach()
    torch.testing.assert_close(loss, (fitnet.regressor(map_BCHW) - hint).square().mean().detach())


def test_the_hint_is_counted_in_the_teacher_and_from_the_last_stage_in_the_student() -> None:
    context = small_world.method_context(student_stages=((3, 8, 8), (4, 8, 8), (5, 8, 8), (6, 4, 4)))
    assert FitNet(FitNet.Settings(hint_stage=0), context).regressor[0].in_channels == 4
    assert FitNet(FitNet.Settings(), context).regressor[0].in_channels == 6


@pytest.mark.parametrize("stages", [((4, 8, 8),), ()])
def test_a_missing_hint_stage_is_refused(stages: tuple[tuple[int, int, int], ...]) -> None:
    with pytest.raises(AkdtuneError, match=r"no hint_stage 3 in these networks.*teacher 6x8x8, 8x8x8, 12x4x4"):
        FitNet(FitNet.Settings(hint_stage=3), small_world.method_context())
    with pytest.raises(AkdtuneError, match="no hint_stage 1 in these networks"):
        FitNet(FitNet.Settings(hint_stage=1), small_world.method_context(student_stages=stages))

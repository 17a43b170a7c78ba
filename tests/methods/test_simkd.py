"""SimKD: projection and prediction typed anew, one projection a step, frozen classifier."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from akdtune.methods.simkd import SimKD
from akdtune.signals import Target
from tests import small_world
from tests.small_world import STUDENT_DIM, TEACHER_DIM, batch, method, signals


def simkd(**settings: object) -> SimKD:
    built = method("simkd", **settings)
    assert isinstance(built, SimKD)
    return built


def projected(built: SimKD, map_CHW: np.ndarray) -> np.ndarray:
    """Three convolutions in loops, with fresh BatchNorms in eval mode."""
    for index in (0, 3, 6):
        kernel = built.projection[index].weight.detach().double().numpy()
        margin = kernel.shape[-1] // 2
        padded = np.pad(map_CHW, ((0, 0), (margin, margin), (margin, margin)))
        height, width = map_CHW.shape[1:]
        result = np.zeros((kernel.shape[0], height, width))
        for i in range(height):
            for j in range(width):
                patch = padded[:, i : i + kernel.shape[-1], j : j + kernel.shape[-1]]
                result[:, i, j] = [(one * patch).sum() for one in kernel]
        map_CHW = np.maximum(result / np.sqrt(1 + 1e-5), 0)
    return map_CHW


def test_loss_and_prediction_one_image_at_a_time() -> None:
    student, teacher, built = signals(1, STUDENT_DIM, 3), signals(2, TEACHER_DIM, 3), simkd().eval()
    assert student.last_map is not None and teacher.last_map is not None
    weight, bias = (tensor.double().numpy() for tensor in small_world.method_context().teacher_classifier or ())
    maps = [projected(built, image.double().numpy()) for image in student.last_map]
    logits = [weight @ one.mean(axis=(1, 2)) + bias for one in maps]
    gaps = [(one - goal.double().numpy()) ** 2 for one, goal in zip(maps, teacher.last_map, strict=True)]
    with torch.no_grad():
        np.testing.assert_allclose(built.logits(student).numpy(), np.stack(logits), rtol=1e-4, atol=1e-5)
        loss = built.terms(student, Target.of(teacher), batch(3))["simkd"]
    assert float(loss) == pytest.approx(np.mean(gaps), rel=1e-5)


@pytest.mark.parametrize(("student_size", "teacher_size"), [(8, 4), (4, 8), (6, 4)])
def test_the_larger_map_is_averaged(student_size: int, teacher_size: int) -> None:
    size = min(student_size, teacher_size)
    shapes = (STUDENT_DIM, student_size, student_size), (TEACHER_DIM, teacher_size, teacher_size)
    context = small_world.method_context(student_last_map=shapes[0], teacher_last_map=shapes[1])
    built = SimKD(SimKD.Settings(), context).eval()
    maps = [torch.rand(2, *shape, generator=torch.Generator().manual_seed(0)) for shape in shapes]
    student, teacher = (replace(signals(1, STUDENT_DIM, 2), last_map=one) for one in maps)
    averaged = [torch.nn.functional.adaptive_avg_pool2d(one, size) for one in maps]
    expected = (built.projection(averaged[0]) - averaged[1]).square().mean()
    torch.testing.assert_close(built.terms(student, Target.of(teacher), batch(2))["simkd"], expected)
    assert built.logits(student).shape == (2, small_world.CLASSES)


def test_one_projection_a_step() -> None:
    student, teacher = signals(1, STUDENT_DIM, requires_grad=True), signals(2, TEACHER_DIM)
    built, alone = simkd().train(), simkd().train()
    logits = built.logits(student)
    loss = built.terms(replace(student, logits_BK=logits), Target.of(teacher), batch())["simkd"]
    assert int(built.projection[1].num_batches_tracked) == 1
    assert torch.equal(loss, alone.terms(student, Target.of(teacher), batch())["simkd"])
    loss.backward()
    again = signals(5, STUDENT_DIM)
    built.logits(again)
    built.after_step()
    for now in (again, signals(6, STUDENT_DIM)):
        built.terms(now, Target.of(teacher), batch())["simkd"].backward()
    assert int(built.projection[1].num_batches_tracked) == 4


def test_a_projection_of_another_batch_is_not_taken() -> None:
    teacher, built, alone = signals(2, TEACHER_DIM), simkd().train(), simkd().train()
    built.logits(signals(5, STUDENT_DIM))
    loss, expected = (
        one.terms(signals(1, STUDENT_DIM), Target.of(teacher), batch())["simkd"] for one in (built, alone)
    )
    assert torch.equal(loss, expected)


def test_the_classifier_is_frozen_and_kept_with_the_student() -> None:
    built = simkd()
    assert {"classifier_KC", "bias_K"} <= built.state_dict().keys()
    assert not {"classifier_KC", "bias_K"} & dict(built.named_parameters()).keys()
    context = small_world.method_context(seed=9)
    other = SimKD(SimKD.Settings(), context).eval()
    other.load_state_dict(copy.deepcopy(built.state_dict()))
    student = signals(1, STUDENT_DIM)
    assert torch.equal(other.logits(student), built.eval().logits(student))


def test_width_of_the_projection_and_weights() -> None:
    assert [simkd(factor=factor).projection[0].out_channels for factor in (1, 2, 4, 99)] == [12, 6, 3, 1]
    assert simkd().weights(1) == {"simkd": 1.0}
    assert SimKD.default_ce_weight == 0.0
    assert SimKD.replaces_logits

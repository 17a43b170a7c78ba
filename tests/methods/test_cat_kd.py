"""CAT-KD: class activation maps in loops, the modified head, published settings of pairs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from akdtune.methods.cat_kd import CATKD, PUBLISHED, activation_loss, class_activations
from akdtune.registry import Pair, names
from akdtune.signals import Target
from tests import small_world
from tests.small_world import STUDENT_DIM, TEACHER_DIM, batch, method, signals


def activation_maps(map_CHW: np.ndarray, weight_KC: np.ndarray, resolution: int) -> np.ndarray:
    """The published order: classify each place, then average blocks of places."""
    classes, (_, height, width) = len(weight_KC), map_CHW.shape
    full = np.zeros((classes, height, width))
    for k in range(classes):
        for i in range(height):
            for j in range(width):
                full[k, i, j] = weight_KC[k] @ map_CHW[:, i, j]
    block = height // resolution
    return np.array(
        [
            [
                [full[k, i : i + block, j : j + block].mean() for j in range(0, width, block)]
                for i in range(0, height, block)
            ]
            for k in range(classes)
        ]
    )


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("resolution", [1, 2, 4])
def test_formula_one_place_at_a_time(resolution: int, normalize: bool) -> None:
    student, teacher = signals(1, STUDENT_DIM, 3), signals(2, TEACHER_DIM, 3)
    assert student.last_map is not None and student.classifier is not None and teacher.last_map is not None
    frozen = small_world.method_context().teacher_classifier
    assert frozen is not None
    squares = []
    for s_map, t_map in zip(student.last_map, teacher.last_map, strict=True):
        pair = []
        for one, weight in ((s_map, student.classifier[0]), (t_map, frozen[0])):
            cams = activation_maps(one.double().numpy(), weight.double().numpy(), resolution)
            lengths = np.sqrt((cams**2).sum(axis=(1, 2), keepdims=True))
            pair.append(cams / lengths if normalize else cams)
        squares.append((pair[0] - pair[1]) ** 2)
    built = method("cat_kd", resolution=resolution, normalize=normalize)
    loss = built.terms(student, Target.of(teacher), batch(3))["cat_kd"]
    assert float(loss) == pytest.approx(np.mean(squares), rel=1e-5)


def test_the_mean_of_the_maps_are_the_logits_without_bias() -> None:
    generator = torch.Generator().manual_seed(0)
    map_BCHW = torch.rand(3, STUDENT_DIM, 8, 8, generator=generator)
    head = torch.nn.Linear(STUDENT_DIM, 5)
    cams = class_activations(map_BCHW, head.weight, 4)
    torch.testing.assert_close(cams.mean(dim=(2, 3)), head(map_BCHW.mean(dim=(2, 3))) - head.bias)


def test_the_students_classifier_learns_and_the_teachers_does_not() -> None:
    student, teacher = signals(1, STUDENT_DIM, requires_grad=True), signals(2, TEACHER_DIM)
    built = method("cat_kd")
    assert not list(built.parameters())
    built.terms(student, Target.of(teacher), batch())["cat_kd"].backward()
    assert student.classifier is not None
    assert student.classifier[0].grad is not None
    assert student.classifier[0].grad.abs().sum() > 0


def test_sizes_may_differ_and_maps_smaller_than_the_resolution_are_repeated() -> None:
    teacher = signals(2, TEACHER_DIM, 2)
    tiny = torch.rand(2, STUDENT_DIM, 2, 2, generator=torch.Generator().manual_seed(0))
    student = replace(signals(1, STUDENT_DIM, 2), last_map=tiny)
    repeated = replace(student, last_map=tiny.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3))
    built = method("cat_kd", resolution=4)
    losses = [built.terms(one, Target.of(teacher), batch(2))["cat_kd"] for one in (student, repeated)]
    torch.testing.assert_close(*losses)


def test_normalised_maps_have_no_scale() -> None:
    one = torch.rand(2, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    assert float(activation_loss(5 * one, one, True)) == pytest.approx(0.0, abs=1e-12)
    assert float(activation_loss(5 * one, one, False)) > 1


def test_published_settings_of_pairs() -> None:
    settings = CATKD.published(Pair("cifar100", "resnet56", "resnet20"))
    assert settings == {"weight": 0.7, "resolution": 2, "normalize": False}
    settings = CATKD.published(Pair("cifar100", "wrn_40_2", "ShuffleV1"))
    assert settings == {"weight": 80.0, "resolution": 4, "normalize": True}
    settings = CATKD.published(Pair("cifar100", "ResNet50", "MobileNetV2"))
    assert settings == {"weight": 40.0, "resolution": 2, "normalize": True}
    assert CATKD.published(Pair("parquet", "ResNet50", "MobileNetV2")) == settings, "as on CIFAR-100"
    assert CATKD.published(Pair("imagenet", "ResNet50", "MobileNetV2")) == {}
    assert CATKD.published(Pair("cifar100", None, "resnet20")) == {}
    assert method("cat_kd").weights(1) == {"cat_kd": 400.0}
    for data, teacher, student in PUBLISHED:
        CATKD.Settings(**CATKD.published(Pair(data, teacher, student)))
        assert {teacher, student} <= set(names("networks"))

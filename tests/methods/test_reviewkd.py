"""ReviewKD: fusion typed anew, shapes of any pair, its loss on maps of any size, its ramp and published weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from akdtune.methods.reviewkd import WEIGHTS, AttentionFusion, ReviewKD, hierarchical_context_loss
from akdtune.registry import Pair, names
from akdtune.signals import Target
from tests import small_world
from tests.small_world import STUDENT_DIM, TEACHER_DIM, batch, method, signals


def review(**settings: object) -> ReviewKD:
    built = method("reviewkd", **settings)
    assert isinstance(built, ReviewKD)
    return built.eval()


def by_hand(fusion: AttentionFusion, map_BCHW: Tensor, deeper: Tensor | None, size: int) -> tuple[Tensor, Tensor]:
    """The fusion in eval mode with fresh BatchNorms, which divide by sqrt(1 + 1e-5)."""
    scale = (1 + 1e-5) ** -0.5
    entered = torch.einsum("oc,bchw->bohw", fusion.enter[0].weight[:, :, 0, 0], map_BCHW) * scale
    if deeper is not None:
        assert fusion.attend is not None
        times = entered.shape[-1] // deeper.shape[-1]
        deeper = deeper.repeat_interleave(times, dim=2).repeat_interleave(times, dim=3)
        conv = fusion.attend[0]
        both = torch.cat([entered, deeper], dim=1)
        shares = torch.sigmoid(torch.einsum("oc,bchw->bohw", conv.weight[:, :, 0, 0], both) + conv.bias[:, None, None])
        entered = entered * shares[:, 0:1] + deeper * shares[:, 1:2]
    if entered.shape[-1] != size:
        entered = entered[:, :, :: entered.shape[-1] // size, :: entered.shape[-1] // size]
    return nn.functional.conv2d(entered, fusion.leave[0].weight, padding=1) * scale, entered


def test_levels_are_reviewed_from_the_deepest_on() -> None:
    student, teacher, built = signals(1, STUDENT_DIM), signals(2, TEACHER_DIM), review()
    assert student.stages is not None and teacher.preact_stages is not None
    pooled = [said.pooled_BC[:, :, None, None] for said in (student, teacher)]
    levels = [
        (student.stages[1], teacher.preact_stages[1]),
        (student.stages[2], teacher.preact_stages[2]),
        (pooled[0], pooled[1]),
    ]
    expected, fused = torch.zeros(()), None
    for (of_student, of_teacher), fusion in list(zip(levels, built.fusions, strict=True))[::-1]:
        out, fused = by_hand(fusion, of_student, fused, of_teacher.shape[-1])
        expected = expected + hierarchical_context_loss(out, of_teacher)
    torch.testing.assert_close(built.terms(student, Target.of(teacher), batch())["reviewkd"], expected)


def test_the_deepest_level_learns_from_the_views() -> None:
    student, teacher, built = signals(1, STUDENT_DIM), signals(2, TEACHER_DIM), review()
    other = replace(signals(3, TEACHER_DIM), stages=None, preact_stages=None)
    plain = built.terms(student, Target.of(teacher), batch())["reviewkd"]
    viewed = built.terms(student, Target.of(other).with_maps(teacher), batch())["reviewkd"]
    pooled = [built.fusions[-1](student.pooled_BC[:, :, None, None], None, (1, 1))[0][:, :, 0, 0]]
    gaps = [(pooled[0] - said.pooled_BC).square().mean() for said in (teacher, other)]
    torch.testing.assert_close(viewed - plain, gaps[1] - gaps[0])


def test_student_maps_before_their_relu_on_request() -> None:
    student, teacher = signals(1, STUDENT_DIM), signals(2, TEACHER_DIM)
    shifted = replace(student, preact_stages=tuple(map_BCHW + 1 for map_BCHW in student.preact_stages or ()))
    for preact in (False, True):
        built = review(student_preact=preact)
        losses = [built.terms(said, Target.of(teacher), batch())["reviewkd"] for said in (student, shifted)]
        assert torch.equal(*losses) is not preact


@pytest.mark.parametrize(
    ("student_sizes", "teacher_sizes"),
    [((16, 8, 4, 2), (32, 16, 8, 4)), ((32, 16, 8, 4), (16, 8, 4, 2)), ((9, 5), (7, 6))],
)
def test_any_sizes_fit(student_sizes: tuple[int, ...], teacher_sizes: tuple[int, ...]) -> None:
    shapes = [[(2 + i, size, size) for i, size in enumerate((40, *sizes))] for sizes in (student_sizes, teacher_sizes)]
    context = small_world.method_context(student_stages=tuple(shapes[0]), teacher_stages=tuple(shapes[1]))
    built = ReviewKD(ReviewKD.Settings(), context)
    generator = torch.Generator().manual_seed(0)
    maps = [tuple(torch.rand(2, *shape, generator=generator) for shape in of) for of in shapes]
    student = replace(signals(1, STUDENT_DIM, 2), stages=maps[0])
    teacher = replace(signals(2, TEACHER_DIM, 2), preact_stages=maps[1])
    loss = built.terms(student, Target.of(teacher), batch(2))["reviewkd"]
    assert torch.isfinite(loss)


def test_width_in_between_is_bounded() -> None:
    assert review().fusions[0].enter[0].out_channels == STUDENT_DIM
    assert review(max_width=3).fusions[0].enter[0].out_channels == 3


@pytest.mark.parametrize(
    ("size", "weights"), [(1, [1]), (2, [1, 1 / 2]), (4, [1, 1 / 2, 1 / 4]), (5, [1, 1 / 2, 1 / 4, 1 / 8])]
)
def test_sizes_of_the_loss(size: int, weights: list[float]) -> None:
    student = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    pools = [pool for pool in (4, 2, 1) if pool < size]
    assert len(weights) == 1 + len(pools)
    losses = [student.square().mean()]
    losses += [nn.functional.adaptive_avg_pool2d(student, pool).square().mean() for pool in pools]
    expected = sum(w * loss for w, loss in zip(weights, losses, strict=True)) / sum(weights)
    assert float(hierarchical_context_loss(student, torch.zeros_like(student))) == pytest.approx(
        float(expected), rel=1e-5
    )


def test_ramp() -> None:
    assert review().weights(1) == pytest.approx({"reviewkd": 0.25})
    assert review().weights(20) == review().weights(240) == {"reviewkd": 5.0}
    assert review(warmup_epochs=0, weight=2.0).weights(1) == {"reviewkd": 2.0}


def test_published_settings_of_pairs() -> None:
    assert ReviewKD.published(Pair("cifar100", "resnet56", "resnet20")) == {"weight": 0.6}
    assert ReviewKD.published(Pair("cifar100", "resnet32x4", "ShuffleV2")) == {"weight": 8.0}
    assert ReviewKD.published(Pair("parquet", "resnet56", "resnet20")) == {"weight": 0.6}, "as on CIFAR-100"
    assert ReviewKD.published(Pair("cifar100", None, "resnet20")) == {}
    on_imagenet = {"warmup_epochs": 1, "student_preact": True}
    pair = Pair("imagenet", "torchvision_resnet50", "torchvision_mobilenet_v2")
    assert ReviewKD.published(pair) == {"weight": 8.0, **on_imagenet}
    assert ReviewKD.published(Pair("imagenet", None, "vgg8")) == {"weight": 1.0, **on_imagenet}
    for key in WEIGHTS:
        assert ReviewKD.Settings(**ReviewKD.published(Pair(*key))).weight == WEIGHTS[key]
        assert set(key[1:]) <= set(names("networks"))

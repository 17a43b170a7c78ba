"""What methods on maps share, and the checks that all of them must pass: safe numbers, pairing of stages, seeding."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from akdtune.errors import AkdtuneError
from akdtune.methods import Method, MethodContext, _maps
from akdtune.registry import lookup
from akdtune.signals import Signals, Target
from tests import small_world
from tests.small_world import STUDENT_DIM, STUDENT_STAGES, TEACHER_DIM, TEACHER_STAGES, batch, signals

METHODS = "at cat_kd cc crd fitnet kdsvd nst ofd pkt reviewkd rkd simkd sp vid".split()
ON_STAGES = "at fitnet kdsvd nst ofd reviewkd sp vid".split()
every_method = pytest.mark.parametrize("name", METHODS)
on_stages = pytest.mark.parametrize("name", ON_STAGES)


def build(name: str, context: MethodContext) -> Method:
    component = lookup("methods", name)
    built: Method = component(component.Settings(), context)
    return built


def leaves(of: Signals, change: Callable[[Tensor], Tensor], requires_grad: bool) -> Signals:
    """The same signals with each map and feature changed, as tensors of their own."""

    def one(tensor: Tensor) -> Tensor:
        return change(tensor.detach()).clone().requires_grad_(requires_grad)

    def some(tensors: tuple[Tensor, ...] | None) -> tuple[Tensor, ...]:
        assert tensors is not None
        return tuple(one(tensor) for tensor in tensors)

    assert of.last_map is not None and of.classifier is not None
    return replace(
        of,
        pooled_BC=one(of.pooled_BC),
        stages=some(of.stages),
        preact_stages=some(of.preact_stages),
        last_map=one(of.last_map),
        classifier=(of.classifier[0].detach().clone().requires_grad_(requires_grad), of.classifier[1]),
    )


def tensors_of(of: Signals) -> list[Tensor]:
    assert of.stages is not None and of.preact_stages is not None
    assert of.last_map is not None and of.classifier is not None
    return [of.pooled_BC, *of.stages, *of.preact_stages, of.last_map, of.classifier[0]]


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "plain": lambda tensor: tensor,
    "dead": torch.zeros_like,
    "one image many times": lambda tensor: tensor[:1].expand_as(tensor),
    "loud": lambda tensor: 80 * tensor,
    "faint": lambda tensor: 1e-4 * tensor,
    "flat": torch.ones_like,
}


@every_method
@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("size", [9, 1])
def test_finite_losses_and_gradients(name: str, half: bool, size: int) -> None:
    for classes in (small_world.CLASSES, 2):
        for student_is_teacher in (False, True):
            context = small_world.method_context(classes)
            dim = STUDENT_DIM
            if student_is_teacher:
                dim = TEACHER_DIM
                shapes = {"student_stages": TEACHER_STAGES, "student_last_map": TEACHER_STAGES[-1]}
                context = replace(context, student_dim=TEACHER_DIM, **shapes)  # type: ignore[arg-type]
            for change_name, change in CHANGES.items():
                method = build(name, context).train()
                student = leaves(signals(1, dim, size, classes=classes), in_half(change, half), requires_grad=True)
                teacher = student if student_is_teacher else signals(2, TEACHER_DIM, size, classes=classes)
                teacher = leaves(teacher, in_half(change if student_is_teacher else torch.clone, half), False)
                where = f"{change_name}, {classes} classes, student is teacher: {student_is_teacher}"
                with torch.autocast("cpu", torch.bfloat16, enabled=half):
                    terms = method.terms(student, Target.of(teacher), batch(size))
                weights = method.weights(1)
                assert terms.keys() == weights.keys()
                loss = torch.stack([weights[term] * value for term, value in terms.items()]).sum()
                assert loss.dtype == torch.float32
                assert torch.isfinite(loss), where
                loss.backward()
                method.after_step()
                gradients = [tensor.grad for tensor in [*tensors_of(student), *method.parameters()]]
                assert any(gradient is not None for gradient in gradients), where
                assert all(torch.isfinite(gradient).all() for gradient in gradients if gradient is not None), where
                assert all(torch.isfinite(value).all() for value in method.state_dict().values()), where


def in_half(change: Callable[[Tensor], Tensor], half: bool) -> Callable[[Tensor], Tensor]:
    return (lambda tensor: change(tensor).bfloat16()) if half else change


@every_method
def test_gradient_reaches_the_student_and_all_parameters_but_not_the_teacher(name: str) -> None:
    method = build(name, small_world.method_context()).train()
    student = leaves(signals(1, STUDENT_DIM), torch.clone, requires_grad=True)
    teacher = leaves(signals(2, TEACHER_DIM), torch.clone, requires_grad=True)
    weights = method.weights(1000)
    terms = method.terms(student, Target.of(teacher.detach()), batch())
    torch.stack([weights[term] * value for term, value in terms.items()]).sum().backward()
    assert sum(float(tensor.grad.abs().sum()) for tensor in tensors_of(student) if tensor.grad is not None) > 0
    for key, parameter in method.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().sum() > 0, key
    assert all(tensor.grad is None for tensor in tensors_of(teacher))


@every_method
def test_initialisation_depends_on_the_generator_alone(name: str) -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    one = build(name, small_world.method_context()).state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    again = build(name, small_world.method_context()).state_dict()
    other = build(name, small_world.method_context(generator=torch.Generator().manual_seed(77))).state_dict()
    assert all(torch.equal(one[key], value) for key, value in again.items())
    drawn = [key for key in one if key.endswith("weight") and one[key].ndim > 1]
    assert all(not torch.equal(one[key], other[key]) for key in drawn)


@every_method
def test_what_a_component_says_of_itself(name: str) -> None:
    component = lookup("methods", name)
    assert "20" in component.source
    assert component.__doc__ is not None
    assert (
        f"\n    Terms:\n        {next(iter(build(name, small_world.method_context()).weights(1)))}" in component.__doc__
    )
    assert "Differs:" in component.__doc__


FEWER = ((4, 16, 16), (5, 5, 3), (STUDENT_DIM, 2, 2))
MORE = ((7, 32, 32), (6, 32, 32), (8, 16, 16), (9, 8, 8), (TEACHER_DIM, 4, 4))


def drawn_maps(shapes: tuple[tuple[int, int, int], ...], seed: int, dim: int) -> Signals:
    generator = torch.Generator().manual_seed(seed)
    preact = tuple(torch.randn(3, *shape, generator=generator) for shape in shapes)
    stages = tuple(one.relu() for one in preact)
    return Signals(torch.zeros(3, 7), torch.rand(3, dim, generator=generator), stages, preact)


@on_stages
@pytest.mark.parametrize("student_has_more", [False, True])
def test_stages_are_paired_from_the_last_one_backwards(name: str, student_has_more: bool) -> None:
    shapes = (MORE, FEWER) if student_has_more else (FEWER, MORE)
    dims = [stages[-1][0] for stages in shapes]
    norms = tuple((torch.ones(shape[0]), torch.zeros(shape[0])) for shape in shapes[1][1:])

    def loss(student: Signals, teacher: Signals, **stages: Any) -> Tensor:
        context = small_world.method_context(
            student_dim=dims[0],
            teacher_dim=dims[1],
            teacher_norms=norms[-len(stages["teacher_stages"]) + 1 :],
            **stages,
        )
        return build(name, context).terms(student, Target.of(teacher), batch(3))[name].detach()

    student, teacher = drawn_maps(shapes[0], 1, dims[0]), drawn_maps(shapes[1], 2, dims[1])
    whole = loss(student, teacher, student_stages=shapes[0], teacher_stages=shapes[1])

    def cut(of: Signals) -> Signals:
        assert of.stages is not None and of.preact_stages is not None
        return replace(of, stages=of.stages[-3:], preact_stages=of.preact_stages[-3:])

    if name == "fitnet" and not student_has_more:  # the hint is counted in the teacher: stage 2 of 5 is stage 0 of 3
        assert torch.isfinite(whole)
        return
    same = loss(cut(student), cut(teacher), student_stages=shapes[0][-3:], teacher_stages=shapes[1][-3:])
    torch.testing.assert_close(whole, same)


@on_stages
def test_networks_without_common_stages_are_refused_with_their_shapes(name: str) -> None:
    with pytest.raises(AkdtuneError, match=rf"method {name}.*student 4x8x8; teacher 6x8x8"):
        build(name, small_world.method_context(student_stages=((4, 8, 8),), teacher_stages=((6, 8, 8),)))


@pytest.mark.parametrize("name", ["simkd", "cat_kd"])
@pytest.mark.parametrize("missing", ["student_last_map", "teacher_last_map", "teacher_classifier"])
def test_a_missing_last_map_or_classifier_is_refused(name: str, missing: str) -> None:
    with pytest.raises(AkdtuneError, match=f"method {name} needs a teacher with a classifier, and maps"):
        build(name, small_world.method_context(**{missing: None}))


def test_what_is_not_finite_is_no_zero_vector() -> None:
    vectors = torch.tensor([[3.0, 4.0], [math.nan, 1.0]])
    scaled = _maps.unit(vectors, dim=1)
    assert scaled[0].tolist() == pytest.approx([0.6, 0.8])
    assert scaled[1].isnan().any()


def test_unit_vectors_equal_torchs_and_zero_ones_stay_zero() -> None:
    vectors = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(_maps.unit(vectors, dim=1), torch.nn.functional.normalize(vectors, dim=1))
    vectors[2] = 0
    vectors.requires_grad_()
    scaled = _maps.unit(vectors, dim=1)
    (scaled * torch.arange(4)).sum().backward()
    assert torch.equal(scaled[2], torch.zeros(4, dtype=torch.float64))
    assert vectors.grad is not None
    assert torch.equal(vectors.grad[2], torch.zeros(4, dtype=torch.float64))
    assert torch.isfinite(vectors.grad).all() and vectors.grad[1].abs().sum() > 0


@pytest.mark.parametrize("size", [(4, 4), (3, 5), (8, 2), (16, 8)])
def test_pooling_is_adaptive_averaging(size: tuple[int, int]) -> None:
    map_BCHW = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.adaptive_avg_pool2d(map_BCHW, size)
    torch.testing.assert_close(_maps.pooled_to(map_BCHW, *size), expected)


def test_the_larger_height_and_width_are_averaged_each_on_their_own() -> None:
    student, teacher = _maps.same_size(torch.rand(2, 3, 8, 2), torch.rand(2, 5, 4, 6))
    assert student.shape == (2, 3, 4, 2)
    assert teacher.shape == (2, 5, 4, 2)


def test_one_value_per_channel_is_normalised_with_running_statistics() -> None:
    norm = _maps.BatchNorm(3).train()
    plain = torch.nn.BatchNorm2d(3).train()
    for shape in ((1, 3, 2, 2), (4, 3, 1, 1)):
        images = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        assert torch.equal(norm(images), plain(images))
    kept = copy.deepcopy(norm.state_dict())
    single = torch.randn(1, 3, 1, 1)
    torch.testing.assert_close(norm(single), norm.eval()(single))
    assert all(torch.equal(kept[key], value) for key, value in norm.state_dict().items())


def test_losses_leave_autocast_and_half_precision() -> None:
    @_maps.full_precision
    def product(one: Tensor, other: Tensor) -> Tensor:
        return one @ other

    eye = torch.eye(2)
    with torch.autocast("cpu", torch.bfloat16):
        assert (eye @ eye).dtype == torch.bfloat16
        assert product(eye.bfloat16(), eye).dtype == torch.float32
        assert product(eye.double(), eye.double()).dtype == torch.float64


def test_small_world_has_the_shapes_that_these_tests_assume() -> None:
    assert STUDENT_STAGES[-1][0] == STUDENT_DIM
    assert len(STUDENT_STAGES) == len(TEACHER_STAGES) == 3

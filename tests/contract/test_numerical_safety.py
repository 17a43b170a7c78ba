"""Every method with extreme inputs: finite losses and gradients in float32 and under bfloat16 autocast."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from akdtune.methods import Method
from akdtune.registry import lookup, names
from akdtune.signals import Batch, Signals, Target
from tests import small_world
from tests.small_world import CLASSES, STUDENT_DIM, TEACHER_DIM, batch

METHODS: list[tuple[str, dict[str, Any]]] = []
for _name in names("methods"):
    _model = lookup("methods", _name).Settings
    METHODS += [(_name, {"variant": variant}) for variant in getattr(_model, "presets", {})] or [(_name, {})]
    METHODS += [(_name, {"standardize": True})] if "standardize" in _model.model_fields else []
Case = Callable[[], tuple[Signals, Signals, Batch, int]]


def leaves(said: Signals) -> list[Tensor]:
    assert said.preact_stages is not None
    assert said.classifier is not None
    return [said.logits_BK, said.pooled_BC, said.classifier[0], *said.preact_stages]


def with_logits(said: Signals, logits_BK: Tensor, requires_grad: bool) -> Signals:
    """The same signals with other logits, also for the strongly augmented images."""
    assert said.strong is not None
    again = replace(said.strong, logits_BK=logits_BK.clone().requires_grad_(requires_grad))
    return replace(said, logits_BK=logits_BK.clone().requires_grad_(requires_grad), strong=again)


def extreme() -> tuple[Signals, Signals, Batch, int]:
    """Logits at +-80: the student certain of one class, the teacher of another, half of the time of the label."""
    now = batch()
    student_BK = torch.full((9, CLASSES), -80.0)
    student_BK[torch.arange(9), (now.labels_B + 1) % CLASSES] = 80.0
    teacher_BK = torch.full((9, CLASSES), -80.0)
    teacher_BK[torch.arange(9), (now.labels_B + torch.arange(9) % 2) % CLASSES] = 80.0
    student = with_logits(small_world.signals(1, STUDENT_DIM, requires_grad=True), student_BK, True)
    return student, with_logits(small_world.signals(2, TEACHER_DIM), teacher_BK, False), now, CLASSES


def identical() -> tuple[Signals, Signals, Batch, int]:
    """The student says what the teacher says, as far as their shapes allow."""
    student = small_world.signals(1, STUDENT_DIM, requires_grad=True)
    teacher = with_logits(small_world.signals(2, TEACHER_DIM), student.logits_BK.detach(), False)
    return student, teacher, batch(), CLASSES


def alone() -> tuple[Signals, Signals, Batch, int]:
    """A batch of one image."""
    student = small_world.signals(1, STUDENT_DIM, size=1, requires_grad=True)
    return student, small_world.signals(2, TEACHER_DIM, size=1), batch(size=1), CLASSES


def two_classes() -> tuple[Signals, Signals, Batch, int]:
    """A binary problem."""
    now = batch()
    student = small_world.signals(1, STUDENT_DIM, requires_grad=True, classes=2)
    return student, small_world.signals(2, TEACHER_DIM, classes=2), replace(now, labels_B=now.labels_B % 2), 2


def dead() -> tuple[Signals, Signals, Batch, int]:
    """Networks whose maps and features are all zero: every norm and every distance is zero."""

    def emptied(said: Signals, requires_grad: bool) -> Signals:
        maps = [torch.zeros_like(map_BCHW).requires_grad_(requires_grad) for map_BCHW in said.preact_stages or ()]
        stages = tuple(map_BCHW.relu() for map_BCHW in maps)
        pooled_BC = torch.zeros_like(said.pooled_BC).requires_grad_(requires_grad)
        return replace(said, pooled_BC=pooled_BC, stages=stages, preact_stages=tuple(maps), last_map=stages[-1])

    student = emptied(small_world.signals(1, STUDENT_DIM, requires_grad=True), True)
    return student, emptied(small_world.signals(2, TEACHER_DIM), False), batch(), CLASSES


def built(name: str, settings: dict[str, Any], classes: int) -> Method:
    component = lookup("methods", name)
    method: Method = component(component.Settings(**settings), small_world.method_context(classes))
    return method.train()


@pytest.mark.parametrize(
    ("name", "settings"), METHODS, ids=[f"{n}{''.join(f':{v}' for v in s.values())}" for n, s in METHODS]
)
def test_losses_and_gradients_are_finite(name: str, settings: dict[str, Any]) -> None:
    for case in (extreme, identical, alone, two_classes, dead):
        for autocast in (False, True):
            assert_finite(name, settings, case, autocast)


def assert_finite(name: str, settings: dict[str, Any], case: Case, autocast: bool) -> None:
    student, teacher, now, classes = case()
    of_student, method = leaves(student), built(name, settings, classes)
    if case is alone and any(isinstance(module, torch.nn.BatchNorm2d) for module in method.modules()):
        method.eval()  # a batch of one has no batch statistics; the loop leaves such batches out
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        if method.replaces_logits:
            student = replace(student, logits_BK=method.logits(student))
        target = Target.of(student.detach()) if method.consumes == "self" else Target.of(teacher)
        if "strong" in method.needs:
            assert teacher.strong is not None
            target = replace(target, strong=Target.of(teacher.strong))
        repeated = replace(now, repeated=0)
        terms = method.terms(student, target, repeated)
        if method.overlaps_batches:  # the second batch begins with the rows of the first
            method.after_step()
            terms = method.terms(student, target, replace(now, repeated=len(now.labels_B) // 2))
        total = sum(
            (weight * terms[term].float() for term, weight in method.weights(1).items()),
            start=student.logits_BK.sum() * 0,
        )
    assert all(torch.isfinite(value) for value in terms.values()), terms
    total.backward()
    for tensor in of_student + list(method.parameters()):
        assert tensor.grad is None or torch.isfinite(tensor.grad).all()

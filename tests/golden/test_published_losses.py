"""Numbers that the published implementations returned, for losses and gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from akdtune.registry import lookup
from akdtune.signals import Batch, Signals, Target, Views
from tests.small_world import method, view_context

RECORDED = np.load(Path(__file__).parent / "distillation.npz")
DTYPES = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
ANGULAR = sorted({key.split("/")[0] for key in RECORDED.files if key.startswith("angular_")})


def recorded(key: str, dtype: torch.dtype | None = None) -> Tensor:
    """A recorded tensor; integers stay integers."""
    tensor = torch.from_numpy(RECORDED[key])
    return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor


def assert_close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    """Equal within `tolerance` of the largest value."""
    error = (found.double() - expected.double()).abs().max() / expected.double().abs().max()
    assert error <= tolerance


def assert_case(case: str, loss: Tensor, inputs: dict[str, Tensor], tolerance: float) -> None:
    """The loss and the gradient of every input that has a recorded one."""
    assert_close(loss.detach(), recorded(f"{case}/loss"), tolerance)
    loss.backward()
    for name, tensor in inputs.items():
        assert tensor.grad is not None
        assert_close(tensor.grad, recorded(f"{case}/grad/{name}"), tolerance)


@DTYPES
@pytest.mark.parametrize("temperature", [1, 4])
def test_kd(temperature: int, dtype: torch.dtype, tolerance: float) -> None:
    case = f"kd_T{temperature}"
    student_BK = recorded(f"{case}/in/student_logits", dtype).requires_grad_()
    teacher_BK = recorded(f"{case}/in/teacher_logits", dtype)
    terms = method("kd", temperature=temperature).terms(
        Signals(student_BK, student_BK), Target.of(Signals(teacher_BK, teacher_BK)), any_batch(student_BK)
    )
    assert_case(case, terms["kd"], {"student_logits": student_BK}, tolerance)


@DTYPES
def test_dkd(dtype: torch.dtype, tolerance: float) -> None:
    student_BK = recorded("dkd/in/student_logits", dtype).requires_grad_()
    teacher_BK = recorded("dkd/in/teacher_logits", dtype)
    dkd = method("dkd", warmup_epochs=0)
    terms = dkd.terms(
        Signals(student_BK, student_BK),
        Target.of(Signals(teacher_BK, teacher_BK)),
        any_batch(student_BK, recorded("dkd/in/target")),
    )
    weights = dkd.weights(1)
    assert weights == {"tckd": 1.0, "nckd": 8.0}
    total = weights["tckd"] * terms["tckd"] + weights["nckd"] * terms["nckd"]
    assert_case("dkd", total, {"student_logits": student_BK}, tolerance)


@DTYPES
@pytest.mark.parametrize("case", ANGULAR)
def test_angular_released(case: str, dtype: torch.dtype, tolerance: float) -> None:
    _, level, kind, _ = case.split("_")
    teacher_name, view_name = {
        "feature": ("teacher_feature", "view_features"),
        "logit": ("teacher_logits", "view_logits"),
    }[level]
    teacher_BR = recorded(f"{case}/in/{teacher_name}", dtype)
    views_BVR = recorded(f"{case}/in/{view_name}", dtype).requires_grad_()
    terms = angular_terms({"variant": "released"}, teacher_BR, views_BVR)
    loss = terms[f"{level}_intra"] if kind == "intra" else terms[f"{level}_constraint"] + terms[f"{level}_diversity"]
    assert_case(case, loss, {view_name: views_BVR}, tolerance)


def test_every_recorded_angular_case_is_used() -> None:
    assert len(ANGULAR) == 10
    kinds = {tuple(case.split("_")[1:3]) for case in ANGULAR}
    assert kinds == {(level, kind) for level in ("feature", "logit") for kind in ("inter", "intra")}


def any_batch(like_BK: Tensor, labels_B: Tensor | None = None) -> Batch:
    """A batch of which only the labels matter."""
    positions_B = torch.arange(len(like_BK))
    labels = torch.zeros(len(like_BK), dtype=torch.long) if labels_B is None else labels_B
    return Batch(labels, positions_B, positions_B, 1, torch.Generator())


def angular_terms(settings: dict[str, Any], teacher_BR: Tensor, views_BVR: Tensor) -> dict[str, Tensor]:
    """The penalties of given views; the same tensor stands for features and logits."""
    component = lookup("views", "angular")
    angular = component(component.Settings(**settings), view_context(teacher_BR.shape[1], teacher_BR.shape[1]))
    teacher, views = Signals(teacher_BR, teacher_BR), Views(views_BVR, views_BVR)
    terms: dict[str, Tensor] = angular.penalties(teacher, views, torch.zeros(len(teacher_BR), dtype=torch.long))
    return terms

"""KD: what an ensemble target means for it; and what all logit and self methods have in common."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from akdtune.registry import Pair, lookup
from akdtune.signals import Batch, Signals, Target
from tests.small_world import STUDENT_DIM, TEACHER_DIM, batch, method, method_context, signals


def ensemble(total: float, count: int = 4) -> Target:
    """A mixture of several members whose weights sum to `total`."""
    members = [signals(seed, TEACHER_DIM) for seed in range(20, 20 + count)]
    logits_BMK = torch.stack([member.logits_BK for member in members], dim=1)
    pooled_BMC = torch.stack([member.pooled_BC for member in members], dim=1)
    return Target(logits_BMK, pooled_BMC, torch.full((count,), total / count))


def student_gradient(name: str, term: str, target: Target) -> Tensor:
    """The gradient of one term to the student's logits."""
    student = signals(1, STUDENT_DIM, requires_grad=True)
    loss = method(name).terms(student, target, batch())[term]
    (gradient,) = torch.autograd.grad(loss, student.logits_BK)
    return gradient


def test_gradient_is_student_minus_target() -> None:
    target = ensemble(1.0)
    student = signals(1, STUDENT_DIM)
    at = 4.0
    difference_BK = torch.softmax(student.logits_BK / at, dim=-1) - target.probabilities_BK(at)
    expected_BK = at / len(student.logits_BK) * difference_BK
    torch.testing.assert_close(student_gradient("kd", "kd", target), expected_BK)
    torch.testing.assert_close(target.probabilities_BK(at).sum(dim=-1), torch.ones(9))


@pytest.mark.parametrize(("name", "term", "factor"), [("kd", "kd", 2.44), ("dkd", "tckd", 2.44), ("dkd", "nckd", 1.0)])
def test_a_target_that_sums_to_2_44_multiplies_the_gradient(name: str, term: str, factor: float) -> None:
    proper, released = (student_gradient(name, term, ensemble(total)) for total in (1.0, 2.44))
    torch.testing.assert_close(released, factor * proper, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["kd", "dkd", "crd"])
def test_order_of_members_does_not_matter(name: str) -> None:
    target = ensemble(1.0)
    weights_M = torch.tensor([0.1, 0.2, 0.3, 0.4])
    turned = [2, 0, 3, 1]
    one = Target(target.logits_BMK, target.pooled_BMC, weights_M)
    other = Target(target.logits_BMK[:, turned], target.pooled_BMC[:, turned], weights_M[turned])
    student = signals(1, STUDENT_DIM)
    terms = [method(name).terms(student, which, batch()) for which in (one, other)]
    for term, value in terms[0].items():
        torch.testing.assert_close(value, terms[1][term])


@pytest.mark.parametrize("name", ["kd", "dkd"])
def test_perfect_imitation_costs_nothing(name: str) -> None:
    teacher = signals(1, STUDENT_DIM)
    for value in method(name).terms(teacher, Target.of(teacher), batch()).values():
        assert float(value) == pytest.approx(0.0, abs=1e-6)


def test_certain_student_and_teacher_stay_finite() -> None:
    certain = torch.eye(7)[torch.arange(9) % 7] * 1e4
    student = Signals((-certain).requires_grad_(), torch.zeros(9, STUDENT_DIM))
    for name in ("kd", "dkd"):
        for value in method(name).terms(student, Target.of(Signals(certain, certain)), batch()).values():
            (gradient,) = torch.autograd.grad(value, student.logits_BK, retain_graph=True)
            assert torch.isfinite(value)
            assert torch.isfinite(gradient).all()


def test_weight_and_published_ce_weight() -> None:
    kd = method("kd", weight=1.7)
    assert kd.weights(1) == kd.weights(200) == {"kd": 1.7}
    assert kd.default_ce_weight == 0.1


LOGIT_METHODS = ["kd", "dkd", "mlkd", "dist", "nkd", "wsld", "ctkd", "pld"]
SELF_METHODS = ["student_only", "label_smoothing", "last_batch", "sdpgo_style"]
CASES: dict[str, tuple[int, int, str]] = {  # images, classes, what the logits are
    "far apart": (6, 5, "opposite"),
    "student is teacher": (6, 5, "equal"),
    "one image": (1, 5, "opposite"),
    "two classes": (6, 2, "opposite"),
    "one image, two classes, student is teacher": (1, 2, "equal"),
    "constant logits": (6, 5, "constant"),
}


def extreme(case: str, dtype: torch.dtype) -> tuple[Signals, Signals, Batch]:
    """Student and teacher whose logits are +80 or -80, and a batch whose labels are not the largest."""
    size, classes, kind = CASES[case]
    signs_BK = torch.where(torch.eye(classes).bool()[torch.arange(size) % classes], 1.0, -1.0)
    teacher_BK = (80 * signs_BK if kind != "constant" else torch.zeros(size, classes)).to(dtype)
    student_BK = (-teacher_BK if kind == "opposite" else teacher_BK).clone().requires_grad_()
    pooled_BC = torch.ones(size, STUDENT_DIM, dtype=dtype, requires_grad=True)
    strong = Signals(student_BK.flip(0), pooled_BC)
    student = Signals(student_BK + 0 * pooled_BC.sum(), pooled_BC, strong=strong)
    teacher = Signals(teacher_BK, teacher_BK, strong=Signals(teacher_BK.flip(0), teacher_BK))
    rows_B = torch.arange(size)
    return student, teacher, Batch((rows_B + 1) % classes, rows_B, rows_B, 1, torch.Generator())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("name", "standardize"),
    [(name, False) for name in LOGIT_METHODS + SELF_METHODS] + [(name, True) for name in LOGIT_METHODS],
)
def test_extreme_inputs_stay_finite(name: str, case: str, dtype: torch.dtype, standardize: bool) -> None:
    component = lookup("methods", name)
    student, teacher, now = extreme(case, dtype)
    assert teacher.strong is not None
    target = replace(Target.of(teacher), strong=Target.of(teacher.strong))
    settings = component.Settings(standardize=True) if standardize else component.Settings()
    built = component(settings, method_context(classes=CASES[case][1]))
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
        terms = built.terms(student, target, now)
        built.after_step()
        # a second step on the same images, as methods that remember the last one need it
        terms = {**terms, **built.terms(student, target, replace(now, repeated=len(now.labels_B)))}
    for term, value in terms.items():
        assert value.dtype == torch.float32, term
        assert torch.isfinite(value), term
        if not value.requires_grad:
            continue
        inputs = [student.pooled_BC, *built.parameters()]
        assert student.strong is not None
        for gradient in torch.autograd.grad(value, [student.logits_BK, *inputs], allow_unused=True, retain_graph=True):
            assert gradient is None or torch.isfinite(gradient).all(), term


@pytest.mark.parametrize("name", LOGIT_METHODS)
def test_standardized_logits_have_no_scale_and_no_offset(name: str) -> None:
    student, teacher = signals(1, STUDENT_DIM), signals(2, TEACHER_DIM)
    assert student.strong is not None
    assert teacher.strong is not None
    # mlkd standardises its instance terms alone; its masks come from plain probabilities
    settings = {"masks": "none"} if name == "mlkd" else {}
    moved = replace(
        student,
        logits_BK=3 * student.logits_BK + 5,
        strong=replace(student.strong, logits_BK=3 * student.strong.logits_BK + 5),
    )
    target = replace(Target.of(teacher), strong=Target.of(teacher.strong))
    for standardize in (True, False):
        built = method(name, standardize=standardize, **settings)
        one, other = (built.terms(who, target, batch()) for who in (student, moved))
        compared = [term for term in one if name != "mlkd" or term.startswith("instance")]
        assert all(torch.allclose(one[term], other[term], rtol=1e-4) is standardize for term in compared)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("kd", {"temperature": 2.0, "weight": 9.0}),
        ("dkd", {"temperature": 2.0, "weight": 9.0, "alpha": 1.0, "beta": 8.0}),
        ("mlkd", {"temperatures": [2.0, 3.0, 5.0, 2.0, 6.0], "weight": 9.0, "ce_strong_weight": 0.1}),
        ("ctkd", {"weight": 9.0, "minimum": 1.0, "span": 20.0}),
        ("dist", {"temperature": 4.0, "beta": 2.0}),
    ],
)
def test_standardize_brings_its_published_numbers(name: str, expected: dict[str, Any]) -> None:
    settings = lookup("methods", name).Settings
    resolved = settings(standardize=True).model_dump()
    assert {key: resolved[key] for key in expected} == expected
    assert settings(**resolved).model_dump() == resolved, "what was written down is read back as it was"
    given = settings(standardize=True, weight=3.0) if "weight" in settings.model_fields else settings(beta=3.0)
    assert 3.0 in given.model_dump().values(), "what is given wins"
    with pytest.raises(ValueError, match="standardize"):
        settings(standardize="yes")


def test_published_numbers_by_data_set() -> None:
    imagenet, cifar = (Pair(data, "torchvision_resnet34", "torchvision_resnet18") for data in ("imagenet", "cifar100"))
    changes = {name: dict(lookup("methods", name).published(imagenet)) for name in LOGIT_METHODS}
    assert changes == {
        "kd": {"temperature": 1.0, "weight": 0.5},
        "dkd": {"temperature": 1.0, "warmup_epochs": 1, "beta": 0.5},
        "mlkd": {"temperatures": [1.0, 3.0, 5.0, 2.0, 6.0], "weight": 0.5, "ce_strong_weight": 0.5},
        "dist": {"temperature": 1.0},
        "nkd": {"temperature": 1.0, "gamma": 1.5},
        "wsld": {"temperature": 2.0, "alpha": 2.5},
        "ctkd": {"weight": 1.0, "ramp_epochs": 5},
        "pld": {"temperature": 1.0},
    }
    ce_weights = {name: lookup("methods", name).ce_weight(imagenet) for name in LOGIT_METHODS}
    assert ce_weights == {"kd": 0.5, "dkd": 1, "mlkd": 0.5, "dist": 1, "nkd": 1, "wsld": 1, "ctkd": 1, "pld": 0}
    for name in LOGIT_METHODS:
        component = lookup("methods", name)
        component.Settings(**changes[name])
        assert not component.published(cifar)
        assert component.ce_weight(cifar) == component.default_ce_weight

"""DKD: its formula typed anew, its ramp, its masks."""

from __future__ import annotations

import math

import pytest
import torch

from akdtune.methods.dkd import DKD
from akdtune.registry import Pair
from akdtune.signals import Signals, Target
from tests.small_world import STUDENT_DIM, TEACHER_DIM, batch, method, signals


def test_formula_one_sample_at_a_time() -> None:
    student, teacher = signals(1, STUDENT_DIM), signals(2, TEACHER_DIM)
    labels_B = batch().labels_B
    at, tckd, nckd = 3.0, 0.0, 0.0
    for b, label in enumerate(labels_B.tolist()):
        s = torch.softmax(student.logits_BK[b].double() / at, dim=0).tolist()
        t = torch.softmax(teacher.logits_BK[b].double() / at, dim=0).tolist()
        tckd += t[label] * math.log(t[label] / s[label]) + (1 - t[label]) * math.log((1 - t[label]) / (1 - s[label]))
        for c in set(range(len(s))) - {label}:
            t_rest, s_rest = t[c] / (1 - t[label]), s[c] / (1 - s[label])
            nckd += t_rest * math.log(t_rest / s_rest)
    terms = method("dkd", temperature=at).terms(student, Target.of(teacher), batch())
    assert float(terms["tckd"]) == pytest.approx(at**2 * tckd / 9, rel=1e-5)
    assert float(terms["nckd"]) == pytest.approx(at**2 * nckd / 9, rel=1e-5)


def test_both_parts_make_up_kd() -> None:
    # KL = TCKD + (1 - p_label) * NCKD, here for one sample (Zhao et al., eq. 6)
    student, teacher = signals(1, STUDENT_DIM, size=1), signals(2, TEACHER_DIM, size=1)
    now = batch(1)
    kd = method("kd").terms(student, Target.of(teacher), now)["kd"]
    terms = method("dkd").terms(student, Target.of(teacher), now)
    rest = 1 - torch.softmax(teacher.logits_BK / 4.0, dim=-1)[0, now.labels_B[0]]
    torch.testing.assert_close(terms["tckd"] + rest * terms["nckd"], kd)


def test_two_classes_leave_nothing_for_the_other_part() -> None:
    logits_BK = torch.tensor([[1.0, -1.0], [0.5, 2.0]], requires_grad=True)
    teacher_BK = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    now = batch(2)
    now = type(now)(torch.tensor([0, 1]), now.sample_ids_B, now.positions_B, 1, now.generator)
    terms = method("dkd").terms(Signals(logits_BK, logits_BK), Target.of(Signals(teacher_BK, teacher_BK)), now)
    (gradient,) = torch.autograd.grad(terms["nckd"], logits_BK)
    assert float(terms["nckd"].detach()) == 0.0
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_ramp_reaches_its_full_height_at_warmup_epochs() -> None:
    dkd = method("dkd", alpha=2.0, beta=6.0, weight=0.5, warmup_epochs=20)
    assert dkd.weights(1) == pytest.approx({"tckd": 0.05, "nckd": 0.15})
    assert dkd.weights(20) == dkd.weights(240) == pytest.approx({"tckd": 1.0, "nckd": 3.0})
    assert method("dkd", warmup_epochs=0).weights(1) == {"tckd": 1.0, "nckd": 8.0}


@pytest.mark.parametrize(
    ("data", "teacher", "student", "beta"),
    [
        ("cifar100", "resnet56", "resnet20", 2.0),
        ("cifar100", "resnet110", "resnet32", 2.0),
        ("cifar100", "wrn_40_2", "wrn_16_2", 6.0),
        ("cifar100", "wrn_40_2", "wrn_40_1", 6.0),
        ("cifar100", "vgg13", "vgg8", 6.0),
        ("cifar100", "vgg13", "MobileNetV2", 6.0),
        ("cifar100", "resnet32x4", "resnet8x4", None),
        ("cifar10", "resnet56", "resnet20", 2.0),  # as on CIFAR-100
        ("parquet", "vgg13", "vgg8", 6.0),
        ("imagenet", "torchvision_resnet34", "torchvision_resnet18", 0.5),
        ("imagenet", "torchvision_resnet50", "torchvision_mobilenet_v2", 2.0),
    ],
)
def test_published_beta_by_pair(data: str, teacher: str, student: str, beta: float | None) -> None:
    assert DKD.published(Pair(data, teacher, student)).get("beta") == beta


def test_standardized_weights_are_nine_times_alpha_and_beta() -> None:
    assert method("dkd", standardize=True, beta=6.0).weights(20) == {"tckd": 9.0, "nckd": 54.0}

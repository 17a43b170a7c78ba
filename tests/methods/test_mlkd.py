"""MLKD: its variants, masks, and which images each term reads."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from akdtune.methods.mlkd import MLKDSettings, correlation_term, less_confident
from akdtune.signals import Signals, Target
from tests.small_world import STUDENT_DIM, TEACHER_DIM, batch, method, signals


def target() -> Target:
    """The teacher on weakly and strongly augmented images."""
    teacher = signals(2, TEACHER_DIM)
    assert teacher.strong is not None
    return replace(Target.of(teacher), strong=Target.of(teacher.strong))


def reads(variant: str) -> dict[str, tuple[bool, bool]]:
    """Whether the gradient of each term reaches the weak and the strong logits."""
    student = signals(1, STUDENT_DIM, requires_grad=True)
    assert student.strong is not None
    is_read: dict[str, tuple[bool, bool]] = {}
    for term, value in method("mlkd", variant=variant).terms(student, target(), batch()).items():
        inputs = (student.logits_BK, student.strong.logits_BK)
        weak, strong = torch.autograd.grad(value, inputs, retain_graph=True, allow_unused=True)
        is_read[term] = (weak is not None, strong is not None)
    return is_read


def test_which_images_each_term_reads() -> None:
    weak, strong = (True, False), (False, True)
    paper = {"instance": weak, "instance_strong": strong, "class": weak, "batch": weak}
    assert reads("paper") == {**paper, "class_strong": strong, "batch_strong": strong, "ce_strong": strong}
    assert reads("released") == {**paper, "instance_strong": (True, True), "ce_strong": strong}


def test_variants_spell_out_their_numbers() -> None:
    assert MLKDSettings() == MLKDSettings(variant="paper")
    released = MLKDSettings(variant="released")
    assert (released.masks, released.weak_in_strong, released.strong_correlations) == ("scale", 2, False)
    assert MLKDSettings(variant="released", masks="none").masks == "none", "what is given wins"
    assert MLKDSettings(**released.model_dump()) == released
    with pytest.raises(ValueError, match="weak_in_strong is 2, but there are 1 temperatures only"):
        MLKDSettings(variant="released", temperatures=(4.0,))


def test_masks_take_the_less_confident_half() -> None:
    p_BK = torch.tensor([[0.9, 0.05, 0.05], [0.4, 0.35, 0.25], [0.8, 0.1, 0.1], [0.5, 0.4, 0.1]])
    images_B, classes_K = less_confident(p_BK)
    assert images_B.tolist() == [False, True, False, True]
    assert classes_K.tolist() == [False, True, True]


def test_selecting_everything_is_no_mask() -> None:
    teacher = Signals(torch.zeros(6, 7), torch.zeros(6, TEACHER_DIM))  # all equally confident: all below the median
    same = replace(Target.of(teacher), strong=Target.of(teacher))
    student = signals(1, STUDENT_DIM, size=6)
    terms = [method("mlkd", masks=masks).terms(student, same, batch(6)) for masks in ("select", "scale", "none")]
    for term, value in terms[0].items():
        assert torch.equal(value, terms[1][term])
        assert torch.equal(value, terms[2][term])


def test_one_temperature_is_kd_on_both_images() -> None:
    student = signals(1, STUDENT_DIM)
    assert student.strong is not None
    whole = target()
    assert whole.strong is not None
    terms = method("mlkd", temperatures=[4.0], masks="none").terms(student, whole, batch())
    kd = method("kd")
    torch.testing.assert_close(terms["instance"], kd.terms(student, whole, batch())["kd"])
    torch.testing.assert_close(terms["instance_strong"], kd.terms(student.strong, whole.strong, batch())["kd"])


def test_correlations_ignore_the_order_of_the_other_axis() -> None:
    drawn = torch.Generator().manual_seed(0)
    wanted_RN, found_RN = (torch.rand(4, 6, generator=drawn) for _ in range(2))
    turned = torch.randperm(6, generator=drawn)

    def term(read_RN: Tensor) -> Tensor:
        return correlation_term(wanted_RN, read_RN, torch.ones(4))

    torch.testing.assert_close(term(found_RN), term(found_RN[:, turned]))
    assert float(term(wanted_RN[:, turned])) == pytest.approx(0.0, abs=1e-10)


def test_strong_images_are_mixed_with_the_same_partners() -> None:
    student = signals(1, STUDENT_DIM)
    assert student.strong is not None
    plain = batch()
    mixed = replace(plain, partner_labels_B=plain.labels_B.roll(1), share=0.75)
    loss = method("mlkd").terms(student, target(), mixed)["ce_strong"]
    log_p_BK = torch.log_softmax(student.strong.logits_BK, dim=-1)
    rows_B = torch.arange(9)
    own, partner = -log_p_BK[rows_B, plain.labels_B].mean(), -log_p_BK[rows_B, plain.labels_B.roll(1)].mean()
    assert float((own - partner).abs()) > 0.1
    torch.testing.assert_close(loss, 0.75 * own + 0.25 * partner)


def test_weights() -> None:
    mlkd = method("mlkd", variant="released", weight=0.7, ce_strong_weight=0.2)
    assert mlkd.weights(1) == {"instance": 0.7, "instance_strong": 0.7, "class": 0.7, "batch": 0.7, "ce_strong": 0.2}
    assert mlkd.default_ce_weight == 0.1

"""SAKD-style views: the reconstruction's formulas typed anew, and who trains whom."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from akdtune.errors import AkdtuneError
from akdtune.signals import Signals, Views
from akdtune.training.objective import weighted_sum
from akdtune.views.sakd_style import SAKDStyle, SAKDStyleSettings
from tests import small_world
from tests.small_world import CLASSES, STUDENT_DIM, TEACHER_DIM, batch, signals


def sakd(**settings: Any) -> SAKDStyle:
    built = small_world.views("sakd_style", **settings)
    assert isinstance(built, SAKDStyle)
    return built


def views_of(augmenter: SAKDStyle, teacher: Signals, student: Signals) -> Views:
    return augmenter.views(teacher, torch.Generator(), student)


@pytest.mark.parametrize("number", [1, 3, 5, 12])
def test_views_are_shifts_of_one_perturbation(number: int) -> None:
    teacher, student, augmenter = signals(1, TEACHER_DIM), signals(2, STUDENT_DIM), sakd(number=number)
    views = views_of(augmenter, teacher, student)
    weight_KC, bias_K = small_world.view_context().teacher_classifier
    hidden_BH = (student.pooled_BC @ augmenter.squeeze.weight.T + augmenter.squeeze.bias).relu()
    u_BC = hidden_BH @ augmenter.expand.weight.T + augmenter.expand.bias
    assert views.num_views == number
    for index in range(number):
        view_BC = 0.9 * teacher.pooled_BC + 0.1 * torch.roll(u_BC, index * (TEACHER_DIM // number), dims=1)
        torch.testing.assert_close(views.pooled_BVC[:, index], view_BC)
        torch.testing.assert_close(views.logits_BVK[:, index], view_BC @ weight_KC.T + bias_K)


def test_number_of_parameters_does_not_depend_on_the_number_of_views() -> None:
    counts = {number: sum(p.numel() for p in sakd(number=number).parameters()) for number in (1, 3, 12)}
    assert set(counts.values()) == {STUDENT_DIM * 120 + 120 + 120 * TEACHER_DIM + TEACHER_DIM}
    assert all(p.requires_grad for p in sakd().parameters())


def test_the_default_has_the_reported_number_of_parameters() -> None:
    """About 46 thousand, for a student of width 256 and a teacher of width 128 (WRN-40-2 to resnet8x4)."""
    context = replace(small_world.view_context(dim=128), student_dim=256)
    built = SAKDStyle(SAKDStyleSettings(), context)
    assert sum(p.numel() for p in built.parameters()) == pytest.approx(46_000, rel=0.01)


def test_more_views_than_numbers_to_shift_are_refused() -> None:
    with pytest.raises(AkdtuneError, match=r"views.number: 13 views cannot be shifts of 12 numbers .* at most 12"):
        sakd(number=13)


def test_views_change_with_the_student_and_not_with_the_mode_or_the_generator() -> None:
    teacher, student, augmenter = signals(1, TEACHER_DIM), signals(2, STUDENT_DIM), sakd()
    views = views_of(augmenter.train(), teacher, student)
    assert torch.equal(views.pooled_BVC, views_of(augmenter.eval(), teacher, student).pooled_BVC)
    assert not torch.allclose(views.pooled_BVC, views_of(augmenter, teacher, signals(3, STUDENT_DIM)).pooled_BVC)
    assert augmenter.needs_student
    assert not augmenter.stochastic
    with pytest.raises(AssertionError, match="student"):
        augmenter.views(teacher, torch.Generator())


def test_penalties_one_sample_and_one_pair_at_a_time() -> None:
    teacher, augmenter = signals(1, TEACHER_DIM), sakd(number=4)
    views = views_of(augmenter, teacher, signals(2, STUDENT_DIM))
    teacher = Signals(teacher.logits_BK.double(), teacher.pooled_BC.double())
    views = Views(views.logits_BVK.detach().double(), views.pooled_BVC.detach().double())
    consistency, diversity = [], []
    for own_C, views_VC in zip(teacher.pooled_BC, views.pooled_BVC, strict=True):
        consistency += [1 - float(own_C @ view_C / own_C.norm() / view_C.norm()) for view_C in views_VC]
        offsets = [own_C - view_C for view_C in views_VC]
        for i in range(4):
            for j in range(i):
                cosine = float(offsets[i] @ offsets[j] / offsets[i].norm() / offsets[j].norm())
                diversity.append(math.log1p(math.exp(cosine)))
    penalties = augmenter.penalties(teacher, views)
    assert float(penalties["consistency"]) == pytest.approx(sum(consistency) / len(consistency), rel=1e-12)
    assert float(penalties["diversity"]) == pytest.approx(sum(diversity) / len(diversity), rel=1e-12)


def test_order_of_views_does_not_matter() -> None:
    teacher, augmenter = signals(1, TEACHER_DIM), sakd()
    views = views_of(augmenter, teacher, signals(2, STUDENT_DIM))
    order = torch.tensor([3, 0, 4, 1, 2])
    turned = Views(views.logits_BVK[:, order], views.pooled_BVC[:, order])
    for name, value in augmenter.penalties(teacher, views).items():
        torch.testing.assert_close(augmenter.penalties(teacher, turned)[name], value)
    one, other = augmenter.evaluation_target(teacher, views), augmenter.evaluation_target(teacher, turned)
    torch.testing.assert_close(one.probabilities_BK(2.0), other.probabilities_BK(2.0))
    torch.testing.assert_close(one.pooled_BC, other.pooled_BC)


def test_target_is_the_uniform_mean_of_teacher_and_views() -> None:
    teacher, student, augmenter = signals(1, TEACHER_DIM), signals(2, STUDENT_DIM), sakd(number=2)
    teaching = augmenter.teach(teacher, student, batch())
    views = views_of(augmenter, teacher, student).detach()
    members = [teacher.logits_BK, *views.logits_BVK.unbind(1)]
    expected_BK = sum(torch.softmax(member_BK / 3, dim=-1) for member_BK in members) / 3
    (only,) = teaching.logit_targets
    torch.testing.assert_close(only.target.probabilities_BK(3.0), expected_BK)
    features = [teacher.pooled_BC, *views.pooled_BVC.unbind(1)]
    torch.testing.assert_close(teaching.pooled_targets[0].target.pooled_BC, sum(features) / 3)


def test_penalties_train_the_generator_and_nothing_else() -> None:
    augmenter = sakd().train()
    teacher, student = signals(1, TEACHER_DIM, requires_grad=True), signals(2, STUDENT_DIM, requires_grad=True)
    teaching = augmenter.teach(teacher, student, batch())
    total = weighted_sum(teaching.penalties, augmenter.penalty_weights())
    assert total is not None
    total.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in augmenter.parameters())
    assert teacher.pooled_BC.grad is None
    assert teacher.logits_BK.grad is None
    assert student.pooled_BC.grad is None
    assert not teaching.logit_targets[0].target.logits_BMK.requires_grad


def test_targets_carry_a_gradient_to_the_generator_only_when_asked() -> None:
    augmenter = sakd(detach_targets=False, consistency_weight=0, diversity_weight=0).train()
    student = signals(2, STUDENT_DIM, requires_grad=True)
    teaching = augmenter.teach(signals(1, TEACHER_DIM), student, batch())
    assert not teaching.penalties
    teaching.logit_targets[0].target.probabilities_BK(1.0).square().sum().backward()
    assert all(p.grad is not None for p in augmenter.parameters())
    assert student.pooled_BC.grad is None


def test_training_makes_views_consistent_and_diverse() -> None:
    augmenter = sakd().train()
    teacher, student = signals(1, TEACHER_DIM), signals(2, STUDENT_DIM)
    optimizer = torch.optim.SGD(augmenter.parameters(), lr=1.0)
    totals = []
    for _ in range(30):
        total = weighted_sum(augmenter.teach(teacher, student, batch()).penalties, augmenter.penalty_weights())
        assert total is not None
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(float(total.detach()))
    assert totals[-1] < totals[0] - 0.02


@pytest.mark.parametrize("size", [1, 9])
def test_finite_under_autocast_with_large_logits(size: int) -> None:
    augmenter = sakd().train()
    teacher = Signals(torch.full((size, CLASSES), 80.0), torch.zeros(size, TEACHER_DIM))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        teaching = augmenter.teach(teacher, signals(2, STUDENT_DIM, size=size), batch(size))
        total = weighted_sum(teaching.penalties, augmenter.penalty_weights())
        assert torch.isfinite(teaching.logit_targets[0].target.log_probabilities_BK(1.0)).all()
    assert total is not None
    assert torch.isfinite(total)
    total.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in augmenter.parameters())


def test_initial_weights_depend_on_the_context_alone() -> None:
    torch.manual_seed(1)
    one = sakd()
    before = torch.get_rng_state()
    other = sakd()
    assert torch.equal(before, torch.get_rng_state())
    for mine, theirs in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert 0.9 * STUDENT_DIM**-0.5 < float(one.squeeze.weight.detach().abs().max()) <= STUDENT_DIM**-0.5


@pytest.mark.parametrize(
    "given", [{"consistency_weight": 0, "diversity_weight": 0}, {"teacher_share": 1.0}, {"number": 0}, {"hidden": 0}]
)
def test_settings_that_cannot_work_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SAKDStyleSettings(**given)

"""Several teachers at once: every combination typed anew, who is left out, which features can be mixed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from akdtune.errors import AkdtuneError
from akdtune.signals import Signals, Teaching
from akdtune.views.multi_teacher import MultiTeacher, MultiTeacherSettings, confidence_weights
from tests import small_world
from tests.small_world import CLASSES, STUDENT_DIM, TEACHER_DIM, batch, signals

COMBINATIONS = ("mean_logits", "mean_probabilities", "mean_loss", "confidence")


def multi(others: tuple[int, ...] = (TEACHER_DIM, 10), **settings: Any) -> MultiTeacher:
    context = replace(small_world.view_context(), others_dims=others)
    return MultiTeacher(MultiTeacherSettings(**settings), context)


def teach(augmenter: MultiTeacher, teacher: Signals) -> Teaching:
    return augmenter.teach(teacher, signals(1, STUDENT_DIM), batch())


def trained_BK(teaching: Teaching, temperature: float = 2.0) -> Tensor:
    return sum(  # type: ignore[return-value]
        one.weight * one.target.probabilities_BK(temperature) for one in teaching.logit_targets
    )


def softmaxes(teacher: Signals, temperature: float = 2.0) -> list[Tensor]:
    return [torch.softmax(one.logits_BK / temperature, dim=-1) for one in (teacher, *teacher.others)]


@pytest.mark.parametrize("combination", ["mean_probabilities", "mean_loss"])
def test_means_of_probabilities(combination: str) -> None:
    teacher = signals(2, TEACHER_DIM)
    teaching = teach(multi(combination=combination), teacher)
    assert [one.weight for one in teaching.logit_targets] == ([1.0] if combination != "mean_loss" else [1 / 3] * 3)
    torch.testing.assert_close(trained_BK(teaching), sum(softmaxes(teacher)) / 3)


def test_mean_of_logits() -> None:
    teacher = signals(2, TEACHER_DIM)
    mean_BK = (teacher.logits_BK + teacher.others[0].logits_BK + teacher.others[1].logits_BK) / 3
    expected_BK = torch.softmax(mean_BK / 2, dim=-1)
    torch.testing.assert_close(trained_BK(teach(multi(combination="mean_logits"), teacher)), expected_BK)


def test_confidence_weights_one_image_at_a_time() -> None:
    teacher, labels_B = signals(2, TEACHER_DIM), batch().labels_B
    members = [torch.softmax(one.logits_BK.double(), dim=-1) for one in (teacher, *teacher.others)]
    logits_BMK = torch.stack([one.logits_BK for one in (teacher, *teacher.others)], dim=1)
    found_BM = confidence_weights(logits_BMK.double(), labels_B)
    target_BK = trained_BK(teach(multi(combination="confidence"), teacher))
    for image, label in enumerate(labels_B.tolist()):
        losses = [-member_BK[image, label].log() for member_BK in members]
        total = sum(loss.exp() for loss in losses)
        weights = [float((1 - loss.exp() / total) / (3 - 1)) for loss in losses]
        assert found_BM[image].tolist() == pytest.approx(weights, rel=1e-9)
        assert sum(weights) == pytest.approx(1)
        assert weights.index(max(weights)) == losses.index(min(losses))
        mixed_K = sum(w * p_BK[image] for w, p_BK in zip(weights, softmaxes(teacher), strict=True))
        torch.testing.assert_close(target_BK[image], mixed_K)


def test_the_mixture_has_the_gradient_of_the_weighted_losses() -> None:
    """KL to the mixture and CA-MKD's weighted sum of KL, per image: equal gradients for the student."""
    teacher, labels_B = signals(2, TEACHER_DIM), batch().labels_B
    logits_BMK = torch.stack([one.logits_BK for one in (teacher, *teacher.others)], dim=1)
    weights_BM = confidence_weights(logits_BMK, labels_B)
    (only,) = teach(multi(combination="confidence"), teacher).logit_targets
    student_BK = torch.randn(9, CLASSES, generator=torch.Generator().manual_seed(0)).requires_grad_()
    log_p_BK = torch.log_softmax(student_BK, dim=-1)
    log_q_BMK = torch.log_softmax(logits_BMK, dim=-1)
    separate = (weights_BM * (log_q_BMK.exp() * (log_q_BMK - log_p_BK.unsqueeze(1))).sum(dim=-1)).sum()
    log_mix_BK = only.target.log_probabilities_BK(1.0)
    mixed = (log_mix_BK.exp() * (log_mix_BK - log_p_BK)).sum()
    one, other = (torch.autograd.grad(loss, student_BK, retain_graph=True)[0] for loss in (separate, mixed))
    torch.testing.assert_close(one, other)


def test_confidence_of_one_and_of_certain_teachers_is_finite() -> None:
    labels_B = torch.tensor([0, 1])
    assert confidence_weights(torch.randn(2, 1, 3), labels_B).tolist() == [[1.0], [1.0]]
    certain_BMK = torch.full((2, 2, 2), -80.0)
    certain_BMK[:, 0, 0] = certain_BMK[:, 1, 1] = 80.0
    assert confidence_weights(certain_BMK, labels_B).tolist() == [[1.0, 0.0], [0.0, 1.0]]
    augmenter = multi(others=(TEACHER_DIM,), combination="confidence")
    feature_BC = torch.ones(9, TEACHER_DIM)
    torn_BK = torch.full((9, CLASSES), -80.0)
    torn_BK[:, 0] = 80.0
    teacher = Signals(torn_BK, feature_BC, others=(Signals(-torn_BK, feature_BC),))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        probabilities_BK = trained_BK(teach(augmenter, teacher))
    assert torch.isfinite(probabilities_BK).all()
    torch.testing.assert_close(probabilities_BK.sum(dim=-1), torch.ones(9))


@pytest.mark.parametrize("combination", COMBINATIONS)
def test_order_of_teachers_does_not_matter(combination: str) -> None:
    teacher = signals(2, TEACHER_DIM)
    turned = replace(teacher, others=teacher.others[::-1])
    teaching = teach(multi(combination=combination), teacher)
    other = teach(multi(others=(10, TEACHER_DIM), combination=combination), turned)
    torch.testing.assert_close(trained_BK(teaching), trained_BK(other))
    torch.testing.assert_close(teaching.pooled_targets[-1].target.pooled_BC, other.pooled_targets[-1].target.pooled_BC)


@pytest.mark.parametrize("combination", COMBINATIONS)
def test_evaluated_target_is_the_trained_one_but_for_labels(combination: str) -> None:
    teacher, augmenter = signals(2, TEACHER_DIM), multi(combination=combination).eval()
    views = augmenter.views(teacher, torch.Generator())
    found_BK = augmenter.evaluation_target(teacher, views).probabilities_BK(2.0)
    expected_BK = sum(softmaxes(teacher)) / 3 if combination == "confidence" else trained_BK(teach(augmenter, teacher))
    torch.testing.assert_close(found_BK, expected_BK)


def test_views_are_the_others_with_features_of_the_main_ones_width() -> None:
    teacher = signals(2, TEACHER_DIM)
    views = multi().views(teacher, torch.Generator())
    assert torch.equal(views.logits_BVK, torch.stack([one.logits_BK for one in teacher.others], dim=1))
    assert torch.equal(views.pooled_BVC, teacher.others[0].pooled_BC.unsqueeze(1))
    wide = replace(teacher, others=teacher.others[1:])
    views = multi(others=(10,)).views(wide, torch.Generator())
    assert views.num_views == 1
    assert views.pooled_BVC.shape == (9, 0, TEACHER_DIM)
    (only,) = teach(multi(others=(10,)), wide).pooled_targets
    assert torch.equal(only.target.pooled_BC, wide.pooled_BC)


def test_features_of_equal_width_are_combined_like_the_logits() -> None:
    teacher = signals(2, TEACHER_DIM)
    mean_BC = (teacher.pooled_BC + teacher.others[0].pooled_BC) / 2
    for combination in ("mean_logits", "mean_probabilities"):
        (only,) = teach(multi(combination=combination), teacher).pooled_targets
        torch.testing.assert_close(only.target.pooled_BC, mean_BC)
    one, other = teach(multi(combination="mean_loss"), teacher).pooled_targets
    assert (one.weight, other.weight) == (0.5, 0.5)
    assert torch.equal(other.target.pooled_BC, teacher.others[0].pooled_BC)
    (only,) = teach(multi(combination="confidence"), teacher).pooled_targets
    logits_BMK = torch.stack([teacher.logits_BK, teacher.others[0].logits_BK], dim=1)
    weights_BM = confidence_weights(logits_BMK, batch().labels_B)
    expected_BC = weights_BM[:, :1] * teacher.pooled_BC + weights_BM[:, 1:] * teacher.others[0].pooled_BC
    torch.testing.assert_close(only.target.pooled_BC, expected_BC)


def test_dropping_leaves_one_out_at_random_in_training_only() -> None:
    teacher, augmenter = signals(2, TEACHER_DIM), multi(combination="mean_loss", drop=1).train()
    generator, kept = batch().generator, set()
    for _ in range(40):
        targets = augmenter.teach(teacher, teacher, replace(batch(), generator=generator)).logit_targets
        assert [one.weight for one in targets] == [0.5, 0.5]
        members = (teacher, *teacher.others)
        kept.add(
            frozenset(
                next(i for i, one in enumerate(members) if torch.equal(one.logits_BK, target.target.logits_BMK[:, 0]))
                for target in targets
            )
        )
    assert kept == {frozenset({0, 1}), frozenset({0, 2}), frozenset({1, 2})}
    assert len(teach(augmenter.eval(), teacher).logit_targets) == 3


def test_who_is_left_out_follows_the_batch_and_is_the_same_for_its_strong_images() -> None:
    teacher, augmenter = signals(2, TEACHER_DIM), multi(drop=2).train()
    assert teacher.strong is not None
    members, strong_members = ((one, *one.others) for one in (teacher, teacher.strong))
    for seed in range(8):
        now = batch(seed=seed)
        (weak,), (strong,) = (augmenter.teach(one, one, now).logit_targets for one in (teacher, teacher.strong))
        again = augmenter.teach(teacher, teacher, batch(seed=seed)).logit_targets[0]
        assert torch.equal(weak.target.logits_BMK, again.target.logits_BMK)
        place = next(i for i, m in enumerate(members) if torch.equal(m.logits_BK, weak.target.logits_BMK[:, 0]))
        assert torch.equal(strong.target.logits_BMK[:, 0], strong_members[place].logits_BK)


@pytest.mark.parametrize("combination", COMBINATIONS)
def test_no_gradient_reaches_any_teacher(combination: str) -> None:
    teacher = signals(2, TEACHER_DIM, requires_grad=True)
    other = Signals(torch.randn(9, CLASSES).requires_grad_(), torch.rand(9, TEACHER_DIM).requires_grad_())
    teaching = teach(multi(others=(TEACHER_DIM,), combination=combination), replace(teacher, others=(other,)))
    for one in (*teaching.logit_targets, *teaching.pooled_targets):
        assert not one.target.probabilities_BK(1.0).requires_grad
        assert not one.target.pooled_BC.requires_grad
    assert not teaching.penalties


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(AkdtuneError, match=r"multi_teacher needs further teachers: list them under teacher.others"):
        multi(others=())
    with pytest.raises(AkdtuneError, match=r"views.drop: 3 of 3 teachers leaves none; at most 2"):
        multi(drop=3)
    with pytest.raises(ValidationError):
        MultiTeacherSettings(combination="median")  # type: ignore[arg-type]

"""Monte-Carlo dropout of the teacher's head: masks, classifier, ensemble."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from akdtune.signals import Signals
from akdtune.views.dropout import DropoutSettings
from tests import small_world
from tests.small_world import CLASSES, TEACHER_DIM, batch, signals

WEIGHT_KC, BIAS_K = small_world.view_context().teacher_classifier


def test_a_view_is_the_teacher_with_numbers_missing() -> None:
    teacher = signals(1, TEACHER_DIM)
    views = small_world.views("dropout", number=4, rate=0.5).views(teacher, torch.Generator().manual_seed(0))
    assert views.logits_BVK.shape == (9, 4, CLASSES)
    share_BVC = views.pooled_BVC / teacher.pooled_BC.unsqueeze(1)
    assert set(share_BVC.round(decimals=4).unique().tolist()) == {0.0, 2.0}
    torch.testing.assert_close(views.logits_BVK, views.pooled_BVC @ WEIGHT_KC.T + BIAS_K)
    assert len({tuple(mask.flatten().tolist()) for mask in share_BVC.unbind(1)}) == 4


def test_masks_keep_the_expected_share_and_scale() -> None:
    teacher = Signals(torch.zeros(400, CLASSES), torch.full((400, TEACHER_DIM), 3.0))
    views = small_world.views("dropout", rate=0.2).views(teacher, torch.Generator().manual_seed(0))
    assert float((views.pooled_BVC == 0).double().mean()) == pytest.approx(0.2, abs=0.01)
    assert float(views.pooled_BVC.mean()) == pytest.approx(3.0, rel=0.01)


def test_masks_come_from_the_generator_and_are_fresh_each_time() -> None:
    teacher, dropout, now = signals(1, TEACHER_DIM), small_world.views("dropout"), batch()
    first, second = (dropout.teach(teacher, teacher, now).logit_targets[0].target.logits_BMK for _ in range(2))
    again = dropout.teach(teacher, teacher, batch()).logit_targets[0].target.logits_BMK
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert dropout.stochastic


@pytest.mark.parametrize("include_teacher", [True, False])
def test_target_is_the_uniform_mean(include_teacher: bool) -> None:
    teacher = signals(1, TEACHER_DIM)
    dropout = small_world.views("dropout", number=3, include_teacher=include_teacher)
    teaching = dropout.teach(teacher, teacher, batch())
    views = dropout.views(teacher, batch().generator)
    logits = [*([teacher.logits_BK] if include_teacher else []), *views.logits_BVK.unbind(1)]
    pooled = [*([teacher.pooled_BC] if include_teacher else []), *views.pooled_BVC.unbind(1)]
    expected_BK = sum(torch.softmax(one / 2, dim=-1) for one in logits) / len(logits)
    torch.testing.assert_close(teaching.logit_targets[0].target.probabilities_BK(2.0), expected_BK)
    torch.testing.assert_close(teaching.pooled_targets[0].target.pooled_BC, sum(pooled) / len(pooled))


def test_without_dropout_it_is_the_classifier_itself() -> None:
    teacher = signals(1, TEACHER_DIM)
    dropout = small_world.views("dropout", rate=0, number=2, include_teacher=False)
    target = dropout.teach(teacher, teacher, batch()).logit_targets[0].target
    own_BK = torch.softmax(teacher.pooled_BC @ WEIGHT_KC.T + BIAS_K, dim=-1)
    torch.testing.assert_close(target.probabilities_BK(1.0), own_BK)


def test_no_gradient_reaches_the_teacher_and_there_is_nothing_to_train() -> None:
    teacher, dropout = signals(1, TEACHER_DIM, requires_grad=True), small_world.views("dropout")
    target = dropout.teach(teacher, teacher, batch()).logit_targets[0].target
    assert not target.logits_BMK.requires_grad
    assert not target.pooled_BMC.requires_grad
    assert not list(dropout.parameters())
    assert not dropout.state_dict()


@pytest.mark.parametrize("given", [{"rate": 1.0}, {"rate": -0.1}, {"number": 0}])
def test_settings_that_cannot_work_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        DropoutSettings(**given)

"""The plain teacher as a view augmenter."""

from __future__ import annotations

import torch

from tests import small_world
from tests.small_world import CLASSES, TEACHER_DIM, batch, signals


def test_the_teacher_is_the_only_target() -> None:
    teacher = signals(1, TEACHER_DIM)
    none = small_world.views("none")
    teaching = none.teach(teacher, teacher, batch())
    for targets in (teaching.logit_targets, teaching.pooled_targets):
        (only,) = targets
        assert only.weight == 1.0
        torch.testing.assert_close(only.target.probabilities_BK(4.0), torch.softmax(teacher.logits_BK / 4, dim=-1))
        assert torch.equal(only.target.pooled_BC, teacher.pooled_BC)
    assert not teaching.penalties
    assert not list(none.parameters())


def test_there_are_no_views() -> None:
    views = small_world.views("none").views(signals(1, TEACHER_DIM), torch.Generator())
    assert views.num_views == 0
    assert views.logits_BVK.shape == (9, 0, CLASSES)
    assert views.pooled_BVC.shape == (9, 0, TEACHER_DIM)

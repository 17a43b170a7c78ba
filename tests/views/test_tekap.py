"""TeKAP: the noise, the weights of both presets, levels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from akdtune.signals import Signals
from akdtune.views.tekap import TeKAPSettings
from tests import small_world
from tests.small_world import TEACHER_DIM, batch, signals


@pytest.mark.parametrize(
    ("variant", "logits", "pooled"),
    [
        ("paper", [0.8, 0.2, 0.2, 0.2], [0.8, 0.2, 0.2, 0.2]),
        ("released", [1.0, 0.8, 0.8, 0.8], [1.0, 1.0]),
    ],
)
def test_presets(variant: str, logits: list[float], pooled: list[float]) -> None:
    teacher = signals(1, TEACHER_DIM)
    teaching = small_world.views("tekap", variant=variant).teach(teacher, teacher, batch())
    assert [weighted.weight for weighted in teaching.logit_targets] == logits
    assert [weighted.weight for weighted in teaching.pooled_targets] == pooled
    assert torch.equal(teaching.logit_targets[0].target.logits_BMK[:, 0], teacher.logits_BK)
    assert torch.equal(teaching.pooled_targets[0].target.pooled_BC, teacher.pooled_BC)
    assert not teaching.penalties


@pytest.mark.parametrize(("variant", "feature_noise"), [("paper", 0.1), ("released", 0.01)])
def test_noise_has_the_published_size(variant: str, feature_noise: float) -> None:
    teacher = Signals(torch.full((500, 20), 3.0), torch.full((500, 20), 2.0))
    views = small_world.views("tekap", variant=variant).views(teacher, torch.Generator().manual_seed(0))
    assert float(views.logits_BVK.mean()) == pytest.approx(0.9 * 3.0, abs=0.003)
    assert float(views.logits_BVK.std()) == pytest.approx(0.1, rel=0.03)
    assert float(views.pooled_BVC.mean()) == pytest.approx(0.9 * 2.0, abs=0.003)
    assert float(views.pooled_BVC.std()) == pytest.approx(feature_noise, rel=0.03)


def test_noise_comes_from_the_batch_generator_and_is_fresh_each_time() -> None:
    tekap = small_world.views("tekap")
    teacher = signals(1, TEACHER_DIM)
    now = batch()
    first, second = (tekap.teach(teacher, teacher, now).logit_targets[1].target.logits_BMK for _ in range(2))
    again = tekap.teach(teacher, teacher, batch()).logit_targets[1].target.logits_BMK
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert tekap.stochastic


@pytest.mark.parametrize(("level", "logits", "pooled"), [("logit", 4, 1), ("feature", 1, 4), ("both", 4, 4)])
def test_level_leaves_the_other_one_alone(level: str, logits: int, pooled: int) -> None:
    teacher = signals(1, TEACHER_DIM)
    tekap = small_world.views("tekap", level=level)
    teaching = tekap.teach(teacher, teacher, batch())
    assert (len(teaching.logit_targets), len(teaching.pooled_targets)) == (logits, pooled)
    for targets, count in ((teaching.logit_targets, logits), (teaching.pooled_targets, pooled)):
        if count == 1:
            assert targets[0].weight == 1.0
    views = tekap.views(teacher, batch().generator)
    assert (views.logits_BVK.shape[1], views.pooled_BVC.shape[1]) == (logits - 1, pooled - 1)


def test_evaluation_target_is_the_weighted_mean() -> None:
    teacher = signals(1, TEACHER_DIM)
    tekap = small_world.views("tekap", variant="released")
    views = tekap.views(teacher, batch().generator)
    expected_BK = torch.softmax(teacher.logits_BK, dim=-1) + 0.8 * torch.softmax(views.logits_BVK, dim=-1).sum(dim=1)
    torch.testing.assert_close(tekap.evaluation_target(teacher, views).probabilities_BK(1.0), expected_BK / 3.4)
    plain = small_world.views("tekap", level="feature")
    target = plain.evaluation_target(teacher, plain.views(teacher, batch().generator))
    assert torch.equal(target.logits_BMK[:, 0], teacher.logits_BK)


@pytest.mark.parametrize(
    "given", [{}, {"variant": "released"}, {"variant": "released", "noise": 0.3, "level": "logit"}]
)
def test_settings_round_trip(given: dict[str, Any]) -> None:
    settings = TeKAPSettings(**given)
    assert TeKAPSettings(**settings.model_dump()) == settings
    assert all(settings.model_dump()[key] == value for key, value in given.items())


def test_defaults_of_the_class_are_the_paper_preset() -> None:
    assert TeKAPSettings().model_dump() == {name: f.default for name, f in TeKAPSettings.model_fields.items()}


@pytest.mark.parametrize(
    "given",
    [
        {"teacher_weight": 0, "view_weight": 0},
        {"feature_teacher_weight": 0, "feature_view_weight": 0},
        {"shrink": 1.0},
        {"number": 0},
    ],
)
def test_settings_that_cannot_work_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TeKAPSettings(**given)

"""The objective: who is weighted by what, what is logged, what trains."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch

from akdtune.methods import Method
from akdtune.objective import Objective, weighted_sum
from akdtune.registry import NoSettings
from akdtune.signals import Batch, Signals, Target, Terms
from tests import small_world
from tests.small_world import STUDENT_DIM, TEACHER_DIM, batch, signals


class Counting(Method):
    """A method with a known value: the sum of the target's weights and member count."""

    consumes = "logits"

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)
        self.steps = 0

    def terms(self, student: Signals, target: Target, batch: Batch) -> Terms:
        return {"a": student.logits_BK.mean() * 0 + 2.0, "b": torch.tensor(3.0)}

    def weights(self, epoch: int) -> Mapping[str, float]:
        return {"a": 10.0 * epoch, "b": 100.0}

    def after_step(self) -> None:
        self.steps += 1


def measured(objective: Objective, epoch: int = 1) -> dict[str, float]:
    loss = objective(signals(1, STUDENT_DIM), signals(2, TEACHER_DIM), batch(epoch=epoch))
    return {"total": float(loss.total.detach())} | {name: float(value.detach()) for name, value in loss.terms.items()}


def test_total_is_weights_times_terms() -> None:
    found = measured(Objective({"counting": Counting()}, small_world.views("none"), ce_weight=0.5), epoch=3)
    assert found["counting.a"] == 2.0
    assert found["counting.b"] == 3.0
    assert found["total"] == pytest.approx(0.5 * found["ce"] + 30 * 2.0 + 100 * 3.0)
    assert NoSettings is Counting.Settings


def test_ce_is_the_labels_cross_entropy_at_temperature_one() -> None:
    found = measured(Objective({}, small_world.views("none"), ce_weight=1.0))
    log_p_BK = torch.log_softmax(signals(1, STUDENT_DIM).logits_BK, dim=-1)
    expected = -log_p_BK[torch.arange(9), batch().labels_B].mean()
    assert found == {"total": pytest.approx(float(expected)), "ce": pytest.approx(float(expected))}


def test_a_sum_over_views_multiplies_the_total_and_not_the_log() -> None:
    tekap = small_world.views("tekap", variant="released")
    found = measured(Objective({"counting": Counting()}, tekap, ce_weight=0.0))
    assert found["counting.a"] == pytest.approx(2.0)
    assert found["total"] == pytest.approx(3.4 * (10 * 2.0 + 100 * 3.0))


def test_methods_are_summed() -> None:
    alone = {
        name: measured(Objective({name: small_world.method(name)}, small_world.views("none"), 0.0))["total"]
        for name in ("kd", "crd")
    }
    both = Objective({name: small_world.method(name) for name in ("kd", "crd")}, small_world.views("none"), 0.0)
    assert measured(both)["total"] == pytest.approx(sum(alone.values()), rel=1e-6)


def test_penalties_are_weighted_and_named_after_the_views() -> None:
    angular = small_world.views("angular", variant="constrained", dropout=0.0, gt_weight=0.3).train()
    found = measured(Objective({}, angular, ce_weight=0.0))
    weights = {f"views.{name}": weight for name, weight in angular.penalty_weights().items()}
    assert found.keys() == {"total", "ce", *weights}
    assert found["total"] == pytest.approx(sum(weight * found[name] for name, weight in weights.items()), rel=1e-5)


def test_views_that_do_not_train_jointly_offer_no_parameters() -> None:
    for mode, jointly in (("both", True), ("pretrain", False)):
        angular = small_world.views("angular", train_heads=mode)
        objective = Objective({"crd": small_world.method("crd")}, angular, 1.0)
        own = list(objective.methods["crd"].parameters())
        assert len(objective.trained_parameters()) == len(own) + jointly * len(list(angular.parameters()))


def test_after_step_reaches_every_method() -> None:
    counting = Counting()
    objective = Objective({"counting": counting}, small_world.views("none"), 1.0)
    objective.after_step()
    assert counting.steps == 1


def test_a_penalty_without_a_weight_is_a_mistake_of_ours() -> None:
    with pytest.raises(KeyError):
        weighted_sum({"a": torch.tensor(1.0)}, {})
    assert weighted_sum({}, {"a": 1.0}) is None


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_released_gradient_to_the_student_is_2_44_times_as_strong(variant: str) -> None:
    angular = small_world.views("angular", variant=variant, target_mode="eval").train()
    objective = Objective({"kd": small_world.method("kd")}, angular, ce_weight=0.0)
    student, teacher = signals(1, STUDENT_DIM, requires_grad=True), signals(2, TEACHER_DIM)
    target = angular.evaluation_target(teacher, angular.heads(teacher.pooled_BC, False))
    objective(student, teacher, batch()).total.backward()
    mean_BK = target.probabilities_BK(4.0).detach()
    strength = 2.4397 if variant == "released" else 1.0
    mixture_BK = mean_BK / mean_BK.sum(dim=-1, keepdim=True)
    expected_BK = 0.9 * strength * 4.0 / 9 * (torch.softmax(student.logits_BK.detach() / 4.0, dim=-1) - mixture_BK)
    torch.testing.assert_close(student.logits_BK.grad, expected_BK, rtol=1e-3, atol=1e-5)

"""The objective: who is weighted by what, what is logged, what trains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch

from akdtune.errors import AkdtuneError
from akdtune.methods import Method
from akdtune.signals import Batch, Signals, Target, Terms
from akdtune.training.objective import Objective, weighted_sum
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
    values = measured(Objective({"counting": Counting()}, small_world.views("none"), ce_weight=0.5), epoch=3)
    assert values["counting.a"] == 2.0
    assert values["counting.b"] == 3.0
    assert values["total"] == pytest.approx(0.5 * values["ce"] + 30 * 2.0 + 100 * 3.0)


def test_ce_is_the_labels_cross_entropy_at_temperature_one() -> None:
    values = measured(Objective({}, small_world.views("none"), ce_weight=1.0))
    log_p_BK = torch.log_softmax(signals(1, STUDENT_DIM).logits_BK, dim=-1)
    expected = -log_p_BK[torch.arange(9), batch().labels_B].mean()
    assert values == {"total": pytest.approx(float(expected)), "ce": pytest.approx(float(expected))}


def test_a_sum_over_views_multiplies_the_total_and_not_the_log() -> None:
    tekap = small_world.views("tekap", variant="released")
    values = measured(Objective({"counting": Counting()}, tekap, ce_weight=0.0))
    assert values["counting.a"] == pytest.approx(2.0)
    assert values["total"] == pytest.approx(3.4 * (10 * 2.0 + 100 * 3.0))


def test_methods_are_summed() -> None:
    alone = {
        name: measured(Objective({name: small_world.method(name)}, small_world.views("none"), 0.0))["total"]
        for name in ("kd", "crd")
    }
    both = Objective({name: small_world.method(name) for name in ("kd", "crd")}, small_world.views("none"), 0.0)
    assert measured(both)["total"] == pytest.approx(sum(alone.values()), rel=1e-6)


def test_penalties_are_weighted_and_named_after_the_views() -> None:
    angular = small_world.views("angular", variant="constrained", dropout=0.0, gt_weight=0.3).train()
    values = measured(Objective({}, angular, ce_weight=0.0))
    weights = {f"views.{name}": weight for name, weight in angular.penalty_weights().items()}
    assert values.keys() == {"total", "ce", *weights}
    assert values["total"] == pytest.approx(sum(weight * values[name] for name, weight in weights.items()), rel=1e-5)


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


class Reading(Method):
    """Notes what it is given."""

    def __init__(self, consumes: str, needs: frozenset[str] = frozenset()) -> None:
        torch.nn.Module.__init__(self)
        self.consumes = consumes  # type: ignore[misc, assignment]
        self.given: list[Target] = []
        self.needs = needs  # type: ignore[misc, assignment]

    def needs_maps(self) -> bool:  # type: ignore[override]
        return bool(self.needs - {"strong"})

    def terms(self, student: Signals, target: Target, batch: Batch) -> Terms:
        self.given.append(target)
        return {"a": student.logits_BK.mean()}

    def weights(self, epoch: int) -> Mapping[str, float]:
        return {"a": 1.0}


def given(consumes: str, *needs: str, view: str = "tekap", **settings: object) -> list[Target]:
    reading = Reading(consumes, frozenset(needs))
    objective = Objective({"reading": reading}, small_world.views(view, **settings), ce_weight=1.0)
    objective(signals(1, STUDENT_DIM), signals(2, TEACHER_DIM), batch())
    return reading.given


def test_what_a_method_consumes_decides_what_it_is_given() -> None:
    teacher, student = signals(2, TEACHER_DIM), signals(1, STUDENT_DIM)
    of_views = given("logits", number=3)
    assert len(of_views) == 4
    assert of_views[1].stages is None
    (stages,) = given("stages", number=3)
    assert teacher.stages is not None
    assert torch.equal(stages.stages[-1], teacher.stages[-1])  # type: ignore[index]
    assert torch.equal(stages.logits_BMK[:, 0], teacher.logits_BK)
    (own,) = given("self", number=3)
    assert torch.equal(own.logits_BMK[:, 0], student.logits_BK)
    assert not own.logits_BMK.requires_grad


def test_maps_and_strong_targets_are_there_for_those_who_need_them() -> None:
    teacher = signals(2, TEACHER_DIM)
    assert teacher.strong is not None
    for target in given("pooled", "stages", "last_map", feature_number=2):
        assert torch.equal(target.last_map, teacher.last_map)  # type: ignore[arg-type]
        assert target.strong is None
    for target in given("logits", "strong", view="none"):
        assert target.strong is not None
        assert torch.equal(target.strong.logits_BMK[:, 0], teacher.strong.logits_BK)


def test_without_a_teacher_there_is_only_the_student() -> None:
    reading = Reading("self")
    objective = Objective({"reading": reading}, small_world.views("none"), ce_weight=1.0)
    loss = objective(signals(1, STUDENT_DIM), None, batch())
    assert set(loss.terms) == {"ce", "reading.a"}
    assert not objective.needs_teacher


def test_mixed_images_share_the_cross_entropy() -> None:
    student = signals(1, STUDENT_DIM)
    objective = Objective({}, small_world.views("none"), ce_weight=1.0)
    plain = batch()
    partners_B = plain.labels_B.roll(1)
    mixed = objective(student, signals(2, TEACHER_DIM), replace(plain, partner_labels_B=partners_B, share=0.7))
    log_p_BK = torch.log_softmax(student.logits_BK, dim=-1)
    rows_B = torch.arange(9)
    expected = -(0.7 * log_p_BK[rows_B, plain.labels_B] + 0.3 * log_p_BK[rows_B, partners_B]).mean()
    torch.testing.assert_close(mixed.total, expected)


def test_the_parts_of_a_loss_add_up_to_its_total() -> None:
    angular = small_world.views("angular", num_views=3)
    objective = Objective({"kd": small_world.method("kd")}, angular, ce_weight=0.3)
    loss = objective(signals(1, STUDENT_DIM), signals(2, TEACHER_DIM), batch())
    task, distillation = loss.split()
    assert distillation is not None
    torch.testing.assert_close(task, 0.3 * loss.terms["ce"])
    torch.testing.assert_close(task + distillation, loss.total)
    assert Objective({}, small_world.views("none"), 1.0)(signals(1, STUDENT_DIM), None, batch()).split()[1] is None


class Shifted(Method):
    """Predicts the student's logits times ten."""

    replaces_logits = True
    consumes = "self"

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)

    def terms(self, student: Signals, target: Target, batch: Batch) -> Terms:
        return {"seen": student.logits_BK.mean()}

    def weights(self, epoch: int) -> Mapping[str, float]:
        return {"seen": 0.0}

    def logits(self, student: Signals) -> torch.Tensor:
        return student.logits_BK * 10


def test_a_replaced_prediction_is_the_one_that_is_trained_and_logged() -> None:
    student = signals(1, STUDENT_DIM)
    loss = Objective({"shifted": Shifted()}, small_world.views("none"), 1.0)(student, None, batch())
    assert torch.equal(loss.logits_BK, student.logits_BK * 10)
    torch.testing.assert_close(
        loss.terms["ce"], torch.nn.functional.cross_entropy(student.logits_BK * 10, batch().labels_B)
    )
    torch.testing.assert_close(loss.terms["shifted.seen"], student.logits_BK.mean() * 10)


class Forgetful(Reading):
    def weights(self, epoch: int) -> Mapping[str, float]:
        return {}


def test_a_term_without_a_weight_is_an_error() -> None:
    objective = Objective({"forgetful": Forgetful("logits")}, small_world.views("none"), 1.0)
    with pytest.raises(AkdtuneError, match=r"method 'forgetful' returns the terms \['a'\] and weighs \[\]"):
        objective(signals(1, STUDENT_DIM), signals(2, TEACHER_DIM), batch())

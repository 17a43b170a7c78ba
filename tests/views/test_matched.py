"""Controls of views: same weights with the teacher's own output, for every method; solved temperatures."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from akdtune.registry import lookup, names
from akdtune.settings.trial import pair_problem
from akdtune.signals import Signals, Target, WeightedTarget
from akdtune.training.objective import Objective
from akdtune.views._angular_settings import AngularSettings
from akdtune.views.matched import MatchedSettings, mean_entropy, mixture_BK, solve_temperature
from akdtune.views.tekap import TeKAP, TeKAPSettings
from tests import small_world
from tests.small_world import STUDENT_DIM, TEACHER_DIM, batch, signals

OTHERS = [name for name in names("views") if name != "matched"]
METHODS = names("methods")
RELEASED = {"name": "angular", "variant": "released"}
TEKAP = {"name": "tekap", "variant": "released"}
SUMS = {"angular": (1 + 5 * 0.8) / (1 + 5 * 0.64) ** 0.5, "tekap": 3.4}


def matched(match: str, of: dict[str, Any]) -> Any:
    return small_world.views("matched", of=of, match=match).train()


def whole(views: Any, *methods: str) -> Objective:
    return Objective({name: small_world.method(name) for name in methods}, views, 0.5).train()


def loss_and_gradients(objective: Objective) -> tuple[dict[str, float], list[torch.Tensor | None]]:
    student = signals(1, STUDENT_DIM, requires_grad=True)
    assert student.preact_stages is not None
    loss = objective(student, signals(2, TEACHER_DIM), batch())
    loss.total.backward()
    leaves = [student.logits_BK, student.pooled_BC, *student.preact_stages]
    return {name: float(value.detach()) for name, value in loss.terms.items()}, [leaf.grad for leaf in leaves]


@pytest.mark.parametrize("view", OTHERS)
def test_weight_has_the_views_targets_with_the_teachers_output(view: str) -> None:
    inner, teacher, student = small_world.views(view), signals(2, TEACHER_DIM), signals(1, STUDENT_DIM)
    given = inner.train().teach(teacher, student, batch())
    teaching = matched("weight", {"name": view}).teach(teacher, student, batch())
    assert not teaching.penalties and not teaching.gates
    for kind in ("logit_targets", "pooled_targets"):
        targets, originals = getattr(teaching, kind), getattr(given, kind)
        assert [weighted.weight for weighted in targets] == [weighted.weight for weighted in originals]
        for weighted, original in zip(targets, originals, strict=True):
            assert torch.equal(weighted.target.weights_M, original.target.weights_M)
            assert weighted.target.temperature == original.target.temperature
            assert weighted.target.logits_BMK.shape == original.target.logits_BMK.shape
            assert all(torch.equal(member, teacher.logits_BK) for member in weighted.target.logits_BMK.unbind(1))
            assert all(torch.equal(member, teacher.pooled_BC) for member in weighted.target.pooled_BMC.unbind(1))


@pytest.mark.parametrize("method", [name for name in METHODS if pair_problem("matched", name) is None])
def test_weight_of_proper_mixtures_is_the_plain_teacher_for_every_method(method: str) -> None:
    plain = loss_and_gradients(whole(small_world.views("none"), method))
    measured = loss_and_gradients(whole(matched("weight", {"name": "angular"}), method))
    for name, value in plain[0].items():
        assert measured[0][name] == pytest.approx(value, rel=1e-4, abs=1e-5)
    for gradient, other in zip(measured[1], plain[1], strict=True):
        assert (gradient is None) is (other is None)
        if gradient is not None and other is not None:
            torch.testing.assert_close(gradient, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_every_match_works_with_every_method(method: str) -> None:
    for match, of in itertools.product(("entropy", "target"), (RELEASED, TEKAP)):
        objective = whole(matched(match, of), method)
        terms, gradients = loss_and_gradients(objective)
        assert all(torch.isfinite(torch.tensor(value)) for value in terms.values())
        assert all(torch.isfinite(gradient).all() for gradient in gradients if gradient is not None)


def test_the_same_random_numbers_are_drawn() -> None:
    """Whatever draws after the views (crd's negatives) sees the generator as with the views themselves."""
    for view, match in itertools.product(("tekap", "angular", "dropout", "random"), ("weight", "shrink", "entropy")):
        states = []
        for augmenter in (small_world.views(view).train(), matched(match, {"name": view})):
            now = batch()
            augmenter.teach(signals(2, TEACHER_DIM), signals(1, STUDENT_DIM), now)
            states.append(now.generator.get_state())
        assert torch.equal(*states)


def test_heads_do_not_train_where_their_views_are_not_read() -> None:
    for match, trains in (("weight", False), ("shrink", False), ("entropy", True), ("target", True)):
        augmenter = matched(match, {"name": "angular", "warmup_epochs": 3})
        assert augmenter.trains_jointly is trains
        assert augmenter.warmup_epochs == 3 * trains
        assert augmenter.warmup_epochs_of(MatchedSettings(of={"name": "angular", "warmup_epochs": 3}, match=match)) == (
            3 * trains
        )
        assert bool(augmenter.penalty_weights()) is trains
        assert bool(augmenter.warmup_penalties(signals(2, TEACHER_DIM), batch())) is trains


def test_heads_train_exactly_as_in_the_original() -> None:
    gradients = []
    for augmenter in (small_world.views("angular").train(), matched("entropy", {"name": "angular"}).inner):
        penalties = augmenter.teach(signals(2, TEACHER_DIM), signals(1, STUDENT_DIM), batch()).penalties
        sum(weight * penalties[name] for name, weight in augmenter.penalty_weights().items()).backward()
        gradients.append([parameter.grad for parameter in augmenter.parameters()])
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


def test_shrink_keeps_the_shrunk_teacher_without_noise() -> None:
    teacher = signals(2, TEACHER_DIM)
    teaching = matched("shrink", TEKAP).teach(teacher, signals(1, STUDENT_DIM), batch())
    first, *views = teaching.logit_targets
    assert [weighted.weight for weighted in teaching.logit_targets] == [1.0, 0.8, 0.8, 0.8]
    assert torch.equal(first.target.logits_BMK[:, 0], teacher.logits_BK)
    for weighted in views:
        torch.testing.assert_close(weighted.target.logits_BMK[:, 0], 0.9 * teacher.logits_BK)
    torch.testing.assert_close(teaching.pooled_targets[1].target.pooled_BC, 0.9 * teacher.pooled_BC)


def test_without_a_shrink_it_is_weight() -> None:
    assert TeKAP.without_noise(TeKAPSettings(shrink=0.0)) is None
    assert TeKAP.without_noise(TeKAPSettings(view_weight=0.0, level="logit")) is None
    for of in ({"name": "tekap", "shrink": 0.0}, {"name": "angular"}, {"name": "none"}):
        assert matched("shrink", of).match == "weight"


@pytest.mark.parametrize("of", [RELEASED, TEKAP, {"name": "angular"}, {"name": "dropout", "rate": 0.6}], ids=str)
@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("standardize", [False, True])
def test_entropy_is_that_of_the_views_target(of: dict[str, Any], temperature: float, standardize: bool) -> None:
    teacher, student = signals(2, TEACHER_DIM), signals(1, STUDENT_DIM)
    given = matched("entropy", of).inner.teach(teacher, student, batch()).logit_targets
    (weighted,) = matched("entropy", of).teach(teacher, student, batch()).logit_targets
    assert weighted.weight == 1.0
    wanted = mean_entropy(mixture_BK(given, temperature, standardize))
    p_BK = weighted.target.log_probabilities_BK(temperature, standardize).exp()
    torch.testing.assert_close(p_BK.sum(dim=-1), torch.ones(9))
    assert float(mean_entropy(p_BK)) == pytest.approx(float(wanted), abs=2e-4)
    assert torch.equal(p_BK.argmax(dim=-1), teacher.logits_BK.argmax(dim=-1))


def test_target_has_both_the_weights_and_the_temperature() -> None:
    teacher, student = signals(2, TEACHER_DIM), signals(1, STUDENT_DIM)
    of = {
        name: matched(name, RELEASED).teach(teacher, student, batch()).logit_targets[0]
        for name in ("entropy", "target")
    }
    torch.testing.assert_close(
        of["target"].target.probabilities_BK(4.0), SUMS["angular"] * of["entropy"].target.probabilities_BK(4.0)
    )
    teaching = matched("target", TEKAP).teach(teacher, student, batch())
    assert [weighted.weight for weighted in teaching.logit_targets] == [1.0, 0.8, 0.8, 0.8]
    assert len({float(weighted.target.probabilities_BK(4.0)[0, 0]) for weighted in teaching.logit_targets}) == 1


def test_a_plain_teacher_is_matched_by_its_own_temperature() -> None:
    logits_BK = signals(2, TEACHER_DIM).logits_BK
    for temperature in (0.05, 0.7, 1.0, 4.0, 300.0):
        wanted = mean_entropy(torch.softmax(logits_BK / temperature, dim=-1))
        assert float(solve_temperature(logits_BK, wanted)) == pytest.approx(temperature, rel=2e-3)
    assert float(solve_temperature(logits_BK, torch.tensor(-1.0))) == pytest.approx(1e-3, rel=1e-3)
    assert float(solve_temperature(logits_BK, torch.tensor(99.0))) == pytest.approx(1e4, rel=1e-3)


def test_a_learned_temperature_divides_views_and_teacher_alike() -> None:
    teacher, temperature = signals(2, TEACHER_DIM), torch.tensor(3.0, requires_grad=True)
    augmenter = matched("entropy", {"name": "dropout"})
    (weighted,) = augmenter.teach(teacher, signals(1, STUDENT_DIM), batch()).logit_targets
    by_tensor_BK = weighted.target.divided(temperature).log_probabilities_BK(1.0)
    torch.testing.assert_close(by_tensor_BK.exp(), weighted.target.probabilities_BK(3.0), rtol=1e-3, atol=1e-4)
    by_tensor_BK[0, 0].backward()
    assert temperature.grad is not None and torch.isfinite(temperature.grad)


def test_the_mean_temperature_is_a_measure_of_training_alone() -> None:
    augmenter, teacher = matched("entropy", {"name": "tekap", "shrink": 0.3}), signals(2, TEACHER_DIM)
    assert augmenter.measures() == {}
    target = augmenter.teach(teacher, signals(1, STUDENT_DIM), batch()).logit_targets[0].target
    for temperature in (1.0, 4.0):
        target.log_probabilities_BK(temperature)
    measures = augmenter.measures()
    assert 2.5 < measures["matched_temperature"] < 4.5
    assert augmenter.measures() == {}
    augmenter.eval().teach(teacher, signals(1, STUDENT_DIM), batch()).logit_targets[0].target.log_probabilities_BK(4.0)
    assert augmenter.measures() == {}


@pytest.mark.parametrize("match", ["weight", "shrink", "entropy", "target"])
@pytest.mark.parametrize("of", [RELEASED, TEKAP, {"name": "sakd_style"}], ids=str)
def test_bare_views_and_the_real_target_are_measured(match: str, of: dict[str, Any]) -> None:
    augmenter, teacher, student = matched(match, of).eval(), signals(2, TEACHER_DIM), signals(1, STUDENT_DIM)
    views = augmenter.views(teacher, batch().generator, student)
    assert views.num_views == views.detach().num_views == 0
    teaching = augmenter.teach(teacher, student, batch())
    trained_BK = sum(weighted.weight * weighted.target.probabilities_BK(1.0) for weighted in teaching.logit_targets)
    trained_BK = trained_BK / sum(weighted.weight for weighted in teaching.logit_targets)
    torch.testing.assert_close(
        augmenter.evaluation_target(teacher, views).probabilities_BK(1.0), trained_BK, rtol=1e-3, atol=1e-5
    )


def test_strong_images_and_single_rows() -> None:
    weighted = WeightedTarget(0.5, Target.of(Signals(torch.randn(1, 7), torch.randn(1, 3))))
    torch.testing.assert_close(mixture_BK([weighted, weighted], 1.0).sum(), torch.tensor(1.0))
    student, teacher = signals(1, STUDENT_DIM), signals(2, TEACHER_DIM)
    objective = whole(matched("entropy", TEKAP), "mlkd")
    assert torch.isfinite(objective(student, teacher, batch()).total)
    assert torch.isfinite(objective(student, replace(teacher, strong=signals(2, TEACHER_DIM)), batch()).total)


def test_settings_hold_every_number_and_round_trip() -> None:
    settings = MatchedSettings(of={"name": "angular", "variant": "released"}, match="entropy")
    assert settings.of["ensemble"] == "weighted_l2" and settings.of["num_views"] == 5
    assert MatchedSettings(**settings.model_dump(mode="json")) == settings
    assert settings.idle()["of.variant"] == "it only fills in other settings"


@pytest.mark.parametrize(
    ("of", "message"),
    [
        ({"name": "matched"}, "name of other views"),
        ({}, "name of other views"),
        ({"name": "anglar"}, "did you mean 'angular'"),
        ({"name": "angular", "margin": 3}, "of.margin"),
        ({"name": "tekap", "nmber": 3}, "of.nmber"),
    ],
)
def test_settings_that_cannot_work_are_refused(of: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        MatchedSettings(of=of)


def test_control_settings_of_angular() -> None:
    angular = lookup("views", "angular")
    base = AngularSettings(variant="released", num_views=3)
    labels = AngularSettings(**angular.control_settings("heads_labels_only", base))
    assert not labels.inter and not labels.intra and labels.gt_weight == 0.8 and labels.warmup_epochs == 30
    assert labels.ensemble == "weighted_l2" and labels.num_views == 3
    frozen = AngularSettings(**angular.control_settings("ensemble_without_losses", base))
    assert not frozen.inter and not frozen.intra and not frozen.gt_weight and frozen.train_heads == "frozen"
    assert angular.warmup_epochs_of(frozen) == 0
    assert angular.control_settings("heads_labels_only", AngularSettings(gt_weight=0)) is None
    assert angular.control_settings("heads_labels_only", AngularSettings(train_heads="frozen")) is None
    assert lookup("views", "tekap").control_settings("heads_labels_only", TeKAPSettings()) is None

"""The same checks over every registered view (in every variant) and every registered method.

A new view or method is tested by existing.
"""

from __future__ import annotations

import copy
import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from akdtune.columns import declaration
from akdtune.registry import ComponentSettings, Kind, lookup, may_draw, names, typed
from akdtune.settings.trial import pair_problem
from akdtune.signals import Signals, Target
from akdtune.training.objective import Objective, weighted_sum
from akdtune.views import VariantSettings
from tests import small_world
from tests.small_world import STUDENT_DIM, TEACHER_DIM, batch

VIEWS: list[tuple[str, dict[str, Any]]] = []
for _name in names("views"):
    _settings = lookup("views", _name).Settings
    _variants = _settings.presets if issubclass(_settings, VariantSettings) else {}
    VIEWS += [(_name, {"variant": variant}) for variant in _variants] or [(_name, {})]
METHODS = names("methods")

every_view = pytest.mark.parametrize(
    ("view", "settings"), VIEWS, ids=[f"{n}:{s.get('variant', '-')}" for n, s in VIEWS]
)
every_method = pytest.mark.parametrize("method", METHODS)


PAIRS = [(view, settings, method) for method in METHODS for view, settings in VIEWS if not pair_problem(view, method)]


def covering() -> list[tuple[str, dict[str, Any], str]]:
    """Every method with one view that draws, where it can consume one, and every view with one method that learns."""
    of_methods = [min((p for p in PAIRS if p[2] == method), key=lambda p: p[0] != "tekap") for method in METHODS]
    of_views = [min((p for p in PAIRS if p[:2] == view), key=lambda p: p[2] != "crd") for view in VIEWS]
    return of_methods + [pair for pair in of_views if pair not in of_methods]


def signals(seed: int, dim: int, requires_grad: bool = False) -> Signals:
    """Everything that any method or view may ask for."""
    return small_world.signals(seed, dim, requires_grad=requires_grad)


def objective(view: str, settings: dict[str, Any], *methods: str) -> Objective:
    """An objective in training mode, initialised alike every time."""
    views = small_world.views(view, **settings)
    built = {name: small_world.method(name, views.pooled_dims) for name in methods}
    return Objective(built, views, ce_weight=0.5).train()


def tensors(said: Signals) -> list[Tensor]:
    """Every leaf of a network's signals."""
    assert said.stages is not None
    assert said.preact_stages is not None
    assert said.classifier is not None
    of_others = [tensor for other in said.others for tensor in (other.logits_BK, other.pooled_BC)]
    again = tensors(said.strong) if said.strong is not None else []
    assert said.answers_BJK is not None
    own = [said.logits_BK, said.pooled_BC, said.classifier[0], said.answers_BJK, *said.preact_stages]
    return [*own, *of_others, *again]


def moved(tensor: Tensor) -> bool:
    """Whether a gradient that is not zero has arrived."""
    return tensor.grad is not None and bool(tensor.grad.abs().sum() > 0)


@every_method
def test_loss_is_finite_and_trains_what_it_declares(method: str) -> None:
    for view, settings in (pair[:2] for pair in PAIRS if pair[2] == method):
        assert_trains_what_it_declares(view, settings, method)


def assert_trains_what_it_declares(view: str, settings: dict[str, Any], method: str) -> None:
    whole = objective(view, settings, method)
    student, teacher = signals(1, STUDENT_DIM, True), signals(2, TEACHER_DIM, True)
    now = batch()
    if whole.overlaps_batches:  # the second batch begins with rows of the first
        whole(student, teacher, now)
        whole.after_step()
        student, now = signals(7, STUDENT_DIM, True), replace(now, repeated=4)
    loss = whole(student, teacher, now)
    assert torch.isfinite(loss.total)
    assert all(torch.isfinite(value) and value.ndim == 0 for value in (*loss.terms.values(), *loss.gates.values()))
    task, distillation = loss.split()
    if distillation is None:
        assert not whole.methods[method].weights(1)
        task.backward()
    else:
        torch.testing.assert_close(task + distillation, loss.total)
        distillation.backward(retain_graph=True)
        if sum(whole.methods[method].weights(1).values()) > 0:
            assert any(map(moved, tensors(student))), "the method does not reach the student"
        task.backward()
    assert all(tensor.grad is None for tensor in tensors(teacher)), "the teacher is frozen"
    trained = {id(parameter) for parameter in whole.trained_parameters()}
    for name, parameter in whole.named_parameters():
        assert (parameter.grad is not None) is (id(parameter) in trained), name
    whole.after_step()


@every_method
def test_a_pair_that_is_refused_says_why(method: str) -> None:
    consumes = lookup("methods", method).consumes
    for view in names("views"):
        problem = pair_problem(view, method)
        augmenter, component = lookup("views", view), lookup("methods", method)
        fits = consumes in augmenter.offers or consumes in ("stages", "self")
        fits &= consumes != "pooled" or component.any_width or not augmenter.several_widths
        assert (problem is None) is fits, view
        assert problem is None or (f"'{view}'" in problem and f"'{method}'" in problem)


@pytest.mark.parametrize(
    ("view", "settings", "method"),
    [pytest.param(*p, id=f"{p[0]}:{p[1].get('variant', '-')}-{p[2]}") for p in covering()],
)
def test_same_numbers_twice_and_from_a_checkpoint(view: str, settings: dict[str, Any], method: str) -> None:
    def steps(whole: Objective, count: int, noise: int) -> list[float]:
        losses = []
        optimizer = torch.optim.SGD([*whole.trained_parameters(), torch.nn.Parameter(torch.zeros(1))], lr=0.05)
        for index in range(count):
            loss = whole(signals(1, STUDENT_DIM), signals(2, TEACHER_DIM), batch(seed=noise + index))
            optimizer.zero_grad()
            if loss.total.requires_grad:
                loss.total.backward()
                optimizer.step()
            whole.after_step()
            losses.append(float(loss.total.detach()))
        return losses

    whole = objective(view, settings, method)
    first = steps(whole, 2, noise=10)
    assert first == steps(objective(view, settings, method), 2, noise=10)
    state = copy.deepcopy(whole.state_dict())
    restored = objective(view, settings, method)
    restored.load_state_dict(state)
    assert steps(whole, 2, noise=20) == steps(restored, 2, noise=20)


@every_method
def test_order_of_members_does_not_matter(method: str) -> None:
    members = [signals(seed, TEACHER_DIM) for seed in (2, 3, 4)]
    logits_BMK = torch.stack([member.logits_BK for member in members], dim=1)
    pooled_BMC = torch.stack([member.pooled_BC for member in members], dim=1)
    weights_M = torch.tensor([0.5, 0.3, 0.2])
    terms_of_orders = []
    for order in ([0, 1, 2], [2, 0, 1]):
        plain = Target(logits_BMK[:, order], pooled_BMC[:, order], weights_M[order])
        target = replace(plain, strong=plain).with_maps(members[0])
        terms_of_orders.append(small_world.method(method).terms(signals(1, STUDENT_DIM), target, batch()))
    for name, value in terms_of_orders[0].items():
        torch.testing.assert_close(value, terms_of_orders[1][name])


@every_method
def test_a_method_weighs_each_of_its_terms(method: str) -> None:
    built = small_world.method(method)
    student, teacher = signals(1, STUDENT_DIM), signals(2, TEACHER_DIM)
    assert teacher.strong is not None
    target = Target.of(student) if built.consumes == "self" else Target.of(teacher)
    terms = built.terms(student, replace(target, strong=Target.of(teacher.strong)), batch())
    for epoch in (1, 7, 1000):
        weights = built.weights(epoch)
        assert weights.keys() == terms.keys()
        assert all(weight >= 0 for weight in weights.values())
    assert sum(built.weights(1000).values()) > 0 or method == "student_only"
    assert all(type(value) is float for value in built.measures().values())
    assert all(declaration(name, built.columns) for name in built.measures())


@every_view
def test_views_in_evaluation_mode(view: str, settings: dict[str, Any]) -> None:
    augmenter = small_world.views(view, **settings).eval()
    teacher, student = signals(2, TEACHER_DIM), signals(1, STUDENT_DIM).detach()
    state = copy.deepcopy(augmenter.state_dict())
    views = augmenter.views(teacher, batch(seed=1).generator, student)
    again = augmenter.views(teacher, batch(seed=1).generator, student)
    elsewhere = augmenter.views(teacher, batch(seed=2).generator, student)
    assert views.logits_BVK.shape[::2] == teacher.logits_BK.shape
    assert views.pooled_BVC.shape[::2] == teacher.pooled_BC.shape
    assert torch.equal(views.logits_BVK, again.logits_BVK)
    assert torch.equal(views.logits_BVK, elsewhere.logits_BVK) is not augmenter.stochastic
    assert all(torch.equal(state[key], value) for key, value in augmenter.state_dict().items())
    target = augmenter.evaluation_target(teacher, views)
    assert torch.isfinite(target.log_probabilities_BK(1.0)).all()
    assert all(0 <= float(share) <= 1 for share in augmenter.gates(teacher, views).values())
    assert set(augmenter.gates(teacher, views)) <= {"feature", "logit"}
    assert all(type(value) is float for value in augmenter.measures().values())
    assert all(declaration(name, augmenter.columns) for name in augmenter.measures())


@pytest.mark.parametrize(("view", "settings", "method"), covering())
def test_components_draw_from_the_batch_alone_and_say_so(view: str, settings: dict[str, Any], method: str) -> None:
    """Torch's global generator is the student's: whoever else drew from it would change its dropout."""
    now = objective(view, settings, method)
    streams = tuple((name, torch.Generator().manual_seed(1)) for name in now.streams)
    before, global_before = torch.Generator().manual_seed(1).get_state(), torch.get_rng_state()
    now(signals(1, STUDENT_DIM), signals(2, TEACHER_DIM), replace(batch(), streams=streams))
    now.after_step()
    assert torch.equal(torch.get_rng_state(), global_before)
    drew = {name for name, generator in streams if not torch.equal(generator.get_state(), before)}
    expected = {f"method/{method}"} if may_draw("methods", method, typed("methods", method)) else set()
    if may_draw("views", view, typed("views", {"name": view, **settings})):
        expected |= {"views", "views/strong"}
    assert drew == expected


@every_view
def test_warmup_trains_the_views_alone(view: str, settings: dict[str, Any]) -> None:
    augmenter = small_world.views(view, **settings).train()
    if not augmenter.warmup_epochs:
        assert not augmenter.warmup_penalties(signals(2, TEACHER_DIM), batch())
        return
    teacher = signals(2, TEACHER_DIM, requires_grad=True)
    penalties = augmenter.warmup_penalties(teacher, batch())
    assert penalties.keys() <= augmenter.penalty_weights().keys()
    total = weighted_sum(penalties, augmenter.penalty_weights())
    assert total is not None
    total.backward()
    assert all(parameter.grad is not None for parameter in augmenter.parameters())
    assert all(tensor.grad is None for tensor in tensors(teacher))
    rates = [augmenter.warmup_learning_rate(epoch) for epoch in range(1, augmenter.warmup_epochs + 1)]
    assert all(rate > 0 for rate in rates)
    assert rates == sorted(rates, reverse=True)


@every_view
def test_the_training_target_is_the_one_that_is_evaluated(view: str, settings: dict[str, Any]) -> None:
    augmenter = small_world.views(view, **settings).eval()
    teacher = signals(2, TEACHER_DIM)
    teaching = augmenter.teach(teacher, signals(1, STUDENT_DIM), batch())
    weights = torch.tensor([weighted.weight for weighted in teaching.logit_targets])
    trained_BK = torch.stack([w.weight * w.target.probabilities_BK(1.0) for w in teaching.logit_targets]).sum(dim=0)
    evaluated = augmenter.evaluation_target(
        teacher, augmenter.views(teacher, batch().generator, signals(1, STUDENT_DIM))
    )
    torch.testing.assert_close(trained_BK / weights.sum(), evaluated.probabilities_BK(1.0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("kind", "name"), [(k, n) for k in ("methods", "views") for n in names(k)])
def test_a_component_is_one_described_file_under_its_name(kind: Kind, name: str) -> None:
    component = lookup(kind, name)
    assert Path(inspect.getfile(component)).stem == name
    assert inspect.getdoc(component)
    assert component.source, "the paper that it comes from"
    assert ("reconstruction" in component.source) is name.endswith("_style")
    assert issubclass(component.Settings, ComponentSettings)
    for field_name, field in component.Settings.model_fields.items():
        assert field.description or field_name in ("temperature",), f"{name}.{field_name} has no description"
        assert not field.is_required(), "every setting has a default"

"""Optimisers and schedules beside plain SGD."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from akdtune.settings.training import TrainingSettings
from akdtune.training.optimizers import Dot, build_optimizer, sgd
from tests.checkout import ROOT


def settings(**values: Any) -> TrainingSettings:
    return TrainingSettings(**{"epochs": 4, "lr": 0.1, **values})


def parameter(value: float = 1.0) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.tensor([value, -2.0], dtype=torch.float64))


def test_dot_is_the_published_update() -> None:
    """Retyped: two velocities, weight decay with the task's gradient, one step with their sum (arXiv 2307.08436)."""
    recipe = settings(optimizer="dot", dot_delta=0.075, momentum=0.9, weight_decay=0.01)
    weights, expected = parameter(), parameter().detach().clone()
    optimizer = build_optimizer(recipe, [weights])
    assert isinstance(optimizer, Dot)
    task_velocity = distillation_velocity = torch.zeros(2, dtype=torch.float64)
    for step in range(3):
        optimizer.backward_and_step((weights**2).sum() * (step + 1), (weights**3).sum())
        task = 2 * expected * (step + 1) + 0.01 * expected
        task_velocity = (0.9 - 0.075) * task_velocity + task
        distillation_velocity = (0.9 + 0.075) * distillation_velocity + 3 * expected**2
        expected = expected - 0.1 * (task_velocity + distillation_velocity)
    torch.testing.assert_close(weights.detach(), expected, rtol=1e-12, atol=0)


def test_dot_without_difference_is_sgd() -> None:
    by_dot, by_sgd = parameter(), parameter()
    dot = build_optimizer(settings(optimizer="dot", dot_delta=0.0), [by_dot])
    sgd = build_optimizer(settings(), [by_sgd])
    assert isinstance(dot, Dot)
    for _ in range(5):
        dot.backward_and_step((by_dot**2).sum(), by_dot.sum())
        sgd.zero_grad()
        ((by_sgd**2).sum() + by_sgd.sum()).backward()
        sgd.step()
    torch.testing.assert_close(by_dot.detach(), by_sgd.detach(), rtol=1e-12, atol=0)


def test_dot_goes_on_from_its_state() -> None:
    weights = [parameter(), parameter(), parameter()]
    optimizers = [build_optimizer(settings(optimizer="dot"), [weight]) for weight in weights]

    def steps(index: int, count: int) -> None:
        for _ in range(count):
            optimizers[index].backward_and_step((weights[index] ** 2).sum(), weights[index].sum())  # type: ignore[attr-defined]

    steps(0, 4)
    steps(1, 2)
    with torch.no_grad():
        weights[2].copy_(weights[1])
    optimizers[2].load_state_dict(optimizers[1].state_dict())
    steps(2, 2)
    assert torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("side", ["task", "distillation"])
def test_a_parameter_of_one_side_only_has_the_plain_momentum(side: str) -> None:
    """And decays, but for the first step of one that only distillation reaches: as the authors' code."""
    shared, alone, untouched, plain = parameter(), parameter(), parameter(), parameter()
    optimizer = build_optimizer(settings(optimizer="dot", weight_decay=0.01), [shared, alone, untouched])
    sgd = build_optimizer(settings(weight_decay=0.01), [plain])
    assert isinstance(optimizer, Dot)
    for step in range(4):
        sgd.param_groups[0]["weight_decay"] = 0.0 if step == 0 and side == "distillation" else 0.01
        losses = {"task": (shared**2).sum(), "distillation": shared.sum()}
        losses[side] = losses[side] + (alone**2).sum()
        optimizer.backward_and_step(losses["task"], losses["distillation"])
        sgd.zero_grad()
        (plain**2).sum().backward()
        sgd.step()
    torch.testing.assert_close(alone.detach(), plain.detach(), rtol=1e-12, atol=0)
    assert torch.equal(untouched, parameter())


def test_a_parameter_that_only_distillation_reaches_does_not_decay_in_its_first_step() -> None:
    """By hand, with gradient 1, rate .1, momentum .9 and decay .5, from 1: u = 1, then u = .9 + 1 + .5 * .9 = 2.35."""
    task, projector = torch.nn.Parameter(torch.ones(1)), torch.nn.Parameter(torch.ones(1))
    recipe = settings(optimizer="dot", dot_delta=0.05, momentum=0.9, weight_decay=0.5)
    optimizer = build_optimizer(recipe, [task, projector])
    assert isinstance(optimizer, Dot)
    optimizer.backward_and_step(task.sum(), projector.sum())
    assert projector.item() == pytest.approx(0.9)
    optimizer.backward_and_step(task.sum(), projector.sum())
    assert projector.item() == pytest.approx(0.9 - 0.1 * 2.35)


def test_a_parameter_that_distillation_reaches_later_does_not_decay_in_that_step_either() -> None:
    """From 1, gradient 1: the task's step leads to 1 - .1 (1 + .5) = .85; then distillation alone to .85 - .1 = .75."""
    weights, other = torch.nn.Parameter(torch.ones(1)), torch.nn.Parameter(torch.ones(1))
    optimizer = build_optimizer(settings(optimizer="dot", momentum=0.9, weight_decay=0.5), [weights, other])
    assert isinstance(optimizer, Dot)
    optimizer.backward_and_step(weights.sum(), None)
    assert weights.item() == pytest.approx(0.85)
    optimizer.backward_and_step(other.sum(), weights.sum())
    assert weights.item() == pytest.approx(0.75)


def test_dot_without_distillation_is_sgd() -> None:
    by_dot, by_sgd = parameter(), parameter()
    dot, sgd = build_optimizer(settings(optimizer="dot"), [by_dot]), build_optimizer(settings(), [by_sgd])
    assert isinstance(dot, Dot)
    for _ in range(3):
        dot.backward_and_step((by_dot**2).sum(), None)
        sgd.zero_grad()
        (by_sgd**2).sum().backward()
        sgd.step()
    torch.testing.assert_close(by_dot.detach(), by_sgd.detach(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("momentum", [0.05, 0.95])
def test_a_delta_beyond_the_momentum_is_refused(momentum: float) -> None:
    with pytest.raises(ValidationError, match="dot_delta must be at most momentum and 1 - momentum"):
        settings(optimizer="dot", dot_delta=0.075, momentum=momentum)


def test_cosine_falls_from_the_rate_to_zero() -> None:
    recipe = settings(schedule="cosine")
    rates = [recipe.learning_rate(epoch) for epoch in range(1, 5)]
    assert rates == [pytest.approx(0.1 * (1 + math.cos(math.pi * done / 4)) / 2) for done in range(4)]
    assert settings(milestones=[2]).learning_rate(3) == pytest.approx(0.01)


def test_adamw_is_torchs() -> None:
    optimizer = build_optimizer(settings(optimizer="adamw", lr=1e-3, weight_decay=0.5), [parameter()])
    assert isinstance(optimizer, torch.optim.AdamW)
    assert optimizer.defaults["weight_decay"] == 0.5


def test_sgd_is_torchs_to_the_last_bit() -> None:
    """Through steps in which a parameter has no gradient, and from either's state to the other's."""
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=generator) for shape in ((7, 3), (5,), (2, 1, 3, 3))]
    ours, theirs = ([torch.nn.Parameter(value.clone()) for value in start] for _ in range(2))
    recipe = settings(momentum=0.9, weight_decay=5e-4)
    of_torch = {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "fused": True}
    optimizers = [sgd(ours, recipe), torch.optim.SGD(theirs, **of_torch)]
    for step in range(6):
        gradients = [torch.randn(value.shape, generator=generator) for value in start]
        for optimizer, parameters in zip(optimizers, (ours, theirs), strict=True):
            optimizer.zero_grad()
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = None if step == 3 and len(gradient) == 5 else gradient.clone()
            optimizer.step()
        assert all(map(torch.equal, ours, theirs))
        if step == 4:
            states = [optimizer.state_dict() for optimizer in optimizers]
            optimizers = [sgd(ours, recipe), torch.optim.SGD(theirs, **of_torch)]
            for optimizer, state in zip(optimizers, reversed(states), strict=True):
                optimizer.load_state_dict(state)


def test_sgd_takes_a_parameter_that_is_reached_late() -> None:
    early, late = parameter(), parameter()
    optimizer = sgd([early, late], settings(momentum=0.9, weight_decay=0.0))
    for step in range(2):
        optimizer.zero_grad()
        loss = (early**2).sum() + (late.sum() if step else 0.0)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    torch.testing.assert_close(late.detach(), torch.tensor([0.9, -2.1], dtype=torch.float64))


def test_an_optimizer_loads_no_compiler() -> None:
    """torch's own does, for two seconds, to tell it that it may not compile its methods."""
    code = (
        "import sys, torch\n"
        "from akdtune.settings.training import TrainingSettings\n"
        "from akdtune.training.optimizers import build_optimizer\n"
        "for name in ('sgd', 'dot'):\n"
        "    weight = torch.nn.Parameter(torch.ones(2))\n"
        "    optimizer = build_optimizer(TrainingSettings(optimizer=name), [weight])\n"
        "    optimizer.zero_grad()\n"
        "    if name == 'sgd':\n"
        "        weight.grad = torch.ones(2)\n"
        "        optimizer.step()\n"
        "    optimizer.load_state_dict(optimizer.state_dict())\n"
        "print('torch._dynamo' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert shown.stdout.strip() == "False"

"""Optimisers: SGD as published, DOT with a momentum of its own for distillation, AdamW."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from akdtune.settings.teacher import TeacherSettings
from akdtune.settings.training import Recipe, TrainingSettings


class _WithoutCompiler(torch.optim.Optimizer):
    """Keeps torch's compiler out: torch imports it, two seconds of CPU, to tell it that it may not compile these."""

    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    state_dict = inspect.unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.Optimizer.load_state_dict)

    @override
    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forgets all gradients; they are None afterwards, whatever is asked."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None


class SGD(_WithoutCompiler, torch.optim.SGD):
    """torch's fused SGD, the same to the last bit, without the hooks and records that cost a small step more than it.

    Its state is torch's, so that either goes on from the other's.
    """

    @override
    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of everything that has a gradient, all parameters of a kind in one operation."""
        for group in self.param_groups:
            kinds: dict[tuple[torch.device, torch.dtype], tuple[list[Tensor], list[Tensor], list[Tensor]]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    kind = kinds.setdefault((parameter.device, parameter.dtype), ([], [], []))
                    kind[0].append(parameter)
                    kind[1].append(parameter.grad)
                    if group["momentum"]:
                        kind[2].append(self._velocity(parameter))
            for parameters, gradients, velocities in kinds.values():
                torch._fused_sgd_(
                    parameters,
                    gradients,
                    velocities,
                    weight_decay=group["weight_decay"],
                    momentum=group["momentum"],
                    lr=group["lr"],
                    dampening=0.0,
                    nesterov=False,
                    maximize=False,
                    is_first_step=False,
                )

    def _velocity(self, parameter: nn.Parameter) -> Tensor:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)  # the first velocity is then the gradient itself
        return state["momentum_buffer"]  # type: ignore[no-any-return]


SGD.step.hooked = True  # type: ignore[attr-defined]  # else torch wraps it in hooks and a record for its profiler


def sgd(parameters: Iterable[nn.Parameter], recipe: Recipe) -> SGD:
    """SGD as published: no Nesterov, weight decay on everything; all parameters in one fused step."""
    return SGD(list(parameters), lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay, fused=True)


class Dot(_WithoutCompiler):
    """Distillation-oriented trainer: SGD with one momentum buffer for the task and one for distillation.

    With task gradient g and distillation gradient h, momentum m and delta d:
        v <- (m - d) v + g + weight_decay * w;  u <- (m + d) u + h;  w <- w - lr (v + u)
    A parameter that only one of the two losses reaches has the plain momentum m, as published, and one that neither
    reaches stays as it is. One that only distillation reaches decays by u, as published, but not in the step that
    reaches it first, whose u is h alone.

    References:
        Zhao et al., "DOT: A Distillation-Oriented Trainer", ICCV 2023, arXiv 2307.08436; d = 0.075 on CIFAR and
        Tiny-ImageNet, 0.09 on ImageNet.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], recipe: Recipe, delta: float) -> None:
        defaults = {"lr": recipe.lr, "momentum": recipe.momentum, "delta": delta, "weight_decay": recipe.weight_decay}
        super().__init__(list(parameters), defaults)

    def backward_and_step(self, task: Tensor, distillation: Tensor | None) -> None:
        """Two backward passes, one update."""
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        distilled: Sequence[Tensor | None] = [None] * len(parameters)
        if distillation is not None and distillation.requires_grad:
            distilled = torch.autograd.grad(distillation, parameters, retain_graph=True, allow_unused=True)
        tasks = torch.autograd.grad(task, parameters, allow_unused=True)
        gradients = iter(zip(tasks, distilled, strict=True))
        for group in self.param_groups:
            for parameter in group["params"]:
                self._update(parameter, group, *next(gradients))

    @torch.no_grad()
    def _update(
        self, parameter: nn.Parameter, group: Mapping[str, Any], task: Tensor | None, distilled: Tensor | None
    ) -> None:
        given = {"task": task, "distillation": distilled}
        gradients = {side: gradient for side, gradient in given.items() if gradient is not None}
        if not gradients:
            return
        state = self.state[parameter]
        decays = "task" if task is not None else "distillation" if "distillation" in state else None
        delta = group["delta"] if len(gradients) == 2 else 0.0
        step = torch.zeros_like(parameter)
        for name, gradient in gradients.items():
            if name not in state:
                state[name] = torch.zeros_like(parameter)
            velocity = state[name].mul_(group["momentum"] + (delta if name == "distillation" else -delta))
            velocity.add_(gradient)
            if name == decays:
                velocity.add_(parameter, alpha=group["weight_decay"])
            step.add_(velocity)
        parameter.sub_(step, alpha=group["lr"])


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Sets the rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def build_optimizer(
    settings: TrainingSettings | TeacherSettings, parameters: Iterable[nn.Parameter]
) -> torch.optim.Optimizer:
    """The optimiser of these parameters."""
    if isinstance(settings, TrainingSettings) and settings.optimizer == "dot":
        return Dot(parameters, settings, settings.dot_delta)
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(list(parameters), lr=settings.lr, weight_decay=settings.weight_decay)
    return sgd(parameters, settings)

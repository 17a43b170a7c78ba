"""Optimisers: SGD as published, DOT with a momentum of its own for distillation, AdamW."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from akdtune.settings.training import Recipe, TrainingSettings


def sgd(parameters: Iterable[nn.Parameter], recipe: Recipe) -> torch.optim.SGD:
    """SGD as published: no Nesterov, weight decay on everything; all parameters in one fused step."""
    return torch.optim.SGD(
        list(parameters), lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay, fused=True
    )


class Dot(torch.optim.Optimizer):
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


def build_optimizer(settings: TrainingSettings, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimiser of these parameters."""
    if settings.optimizer == "dot":
        return Dot(parameters, settings, settings.dot_delta)
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(list(parameters), lr=settings.lr, weight_decay=settings.weight_decay)
    return sgd(parameters, settings)

"""The standard training recipe: SGD with momentum and step decay. Used for teachers and for students.

References:
    RepDistiller (Tian et al., ICLR 2020, arXiv 1910.10699) and mdistiller: batch 64, SGD 0.9, weight decay 5e-4,
    learning rate 0.05 divided by ten after epochs 150, 180 and 210 of 240.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from akdtune.registry import ComponentSettings


class Recipe(ComponentSettings):
    """Optimisation settings of one network."""

    epochs: PositiveInt = Field(240, description="student epochs (warm-up epochs of view heads come on top)")
    batch_size: int = Field(64, ge=2, description="images per step")
    lr: PositiveFloat = Field(
        0.05,
        description="learning rate before the first milestone (published for MobileNetV2, ShuffleV1, ShuffleV2: 0.01)",
    )
    milestones: list[PositiveInt] | None = Field(
        None, description="the rate decays after these epochs; null: 62.5 %, 75 % and 87.5 % of `epochs`, as published"
    )
    lr_decay: float = Field(0.1, gt=0, le=1, description="factor at each milestone")
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: NonNegativeFloat = Field(5e-4, description="applied to every parameter, BatchNorm and bias included")

    @model_validator(mode="after")
    def _milestones_rise(self) -> Recipe:
        steps = self.milestones or []
        if any(later <= earlier for earlier, later in zip(steps, steps[1:], strict=False)):
            raise ValueError(f"milestones must rise strictly, got {steps}")
        return self

    def resolved_milestones(self) -> list[int]:
        """The milestones in epochs, defaults filled in."""
        if self.milestones is not None:
            return list(self.milestones)
        return sorted({max(1, round(self.epochs * share)) for share in (0.625, 0.75, 0.875)})

    def learning_rate(self, epoch: int) -> float:
        """Learning rate of `epoch` (counted from 1); a milestone takes effect in the epoch after it."""
        passed = sum(epoch > milestone for milestone in self.resolved_milestones())
        return float(self.lr * self.lr_decay**passed)


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
    reaches stays as it is.

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
        gradients = {name: one for name, one in (("task", task), ("distillation", distilled)) if one is not None}
        if not gradients:
            return
        state = self.state[parameter]
        if not state:
            state["task"], state["distillation"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        delta = group["delta"] if len(gradients) == 2 else 0.0
        step = torch.zeros_like(parameter)
        for place, (name, gradient) in enumerate(gradients.items()):
            velocity = state[name].mul_(group["momentum"] + (delta if name == "distillation" else -delta))
            velocity.add_(gradient)
            if place == 0:
                velocity.add_(parameter, alpha=group["weight_decay"])
            step.add_(velocity)
        parameter.sub_(step, alpha=group["lr"])


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Sets the rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def derived_seed(*parts: int | str) -> int:
    """A 63-bit seed that depends on all parts and on nothing else (not on what was drawn before)."""
    digest = hashlib.sha256("/".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def resolve_device(setting: str) -> torch.device:
    """`auto` is the first visible GPU, else the CPU."""
    return torch.device("cuda" if setting == "cuda" or (setting == "auto" and torch.cuda.is_available()) else "cpu")


@contextlib.contextmanager
def float32_as_set(device: torch.device, tf32: bool) -> Iterator[None]:
    """Within it, float32 products and convolutions on CUDA are in full, or in TF32; afterwards they are as before.

    What torch does unasked is neither: products in full, convolutions in TF32. On other devices nothing changes.

    Args:
        device: where the numbers are computed.
        tf32: keep 10 bits of each factor's fraction instead of 23.
    """
    if device.type != "cuda":
        yield
        return
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    # torch's older switches: its newer ones make the older ones unreadable where the two disagree
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def has_bfloat16() -> bool:
    """Whether this processor computes in bfloat16 itself; torch else imitates it at a tenth of float32's speed."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())

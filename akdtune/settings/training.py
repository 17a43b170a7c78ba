"""How networks train: the recipe of teachers and students, the student, its seeds.

References:
    RepDistiller (Tian et al., ICLR 2020, arXiv 1910.10699) and mdistiller: batch 64, SGD 0.9, weight decay 5e-4,
    learning rate 0.05 divided by ten after epochs 150, 180 and 210 of 240.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)
from typing_extensions import override

from akdtune.registry import ComponentSettings
from akdtune.settings.checkpoint import Checkpoint
from akdtune.settings.data import AugmentationSettings, with_augmentation

MOST_EPOCHS = 100_000
"""Of one network; each has a row in the results."""


ONE_PER_STUDY = frozenset({"epochs", "precision", "tf32", "compile"})
"""Settings of `training` that all trials of a search share, so that no domain may stand there."""

HOW_IT_RUNS = frozenset({"device", "compile", "cuda_graphs"})
"""Settings of `training` that are no part of what a trial is: its numbers differ by rounding, its id does not."""


class Recipe(ComponentSettings):
    """Optimisation settings of one network."""

    epochs: PositiveInt = Field(
        240, le=MOST_EPOCHS, description="student epochs (warm-up epochs of view heads come on top)"
    )
    batch_size: int = Field(64, ge=2, le=1_000_000, description="images per step")
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

    def cosine_rate(self, epoch: int) -> float:
        """Learning rate of `epoch` where it falls to zero along half a cosine."""
        return self.lr * (1 + math.cos(math.pi * (epoch - 1) / self.epochs)) / 2


class TrainingSettings(Recipe):
    """How the student trains."""

    optimizer: Literal["sgd", "dot", "adamw"] = Field(
        "sgd", description="dot: SGD with momentums of their own for cross-entropy and distillation (2307.08436)"
    )
    dot_delta: NonNegativeFloat = Field(
        0.075, description="dot: momentum - delta for cross-entropy, momentum + delta for distillation (ImageNet: 0.09)"
    )
    schedule: Literal["step", "cosine"] = Field("step", description="step: at the milestones; cosine: to zero")
    ce_weight: NonNegativeFloat | None = Field(
        None, description="weight of the student's cross-entropy; null: the base method's published one"
    )
    augmentation: AugmentationSettings | None = Field(
        None,
        description="what the student sees, and in distillation its teachers with it: weak, strong, or parts of one,"
        " given whole; null: as data.augmentation",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: the GPU where Ray or torch offers one")
    precision: Literal["fp32", "bf16"] = Field(
        "fp32",
        description="bf16: the student's forward and backward, and its frozen teachers' forward (unless"
        " teacher_cache.compute says otherwise), in bfloat16; weights, losses, views and every evaluation stay in"
        " float32. Faster, and not the same result; one for all trials of a search, or a factor of an ablation. To"
        " repeat a finalist: `akdtune best RUN --export best.yaml`, `akdtune run best.yaml training.precision=fp32`",
    )
    tf32: bool = Field(
        False,
        description="on CUDA, float32 products and convolutions of the whole trial in TF32 (factors of 11 significant"
        " bits); false: in full, also the convolutions, which torch would run in TF32; one for all trials of a study",
    )
    cuda_graphs: bool = Field(
        False,
        description="on CUDA, record a whole training step once and launch it as one: faster for small networks, the"
        " same operations; where a component cannot be recorded a line in the log says so",
    )
    compile: bool = Field(
        False,
        description="run the training student through torch.compile: a minute or more at the start of every trial;"
        " changes rounding only, so that it does not count for what a trial is; one for all trials of a study",
    )

    @model_validator(mode="after")
    def _dot_is_stable(self) -> TrainingSettings:
        if self.optimizer == "dot" and not self.dot_delta <= min(self.momentum, 1 - self.momentum):
            raise ValueError(
                f"dot_delta must be at most momentum and 1 - momentum (momentum is {self.momentum}), "
                f"got {self.dot_delta}"
            )
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without an augmentation where none is set, which earlier versions had not: no id and no lock changes."""
        return with_augmentation(handler(self), self.augmentation)

    @override
    def idle(self) -> dict[str, str]:
        """What the optimiser and the schedule do not read (AdamW ignores the momentum, a warm-up of views reads it)."""
        idle = super().idle()
        if self.optimizer != "dot":
            idle["dot_delta"] = f"optimizer is {self.optimizer}"
        if self.schedule == "cosine":
            idle |= dict.fromkeys(("milestones", "lr_decay"), "schedule is cosine")
        elif self.lr_decay == 1:
            idle["milestones"] = "lr_decay is 1"
        elif all(milestone >= self.epochs for milestone in self.resolved_milestones()):
            idle["lr_decay"] = "no milestone comes before the last epoch"
        return idle

    @override
    def learning_rate(self, epoch: int) -> float:
        if self.schedule == "cosine":
            return self.cosine_rate(epoch)
        return super().learning_rate(epoch)


class StudentSettings(ComponentSettings):
    """The network that learns."""

    network: str | dict[str, Any] = Field(description="a registered network, or {name: ..., its settings}")
    checkpoint: Checkpoint | None = Field(
        None,
        description="weights to begin with: a trial's checkpoint.pt or a published file, or {path, key, strip}; a"
        " classifier for other classes is left as drawn",
    )
    train: Literal["all", "classifier"] = Field(
        "all", description="classifier: everything else keeps its weights and statistics (linear transfer)"
    )

    @model_validator(mode="after")
    def _a_frozen_body_has_weights(self) -> StudentSettings:
        if self.train == "classifier" and self.checkpoint is None:
            raise ValueError("train is classifier, which needs a checkpoint: the frozen body would be a random one")
        return self


class Seeds(ComponentSettings):
    """Separate sources of randomness, shared across arms so that differences are paired by seed."""

    init: int = Field(0, description="weights of student, heads and projectors")
    order: int = Field(0, description="batches and augmentation")
    noise: int = Field(0, description="dropout, view noise, drawn negatives")
    rounding: int = Field(
        0,
        ge=0,
        description="above 0, the student sees the rows of each batch in another order: the same experiment in exact"
        " arithmetic, rounded differently from the first step on",
    )

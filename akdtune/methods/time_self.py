"""Strong2Weak, Weak2Strong (Ding et al., NeurIPS 2025, arXiv 2510.07924): time steps of a network teach each other.

Shapes: B batch, J answers (time steps), K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, StrictBool
from torch import Tensor
from typing_extensions import override

from akdtune.methods import Method, MethodContext
from akdtune.methods._logits import kl_of_logs, log_student_BK, widened
from akdtune.registry import ComponentSettings, IdleAtZero, register
from akdtune.signals import Batch, Signals, Target, Terms

Direction = Literal["s2w", "w2s", "ensemble", "cascade", "random"]


def by_confidence(answers_BJK: Tensor) -> Tensor:
    """The answers by confidence, the largest first, [J]: the mean over the batch of the largest probability."""
    confidence_J = torch.softmax(widened(answers_BJK), dim=-1).amax(dim=-1).mean(dim=0)
    return confidence_J.argsort(descending=True, stable=True)


def pairs(answers_BJK: Tensor, direction: Direction, generator: torch.Generator) -> list[tuple[Tensor, Tensor]]:
    """Who teaches whom: (teacher, student), each [B, K].

    Args:
        answers_BJK: of all time steps.
        direction: as in the settings.
        generator: of random pairs.
    """
    answers = answers_BJK.shape[1]
    if direction == "random":
        device = answers_BJK.device
        chosen_J = torch.randperm(answers, generator=generator, device=generator.device).to(device)
        teacher_BK, student_BK = answers_BJK.index_select(1, chosen_J[:2]).unbind(1)
        return [(teacher_BK, student_BK)]
    sorted_ = answers_BJK.index_select(1, by_confidence(answers_BJK)).unbind(1)
    strongest_BK, weakest_BK = sorted_[0], sorted_[-1]
    if direction == "cascade":
        return list(zip(sorted_[:-1], sorted_[1:], strict=True))
    if direction == "ensemble":
        return [(answers_BJK.mean(dim=1), weakest_BK)]
    return [(strongest_BK, weakest_BK) if direction == "s2w" else (weakest_BK, strongest_BK)]


@register("time_self")
class TimeSelf(Method):
    """The most confident time step of a batch teaches the least confident one, or the other way round.

    Needs no teacher, but a network that answers at several time steps with a gradient, as `lif` does with
    `gradient: bptt`. Of a network with exits its answers are these, and exits teach each other.

    Terms:
        kl: KL(p of the teaching step || p of the taught step), p = softmax(logits / temperature), in nats; sum over
            classes, mean over the batch; not times temperature squared. Confidence of a step: mean over the batch of
            its largest probability. `s2w`: the most confident step teaches the least confident one. `w2s`: the other
            way round. `ensemble`: the mean of the logits of all steps teaches the least confident one. `cascade`: mean
            over the neighbours in the order of confidence, the more confident one teaching. `random`: a control: two
            different steps, drawn anew for every batch.

    Differs: the paper has no factor temperature squared, and neither has this; its pseudocode lets the gradient through
        the teaching step, too, as here unless `detach` is set. What it calls ensemble and cascade it gives in words;
        the formulas here are our reading. `random` is ours.

    Example:
        >>> time_self = TimeSelf.alone(num_classes=10, direction="w2s")
        >>> student = Signals.random(8)
        >>> loss = time_self.terms(student, Target.of(student.detach()), Batch.of(torch.arange(8)))["kl"]
    """

    source = "Ding, Zuo, Jing, Yang, He, Xie, NeurIPS 2025, arXiv 2510.07924"
    consumes = "self"
    needs = frozenset({"answers"})
    reads_labels = False

    class Settings(ComponentSettings):
        """Settings of `time_self`; the defaults are the paper's."""

        idle_at_zero: ClassVar[IdleAtZero] = {("weight",): ("direction", "detach", "temperature")}

        direction: Direction = Field(
            "s2w",
            description="which time step teaches which: strong to weak, weak to strong, ensemble to weak, cascade, or"
            " random (a control)",
        )
        detach: StrictBool = Field(False, description="let no gradient through the step that teaches")
        temperature: PositiveFloat = Field(2.0, description="softmax temperature of both steps")
        weight: NonNegativeFloat = Field(1.0, description="weight of the term; published: 1, 0.01 for QKFormer")

    def __init__(self, settings: TimeSelf.Settings, context: MethodContext) -> None:
        super().__init__(settings, context)
        self.settings = settings

    @override
    def terms(self, student: Signals, target: Target, batch: Batch) -> Terms:
        assert student.answers_BJK is not None, "a network without answers is refused"
        temperature, detach = self.settings.temperature, self.settings.detach
        found = pairs(student.answers_BJK, self.settings.direction, batch.generator)
        divergences = [
            kl_of_logs(
                log_student_BK(teacher_BK.detach() if detach else teacher_BK, temperature),
                log_student_BK(student_BK, temperature),
            )
            for teacher_BK, student_BK in found
        ]
        return {"kl": torch.stack(divergences).mean()}

    @override
    def weights(self, epoch: int) -> Mapping[str, float]:
        return {"kl": self.settings.weight}

    @override
    @classmethod
    def draws(cls, settings: ComponentSettings) -> bool:
        """Random pairs do."""
        assert isinstance(settings, cls.Settings)
        return settings.direction == "random" and settings.weight > 0

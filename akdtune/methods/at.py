"""Attention transfer (Zagoruyko & Komodakis, ICLR 2017, arXiv 1612.03928).

Shapes: B batch, C channels, H, W.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor
from typing_extensions import override

from akdtune.methods import Method, MethodContext
from akdtune.methods._maps import full_precision, same_size, shape_pairs, stage_pairs, unit
from akdtune.registry import ComponentSettings, IdleAtZero, register
from akdtune.signals import Batch, Signals, Target, Terms


def attention(map_BCHW: Tensor, power: int) -> Tensor:
    """Where a map is active: mean over channels of |map|^power, scaled to length 1 per image, [B, H * W]."""
    sizes_BCHW = map_BCHW if power % 2 == 0 else map_BCHW.abs()
    return unit(sizes_BCHW.pow(power).mean(dim=1).flatten(1), dim=1)


@full_precision
def attention_loss(student_BCHW: Tensor, teacher_BCHW: Tensor, power: int) -> Tensor:
    """Mean squared difference of two attention maps (eq. 2 with squared norm), a scalar; widths may differ."""
    student, teacher = same_size(student_BCHW, teacher_BCHW)
    return (attention(student, power) - attention(teacher, power)).square().mean()


@register("at")
class AT(Method):
    """Matches where the maps of each stage are active.

    Terms:
        at: mean squared difference of the attention maps |F|^p averaged over channels and scaled to length 1 per
            image, summed over the stages after the stem. The larger of two maps is averaged to the smaller size.

    Differs: takes the absolute value before the power, as the paper does and the published code does not (the same
        for even powers); stages are paired from the last one backwards where the networks have different numbers of
        them (the published code drops the last ones of the longer list); an all-zero map has attention zero and no
        gradient.

    Example:
        >>> at = AT.alone(num_classes=10, power=2)
        >>> student, teacher = Signals.random(8), Signals.random(8)
        >>> loss = at.terms(student, Target.of(teacher), Batch.of(torch.arange(8)))["at"]
    """

    source = "Zagoruyko and Komodakis, ICLR 2017, arXiv 1612.03928"
    consumes = "stages"
    needs = frozenset({"stages"})
    reads_labels = False

    class Settings(ComponentSettings):
        """Settings of `at`; the defaults are those of RepDistiller and mdistiller."""

        idle_at_zero: ClassVar[IdleAtZero] = {("weight",): ("power",)}

        power: PositiveInt = Field(2, description="p: activations are raised to it before the mean over channels")
        weight: NonNegativeFloat = Field(1000.0, description="weight of the term")

    def __init__(self, settings: AT.Settings, context: MethodContext) -> None:
        super().__init__(settings, context)
        self.settings = settings
        shape_pairs("at", context)

    @override
    def terms(self, student: Signals, target: Target, batch: Batch) -> Terms:
        pairs = stage_pairs(student.stages, target.stages)
        losses = [attention_loss(of_student, of_teacher, self.settings.power) for of_student, of_teacher in pairs]
        return {"at": sum(losses[1:], losses[0])}

    @override
    def weights(self, epoch: int) -> Mapping[str, float]:
        return {"at": self.settings.weight}

"""Similarity-preserving distillation (Tung & Mori, ICCV 2019, arXiv 1907.09682).

Shapes: B batch, C channels, H, W.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field, NonNegativeFloat
from torch import Tensor
from typing_extensions import override

from akdtune.methods import Method, MethodContext
from akdtune.methods._maps import full_precision, shape_pairs, stage_pairs, unit
from akdtune.registry import ComponentSettings, register
from akdtune.signals import Batch, Signals, Target, Terms


@full_precision
def similarity_loss(student_BCHW: Tensor, teacher_BCHW: Tensor) -> Tensor:
    """Squared Frobenius distance of two similarity matrices over B^2, a scalar (eq. 4); shapes may differ."""
    difference_BB = similarities(student_BCHW) - similarities(teacher_BCHW)
    return difference_BB.square().mean()


def similarities(map_BCHW: Tensor) -> Tensor:
    """Dot products of all images' flattened maps, each row scaled to length 1, [B, B] (eq. 2, 3)."""
    flat_BD = map_BCHW.flatten(1)
    return unit(flat_BD @ flat_BD.T, dim=1)


@register("sp")
class SP(Method):
    """Matches which images of a batch activate the last stage alike.

    Terms:
        sp: squared Frobenius distance, over B^2, of the row-normalised similarity matrices of the last stage map.

    Differs: an image whose map is all zero gets a row of zeros and no gradient from it.

    Example:
        >>> sp = SP.alone(num_classes=10)
        >>> student, teacher = Signals.random(8), Signals.random(8)
        >>> loss = sp.terms(student, Target.of(teacher), Batch.of(torch.arange(8)))["sp"]
    """

    source = "Tung and Mori, ICCV 2019, arXiv 1907.09682"
    consumes = "stages"
    needs = frozenset({"stages"})
    reads_labels = False

    class Settings(ComponentSettings):
        """Settings of `sp`; the default is that of RepDistiller and mdistiller."""

        weight: NonNegativeFloat = Field(3000.0, description="weight of the term")

    def __init__(self, settings: SP.Settings, context: MethodContext) -> None:
        super().__init__(settings, context)
        self.settings = settings
        shape_pairs("sp", context)

    @override
    def terms(self, student: Signals, target: Target, batch: Batch) -> Terms:
        return {"sp": similarity_loss(*stage_pairs(student.stages, target.stages)[-1])}

    @override
    def weights(self, epoch: int) -> Mapping[str, float]:
        return {"sp": self.settings.weight}

"""Distillation by singular vectors (Lee et al., ECCV 2018, arXiv 1807.06819).

Shapes: B batch, C channels, P places (H * W), N leading singular vectors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor, nn
from typing_extensions import override

from akdtune.methods import Method, MethodContext
from akdtune.methods._maps import full_precision, shape_pairs, stage_pairs, unit
from akdtune.registry import ComponentSettings, IdleAtZero, register
from akdtune.signals import Batch, Signals, Target, Terms

MORE_OF_THE_STUDENT = 3
"""Singular vectors of the student beyond `rank` among which the one nearest to each of the teacher's is looked for."""

ABSENT = 1e-6
"""Directions with a smaller share of the largest squared singular value count as absent."""

SMALLEST_GAP = 1e-6
"""Gaps between squared singular values below this share of the largest are softened in the gradient."""


class LeadingEigenvectors(torch.autograd.Function):
    """The `number` eigenvectors with the largest eigenvalues, [B, D, N], and these, [B, N], of symmetric [B, D, D].

    The gradient divides by gaps between eigenvalues; nearly equal ones are softened, so that it stays finite.
    """

    @staticmethod
    def forward(ctx: Any, matrix_BDD: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """Eigenvectors of the largest eigenvalues first."""
        values_BD, vectors_BDD = torch.linalg.eigh(matrix_BDD.nan_to_num(posinf=0.0, neginf=0.0))
        values_BD, vectors_BDD = values_BD.flip(-1), vectors_BDD.flip(-1)
        ctx.save_for_backward(values_BD, vectors_BDD)
        ctx.number = number
        values_BN = values_BD[:, :number].clone()
        ctx.mark_non_differentiable(values_BN)
        return vectors_BDD[:, :, :number].clone(), values_BN

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """dA = V (F * V^T dV) V_N^T with F_ij = 1 / (value_j - value_i), symmetrised."""
        values_BD, vectors_BDD = ctx.saved_tensors
        leading_BDN, values_BN = vectors_BDD[:, :, : ctx.number], values_BD[:, : ctx.number]
        gaps_BDN = values_BN[:, None, :] - values_BD[:, :, None]  # 0 for a vector and itself
        softening_B11 = (SMALLEST_GAP * values_BD[:, :1, None]).square().clamp_min(torch.finfo(gaps_BDN.dtype).tiny)
        factors_BDN = gaps_BDN / (gaps_BDN.square() + softening_B11)
        inner_BDN = factors_BDN * (vectors_BDD.mT @ gradients[0])
        gradient_BDD = vectors_BDD @ inner_BDN @ leading_BDN.mT
        return (gradient_BDD + gradient_BDD.mT) / 2, None


def singular_vectors(map_BCHW: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Leading right singular vectors [B, C, N] of the places x channels matrix, and its singular values [B, N].

    They are eigenvectors of its smaller Gram matrix; fewer than `number` where the matrix is smaller, and zero where
    it has no such direction.
    """
    map_BCP = map_BCHW.flatten(2)
    number = min(number, *map_BCP.shape[1:])
    if map_BCP.shape[1] <= map_BCP.shape[2]:
        vectors_BCN, values_BN = LeadingEigenvectors.apply(map_BCP @ map_BCP.mT, number)
    else:
        vectors_BPN, values_BN = LeadingEigenvectors.apply(map_BCP.mT @ map_BCP, number)
        vectors_BCN = unit(map_BCP @ vectors_BPN, dim=1)
    is_there_BN = (values_BN > 0) & (values_BN > ABSENT * values_BN[:, :1])
    return torch.where(is_there_BN[:, None, :], vectors_BCN, 0.0), values_BN.clamp_min(0.0).sqrt()


def aligned_vectors(student_BCHW: Tensor, teacher_BCHW: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Student's and teacher's singular vectors, [B, C, N] each, times the teacher's normalised singular values.

    Each teacher vector meets the student vector with the largest absolute cosine, with its sign.
    """
    width = min(student_BCHW.shape[1], teacher_BCHW.shape[1])
    teacher_BCN, values_BN = singular_vectors(_narrowed(teacher_BCHW, width), rank)
    student_BCM, _ = singular_vectors(_narrowed(student_BCHW, width), rank + MORE_OF_THE_STUDENT)
    # a sign that does not depend on the linear algebra library
    teacher_BCN = teacher_BCN * torch.where(teacher_BCN.sum(dim=1, keepdim=True) < 0, -1.0, 1.0)
    cosines_BMN = (student_BCM.mT @ teacher_BCN).detach()
    nearest_B1N = cosines_BMN.abs().argmax(dim=1, keepdim=True)
    signs_B1N = torch.where(cosines_BMN.gather(1, nearest_B1N) < 0, -1.0, 1.0)
    student_BCN = student_BCM.gather(2, nearest_B1N.expand(-1, width, -1)) * signs_B1N
    scale_B1N = unit(values_BN, dim=1)[:, None, :]
    return student_BCN * scale_B1N, teacher_BCN * scale_B1N


def _narrowed(map_BCHW: Tensor, width: int) -> Tensor:
    """Channels averaged in groups to a smaller number of them."""
    if map_BCHW.shape[1] == width:
        return map_BCHW
    map_BPC = map_BCHW.flatten(2).mT
    narrow_BCP = nn.functional.adaptive_avg_pool1d(map_BPC, width).mT
    return narrow_BCP.reshape(len(map_BCHW), width, *map_BCHW.shape[2:])


@full_precision
def relation_loss(*maps: Tensor, rank: int) -> Tensor:
    """Squared difference of the relations between consecutive stages, summed and averaged over the batch, a scalar.

    Args:
        maps: student's and teacher's map of the first stage, of the second, and so on.
        rank: singular vectors per map.
    """
    pairs = zip(maps[0::2], maps[1::2], strict=True)
    vectors = [aligned_vectors(of_student, of_teacher, rank) for of_student, of_teacher in pairs]
    losses = []
    for (student_before, teacher_before), (student, teacher) in zip(vectors, vectors[1:], strict=False):
        difference_BCDN = _relation(student, student_before) - _relation(teacher, teacher_before)
        losses.append(difference_BCDN.square().sum() / len(student))
    return sum(losses[1:], losses[0])


def _relation(after_BCN: Tensor, before_BDN: Tensor) -> Tensor:
    """exp(-distance^2 / 8) between the entries of the singular vectors of two stages, [B, C, D, N]."""
    number = min(after_BCN.shape[-1], before_BDN.shape[-1])
    return (-(after_BCN[:, :, None, :number] - before_BDN[:, None, :, :number]).square() / 8).exp()


@register("kdsvd")
class KDSVD(Method):
    """Matches how the leading singular vectors of consecutive stages relate.

    Terms:
        kdsvd: squared difference of exp(-d^2 / 8) between the entries of the right singular vectors (over channels) of
            consecutive stages after the stem, summed over entries, vectors and stages and averaged over the batch. Of
            the student's `rank` + 3 vectors, the nearest to each of the teacher's is taken; both are multiplied by the
            teacher's singular values, scaled to length 1.

    Differs: equals RepDistiller, whose matrix is places x channels; mdistiller's is another one, with channels and rows
        of the map on one side and its columns on the other. From RepDistiller: the sign of the teacher's vectors is
        fixed by a nonnegative sum (there whatever the library returns); gradients of nearly equal singular values are
        softened instead of NaN set to zero in the value; directions below 1e-6 of the largest squared singular value
        count as absent; where widths differ (there an error), the channels of the wider map are averaged in groups;
        stages are paired from the last one backwards where the networks have different numbers of them.

    Example:
        >>> kdsvd = KDSVD.alone(num_classes=10, rank=4)
        >>> student, teacher = Signals.random(8), Signals.random(8)
        >>> loss = kdsvd.terms(student, Target.of(teacher), Batch.of(torch.arange(8)))["kdsvd"]
    """

    source = "Lee et al., ECCV 2018, arXiv 1807.06819"
    consumes = "stages"
    needs = frozenset({"stages"})
    reads_labels = False

    class Settings(ComponentSettings):
        """Settings of `kdsvd`; the defaults are those of RepDistiller and mdistiller."""

        idle_at_zero: ClassVar[IdleAtZero] = {("weight",): ("rank",)}

        rank: PositiveInt = Field(1, description="singular vectors per map (k in the paper)")
        weight: NonNegativeFloat = Field(1.0, description="weight of the term")

    def __init__(self, settings: KDSVD.Settings, context: MethodContext) -> None:
        super().__init__(settings, context)
        self.settings = settings
        shape_pairs("kdsvd", context, at_least=2)

    @override
    def terms(self, student: Signals, target: Target, batch: Batch) -> Terms:
        maps = [map_BCHW for pair in stage_pairs(student.stages, target.stages) for map_BCHW in pair]
        return {"kdsvd": relation_loss(*maps, rank=self.settings.rank)}

    @override
    def weights(self, epoch: int) -> Mapping[str, float]:
        return {"kdsvd": self.settings.weight}

"""Neuron selectivity transfer (Huang & Wang, 2017, arXiv 1707.01219).

Shapes: B batch, C channels, H, W.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field, NonNegativeFloat
from torch import Tensor
from typing_extensions import override

from akdtune.methods import Method, MethodContext
from akdtune.methods._maps import full_precision, same_size, shape_pairs, stage_pairs, unit
from akdtune.registry import ComponentSettings, register
from akdtune.signals import Batch, Signals, Target, Terms


@full_precision
def maximum_mean_discrepancy(student_BCHW: Tensor, teacher_BCHW: Tensor) -> Tensor:
    """Squared MMD between the channels of two maps under the kernel k(a, b) = (a . b)^2, a scalar (eq. 5, 8).

    A channel is its map as one vector of length 1; each expectation is the mean over all pairs of channels, and over
    the batch. Widths may differ.
    """
    student_BCHW, teacher_BCHW = same_size(student_BCHW, teacher_BCHW)
    student_BCP, teacher_BCP = unit(student_BCHW.flatten(2), dim=2), unit(teacher_BCHW.flatten(2), dim=2)
    return (
        _mean_kernel(teacher_BCP, teacher_BCP)
        + _mean_kernel(student_BCP, student_BCP)
        - 2 * _mean_kernel(student_BCP, teacher_BCP)
    )


def _mean_kernel(one_BCP: Tensor, other_BCP: Tensor) -> Tensor:
    return (one_BCP @ other_BCP.mT).square().mean()


@register("nst")
class NST(Method):
    """Matches the distribution of the channels' spatial patterns in each stage.

    Terms:
        nst: squared maximum mean discrepancy with the kernel (a . b)^2 between the channels of student and teacher,
            each scaled to length 1 over its positions, summed over the stages after the stem. The larger of two maps
            is averaged to the smaller size.

    Differs: stages are paired from the last one backwards where the networks have different numbers of them (the
        published code drops the last ones of the longer list); an all-zero channel gets no gradient.

    Example:
        >>> nst = NST.alone(num_classes=10)
        >>> student, teacher = Signals.random(8), Signals.random(8)
        >>> loss = nst.terms(student, Target.of(teacher), Batch.of(torch.arange(8)))["nst"]
    """

    source = "Huang and Wang, 2017, arXiv 1707.01219"
    consumes = "stages"
    needs = frozenset({"stages"})
    reads_labels = False

    class Settings(ComponentSettings):
        """Settings of `nst`; the default is that of RepDistiller and mdistiller."""

        weight: NonNegativeFloat = Field(50.0, description="weight of the term")

    def __init__(self, settings: NST.Settings, context: MethodContext) -> None:
        super().__init__(settings, context)
        self.settings = settings
        shape_pairs("nst", context)

    @override
    def terms(self, student: Signals, target: Target, batch: Batch) -> Terms:
        losses = [maximum_mean_discrepancy(*pair) for pair in stage_pairs(student.stages, target.stages)]
        return {"nst": sum(losses[1:], losses[0])}

    @override
    def weights(self, epoch: int) -> Mapping[str, float]:
        return {"nst": self.settings.weight}

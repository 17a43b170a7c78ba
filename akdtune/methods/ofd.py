"""Overhaul of feature distillation (Heo et al., ICCV 2019, arXiv 1904.01866).

Shapes: B batch, C channels, H, W.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor, nn
from typing_extensions import override

from akdtune.errors import AkdtuneError
from akdtune.methods import IMAGENET, MOBILENET_V1, Method, MethodContext
from akdtune.methods._maps import BatchNorm, full_precision, same_size, shape_pairs, stage_pairs, stage_shapes
from akdtune.registry import ComponentSettings, Pair, register
from akdtune.signals import Batch, Signals, Target, Terms

RARELY_NEGATIVE = 0.001
"""Share of negative activations up to which their mean is taken as -3 standard deviations, as published."""


def margins(weight_C: Tensor, bias_C: Tensor) -> Tensor:
    """Mean of each channel's negative pre-ReLU activations, [C] (eq. 4, 5).

    After its BatchNorm a channel is taken as Gaussian with mean `bias` and standard deviation |weight|.
    """
    mean_C, deviation_C = bias_C.double(), weight_C.double().abs().clamp_min(1e-12)
    z_C = mean_C / deviation_C
    negative_C = 0.5 * torch.erfc(z_C / math.sqrt(2))
    density_C = torch.exp(-0.5 * z_C.square()) / math.sqrt(2 * math.pi)
    truncated_C = mean_C - deviation_C * density_C / negative_C.clamp_min(RARELY_NEGATIVE)
    return torch.where(negative_C > RARELY_NEGATIVE, truncated_C, -3 * deviation_C).to(bias_C.dtype)


@full_precision
def partial_l2(student_BCHW: Tensor, teacher_BCHW: Tensor, margin_C11: Tensor) -> Tensor:
    """Squared distance to max(teacher, margin), summed over an image and averaged over the batch, a scalar (eq. 2, 3).

    Where the teacher's activation is not positive, the student's is free below that goal.
    """
    above_BCHW = student_BCHW - torch.maximum(teacher_BCHW, margin_C11)
    counts_BCHW = (teacher_BCHW > 0) | (above_BCHW > 0)
    return torch.where(counts_BCHW, above_BCHW, 0.0).square().flatten(1).sum(dim=1).mean()


@register("ofd")
class OFD(Method):
    """Matches maps before their ReLU, with a margin that leaves negative activations free.

    Each student map goes through a 1x1 convolution and BatchNorm of its own.

    Terms:
        ofd: partial L2 distance of the pre-ReLU maps, summed over an image and averaged over the batch; the last
            stage counts fully, each one before it half as much as the next. Margins follow from the teacher's
            BatchNorms.

    Differs: the teacher stays in eval mode (mdistiller's goes into training mode); where sizes differ, the larger map
        is averaged to the smaller size before the convolution (mdistiller brings the teacher's map to the student's
        size, smaller ones by repetition); where the networks have different numbers of stages, these are paired from
        the last one backwards as in mdistiller, and margins with them (mdistiller's are still the first stages').

    Example:
        >>> ofd = OFD.alone(num_classes=10)
        >>> student, teacher = Signals.random(8), Signals.random(8)
        >>> loss = ofd.terms(student, Target.of(teacher), Batch.of(torch.arange(8)))["ofd"]
    """

    source = "Heo et al., ICCV 2019, arXiv 1904.01866"
    imagenet_pairs = (MOBILENET_V1,)
    consumes = "stages"
    needs = frozenset({"preact"})
    reads_labels = False

    class Settings(ComponentSettings):
        """Settings of `ofd`; the default is that of mdistiller on CIFAR-100."""

        weight: NonNegativeFloat = Field(1e-3, description="weight of the term (published: 1e-4 on ImageNet)")

    def __init__(self, settings: OFD.Settings, context: MethodContext) -> None:
        super().__init__(settings, context)
        self.settings = settings
        shapes = shape_pairs("ofd", context)
        norms = context.teacher_norms[-len(shapes) :]
        widths = [teacher[0] for _, teacher in shapes]
        if [len(weight_C) for weight_C, _ in norms] != widths:
            raise AkdtuneError(
                f"method ofd needs the BatchNorm that ends in each of the teacher's stages, with {widths} channels, and"
                f" got {[len(weight_C) for weight_C, _ in norms]}: {stage_shapes(context)}"
            )
        self.connectors = nn.ModuleList(_connector(student[0], teacher[0], context) for student, teacher in shapes)
        for index, (weight_C, bias_C) in enumerate(norms):
            margin_C11 = margins(weight_C, bias_C)[:, None, None].to(context.device)
            self.register_buffer(f"margin{index}_C11", margin_C11, persistent=False)  # follows from the teacher

    @override
    def terms(self, student: Signals, target: Target, batch: Batch) -> Terms:
        pairs = stage_pairs(student.preact_stages, target.preact_stages)
        losses = []
        for index, (maps, connector) in enumerate(zip(pairs, self.connectors, strict=True)):
            student_BCHW, teacher_BCHW = same_size(*maps)
            loss = partial_l2(connector(student_BCHW), teacher_BCHW, self.get_buffer(f"margin{index}_C11"))
            losses.append(loss / 2 ** (len(pairs) - 1 - index))
        return {"ofd": sum(losses[1:], losses[0])}

    @override
    def weights(self, epoch: int) -> Mapping[str, float]:
        return {"ofd": self.settings.weight}

    @override
    @classmethod
    def published(cls, pair: Pair) -> Mapping[str, Any]:
        """The weight on ImageNet, mdistiller's."""
        return {"weight": 1e-4} if pair.data == IMAGENET else {}


def _connector(before: int, after: int, context: MethodContext) -> nn.Sequential:
    """1x1 convolution and BatchNorm; weights from a normal distribution of variance 2 / `after`, as published."""
    with torch.random.fork_rng(devices=[]):  # torch's own draws are overwritten; its skip_init loads sympy
        conv = nn.Conv2d(before, after, 1, bias=False)
    with torch.no_grad():
        conv.weight.normal_(0.0, math.sqrt(2 / after), generator=context.generator)
    return nn.Sequential(conv, BatchNorm(after)).to(context.device)

"""Class attention transfer (Guo et al., CVPR 2023, arXiv 2304.12777).

Shapes: B batch, C channels, H, W, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor
from typing_extensions import override

from akdtune.methods import CIFAR100, IMAGENET, Method, MethodContext, published_on
from akdtune.methods._maps import full_precision, last_maps, pooled_to, unit
from akdtune.registry import ComponentSettings, IdleAtZero, Pair, register
from akdtune.signals import Batch, Signals, Target, Terms

PUBLISHED = {
    (CIFAR100, "resnet56", "resnet20"): (0.7, 2, False),
    (CIFAR100, "resnet110", "resnet32"): (1.8, 2, False),
    (CIFAR100, "resnet32x4", "resnet8x4"): (15.0, 2, False),
    (CIFAR100, "wrn_40_2", "wrn_16_2"): (12.0, 2, False),
    (CIFAR100, "wrn_40_2", "wrn_40_1"): (1.5, 2, False),
    (CIFAR100, "vgg13", "vgg8"): (4.5, 2, False),
    (CIFAR100, "vgg13", "MobileNetV2"): (15.0, 2, True),
    (CIFAR100, "ResNet50", "MobileNetV2"): (40.0, 2, True),
    (CIFAR100, "wrn_40_2", "ShuffleV1"): (80.0, 4, True),
    (CIFAR100, "resnet32x4", "ShuffleV1"): (600.0, 4, True),
    (CIFAR100, "resnet32x4", "ShuffleV2"): (600.0, 4, True),
    (IMAGENET, "torchvision_resnet34", "torchvision_resnet18"): (0.5, 4, False),
    (IMAGENET, "torchvision_resnet50", "torchvision_mobilenet_v2"): (10.0, 2, True),
}
"""(weight, resolution, normalize) of the authors' configurations; what they call MobileNetV2 on ImageNet is V1."""


@full_precision
def class_activations(map_BCHW: Tensor, classifier_KC: Tensor, resolution: int) -> Tensor:
    """Contribution of each place to each class's logit, averaged to `resolution` squared, [B, K, R, R] (eq. 1).

    The classifier is a 1x1 convolution; averaging first gives the same numbers for less work.
    """
    return torch.einsum("kc,bchw->bkhw", classifier_KC, pooled_to(map_BCHW, resolution, resolution))


@full_precision
def activation_loss(student_BKRR: Tensor, teacher_BKRR: Tensor, normalize: bool) -> Tensor:
    """Mean squared difference of class activation maps, a scalar (eq. 4).

    Args:
        student_BKRR: the student's maps.
        teacher_BKRR: the teacher's.
        normalize: scale each map to length 1 over its places first.
    """
    if normalize:
        student_BKRR = unit(student_BKRR.flatten(2), dim=2)
        teacher_BKRR = unit(teacher_BKRR.flatten(2), dim=2)
    return (student_BKRR.flatten(2) - teacher_BKRR.flatten(2)).square().mean()


@register("cat_kd")
class CATKD(Method):
    """Matches where each class finds its evidence.

    Terms:
        cat_kd: mean squared difference of the class activation maps, averaged to `resolution` squared and, with
            `normalize`, scaled to length 1 over their places. A map is the last stage's under the classifier as 1x1
            convolution; the student's classifier takes part in the gradient.

    Differs: mathematically equal to the published change of the networks (a 1x1 convolution without bias, then the
        mean over places, instead of the mean and a linear layer) but for the bias of the logits, which networks keep
        here and which takes no part in the maps; checkpoints of unchanged networks can teach. A map of zeros gets no
        gradient from its scale.

    Example:
        >>> cat_kd = CATKD.alone(num_classes=10, resolution=4)
        >>> student, teacher = Signals.random(8), Signals.random(8)
        >>> loss = cat_kd.terms(student, Target.of(teacher), Batch.of(torch.arange(8)))["cat_kd"]
    """

    source = "Guo et al., CVPR 2023, arXiv 2304.12777"
    consumes = "stages"
    needs = frozenset({"last_map"})
    reads_labels = False

    class Settings(ComponentSettings):
        """Settings of `cat_kd`; the defaults are those of the authors' code, whose configurations set all by pair."""

        idle_at_zero: ClassVar[IdleAtZero] = {("weight",): ("resolution", "normalize")}

        weight: NonNegativeFloat = Field(400.0, description="weight of the term; published: 0.5 to 600 by pair")
        resolution: PositiveInt = Field(2, description="height and width of the compared maps; published: 2 or 4")
        normalize: bool = Field(
            True, description="scale each map to length 1 (published: only where architectures differ)"
        )

    teacher_classifier_KC: Tensor

    def __init__(self, settings: CATKD.Settings, context: MethodContext) -> None:
        super().__init__(settings, context)
        self.settings = settings
        last_maps("cat_kd", context)
        assert context.teacher_classifier is not None
        self.register_buffer(
            "teacher_classifier_KC",
            context.teacher_classifier[0].detach().clone().to(context.device),
            persistent=False,  # it is in the teacher's own checkpoint
        )

    @override
    def terms(self, student: Signals, target: Target, batch: Batch) -> Terms:
        assert student.last_map is not None and student.classifier is not None and target.last_map is not None
        resolution = self.settings.resolution
        student_BKRR = class_activations(student.last_map, student.classifier[0], resolution)
        with torch.no_grad():
            teacher_BKRR = class_activations(target.last_map, self.teacher_classifier_KC, resolution)
        return {"cat_kd": activation_loss(student_BKRR, teacher_BKRR, self.settings.normalize)}

    @override
    def weights(self, epoch: int) -> Mapping[str, float]:
        return {"cat_kd": self.settings.weight}

    @override
    @classmethod
    def published(cls, pair: Pair) -> Mapping[str, Any]:
        """The authors' weight, resolution and normalisation for this pair."""
        values = PUBLISHED.get((published_on(pair), pair.teacher or "", pair.student))
        return {} if values is None else dict(zip(("weight", "resolution", "normalize"), values, strict=True))

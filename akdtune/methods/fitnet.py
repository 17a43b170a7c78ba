"""FitNets: hints from one stage (Romero et al., ICLR 2015, arXiv 1412.6550).

Shapes: B batch, C channels, H, W.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field, NonNegativeFloat, NonNegativeInt
from torch import Tensor, nn
from typing_extensions import override

from akdtune.errors import AkdtuneError
from akdtune.methods import Method, MethodContext, Shape
from akdtune.methods._maps import BatchNorm, full_precision, initialised, pooled_to, stage_shapes
from akdtune.registry import ComponentSettings, IdleAtZero, register
from akdtune.signals import Batch, Signals, Target, Terms


@full_precision
def hint_loss(student_BCHW: Tensor, teacher_BCHW: Tensor) -> Tensor:
    """Mean squared difference of two maps of one shape, a scalar (eq. 3 with a mean for the sum)."""
    return (student_BCHW - teacher_BCHW).square().mean()


def regressor(student: Shape, teacher: Shape) -> nn.Sequential:
    """A convolution from the student's map shape to the teacher's (or, if that is larger, as near as it gets),
    BatchNorm and ReLU.

    Twice the size: 3x3 with stride 2. Half the size: 4x4 transposed with stride 2. Otherwise without padding, with a
    kernel of 1 + the difference in size.
    """
    (before, height, width), (after, teacher_height, teacher_width) = student, teacher
    conv: nn.Module
    if (height, width) == (2 * teacher_height, 2 * teacher_width):
        conv = nn.Conv2d(before, after, 3, stride=2, padding=1)
    elif (2 * height, 2 * width) == (teacher_height, teacher_width):
        conv = nn.ConvTranspose2d(before, after, 4, stride=2, padding=1)
    else:
        kernel = (1 + max(height - teacher_height, 0), 1 + max(width - teacher_width, 0))
        conv = nn.Conv2d(before, after, kernel)
    return nn.Sequential(conv, BatchNorm(after), nn.ReLU())


@register("fitnet")
class FitNet(Method):
    """Regresses one of the teacher's stage maps from the student's map of the same stage.

    Terms:
        fitnet: mean squared difference of the regressed student map and the teacher's map.

    Differs: trains in one stage with the rest of the loss, as RepDistiller and mdistiller do (the paper trains the
        lower half on the hint first); the student's stage is counted from the last one where the networks have
        different numbers of stages; a teacher's map that is larger than the student's by anything but a factor of 2
        is averaged to the student's size (the published code fails).

    Example:
        >>> fitnet = FitNet.alone(num_classes=10, hint_stage=1)
        >>> student, teacher = Signals.random(8), Signals.random(8)
        >>> loss = fitnet.terms(student, Target.of(teacher), Batch.of(torch.arange(8)))["fitnet"]
    """

    source = "Romero et al., ICLR 2015, arXiv 1412.6550"
    consumes = "stages"
    needs = frozenset({"stages"})
    reads_labels = False

    class Settings(ComponentSettings):
        """Settings of `fitnet`; the defaults are those of RepDistiller and mdistiller."""

        idle_at_zero: ClassVar[IdleAtZero] = {("weight",): ("hint_stage",)}

        hint_stage: NonNegativeInt = Field(2, description="the teacher's stage that serves as hint; 0 is the stem")
        weight: NonNegativeFloat = Field(100.0, description="weight of the term")

    def __init__(self, settings: FitNet.Settings, context: MethodContext) -> None:
        """Builds the regressor.

        Raises:
            AkdtuneError: when a network does not have the stage.
        """
        super().__init__(settings, context)
        self.settings = settings
        from_last = settings.hint_stage - len(context.teacher_stages)
        if not -len(context.student_stages) <= from_last < 0:
            raise AkdtuneError(
                f"method fitnet: no hint_stage {settings.hint_stage} in these networks (0 is the stem of the teacher):"
                f" {stage_shapes(context)}"
            )
        self.from_last = from_last
        student, teacher = context.student_stages[from_last], context.teacher_stages[from_last]
        self.regressor = initialised(lambda: regressor(student, teacher), context)

    @override
    def terms(self, student: Signals, target: Target, batch: Batch) -> Terms:
        assert student.stages is not None and target.stages is not None
        regressed_BCHW = self.regressor(student.stages[self.from_last])
        hint_BCHW = pooled_to(target.stages[self.from_last], *regressed_BCHW.shape[-2:])
        return {"fitnet": hint_loss(regressed_BCHW, hint_BCHW)}

    @override
    def weights(self, epoch: int) -> Mapping[str, float]:
        return {"fitnet": self.settings.weight}

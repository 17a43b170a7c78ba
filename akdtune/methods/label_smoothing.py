"""Label smoothing (Szegedy et al., CVPR 2016, arXiv 1512.00567).

Shapes: B batch, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field
from torch import Tensor
from typing_extensions import override

from akdtune.methods import Method, MethodContext
from akdtune.methods._logits import widened
from akdtune.registry import ComponentSettings, register
from akdtune.signals import Batch, Signals, Target, Terms


def smoothing_term(logits_BK: Tensor, batch: Batch) -> Tensor:
    """Cross-entropy with uniform labels minus cross-entropy with the batch's labels, mean over the batch, in nats.

    Both contain the same log of the sum of exponentials, so that only the label's logit minus the mean logit is left.
    """
    label_B = logits_BK.gather(1, batch.labels_B[:, None]).squeeze(1)
    if batch.partner_labels_B is not None:
        partner_B = logits_BK.gather(1, batch.partner_labels_B[:, None]).squeeze(1)
        label_B = batch.share * label_B + (1 - batch.share) * partner_B
    return (label_B - logits_BK.mean(dim=-1)).mean()


@register("label_smoothing")
class LabelSmoothing(Method):
    """Cross-entropy with labels that are mixed with the uniform distribution, a teacher that knows nothing.

    Needs no teacher.

    Terms:
        smoothing: cross-entropy with uniform labels minus cross-entropy with the labels, in nats; may be negative.
            With its weight and a cross-entropy of weight 1 the total is exactly the cross-entropy with labels
            (1 - smoothing) * label + smoothing / K, whatever the smoothing is.

    Differs: only in how the same number is written.

    Example:
        >>> smoothed = LabelSmoothing.alone(num_classes=10, smoothing=0.1)
        >>> student = Signals.of(torch.randn(8, 10))
        >>> loss = smoothed.terms(student, Target.of(student.detach()), Batch.of(torch.arange(8)))["smoothing"]
    """

    source = "Szegedy, Vanhoucke, Ioffe, Shlens, Wojna, CVPR 2016, arXiv 1512.00567"
    consumes = "self"
    reads_labels = True

    class Settings(ComponentSettings):
        """Settings of `label_smoothing`."""

        smoothing: float = Field(0.1, ge=0, le=1, description="share of the uniform distribution in the labels")

    def __init__(self, settings: LabelSmoothing.Settings, context: MethodContext) -> None:
        super().__init__(settings, context)
        self.settings = settings

    @override
    def terms(self, student: Signals, target: Target, batch: Batch) -> Terms:
        return {"smoothing": smoothing_term(widened(student.logits_BK), batch)}

    @override
    def weights(self, epoch: int) -> Mapping[str, float]:
        return {"smoothing": self.settings.smoothing}

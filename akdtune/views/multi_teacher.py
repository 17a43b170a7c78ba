"""Several teachers at once: the views are the teachers of `teacher.others`.

Shapes: B batch, V views (further teachers), M members (main teacher and views), K classes, C feature width.
"""

from __future__ import annotations

import weakref
from typing import Literal

import torch
from pydantic import Field, NonNegativeInt
from torch import Tensor
from typing_extensions import override

from akdtune.errors import AkdtuneError
from akdtune.registry import ComponentSettings, register
from akdtune.signals import UNLABELLED, Batch, Signals, Target, Teaching, Views, WeightedTarget
from akdtune.views import ViewAugmenter, ViewContext
from akdtune.views._teachers import equally_wide, side_by_side


def confidence_weights(logits_BMK: Tensor, labels_B: Tensor) -> Tensor:
    """CA-MKD's weight of each teacher for each image, [B, M], summing to 1 (eq. 4): larger where its loss is smaller.

    w_m = (1 - softmax_m(CE_m)) / (M - 1), CE_m the teacher's cross-entropy with the label; 1 for a single teacher, and
    1 / M for an image without a label.
    """
    members = logits_BMK.shape[1]
    index_BM1 = labels_B.clamp_min(0)[:, None, None].expand(-1, members, 1)
    losses_BM = -torch.log_softmax(logits_BMK, dim=-1).gather(2, index_BM1).squeeze(2)
    if members == 1:
        return torch.ones_like(losses_BM)
    weights_BM = (1 - torch.softmax(losses_BM, dim=1)) / (members - 1)
    return torch.where(labels_B[:, None] == UNLABELLED, 1 / members, weights_BM)


class MultiTeacherSettings(ComponentSettings):
    """Settings of `multi_teacher`."""

    combination: Literal["mean_logits", "mean_probabilities", "mean_loss", "confidence"] = Field(
        "mean_probabilities",
        description="mean_logits: one target with the mean of all logits; mean_probabilities: one with the mean of all"
        " tempered probabilities (for KL the same gradient as mean_loss, computed once); mean_loss: the mean over"
        " teachers of a method's loss; confidence: CA-MKD's mixture, in which a teacher weighs more on images that it"
        " gets right",
    )
    drop: NonNegativeInt = Field(0, description="teachers left out of each training batch at random (DGKD: 1)")


@register("multi_teacher")
class MultiTeacher(ViewAugmenter):
    """The main teacher and all further ones teach together, as one target or as one each.

    In evaluation nobody is left out. Features can only be mixed where they are equally wide: the pooled targets are
    the main teacher's and those of the others of its width, combined like the logits, never left out. Methods that
    read maps are given the main teacher's.

    Differs: weights sum to 1 whatever the number of teachers, where DGKD sums the losses of its teachers (M times the
        weight) and CA-MKD divides weights that sum to 1 by M once more (a weight M times smaller). For KL, the mixture
        of `confidence` has the gradient of CA-MKD's weighted sum of losses; CA-MKD's own feature loss (a projector per
        teacher) is not part of it. The evaluated target of `confidence` is the uniform mean, because labels are not
        known there. Each batch draws anew whom to leave out, as published.

    Example:
        >>> views = MultiTeacher.alone(num_classes=10, teacher_dim=64, others_dims=[64])
        >>> teacher = Signals.of(torch.randn(8, 10), torch.randn(8, 64), others=[Signals.random(8)])
        >>> teaching = views.teach(teacher, Signals.random(8), Batch.of(torch.arange(8)))
    """

    Settings = MultiTeacherSettings
    source = (
        "Zhang, Chen and Wang (CA-MKD), ICASSP 2022, arXiv 2201.00007; Son et al. (DGKD), ICCV 2021, arXiv 2009.08825"
    )
    needs_others = True

    def __init__(self, settings: MultiTeacherSettings, context: ViewContext) -> None:
        super().__init__(settings, context)
        self.settings = settings
        members = 1 + len(context.others_dims)
        if members == 1:
            raise AkdtuneError("views.name: multi_teacher needs further teachers: list them under teacher.others")
        if settings.drop >= members:
            raise AkdtuneError(f"views.drop: {settings.drop} of {members} teachers leaves none; at most {members - 1}")
        self.pooled_members = equally_wide(context)
        self._drawn: tuple[weakref.ref[Tensor], Tensor] | None = None

    @override
    @classmethod
    def draws(cls, settings: ComponentSettings) -> bool:
        """Who is left out."""
        assert isinstance(settings, MultiTeacherSettings)
        return bool(settings.drop)

    @override
    def views(self, teacher: Signals, generator: torch.Generator, student: Signals | None = None) -> Views:
        """The further teachers; features of those only that are as wide as the main teacher's."""
        logits_BMK, pooled_BMC = side_by_side(teacher, self.pooled_members)
        return Views(logits_BMK[:, 1:], pooled_BMC[:, 1:])

    @override
    def teach(self, teacher: Signals, student: Signals, batch: Batch) -> Teaching:
        """One target that combines all teachers, or one of each."""
        logits_BMK, pooled_BMC = side_by_side(teacher.detach(), self.pooled_members)
        with_features_BMK = torch.stack([logits_BMK[:, index] for index in self.pooled_members], dim=1)
        if self.training and self.settings.drop:
            logits_BMK = logits_BMK.index_select(1, self._kept(batch, logits_BMK, teacher.strong is not None))
        main_B1C = teacher.pooled_BC.detach().unsqueeze(1)
        return Teaching(
            self._targets(logits_BMK, main_B1C.expand(-1, logits_BMK.shape[1], -1), batch.labels_B),
            self._targets(with_features_BMK, pooled_BMC, batch.labels_B),
            {},
        )

    @override
    def evaluation_target(self, teacher: Signals, views: Views) -> Target:
        """What all teachers together say; with `confidence` their uniform mean, as labels are not known."""
        logits_BMK = torch.cat([teacher.logits_BK.unsqueeze(1), views.logits_BVK], dim=1)
        pooled_BMC = teacher.pooled_BC.unsqueeze(1).expand(-1, logits_BMK.shape[1], -1)
        if self.settings.combination == "mean_logits":
            return _mean_of_logits(logits_BMK, pooled_BMC)
        return _uniform(logits_BMK, pooled_BMC)

    def _kept(self, batch: Batch, logits_BMK: Tensor, strong_follows: bool) -> Tensor:
        """Who teaches this batch; the same for its weak and strong images, which are paired teacher by teacher."""
        drawn_for, kept_M = self._drawn or (None, None)
        self._drawn = None
        if strong_follows or kept_M is None or drawn_for is None or drawn_for() is not batch.positions_B:
            draws_M = torch.rand(logits_BMK.shape[1], generator=batch.generator, device=logits_BMK.device)
            kept_M = draws_M.argsort()[self.settings.drop :]
        if strong_follows:
            self._drawn = (weakref.ref(batch.positions_B), kept_M)
        return kept_M

    def _targets(self, logits_BMK: Tensor, pooled_BMC: Tensor, labels_B: Tensor) -> tuple[WeightedTarget, ...]:
        combination, members = self.settings.combination, logits_BMK.shape[1]
        if combination == "mean_loss":
            pairs = zip(logits_BMK.unbind(1), pooled_BMC.unbind(1), strict=True)
            return tuple(WeightedTarget(1 / members, Target.of(Signals(*pair))) for pair in pairs)
        if combination == "confidence":
            weights_BM = confidence_weights(logits_BMK, labels_B)
            return (WeightedTarget(1.0, Target(logits_BMK, pooled_BMC, weights_BM)),)
        combined = _mean_of_logits if combination == "mean_logits" else _uniform
        return (WeightedTarget(1.0, combined(logits_BMK, pooled_BMC)),)


def _uniform(logits_BMK: Tensor, pooled_BMC: Tensor) -> Target:
    members = logits_BMK.shape[1]
    return Target(logits_BMK, pooled_BMC, logits_BMK.new_full((members,), 1 / members))


def _mean_of_logits(logits_BMK: Tensor, pooled_BMC: Tensor) -> Target:
    return Target.of(Signals(logits_BMK.mean(dim=1), pooled_BMC.mean(dim=1)))

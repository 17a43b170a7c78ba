"""Angular-KD: learned views of the teacher, spread out by angles (NeurIPS 2025, arXiv 2510.22480).

Shapes: B batch, V views, M members (teacher and views), K classes, C feature width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from akdtune.columns import Column
from akdtune.registry import ComponentSettings, register
from akdtune.signals import Batch, Signals, Target, Teaching, Terms, Views, WeightedTarget, tempered
from akdtune.views import ViewAugmenter, ViewContext
from akdtune.views._angular_heads import ViewHeads
from akdtune.views._angular_losses import (
    Level,
    Similarities,
    constraint_loss_L,
    diversity_loss_L,
    gate_BV,
    ground_truth_loss,
    inside_margin_LB,
    intra_loss_L,
    similarities,
)
from akdtune.views._angular_settings import _AFTER_WARMUP, LEVELS, AngularSettings


@register("angular")
class Angular(ViewAugmenter):
    """Heads on the teacher's feature, kept near the teacher and apart from each other by angles.

    The student's target is an ensemble of the teacher and all views, for logits and for features.

    Penalties (train the heads, never the student):
        feature_constraint, logit_constraint: keep each view within the margin of the teacher.
        feature_diversity, logit_diversity: spread views of a sample whose views all lie inside the margin.
        feature_intra, logit_intra: spread the offsets teacher - view.
        ground_truth: cross-entropy of each view with the label.
        margin: the learned margin itself, if it is learned.

    Differs: in `released`, from the published code: every parameter enters the optimiser once (it listed heads twice
        in the warm-up, which doubled the step); more than six heads work; losses are the same for every base method
        and no extra KD or CRD term is added unless the study lists it; the margin is a number, not a parameter that
        never trains. Heads train beside the student here for any method (there only with CRD).

    Example:
        >>> views = Angular.alone(num_classes=10, teacher_dim=64, num_views=3)
        >>> teacher, student = Signals.random(8), Signals.random(8)
        >>> teaching = views.teach(teacher, student, Batch.of(torch.arange(8)))
    """

    Settings = AngularSettings
    source = "Yu, Nam, Katabi and Son (Angular-KD), NeurIPS 2025, arXiv 2510.22480"
    affine = True
    columns = (
        Column("margin", "", "margin of the features, learned or set: views at similarity >= 1 - margin are inside"),
    )
    weights_M: Tensor
    margin_L1: Tensor

    def __init__(self, settings: AngularSettings, context: ViewContext) -> None:
        super().__init__(settings, context)
        self.settings = settings
        self.warmup_epochs = self.warmup_epochs_of(settings)
        self.trains_jointly = settings.train_heads in ("joint", "both")
        self.heads = ViewHeads(
            context.teacher_dim,
            context.num_classes,
            settings.dropout_rates(),
            settings.heads_orthogonal,
            settings.norm_init,
            context.generator,
        ).to(context.device)
        weights_M = torch.tensor(_ensemble_weights(settings), device=context.device)
        self.register_buffer("weights_M", weights_M, persistent=False)
        margins = [settings.margin, settings.logit_margin or settings.margin]
        self.register_buffer("margin_L1", torch.tensor(margins, device=context.device).unsqueeze(1), persistent=False)
        self.raw_margin: nn.Parameter | None = None
        if settings.learnable_margin:
            share = settings.margin / settings.margin_max
            self.raw_margin = nn.Parameter(torch.tensor(math.log(share / (1 - share)), device=context.device))

    @override
    @classmethod
    def warmup_epochs_of(cls, settings: ComponentSettings) -> int:
        """None where the heads train beside the student only, or never."""
        assert isinstance(settings, AngularSettings)
        return settings.warmup_epochs if settings.train_heads in ("pretrain", "both") else 0

    @override
    @classmethod
    def logits_made(cls, settings: ComponentSettings) -> tuple[int, str]:
        assert isinstance(settings, AngularSettings)
        return settings.num_views, "views.num_views"

    @override
    @classmethod
    def draws(cls, settings: ComponentSettings) -> bool:
        """Dropout of the heads."""
        return True

    @override
    @classmethod
    def control_settings(cls, name: str, settings: ComponentSettings) -> dict[str, Any] | None:
        """Heads without angular losses; for `heads_labels_only` they must learn from labels in the first place."""
        assert isinstance(settings, AngularSettings)
        off = {**settings.model_dump(), "inter": False, "intra": False, "learnable_margin": False}
        if name == "heads_labels_only":
            return off if settings.gt_weight and settings.train_heads != "frozen" else None
        return off | {"gt_weight": 0.0, "train_heads": "frozen"} if name == "ensemble_without_losses" else None

    @override
    def views(self, teacher: Signals, generator: torch.Generator, student: Signals | None = None) -> Views:
        """One view per head, with dropout and batch statistics only in training mode."""
        return self.heads(teacher.pooled_BC.detach(), self.training, generator)  # type: ignore[no-any-return]

    @override
    def teach(self, teacher: Signals, student: Signals, batch: Batch) -> Teaching:
        """The ensemble as the only target, and the heads' penalties where they train beside the student."""
        teacher = teacher.detach()
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.trains_jointly):
            if self.training and self.settings.target_mode == "train":
                target_views = trained_views = self.views(teacher, batch.generator)
            else:
                target_views = self._steady_views(teacher)
                trained_views = self.views(teacher, batch.generator) if self.trains_jointly else target_views
            similar = self._similarities(teacher, trained_views)
            open_LB = self._open_LB(similar.gate_LBV)
            of_labels = batch.labels_B, batch.labelled_B is not None
            penalties = self._penalties(similar, open_LB, trained_views, *of_labels) if self.trains_jointly else {}
        target = self.evaluation_target(teacher, target_views)
        only = (WeightedTarget(1.0, target.detach() if self.settings.detach_targets else target),)
        return Teaching(only, only, penalties, self._open_shares(open_LB))

    @override
    def warmup_penalties(self, teacher: Signals, batch: Batch) -> Terms:
        """The heads' penalties alone."""
        teacher = teacher.detach()
        some_unlabelled = batch.labelled_B is not None
        return self.penalties(teacher, self.views(teacher, batch.generator), batch.labels_B, some_unlabelled)

    def penalties(self, teacher: Signals, views: Views, labels_B: Tensor, some_unlabelled: bool = False) -> Terms:
        """The penalties of given views: every one whose weight is not 0."""
        similar = self._similarities(teacher, views)
        return self._penalties(similar, self._open_LB(similar.gate_LBV), views, labels_B, some_unlabelled)

    @override
    def unused_in_warmup(self) -> frozenset[str]:
        """What makes the student's target, what bounds a margin that is not learned, a margin that no term reads."""
        unused, weights = _AFTER_WARMUP, self.penalty_weights()
        if not self.settings.learnable_margin:
            unused |= {"margin_max", "margin_penalty"}
            if not any(weights.get(f"{level}_{kind}") for level in LEVELS for kind in ("constraint", "diversity")):
                unused |= {"margin", "logit_margin"}
        return unused

    @override
    def warmup_learning_rate(self, epoch: int) -> float:
        """`warmup_lr`, a tenth of it after one third and a hundredth after two thirds of the warm-up."""
        passed = sum(3 * (epoch - 1) >= third * self.warmup_epochs for third in (1, 2))
        return self.settings.warmup_lr * 0.1**passed

    @override
    def penalty_weights(self) -> Mapping[str, float]:
        return self.settings.penalty_weights()

    @override
    def evaluation_target(self, teacher: Signals, views: Views) -> Target:
        """The mixture of teacher and views that the student imitates."""
        return Target(
            torch.cat([teacher.logits_BK.unsqueeze(1), views.logits_BVK], dim=1),
            torch.cat([teacher.pooled_BC.unsqueeze(1), views.pooled_BVC], dim=1),
            self.weights_M.to(teacher.logits_BK.dtype),
            self.settings.target_temperature,
            teacher.stages,
        )

    @override
    @torch.no_grad()
    def gates(self, teacher: Signals, views: Views) -> dict[str, Tensor]:
        """Share of samples whose views all lie inside the margin."""
        gate_LBV = torch.stack([gate_BV(level) for level in self._levels(teacher, views)])
        return self._open_shares(self._open_LB(gate_LBV))

    @override
    @torch.no_grad()
    def measures(self) -> dict[str, float]:
        """The margin of the features, learned or set."""
        return {"margin": self.settings.margin if self.raw_margin is None else float(self._margin_L1())}

    def _steady_views(self, teacher: Signals) -> Views:
        """Views without dropout, with running statistics; without a gradient where targets are detached."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.settings.detach_targets):
            return self.heads(teacher.pooled_BC, False)  # type: ignore[no-any-return]

    def _margin_L1(self) -> Tensor | float:
        """One number where both levels have the same, else one a level."""
        settings = self.settings
        if self.raw_margin is not None:
            return settings.margin_max * torch.sigmoid(self.raw_margin)
        if settings.logit_margin in (None, settings.margin):
            return settings.margin
        return self.margin_L1

    def _levels(self, teacher: Signals, views: Views) -> tuple[Level, Level]:
        """Features, and probabilities at the angular losses' own temperature: in the order of LEVELS."""
        settings = self.settings
        teacher_BK, views_BVK = (
            torch.softmax(tempered(logits, settings.angle_temperature), dim=-1)
            for logits in (teacher.logits_BK, views.logits_BVK)
        )
        return (
            Level(teacher.pooled_BC, views.pooled_BVC, spread_over=settings.div_norm),
            Level(teacher_BK, views_BVK, cosine=settings.logit_sim == "cosine"),
        )

    def _similarities(self, teacher: Signals, views: Views) -> Similarities:
        settings = self.settings
        return similarities(
            self._levels(teacher, views),
            unit_offsets=settings.intra_norm == "unit",
            contrast=settings.inter and settings.constraint != "hinge",
        )

    def _penalties(
        self, similar: Similarities, open_LB: Tensor, views: Views, labels_B: Tensor, some_unlabelled: bool
    ) -> Terms:
        """Every penalty whose weight is not 0; both levels of a kind are computed together."""
        settings, margin_L1 = self.settings, self._margin_L1()
        wanted = {name for name, weight in self.penalty_weights().items() if weight}
        kinds: dict[str, Callable[[], Tensor]] = {
            "constraint": lambda: self._constraint_L(similar, margin_L1),
            "diversity": lambda: diversity_loss_L(similar.pairs_LBP, open_LB, settings.div_denominator),
            "intra": lambda: intra_loss_L(similar.offsets_LBP, settings.softplus_of),
        }
        terms: Terms = {}
        for kind, loss_L in kinds.items():
            names = [f"{level}_{kind}" for level in LEVELS]
            if wanted.intersection(names):
                terms |= dict(zip(names, loss_L().unbind(), strict=True))
        terms = {name: value for name, value in terms.items() if name in wanted}
        if "ground_truth" in wanted:
            terms["ground_truth"] = ground_truth_loss(
                views.logits_BVK, labels_B, settings.gt_reduction, some_unlabelled
            )
        if "margin" in wanted:
            terms["margin"] = torch.as_tensor(margin_L1)
        return terms

    def _constraint_L(self, similar: Similarities, margin_L1: Tensor | float) -> Tensor:
        settings = self.settings
        margin_L11 = margin_L1.unsqueeze(-1) if isinstance(margin_L1, Tensor) and margin_L1.ndim else margin_L1
        loss_L = constraint_loss_L(similar, margin_L11, settings.constraint, settings.contrast_temperature)
        return loss_L / settings.num_views if settings.con_extra_1_over_N else loss_L

    @torch.no_grad()
    def _open_LB(self, gate_LBV: Tensor) -> Tensor:
        """1 where a sample's gate is open, else 0."""
        return inside_margin_LB(gate_LBV, self._margin_L1()).to(gate_LBV.dtype)

    def _open_shares(self, open_LB: Tensor) -> dict[str, Tensor]:
        return dict(zip(LEVELS, open_LB.mean(dim=1).unbind(), strict=True))


def _ensemble_weights(settings: AngularSettings) -> list[float]:
    """Weights of the teacher and of each view."""
    if settings.ensemble == "uniform":
        return [1 / (settings.num_views + 1)] * (settings.num_views + 1)
    weights = [1.0] + [settings.view_weight] * settings.num_views
    scale = sum(weights) if settings.ensemble == "weighted_l1" else math.hypot(*weights)
    return [weight / scale for weight in weights]

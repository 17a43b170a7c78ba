"""MLKD, multi-level logit distillation (Jin et al., CVPR 2023).

Shapes: B batch, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, model_validator
from torch import Tensor, nn
from typing_extensions import override

from akdtune.methods import IMAGENET, Method, MethodContext
from akdtune.methods._logits import StandardizeSettings, log_student_BK, log_target_BK, widened
from akdtune.registry import IdleAtZero, Pair, register
from akdtune.signals import Batch, Signals, Target, Terms

_PAPER: Mapping[str, Any] = {"masks": "select", "weak_in_strong": 0, "strong_correlations": True}
_RELEASED: Mapping[str, Any] = {"masks": "scale", "weak_in_strong": 2, "strong_correlations": False}


class MLKDSettings(StandardizeSettings):
    """Settings of `mlkd`. `variant` fills in whatever is not given; the resolved settings hold every number."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"paper": _PAPER, "released": _RELEASED}
    # the released code replaces the first temperature alone
    when_standardized: ClassVar[Mapping[str, Any]] = {"temperatures": [2.0, 3.0, 5.0, 2.0, 6.0], "weight": 9.0}

    idle_at_zero: ClassVar[IdleAtZero] = {
        ("weight",): ("temperatures", "masks", "weak_in_strong", "strong_correlations", "standardize"),
    }

    variant: Literal["paper", "released"] = Field(
        "paper",
        description="paper: every term does what it is there for; released: what the published code computes (masks"
        " only scale, two strong terms read weak logits, strong class and batch terms are thrown away)",
    )
    temperatures: list[PositiveFloat] = Field(
        [4.0, 3.0, 5.0, 2.0, 6.0], min_length=1, description="each term is summed over these softmax temperatures"
    )
    weight: NonNegativeFloat = Field(0.9, description="weight of each distillation term")
    ce_strong_weight: NonNegativeFloat = Field(
        0.1, description="weight of the cross-entropy on the strongly augmented images (training.ce_weight: the weak)"
    )
    masks: Literal["select", "scale", "none"] = Field(
        "select",
        description="select: weak terms count only the less confident half of images and of classes; scale: they are"
        " multiplied by the share of that half; none: they count everything",
    )
    weak_in_strong: NonNegativeInt = Field(
        0, description="at this many of the last temperatures `instance_strong` reads the weak logits"
    )
    strong_correlations: bool = Field(
        True, description="whether there are class and batch terms for the strongly augmented images"
    )

    @override
    @classmethod
    def preset(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        variant = given.get("variant", cls.model_fields["variant"].default)
        of_variant = cls.presets.get(variant, {}) if isinstance(variant, str) else {}
        return {**of_variant, **super().preset(given)}

    @override
    def idle(self) -> dict[str, str]:
        """The variant, which only fills in other settings, and everything else where the weight is 0."""
        return {"variant": "it only fills in other settings", **super().idle()}

    @model_validator(mode="after")
    def _check(self) -> MLKDSettings:
        if self.weak_in_strong > len(self.temperatures):
            raise ValueError(
                f"weak_in_strong is {self.weak_in_strong}, but there are {len(self.temperatures)} temperatures only"
            )
        return self


class Masks(NamedTuple):
    """Which images and classes the weak terms count (1) or not (0), and what they are multiplied by."""

    images_B: Tensor
    classes_K: Tensor
    image_share: Tensor
    class_share: Tensor


@torch.no_grad()
def less_confident(p_BK: Tensor) -> tuple[Tensor, Tensor]:
    """Images [B] whose largest probability, and classes [K] whose summed probability, is at most the median."""
    confidences_B, totals_K = p_BK.max(dim=1).values, p_BK.sum(dim=0)
    return confidences_B <= confidences_B.quantile(0.5), totals_K <= totals_K.quantile(0.5)


def instance_term(log_wanted_BK: Tensor, log_found_BK: Tensor, temperature: float, images_B: Tensor) -> Tensor:
    """Temperature squared * KL of each image, times its mask, mean over the whole batch: a scalar in nats."""
    divergence_B = (log_wanted_BK.exp() * (log_wanted_BK - log_found_BK)).sum(dim=-1)
    return temperature**2 * (divergence_B * images_B).mean()


def correlation_term(wanted_RN: Tensor, found_RN: Tensor, rows_R: Tensor) -> Tensor:
    """Squared distance of both R x R Gram matrices over R, each row times its mask: a scalar."""
    with torch.autocast(wanted_RN.device.type, enabled=False):
        distance_RR = wanted_RN @ wanted_RN.T - found_RN @ found_RN.T
        return (distance_RR.square() * rows_R[:, None]).sum() / len(rows_R)


def labelled_term(logits_BK: Tensor, batch: Batch) -> Tensor:
    """Mean cross-entropy with the labels: strong images are mixed with the same partners as weak ones."""
    own = nn.functional.cross_entropy(logits_BK, batch.labels_B)
    if batch.partner_labels_B is None:
        return own
    return torch.lerp(nn.functional.cross_entropy(logits_BK, batch.partner_labels_B), own, batch.share)


@register("mlkd")
class MLKD(Method):
    """Aligns predictions, and their correlations between images and between classes, at many temperatures.

    Reads weakly and strongly augmented images. Consumes an ensemble as its mixture of probabilities. Each term is
    summed over `temperatures` (P, Q: tempered probabilities of target and student, [B, K]).

    Terms:
        instance: temperature squared * KL(P || Q) on weak images, counted where the mask of images is 1, over B.
        instance_strong: the same on strong images without a mask.
        class: ||P'P - Q'Q||^2 / K on weak images, rows of classes counted where the mask of classes is 1.
        batch: ||PP' - QQ'||^2 / B on weak images, rows counted where the mask of images is 1.
        class_strong: `class` on strong images without a mask (not in `released`).
        batch_strong: `batch` on strong images with the weak images' mask (not in `released`).
        ce_strong: cross-entropy of the student on strong images, in nats; with mixed images, each label by its share.
        Masks: the half of the images whose largest, and of the classes whose summed, target probability (weak images,
        temperature 1) is at most the median.

    Differs: the masks stand in the published code alone, which multiplies terms that are already reduced to a scalar,
        so that a mask only scales; `released` does that, `paper` lets them select, with sums as above. `released` also
        reads weak logits in `instance_strong` at the last two temperatures and drops `class_strong` and
        `batch_strong`. `standardize` scales the logits of the instance terms alone and replaces the first temperature
        by 2, as in the code released with it. Over a sum of several targets `ce_strong` is summed too.

    Example:
        >>> mlkd = MLKD.alone(num_classes=10, temperatures=[2.0, 4.0])
        >>> student, teacher = Signals.random(8, strong=True), Signals.random(8, strong=True)
        >>> loss = mlkd.terms(student, Target.of(teacher, strong=True), Batch.of(torch.arange(8)))["instance"]
    """

    source = "Jin, Wang, Lin, CVPR 2023"
    needs = frozenset({"strong"})
    reads_labels = True
    default_ce_weight = 0.1
    Settings = MLKDSettings

    @override
    @classmethod
    def published(cls, pair: Pair) -> Mapping[str, Any]:
        """ImageNet: first temperature 1, every weight 0.5."""
        if pair.data != IMAGENET:
            return {}
        return {"temperatures": [1.0, 3.0, 5.0, 2.0, 6.0], "weight": 0.5, "ce_strong_weight": 0.5}

    @override
    @classmethod
    def ce_weight(cls, pair: Pair) -> float:
        """0.1; on ImageNet 0.5."""
        return 0.5 if pair.data == IMAGENET else cls.default_ce_weight

    def __init__(self, settings: MLKDSettings, context: MethodContext) -> None:
        super().__init__(settings, context)
        self.settings = settings

    @override
    def terms(self, student: Signals, target: Target, batch: Batch) -> Terms:
        assert student.strong is not None
        assert target.strong is not None
        settings = self.settings
        masks = self._masks(target, student.logits_BK)
        everything_B, everything_K = torch.ones_like(masks.images_B), torch.ones_like(masks.classes_K)
        first_weak = len(settings.temperatures) - settings.weak_in_strong
        sums: dict[str, list[Tensor]] = {name: [] for name in self.weights(1) if name != "ce_strong"}
        for index, temperature in enumerate(settings.temperatures):
            weak = self._log_pair(target, student, temperature)
            strong = self._log_pair(target.strong, student.strong, temperature)
            read_as_strong = weak if index >= first_weak else strong
            sums["instance"].append(instance_term(*weak, temperature, masks.images_B) * masks.image_share)
            sums["instance_strong"].append(instance_term(*read_as_strong, temperature, everything_B))
            wanted_BK, found_BK = self._pair(target, student, temperature, weak)
            sums["class"].append(correlation_term(wanted_BK.T, found_BK.T, masks.classes_K) * masks.class_share)
            sums["batch"].append(correlation_term(wanted_BK, found_BK, masks.images_B) * masks.image_share)
            if settings.strong_correlations:
                wanted_BK, found_BK = self._pair(target.strong, student.strong, temperature, strong)
                sums["class_strong"].append(correlation_term(wanted_BK.T, found_BK.T, everything_K))
                sums["batch_strong"].append(correlation_term(wanted_BK, found_BK, masks.images_B) * masks.image_share)
        ce_strong = labelled_term(widened(student.strong.logits_BK), batch)
        return {**{name: torch.stack(values).sum() for name, values in sums.items()}, "ce_strong": ce_strong}

    @override
    def weights(self, epoch: int) -> Mapping[str, float]:
        names = ["instance", "instance_strong", "class", "batch"]
        names += ["class_strong", "batch_strong"] * self.settings.strong_correlations
        return {**dict.fromkeys(names, self.settings.weight), "ce_strong": self.settings.ce_strong_weight}

    def _masks(self, target: Target, like_BK: Tensor) -> Masks:
        p_BK = log_target_BK(target).detach().exp()
        images_B, classes_K = (mask.to(p_BK.dtype) for mask in less_confident(p_BK))
        whole = p_BK.new_ones(())
        if self.settings.masks == "select":
            return Masks(images_B, classes_K, whole, whole)
        all_B, all_K = torch.ones_like(images_B), torch.ones_like(classes_K)
        if self.settings.masks == "none":
            return Masks(all_B, all_K, whole, whole)
        return Masks(all_B, all_K, images_B.mean(), classes_K.mean())

    def _log_pair(self, target: Target, student: Signals, temperature: float) -> tuple[Tensor, Tensor]:
        scale = temperature, self.settings.standardize
        return log_target_BK(target, *scale), log_student_BK(student.logits_BK, *scale)

    def _pair(
        self, target: Target, student: Signals, temperature: float, log_pair: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Probabilities of target and student for the correlations, which are never standardised."""
        if self.settings.standardize:
            log_pair = log_target_BK(target, temperature), log_student_BK(student.logits_BK, temperature)
        return log_pair[0].exp(), log_pair[1].exp()

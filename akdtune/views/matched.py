"""Controls of other views: targets of the same size that hold the teacher's own output in place of the views.

Shapes: B batch, M members of a target, K classes, C feature width, G temperatures tried at once.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, ValidationError, field_validator
from torch import Tensor
from typing_extensions import override

from akdtune.columns import Column, joined
from akdtune.errors import AkdtuneError
from akdtune.registry import ComponentSettings, lookup, may_draw, register, typed
from akdtune.signals import Batch, Signals, Target, Teaching, Terms, Views, WeightedTarget, standardized
from akdtune.views import ViewAugmenter, ViewContext

COLDEST, HOTTEST = 1e-3, 1e4
"""Bounds of a solved temperature."""

TRIED, ROUNDS = 16, 5
"""Temperatures tried at once, and how often; each round narrows the interval 17 times, at last to a factor 1.00002."""


class MatchedSettings(ComponentSettings):
    """Settings of `matched`."""

    of: dict[str, Any] = Field({"name": "tekap"}, description="the views that are controlled: {name: ..., settings}")
    match: Literal["weight", "shrink", "entropy", "target"] = Field(
        "weight",
        description="weight: same targets, weights and normalisation, every member the teacher's own output; shrink:"
        " the views without their noise, their shrink kept; entropy: one target of the teacher at the temperature at"
        " which it is as uncertain as the views' target; target: the members of `weight` at that temperature",
    )

    @field_validator("of")
    @classmethod
    def _filled_in(cls, value: dict[str, Any]) -> dict[str, Any]:
        """The same with every setting of these views."""
        name = value.get("name")
        if not isinstance(name, str) or name == "matched":
            raise ValueError(f"of needs the name of other views, got {name}")
        try:
            model: type[ComponentSettings] = lookup("views", name).Settings
            given = json.dumps({key: item for key, item in value.items() if key != "name"})
            return {"name": name, **model.model_validate_json(given, strict=True).model_dump(mode="json")}
        except AkdtuneError as error:
            raise ValueError(f"of: {error}") from error
        except ValidationError as error:
            details = error.errors(include_url=False)
            problems = [f"of.{'.'.join(map(str, detail['loc']))}: {detail['msg']}" for detail in details]
            raise ValueError("; ".join(problems)) from error

    def typed(self) -> ComponentSettings:
        """The settings of the views that are controlled."""
        return typed("views", self.of)

    @override
    def idle(self) -> dict[str, str]:
        """What has no effect on the views that are controlled."""
        return super().idle() | {f"of.{key}": reason for key, reason in self.typed().idle().items()}


@register("matched")
class Matched(ViewAugmenter):
    """A control of other views: as many targets with the same weights, filled with the teacher's own output.

    What a method gains over it is due to what the views say, not to how much weight they have. The views draw the same
    random numbers as they would without it, so that everything else is the same. With `weight` and `shrink` heads do
    not train, and there are no penalties and no warm-up; with `entropy` and `target` they train by their penalties,
    because the views' target must be known. Where views have no shrink, `shrink` is `weight`.

    entropy: T such that the mean over the batch of H(softmax(teacher / T)) is that of H(views' target at the method's
    temperature), the views' target being the mixture of all members of all targets, scaled to sum 1. T is a constant
    of the step; features are the teacher's own.

    Differs: heads whose targets are not detached (Angular-KD's `released`) are not trained by the student's losses
        here. Where a method learns its temperature (ctkd), the solved factor is a constant to it.

    Example:
        >>> views = Matched.alone(num_classes=10, teacher_dim=64, of={"name": "tekap"}, match="entropy")
        >>> teacher, student = Signals.random(8), Signals.random(8)
        >>> teaching = views.teach(teacher, student, Batch.of(torch.arange(8)))
    """

    Settings = MatchedSettings
    source = "akdtune's own, from no paper"
    columns: ClassVar[tuple[Column, ...]] = (
        Column(
            "matched_temperature", "", "temperature at which the teacher is as uncertain as the views' target, mean"
        ),
    )

    def __init__(self, settings: MatchedSettings, context: ViewContext) -> None:
        super().__init__(settings, context)
        component, inner = lookup("views", settings.of["name"]), settings.typed()
        self.match = settings.match
        if self.match == "shrink":
            kept = component.without_noise(inner)
            self.match, inner = ("weight", inner) if kept is None else ("shrink", kept)
        self.inner: ViewAugmenter = component(inner, context)
        self.solves = self.match in ("entropy", "target")
        self.warmup_epochs = self.inner.warmup_epochs if self.solves else 0
        self.trains_jointly = self.inner.trains_jointly and self.solves
        self.needs_student = self.inner.needs_student  # type: ignore[misc]
        self.columns = joined(type(self).columns, self.inner.columns)  # type: ignore[misc]
        self.log = TemperatureLog(context.device)

    @override
    @classmethod
    def warmup_epochs_of(cls, settings: ComponentSettings) -> int:
        """That of the views where their target must be known."""
        assert isinstance(settings, MatchedSettings)
        component = lookup("views", settings.of["name"])
        return int(component.warmup_epochs_of(settings.typed())) if settings.match in ("entropy", "target") else 0

    @override
    @classmethod
    def draws(cls, settings: ComponentSettings) -> bool:
        """What the views draw."""
        assert isinstance(settings, MatchedSettings)
        return may_draw("views", settings.of["name"], settings.typed())

    @override
    def views(self, teacher: Signals, generator: torch.Generator, student: Signals | None = None) -> Views:
        """Zero views; what they stand for is kept for the target."""
        behind = self.inner.views(teacher, generator, student)
        bare_BVK, bare_BVC = teacher.logits_BK.unsqueeze(1)[:, :0], teacher.pooled_BC.unsqueeze(1)[:, :0]
        return BareViews(bare_BVK, bare_BVC, behind)

    @override
    def teach(self, teacher: Signals, student: Signals, batch: Batch) -> Teaching:
        """The controlled views' targets with other members; their penalties where their heads must train."""
        teacher = teacher.detach()
        if not self.solves:
            with torch.no_grad():
                given = self.inner.teach(teacher, student, batch)
            if self.match == "shrink":
                return Teaching(given.logit_targets, given.pooled_targets, {})
            return Teaching(_own(given.logit_targets, teacher), _own(given.pooled_targets, teacher), {})
        given = self.inner.teach(teacher, student, batch)
        log = self.log if self.training else None
        logits = self._solving(given.logit_targets, teacher, log)
        if self.match == "entropy":
            pooled: Sequence[WeightedTarget] = (WeightedTarget(1.0, Target.of(teacher)),)
        else:
            pooled = _own(given.pooled_targets, teacher)
        return Teaching(logits, pooled, given.penalties, given.gates)

    @override
    def evaluation_target(self, teacher: Signals, views: Views) -> Target:
        """The logit target actually used, from what stands behind the bare views."""
        assert isinstance(views, BareViews), "these views come from `views`"
        target = self.inner.evaluation_target(teacher, views.behind)
        if self.match == "shrink":
            return target
        if not self.solves:
            return own_output(target, teacher)
        return self._solving((WeightedTarget(1.0, target),), teacher, None)[0].target

    @override
    def warmup_penalties(self, teacher: Signals, batch: Batch) -> Terms:
        """Those of the controlled views where their heads must train."""
        return self.inner.warmup_penalties(teacher, batch) if self.solves else {}

    @override
    def warmup_learning_rate(self, epoch: int) -> float:
        """That of the controlled views."""
        return self.inner.warmup_learning_rate(epoch)

    @override
    def unused_in_warmup(self) -> frozenset[str]:
        """How the targets are matched."""
        return frozenset({"match"})

    @override
    def penalty_weights(self) -> Mapping[str, float]:
        """Those of the controlled views where their heads must train."""
        return self.inner.penalty_weights() if self.solves else {}

    @override
    def gates(self, teacher: Signals, views: Views) -> dict[str, Tensor]:
        """Those of the controlled views where their heads must train."""
        assert isinstance(views, BareViews), "these views come from `views`"
        return self.inner.gates(teacher, views.behind) if self.solves else {}

    @override
    @torch.no_grad()
    def measures(self) -> dict[str, float]:
        """The mean temperature that was solved for since the last call, beside the controlled views' own numbers."""
        return {**self.inner.measures(), **self.log.take()} if self.solves else {}

    def _solving(
        self, targets: Sequence[WeightedTarget], teacher: Signals, log: TemperatureLog | None
    ) -> Sequence[WeightedTarget]:
        """The teacher at the solved temperature: one target, or one for each with the members' weights."""
        views = tuple(WeightedTarget(weighted.weight, weighted.target.detach()) for weighted in targets)
        if self.match == "entropy":
            return (WeightedTarget(1.0, _at_solved(Target.of(teacher), views, log)),)
        own = _own(targets, teacher)
        return [WeightedTarget(weighted.weight, _at_solved(weighted.target, views, log)) for weighted in own]


@dataclass(frozen=True)
class BareViews(Views):
    """No views, and those that they stand for."""

    behind: Views

    @override
    def detach(self) -> Views:
        return BareViews(self.logits_BVK.detach(), self.pooled_BVC.detach(), self.behind.detach())


def own_output(target: Target, teacher: Signals) -> Target:
    """A target whose members all say what the teacher says; weights and temperature stay."""
    members = target.logits_BMK.shape[1]
    return replace(
        target,
        logits_BMK=teacher.logits_BK.unsqueeze(1).expand(-1, members, -1),
        pooled_BMC=teacher.pooled_BC.unsqueeze(1).expand(-1, target.pooled_BMC.shape[1], -1),
        weights_M=target.weights_M.detach(),
    )


def _own(targets: Sequence[WeightedTarget], teacher: Signals) -> Sequence[WeightedTarget]:
    return [WeightedTarget(weighted.weight, own_output(weighted.target, teacher)) for weighted in targets]


class TemperatureLog(torch.nn.Module):
    """Mean of solved temperatures, added up on their device."""

    sum_and_count_2: Tensor

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.register_buffer("sum_and_count_2", torch.zeros(2, device=device), persistent=False)

    @torch.no_grad()
    def note(self, temperature: Tensor) -> None:
        """Adds one."""
        self.sum_and_count_2[0] += temperature
        self.sum_and_count_2[1] += 1

    def take(self) -> dict[str, float]:
        """`matched_temperature`, and begins anew; empty where nothing was noted."""
        total, count = self.sum_and_count_2.tolist()
        self.sum_and_count_2.zero_()
        return {"matched_temperature": total / count} if count else {}


@dataclass(frozen=True)
class SolvedTarget(Target):
    """A target of the teacher alone that is as uncertain as other targets, at whatever temperature they are asked for.

    Attributes:
        views: those targets with their weights, without a gradient.
        log: where temperatures are noted; None: nowhere.
    """

    views: tuple[WeightedTarget, ...] = ()
    log: TemperatureLog | None = None

    @override
    def log_probabilities_BK(self, temperature: float, standardize: bool = False) -> Tensor:
        """Log of the teacher's probabilities at the solved temperature, times the sum of the members' weights."""
        wanted = mean_entropy(mixture_BK(self.views, temperature, standardize))
        logits_BMK = standardized(self.logits_BMK) if standardize else self.logits_BMK
        solved = solve_temperature(logits_BMK[:, 0], wanted)
        if self.log is not None:
            self.log.note(solved)
        return replace(self._plain(), logits_BMK=logits_BMK / solved).log_probabilities_BK(1.0)

    @override
    def divided(self, temperature: Tensor, standardize: bool = False) -> Target:
        """Views and teacher over the same temperature."""
        factor = temperature.detach()
        views = tuple(replace(view, target=view.target.divided(factor, standardize)) for view in self.views)
        logits_BMK = standardized(self.logits_BMK) if standardize else self.logits_BMK
        return replace(self, logits_BMK=logits_BMK / temperature, views=views)

    def _plain(self) -> Target:
        return Target(self.logits_BMK, self.pooled_BMC, self.weights_M)


def _at_solved(target: Target, views: tuple[WeightedTarget, ...], log: TemperatureLog | None) -> Target:
    return SolvedTarget(target.logits_BMK, target.pooled_BMC, target.weights_M, views=views, log=log)


@torch.no_grad()
def mixture_BK(targets: Sequence[WeightedTarget], temperature: float, standardize: bool = False) -> Tensor:
    """Probabilities of all targets together, scaled to sum 1, [B, K]."""
    weights = [weighted.weight for weighted in targets]
    logs_BK = [weighted.target.log_probabilities_BK(temperature, standardize) for weighted in targets]
    weighed = [weight * log_BK.float().exp() for weight, log_BK in zip(weights, logs_BK, strict=True)]
    total_BK: Tensor = torch.stack(weighed).sum(dim=0)
    return total_BK / total_BK.sum(dim=-1, keepdim=True)


@torch.no_grad()
def mean_entropy(p_BK: Tensor) -> Tensor:
    """Mean over the batch of the entropy in nats, a scalar."""
    entropy: Tensor = -torch.special.xlogy(p_BK, p_BK).sum(dim=-1).mean()
    return entropy


@torch.no_grad()
def solve_temperature(logits_BK: Tensor, wanted: Tensor) -> Tensor:
    """The temperature at which softmax(logits / T) has a mean entropy, as a scalar that stays on its device.

    The entropy rises with T, so that an interval of log T is narrowed a fixed number of times.

    Args:
        logits_BK: of one network.
        wanted: mean entropy in nats; beyond what the bounds COLDEST and HOTTEST give, the nearer one is the answer.
    """
    logits_BK = logits_BK.float()
    low: Tensor = logits_BK.new_tensor(math.log(COLDEST))
    width = math.log(HOTTEST / COLDEST)
    steps_G = torch.arange(1, TRIED + 1, device=logits_BK.device) / (TRIED + 1)
    for _ in range(ROUNDS):
        tried_G = (low + width * steps_G).exp()
        p_GBK = torch.softmax(logits_BK / tried_G[:, None, None], dim=-1)
        entropy_G = -torch.special.xlogy(p_GBK, p_GBK).sum(dim=-1).mean(dim=-1)
        low = low + width / (TRIED + 1) * (entropy_G < wanted).sum()
        width /= TRIED + 1
    return (low + width / 2).exp()

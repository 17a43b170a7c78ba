"""One teacher for each row: chosen by a policy, learned or fixed.

Shapes: B batch, M members (the main teacher and further ones), K classes, C feature width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from akdtune.columns import Column
from akdtune.errors import AkdtuneError
from akdtune.registry import ComponentSettings, register
from akdtune.signals import Batch, Signals, Target, Teaching, Terms, Views, WeightedTarget
from akdtune.views import ViewAugmenter, ViewContext
from akdtune.views._drawn import drawn_linear
from akdtune.views._teachers import equally_wide, side_by_side

LEARNED = ("exact", "reinforce")


class SelectorSettings(ComponentSettings):
    """Settings of `selector`."""

    policy: Literal["exact", "reinforce", "random", "entropy", "best", "oracle"] = Field(
        "exact",
        description="exact: learned, by the gradient of the expected reward, as every teacher's is known; reinforce:"
        " learned, by the reward of one teacher that is drawn; random: drawn; entropy: the surest teacher; best: the"
        " one that is right most often, the same for all rows; oracle: one that is right, by the right labels of"
        " training rows, a reference that no method may be",
    )
    hidden: PositiveInt = Field(32, description="width of the learned policy's hidden layer")
    entropy_weight: NonNegativeFloat = Field(0.01, description="weight of the learned policy's entropy")
    least_probability: float = Field(
        0.05, gt=0, lt=1, description="a reward is the log of a probability, taken as no smaller than this"
    )

    @override
    def idle(self) -> dict[str, str]:
        """What only learned policies have."""
        if self.policy in LEARNED:
            return {}
        return dict.fromkeys(("hidden", "entropy_weight", "least_probability"), f"policy is {self.policy}")


@dataclass(frozen=True)
class SelectedViews(Views):
    """All further teachers, and the share of each teacher in a row's target, [B, M]."""

    weights_BM: Tensor


@register("selector")
class Selector(ViewAugmenter):
    """Each row is taught by one of several teachers, whom a policy chooses.

    A learned policy is a perceptron on what is known of a row without its label: every teacher's probabilities and
    entropy, their disagreement, and the student's probabilities. The reward of teacher m is log P_m(label). Rewards
    come from labelled rows whose labels no teacher was told, as all teachers are right about those they trained on
    (column `rewarded`); where there are none (images), from all labelled rows, and then say little.

    exact: the student's target is the mixture of all teachers by the policy's probabilities pi, whose penalty is
        policy = -mean over rewarded rows of sum over m of pi_m log P_m(label).
    reinforce: the target is one teacher drawn from pi, and the penalty
        policy = -mean over rewarded rows of log pi_m (reward of the drawn one - mean reward of the batch).
    Both: entropy = -mean over rewarded rows of the policy's entropy.

    random draws a teacher for each row and batch anew. entropy takes the teacher of the smallest entropy. best takes
    the one that was right most often so far on the rows that rewards come from. oracle takes, by the right label of a
    training row, annotated or not, the surest of those who are right, and where nobody is, the one least wrong.

    In evaluation labels are not known: learned policies, entropy and best choose as in training, random and oracle
    weigh all teachers alike. Features can only be chosen among teachers that are as wide as the main one; the others'
    shares go to these. Methods that read maps are given the main teacher's.

    Differs: PKD's policy is a language model of two projectors, trained by PPO with a value function and a reward that
        mixes the losses of the student with accuracy; here it is a perceptron, the reward is the teacher's own
        likelihood of the label, and the gradient that of the expected reward. Its reward, whose equation could not be
        read, is not known exactly.

    Example:
        >>> views = Selector.alone(num_classes=10, teacher_dim=64, others_dims=[64], policy="entropy")
        >>> teacher = Signals.of(torch.randn(8, 10), torch.randn(8, 64), others=[Signals.random(8)])
        >>> teaching = views.teach(teacher, Signals.random(8), Batch.of(torch.arange(8)))
    """

    Settings = SelectorSettings
    source = "PKD, arXiv 2510.10116; Williams (REINFORCE), Machine Learning 1992"
    needs_student = True
    needs_others = True
    columns = (
        Column("selected_*", "share", "part of this teacher in the targets of training rows; 1 is the main teacher"),
        Column("rewarded", "share", "training rows that say which teacher is worth most: labelled, no teacher told"),
    )
    right_M: Tensor
    chosen_M: Tensor
    rows: Tensor

    def __init__(self, settings: SelectorSettings, context: ViewContext) -> None:
        super().__init__(settings, context)
        if not context.others_dims:
            raise AkdtuneError("views.name: selector needs further teachers: list them under teacher.others")
        self.settings = settings
        self.trains_jointly = settings.policy in LEARNED
        self.reads_right_labels = settings.policy == "oracle"
        self.members = 1 + len(context.others_dims)
        self.pooled_members = equally_wide(context)
        self.register_buffer("right_M", torch.zeros(self.members, device=context.device))
        self.register_buffer("chosen_M", torch.zeros(self.members, device=context.device), persistent=False)
        self.register_buffer("rows", torch.zeros(2, device=context.device), persistent=False)
        if self.trains_jointly:
            known = self.members * (context.num_classes + 1) + 1 + context.num_classes
            self.hidden = drawn_linear(known, settings.hidden, context.generator).to(context.device)
            self.choice = drawn_linear(settings.hidden, self.members, context.generator).to(context.device)

    @override
    @classmethod
    def draws(cls, settings: ComponentSettings) -> bool:
        """Whom to be taught by."""
        assert isinstance(settings, SelectorSettings)
        return settings.policy in ("random", "reinforce")

    @override
    def views(self, teacher: Signals, generator: torch.Generator, student: Signals | None = None) -> SelectedViews:
        """The further teachers, and whom the policy would choose without labels or draws."""
        assert student is not None, "these views need the student's signals"
        logits_BMK, pooled_BMC = side_by_side(teacher, self.pooled_members)
        policy = self.settings.policy
        if policy in LEARNED:
            weights_BM = self._log_policy_BM(logits_BMK, student).exp()
        elif policy in ("random", "oracle"):
            weights_BM = torch.full_like(logits_BMK[..., 0], 1 / self.members)
        else:
            weights_BM = self._fixed_BM(logits_BMK)
        return SelectedViews(logits_BMK[:, 1:], pooled_BMC[:, 1:], weights_BM)

    @override
    def teach(self, teacher: Signals, student: Signals, batch: Batch) -> Teaching:
        """One target, in which each row has its own teacher, and the policy's penalties."""
        logits_BMK, pooled_BMC = side_by_side(teacher.detach(), self.pooled_members)
        rewarded_B, rewards_BM = self._rewards(logits_BMK, batch)
        penalties: Terms = {}
        if self.trains_jointly:
            log_policy_BM = self._log_policy_BM(logits_BMK, student)
            weights_BM, penalties = self._learned(log_policy_BM, rewards_BM, rewarded_B, batch)
        elif self.settings.policy == "random":
            drawn_BM = torch.rand(logits_BMK.shape[:2], generator=batch.generator, device=logits_BMK.device)
            weights_BM = _only(drawn_BM)
        elif self.settings.policy == "oracle":
            weights_BM = self._oracle_BM(logits_BMK, batch)
        else:
            self._count(logits_BMK, rewarded_B, batch)
            weights_BM = self._fixed_BM(logits_BMK)
        self._log(weights_BM, rewarded_B)
        return Teaching(*self._targets(logits_BMK, pooled_BMC, teacher.pooled_BC.detach(), weights_BM), penalties)

    @override
    def penalty_weights(self) -> Mapping[str, float]:
        return {"policy": 1.0, "entropy": self.settings.entropy_weight} if self.trains_jointly else {}

    @override
    def evaluation_target(self, teacher: Signals, views: Views) -> Target:
        """What the chosen teachers say."""
        assert isinstance(views, SelectedViews), "these views come from `views`"
        logits_BMK = torch.cat([teacher.logits_BK.unsqueeze(1), views.logits_BVK], dim=1)
        return Target(logits_BMK, _repeated(teacher.pooled_BC, self.members), views.weights_BM)

    @override
    @torch.no_grad()
    def measures(self) -> dict[str, float]:
        """Shares of the teachers since the last call, and of the rows that rewards come from."""
        rows, rewarded = self.rows.tolist()
        shares = self.chosen_M.tolist()
        self.rows.zero_()
        self.chosen_M.zero_()
        if not rows:
            return {}
        of_each = {f"selected_{number}": share / rows for number, share in enumerate(shares, start=1)}
        return of_each | {"rewarded": rewarded / rows}

    def _log_policy_BM(self, logits_BMK: Tensor, student: Signals) -> Tensor:
        """Log-probability of each teacher, from what is known of a row without its label."""
        log_p_BMK, log_q_BK = logits_BMK.log_softmax(dim=-1), student.logits_BK.detach().log_softmax(dim=-1)
        p_BMK = log_p_BMK.exp()
        entropies_BM = -(p_BMK * log_p_BMK).sum(dim=-1)
        mean_log_BK = log_p_BMK.mean(dim=1)
        differ_B1 = (-entropies_BM - (p_BMK * mean_log_BK.unsqueeze(1)).sum(dim=-1)).sum(dim=1, keepdim=True).log1p()
        known = torch.cat([p_BMK.flatten(1), entropies_BM, differ_B1, log_q_BK.exp()], dim=1)
        log_policy_BM: Tensor = self.choice(functional.relu(self.hidden(known))).log_softmax(dim=-1)
        return log_policy_BM

    def _rewards(self, logits_BMK: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Which rows reward, as 0 and 1, [B], and how well each teacher does there, [B, M]."""
        rewarded_B = batch.labelled_B if batch.untaught_B is None else batch.untaught_B
        known_B = torch.ones_like(batch.labels_B, dtype=torch.bool) if rewarded_B is None else rewarded_B
        likely_BM = _of_labels(logits_BMK.log_softmax(dim=-1), batch.labels_B)
        return known_B.to(logits_BMK.dtype), likely_BM.clamp_min(torch.tensor(self.settings.least_probability).log())

    def _learned(
        self, log_policy_BM: Tensor, rewards_BM: Tensor, rewarded_B: Tensor, batch: Batch
    ) -> tuple[Tensor, Terms]:
        """Shares of the teachers in each row's target, and the penalties."""
        policy_BM = log_policy_BM.exp()
        unsure_B = -(policy_BM * log_policy_BM).sum(dim=1)
        if self.settings.policy == "exact":
            weights_BM = policy_BM.detach()
            expected_B = (policy_BM * rewards_BM).sum(dim=1)
        else:
            drawn_B1 = torch.multinomial(policy_BM.detach(), 1, generator=batch.generator)
            weights_BM = functional.one_hot(drawn_B1.squeeze(1), self.members).to(policy_BM.dtype)
            got_B = rewards_BM.gather(1, drawn_B1).squeeze(1)
            expected_B = log_policy_BM.gather(1, drawn_B1).squeeze(1) * (got_B - _mean(got_B, rewarded_B))
        return weights_BM, {"policy": -_mean(expected_B, rewarded_B), "entropy": -_mean(unsure_B, rewarded_B)}

    def _fixed_BM(self, logits_BMK: Tensor) -> Tensor:
        """The surest teacher, or the one that was right most often."""
        if self.settings.policy == "best":
            return _only(self.right_M.to(logits_BMK.dtype).expand(len(logits_BMK), -1))
        log_p_BMK = logits_BMK.log_softmax(dim=-1)
        return _only((log_p_BMK.exp() * log_p_BMK).sum(dim=-1))

    def _oracle_BM(self, logits_BMK: Tensor, batch: Batch) -> Tensor:
        if batch.right_labels_B is None:
            raise AkdtuneError("the policy oracle reads the right labels: give the batch right_labels_B")
        likely_BM = _of_labels(logits_BMK.softmax(dim=-1), batch.right_labels_B)
        return _only(likely_BM + (logits_BMK.argmax(dim=-1) == batch.right_labels_B.unsqueeze(1)))

    @torch.no_grad()
    def _count(self, logits_BMK: Tensor, rewarded_B: Tensor, batch: Batch) -> None:
        if self.training:
            right_BM = logits_BMK.argmax(dim=-1) == batch.labels_B.unsqueeze(1)
            self.right_M += (right_BM * rewarded_B.unsqueeze(1)).sum(dim=0)

    @torch.no_grad()
    def _log(self, weights_BM: Tensor, rewarded_B: Tensor) -> None:
        self.chosen_M += weights_BM.sum(dim=0)
        self.rows += torch.stack([torch.ones_like(rewarded_B).sum(), rewarded_B.sum()])

    def _targets(
        self, logits_BMK: Tensor, pooled_BMC: Tensor, main_BC: Tensor, weights_BM: Tensor
    ) -> tuple[tuple[WeightedTarget, ...], tuple[WeightedTarget, ...]]:
        """The target of methods that consume logits, and of those that consume features."""
        of_logits = Target(logits_BMK, _repeated(main_BC, self.members), weights_BM)
        members = list(self.pooled_members)  # columns one by one: a list of places would be copied to the device
        left_BM = torch.stack([weights_BM[:, index] for index in members], dim=1)
        total_B1 = left_BM.sum(dim=1, keepdim=True)
        main_BM = functional.one_hot(torch.zeros_like(total_B1[:, 0], dtype=torch.int64), len(members))
        shares_BM = torch.where(total_B1 > 0, left_BM / total_B1.clamp_min(torch.finfo(left_BM.dtype).tiny), main_BM)
        with_features_BMK = torch.stack([logits_BMK[:, index] for index in members], dim=1)
        of_features = Target(with_features_BMK, pooled_BMC, shares_BM)
        return (WeightedTarget(1.0, of_logits),), (WeightedTarget(1.0, of_features),)


def _only(scores_BM: Tensor) -> Tensor:
    """1 for the member of the largest score, the first of several, and 0 for the others."""
    return functional.one_hot(scores_BM.argmax(dim=1), scores_BM.shape[1]).to(scores_BM.dtype)


def _of_labels(values_BMK: Tensor, labels_B: Tensor) -> Tensor:
    """Each member's value of the label, [B, M]; that of class 0 for a row without one."""
    index_BM1 = labels_B.clamp_min(0)[:, None, None].expand(-1, values_BMK.shape[1], 1)
    return values_BMK.gather(2, index_BM1).squeeze(2)


def _mean(values_B: Tensor, counted_B: Tensor) -> Tensor:
    """Mean over the rows that count; 0 where none does."""
    return (values_B * counted_B).sum() / counted_B.sum().clamp_min(1)


def _repeated(pooled_BC: Tensor, members: int) -> Tensor:
    return pooled_BC.unsqueeze(1).expand(-1, members, -1)

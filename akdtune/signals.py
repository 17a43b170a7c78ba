"""What networks say about a batch, and what a student is asked to imitate.

Shapes: B batch, V views, M members (teacher and views), K classes, C feature width, H, W map size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import torch
from torch import Tensor

Terms: TypeAlias = dict[str, Tensor]
"""Unweighted named loss terms, each a scalar."""


def tempered(logits: Tensor, temperature: float) -> Tensor:
    """Logits over a temperature; the logits themselves at temperature 1, the most frequent one."""
    return logits if temperature == 1 else logits / temperature


@dataclass(frozen=True)
class Signals:
    """What a network says about a batch.

    Attributes:
        logits_BK: class scores before any softmax.
        pooled_BC: pooled (penultimate) feature.
        stages: stage maps after their ReLU, stem first, each [B, C, H, W]; None unless asked for.
        preact_stages: the same maps before their ReLU, where the network has them; None unless asked for.
    """

    logits_BK: Tensor
    pooled_BC: Tensor
    stages: tuple[Tensor, ...] | None = None
    preact_stages: tuple[Tensor, ...] | None = None

    def detach(self) -> Signals:
        """The same numbers without a gradient."""
        cut = None if self.stages is None else tuple(stage.detach() for stage in self.stages)
        preact = None if self.preact_stages is None else tuple(stage.detach() for stage in self.preact_stages)
        return Signals(self.logits_BK.detach(), self.pooled_BC.detach(), cut, preact)


@dataclass(frozen=True)
class Batch:
    """One training batch besides its images.

    Attributes:
        labels_B: the labels this trial trains on (with label noise, if any), int64.
        sample_ids_B: index of each image in the whole stored training split, stable across subsets.
        positions_B: row of each image in this trial's training subset (memory banks are indexed by it).
        epoch: student epoch, counted from 1; warm-up epochs of view heads count from 1 on their own.
        generator: source of every random draw of views and methods; on the device of the batch.
    """

    labels_B: Tensor
    sample_ids_B: Tensor
    positions_B: Tensor
    epoch: int
    generator: torch.Generator


@dataclass(frozen=True)
class Views:
    """Augmented versions of one teacher's knowledge: view logits [B, V, K] and view features [B, V, C]."""

    logits_BVK: Tensor
    pooled_BVC: Tensor

    def detach(self) -> Views:
        """The same numbers without a gradient."""
        return Views(self.logits_BVK.detach(), self.pooled_BVC.detach())

    @property
    def num_views(self) -> int:
        """V; 0 for a plain teacher."""
        return self.logits_BVK.shape[1]


@dataclass(frozen=True)
class Target:
    """What the student is asked to imitate: a weighted mixture of M members' probabilities and features.

    Attributes:
        logits_BMK: logits of each member.
        pooled_BMC: pooled feature of each member.
        weights_M: mixture weights. They sum to 1 in a proper mixture; the `released` ensemble of Angular-KD does not
            normalise them, so its "probabilities" sum to more than 1 (METHODS 2.4).
        temperature: softmax temperature of the members; None = the temperature the method asks for.
        stages: the teacher's stage maps where a method asked for them.
    """

    logits_BMK: Tensor
    pooled_BMC: Tensor
    weights_M: Tensor
    temperature: float | None = None
    stages: tuple[Tensor, ...] | None = None

    @classmethod
    def of(cls, signals: Signals) -> Target:
        """The plain teacher (or any single network) as a target."""
        one = signals.logits_BK.new_ones(1)
        return cls(signals.logits_BK.unsqueeze(1), signals.pooled_BC.unsqueeze(1), one, stages=signals.stages)

    def log_probabilities_BK(self, temperature: float) -> Tensor:
        """Log of the mixture of the members' tempered probabilities, [B, K]; exact for one member."""
        at = temperature if self.temperature is None else self.temperature
        log_members_BMK = torch.log_softmax(tempered(self.logits_BMK, at), dim=-1)
        return torch.logsumexp(log_members_BMK + self.weights_M.log()[None, :, None], dim=1)

    def probabilities_BK(self, temperature: float) -> Tensor:
        """The mixture of the members' tempered probabilities, [B, K]."""
        return self.log_probabilities_BK(temperature).exp()

    @property
    def pooled_BC(self) -> Tensor:
        """The mixture of the members' features, [B, C]."""
        return torch.einsum("m,bmc->bc", self.weights_M, self.pooled_BMC)

    def detach(self) -> Target:
        """The same target without a gradient to the views."""
        return replace(self, logits_BMK=self.logits_BMK.detach(), pooled_BMC=self.pooled_BMC.detach())


@dataclass(frozen=True)
class WeightedTarget:
    """A target and its weight in a sum over targets (one entry of weight 1 for an ensemble)."""

    weight: float
    target: Target


@dataclass(frozen=True)
class Teaching:
    """What a view augmenter offers to the objective for one batch.

    Attributes:
        logit_targets: targets of methods that consume logits; their terms are summed with the given weights.
        pooled_targets: targets of methods that consume the pooled feature (and stage maps).
        penalties: unweighted losses of the view heads; empty for views without parameters.
        gates: share of this batch whose diversity gate is open, keys `feature` and `logit`; empty without gates.
    """

    logit_targets: Sequence[WeightedTarget]
    pooled_targets: Sequence[WeightedTarget]
    penalties: Terms
    gates: Terms = field(default_factory=dict)

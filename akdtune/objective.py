"""Weights times named terms: the only place where losses are multiplied and summed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from akdtune.methods import Method
from akdtune.signals import Batch, Signals, Terms
from akdtune.views import ViewAugmenter


class Loss(NamedTuple):
    """What one batch costs: the weighted total, the unweighted terms, the open share of each gate."""

    total: Tensor
    terms: Terms
    gates: Terms


class Objective(nn.Module):
    """Cross-entropy plus any sum of base methods, each over the targets that the views offer, plus view penalties.

    total = ce_weight * CE + sum over methods m, terms t, targets i of  weight(m, t, epoch) * weight(i) * term(m, t, i)
            + sum over penalties p of  weight(p) * penalty(p)
    """

    def __init__(self, methods: Mapping[str, Method], views: ViewAugmenter, ce_weight: float) -> None:
        super().__init__()
        self.methods = nn.ModuleDict(dict(methods))
        self.views = views
        self.ce_weight = ce_weight

    @property
    def needs_stages(self) -> bool:
        """Whether any method reads stage maps."""
        return any(method.needs_stages for method in self._methods().values())

    def forward(self, student: Signals, teacher: Signals, batch: Batch) -> Loss:
        """The weighted total, every unweighted term, and the open share of the views' gates.

        Terms are named `ce`, `<method>` or `<method>.<term>`, and `views.<penalty>`. A method that is summed over
        several targets logs their weighted sum divided by the sum of weights, so that the number of views does not
        change its scale in the log; the total holds the sum itself.
        """
        teacher = teacher.detach()  # frozen, whatever a view or a method does with it
        teaching = self.views.teach(teacher, student, batch)
        terms: Terms = {"ce": nn.functional.cross_entropy(student.logits_BK, batch.labels_B)}
        weighted = [(self.ce_weight, terms["ce"])]
        for name, method in self._methods().items():
            targets = teaching.logit_targets if method.consumes == "logits" else teaching.pooled_targets
            parts = [method.terms(student, one.target, batch) for one in targets]
            shares = [one.weight for one in targets]
            for term, weight in method.weights(batch.epoch).items():
                found = [part[term] for part in parts]
                weighted += [(weight * share, value) for share, value in zip(shares, found, strict=True)]
                logged = found[0] if len(found) == 1 else dot(shares, found) / sum(shares)
                terms[name if term == name else f"{name}.{term}"] = logged
        weights = self.views.penalty_weights()
        weighted += [(weights[name], value) for name, value in teaching.penalties.items()]
        total = dot(*zip(*weighted, strict=True))
        terms.update({f"views.{name}": value for name, value in teaching.penalties.items()})
        return Loss(total, terms, teaching.gates)

    def after_step(self) -> None:
        """Lets methods update their memory banks, after backward and the optimiser step."""
        for method in self._methods().values():
            method.after_step()

    def trained_parameters(self) -> Sequence[nn.Parameter]:
        """Parameters that train beside the student: the methods' own, and the views' where they train jointly."""
        own = [parameter for method in self._methods().values() for parameter in method.parameters()]
        views = list(self.views.parameters()) if self.views.trains_jointly else []
        return [parameter for parameter in own + views if parameter.requires_grad]

    def _methods(self) -> dict[str, Method]:
        return {name: method for name, method in self.methods.items() if isinstance(method, Method)}


def weighted_sum(terms: Terms, weights: Mapping[str, float]) -> Tensor | None:
    """Sum of weight times term over all terms, None without terms; every term must have a weight."""
    return dot([weights[name] for name in terms], list(terms.values())) if terms else None


def dot(weights: Sequence[float], values: Sequence[Tensor]) -> Tensor:
    """Sum of weight times scalar, in two operations however many there are."""
    stacked = torch.stack(tuple(values))
    return stacked @ _weights(tuple(weights), stacked.dtype, stacked.device)


@lru_cache(maxsize=256)
def _weights(weights: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Kept, as numbers that go to a GPU anew make the next step wait for the last one."""
    return torch.tensor(weights, dtype=dtype, device=device)

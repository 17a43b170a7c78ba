"""Weights times named terms: the only place where losses are multiplied and summed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
        total = self.ce_weight * terms["ce"]
        for name, method in self._methods().items():
            targets = teaching.logit_targets if method.consumes == "logits" else teaching.pooled_targets
            strength = sum(weighted.weight for weighted in targets)
            parts = [(weighted.weight, method.terms(student, weighted.target, batch)) for weighted in targets]
            for term, weight in method.weights(batch.epoch).items():
                summed = torch.stack([of_target * found[term] for of_target, found in parts]).sum()
                total = total + weight * summed
                terms[name if term == name else f"{name}.{term}"] = summed / strength
        penalties = weighted_sum(teaching.penalties, self.views.penalty_weights())
        if penalties is not None:
            total = total + penalties
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
    parts = [weights[name] * value for name, value in terms.items()]
    return torch.stack(parts).sum() if parts else None

"""The clients of a federated trial as teachers of the server's network."""

# Shapes: B batch, K classes, C feature width, M members.

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from typing_extensions import override

from akdtune.errors import AkdtuneError
from akdtune.registry import ComponentSettings, register
from akdtune.signals import Batch, Signals, Target, Teaching, Views, WeightedTarget
from akdtune.views import ViewAugmenter, ViewContext


@register("clients")
class Clients(ViewAugmenter):
    """What all clients say, as equals: one target of logits, and one of features for each architecture.

    Features of different architectures have nothing in common, not even their width, so that each architecture is a
    target of its own: the mean over its clients, weighed by their number. A method that reads features needs a part of
    its own for each of them.

    Example:
        >>> views = Clients.alone(num_classes=10, others_dims=[64, 64])
        >>> teacher = Signals.of(torch.randn(8, 10), others=[Signals.random(8), Signals.random(8)])
        >>> teaching = views.teach(teacher, Signals.random(8), Batch.of(torch.arange(8)))
    """

    source = (
        "logits: Lin et al. (FedDF), NeurIPS 2020, arXiv 2006.07242; features: Li et al. (FedFD), 2025, arXiv"
        " 2507.10348"
    )
    needs_others = True
    of_clients = True
    several_widths = True

    class Settings(ComponentSettings):
        """Settings of `clients`."""

        logits: Literal["mean_logits", "mean_probabilities"] = Field(
            "mean_logits", description="mean_logits: of FedDF; mean_probabilities: the mixture of what each client says"
        )

    def __init__(self, settings: Clients.Settings, context: ViewContext) -> None:
        super().__init__(settings, context)
        self.settings = settings
        clients = len(context.others_dims)
        if not clients:
            raise AkdtuneError("views.name: clients needs clients: task federated has them")
        alike = context.others_alike or tuple(range(clients))
        by_kind = {kind: [index for index in range(clients) if alike[index] == kind] for kind in dict.fromkeys(alike)}
        self.members = tuple(by_kind.values())
        """Places of the clients of each architecture."""
        self.pooled_dims = tuple(context.others_dims[first] for first, *_ in self.members)

    @override
    def views(self, teacher: Signals, generator: torch.Generator, student: Signals | None = None) -> Views:
        """The logits of each client; features, which have no width in common, are left out."""
        logits_BMK = torch.stack([client.logits_BK for client in teacher.others], dim=1)
        return Views(logits_BMK, teacher.pooled_BC.unsqueeze(1)[:, :0])

    @override
    def teach(self, teacher: Signals, student: Signals, batch: Batch) -> Teaching:
        """One target of all logits, one of features for each architecture."""
        others = teacher.detach().others
        pooled = []
        for place, members in enumerate(self.members):
            logits_BK = torch.stack([others[index].logits_BK for index in members]).mean(dim=0)
            pooled_BC = torch.stack([others[index].pooled_BC for index in members]).mean(dim=0)
            target = Target(logits_BK.unsqueeze(1), pooled_BC.unsqueeze(1), logits_BK.new_ones(1), place=place)
            pooled.append(WeightedTarget(len(members) / len(others), target))
        together = self._together(torch.stack([client.logits_BK for client in others], dim=1))
        return Teaching((WeightedTarget(1.0, together),), pooled, {})

    @override
    def evaluation_target(self, teacher: Signals, views: Views) -> Target:
        """What all clients together say."""
        return self._together(views.logits_BVK)

    def _together(self, logits_BMK: torch.Tensor) -> Target:
        if self.settings.logits == "mean_logits":
            logits_BMK = logits_BMK.mean(dim=1, keepdim=True)
        members = logits_BMK.shape[1]
        without_features = logits_BMK[:, :, :0]
        return Target(logits_BMK, without_features, logits_BMK.new_full((members,), 1 / members))

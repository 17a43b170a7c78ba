"""How a federated trial is judged: by the server's network on all images, or by its clients, each on its own classes.

Shapes: N images of a split, C clients, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from typing_extensions import override

from akdtune import networks
from akdtune.columns import Column
from akdtune.data.row_sets import RowSplit, Splits
from akdtune.devices import float32_as_set
from akdtune.networks import Network
from akdtune.training.config import TrialConfig
from akdtune.training.evaluation import Evaluation, Predictions
from akdtune.training.objective import Objective

CLIENT_STRIDE = 10_000_000
"""A row of a client's predictions has the number of its image plus this for each client before it."""

CLIENT_COLUMNS = (
    Column(
        "client_accuracy_mean",
        "percent",
        "mean over clients of their accuracy on validation images of the classes that they have, after local training",
    ),
    Column("client_accuracy_min", "percent", "lowest of these accuracies"),
    Column("client_accuracy_sd", "percent", "standard deviation of these accuracies over clients"),
    Column(
        "server_accuracy", "percent", "accuracy of the server's network on validation images, where clients are judged"
    ),
)
"""What is measured of clients."""


class FederatedEvaluation(Evaluation):
    """What is measured of a federated trial.

    Args:
        config, splits, student, objective: as of any trial; the student is the server's network.
        clients: their networks, which go on training.
        has_CK: whether a client has images of a class, bool.
        judged_by_clients: whether the metric is the mean accuracy of the clients.
    """

    def __init__(
        self,
        config: TrialConfig,
        splits: Splits[RowSplit],
        student: Network,
        objective: Objective,
        clients: Sequence[Network],
        has_CK: Tensor,
        judged_by_clients: bool,
    ) -> None:
        super().__init__(config, splits, student, objective, None)
        self.clients, self.has_CK, self.judged_by_clients = clients, has_CK, judged_by_clients

    @override
    @torch.no_grad()
    def measure(self, split: RowSplit, of_views: bool = True) -> dict[str, float | None]:
        """The metric under its own name, and what is measured of clients."""
        row = super().measure(split, of_views)
        accuracies_C = self.client_accuracies(self.client_logits(split), split)
        known = accuracies_C[~accuracies_C.isnan()]
        row |= {
            "client_accuracy_mean": float(known.mean()),
            "client_accuracy_min": float(known.min()),
            "client_accuracy_sd": float(known.std()) if len(known) > 1 else None,
        }
        if self.judged_by_clients:
            row |= {"server_accuracy": row[self.task.metric.name], self.task.metric.name: row["client_accuracy_mean"]}
        return row

    @torch.no_grad()
    def client_logits(self, split: RowSplit) -> Tensor:
        """What every client says about plain images, [C, N, K]."""
        with float32_as_set(split.labels_N.device, self.config.training.tf32):
            said = [networks.predict(client.eval(), split, split.at_once) for client in self.clients]
        return torch.stack(said)

    def client_accuracies(self, logits_CNK: Tensor, split: RowSplit) -> Tensor:
        """Percent of a client's own images that it classifies rightly, float64 [C]; not a number where it has none."""
        own_CN = self.has_CK[:, split.labels_N]
        right_CN = (logits_CNK.argmax(dim=2) == split.labels_N) & own_CN
        return 100 * right_CN.sum(dim=1).double() / own_CN.sum(dim=1).double()

    @override
    @torch.no_grad()
    def close(self) -> tuple[dict[str, float | None], Predictions]:
        """The last reading; of judged clients every image is a row for each, grouped by client."""
        if not self.judged_by_clients:
            return super().close()
        split, metric = self.judged, self.task.metric
        logits_CNK = self.client_logits(split)
        clients, images, _ = logits_CNK.shape
        accuracies_C = self.client_accuracies(logits_CNK, split)
        row: dict[str, float | None] = {}
        if split is self.splits.test:
            row[metric.test] = float(accuracies_C[~accuracies_C.isnan()].mean())
        client_C = torch.arange(clients, device=logits_CNK.device)
        ids_CN = split.sample_ids_N + CLIENT_STRIDE * client_C[:, None]
        rows = logits_CNK.flatten(0, 1).cpu(), self._values(logits_CNK, split).flatten().cpu()
        groups = client_C.repeat_interleave(images).cpu()
        return row, Predictions(ids_CN.flatten().cpu(), split.labels_N.repeat(clients).cpu(), *rows, groups)

    def _values(self, logits_CNK: Tensor, split: RowSplit) -> Tensor:
        """What each row contributes, [C, N], so that the mean over all rows is the mean accuracy of the clients.

        An image of a class that the client has not counts 0, one that it has and classifies rightly the more the fewer
        it has. Every trial then has the same rows, whatever its partition.
        """
        own_CN = self.has_CK[:, split.labels_N]
        right_CN = (logits_CNK.argmax(dim=2) == split.labels_N) & own_CN
        own_C = own_CN.sum(dim=1).double()
        counted = int((own_C > 0).sum())
        share_C = torch.where(own_C > 0, own_CN.shape[1] * len(own_C) / counted / own_C, 0.0)
        return (100 * right_CN.double() * share_C[:, None]).float()

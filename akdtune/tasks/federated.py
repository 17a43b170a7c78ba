"""Federated training of images: clients with images of their own, and a server that learns from their networks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from typing_extensions import override

from akdtune.columns import Column
from akdtune.data.row_sets import RowSplit, Splits
from akdtune.federated.evaluation import CLIENT_COLUMNS
from akdtune.federated.partition import partition
from akdtune.federated.settings import Average, ByArchitecture, FederatedSettings, network_key
from akdtune.federated.trial import ROUND_COLUMNS, FederatedTrial, client_networks
from akdtune.networks import Network
from akdtune.registry import NO_NETWORK, lookup, network_name, register
from akdtune.settings.domains import Issue
from akdtune.settings.trial import of_another_kind
from akdtune.signals import Spec
from akdtune.tasks.image import Accuracies
from akdtune.training.task import Meter, Task

NAME = "federated"

SPARE = 8
"""So many times the minimum of its clients makes a pool from which uneven shares leave each its minimum."""

NOT_HERE: Mapping[str, tuple[Any, str]] = {
    "precision": ("fp32", "clients and server train in float32"),
    "compile": (False, "it has many networks, which would each be compiled"),
    "cuda_graphs": (False, "its rounds are not recorded"),
}
"""Settings of `training` that it takes one value of, and why."""


@register(NAME)
class FederatedTask(Task):
    """Clients train on their own images; the student is the server's network. An epoch is a round."""

    further: ClassVar[Sequence[Column]] = (*CLIENT_COLUMNS, *ROUND_COLUMNS)
    Trial = FederatedTrial
    has_clients = True
    keeps_more = False
    Settings = FederatedSettings

    @override
    def meter(self) -> Meter:
        return Accuracies()

    @property
    def _own(self) -> FederatedSettings:
        assert isinstance(self.settings, FederatedSettings)
        return self.settings

    @override
    def clients(self, inputs: Spec) -> Sequence[Network]:
        """As they begin with any seed."""
        return client_networks(self._own, None, inputs)

    @property
    @override
    def others_alike(self) -> Sequence[int]:
        return self._own.alike

    @property
    @override
    def smallest_pool(self) -> int:
        """The proxy images, and enough for a Dirichlet draw to leave every client its minimum."""
        return self._own.proxy + SPARE * self._own.clients * self._own.minimum

    @override
    def check_splits(self, splits: Splits[RowSplit]) -> None:
        """Refuses a pool that is too small for its clients and the server."""
        train, seed = splits.train, self._own.split_seed or 0
        partition(train.training_labels_N.cpu().numpy(), train.sample_ids_N.cpu().numpy(), self._own, seed)

    @classmethod
    @override
    def misfits(cls, settings: Mapping[str, Any], study: Mapping[str, Any]) -> Iterator[Issue]:
        own = FederatedSettings(**{key: value for key, value in study["task"].items() if key != "name"})
        for index, network in enumerate(own.networks):
            yield from of_another_kind(("task", "networks", index), network, NAME, cls.takes)
        teacher = network_name((study.get("teacher") or {"network": NO_NETWORK})["network"])
        if teacher != NO_NETWORK:
            yield (
                ("teacher", "network"),
                f"the clients of the task '{NAME}' teach: it must be {NO_NETWORK}, got '{teacher}'",
            )
        yield from _of_training(settings.get("training") or {})
        if settings.get("student", {}).get("checkpoint") is not None:
            yield ("student", "checkpoint"), f"server and clients of the task '{NAME}' begin untrained: it must be null"
        yield from _of_methods(settings, own)


def _of_training(training: Mapping[str, Any]) -> Iterator[Issue]:
    for key, (only, why) in NOT_HERE.items():
        if training.get(key, only) != only:
            yield ("training", key), f"cannot be {training[key]!r} in the task '{NAME}': {why}"
    if training.get("optimizer") == "dot":
        yield ("training", "optimizer"), f"dot cannot work with the task '{NAME}': no loss has both parts that it parts"
    if training.get("ce_weight") not in (None, 1.0):
        yield (
            ("training", "ce_weight"),
            f"clients of the task '{NAME}' train by cross-entropy alone and proxy images have no labels: it must be "
            f"null or 1, got {training['ce_weight']:g}",
        )


def _of_methods(settings: Mapping[str, Any], own: FederatedSettings) -> Iterator[Issue]:
    """What the server would learn nothing by, or what needs labels."""
    components = {term["name"]: lookup("methods", term["name"]) for term in settings["method"]}
    if "selection" in settings:
        chosen = settings["selection"]["name"]
        yield ("selection",), f"'{chosen}' cannot work with the task '{NAME}': the server learns from all proxy images"
    reading = [name for name, component in components.items() if component.consumes != "self"]
    for name, component in components.items():
        if component.overlaps_batches or component.replaces_logits:
            yield ("method",), f"'{name}' cannot work with the task '{NAME}': it goes beyond what is said of a batch"
        if component.consumes == "self" and component.Settings.model_fields:
            yield ("method",), f"'{name}' cannot work with the task '{NAME}': the server learns from clients alone"
        if component.reads_labels and component.consumes != "self":
            yield ("method",), f"'{name}' reads labels, and the proxy images of the task '{NAME}' have none"
    if reading and settings["views"]["name"] == "none":
        yield (
            ("views",),
            f"'{reading[0]}' needs teachers, and in the task '{NAME}' the clients teach: the views must be clients",
        )
    if reading and not own.proxy:
        yield (
            ("task", "proxy"),
            f"is 0, and '{reading[0]}' distils the clients on proxy images: give a number, or the method student_only",
        )
    student = settings.get("student")
    if own.judged == "server" and not reading and student is not None and not _server_learns(own, student["network"]):
        yield (
            ("task", "judged"),
            f"is server, whose network would learn nothing: aggregate is {own.aggregate.name}, and 'student_only' "
            "reads no teacher; judge the clients, or distil them",
        )


def _server_learns(own: FederatedSettings, server: str | Mapping[str, Any]) -> bool:
    """Whether weights of clients reach the server's network as a whole."""
    if isinstance(own.aggregate, ByArchitecture):
        return network_key(server) in map(network_key, own.networks)
    return isinstance(own.aggregate, Average)

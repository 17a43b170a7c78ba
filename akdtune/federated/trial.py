"""One federated trial: clients train on their own images, a server learns from their networks, and answers them.

A round is an epoch. It begins with what the server sent at the end of the last one: clients take it up, train on their
own images alone, and the server makes of their networks what `task.aggregate` says; then, where a method reads
teachers, it distils the clients on its proxy images, through the same objective as any trial. Clients are judged as
they are after their training. Everything random is drawn by (seed, round, client, name of who draws).

Shapes: N images, B batch, C clients, K classes.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from akdtune import networks
from akdtune.columns import Column, joined
from akdtune.data.row_sets import Loaded, RowDataSet, RowSplit
from akdtune.data.splits import Split
from akdtune.devices import float32_as_set, resolve_device, seed_draws
from akdtune.federated.aggregation import Upload, cut_out, draw_together, mean_state, met_in, returned, uploads
from akdtune.federated.evaluation import FederatedEvaluation
from akdtune.federated.layers import layers_of
from akdtune.federated.partition import partition
from akdtune.federated.settings import Average, ByArchitecture, FederatedSettings, LayerWise, network_key
from akdtune.networks import Network
from akdtune.randomness import STREAMS, derived_seed
from akdtune.signals import UNLABELLED, Batch, Inputs, Signals
from akdtune.training.config import TrialConfig
from akdtune.training.evaluation import Evaluation, Predictions, held_out_columns
from akdtune.training.limits import TrialLimits
from akdtune.training.loop import Epoch, Interrupted, Sums, finite_means, peak_memory_mib, timed_steps
from akdtune.training.measures import percent_right
from akdtune.training.objective import cross_entropy
from akdtune.training.optimizers import build_optimizer, set_learning_rate
from akdtune.training.parts import build_parts
from akdtune.training.recording import Recording
from akdtune.training.row_order import InOtherOrder
from akdtune.training.states import copied, lay_out
from akdtune.training.trial import TRAINING_COLUMNS

ROUND_COLUMNS = (
    Column(
        "round_change",
        "percent",
        "absolute change of the validation metric from the round before, null in the first",
        "mean",
    ),
    Column("layers_returned", "", "layers that a client gets back at the end of a round, mean over clients", "mean"),
    Column("knowledge_gain", "nats", "entropy of the server's layers minus that of uploaded ones, mean (KGE)", "mean"),
)
"""What is measured of a round."""

ShouldStop = Callable[[], bool]


def client_networks(settings: FederatedSettings, config: TrialConfig | None, inputs: Any) -> list[Network]:
    """The networks of all clients as they begin: alike within an architecture, and like the server's of theirs.

    Args:
        settings: architectures, and how many clients.
        config: of the trial, for its seed; None: any weights will do.
        inputs: what they are built for.
    """
    seed = 0 if config is None else config.seeds.init
    server = None if config is None else network_key(config.student.network)
    built = []
    for client in range(settings.clients):
        network = settings.network(client)
        key = network_key(network)
        own = derived_seed("student", seed) if key == server else derived_seed("client", key, seed)
        built.append(networks.build(network, inputs, own))
    return built


@dataclass
class Client:
    """One client.

    Attributes:
        network: which trains, and which the server asks.
        forward: the same, with its rows in another order where `seeds.rounding` says so.
        images: its own.
        architecture: a number, the same for clients alike.
        download: what the server sent, taken up when the next round begins; by name in the network's state.
    """

    network: Network
    forward: Callable[[Inputs, bool], Signals]
    images: Split
    architecture: int
    download: dict[str, Tensor]


class FederatedTrial:
    """The parts of one federated trial; see `akdtune.training.loop.TrialLoop`.

    Attributes:
        clients: with their networks and images.
        proxy: the server's images; None where it has none.
        student: the server's network.
    """

    def __init__(
        self,
        config: TrialConfig,
        stand_ins: Sequence[Network] = (),
        dataset: RowDataSet | None = None,
        *,
        limits: TrialLimits | None = None,
    ) -> None:
        settings = config.task.settings
        assert isinstance(settings, FederatedSettings), "the task has these"
        self.config, self.settings, self.streams = config, settings, STREAMS
        self.device = resolve_device(config.training.device)
        data = config.task.load(config.data, self.device) if dataset is None else dataset
        self.dataset = data.under(config.training.augmentation, "training.augmentation")
        splits = self.dataset.split(config.train_on)
        pool = splits.train
        assert isinstance(pool, Split), "the task takes images"
        ids, labels = (values.cpu().numpy() for values in (pool.sample_ids_N, pool.training_labels_N))
        seed = config.seeds.order if settings.split_seed is None else settings.split_seed
        dealt = partition(labels, ids, settings, seed)
        own = [network.to(self.device) for network in client_networks(settings, config, self.dataset.inputs)]
        self.clients = [
            Client(network, self._forward(network), pool.chosen(torch.from_numpy(rows)), kind, {})
            for network, rows, kind in zip(own, dealt.clients, settings.alike, strict=True)
        ]
        self.proxy = pool.chosen(torch.from_numpy(dealt.proxy)) if settings.proxy else None
        unlabelled_N = torch.full((settings.proxy,), UNLABELLED, device=self.device)
        self.objective, self.student = build_parts(config, None, own, self.dataset, unlabelled_N)
        self.objective.ce_weight = 0.0  # proxy images have no labels
        self.distils = self.objective.needs_teacher
        self._server_forward = self._forward(self.student)
        trained = [*self.student.parameters(), *self.objective.trained_parameters()]
        self.optimizer = build_optimizer(config.training, trained)
        self._streams = tuple((name, torch.Generator(self.device)) for name in self.objective.streams)
        has_CK = torch.stack(
            [torch.bincount(of.images.labels_N, minlength=self.dataset.num_classes) > 0 for of in self.clients]
        )
        by_clients = settings.judged == "clients"
        self.evaluation: Evaluation = FederatedEvaluation(
            config, splits, self.student, self.objective, own, has_CK, by_clients
        )
        self._last: float | None = None

    def _forward(self, network: Network) -> Callable[[Inputs, bool], Signals]:
        rounding = self.config.seeds.rounding
        return InOtherOrder(network, rounding) if rounding else network

    @property
    def train_images(self) -> int:
        """How many images clients have, each once."""
        return sum(len(client.images) for client in self.clients)

    @property
    def steps(self) -> int:
        """Updates of a round, by all clients and the server."""
        size = self.config.training.batch_size
        of_clients = sum(math.ceil(len(client.images) / size) for client in self.clients)
        of_server = math.ceil(self.settings.proxy / size) if self.distils else 0
        return of_clients * self.settings.local_epochs + of_server * self.settings.server_epochs

    @property
    def epochs(self) -> dict[str, int]:
        """Rounds."""
        return {"warmup": 0, "student": self.config.training.epochs}

    @property
    def columns(self) -> tuple[Column, ...]:
        """What the rows of its rounds, and the last reading, hold."""
        return joined(TRAINING_COLUMNS, held_out_columns(type(self.config.task)), self.objective.columns)

    # ---------------------------------------------------------------------------------------------------------- rounds

    def run(
        self,
        state: Mapping[str, Any] | None = None,
        should_stop: ShouldStop = lambda: False,
        share_warmup_as: str = "",
    ) -> Iterator[Epoch]:
        """Trains, yielding each finished round; there is no warm-up."""
        done = 0
        if state is not None:
            self.load_state(state)
            done = state["epoch"]
        for epoch in range(done + 1, self.config.training.epochs + 1):
            row = self.round(epoch, should_stop)
            yield Epoch("student", epoch, row, self.state("student", epoch))

    def round(self, number: int, should_stop: ShouldStop) -> dict[str, float | None]:
        """One round; returns its row."""
        with float32_as_set(self.device, self.config.training.tf32):
            started = time.monotonic()
            rate = self.config.training.learning_rate(number)
            row = {"lr": rate, **self.learn(number, should_stop)}
            row |= self.objective.measures()
            metric = self.config.task.metric.validation
            row |= self.evaluation.validation_row(number)
            value = row.get(metric)
            if value is not None:
                row["round_change"] = None if self._last is None else abs(value - self._last)
                self._last = value
            return row | {"wall_time_s": time.monotonic() - started, "peak_memory_mib": peak_memory_mib(self.device)}

    def learn(self, number: int, should_stop: ShouldStop) -> dict[str, float | None]:
        """Clients take up what they were sent and train; the server aggregates, distils, sends. What was measured."""
        started, rate = time.monotonic(), self.config.training.learning_rate(number)
        before = []
        sums = Sums()
        for index, client in enumerate(self.clients):
            client.network.load_state_dict({**client.network.state_dict(), **client.download})
            before.append(copied(client.network.state_dict()))
            self._train_client(index, number, rate, sums, should_stop)
        row: dict[str, float | None] = dict(finite_means(sums, number))
        sent = self._aggregate(number, before)
        server, seen = self._distil(number, rate, should_stop)
        row |= self._send(number, sent)
        row["images_per_s"] = (sums.count + seen) / (time.monotonic() - started)
        return row | server

    def _train_client(self, index: int, number: int, rate: float, sums: Sums, should_stop: ShouldStop) -> None:
        """A client trains on its own images by cross-entropy, with an optimiser that begins anew."""
        client, seeds, training = self.clients[index], self.config.seeds, self.config.training
        optimizer = build_optimizer(training, client.network.parameters())
        set_learning_rate(optimizer, rate)
        client.network.train()
        seed_draws(derived_seed("noise", seeds.noise, "client", index, number), self.device)
        order_seed = derived_seed("order", seeds.order, "client", index)
        for epoch in self._epochs_of_round(number, self.settings.local_epochs):
            for loaded in self._batches(client.images, order_seed, epoch, should_stop):
                said = client.forward(loaded.inputs, False)
                batch = self._batch(client.images, loaded, number)
                loss = cross_entropy(said.logits_BK, batch)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                right = percent_right(said.logits_BK.detach(), batch.labels_B)
                values = {"loss.ce": loss.detach(), "train_accuracy": right, "total": loss.detach()}
                sums.add(len(batch.labels_B), values)

    def _epochs_of_round(self, number: int, epochs: int) -> range:
        """Numbers of passes over some images, counted from the first round on."""
        return range((number - 1) * epochs + 1, number * epochs + 1)

    def _batches(self, images: Split, order_seed: int, epoch: int, should_stop: ShouldStop) -> Iterator[Loaded]:
        with contextlib.closing(images.epoch(order_seed, epoch, self.config.training.batch_size)) as loading:
            for loaded in loading:
                if should_stop():
                    raise Interrupted
                yield loaded

    def _batch(self, images: RowSplit, loaded: Loaded, number: int) -> Batch:
        positions_B, partner_B = loaded.positions_B, loaded.partner_B
        labels_B = images.training_labels_N[positions_B]
        (_, first), *_ = self._streams
        partner_labels_B = None if partner_B is None else labels_B[partner_B]
        ids_B = images.sample_ids_N[positions_B]
        batch = Batch(labels_B, ids_B, positions_B, number, first, partner_labels_B, loaded.share)
        return replace(batch, streams=self._streams)

    # ---------------------------------------------------------------------------------------------------------- server

    def _aggregate(self, number: int, before: Sequence[Mapping[str, Tensor]]) -> list[list[Upload]]:
        """The server's network out of the clients'; returns the layers that each sent, where layers are sent."""
        kind = self.settings.aggregate
        if isinstance(kind, ByArchitecture):
            alike = [client for client in self.clients if self._is_like_server(client)]
            if alike:
                self.student.load_state_dict(_mean_of(alike))
        elif isinstance(kind, Average):
            clients = [(of.network.state_dict(), layers_of(of.network), float(len(of.images))) for of in self.clients]
            self.student.load_state_dict(met_in(self.student.state_dict(), layers_of(self.student), clients))
        elif isinstance(kind, LayerWise):
            theirs = layers_of(self.student)
            sent = [
                uploads(was, client.network.state_dict(), layers_of(client.network), theirs, kind.upload)
                for was, client in zip(before, self.clients, strict=True)
            ]
            flat = [upload for of_client in sent for upload in of_client]
            draw_together(self.student, flat, kind, lambda layer: self._generator("pseudo", layer, number))
            return sent
        return []

    def _distil(self, number: int, rate: float, should_stop: ShouldStop) -> tuple[dict[str, float | None], int]:
        """The server learns what clients say about its proxy images; what was measured, and of how many images."""
        if not self.distils or self.proxy is None:
            return {}, 0
        seeds, training = self.config.seeds, self.config.training
        ratio = 1.0 if self.settings.server_lr is None else self.settings.server_lr / training.lr
        set_learning_rate(self.optimizer, rate * ratio)
        self.student.train()
        self.objective.train()
        for client in self.clients:
            client.network.eval()
        seed_draws(derived_seed("noise", seeds.noise, "server", number), self.device)
        for name, generator in self._streams:
            generator.manual_seed(derived_seed("noise", seeds.noise, "server", number, name))
        order_seed, sums = derived_seed("order", seeds.order, "server"), Sums()
        for epoch in self._epochs_of_round(number, self.settings.server_epochs):
            for loaded in self._batches(self.proxy, order_seed, epoch, should_stop):
                sums.add(len(loaded.positions_B), self._server_step(loaded, number))
        means = finite_means(sums, number)
        return {name: value for name, value in means.items() if name.startswith("loss.")}, sums.count

    def _server_step(self, loaded: Loaded, number: int) -> dict[str, Tensor]:
        """One update of the server's network and of the methods; returns what it measures."""
        assert self.proxy is not None
        with torch.no_grad():
            said = tuple(client.network(loaded.inputs) for client in self.clients)
        logits_BK = torch.stack([of_client.logits_BK for of_client in said]).mean(dim=0)
        batch = self._batch(self.proxy, loaded, number)
        unlabelled_B = torch.full_like(batch.labels_B, UNLABELLED)
        batch = replace(batch, labels_B=unlabelled_B, partner_labels_B=None, labelled_B=unlabelled_B != UNLABELLED)
        maps = self.objective.needs_maps
        loss = self.objective(self._server_forward(loaded.inputs, maps), Signals.of(logits_BK, others=said), batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.total.backward()
        self.optimizer.step()
        self.objective.after_step()
        own = {f"loss.{name}": value for name, value in loss.terms.items() if name != "ce"}
        return {**own, "total": loss.total}

    def _send(self, number: int, sent: Sequence[Sequence[Upload]]) -> dict[str, float | None]:
        """What each client takes up when the next round begins; what was measured of it."""
        kind, server = self.settings.aggregate, copied(self.student.state_dict())
        for client in self.clients:
            client.download = {}
        if isinstance(kind, ByArchitecture):
            for architecture in dict.fromkeys(self.settings.alike):
                alike = [client for client in self.clients if client.architecture == architecture]
                back = server if self._is_like_server(alike[0]) else _mean_of(alike)
                for client in alike:
                    client.download = back
        elif isinstance(kind, Average):
            theirs = layers_of(self.student)
            for client in self.clients:
                client.download = cut_out(server, theirs, client.network.state_dict(), layers_of(client.network))
        elif isinstance(kind, LayerWise):
            gains: list[float] = []
            counts = []
            for index, (client, of_client) in enumerate(zip(self.clients, sent, strict=True)):
                generator = torch.Generator().manual_seed(self._drawn("returned", index, number))
                client.download, own = returned(server, of_client, kind, generator)
                gains += own
                counts.append(sum(name.endswith(".weight") for name in client.download))
            return {
                "layers_returned": sum(counts) / len(counts),
                "knowledge_gain": sum(gains) / len(gains) if gains else None,
            }
        return {}

    def _is_like_server(self, client: Client) -> bool:
        mine = self.settings.networks[client.architecture]
        return network_key(mine) == network_key(self.config.student.network)

    def _drawn(self, *parts: int | str) -> int:
        return derived_seed("noise", self.config.seeds.noise, "server", *parts)

    def _generator(self, *parts: int | str) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(self._drawn(*parts))

    # ------------------------------------------------------------------------------------------------------------- end

    def close(self) -> tuple[dict[str, float | None], Predictions]:
        """The last reading."""
        return self.evaluation.close()

    def recording(self) -> Recording:
        """What can be kept of the server's network."""
        return Recording(self.evaluation)

    def timed(self, steps: int, until: float = math.inf) -> dict[str, float]:
        """Seconds of a client's step, and of the end of a round; a trial that was timed must not be run."""
        step_s = timed_steps(lambda stop: self.learn(1, stop), steps, until)
        started = time.monotonic()
        self.evaluation.validation_row(1)
        return {"warmup_step_s": 0.0, "student_step_s": step_s, "epoch_end_s": time.monotonic() - started}

    def state(self, stage: str, epoch: int) -> dict[str, Any]:
        """A copy of everything that changes: all networks, what is under way to clients, the server's optimiser."""
        return {
            "stage": stage,
            "epoch": epoch,
            "streams": self.streams,
            "student": copied(self.student.state_dict()),
            "objective": copied(self.objective.state_dict()),
            "optimizer": copied(self.optimizer.state_dict()),
            "clients": [copied(client.network.state_dict()) for client in self.clients],
            "downloads": [copied(client.download) for client in self.clients],
            "recent_scores": list(self.evaluation.recent_scores),
            "last": self._last,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Goes back to a state that `state` returned."""
        self.student.load_state_dict(state["student"])
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(copied(state["optimizer"]))
        lay_out(self.optimizer)
        for client, held, download in zip(self.clients, state["clients"], state["downloads"], strict=True):
            client.network.load_state_dict(held)
            client.download = copied(download)
        self.evaluation.recent_scores = list(state["recent_scores"])
        self._last = state["last"]
        self.streams = state["streams"]


def _mean_of(clients: Sequence[Client]) -> dict[str, Tensor]:
    return mean_state([client.network.state_dict() for client in clients], [len(client.images) for client in clients])

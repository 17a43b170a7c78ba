"""A graph whose nodes are rows: training, validation and test nodes of one and the same graph (transductive).

An item is the graph, so that an epoch is one step. Every network sees all nodes with their features and edges; asked
about are those of a split. Labels are known of some nodes of the training pool, and annotated, perhaps wrongly, of
others; the rest of the pool is trained on without labels.

Shapes: N nodes of the graph, or of a split, F width of a node's features, E edges.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from typing_extensions import override

from akdtune.data.row_sets import Loaded, RowDataSet, RowSplit, Splits
from akdtune.errors import DataError
from akdtune.randomness import Stream, random_order
from akdtune.roles import TrainOn
from akdtune.settings.graphs import GraphSettings
from akdtune.signals import UNLABELLED, Inputs, Nodes, NodeSpec

FORMAT = 1
"""Part of every content hash: what a graph is made of."""

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Graph:
    """A graph as read or made, before any split.

    Attributes:
        features_NF: float32.
        edges_2E: from and to, int64; undirected edges stand in both directions.
        labels_N: the right ones, int64.
        num_classes: K.
        published: the split that it came with: labelled nodes, nodes to validate with, test nodes; None without one.
        unknown: nodes of which nothing is known but their edges; they are in no part of a split.
        notes: sentences on what was left out.
    """

    features_NF: npt.NDArray[np.float32]
    edges_2E: Ids
    labels_N: Ids
    num_classes: int
    published: tuple[Ids, Ids, Ids] | None = None
    unknown: Ids = field(default_factory=lambda: np.empty(0, np.int64))
    notes: tuple[str, ...] = ()

    @cached_property
    def content_hash(self) -> str:
        """Hash of features, edges and labels, 32 hex digits."""
        digest = hashlib.sha256(json.dumps([FORMAT, self.num_classes]).encode())
        for array in (self.features_NF, self.edges_2E, self.labels_N):
            digest.update(f"/{array.dtype.str}{array.shape}/".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()[:32]


@dataclass(frozen=True)
class Parts:
    """Who is who among the nodes, as rising numbers; no node is in two parts.

    Attributes:
        labelled: the right label is known to everybody.
        unlabelled: the rest of the training pool.
        validation, test: judged.
    """

    labelled: Ids
    unlabelled: Ids
    validation: Ids
    test: Ids


def parts_of(graph: Graph, settings: GraphSettings) -> Parts:
    """The split of a graph: the one that it came with, or one drawn for each node by (split_seed, node) alone.

    Raises:
        DataError: for more nodes of a kind than there are.
    """
    nodes = _without(np.arange(len(graph.labels_N)), graph.unknown)
    if graph.published is not None:
        labelled, validating, test = (np.sort(part) for part in graph.published)
        validation = np.sort(graph.published[1][: counted(settings.validation, len(validating), "data.validation")])
        return Parts(labelled, _without(nodes, labelled, validation, test), validation, test)
    pool_size = counted(settings.pool, len(nodes), "data.pool")
    if pool_size == len(nodes):
        raise DataError(f"data.pool is {settings.pool}: {pool_size} of {len(nodes)} nodes leave none to test on")
    pool = np.sort(_drawn(nodes, settings, Stream.NODE_POOL)[:pool_size])
    held = counted(settings.validation, len(pool), "data.validation")
    validation = np.sort(_drawn(pool, settings, Stream.VALIDATION)[:held])
    open_pool = _drawn(_without(pool, validation), settings, Stream.NODE_LABELS)
    by_class = [
        open_pool[graph.labels_N[open_pool] == k][: settings.labels_per_class] for k in range(graph.num_classes)
    ]
    for k, of_class in enumerate(by_class):
        if len(of_class) < settings.labels_per_class:
            raise DataError(
                f"data.labels_per_class is {settings.labels_per_class}: class {k} has {len(of_class)} nodes in the "
                f"training pool ({len(open_pool)} nodes)"
            )
    labelled = np.sort(np.concatenate(by_class))
    return Parts(labelled, _without(open_pool, labelled), validation, _without(nodes, pool))


def counted(asked: int | float, total: int, key: str) -> int:
    """How many of so many nodes a setting asks for.

    Raises:
        DataError: for more than there are.
    """
    count = asked if isinstance(asked, int) else max(1, round(asked * total))
    if count > total:
        raise DataError(f"{key} is {asked}: there are {total} nodes to choose from")
    return count


def _drawn(nodes: Ids, settings: GraphSettings, stream: Stream) -> Ids:
    return nodes[random_order(settings.split_seed, 0, nodes, stream)]


def _without(nodes: Ids, *others: Ids) -> Ids:
    return np.setdiff1d(nodes, np.concatenate(others))


class NodeSplit(RowSplit):
    """Some nodes of a graph with their labels, on the device.

    Attributes:
        sample_ids_N: number of each node in the graph, int64.
        labels_N: the right labels.
        training_labels_N: the labels a student trains on: known ones, annotations, UNLABELLED for the others.
    """

    def __init__(
        self, graph: Nodes, labels_N: Tensor, training_labels_N: Tensor, teacher_labels_N: Tensor | None = None
    ) -> None:
        """The nodes that `graph` asks about.

        Args:
            graph: all nodes and edges, and which nodes are of the split.
            labels_N: the right labels.
            training_labels_N: a student's.
            teacher_labels_N: a teacher's, who is told no annotation; None: the right ones.
        """
        self._graph = graph
        self.sample_ids_N, self.labels_N, self.training_labels_N = graph.rows_R, labels_N, training_labels_N
        self._teacher_labels_N = teacher_labels_N

    @override
    def __len__(self) -> int:
        return len(self.labels_N)

    @property
    @override
    def items(self) -> int:
        """One graph."""
        return 1

    @property
    @override
    def at_once(self) -> int:
        return 1

    @property
    @override
    def teacher_labels_N(self) -> Tensor:
        return self.labels_N if self._teacher_labels_N is None else self._teacher_labels_N

    @property
    @override
    def some_unlabelled(self) -> bool:
        return self._teacher_labels_N is not None

    @override
    def first(self, items: int) -> NodeSplit:
        """The graph."""
        return self

    @override
    def plain_batches(self, batch_size: int) -> Generator[tuple[Tensor, Inputs], None, None]:
        """All of the split at once."""
        yield torch.arange(len(self), device=self.labels_N.device), self._graph

    @override
    def epoch(
        self, order_seed: int, epoch: int, batch_size: int, *, images: bool = True, strong: bool = False
    ) -> Generator[Loaded, None, None]:
        """The graph, as the only batch."""
        assert not strong, "a task without a strong augmentation refuses methods that ask for one"
        for positions_N, graph in self.plain_batches(1):
            yield Loaded(positions_N, None, graph if images else None, None, None, 1.0)


class NodeData(RowDataSet):
    """A graph on a device.

    Args:
        settings: of the section `data`.
        graph: as read or made.
        parts: who is who among its nodes.
        annotations_N: a label of each node that is annotated, UNLABELLED elsewhere; None without annotations.
        device: where it is put.
        notes: on annotations.
    """

    settings: GraphSettings
    called: ClassVar[str] = "nodes"

    def __init__(
        self,
        settings: GraphSettings,
        graph: Graph,
        parts: Parts,
        annotations_N: Ids | None,
        device: torch.device,
        notes: tuple[str, ...] = (),
    ) -> None:
        super().__init__(settings, device)
        self.parts, self._graph, self._labels_N = parts, graph, torch.from_numpy(graph.labels_N).to(device)
        self.inputs = NodeSpec(graph.features_NF.shape[1], graph.num_classes)
        self.num_classes = graph.num_classes
        known_N = np.full_like(graph.labels_N, UNLABELLED)
        known_N[parts.labelled] = graph.labels_N[parts.labelled]
        told_N = known_N if annotations_N is None else np.where(annotations_N == UNLABELLED, known_N, annotations_N)
        self._of_teachers_N, self._of_students_N = (torch.from_numpy(some_N).to(device) for some_N in (known_N, told_N))
        annotated = [] if annotations_N is None else annotations_N.tolist()
        self.content_hash = hashlib.sha256(json.dumps([graph.content_hash, annotated]).encode()).hexdigest()[:32]
        self.notes = (*graph.notes, *notes)
        self.in_words = self._in_words(int((told_N != known_N).sum()))
        self._features_NF = torch.from_numpy(graph.features_NF).to(device)
        self._edges_2E = torch.from_numpy(graph.edges_2E).to(device)

    def _in_words(self, annotated: int) -> str:
        parts, graph = self.parts, self._graph
        told = f", {annotated} annotated" if annotated else ""
        return (
            f"one graph of {len(graph.labels_N):,} nodes and {graph.edges_2E.shape[1]:,} directed edges, one step an "
            f"epoch whatever training.batch_size is; {len(parts.labelled)} nodes of the pool labelled{told}, "
            f"{len(parts.unlabelled) - annotated} without a label"
        )

    @override
    def split(self, train_on: TrainOn) -> Splits[NodeSplit]:
        """The nodes of roles that train on the pool minus validation (`subset`) or on all of the pool (`full`).

        The labels of validation nodes are read by neither.

        Raises:
            DataError: for no validation nodes where trials are selected on them.
        """
        parts = self.parts
        if train_on == "subset" and not len(parts.validation):
            raise DataError("data.validation is 0, but trials of a search are selected on validation nodes")
        trained = [parts.labelled, parts.unlabelled] + ([parts.validation] if train_on == "full" else [])
        train = self._rows(np.sort(np.concatenate(trained)))
        return Splits(
            train=NodeSplit(train, *(some_N[train.rows_R] for some_N in self._every_label)),
            validation=self._judged(parts.validation) if train_on == "subset" else None,
            test=self._judged(parts.test),
        )

    @property
    def _every_label(self) -> tuple[Tensor, Tensor, Tensor]:
        return self._labels_N, self._of_students_N, self._of_teachers_N

    def _rows(self, nodes: Ids) -> Nodes:
        return Nodes(self._features_NF, self._edges_2E, torch.from_numpy(nodes).to(self.device))

    def _judged(self, nodes: Ids) -> NodeSplit:
        graph = self._rows(nodes)
        labels_N = self._labels_N[graph.rows_R]
        return NodeSplit(graph, labels_N, labels_N)

    @override
    def fingerprint(self, train_on: TrainOn) -> str:
        """Hash of everything about the data that a teacher can depend on, which is told no annotation."""
        parts = self.parts
        ids = [part.tolist() for part in (parts.labelled, parts.unlabelled, parts.validation, parts.test)]
        facts = [self._graph.content_hash, train_on, ids]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]

    @property
    @override
    def images_key(self) -> list[Any]:
        """The graph."""
        return [self._graph.content_hash]

"""A made-up graph in which edges tell some classes apart and features the others: the embedded graph."""

# Shapes: N nodes, E edges, K classes, F width of a node's features.

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from typing_extensions import override

from akdtune.data.graph_sets import Graph, Ids, NodeData, parts_of
from akdtune.data.source import RowSource
from akdtune.datasets._annotations import annotated
from akdtune.datasets._kept_graphs import kept_graph
from akdtune.errors import DataError
from akdtune.randomness import Stream, random_order, random_words, unit
from akdtune.registry import register
from akdtune.settings.data import RowDataSettings
from akdtune.settings.graphs import GraphSettings
from akdtune.signals import NodeSpec, Takes

Floats = npt.NDArray[np.float64]

PAIRS_AT_ONCE = 1 << 20
"""Pairs of nodes whose edges are drawn at a time."""


class BlockSettings(GraphSettings):
    """How large the graph is, and who is told apart by what."""

    nodes: int = Field(600, ge=8, le=20_000, description="nodes, shared out evenly among the classes")
    classes: int = Field(4, ge=2, le=100)
    mixed: bool = Field(
        True,
        description="the first half of the classes is told by edges alone, the second by features alone; false: all"
        " by both",
    )
    degree: PositiveFloat = Field(10.0, description="edges of a node, on average")
    homophily: float = Field(
        0.9, ge=0, le=1, description="share of edges that lead to the own class, of those to classes that edges tell"
    )
    crossing: NonNegativeFloat = Field(
        0.2, description="how likely an edge between the halves is, over the mean of those inside; mixed graphs only"
    )
    features: PositiveInt = Field(16, le=4096, description="width of a node's features, in each noise of deviation 1")
    signal: NonNegativeFloat = Field(4.0, description="distance of a class's mean feature from 0, where features tell")
    graph_seed: int = Field(0, description="of classes, edges and features")

    @property
    @override
    def pool_nodes(self) -> int:
        return self.pool if isinstance(self.pool, int) else round(self.pool * self.nodes)

    @model_validator(mode="after")
    def _halves(self) -> BlockSettings:
        if self.mixed and (self.classes < 4 or self.classes % 2):
            raise ValueError(f"a mixed graph needs an even number of classes from 4 on, got {self.classes}")
        if not self.mixed and self.crossing != type(self).model_fields["crossing"].default:
            raise ValueError("crossing is of mixed graphs, and mixed is false; leave it out")
        if self.features < self.classes:
            raise ValueError(f"classes of their own direction each need {self.classes} features, got {self.features}")
        return self


@register("sbm", kind="data")
class BlockModel(RowSource):
    """A stochastic block model with features: classes 0 and 1 are told by edges alone, 2 and 3 by features alone.

    An edge between two nodes is drawn by their classes. Among classes that edges tell, a share `homophily` of a node's
    edges leads to its own class; among the others all are alike. Features are normal with deviation 1 around a mean of
    length `signal` in a direction of its own for each class that features tell, and around 0 for the others. No single
    kind of network sees everything, so that the best teacher differs from node to node. Every draw goes by graph_seed
    and node or pair of nodes alone, so that the graph is the same everywhere.
    """

    source = "Holland, Laskey and Leinhardt, Social Networks 1983; the mixture is akdtune's own"
    takes: ClassVar[Takes] = "nodes"
    Settings = BlockSettings
    example = "{name: sbm, nodes: 600, validation: 100}"

    @classmethod
    @override
    def class_count(cls, settings: RowDataSettings) -> int:
        assert isinstance(settings, BlockSettings)
        return settings.classes

    @classmethod
    @override
    def spec(cls, settings: RowDataSettings) -> NodeSpec:
        assert isinstance(settings, BlockSettings)
        return NodeSpec(settings.features, settings.classes)

    @classmethod
    @override
    def load(cls, settings: RowDataSettings, device: torch.device) -> NodeData:
        """Makes the graph and puts it on a device; a rehearsal takes it whole, as it is one item."""
        assert isinstance(settings, BlockSettings)
        made_of = settings.model_dump(mode="json", include=set(BlockSettings.__annotations__))
        graph = kept_graph([], {"name": "sbm", **made_of}, lambda: block_graph(settings))
        parts = parts_of(graph, settings)
        annotations_N, notes = annotated(graph, parts, settings)
        return NodeData(settings, graph, parts, annotations_N, device, notes)


def block_graph(settings: BlockSettings) -> Graph:
    """The graph of these settings.

    Raises:
        DataError: for more edges than a pair of classes has pairs of nodes.
    """
    nodes, seed = np.arange(settings.nodes), settings.graph_seed
    labels_N = np.empty(settings.nodes, np.int64)
    labels_N[random_order(seed, 0, nodes, Stream.NODE_CLASS)] = nodes % settings.classes
    chances_KK = intensities(settings) * settings.degree / settings.nodes
    if chances_KK.max() > 1:
        raise DataError(
            f"data.degree is {settings.degree:g}: two nodes of one class would have an edge with a chance of "
            f"{chances_KK.max():.2f} (at most 1); take more nodes or fewer edges"
        )
    edges = []
    for pairs_2P in _pairs(settings.nodes):
        chances_P = chances_KK[labels_N[pairs_2P[0]], labels_N[pairs_2P[1]]]
        edges.append(pairs_2P[:, _happens(seed, settings.nodes, pairs_2P, chances_P)])
    once_2E = np.concatenate(edges, axis=1)
    both_2E = np.concatenate([once_2E, once_2E[::-1]], axis=1)
    order_E = np.lexsort((both_2E[0], both_2E[1]))
    means_KF = np.zeros((settings.classes, settings.features))
    told = np.arange(settings.classes // 2 if settings.mixed else 0, settings.classes)
    means_KF[told, told] = settings.signal
    features_NF = means_KF[labels_N] + _normal(seed, settings.nodes, settings.features)
    return Graph(features_NF.astype(np.float32), np.ascontiguousarray(both_2E[:, order_E]), labels_N, settings.classes)


def intensities(settings: BlockSettings) -> Floats:
    """How likely an edge between two classes is, over the mean of all pairs of nodes, [K, K]."""
    classes = settings.classes
    by_edges = classes // 2 if settings.mixed else classes
    told = np.arange(classes) < by_edges
    among_KK = np.full((classes, classes), (1 - settings.homophily) * by_edges / (by_edges - 1))
    np.fill_diagonal(among_KK, settings.homophily * by_edges)
    weights_KK = np.where(np.logical_and.outer(told, told), among_KK, 1.0)
    weights_KK[np.logical_xor.outer(told, told)] = settings.crossing
    normalised: Floats = weights_KK / weights_KK.mean()
    return normalised


def _pairs(nodes: int) -> Iterator[Ids]:
    """Every pair of different nodes once, the smaller number first, [2, P] at a time."""
    rows = max(1, PAIRS_AT_ONCE // nodes)
    for start in range(0, nodes, rows):
        first, second = np.meshgrid(np.arange(start, min(start + rows, nodes)), np.arange(nodes), indexing="ij")
        yield np.stack([first[first < second], second[first < second]])


def _happens(seed: int, nodes: int, pairs_2P: Ids, chances_P: Floats) -> npt.NDArray[np.bool_]:
    words = random_words(seed, 0, pairs_2P[0] * nodes + pairs_2P[1], Stream.EDGE)
    happens: npt.NDArray[np.bool_] = unit(words[0]) < chances_P
    return happens


def _normal(seed: int, nodes: int, width: int) -> Floats:
    """Normal numbers of deviation 1, [N, F], two from two words each (Box and Muller, 1958)."""
    words = random_words(seed, 0, np.arange(nodes * ((width + 3) // 4)), Stream.NODE_FEATURES)
    radius, angle = np.sqrt(-2 * np.log1p(-unit(words[[0, 2]]))), 2 * np.pi * unit(words[[1, 3]])
    drawn = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
    filled: Floats = drawn.T.reshape(nodes, -1)[:, :width]
    return filled

"""Cora, CiteSeer and PubMed as users have them on disk: the files of Planetoid, or what PyTorch Geometric made of them.

Shapes: N nodes, E edges, F width of a node's features, K classes.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, model_validator
from typing_extensions import override

from akdtune.data.graph_sets import Graph, Ids, NodeData, parts_of
from akdtune.data.source import RowSource
from akdtune.datasets._annotations import annotated
from akdtune.datasets._kept_graphs import kept_graph
from akdtune.datasets._pickled_arrays import Rows, dense, read_pickled
from akdtune.errors import DataError
from akdtune.folders import here
from akdtune.registry import register
from akdtune.settings.data import RowDataSettings
from akdtune.settings.graphs import GraphSettings
from akdtune.signals import NodeSpec, Takes

Features = npt.NDArray[np.float32]

PARTS = ("x", "tx", "allx", "y", "ty", "ally", "graph", "test.index")
SIZES = {"Cora": (1433, 7), "CiteSeer": (3703, 6), "PubMed": (500, 3)}
"""Width of a node's features, and classes."""

NODES, TESTING = {"Cora": 2708, "CiteSeer": 3327, "PubMed": 19717}, 1000

VALIDATING = 500
"""Nodes behind the labelled ones that the published split validates with."""

NEEDS_GEOMETRIC = 'needs PyTorch Geometric (pip install "akdtune[graph]")'


class PlanetoidSettings(GraphSettings):
    """Which graph, and whose split."""

    set: Literal["Cora", "CiteSeer", "PubMed"] = Field("Cora", description="which graph")
    root: str = Field(
        "~/data/planetoid",
        description="folder of ind.cora.x and its like, or that PyTorch Geometric was given as `root`",
        min_length=1,
    )
    split: Literal["published", "random"] = Field(
        "published",
        description="published: 20 labelled nodes a class, the next 500 to validate with, 1,000 to test on; random:"
        " as pool, validation and labels_per_class say",
    )
    normalize: bool = Field(True, description="scale each node's features to the sum 1, as is usual")

    @property
    @override
    def pool_nodes(self) -> int:
        if self.split == "published":
            return NODES[self.set] - TESTING
        return self.pool if isinstance(self.pool, int) else round(self.pool * NODES[self.set])

    @model_validator(mode="after")
    def _of_random_splits(self) -> PlanetoidSettings:
        for key in ("pool", "labels_per_class"):
            if self.split == "published" and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{key} is of random splits, and split is published; leave {key} out")
        return self


@register("planetoid", kind="data")
class Planetoid(RowSource):
    """Cora, CiteSeer or PubMed: papers that cite each other, with words as features and topics as classes.

    Read are the pickled files of Planetoid (`ind.cora.x` and its like), with an unpickler that makes arrays, sparse
    matrices, lists and dictionaries, and nothing else; where these are missing, `processed/data.pt` of PyTorch
    Geometric, which needs that library. Nothing is downloaded. Edges stand in both directions, once each, without those
    of a node to itself; nodes that CiteSeer's test index leaves out have no features and no label, and nobody is asked
    about them.
    """

    source = "Yang, Cohen and Salakhutdinov, ICML 2016, arXiv 1603.08861"
    takes: ClassVar[Takes] = "nodes"
    Settings = PlanetoidSettings
    own_settings = frozenset({"root"})
    example = "{name: planetoid, set: Cora, root: ~/data/planetoid, validation: 500}"

    @classmethod
    @override
    def missing(cls, settings: RowDataSettings) -> list[str]:
        assert isinstance(settings, PlanetoidSettings)
        folder = _raw_folder(settings)
        absent = [str(folder / f"ind.{settings.set.lower()}.{part}") for part in _absent(settings, folder)]
        return [] if _processed(settings) is not None else absent

    @classmethod
    @override
    def class_count(cls, settings: RowDataSettings) -> int:
        assert isinstance(settings, PlanetoidSettings)
        return SIZES[settings.set][1]

    @classmethod
    @override
    def spec(cls, settings: RowDataSettings) -> NodeSpec:
        assert isinstance(settings, PlanetoidSettings)
        return NodeSpec(*SIZES[settings.set])

    @classmethod
    @override
    def load(cls, settings: RowDataSettings, device: torch.device) -> NodeData:
        """Reads the graph and puts it on a device; a rehearsal takes it whole, as it is one item."""
        assert isinstance(settings, PlanetoidSettings)
        folder, name = _raw_folder(settings), settings.set.lower()
        options = {"name": f"planetoid {settings.set}", "normalize": settings.normalize, "split": settings.split}
        if not _absent(settings, folder):
            files = [folder / f"ind.{name}.{part}" for part in PARTS]
            graph = kept_graph(files, options, lambda: _finished(raw_graph(files), settings))
        elif (file := _processed(settings)) is not None:
            graph = kept_graph([file], options, lambda: _finished(processed_graph(file), settings))
        else:
            raise DataError(f"data: planetoid: {cls.missing(settings)[0]}: no such file; data.root names their folder")
        parts = parts_of(graph, settings)
        annotations_N, notes = annotated(graph, parts, settings)
        return NodeData(settings, graph, parts, annotations_N, device, notes)


def _finished(graph: Graph, settings: PlanetoidSettings) -> Graph:
    """The graph under the settings: features scaled, without its own split where that is not asked for."""
    features_NF = graph.features_NF
    if settings.normalize:
        features_NF = features_NF / np.maximum(features_NF.sum(axis=1, keepdims=True), 1).astype(np.float32)
    published = graph.published if settings.split == "published" else None
    return Graph(features_NF, graph.edges_2E, graph.labels_N, graph.num_classes, published, graph.unknown, graph.notes)


def _raw_folder(settings: PlanetoidSettings) -> Path:
    """Where the raw files are: in the root, or as PyTorch Geometric lays them out below it."""
    root = here(settings.root)
    places = (root, root / "raw", root / settings.set / "raw")
    return next((place for place in places if not _absent(settings, place)), root)


def _absent(settings: PlanetoidSettings, folder: Path) -> list[str]:
    return [part for part in PARTS if not (folder / f"ind.{settings.set.lower()}.{part}").is_file()]


def _processed(settings: PlanetoidSettings) -> Path | None:
    root = here(settings.root)
    places = (root / settings.set / "processed" / "data.pt", root / "processed" / "data.pt", root / "data.pt")
    return next((place for place in places if place.is_file()), None)


def raw_graph(files: Sequence[Path]) -> Graph:
    """The graph of the eight files of Planetoid, in the order of PARTS.

    Raises:
        DataError: naming the file that is not what it should be.
    """
    *pickled, index_file = files
    _, tx_rows, all_rows, y_RK, ty_TK, all_RK, neighbours = (read_pickled(file) for file in pickled)
    test = _test_index(index_file)
    tx_TF, all_RF = _dense(tx_rows, files[1]), _dense(all_rows, files[2])
    labels = [_labels(values, file) for values, file in zip((y_RK, ty_TK, all_RK), files[3:6], strict=True)]
    if len(test) != len(tx_TF) or len(test) != len(labels[1]) or test.min() < len(all_RF):
        raise DataError(
            f"{index_file}: {len(test)} test nodes from {test.min()} on, beside {len(all_RF)} other nodes, "
            f"{len(tx_TF)} test features and {len(labels[1])} test labels"
        )
    nodes = int(test.max()) + 1
    features_NF = np.zeros((nodes, all_RF.shape[1]), np.float32)
    labels_N = np.zeros(nodes, np.int64)
    features_NF[: len(all_RF)], labels_N[: len(all_RF)] = all_RF, labels[2]
    features_NF[test], labels_N[test] = tx_TF, labels[1]
    unknown = np.setdiff1d(np.arange(len(all_RF), nodes), test)
    notes = (f"{len(unknown)} nodes have edges and stand in no other file: nobody is asked about them",)
    labelled = np.arange(len(labels[0]))
    validating = np.arange(len(labelled), min(len(labelled) + VALIDATING, len(all_RF)))
    edges_2E = _edges(neighbours, nodes, files[6])
    published = labelled, validating, np.sort(test)
    of_unknown = unknown, notes if len(unknown) else ()
    return Graph(features_NF, edges_2E, labels_N, all_RK.shape[1], published, *of_unknown)


def _test_index(file: Path) -> Ids:
    try:
        return np.array([int(line) for line in file.read_text(encoding="utf-8").split()], np.int64).reshape(-1)
    except (ValueError, OSError) as error:
        raise DataError(f"{file}: must hold one node a line ({error})") from error


def _dense(matrix: Any, file: Path) -> Features:
    if isinstance(matrix, Rows):
        return dense(matrix, file)
    if isinstance(matrix, np.ndarray) and matrix.ndim == 2:
        return matrix.astype(np.float32)
    raise DataError(f"{file}: must hold a matrix, got {type(matrix).__name__}")


def _labels(one_hot: Any, file: Path) -> Ids:
    if not (isinstance(one_hot, np.ndarray) and one_hot.ndim == 2 and one_hot.dtype.kind in "iuf"):
        raise DataError(f"{file}: must hold a matrix with a column for each class, got {type(one_hot).__name__}")
    labels: Ids = one_hot.argmax(axis=1).astype(np.int64)
    return labels


def _edges(neighbours: Any, nodes: int, file: Path) -> Ids:
    """Both directions of every edge once, in the order of their targets; none of a node to itself."""
    if not isinstance(neighbours, Mapping):
        raise DataError(f"{file}: must hold a dictionary of neighbours, got {type(neighbours).__name__}")
    try:
        pairs = [(node, other) for node, others in neighbours.items() for other in others]
        once_2E = np.array(pairs, np.int64).reshape(-1, 2).T
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{file}: must hold a list of nodes for each node ({error})") from error
    if once_2E.size and (once_2E.min() < 0 or once_2E.max() >= nodes):
        raise DataError(f"{file}: names node {once_2E.max()}; there are {nodes}")
    return both_directions(once_2E, nodes)


def both_directions(edges_2E: Ids, nodes: int) -> Ids:
    """Every edge and its reverse, once each, in the order of their targets; none of a node to itself."""
    kept_2E = edges_2E[:, edges_2E[0] != edges_2E[1]]
    numbers = np.unique(np.concatenate([kept_2E[1] * nodes + kept_2E[0], kept_2E[0] * nodes + kept_2E[1]]))
    return np.stack([numbers % nodes, numbers // nodes])


def processed_graph(file: Path) -> Graph:
    """What PyTorch Geometric wrote for its own later starts, read by its own loader, which unpickles tensors alone.

    Raises:
        DataError: where that library is not installed, or the file is none of its.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its own, about what it still uses of torch
            importlib.import_module("torch_geometric.data")  # late: seconds; tells torch which of its classes are data
    except ModuleNotFoundError:
        raise DataError(f"data: planetoid: {file} {NEEDS_GEOMETRIC}, or the raw files beside it") from None
    try:
        held = torch.load(file, map_location="cpu", weights_only=True)[0]
        fields = held if isinstance(held, Mapping) else held.to_dict()
        labelled, validating, test = (
            np.flatnonzero(fields[f"{name}_mask"].numpy()) for name in ("train", "val", "test")
        )
        edges_2E, labels_N = fields["edge_index"].numpy().astype(np.int64), fields["y"].numpy().astype(np.int64)
        features_NF = fields["x"].numpy().astype(np.float32)
    except Exception as error:  # whatever another version of that library writes
        raise DataError(f"{file}: is no graph that PyTorch Geometric wrote ({error})") from error
    edges_2E = both_directions(edges_2E, len(labels_N))
    return Graph(features_NF, edges_2E, labels_N, int(labels_N.max()) + 1, (labelled, validating, test))

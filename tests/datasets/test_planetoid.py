"""Planetoid's files: against PyTorch Geometric's reader, and what a pickle must not ask for."""

from __future__ import annotations

import importlib
import pickle
import warnings
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch
from pydantic import ValidationError

from akdtune.data.dataset import load_data, missing_files
from akdtune.data.graph_sets import NodeData
from akdtune.datasets import planetoid
from akdtune.datasets._pickled_arrays import read_pickled
from akdtune.errors import DataError
from akdtune.settings.data import data_settings
from akdtune.signals import UNLABELLED

CPU = torch.device("cpu")
NODES, TEST, LABELLED, WIDTH, CLASSES = 600, 50, 6, 5, 3


def write(folder: Path, name: str = "cora", gap: bool = False, protocol: int = 2, **changes: Any) -> Path:
    """The eight files as Planetoid has them; with a gap in the test index, as CiteSeer's."""
    folder.mkdir(parents=True, exist_ok=True)
    draws = np.random.default_rng(0)
    features = scipy.sparse.csr_matrix((draws.random((NODES, WIDTH)) < 0.4).astype(np.float32))
    one_hot = np.eye(CLASSES, dtype=np.int32)[draws.integers(0, CLASSES, NODES)]
    rest = NODES - TEST
    test = draws.permutation(np.arange(rest, NODES))
    test = test[test != rest + 3] if gap else test
    neighbours: defaultdict[int, list[int]] = defaultdict(list)
    for one, other in draws.integers(0, NODES, (900, 2)).tolist():
        neighbours[one].append(other)
        neighbours[other].append(one)
    held = {
        "x": features[:LABELLED], "tx": features[test], "allx": features[:rest],
        "y": one_hot[:LABELLED], "ty": one_hot[test], "ally": one_hot[:rest], "graph": neighbours, **changes,
    }  # fmt: skip
    for part, value in held.items():
        content = value if isinstance(value, bytes) else pickle.dumps(value, protocol)
        (folder / f"ind.{name}.{part}").write_bytes(content)
    (folder / f"ind.{name}.test.index").write_text("\n".join(map(str, test.tolist())) + "\n")
    return folder


def geometric(module: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the library's own, about what it still uses of torch
        pytest.importorskip("torch_geometric")
        return importlib.import_module(f"torch_geometric.{module}")


def raw(folder: Path, name: str = "cora") -> Any:
    return planetoid.raw_graph([folder / f"ind.{name}.{part}" for part in planetoid.PARTS])


def loaded(root: Path, **changes: Any) -> NodeData:
    settings = {"name": "planetoid", "root": str(root), "validation": 100, **changes}
    dataset = load_data(data_settings(settings), CPU)
    assert isinstance(dataset, NodeData)
    return dataset


def assert_alike(ours: Any, theirs: Any) -> None:
    assert torch.equal(torch.from_numpy(ours.features_NF), theirs.x)
    assert torch.equal(torch.from_numpy(ours.labels_N), theirs.y)
    pairs = [sorted(map(tuple, edges.T.tolist())) for edges in (ours.edges_2E, theirs.edge_index)]
    assert pairs[0] == pairs[1]
    masks = theirs.train_mask, theirs.val_mask, theirs.test_mask
    for part, mask in zip(ours.published, masks, strict=True):
        assert part.tolist() == mask.nonzero().squeeze(1).tolist()


@pytest.mark.parametrize(("name", "gap"), [("cora", False), ("citeseer", True)])
def test_a_graph_is_read_as_by_pytorch_geometric(tmp_path: Path, name: str, gap: bool) -> None:
    reader = geometric("io.planetoid")
    for protocol in (0, 1, 2, 4):  # the published files have 2
        folder = write(tmp_path / str(protocol), name, gap, protocol)
        assert_alike(raw(folder, name), reader.read_planetoid_data(str(folder), name))


def test_the_files_of_pytorch_geometric_itself_are_read(tmp_path: Path) -> None:
    reader, data = geometric("io.planetoid"), geometric("data")
    theirs = reader.read_planetoid_data(str(write(tmp_path / "raw")), "cora")
    (tmp_path / "Cora" / "processed").mkdir(parents=True)
    torch.save((theirs.to_dict(), None, data.Data), tmp_path / "Cora" / "processed" / "data.pt")
    assert_alike(planetoid.processed_graph(tmp_path / "Cora" / "processed" / "data.pt"), theirs)
    whole = loaded(tmp_path / "raw", validation=0)
    for part in (tmp_path / "raw").iterdir():
        part.unlink()
    assert loaded(tmp_path, validation=0).content_hash == whole.content_hash
    assert missing_files(data_settings({"name": "planetoid", "root": str(tmp_path), "validation": 0})) == []


def test_the_published_split_and_a_random_one(tmp_path: Path) -> None:
    dataset = loaded(write(tmp_path))
    subset = dataset.split("subset")
    assert subset.validation is not None
    known = subset.train.teacher_labels_N != UNLABELLED
    assert subset.train.sample_ids_N[known].tolist() == list(range(LABELLED))
    assert subset.validation.sample_ids_N.tolist() == list(range(LABELLED, LABELLED + 100))
    assert subset.test.sample_ids_N.tolist() == list(range(NODES - TEST, NODES))
    assert len(subset.train) == NODES - TEST - 100
    assert dataset.inputs.features == WIDTH and dataset.num_classes == CLASSES
    sums_N = dataset._features_NF.sum(dim=1)
    assert set(sums_N.round(decimals=5).tolist()) <= {0.0, 1.0}
    drawn = loaded(tmp_path, split="random", pool=0.5, labels_per_class=4)
    assert (len(drawn.parts.labelled), len(drawn.parts.test)) == (12, 300)
    plain = loaded(tmp_path, normalize=False)
    assert plain._features_NF.max() == 1 and plain.content_hash != dataset.content_hash


def test_nobody_is_asked_about_nodes_of_which_nothing_is_known(tmp_path: Path) -> None:
    dataset = loaded(write(tmp_path, "citeseer", gap=True), set="CiteSeer")
    unknown = NODES - TEST + 3
    assert dataset.notes == ("1 nodes have edges and stand in no other file: nobody is asked about them",)
    splits = dataset.split("full")
    assert unknown not in [*splits.train.sample_ids_N.tolist(), *splits.test.sample_ids_N.tolist()]
    assert len(dataset._features_NF) == NODES


def test_missing_files_are_listed_and_nothing_is_fetched(tmp_path: Path) -> None:
    settings = data_settings({"name": "planetoid", "root": str(tmp_path), "validation": 0})
    assert missing_files(settings) == [str(tmp_path / f"ind.cora.{part}") for part in planetoid.PARTS]
    with pytest.raises(DataError, match=r"ind\.cora\.x: no such file; data\.root names their folder"):
        load_data(settings, CPU)
    write(tmp_path / "Cora" / "raw")
    assert missing_files(settings) == []
    (tmp_path / "Cora" / "raw" / "ind.cora.ty").unlink()
    assert missing_files(settings) == [str(tmp_path / f"ind.cora.{part}") for part in planetoid.PARTS]


class Evil:
    """What a pickle from the net may hold."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("touched"),)


class Sly:
    """The same through a name that is allowed."""

    def __reduce__(self) -> Any:
        return np.ndarray, (1 << 45,)


@pytest.mark.parametrize("value", [Evil(), [Evil()], {1: Evil()}, np.array([Evil()], dtype=object)])
def test_nothing_in_a_pickle_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: Any) -> None:
    monkeypatch.chdir(tmp_path)
    folder = write(tmp_path / "raw", graph=value)
    with pytest.raises(DataError, match=r"ind\.cora\.graph: is no pickle of arrays \(it names"):
        raw(folder)
    assert not (tmp_path / "touched").exists()


DAMAGED = [
    ({"x": Sly()}, r"ind\.cora\.x: is no pickle of arrays"),
    ({"graph": b"\x80\x02}q"}, r"ind\.cora\.graph: is no pickle of arrays"),
    ({"graph": b""}, r"ind\.cora\.graph: is no pickle of arrays"),
    ({"graph": [1, 2]}, r"ind\.cora\.graph: must hold a dictionary of neighbours, got list"),
    ({"graph": {1: 2}}, r"ind\.cora\.graph: must hold a list of nodes for each node"),
    ({"graph": {1: [600]}}, r"ind\.cora\.graph: names node 600; there are 600"),
    ({"allx": {}}, r"ind\.cora\.allx: must hold a matrix, got dict"),
    ({"ally": np.zeros(3)}, r"ind\.cora\.ally: must hold a matrix with a column for each class"),
    ({"tx": scipy.sparse.csr_matrix((3, WIDTH))}, r"50 test nodes from 550 on, beside 550 other nodes, 3 test feat"),
]


@pytest.mark.parametrize(("changes", "message"), DAMAGED, ids=[next(iter(of[0])) for of in DAMAGED])
def test_files_that_hold_something_else_are_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        raw(write(tmp_path, **changes))


@pytest.mark.parametrize(
    "parts", [{"indices": np.array([9, 0])}, {"indices": np.array([-1, 0])}, {"indptr": np.array([0, 2, 1, 2])},
              {"indptr": np.array([0, 9, 9, 2])}, {"data": np.zeros(1)}, {"_shape": (3, 1 << 60)}, {"_shape": None},
              {"data": np.array(["a", "b"])}]
)  # fmt: skip
def test_parts_of_a_matrix_that_do_not_fit_are_refused(tmp_path: Path, parts: dict[str, Any]) -> None:
    matrix = scipy.sparse.csr_matrix(np.array([[1.0, 0], [0, 2.0], [0, 0]]))
    vars(matrix).update(parts)
    (tmp_path / "matrix").write_bytes(pickle.dumps(matrix, 2))
    with pytest.raises(DataError, match=r"matrix: (the parts of its sparse matrix|must hold a sparse matrix)"):
        planetoid._dense(read_pickled(tmp_path / "matrix"), tmp_path / "matrix")


def test_settings_of_the_other_split_are_refused() -> None:
    for key in ("pool", "labels_per_class"):
        with pytest.raises(ValidationError, match=f"{key} is of random splits, and split is published"):
            data_settings({"name": "planetoid", "validation": 0, key: 5})

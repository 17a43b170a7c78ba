"""Graphs that were made or read once, kept by content for every later start."""

# Shapes: N nodes, E edges, F width of a node's features.

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from akdtune.data.graph_sets import Graph
from akdtune.data.store import kept, read_meta

_ARRAYS = ("features_NF", "edges_2E", "labels_N", "unknown")


def kept_graph(files: Sequence[Path], options: Mapping[str, Any], make: Callable[[], Graph]) -> Graph:
    """The graph of these files and options: found by content, or made once.

    Args:
        files: everything it is read from.
        options: what else changes it, as plain JSON.
        make: reads or makes it.

    Raises:
        DataError: for a cache folder that cannot be written; `make` raises its own.
    """

    def build(folder: Path, contents: str) -> Mapping[str, Any]:
        graph = make()
        for name in _ARRAYS:
            np.save(folder / f"{name}.npy", getattr(graph, name))
        published = None if graph.published is None else [part.tolist() for part in graph.published]
        return {"num_classes": graph.num_classes, "published": published, "notes": graph.notes}

    return kept(files, options, build, _opened)


def _opened(folder: Path) -> Graph:
    facts = read_meta(folder)
    arrays = {name: np.load(folder / f"{name}.npy") for name in _ARRAYS}
    published = None
    if facts["published"] is not None:
        labelled, validating, test = (np.array(part, np.int64) for part in facts["published"])
        published = labelled, validating, test
    return Graph(**arrays, num_classes=facts["num_classes"], published=published, notes=tuple(facts["notes"]))

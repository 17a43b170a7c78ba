"""Labels from somebody who may err, for nodes of the training pool that a fixed committee chooses.

The committee is trained on the labelled nodes alone and belongs to the data: if teachers chose, labels would depend on
teachers that depend on labels. What it says is kept by content.

Shapes: N nodes of the graph, M members, K classes, A annotated nodes.

References:
    "PKD", arXiv 2510.10116: nodes are chosen by the disagreement of their teachers,
    delta(v) = sum over i < j of KL(P_i || P_j) + KL(P_j || P_i), as its text has it.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from akdtune import networks
from akdtune.data.graph_sets import Graph, Ids, Parts, counted
from akdtune.data.store import kept
from akdtune.devices import seed_draws
from akdtune.errors import DataError
from akdtune.folders import here
from akdtune.randomness import Stream, below, derived_seed, random_order, random_words, unit
from akdtune.registry import network_name, typed
from akdtune.settings.graphs import AnnotateSettings, GraphSettings
from akdtune.signals import UNLABELLED, Nodes, NodeSpec

Floats = npt.NDArray[np.float64]

FORMAT = 1
"""Part of what scores are kept under: how the committee is trained."""

EPOCHS, LEARNING_RATE, WEIGHT_DECAY = 100, 0.01, 5e-4
"""The committee's recipe (AdamW); it is part of the data, and no setting of a study."""

DIGITS = 6
"""Decimals of a score by which nodes are ranked: what rounding differs in from machine to machine lies below."""


def annotated(graph: Graph, parts: Parts, settings: GraphSettings) -> tuple[Ids | None, tuple[str, ...]]:
    """A label of each node that is annotated, UNLABELLED elsewhere, and what to say about it.

    Returns:
        labels [N], None without annotations; sentences.

    Raises:
        DataError: naming the file and line of a wrong answer, or for more annotations than nodes to annotate.
    """
    asked = settings.annotate
    if asked is None:
        return None, ()
    answers = None if asked.annotator is None else answers_of(here(asked.annotator), graph)
    open_nodes = parts.unlabelled
    if answers is not None:
        open_nodes = open_nodes[np.isin(open_nodes, np.array(sorted(answers), np.int64))]
    wanted = counted(asked.share, len(graph.labels_N), "data.annotate.share")
    if wanted > len(open_nodes):
        whose = "have no label yet" if answers is None else f"have none yet and stand in {asked.annotator}"
        raise DataError(
            f"data.annotate.share is {asked.share}: {wanted} of {len(graph.labels_N)} nodes, and {len(open_nodes)} of "
            f"the training pool {whose}"
        )
    chosen_A = np.sort(ranked(graph, parts, asked, open_nodes)[:wanted])
    labels_N = np.full_like(graph.labels_N, UNLABELLED)
    if answers is None:
        labels_N[chosen_A] = _oracle(graph, chosen_A, asked)
    else:
        labels_N[chosen_A] = [answers[node] for node in chosen_A.tolist()]
    if answers is None:
        return labels_N, ()
    unread = len(answers) - len(open_nodes)
    outside = f"; {unread} answers about other nodes are not read" if unread else ""
    return labels_N, (f"annotations: {len(chosen_A)} of {len(answers)} answers in {asked.annotator}{outside}",)


def ranked(graph: Graph, parts: Parts, settings: AnnotateSettings, nodes: Ids) -> Ids:
    """Nodes in the order in which they are annotated; ties go by the seed."""
    drawn = nodes[random_order(settings.seed, 0, nodes, Stream.ANNOTATION)]
    if settings.by == "random":
        return drawn
    scores_N = _scores(graph, parts, settings)
    return drawn[np.argsort(-scores_N[drawn].round(DIGITS), kind="stable")]


def _oracle(graph: Graph, nodes_A: Ids, settings: AnnotateSettings) -> Ids:
    """The right labels, a share of them drawn anew from all classes."""
    words = random_words(settings.seed, 1, nodes_A, Stream.ANNOTATION)
    wrong_A = unit(words[0]) < settings.error
    labels_A: Ids = np.where(wrong_A, below(words[1], graph.num_classes), graph.labels_N[nodes_A])
    return labels_A


def answers_of(file: Path, graph: Graph) -> dict[int, int]:
    """What a CSV file with the columns node and label says, by node.

    Raises:
        DataError: naming the file, and the line of an answer that is none.
    """
    answers: dict[int, int] = {}
    try:
        with file.open(encoding="utf-8", newline="") as opened:
            rows = csv.reader(opened, strict=True)
            head = [name.strip() for name in next(rows, [])]
            if head != ["node", "label"]:
                raise DataError(f"{file}:1: must be the head node,label, got {','.join(head) or 'nothing'}")
            for row in rows:
                if row:
                    _take(answers, row, f"{file}:{rows.line_num}", graph)
    except OSError as error:
        raise DataError(f"data.annotate.annotator: {file}: {error.strerror or error}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file}: is no CSV file in UTF-8 ({error})") from error
    return answers


def _take(answers: dict[int, int], row: list[str], place: str, graph: Graph) -> None:
    if len(row) != 2:
        raise DataError(f"{place}: must be a node and a label, got {len(row)} columns")
    values = []
    for name, text, count in zip(("node", "label"), row, (len(graph.labels_N), graph.num_classes), strict=True):
        if not text.strip().isdecimal() or int(text) >= count:
            raise DataError(f"{place}: {name} must be a whole number from 0 to {count - 1}, got '{text.strip()}'")
        values.append(int(text))
    node, label = values
    if node in answers:
        raise DataError(f"{place}: node {node} has an answer already")
    answers[node] = label


def _scores(graph: Graph, parts: Parts, settings: AnnotateSettings) -> Floats:
    """How much a node deserves a label, [N]: computed once for a graph, its labelled nodes and a committee."""
    committee = [[name, typed("networks", name).model_dump(mode="json")] for name in settings.committee]
    options = {
        "name": "annotations",
        "format": [FORMAT, EPOCHS, LEARNING_RATE, WEIGHT_DECAY],
        "graph": graph.content_hash,
        "labelled": parts.labelled.tolist(),
        "committee": committee,
        "seed": settings.seed,
        "by": settings.by,
    }

    def build(folder: Path, contents: str) -> Mapping[str, Any]:
        probabilities_NMK = committee_of(graph, parts.labelled, settings)
        scores_N = disagreement(probabilities_NMK) if settings.by == "disagreement" else entropy(probabilities_NMK)
        np.save(folder / "scores.npy", scores_N)
        return {}

    scores_N: Floats = kept([], options, build, lambda folder: np.load(folder / "scores.npy"))
    return scores_N


def disagreement(probabilities_NMK: Floats) -> Floats:
    """Sum over all ordered pairs of members of the divergence of one from the other, [N], in nats."""
    logs_NMK = np.log(np.maximum(probabilities_NMK, np.finfo(np.float64).tiny))
    of_pairs_NMM = np.einsum("nik,nik->ni", probabilities_NMK, logs_NMK)[:, :, None] - np.einsum(
        "nik,njk->nij", probabilities_NMK, logs_NMK
    )
    summed: Floats = of_pairs_NMM.sum(axis=(1, 2))
    return summed


def entropy(probabilities_NMK: Floats) -> Floats:
    """Entropy of the members' mean, [N], in nats."""
    mean_NK = probabilities_NMK.mean(axis=1)
    unsure: Floats = -(mean_NK * np.log(np.maximum(mean_NK, np.finfo(np.float64).tiny))).sum(axis=1)
    return unsure


def committee_of(graph: Graph, labelled: Ids, settings: AnnotateSettings) -> Floats:
    """What each member says about every node after training on the labelled ones, [N, M, K].

    In float64 on the CPU, so that what is chosen does not depend on how a machine rounds. Torch's global generator
    stays as it was.
    """
    nodes = Nodes(
        torch.from_numpy(graph.features_NF).double(),
        torch.from_numpy(graph.edges_2E),
        torch.arange(len(graph.labels_N)),
    )
    rows_R = torch.from_numpy(labelled)
    labels_R = torch.from_numpy(graph.labels_N)[rows_R]
    spec = NodeSpec(graph.features_NF.shape[1], graph.num_classes)
    said = []
    with torch.random.fork_rng(devices=[]):
        for name in settings.committee:
            seeds = "committee", settings.seed, network_name(name)
            network = networks.build(name, spec, derived_seed(*seeds, "init")).double()
            seed_draws(derived_seed(*seeds, "dropout"), torch.device("cpu"))
            optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
            network.train()
            for _ in range(EPOCHS):
                loss = functional.cross_entropy(network(nodes).logits_BK[rows_R], labels_R)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            network.eval()
            with torch.no_grad():
                said.append(torch.softmax(network(nodes).logits_BK, dim=1).numpy())
    return np.stack(said, axis=1)

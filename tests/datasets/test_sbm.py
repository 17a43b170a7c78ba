"""The made-up graph: who is told by what, whose labels are known, who is annotated."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from akdtune.data.dataset import load_data
from akdtune.data.graph_sets import NodeData
from akdtune.data.store import kept
from akdtune.datasets import _annotations, sbm
from akdtune.errors import DataError
from akdtune.settings.data import data_settings
from akdtune.signals import UNLABELLED

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {"name": "sbm", "nodes": 200, "pool": 0.6, "validation": 20, "labels_per_class": 5}


def loaded(**changes: Any) -> NodeData:
    dataset = load_data(data_settings({**SMALL, **changes}), CPU)
    assert isinstance(dataset, NodeData)
    return dataset


def graph(**changes: Any) -> Any:
    return sbm.block_graph(sbm.BlockSettings(**{**SMALL, **changes}))


def test_the_graph_is_the_same_everywhere() -> None:
    made = graph()
    assert replace(made, features_NF=made.features_NF[:, :0]).content_hash == "e004a16cb3ab4e8bc1bb64a70bd749ce"
    assert made.features_NF[0, :3] == pytest.approx([2.083162, -0.661156, 0.738187], abs=1e-5)
    assert graph(graph_seed=1).content_hash != graph().content_hash
    assert graph(split_seed=1).content_hash == graph().content_hash


def test_edges_tell_some_classes_and_features_the_others() -> None:
    made = graph(nodes=2000, features=8)
    source, target = made.labels_N[made.edges_2E]
    assert np.bincount(made.labels_N).tolist() == [500] * 4
    assert made.edges_2E.shape[1] / 2000 == pytest.approx(10, rel=0.05)
    inside = (source < 2) & (target < 2)
    assert (source == target)[inside].mean() == pytest.approx(0.9, abs=0.02)
    others = (source > 1) & (target > 1)
    assert (source == target)[others].mean() == pytest.approx(0.5, abs=0.03)
    assert ((source > 1) != (target > 1)).mean() == pytest.approx(0.2 / 1.2, abs=0.02)
    means = np.stack([made.features_NF[made.labels_N == k].mean(axis=0) for k in range(4)])
    expected = np.zeros((4, 8))
    expected[[2, 3], [2, 3]] = 4
    assert means == pytest.approx(expected, abs=0.15)
    deviations = np.concatenate([made.features_NF[made.labels_N == k] - means[k] for k in range(4)]).std(axis=0)
    assert deviations == pytest.approx(np.ones(8), abs=0.06)


def test_edges_stand_in_both_directions_once_and_never_at_one_node() -> None:
    pairs = list(map(tuple, graph().edges_2E.T.tolist()))
    assert len(set(pairs)) == len(pairs)
    assert all(a != b for a, b in pairs)
    assert {(b, a) for a, b in pairs} == set(pairs)


def test_of_a_graph_that_is_not_mixed_both_tell_all_classes() -> None:
    made = graph(nodes=1000, mixed=False, classes=3)
    source, target = made.labels_N[made.edges_2E]
    assert (source == target).mean() == pytest.approx(0.9, abs=0.02)
    assert np.linalg.norm([made.features_NF[made.labels_N == k].mean(axis=0) for k in range(3)], axis=1) == (
        pytest.approx([4] * 3, abs=0.3)
    )


@pytest.mark.parametrize("split_seed", [0, 1])
def test_no_node_is_in_two_parts_and_labels_are_known_of_some(split_seed: int) -> None:
    dataset = loaded(split_seed=split_seed)
    subset, full = dataset.split("subset"), dataset.split("full")
    assert (len(subset.train), len(subset.test), len(full.train)) == (100, 80, 120)
    assert subset.validation is not None and len(subset.validation) == 20 and full.validation is None
    ids = torch.cat([part.sample_ids_N for part in (subset.train, subset.validation, subset.test)])
    assert sorted(ids.tolist()) == list(range(200))
    for train in (subset.train, full.train):
        known = train.teacher_labels_N != UNLABELLED
        assert torch.bincount(train.labels_N[known]).tolist() == [5] * 4
        assert torch.equal(train.training_labels_N, train.teacher_labels_N)
        assert torch.equal(train.labels_N[known], train.training_labels_N[known])
    assert torch.equal(full.test.sample_ids_N, subset.test.sample_ids_N)
    assert not subset.test.some_unlabelled


def test_an_epoch_is_one_step_in_the_order_of_the_nodes() -> None:
    train = loaded().split("subset").train
    batches = [list(train.epoch(seed, epoch, size)) for seed, epoch, size in ((0, 1, 8), (5, 2, 64))]
    for (only,) in batches:
        assert torch.equal(only.positions_B, torch.arange(100))
        assert torch.equal(only.inputs.rows_R, train.sample_ids_N)
    assert (train.items, train.at_once, len(train)) == (1, 1, 100)


COMMITTEE = ["sage", "mlp_nodes"]
ANNOTATED = {"share": 0.2, "error": 0.25}


@pytest.mark.parametrize(("by", "split_seed"), [("random", 0), ("random", 1), ("disagreement", 0), ("entropy", 1)])
def test_annotated_are_nodes_of_the_training_pool_alone(by: str, split_seed: int) -> None:
    chosen_by = {"by": by} if by == "random" else {"by": by, "committee": COMMITTEE}
    dataset = loaded(annotate={**ANNOTATED, **chosen_by}, split_seed=split_seed)
    plain = loaded(split_seed=split_seed)
    train = dataset.split("full").train
    told = (train.training_labels_N != UNLABELLED) & (train.teacher_labels_N == UNLABELLED)
    annotated = train.sample_ids_N[told].numpy()
    assert len(annotated) == 40
    parts = dataset.parts
    for judged in (parts.validation, parts.test, parts.labelled):
        assert not np.isin(annotated, judged).any()
    assert np.isin(annotated, parts.unlabelled).all()
    for ours, before in zip(vars(parts).values(), vars(plain.parts).values(), strict=True):
        assert np.array_equal(ours, before)
    assert dataset.fingerprint("full") == plain.fingerprint("full")  # teachers are told no annotation
    assert dataset.content_hash != plain.content_hash
    for judged in ("subset", "full"):
        test = dataset.split(judged).test  # type: ignore[arg-type]
        assert torch.equal(test.labels_N, plain.split("full").test.labels_N)
    validation = dataset.split("subset").validation
    assert validation is not None and not np.isin(validation.sample_ids_N.numpy(), annotated).any()


def test_a_share_of_annotations_is_drawn_anew_from_all_classes() -> None:
    train = loaded(nodes=2000, annotate={"share": 0.5, "by": "random", "error": 0.4}).split("full").train
    told = (train.training_labels_N != UNLABELLED) & (train.teacher_labels_N == UNLABELLED)
    wrong = (train.training_labels_N != train.labels_N)[told].double().mean()
    assert float(wrong) == pytest.approx(0.4 * 3 / 4, abs=0.05)
    right = loaded(annotate={"share": 0.2, "by": "random"}).split("full").train
    known = right.training_labels_N != UNLABELLED
    assert torch.equal(right.training_labels_N[known], right.labels_N[known])


def test_more_annotations_begin_with_the_same_nodes() -> None:
    sets = []
    for share in (0.1, 0.2):
        train = loaded(annotate={"share": share, "committee": COMMITTEE}).split("full").train
        sets.append(set(train.sample_ids_N[train.training_labels_N != UNLABELLED].tolist()))
    assert sets[0] < sets[1]


def test_disagreement_and_entropy_by_hand() -> None:
    p = np.array([[0.7, 0.3], [0.2, 0.8], [0.5, 0.5]])
    pairs = [(p[i], p[j]) for i in range(3) for j in range(3) if i != j]
    expected = sum(float((a * np.log(a / b)).sum()) for a, b in pairs)
    assert _annotations.disagreement(p[None])[0] == pytest.approx(expected)
    mean = p.mean(axis=0)
    assert _annotations.entropy(p[None])[0] == pytest.approx(-(mean * np.log(mean)).sum())
    assert _annotations.disagreement(np.array([[[1.0, 0.0], [1.0, 0.0]]]))[0] == 0


def test_a_committee_is_asked_once_and_says_the_same_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[int] = []
    committee_of = _annotations.committee_of

    def counted(*given: Any) -> Any:
        asked.append(1)
        return committee_of(*given)

    monkeypatch.setattr(_annotations, "committee_of", counted)
    settings = {"annotate": {"share": 0.1, "by": "disagreement", "committee": COMMITTEE, "seed": 1}}
    first, again = loaded(**settings), loaded(**settings)
    assert len(asked) == 1
    monkeypatch.setenv("AKDTUNE_CACHE", str(tmp_path))
    state = torch.get_rng_state()
    anew = loaded(**settings)
    assert len(asked) == 2 and torch.equal(torch.get_rng_state(), state)
    assert first.content_hash == again.content_hash == anew.content_hash
    assert kept is _annotations.kept


ANSWERS = "node,label\n{}\n"


def answered(tmp_path: Path, text: str, **settings: Any) -> NodeData:
    file = tmp_path / "answers.csv"
    file.write_text(text)
    return loaded(annotate={"share": 0.05, "by": "random", "annotator": str(file), **settings})


def test_answers_of_somebody_else_are_taken_from_a_file(tmp_path: Path) -> None:
    plain = loaded()
    everybody = "\n".join(f"{node},{node % 4}" for node in range(200))
    dataset = answered(tmp_path, ANSWERS.format(everybody))
    train = dataset.split("full").train
    told = (train.training_labels_N != UNLABELLED) & (train.teacher_labels_N == UNLABELLED)
    assert int(told.sum()) == 10
    assert torch.equal(train.training_labels_N[told], train.sample_ids_N[told] % 4)
    outside = 200 - len(plain.parts.unlabelled)
    assert dataset.notes == (
        f"annotations: 10 of 200 answers in {tmp_path / 'answers.csv'}; {outside} answers about other nodes are not "
        "read",
    )
    other = answered(tmp_path, ANSWERS.format(everybody.replace(",3", ",1")))
    assert other.content_hash != dataset.content_hash


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("node;label\n3;1\n", "answers.csv:1: must be the head node,label, got node;label"),
        ("", "answers.csv:1: must be the head node,label, got nothing"),
        (ANSWERS.format("3,1\n4"), "answers.csv:3: must be a node and a label, got 1 columns"),
        (ANSWERS.format("200,1"), "answers.csv:2: node must be a whole number from 0 to 199, got '200'"),
        (ANSWERS.format("3,1\n7,positive"), "answers.csv:3: label must be a whole number from 0 to 3, got 'positive'"),
        (ANSWERS.format("7,4"), "answers.csv:2: label must be a whole number from 0 to 3, got '4'"),
        (ANSWERS.format("-1,0"), "answers.csv:2: node must be a whole number from 0 to 199, got '-1'"),
        (ANSWERS.format("7,1\n8,1\n7,2"), "answers.csv:4: node 7 has an answer already"),
    ],
)
def test_an_answer_that_is_none_is_refused_by_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError) as refused:
        answered(tmp_path, text)
    assert str(refused.value).endswith(message)


def test_a_file_of_too_few_answers_or_none_is_refused(tmp_path: Path) -> None:
    unlabelled = loaded().parts.unlabelled[:3]
    few = "\n".join(f"{node},0" for node in unlabelled)
    with pytest.raises(DataError, match=r"data.annotate.share is 0.05: 10 of 200 nodes, and 3 of the training pool"):
        answered(tmp_path, ANSWERS.format(few))
    with pytest.raises(DataError, match=r"data.annotate.annotator: .*nowhere.csv: No such file"):
        loaded(annotate={"share": 0.05, "annotator": str(tmp_path / "nowhere.csv")})
    (tmp_path / "answers.csv").write_bytes(b"node,label\n\xff,1\n")
    with pytest.raises(DataError, match=r"answers.csv: is no CSV file in UTF-8"):
        loaded(annotate={"share": 0.05, "annotator": str(tmp_path / "answers.csv")})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": 3}, "a mixed graph needs an even number of classes from 4 on, got 3"),
        ({"classes": 20}, "classes of their own direction each need 20 features, got 16"),
        ({"mixed": False, "crossing": 0.5}, "crossing is of mixed graphs, and mixed is false"),
        ({"annotate": {"share": 0.1, "committee": ["gcn"]}}, "a committee of one does not disagree"),
        ({"annotate": {"share": 0.1, "committee": ["gcn", "cnn"]}}, "the network 'cnn' takes images, not nodes"),
        ({"annotate": {"share": 0.1, "committee": ["gcn", "appn"]}}, "did you mean 'appnp'"),
        ({"annotate": {"share": 0.1, "by": "random", "committee": ["gcn", "gat"]}}, "nobody asks a committee"),
        ({"annotate": {"share": 0.1, "error": 0.1, "annotator": "a.csv"}}, "annotator names a file of real ones"),
    ],
)
def test_settings_that_say_nothing_together_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        data_settings({**SMALL, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels_per_class": 30}, r"data.labels_per_class is 30: class \d has \d+ nodes in the training pool"),
        ({"pool": 200}, "data.pool is 200: 200 of 200 nodes leave none to test on"),
        ({"pool": 201}, "data.pool is 201: there are 200 nodes to choose from"),
        ({"validation": 130}, "data.validation is 130: there are 120 nodes to choose from"),
        ({"annotate": {"share": 0.5, "by": "random"}}, r"100 of 200 nodes, and 80 of the training pool have no label"),
        ({"degree": 100}, "data.degree is 100: two nodes of one class would have an edge with a chance of"),
    ],
)
def test_more_than_there_is_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        loaded(**changes)


def test_no_validation_nodes_are_refused_where_trials_are_selected_on_them() -> None:
    dataset = loaded(validation=0)
    assert dataset.split("full").validation is None
    with pytest.raises(DataError, match=r"data\.validation is 0, but trials of a search are selected on validation"):
        dataset.split("subset")

"""Trials on a graph: what is seen, told and measured; every method, view and network that the task does not refuse."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from akdtune.data.dataset import load_data
from akdtune.designs.no_effect import canonical
from akdtune.errors import AkdtuneError, SettingsError
from akdtune.planning.plan import Plan
from akdtune.planning.report import plan_report
from akdtune.registry import lookup, names
from akdtune.settings.data import data_settings
from akdtune.settings.training import Seeds
from akdtune.settings.trial import misfits
from akdtune.signals import UNLABELLED
from akdtune.study import spec
from akdtune.teacher.find import find_teacher, load_others, teacher_key
from akdtune.training.trial import Trial
from tests.small_graphs import BLOCKS, CPU, TEACHERS, blocks, configured, teachers, trained
from tests.small_trials import numbers

NODE_NETWORKS = [name for name in names("networks") if lookup("networks", name).takes == "nodes"]
SELECTOR = {"name": "selector", "policy": "exact"}
KD = [{"name": "kd"}]


def alone(views: str, method: str, network: str = "sage") -> list[str]:
    """Why a trial is refused when a file is read; nothing where it is not."""
    others = [{"network": network} for network in TEACHERS[1:]]
    study = {"task": {"name": "graph"}, "data": BLOCKS, "teacher": {"network": TEACHERS[0], "others": others}}
    settings = {"views": {"name": views}, "method": [{"name": method}], "student": {"network": network}, "training": {}}
    return [message for _, message in misfits(settings, study)]


def first_epoch(**given: Any) -> dict[str, float | None]:
    trial = Trial(configured(**given, epochs=1), dataset=blocks())
    (epoch,) = (epoch for epoch in trial.run() if epoch.stage == "student")
    return epoch.row


PAIRS = [(views, method) for views in names("views") for method in names("methods") if not alone(views, method)]


def test_what_the_task_refuses_is_known() -> None:
    maps = ["at", "cat_kd", "fitnet", "kdsvd", "mlkd", "nst", "ofd", "reviewkd", "simkd", "sp", "vid"]
    for method in maps:
        assert any(f"'{method}' cannot work with the task 'graph': it needs" in text for text in alone("none", method))
    assert "'last_batch' repeats images of the last batch: the task 'graph' has none" in alone("none", "last_batch")
    assert alone("none", "kd", network="cnn") == [
        "the network 'cnn' takes images, and the task 'graph' gives nodes (networks of nodes: "
        + ", ".join(NODE_NETWORKS) + ")"
    ]  # fmt: skip
    run = {method for _, method in PAIRS}
    assert {"kd", "dkd", "pld", "crd", "rkd", "nkd", "wsld", "student_only", "label_smoothing"} <= run
    assert {views for views, _ in PAIRS} >= {"none", "tekap", "angular", "selector", "multi_teacher"}


@pytest.mark.parametrize("method", sorted({method for _, method in PAIRS}))
def test_every_method_trains_a_network_of_nodes(method: str) -> None:
    """With one view each and all views with one method each: what is left of the product is in the next test."""
    views = next(views for views in ("tekap", "selector", "none") if (views, method) in PAIRS)
    row = first_epoch(views={"name": views}, methods=[{"name": method}])
    assert row["train_loss"] is not None and math.isfinite(row["train_loss"])
    assert row["val_accuracy"] is not None and 0 <= row["val_accuracy"] <= 100


@pytest.mark.parametrize("views", sorted({views for views, _ in PAIRS}))
def test_every_view_teaches_a_network_of_nodes(views: str) -> None:
    settings = {"name": views, **({"warmup_epochs": 1} if views == "angular" else {})}
    for network in ("gat",) if views != "selector" else NODE_NETWORKS:
        row = first_epoch(views=settings, methods=KD if (views, "kd") in PAIRS else [{"name": "student_only"}],
                          network=network)  # fmt: skip
        assert row["train_loss"] is not None and math.isfinite(row["train_loss"])


@pytest.mark.slow
def test_every_pair_that_is_not_refused_runs() -> None:
    for views, method in PAIRS:
        warmup = {"warmup_epochs": 1} if views == "angular" else {}
        row = first_epoch(views={"name": views, **warmup}, methods=[{"name": method}])
        assert row["train_loss"] is not None and math.isfinite(row["train_loss"]), (views, method)


def test_who_is_told_what() -> None:
    trial = Trial(configured(SELECTOR, KD), dataset=blocks())
    (step,) = trial._batches("student", 1, lambda: False)
    batch, train = step.batch, trial.train
    assert len(batch.labels_B) == 36 and step.teacher is not None and len(step.teacher.others) == 2
    assert batch.labelled_B is not None and batch.untaught_B is not None
    assert int(batch.labelled_B.sum()) == 16 + 16 and int(batch.untaught_B.sum()) == 16
    assert torch.equal(batch.labels_B != UNLABELLED, batch.labelled_B)
    assert torch.equal(batch.untaught_B, batch.labelled_B & (train.teacher_labels_N == UNLABELLED))
    assert batch.right_labels_B is None
    oracle = Trial(configured({"name": "selector", "policy": "oracle"}, KD), dataset=blocks())
    (step,) = oracle._batches("student", 1, lambda: False)
    assert step.batch.right_labels_B is not None and torch.equal(step.batch.right_labels_B, train.labels_N)


def test_rows_hold_what_is_declared() -> None:
    trial = Trial(configured(SELECTOR, KD, epochs=3), dataset=blocks())
    row = [epoch.row for epoch in trial.run()][-1]
    shares = [row[f"selected_{number}"] for number in (1, 2, 3)]
    assert sum(share for share in shares if share is not None) == pytest.approx(1)
    assert row["rewarded"] == pytest.approx(16 / 36)
    declared = {column.name: column for column in trial.columns}
    assert {"selected_*", "rewarded", "agreement"} <= declared.keys()
    for name in ("val_accuracy", "agreement", "teacher_accuracy"):
        assert "nodes" in declared[name].sentence and "images" not in declared[name].sentence
    _, predictions = trial.close()
    assert predictions.logits_NK.shape == (12, 4)
    assert torch.equal(predictions.labels_N, trial.splits.validation.labels_N)  # type: ignore[union-attr]


@pytest.mark.parametrize("policy", ["exact", "reinforce", "random", "best"])
def test_the_same_numbers_fresh_and_resumed(policy: str) -> None:
    config = configured({"name": "selector", "policy": policy}, KD, epochs=4)
    whole = list(Trial(config, dataset=blocks()).run())
    assert numbers(list(Trial(config, dataset=blocks()).run())) == numbers(whole)
    resumed = Trial(config, dataset=blocks())
    left = list(resumed.run(whole[1].state))
    assert numbers(left) == numbers(whole[2:])
    for (name, of_whole), of_resumed in zip(
        whole[-1].state["student"].items(), left[-1].state["student"].values(), strict=True
    ):
        assert torch.equal(of_whole, of_resumed), name


def test_a_replica_is_the_same_experiment_rounded_differently() -> None:
    changes = [{"seeds": Seeds(rounding=rounding)} for rounding in (0, 1)]
    own = {"network": {"name": "sage", "width": 8, "dropout": 0.0}}
    trials = [Trial(configured(SELECTOR, KD, changes=of, student=own, epochs=30), dataset=blocks()) for of in changes]
    base, replica = ([epoch.row["train_loss"] for epoch in trial.run()] for trial in trials)
    assert base == pytest.approx(replica, rel=1e-4) and base != replica
    with pytest.raises(AkdtuneError, match="the student 'sage' draws random numbers of its own"):
        Trial(configured(SELECTOR, KD, changes=changes[1]), dataset=blocks())


def test_teachers_train_on_known_labels_alone() -> None:
    """They are those of the graph without annotations, and know the labels that they were told."""
    plain = load_data(data_settings({**BLOCKS, "annotate": None}), CPU)
    assert teacher_key(teachers(), plain, "subset") == teacher_key(teachers(), blocks(), "subset")
    file = trained()
    assert find_teacher(teachers(), plain, "subset") == file
    perceptron = load_others(file, blocks().inputs, CPU)[-1]
    train = blocks().split("subset").train
    known = train.teacher_labels_N != UNLABELLED
    ((_, inputs),) = train.plain_batches(1)
    right = perceptron(inputs).logits_BK.argmax(dim=1) == train.labels_N
    assert bool(right[known].all()) and not bool(right[~known].all())


STUDY = """
study: nodes
task: graph
data: {name: sbm, nodes: 80, features: 6, pool: 0.6, validation: 12, labels_per_class: 4}
teacher:
  network: {name: gcn, width: 8}
  optimizer: adamw
  epochs: 10
  others: [{network: {name: mlp_nodes, width: 8}, optimizer: adamw, epochs: 10}]
student: {network: {name: sage, width: 8}}
views: selector
method: kd
training: {epochs: 2, optimizer: adamw}
ablation: {design: arms, arms: {random: {views.policy: random}, large: {training.batch_size: 256}}, seeds: [1, 2]}
"""


def study(tmp_path: Path, *overrides: str) -> spec.Study:
    (tmp_path / "nodes.yaml").write_text(STUDY)
    return spec.load(str(tmp_path / "nodes.yaml"), overrides)


def test_the_plan_says_what_the_graph_holds_and_that_batches_are_idle(tmp_path: Path) -> None:
    report = "\n".join(plan_report(Plan.of(study(tmp_path))))
    assert "data sbm: 48 training, 0 validation, 32 test nodes" in report
    assert "one step an epoch whatever training.batch_size is; 16 nodes of the pool labelled, 20 without" in report
    assert "large: the same as base (training.batch_size has no effect: an epoch is one step over the whole" in report


def test_batch_size_is_idle_on_graphs_and_nowhere_else(tmp_path: Path) -> None:
    cell = study(tmp_path).configurations[0]
    assert "batch_size" not in canonical(cell)["training"]
    assert "batch_size" in canonical({key: value for key, value in cell.items() if key != "task"})["training"]


REFUSED = [
    (["student.network=cnn"], "student.network: the network 'cnn' takes images, and the task 'graph' gives nodes"),
    (["data={name: digits, validation: 0}"], "the data set 'digits' holds images, and the task 'graph' takes nodes"),
    (["task=image"], "the data set 'sbm' holds nodes, and the task 'image' takes images"),
    (["method=mlkd"], "'mlkd' cannot work with the task 'graph': it needs strong"),
    (["views.policy=greedy"], "views.policy: must be one of 'exact', 'reinforce', 'random', 'entropy', 'best'"),
    (["method=rkd", "data.nodes=1000"], "'rkd' compares all triples of a batch, and the task 'graph' has 600 nodes"),
    (["teacher.others=[]"], "'selector' needs further teachers: list them under teacher.others"),
    (["data.annotate={share: 2}"], "data.annotate.share: "),
    (["data.annotate={share: 0.1, comitee: [gcn]}"], "unknown key 'comitee'; did you mean 'committee'"),
]  # fmt: skip


@pytest.mark.parametrize(("overrides", "message"), REFUSED, ids=[of[0][0] for of in REFUSED])
def test_what_cannot_work_is_refused_when_the_file_is_read(tmp_path: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(SettingsError) as refused:
        study(tmp_path, *overrides)
    assert message in str(refused.value).replace("\n", " ")

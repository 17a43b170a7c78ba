"""Federated trials: rounds that can be resumed, who is judged, draws by seed alone."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import pytest
import torch

from akdtune.federated.evaluation import CLIENT_STRIDE
from akdtune.federated.settings import FederatedSettings
from akdtune.federated.trial import FederatedTrial
from akdtune.settings.data import DataSettings
from akdtune.settings.teacher import TeacherSettings
from akdtune.settings.training import Seeds
from akdtune.tasks.federated import FederatedTask
from akdtune.teacher.file import TeacherFile
from akdtune.training.loop import Interrupted
from akdtune.training.trial import trial_of
from tests.small_trials import configured, numbers

NETWORKS = [{"name": "mlp", "widths": [8]}, {"name": "mlp", "widths": [12, 12]}]
TASK: dict[str, Any] = {
    "clients": 4, "networks": NETWORKS, "dirichlet": 1.0, "minimum": 8, "proxy": 60, "local_epochs": 1,
}  # fmt: skip
DATA = DataSettings(name="digits", validation=150, limit_per_class=40)
NO_TEACHER = TeacherFile.untrained(TeacherSettings(network="none"))
FREE = {"name": "layers", "steps": 3, "lr": 0.05, "pseudo_inputs": 8}


def federated(
    method: str = "fedfd", role: str = "search", seed: int = 0, epochs: int = 3, rounding: int = 0, **task: Any
) -> FederatedTrial:
    views = {"name": "none" if method == "student_only" else "clients"}
    settings = FederatedSettings(**{**TASK, **task})
    config = configured(
        DATA, NO_TEACHER, views, [{"name": method}], student=NETWORKS[1],
        changes={"task": FederatedTask(settings), "role": role, "seeds": Seeds(
            init=seed, order=seed, noise=seed, rounding=rounding)}, epochs=epochs, batch_size=16, lr_decay=1.0,
    )  # fmt: skip
    built = trial_of(config)
    assert isinstance(built, FederatedTrial)
    return built


KINDS = [
    {"method": "fedfd"}, {"method": "kd", "aggregate": "average"}, {"method": "kd", "aggregate": "none"},
    {"method": "student_only", "aggregate": FREE, "judged": "clients"},
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS, ids=["by_architecture", "average", "none", "layers"])
def test_a_resumed_trial_computes_the_same_numbers(kind: dict[str, Any]) -> None:
    whole = federated(**kind)
    epochs = list(whole.run())
    assert [epoch.epoch for epoch in epochs] == [1, 2, 3]
    again = federated(**kind)
    rest = list(again.run(epochs[0].state))
    assert numbers(rest) == numbers(epochs[1:])
    assert all(torch.equal(a, b) for a, b in zip(whole.student.parameters(), again.student.parameters(), strict=True))
    (row, predictions), (row_again, predictions_again) = whole.close(), again.close()
    assert row == row_again and torch.equal(predictions.logits_NK, predictions_again.logits_NK)


def test_an_interrupted_round_is_begun_again() -> None:
    whole = list(federated().run())
    asked = 0

    def should_stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > 25

    epochs = []
    with contextlib.suppress(Interrupted):
        for epoch in federated().run(None, should_stop):
            epochs.append(epoch)  # what came before the interruption is wanted
    assert 1 <= len(epochs) < 3
    assert numbers([*epochs, *federated().run(epochs[-1].state)]) == numbers(whole)


def test_trials_of_one_seed_share_a_partition_whatever_else_they_do() -> None:
    def ids(trial: FederatedTrial) -> list[list[int]]:
        return [client.images.sample_ids_N.tolist() for client in trial.clients]

    assert ids(federated()) == ids(federated("student_only", judged="clients", aggregate="none", local_epochs=2))
    assert ids(federated()) != ids(federated(seed=1))
    assert ids(federated(split_seed=3)) == ids(federated(split_seed=3, seed=1))
    proxy = federated().proxy
    assert proxy is not None and not any(set(proxy.sample_ids_N.tolist()) & set(of) for of in ids(federated()))


def test_a_round_says_what_changed_and_what_is_orthogonal() -> None:
    trial = federated()
    rows = [epoch.row for epoch in trial.run()]
    values = [row["val_accuracy"] for row in rows]
    assert rows[0]["round_change"] is None
    assert rows[1]["round_change"] == pytest.approx(abs((values[1] or 0) - (values[0] or 0)))
    assert all(0 <= (row["projection_error"] or 0) < 1e-5 for row in rows)
    assert all((row["client_accuracy_min"] or 0) <= (row["client_accuracy_mean"] or 0) <= 100 for row in rows)
    assert all(math.isfinite(row["loss.fedfd"] or math.nan) and "loss.ce" in row for row in rows)
    declared = {column.name for column in trial.columns}
    plain = {name for row in rows for name in row if not name.startswith("loss.")}
    assert plain <= declared


def test_the_server_reads_no_label_of_its_proxy_images() -> None:
    first, second = federated(), federated()
    assert second.proxy is not None
    second.proxy.training_labels_N.fill_(0)
    second.proxy.labels_N.fill_(0)
    assert numbers(list(first.run())) == numbers(list(second.run()))


def test_alone_nobody_hears_of_the_others() -> None:
    """A client of a trial without aggregation is the network that trains on its images in any other such trial."""
    alone, listened = federated("student_only", aggregate="none", judged="clients"), federated("kd", aggregate="none")
    list(alone.run()), list(listened.run())
    for mine, theirs in zip(alone.clients, listened.clients, strict=True):
        for name, value in mine.network.state_dict().items():
            assert torch.equal(value, theirs.network.state_dict()[name])


def test_clients_of_an_architecture_begin_a_round_alike() -> None:
    trial = federated("student_only")
    list(trial.run())
    sent = [client.download for client in trial.clients]
    assert sent[0] is sent[2] and sent[1] is sent[3] and sent[0].keys() != sent[1].keys()
    assert all(torch.equal(value, trial.student.state_dict()[name]) for name, value in sent[1].items())


@pytest.mark.parametrize("role", ["search", "ablation"])
def test_judged_clients_have_a_row_for_each_image(role: str) -> None:
    trial = federated("student_only", role, aggregate="none", judged="clients")
    rows = [epoch.row for epoch in trial.run()]
    row, predictions = trial.close()
    judged = trial.evaluation.judged
    images, clients = len(judged), len(trial.clients)
    assert predictions.groups_N is not None and predictions.values_N is not None
    assert predictions.groups_N.tolist() == [client for client in range(clients) for _ in range(images)]
    ids = predictions.sample_ids_N
    assert len(set(ids.tolist())) == clients * images
    assert torch.equal(ids % CLIENT_STRIDE, judged.sample_ids_N.repeat(clients))
    value = row["test_accuracy"] if role == "ablation" else rows[-1]["val_accuracy"]
    assert float(predictions.values_N.double().mean()) == pytest.approx(value, rel=1e-5)
    by_hand = []
    for client, logits_NK in zip(trial.clients, predictions.logits_NK.view(clients, images, -1), strict=True):
        own = torch.isin(judged.labels_N, client.images.labels_N)
        by_hand.append(100 * (logits_NK.argmax(1) == judged.labels_N)[own].double().mean())
    assert value == pytest.approx(float(torch.stack(by_hand).mean()))


def test_another_order_of_rows_changes_rounding_alone() -> None:
    plain, other = (list(federated(epochs=1, rounding=rounding).run())[-1].row for rounding in (0, 1))
    assert plain["train_loss"] == pytest.approx(other["train_loss"], rel=1e-4) and plain != other


def test_a_timed_trial_says_what_a_step_costs() -> None:
    trial = federated()
    size, images = 16, [len(client.images) for client in trial.clients]
    assert trial.steps == sum(math.ceil(number / size) for number in images) + math.ceil(60 / size)
    assert trial.train_images == sum(images)
    times = trial.timed(2)
    assert times["student_step_s"] > 0 and times["epoch_end_s"] > 0 and times["warmup_step_s"] == 0

"""The loop: bit-identical when resumed, split by role, measured in eval mode, honest about divergence."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from akdtune.data.dataset import DataSet
from akdtune.registry import Pair
from akdtune.settings.data import DataSettings
from akdtune.settings.training import Seeds, TrainingSettings
from akdtune.settings.trial import resolve_ce_weight
from akdtune.signals import UNLABELLED
from akdtune.training.config import TrialConfig
from akdtune.training.graphs import StepInputs
from akdtune.training.limits import TrialLimits
from akdtune.training.loop import Diverged, Epoch, Interrupted
from akdtune.training.measures import TRANSFER_COLUMNS, percent_right
from akdtune.training.request import TrialRequest
from akdtune.training.trial import Trial
from tests.declared_columns import HELD_OUT_COLUMNS, JUDGED
from tests.small_trials import ANGULAR, DIGITS, TEACHER, configured, numbers, trained

DATA = DataSettings(**DIGITS, label_noise={"fraction": 0.2})


@pytest.fixture
def config() -> Callable[..., TrialConfig]:
    def make(
        views: dict[str, Any] = ANGULAR,
        methods: tuple[dict[str, Any], ...] = ({"name": "kd"}, {"name": "crd"}),
        role: str = "search",
        **training: Any,
    ) -> TrialConfig:
        of_teacher = trained(DATA, TEACHER.model_copy(update={"epochs": 3}))
        return configured(DATA, of_teacher, views, methods, changes={"role": role}, **{"epochs": 4, **training})

    return make


VIEWS = [{"name": "none"}, {"name": "tekap"}, ANGULAR, {**ANGULAR, "variant": "released"}]


@pytest.mark.parametrize("views", VIEWS, ids=lambda v: v["name"] + v.get("variant", ""))
def test_a_trial_resumed_after_any_epoch_computes_the_same_numbers(
    config: Callable[..., TrialConfig], views: dict[str, Any]
) -> None:
    of = config(views=views)
    whole = list(Trial(of).run())
    assert [e.stage for e in whole].count("student") == 4
    for cut in range(len(whole)):
        torch.manual_seed(cut)  # whatever ran before in this process
        torch.rand(17)
        resumed = list(Trial(of).run(whole[cut].state))
        assert numbers(resumed) == numbers(whole)[cut + 1 :], f"after {whole[cut].stage} epoch {whole[cut].epoch}"


def test_an_interruption_in_mid_epoch_goes_on_from_the_last_finished_one(config: Callable[..., TrialConfig]) -> None:
    of = config()
    whole = list(Trial(of).run())
    steps = itertools.count()
    seen: list[Epoch] = []
    running = Trial(of).run(None, lambda: next(steps) == 57)
    with pytest.raises(Interrupted):
        seen.extend(running)
    assert 0 < len(seen) < len(whole)
    rest = list(Trial(of).run(seen[-1].state))
    assert numbers(seen + rest) == numbers(whole)


def test_a_state_survives_a_file(config: Callable[..., TrialConfig], tmp_path: Any) -> None:
    of = config()
    whole = list(Trial(of).run())
    torch.save(whole[4].state, tmp_path / "state.pt")
    loaded = torch.load(tmp_path / "state.pt", weights_only=True)
    assert numbers(list(Trial(of).run(loaded))) == numbers(whole)[5:]


def test_searching_roles_never_touch_the_test_set(config: Callable[..., TrialConfig]) -> None:
    trial = Trial(config())
    pool = trial.dataset.split("full").train
    assert len(trial.train) + len(trial.splits.validation or ()) == len(pool)
    epochs = list(trial.run())
    assert all(e.row.get("test_accuracy") is None for e in epochs)
    closing, predictions = trial.close()
    assert closing == {}
    assert trial.splits.validation is not None
    assert torch.equal(predictions.sample_ids_N, trial.splits.validation.sample_ids_N)


def test_report_roles_train_on_everything_and_read_the_test_set_once(config: Callable[..., TrialConfig]) -> None:
    trial = Trial(config(role="confirm"))
    assert trial.splits.validation is None and len(trial.train) == len(trial.dataset.split("full").train)
    epochs = list(trial.run())
    assert all("val_accuracy" not in e.row and "agreement" not in e.row for e in epochs)
    closing, predictions = trial.close()
    assert closing["test_accuracy"] == pytest.approx(float(percent_right(predictions.logits_NK, predictions.labels_N)))
    assert torch.equal(predictions.sample_ids_N, trial.splits.test.sample_ids_N)
    assert closing["diversity_sq_prob"] is not None


def test_validation_numbers_of_a_teacher_that_saw_those_images_are_null(config: Callable[..., TrialConfig]) -> None:
    of = config()
    seen = replace(of, teacher_file=replace(of.teacher_file, saw_validation=True))
    row = list(Trial(seen).run())[-1].row
    assert row["val_accuracy"] is not None and row["agreement"] is not None
    assert {name for name in JUDGED if row.get(name) is not None} == set()


def test_a_loss_that_is_not_finite_ends_the_trial(config: Callable[..., TrialConfig]) -> None:
    with pytest.raises(Diverged) as raised:
        list(Trial(config(lr=1e12)).run())
    assert raised.value.epoch >= 1


def test_the_rung_score_is_the_mean_of_the_last_three_validation_accuracies(config: Callable[..., TrialConfig]) -> None:
    rows = [e.row for e in Trial(config()).run() if e.stage == "student"]
    values = [row["val_accuracy"] for row in rows]
    for index, row in enumerate(rows):
        window = [v for v in values[: index + 1][-3:] if v is not None]
        assert row["score"] == pytest.approx(sum(window) / len(window))


def test_the_row_holds_every_measure(config: Callable[..., TrialConfig]) -> None:
    row = list(Trial(config()).run())[-1].row
    expected = JUDGED | {
        "lr", "train_accuracy", "val_accuracy", "score", "agreement", "js_divergence", "images_per_s", "wall_time_s",
        "peak_memory_mib", "margin", "gate_open_train", "gate_open_train_logit", "loss.ce", "loss.kd", "loss.crd",
        "loss.views.ground_truth", "loss.views.feature_constraint", "loss.views.logit_diversity",
    }  # fmt: skip
    assert expected <= set(row)
    assert all(row[name] is not None and math.isfinite(row[name]) for name in expected)  # type: ignore[arg-type]


def test_the_teacher_is_frozen(config: Callable[..., TrialConfig]) -> None:
    trial = Trial(config())
    before = {name: value.clone() for name, value in trial.teacher.network.state_dict().items()}
    list(trial.run())
    assert not trial.teacher.network.training
    assert all(torch.equal(before[name], value) for name, value in trial.teacher.network.state_dict().items())


def test_seeds_are_separate(config: Callable[..., TrialConfig]) -> None:
    def student(seeds: Seeds) -> tuple[torch.Tensor, dict[str, Any]]:
        trial = Trial(replace(config(), seeds=seeds))
        weights = torch.cat([p.detach().flatten() for p in trial.student.parameters()])
        return weights, numbers(list(trial.run()))[-1][2]

    base, row = student(Seeds())
    order, order_row = student(Seeds(order=1))
    init, _ = student(Seeds(init=1))
    _, noise_row = student(Seeds(noise=1))
    assert torch.equal(base, order) and not torch.equal(base, init)
    assert order_row != row and noise_row != row


def test_cross_entropy_weight_is_the_published_one_unless_set() -> None:
    from akdtune.methods.crd import CRD
    from akdtune.methods.kd import KD

    pair = Pair("cifar100", "resnet56", "resnet20")
    assert resolve_ce_weight(TrainingSettings(), [KD], pair) == 0.1
    assert resolve_ce_weight(TrainingSettings(), [KD, CRD], pair) == 1.0
    assert resolve_ce_weight(TrainingSettings(ce_weight=0.0), [KD, CRD], pair) == 0.0
    assert resolve_ce_weight(TrainingSettings(), [KD], Pair("imagenet", "resnet56", "resnet20")) == 0.5


def test_a_last_batch_of_one_image_is_left_out(config: Callable[..., TrialConfig]) -> None:
    rows = list(Trial(config(batch_size=299, epochs=1)).run())  # 300 training images
    assert math.isfinite(rows[-1].row["loss.ce"] or math.nan)


def test_timing_a_few_steps(config: Callable[..., TrialConfig]) -> None:
    times = Trial(config()).timed(3)
    assert set(times) == {"warmup_step_s", "student_step_s", "epoch_end_s"}
    assert all(value > 0 for value in times.values())


def test_a_timing_that_is_over_time_takes_one_step_and_few_images(config: Callable[..., TrialConfig]) -> None:
    """With a teacher whose answers are kept: those about some images are never taken for those about all."""
    whole = list(Trial(config(epochs=1)).run())[-1].row
    assert all(value > 0 for value in Trial(config()).timed(8, until=0.0).values())
    assert all(value > 0 for value in Trial(config()).timed(2).values())
    after = list(Trial(config(epochs=1)).run())[-1].row
    assert (after["val_accuracy"], after["agreement"]) == (whole["val_accuracy"], whole["agreement"])


def test_plain_json_round_trip(config: Callable[..., TrialConfig]) -> None:
    of = config()
    settings = {
        "data": of.data.model_dump(),
        "student": of.student.model_dump(),
        "views": {"name": of.views[0], **of.views[1].model_dump()},
        "method": [{"name": name, **method.model_dump()} for name, method in of.methods],
        "training": of.training.model_dump(),
    }
    plain = {"settings": settings, "seeds": {}, "role": "search", "teacher_file": asdict(of.teacher_file)}
    request = TrialRequest.parse(plain)
    assert TrialConfig.parse(request) == of
    assert TrialConfig.parse(TrialRequest.parse(json.loads(json.dumps(request.plain())))) == of


def test_views_that_change_are_measured_at_rungs_each_tenth_and_in_the_last_epoch(
    config: Callable[..., TrialConfig],
) -> None:
    of = replace(config(epochs=12), rungs=(3, 6))
    sparse = list(Trial(of).run())
    dense = list(Trial(of, limits=TrialLimits(views_every=1)).run())
    of_views = {column.name for column in HELD_OUT_COLUMNS if column.teacher == "judged"}
    views = (JUDGED | of_views) - {"teacher_accuracy", *(column.name for column in TRANSFER_COLUMNS)}
    measured = [e.epoch for e in sparse if e.stage == "student" and e.row.get("diversity_sq_prob") is not None]
    assert measured == [3, 6, 10, 12]
    for less, more in zip(numbers(sparse), numbers(dense), strict=True):
        whole = less[0] == "warmup" or less[1] in measured
        assert less[2] == (more[2] if whole else {k: v for k, v in more[2].items() if k not in views})
    assert dict(numbers(sparse)[-1][2]) == dict(numbers(dense)[-1][2])


def test_views_that_stay_as_they_are_keep_their_numbers(config: Callable[..., TrialConfig]) -> None:
    rows = [e.row for e in Trial(config(views={"name": "tekap"})).run()]
    assert len({row["diversity_sq_prob"] for row in rows}) == 1 and rows[0]["diversity_sq_prob"] is not None


def test_an_epoch_counts_what_has_a_label(config: Callable[..., TrialConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    of = config(methods=({"name": "kd"}, {"name": "pld"}), batch_size=16)
    plain = Trial(of)
    labels_N = plain.train.training_labels_N.clone()
    labels_N[torch.arange(len(labels_N)) % 5 > 0] = UNLABELLED
    some = replace(plain.splits, train=replace(plain.train, training_labels_N=labels_N))
    monkeypatch.setattr(DataSet, "split", lambda dataset, train_on: some)
    trial = Trial(of)
    right: list[Tensor] = []
    step = trial._student_step

    def watched(inputs: StepInputs) -> dict[str, Tensor]:
        loss = trial.objective(trial._trained_signals(inputs.inputs, False), inputs.teacher, inputs.batch)
        labelled_B = labels_N[inputs.batch.positions_B] != UNLABELLED
        right.append((loss.logits_BK.argmax(dim=1) == labels_N[inputs.batch.positions_B])[labelled_B])
        return step(inputs)

    monkeypatch.setattr(trial, "_student_step", watched)
    row = next(epoch.row for epoch in trial.run() if epoch.stage == "student")
    assert "labelled" not in row
    assert all(value is None or math.isfinite(value) for value in row.values())
    assert row["train_accuracy"] == pytest.approx(100 * float(torch.cat(right).double().mean()))
    assert len(torch.cat(right)) == int((labels_N != UNLABELLED).sum())

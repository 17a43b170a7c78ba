"""Trials that distil some rows only: the same to the last bit where they keep all, resumed, and beside other draws."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from akdtune.registry import typed
from akdtune.settings.data import DataSettings
from akdtune.settings.teacher import TeacherSettings
from akdtune.training import graphs
from akdtune.training.config import TrialConfig
from akdtune.training.trial import Trial
from tests.small_trials import ANGULAR, DIGITS, configured, numbers, trained

DATA = DataSettings(**DIGITS)
OF_SIZE = {"network": {"name": "cnn", "widths": [2, 4]}, "epochs": 1, "batch_size": 32}
TEACHER = TeacherSettings(network={"name": "cnn", "widths": [4, 8]}, epochs=1, batch_size=32, others=[OF_SIZE])
Configure = Callable[..., TrialConfig]


@pytest.fixture
def config() -> Configure:
    def make(selection: dict[str, Any] | None, views: dict[str, Any] | None = None, method: str = "kd") -> TrialConfig:
        of = configured(DATA, trained(DATA, TEACHER), views or {"name": "none"}, ({"name": method},), epochs=2)
        chosen = None if selection is None else (selection["name"], typed("selections", selection))
        return replace(of, selection=chosen)

    return make


def rows(of: TrialConfig) -> list[dict[str, float | None]]:
    return [epoch.row for epoch in Trial(of).run()]


def test_all_rows_of_every_batch_are_no_selection_to_the_last_bit(config: Configure) -> None:
    plain = numbers(list(Trial(config(None)).run()))
    whole = numbers(list(Trial(config({"name": "gap", "share": 1.0})).run()))
    measured = {"selected_train", "gap_train", "gap_selected_train"}
    for (*place, one), (*other_place, other) in zip(plain, whole, strict=True):
        assert place == other_place
        assert {key: value for key, value in other.items() if key not in measured} == one
        assert other["selected_train"] == 1
        assert other["gap_train"] == other["gap_selected_train"]
    assert rows(config({"name": "none"}))[0].keys() == rows(config(None))[0].keys()


@pytest.mark.parametrize("selection", [{"name": "gap"}, {"name": "correct_only"}, {"name": "random", "share": 0.3}])
def test_a_trial_that_selects_is_resumed_to_the_last_bit(config: Configure, selection: dict[str, Any]) -> None:
    of = config(selection, ANGULAR)
    whole = list(Trial(of).run())
    for cut in (2, len(whole) - 2):
        torch.manual_seed(cut)
        assert numbers(list(Trial(of).run(whole[cut].state))) == numbers(whole)[cut + 1 :]
    declared = {column.name for column in Trial(of).columns}
    assert {"selected_train"} <= declared
    share = whole[-1].row["selected_train"]
    assert share is not None and 0 < share < 1


def test_columns_say_how_much_and_how_far(config: Configure) -> None:
    last = rows(config({"name": "gap", "share": 0.25}))[-1]
    assert last["selected_train"] == pytest.approx(0.25, abs=0.01)  # rounded in each batch
    assert last["gap_selected_train"] is not None and last["gap_train"] is not None
    assert last["gap_selected_train"] > last["gap_train"]
    right = rows(config({"name": "correct_only"}))[-1]["selected_train"]
    trial = Trial(config(None))
    assert trial.teacher is not None
    answers = trial.teacher.network(trial.train.images(torch.arange(len(trial.train.labels_N))))
    expected = (answers.logits_BK.argmax(dim=1) == trial.train.training_labels_N).double().mean()
    assert right == pytest.approx(float(expected), abs=0.1)  # of plain images, where training shifts and flips them


def test_views_and_methods_draw_what_they_draw_without_a_selection(
    config: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[list[float]] = []
    for selection in (None, {"name": "random", "share": 1.0}):
        trial = Trial(config(selection, {"name": "tekap"}, "crd"))
        seen: list[float] = []
        objective = trial.objective.forward

        def noted(student: Any, teacher: Any, batch: Any, seen: list[float] = seen, to: Any = objective) -> Any:
            loss = to(student, teacher, batch)
            seen.append(float(loss.total.detach()))
            return loss

        monkeypatch.setattr(trial.objective, "forward", noted)
        next(epoch for epoch in trial.run() if epoch.stage == "student")
        drawn.append(seen)
    assert drawn[0] == drawn[1]
    assert all(map(math.isfinite, drawn[0]))


def test_what_varies_in_number_is_not_recorded(config: Configure) -> None:
    for selection, why in (
        ({"name": "correct_only"}, "selection 'correct_only' is not made for it"),
        ({"name": "random", "of": "correct_only"}, "selection 'random' is not made for it"),
        ({"name": "gap"}, None),
        (None, None),
    ):
        trial = Trial(config(selection))
        assert graphs.refusal(trial.optimizer, trial.objective) == why

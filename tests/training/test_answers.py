"""The accuracy of each answer of a spiking student, on its way from evaluation to tables and files."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from akdtune.columns import declaration
from akdtune.metric import in_percent
from akdtune.running import recorder
from akdtune.settings.data import DataSettings
from akdtune.settings.record import RecordSettings
from akdtune.signals import Signals
from akdtune.tasks.image import ImageTask, answered
from akdtune.teacher.file import TeacherFile
from akdtune.training.measures import percent_right
from akdtune.training.trial import Trial
from tests.small_trials import DIGITS, configured, numbers

NOBODY = TeacherFile("", "", "none", "none", None, None, False)
LIF: dict[str, Any] = {"name": "lif", "widths": [6, 5], "norm": False, "threshold": 0.3}


def trial(method: str = "branch_self", role: str = "search", **network: Any) -> Trial:
    asked = {"role": role, "report_trains_on": "subset"}
    data, student = DataSettings(**DIGITS), {**LIF, **network}
    return Trial(
        configured(data, NOBODY, {"name": "none"}, [{"name": method}], student=student, changes=asked, epochs=2)
    )


def test_steps_are_measured_by_what_is_said_until_then() -> None:
    """Three steps, two classes: of image 0 the first step alone is wrong, of image 1 the last one outvotes two."""
    answers_BJK = torch.tensor([[[0.0, 1], [3, 0], [0, 1]], [[2.0, 0], [1, 0], [0, 9]]])
    student = Signals.of(answers_BJK.mean(dim=1), answers_BJK=answers_BJK)
    assert [logits_BK.argmax(dim=1).tolist() for logits_BK in answered(student)] == [[1, 0], [0, 0], [0, 1]]
    meter = ImageTask(ImageTask.Settings()).meter()
    meter.update(student, None, torch.tensor([0, 1]))
    assert meter.result() == {
        "accuracy": 100.0, "accuracy_step_1": 0.0, "accuracy_step_2": 50.0, "accuracy_step_3": 100.0,
    }  # fmt: skip
    meter.update(student, None, torch.tensor([0, 0]))
    assert meter.result()["accuracy_step_1"] == 25.0, "over both parts"


def test_exits_are_measured_each_by_itself() -> None:
    answers_BJK = torch.tensor([[[0.0, 1], [3, 0]], [[2.0, 0], [0, 9]]])
    student = Signals.of(answers_BJK[:, -1], answers_BJK=answers_BJK, answer="branch")
    meter = ImageTask(ImageTask.Settings()).meter()
    meter.update(student, None, torch.tensor([0, 0]))
    assert meter.result() == {"accuracy": 50.0, "accuracy_branch_1": 50.0, "accuracy_branch_2": 50.0}


def test_they_stand_in_every_epoch_and_in_the_last_reading() -> None:
    running = trial("student_only", role="ablation", steps=3)
    rows = [epoch.row for epoch in running.run()]
    closing, predictions = running.close()
    for row in rows:
        assert [name for name in row if "_step_" in name] == [f"val_accuracy_step_{step}" for step in (1, 2, 3)]
        assert row["val_accuracy_step_3"] == row["val_accuracy"]
    assert [name for name in closing if "_step_" in name] == [f"test_accuracy_step_{step}" for step in (1, 2, 3)]
    assert closing["test_accuracy_step_3"] == closing["test_accuracy"]
    answers_NJK = running.recording().answers()
    first = float(percent_right(answers_NJK[:, 0], predictions.labels_N))
    assert closing["test_accuracy_step_1"] == first
    for name in (*rows[0], *closing):
        assert declaration(name, running.columns) is not None, name
    column = declaration("test_accuracy_step_1", running.columns)
    assert column.unit == "percent" and column.summary == "last" and in_percent("test_accuracy_step_1")


def test_networks_with_one_answer_have_no_such_columns() -> None:
    running = trial("student_only", steps=1)
    (first, *_) = running.run()
    assert not [name for name in first.row if "_step_" in name or "_branch_" in name]
    running.close()
    assert running.recording().answers() is None


@pytest.mark.parametrize("asked", ["auto", False])
def test_answers_are_kept_of_networks_that_give_several(asked: Any, tmp_path: Path) -> None:
    running = trial(branches=1)
    list(running.run())
    _, predictions = running.close()
    request = SimpleNamespace(settings={"training": {}, "data": {}}, root="")
    files = recorder._of_trial(RecordSettings(answers=asked), request, running.recording(), predictions)
    files["predictions.parquet"](tmp_path / "kept.parquet")
    table = pq.read_table(tmp_path / "kept.parquet")
    assert ("answers" in table.column_names) is (asked == "auto")
    if asked == "auto":
        kept = torch.tensor(table["answers"].to_pylist()).reshape(len(table), 2, 10)
        torch.testing.assert_close(kept[:, 1], predictions.logits_NK, rtol=1e-3, atol=1e-2)
        assert percent_right(kept[:, 0], predictions.labels_N) == pytest.approx(
            float(percent_right(running.recording().answers()[:, 0], predictions.labels_N)), abs=0.5
        )


def test_a_trial_goes_on_to_the_bit() -> None:
    """Spikes are drawn from the seed of their epoch, whatever was drawn before."""
    options = {"coding": "bernoulli", "branches": 1, "steps": 3}
    whole = list(trial(**options).run())
    halved = list(trial(**options).run(state=whole[0].state))
    assert numbers(halved) == numbers(whole[1:])

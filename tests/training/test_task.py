"""A task says what trials are judged by and what is measured of them; images are measured as ever."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from typing_extensions import override

from akdtune.errors import AkdtuneError
from akdtune.metric import ACCURACY, Metric, in_percent, judged_on, of_trials
from akdtune.registry import kept, lookup, register
from akdtune.settings.data import DataSettings
from akdtune.signals import Signals
from akdtune.training.evaluation import Evaluation
from akdtune.training.task import Task, task_of
from akdtune.training.trial import Trial
from tests.small_trials import DIGITS, configured, trained

ACCEPTANCE = Metric("acceptance")


class Overlap:
    """How much of the teacher's probability the student covers."""

    def __init__(self) -> None:
        self.sums, self.rows = 0.0, 0

    def update(self, student: Signals, teacher: Signals | None, labels_R: Tensor) -> None:
        assert teacher is not None
        self.sums += float(covered(student, teacher).double().sum())
        self.rows += len(labels_R)

    def result(self) -> dict[str, float | None]:
        return {"acceptance": self.sums / self.rows}


def covered(student: Signals, teacher: Signals) -> Tensor:
    both = torch.stack([said.logits_BK.softmax(1) for said in (student, teacher)])
    return 100 * both.min(0).values.sum(1)


@pytest.fixture
def acceptance() -> Iterator[type[Task]]:
    with kept():

        @register("acceptance")
        class AcceptanceTask(Task):
            """Students that cover their teacher's distribution."""

            metric = ACCEPTANCE
            items_at_once: ClassVar[int | None] = 64

            @override
            def meter(self) -> Overlap:
                return Overlap()

            @override
            def values(self, student: Signals, teacher: Callable[[], Signals | None], labels_R: Tensor) -> Tensor:
                of_teacher = teacher()
                assert of_teacher is not None
                return covered(student, of_teacher)

            @override
            def groups(self, sample_ids_R: Tensor) -> Tensor:
                return sample_ids_R // 10

        yield AcceptanceTask


def test_a_metric_is_a_name_with_its_columns() -> None:
    assert (ACCEPTANCE.validation, ACCEPTANCE.test, ACCEPTANCE.best) == (
        "val_acceptance", "test_acceptance", "val_acceptance_best",
    )  # fmt: skip
    assert Metric("round_accuracy").words == "round accuracy"
    for name in ("macs", "time", "loss", "", "two words", "acceptance_best"):
        with pytest.raises(AkdtuneError, match=f"metric '{name}': must be an identifier"):
            Metric(name)
    assert of_trials(["val_accuracy", "val_accuracy_best"]) == ACCURACY == of_trials([])
    assert of_trials(["val_accuracy_best", "param.val_x_best", "val_acceptance_best"]) == ACCEPTANCE
    assert [in_percent(name) for name in ("test_acceptance", "train_accuracy", "val_accuracy_best", "score_s")] == [
        True, True, False, False,
    ]  # fmt: skip
    assert [judged_on(name) for name in ("val_accuracy", "test_acceptance", "x")] == ["val", "test", "x"]


def test_a_trial_without_a_task_is_of_images() -> None:
    image = lookup("tasks", "image")
    assert isinstance(task_of({"data": {}}), image) and isinstance(task_of({"task": {"name": "image"}}), image)
    assert image.metric == ACCURACY and image.items_at_once is None
    names = [column.name for column in image.columns()][:4]
    assert names == ["val_accuracy", "test_accuracy", "score", "teacher_accuracy"]
    with pytest.raises(AkdtuneError, match="unknown task 'imago'; did you mean 'image'"):
        task_of({"task": {"name": "imago"}})


def trial_of(epochs: int = 1, views: str = "none", **changes: Any) -> Trial:
    data = DataSettings(**DIGITS)
    return Trial(configured(data, trained(), {"name": views}, [{"name": "kd"}], epochs=epochs, changes=changes))


def test_images_in_parts_are_measured_as_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    trial = trial_of(views="tekap")
    split = trial.splits.validation
    assert split is not None
    whole = trial.evaluation.measure(split)
    monkeypatch.setattr(type(trial.config.task), "items_at_once", 70)
    parts = trial.evaluation.measure(split)
    assert list(parts) == list(whole)
    of_task = {column.name for column in type(trial.config.task).columns()} | {"accuracy"}
    assert {"accuracy", "agreement", "js_divergence", "teacher_accuracy"} <= of_task & whole.keys()
    for name, value in whole.items():
        assert (parts[name] is None) == (value is None)
        if name in of_task:  # views draw anew in each part
            assert parts[name] == pytest.approx(value, rel=1e-9), name


def test_a_task_of_its_own_names_its_columns_and_values(acceptance: type[Task]) -> None:
    trial = trial_of(2, task=task_of({"task": {"name": "acceptance"}}))
    assert isinstance(trial.evaluation, Evaluation) and isinstance(trial.evaluation.task, acceptance)
    rows = [epoch.row for epoch in trial.run()]
    assert all("val_accuracy" not in row and row["val_acceptance"] is not None for row in rows)
    assert rows[-1]["score"] == pytest.approx(sum(row["val_acceptance"] or 0 for row in rows) / 2)
    declared = {column.name: column for column in trial.columns}
    assert declared["val_acceptance"].sentence == "acceptance of the student on the validation images"
    assert declared["score"].sentence.startswith("mean val_acceptance of the last 3 epochs")
    closing, predictions = trial.close()
    assert closing == {} and predictions.values_N is not None and predictions.groups_N is not None
    assert float(predictions.values_N.double().mean()) == pytest.approx(rows[-1]["val_acceptance"], rel=1e-5)
    assert predictions.groups_N.tolist() == (predictions.sample_ids_N // 10).tolist()

"""Data that are no images: batches count items, losses count rows, and what a task has nothing for is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from akdtune.data.dataset import load_data
from akdtune.data.row_sets import RowDataSet
from akdtune.errors import SettingsError
from akdtune.planning.plan import Plan
from akdtune.planning.report import plan_report
from akdtune.settings.data import data_settings
from akdtune.settings.teacher import TeacherSettings
from akdtune.study import spec
from akdtune.study.schema import json_schema
from akdtune.teacher.file import TeacherFile
from akdtune.teacher.find import evaluate, load_teacher
from akdtune.teacher.frozen import FrozenTeacher
from akdtune.training.task import Task, task_of
from akdtune.training.teachers import train_teachers
from akdtune.training.trial import Trial
from tests.row_world import LENGTH, LETTERS, words
from tests.small_trials import CPU, configured

STUDY = """
study: spelling
task: spelling
data: {name: words, validation: 6}
teacher: {network: {name: table, width: 8}, epochs: 30, batch_size: 4, lr: 0.5}
student: {network: table}
method: kd
training: {epochs: 2, batch_size: 5}
ablation: {design: arms, arms: {dkd: {method: dkd}}, controls: [student_only], seeds: [100, 101]}
"""


@pytest.fixture(autouse=True)
def spelling() -> Iterator[type[Task]]:
    with words() as task:
        yield task


@pytest.fixture
def load(tmp_path: Path) -> Any:
    def loaded(*overrides: str) -> spec.Study:
        path = tmp_path / "study.yaml"
        path.write_text(STUDY)
        return spec.load(str(path), overrides)

    return loaded


def trained(**settings: Any) -> tuple[RowDataSet, TeacherFile]:
    dataset = load_data(data_settings({"name": "words", "validation": 6, **settings}), CPU)
    recipe = TeacherSettings(network={"name": "table", "width": 8}, epochs=30, batch_size=4, lr=0.5)
    (*rows, last) = train_teachers(recipe, dataset, "subset", CPU)
    assert all(row["train_accuracy"] == 100.0 for row in rows[-1:])
    return dataset, TeacherFile(**last["teacher"])


def test_a_trial_counts_rows_and_its_batches_count_items(spelling: type[Task]) -> None:
    dataset, file = trained()
    task = task_of({"task": {"name": "spelling"}})
    config = configured(
        dataset.settings, file, {"name": "none"}, [{"name": "kd"}], student={"name": "table"},
        changes={"task": task}, epochs=2, batch_size=5,
    )  # fmt: skip
    trial = Trial(config)
    assert (len(trial.train), trial.train.items, trial.train_images) == (12 * LENGTH, 12, 12 * LENGTH)
    steps = [len(step.batch.labels_B) for step in trial._batches("student", 1, lambda: False)]
    assert steps == [20, 20, 8]
    rows = [epoch.row for epoch in trial.run()]
    assert 0 <= (rows[-1]["val_accuracy"] or 0) <= 100 and rows[-1]["teacher_accuracy"] == 100.0
    assert "letters" in next(column for column in trial.columns if column.name == "val_accuracy").sentence
    _, predictions = trial.close()
    assert predictions.groups_N is not None and predictions.logits_NK.shape == (6 * LENGTH, LETTERS)
    assert predictions.groups_N.tolist() == [word for word in range(12, 18) for _ in range(LENGTH)]


def test_a_frozen_teacher_says_the_same_of_what_never_changes_and_is_asked_once() -> None:
    dataset, file = trained()
    network = load_teacher(file, dataset.inputs, CPU)
    train = dataset.split("subset").train
    frozen = FrozenTeacher(network, train, dataset.augmentation, 2)
    assert frozen.keeps_table and frozen.fetches_images
    for batch in train.epoch(3, 1, 5):
        said = frozen.signals(batch.positions_B, None, None)
        assert torch.equal(said.logits_BK, network(batch.inputs).logits_BK)
    live = FrozenTeacher(network, train, dataset.augmentation, 2, table_limit_mib=0)
    assert not live.fetches_images
    assert evaluate(network, train) == 100.0


def test_teachers_train_on_the_labels_that_they_are_given() -> None:
    dataset, _ = trained(hidden=True)
    train = dataset.split("subset").train
    assert train.some_unlabelled and int((train.teacher_labels_N < 0).sum()) == 12


def test_a_plan_of_rows_is_made_and_said(load: Any) -> None:
    study = load()
    assert study.task == {"name": "spelling"} and study.data.hidden is False
    assert "data words: 72 training, 0 validation, 24 test letters" in plan_report(Plan.of(study))
    assert any(
        option["properties"]["name"].get("const") == "words"
        for option in json_schema()["properties"]["data"]["anyOf"]
        if "name" in option.get("properties", {})
    )


REFUSED = [
    (["student.network=cnn"], "student.network: the network 'cnn' takes images, and the task 'spelling' "
     "gives tokens (networks of tokens: "),
    (["teacher.network=cnn"], "teacher.network: the network 'cnn' takes images"),
    (["data={name: digits, validation: 0}"], "data.name: the data set 'digits' holds images, and the task 'spelling' "
     "takes tokens (data sets of tokens: "),
    (["task=image"], "data.name: the data set 'words' holds tokens, and the task 'image' takes images"),
    (["method=at"], "'at' cannot work with the task 'spelling': it needs stages, which the task lacks"),
    (["method=mlkd"], "'mlkd' cannot work with the task 'spelling': it needs strong, which the task lacks"),
    (["method=last_batch"], "'last_batch' repeats images of the last batch: the task 'spelling' has none"),
    (["training.augmentation=strong"], "training.augmentation: is of images, and the task 'spelling' takes tokens"),
    (["teacher.augmentation=strong"], "teacher.augmentation: is of images, and the task 'spelling' takes tokens"),
    (["record={augmented: true}"], "record.augmented: is of images, and the task 'spelling' takes tokens"),
    (["record={attention: 5}"], "record.attention: is of images, and the task 'spelling' takes tokens"),
    (["data.augmentation=strong"], "data.augmentation: unknown key"),
    (["data.hiden=true"], "data.hiden: unknown key 'hiden'; did you mean 'hidden'"),
]  # fmt: skip


@pytest.mark.parametrize(("overrides", "message"), REFUSED, ids=[of[0][0] for of in REFUSED])
def test_what_a_task_has_nothing_for_is_refused_naming_both(load: Any, overrides: list[str], message: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load(*overrides)
    assert message in str(refused.value).replace("\n", " ")


def test_a_cell_of_another_kind_is_refused_too(load: Any) -> None:
    with pytest.raises(SettingsError, match=r"the network 'cnn' takes images"):
        load("ablation.arms={other: {student.network: cnn}}")

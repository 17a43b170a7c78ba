"""The section `task`: what a study trains for, and what other sections then say of its metric."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from akdtune.errors import SettingsError
from akdtune.metric import ACCURACY, Metric
from akdtune.registry import ComponentSettings, kept, register
from akdtune.study import spec
from akdtune.study.ids import cell_hash
from akdtune.study.schema import json_schema
from akdtune.training.task import Task, task_of

STUDY = """
data: {name: digits, validation: 600}
teacher: {network: cnn, epochs: 1}
student: {network: cnn}
method: kd
training: {epochs: 3}
ablation: {design: arms, arms: {more: {method.kd.weight: 0.5}}, seeds: [100, 101]}
search: {algorithm: random, trials: 2}
"""


@pytest.fixture
def draft() -> Iterator[None]:
    with kept():

        @register("draft")
        class DraftTask(Task):
            """Students whose answers a larger network accepts."""

            metric = Metric("acceptance")

            class Settings(ComponentSettings):
                gamma: int = 4

        yield


def loaded(tmp_path: Path, *overrides: str) -> spec.Study:
    path = tmp_path / "study.yaml"
    path.write_text(STUDY)
    return spec.load(str(path), overrides)


def test_images_are_named_or_not_with_the_same_ids_and_locks(tmp_path: Path) -> None:
    plain = loaded(tmp_path)
    for named in (loaded(tmp_path, "task=image"), loaded(tmp_path, "task.name=image")):
        assert named.resolved() == plain.resolved() and "task" not in plain.resolved()
        assert named.constants == plain.constants and list(plain.constants) == ["data", "teacher"]
        hashes = {cell_hash(of.arms[0].centre().settings, "data", "teacher") for of in (named, plain)}
        assert len(hashes) == 1
    assert plain.metric == ACCURACY and plain.ablation is not None and plain.ablation.metric == "test_accuracy"


def test_another_task_names_its_metric_and_is_another_trial(draft: None, tmp_path: Path) -> None:
    study = loaded(tmp_path, "task=draft")
    assert study.task == {"name": "draft", "gamma": 4} and study.resolved()["task"] == study.task
    assert study.metric.name == "acceptance"
    assert study.search.objectives == ["acceptance"] and study.search.metric == "acceptance"
    assert study.ablation is not None and study.ablation.metric == "test_acceptance"
    settings = study.arms[0].centre().settings
    assert settings["task"] == study.task and task_of(settings).settings.model_dump() == {"gamma": 4}
    assert cell_hash(settings, "data", "teacher") != cell_hash(
        loaded(tmp_path).arms[0].centre().settings, "data", "teacher"
    )
    again = tmp_path / "again.yaml"
    again.write_text(json.dumps(study.resolved()))
    assert spec.load(str(again)).resolved() == study.resolved()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["task=imago"], "task: unknown task 'imago'; did you mean 'image'"),
        (["task={gamma: 3}"], "task: must be a name or a mapping with a 'name'"),
        (["task={name: draft, gama: 3}"], "task.gama: unknown key 'gama'; did you mean 'gamma'"),
        (["task={choice: [image, draft]}"], "task: all trials of a study train for one task"),
        (["task=draft", "search.objectives=[accuracy, macs]"], "search.objectives: unknown objective 'accuracy'"),
        (["search.objectives=[macs]"], r"search.objectives: objectives must hold accuracy, and each at most once, got"),
    ],
)
def test_what_is_wrong_is_named(draft: None, tmp_path: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        loaded(tmp_path, *overrides)


def test_editors_know_the_section(draft: None) -> None:
    properties = json_schema()["else"]["properties"]
    assert "draft" in str(json_schema()["$defs"]["tasks"]) and "task" in properties

"""TensorBoard and CSV read back; a logger of one's own; loggers that fail or hang cost no trial."""

from __future__ import annotations

import csv
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from akdtune import registry
from akdtune.columns import Column
from akdtune.errors import SettingsError
from akdtune.registry import ComponentSettings, names, register
from akdtune.study import spec
from akdtune.study.schema import json_schema
from akdtune.tracking.arrangement import flat_config, flat_names, metric_name, names_of_trials, shortened
from akdtune.tracking.loggers import LoggedTrial, Logger
from akdtune.tracking.study import StudyTracking
from akdtune.tracking.tracker import Tracker, read_trouble

TRIAL = {
    "study": "toy", "trial_id": "abc-0", "cell_id": "abc", "arm": "angular/kd", "role": "search", "seed": 0,
    "settings": {"views": {"name": "angular", "margin": 0.3}, "method": [{"name": "kd", "weight": 1.5}]},
    "params": {"views.margin": 0.3},
}  # fmt: skip
NAMES = {"views.margin": "margin"}
ROWS = [{"trial_id": "abc-0", "attempt": 1, "epoch": epoch, "val_accuracy": 10.0 * epoch, "loss.kd": 1 / epoch}
        for epoch in (1, 2, 3)]  # fmt: skip
SETTINGS = """
study: toy
data: {name: digits, validation: 600}
teacher: {network: {name: cnn, widths: [4, 8]}, epochs: 1, batch_size: 32}
student: {network: {name: cnn, widths: [2, 4]}}
views: none
method: {name: kd, weight: {log_uniform: [0.1, 4.0]}}
training: {epochs: 2, batch_size: 32}
search: {algorithm: random, trials: 3}
"""


def logged(root: Path, patience_s: float = 60.0, attempt: int = 1, known: int = 0, **loggers: Any) -> None:
    tracker = Tracker({**loggers, "names": NAMES, "finish_timeout_s": patience_s}, TRIAL, root, attempt)
    tracker.start()
    tracker.declare([Column("val_accuracy", "percent", "accuracy")], ROWS[:known])
    for row in ROWS[known:]:
        tracker.log(row)
    tracker.finish("done", {**ROWS[-1], "test_accuracy": 71.0})


@pytest.fixture
def own_loggers() -> Iterator[None]:
    with registry.kept():
        yield


def test_csv_is_read_back(tmp_path: Path) -> None:
    logged(tmp_path, csv={})
    with (tmp_path / "csv" / "abc-0.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [float(row["student/val_accuracy"]) for row in rows] == [10.0, 20.0, 30.0]
    assert [float(row["loss/kd"]) for row in rows] == [1.0, 0.5, 1 / 3]
    assert [row["student/test_accuracy"] for row in rows] == ["", "", "71.0"]
    before = (tmp_path / "csv" / "abc-0.csv").read_text()
    logged(tmp_path, csv={}, attempt=2, known=2)  # a resumed trial: its earlier rows come again
    assert (tmp_path / "csv" / "abc-0.csv").read_text() == before


def test_tensorboard_is_read_back(tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    logged(tmp_path, tensorboard={}, attempt=1)
    logged(tmp_path, tensorboard={}, attempt=2, known=2)
    held = reader.EventAccumulator(str(tmp_path / "tensorboard" / "abc-0"))
    held.Reload()
    curves = {name: [(event.step, event.value) for event in held.Scalars(name)] for name in held.Tags()["scalars"]}
    assert curves.pop("student/val_accuracy") == [(1, 10.0), (2, 20.0), (3, 30.0)]
    assert curves.pop("student/test_accuracy") == [(3, 71.0)]
    assert [step for step, _ in curves.pop("loss/kd")] == [1, 2, 3]
    assert curves == {}
    start = held.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert b"margin" in start
    assert b"angular/kd" in start


def test_loggers_that_raise_or_hang_cost_nothing_and_are_named_at_the_end(
    tmp_path: Path, own_loggers: None, capsys: pytest.CaptureFixture[str]
) -> None:
    class Broken(Logger):
        """Raises at the second epoch."""

        def open(self, trial: LoggedTrial) -> None:
            self.seen = 0

        def log(self, metrics: dict[str, float]) -> None:
            self.seen += 1
            if self.seen == 2:
                raise OSError("no space left")

    class Hanging(Broken):
        """Does not open in time."""

        def open(self, trial: LoggedTrial) -> None:
            time.sleep(20)

    register("broken")(Broken)
    register("hanging")(Hanging)
    began = time.monotonic()
    logged(tmp_path, patience_s=0.5, broken={}, hanging={}, csv={})
    assert time.monotonic() - began < 15  # of 20
    assert (tmp_path / "csv" / "abc-0.csv").read_text().count("\n") == 4
    said = capsys.readouterr().err
    assert "broken: trial abc-0 is not logged any further: OSError: no space left" in said
    assert "hanging: did not close within 0.5 s" in said
    assert read_trouble(tmp_path / "trials" / "abc-0") == {"broken": "OSError: no space left"}
    lines = StudyTracking({"wandb": None, "broken": {}}, tmp_path).closing()
    assert lines == ["warning: broken: trials that are not logged whole: 1 (abc-0: OSError: no space left)"]
    logged(tmp_path, csv={}, attempt=2)
    assert StudyTracking({"wandb": None}, tmp_path).closing() == [], "a later attempt went well"


def test_a_logger_of_ones_own_has_settings_and_hears_everything(tmp_path: Path, own_loggers: None) -> None:
    heard: list[Any] = []

    class Mine(Logger):
        """Keeps what it hears."""

        class Settings(ComponentSettings):
            loud: bool = False

        def open(self, trial: LoggedTrial) -> None:
            heard.append((trial.trial_id, trial.attempt, trial.config["margin"], self.settings.loud))

        def log(self, metrics: dict[str, float]) -> None:
            heard.append(metrics)

        def finish(self, status: str, metrics: dict[str, float]) -> None:
            heard.append((status, metrics["student/test_accuracy"]))

    register("mine")(Mine)
    logged(tmp_path, mine={"loud": True})
    assert heard[0] == ("abc-0", 1, 0.3, True)
    assert [row["epoch"] for row in heard[1:-1]] == [1, 2, 3]
    assert heard[-1] == ("done", 71.0)


@pytest.mark.parametrize("name", ["csv", "tensorboard", "wandb"])
def test_every_logger_is_found_by_its_name(name: str) -> None:
    assert name in names("loggers")


def refused(folder: Path, section: str) -> str:
    path = folder / "toy.yaml"
    path.write_text(f"{SETTINGS}tracking: {section}\n")
    with pytest.raises(SettingsError) as caught:
        spec.load(str(path))
    return str(caught.value)


def test_unknown_loggers_and_settings_are_refused_with_the_nearest(tmp_path: Path) -> None:
    said = refused(tmp_path, "{tensorbord: {}}")
    assert "toy.yaml:10" in said.replace(", line ", ":")
    assert "tracking.tensorbord" in said
    assert "did you mean 'tensorboard'? (allowed: csv, finish_timeout_s, tensorboard, wandb)" in said
    assert "did you mean 'finish_timeout_s'" in refused(tmp_path, "{finish_timeout: 3}")
    assert "tracking.csv.path" in refused(tmp_path, "{csv: {path: x}}")
    assert "tracking.csv: must be a mapping, got true" in refused(tmp_path, "{csv: true}")


def test_the_schema_knows_every_logger() -> None:
    section = json_schema()["properties"]["tracking"]["anyOf"][0]["properties"]
    assert {"wandb", "csv", "tensorboard", "finish_timeout_s"} <= set(section)


def test_a_package_that_is_missing_is_refused_with_the_command(tmp_path: Path, own_loggers: None) -> None:
    class Elsewhere(Logger):
        """Needs what nobody has."""

        requires = ("a_module_that_is_nowhere",)
        extra = "tensorboard"

    register("elsewhere")(Elsewhere)
    said = refused(tmp_path, "{elsewhere: {}}")
    assert "needs a_module_that_is_nowhere, which is not installed: pip install 'akdtune[tensorboard]'" in said


def test_a_section_is_kept_as_it_is_and_without_loggers_is_as_ever(tmp_path: Path) -> None:
    path = tmp_path / "toy.yaml"
    path.write_text(f"{SETTINGS}tracking: {{csv: {{}}, tensorboard: null, finish_timeout_s: 3}}\n")
    assert spec.load(str(path)).resolved()["tracking"] == {"wandb": None, "finish_timeout_s": 3.0, "csv": {}}
    path.write_text(SETTINGS)
    assert spec.load(str(path)).resolved()["tracking"] == {"wandb": None, "finish_timeout_s": 5.0}


def test_flat_names_are_short_unique_and_stay() -> None:
    paths = ["views.margin", "views.seed", "method.kd.weight", "method.crd.weight", "method.a-b.weight",
             "method.a_b.weight", "method.1.x", "views.name", "method"]  # fmt: skip
    first = flat_names(paths)
    assert first == {
        "views.margin": "margin", "views.seed": "views_seed", "method.kd.weight": "kd_weight",
        "method.crd.weight": "crd_weight", "method.a-b.weight": "a_b_weight",
        "method.a_b.weight": "method_a_b_weight", "method.1.x": "method_1_x",
    }  # fmt: skip
    later = flat_names([*paths, "student.network.margin"], known=first)
    assert later.pop("student.network.margin") == "network_margin"
    assert later == first, "a trial that is added calls nothing by another name"
    assert flat_names(reversed(paths))["views.margin"] == "margin"


def test_a_study_that_noted_no_names_gets_them_from_its_plan() -> None:
    views = {"margin": 0.1, "inter": 1}
    rows = [
        {"params": {"views.margin": 0.1}, "settings": {"views": views, "training": {"lr": lr}}} for lr in (0.1, 0.2)
    ]
    assert names_of_trials(rows) == {"views.margin": "margin", "training.lr": "lr"}


def test_lists_and_mappings_become_text() -> None:
    settings = {"method": [{"name": "mlkd", "temperatures": [4, 3]}], "views": None, "training": {"milestones": [1, 2]}}
    config = flat_config(
        {**TRIAL, "settings": settings},
        {"method.mlkd.temperatures": "temperatures", "training.milestones": "milestones"},
    )
    assert (config["temperatures"], config["milestones"], config["method"]) == ("[4, 3]", "[1, 2]", "mlkd")
    assert all(isinstance(value, str | int | float | bool) for value in config.values())


@pytest.mark.parametrize(
    ("column", "metric"),
    [
        (Column("val_accuracy", "percent", ""), "student/val_accuracy"), (Column("lr", "", ""), "student/lr"),
        (Column("loss.views.a-b", "", "", teacher="needed"), "loss/views_a_b"),
        (Column("train_loss", "", ""), "loss/total"),
        (Column("teacher_accuracy", "percent", "", teacher="judged"), "teacher/teacher_accuracy"),
        (Column("inter_cosine", "", "", teacher="judged"), "views/inter_cosine"),
        (Column("wall_time_s", "s", ""), "system/wall_time_s"),
        (Column("peak_memory_mib", "MiB", ""), "system/peak_memory_mib"),
        (Column("teacher_cache_hit_rate", "share", "", teacher="needed"), "system/teacher_cache_hit_rate"),
        (Column("margin", "", "", section="views"), "views/margin"), (Column("mine", "", ""), "student/mine"),
        (Column("epoch", "", ""), "epoch"), (Column("margin", "", ""), "views/margin"),
        (Column("agreement", "percent", "", teacher="needed"), "student/agreement"),
    ],
)  # fmt: skip
def test_a_metric_stands_in_the_section_that_its_column_says(column: Column, metric: str) -> None:
    assert metric_name(column.name, column) == metric


def test_shortened_names_differ_where_the_names_do() -> None:
    assert shortened("a" * 64, 64) == "a" * 64
    first, second = (shortened("a" * 64 + end, 64) for end in "bc")
    assert len(first) == len(second) == 64
    assert first != second

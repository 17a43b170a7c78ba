"""Whoever reads a study names what it is judged by, and nobody else's accuracy."""

from __future__ import annotations

from pathlib import Path

import pytest

import akdtune
from akdtune.cli import main
from akdtune.errors import StudyError
from akdtune.metric import ACCURACY, Metric
from akdtune.records import tables
from akdtune.records.files import described
from akdtune.records.lock_file import metric_of
from akdtune.reports import pareto
from akdtune.reports.ablation.measured import phases_of
from akdtune.reports.diversity.measured import panels_of
from akdtune.reports.importance.searched_arms import arms_of
from akdtune.reports.page.html import html_of
from akdtune.reports.page.study_page import page_of
from akdtune.tracking.loggers.wandb import summary_of
from tests.study_fixture import StudyBuilder

ACCEPTANCE = Metric("acceptance")


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A search, probes and an ablation of a study whose students are judged by acceptance."""
    built = StudyBuilder(tmp_path / "draft")
    built.metric = ACCEPTANCE
    search = {"algorithm": "random", "objectives": ["acceptance", "time"]}
    built.lock = {"settings": {"study": "draft", "search": search}}
    for number, value in enumerate((61.25, 64.5, 63.0)):
        built.add("tekap/kd", value, None, role="search", params={"views.noise": 0.1 * number})
    built.add_many("angular/kd", [(0.1, 60.0), (0.2, 61.0), (0.3, 62.0)])
    for cell, values in (("base", (50.0, 51.0)), ("more", (52.5, 53.5))):
        built.cell(cell, values)
    built.design["ablation"]["reference"] = "base"
    return built.write()


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 0
    return capsys.readouterr().out


def test_the_tables_hold_the_metric_beside_the_columns_of_every_study(study: Path) -> None:
    assert metric_of(study) == ACCEPTANCE
    table = tables.read_trials(study)
    assert table["val_acceptance_best"].to_pylist()[:3] == [61.25, 64.5, 63.0]
    assert table["val_acceptance"].to_pylist()[:3] == [61.25, 64.5, 63.0]
    assert set(table["val_accuracy"].to_pylist()) == {None}
    said = {column.name: column.sentence for column in described(table.schema)}
    assert said["val_acceptance_best"] == "highest val_acceptance of all epochs"
    tables.compact(study)
    assert tables.read_trials(study).equals(table)


def test_a_study_that_has_measured_nothing_has_the_columns(tmp_path: Path) -> None:
    built = StudyBuilder(tmp_path)
    built.metric = ACCEPTANCE
    built.add("none/kd", None, None, role="search", status="planned")
    table = tables.read_trials(built.write())
    for name in ("val_acceptance", "test_acceptance", "val_acceptance_best"):
        assert table[name].to_pylist() == [None]
    assert akdtune.load(tmp_path).metric == ACCEPTANCE


def test_a_lock_without_a_metric_is_of_accuracy_and_a_wrong_one_is_named(tmp_path: Path) -> None:
    assert metric_of(tmp_path) == ACCURACY
    (tmp_path / "study.lock.yaml").write_text("settings:\n  ablation:\n    metric: test_agreement\n")
    assert metric_of(tmp_path) == ACCURACY
    (tmp_path / "study.lock.yaml").write_text("metric: two words\nsettings: {}\n")
    with pytest.raises(StudyError, match=r"study.lock.yaml: damaged, metric 'two words': must be an identifier"):
        metric_of(tmp_path)


def test_show_and_best_go_by_it(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = printed(capsys, "show", str(study), "--role", "search", "--top", "2")
    assert "val_acceptance" in shown and "accuracy" not in shown
    assert shown.index("64.5") < shown.index("63")
    summary = printed(capsys, "show", str(study), "--role", "search", "--summary")
    assert "acceptance" in summary and "accuracy" not in summary
    best = printed(capsys, "best", str(study))
    assert "64.5" in best and "accuracy" not in best


def test_a_script_gets_it(study: Path) -> None:
    results = akdtune.load(study)
    best = results.best(arm="tekap/kd")
    assert (best.metric, best.value) == ("val_acceptance", 64.5)
    assert "64.50 % on validation images" in repr(best)
    assert results.curves().column == "val_acceptance"


def test_analyses_read_it(study: Path) -> None:
    (phase,) = phases_of(study)
    assert phase.metric == "test_acceptance" and phase.in_percent
    assert phase.cell("more").values == {0: 52.5, 1: 53.5}
    _, arms = arms_of(study, "search")
    assert arms[0].scores_N.tolist() == [61.25, 64.5, 63.0] and arms[0].metric == ACCEPTANCE
    found, _ = panels_of(study)
    probes = next(panel for panel in found if panel.name == "probe")
    assert probes.accuracy.tolist() == [60.0, 61.0, 62.0] and probes.metric == ACCEPTANCE


def test_an_objective_that_is_no_cost_is_the_metric() -> None:
    assert pareto.column("acceptance") == "val_acceptance" and pareto.heading("acceptance") == "validation acceptance %"
    assert pareto.front([(60.0, 9.0), (60.0, 5.0), (50.0, 5.0)], ["acceptance", "macs"]) == [1]


def test_the_page_names_it(study: Path) -> None:
    text = html_of(page_of(study))
    assert "Validation acceptance from trial to trial" in text and "val acceptance" in text
    for other in ("validation accuracy", "Validation accuracy", "val accuracy", "test accuracy"):
        assert other not in text, other


def test_a_dashboard_keeps_its_highest_and_last() -> None:
    assert summary_of("student/val_acceptance") == summary_of("student/test_acceptance") == "max,last"
    assert summary_of("student/agreement") is None

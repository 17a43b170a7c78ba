"""Several objectives: the front, its table, multiply-adds, and what reaches Optuna and trials.parquet."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from akdtune.cli.app import app
from akdtune.planning.cost import network_macs
from akdtune.records import tables
from akdtune.records.trial_record import TrialRecord
from akdtune.reports import pareto
from akdtune.reports.origin import origin_of
from akdtune.reports.pareto import column, table
from akdtune.running import display
from akdtune.running.lock import lock_content
from akdtune.signals import InputSpec
from tests.search_world import Played, ended, load

pytestmark = pytest.mark.ray
BOTH = ["accuracy", "macs"]


def test_the_front_is_what_nobody_beats() -> None:
    points = [(90.0, 10.0), (80.0, 5.0), (85.0, 12.0), (90.0, 10.0), (80.0, 6.0)]
    assert pareto.front(points, BOTH) == [0, 1, 3], "equal points stay"
    assert pareto.front([(1.0, 2.0)], BOTH) == [0] and pareto.front([], BOTH) == []


def test_multiply_adds_are_the_published_ones() -> None:
    assert network_macs("resnet8", InputSpec(3, 32, 100)) / 1e6 == pytest.approx(12.507, abs=6e-4)


def width(record: TrialRecord, epoch: int) -> float:
    """Wider students are better; the weight costs accuracy."""
    return record.plan["settings"]["student"]["network"]["widths"][0] * 10 - record.plan["params"]["method.kd.weight"]


@pytest.mark.parametrize(("algorithm", "trials"), [("tpe", 6), ("gp", 4)])
def test_a_search_weighs_accuracy_and_multiply_adds(tmp_path: Path, algorithm: str, trials: int) -> None:
    search = f"search={{algorithm: {algorithm}, trials: {trials}, objectives: [accuracy, macs, time], fair: pooled}}"
    student = "student={network: {name: cnn, widths: {choice: [[2, 4], [4, 8]]}}}"
    study = load(tmp_path, search, student)
    played = Played(study, tmp_path / "run").play(width)
    (optuna_study,) = played.run.searcher.studies.values()  # type: ignore[union-attr]
    assert len(optuna_study.directions) == 3
    told = [trial.values for trial in optuna_study.trials]
    rows = tables.read_trials(tmp_path / "run").to_pylist()
    assert told == [[row["val_accuracy"], row["student_macs"], pytest.approx(row["train_time_s"])] for row in rows]
    assert len({row["student_macs"] for row in rows}) == 2
    played.directory.journal_path.unlink()
    played.open()
    (rebuilt,) = played.run.searcher.studies.values()  # type: ignore[union-attr]
    assert [trial.values for trial in rebuilt.trials] == told, "the journal is rebuilt from the ledger"
    report = display.closing_report(study, played.directory)
    assert "configurations that no other beats in every objective, as measured" in report and "student MMACs" in report
    played.directory.write_lock(lock_content(study, played.identity))
    shown = CliRunner().invoke(app, ["show", str(tmp_path / "run"), "--pareto"])
    assert shown.exit_code == 0, shown.output
    heads, *cells, empty, origin = shown.output.splitlines()
    assert (empty, origin) == ("", str(origin_of(tmp_path / "run")))
    assert origin.startswith("trained on: processor not recorded, ")
    assert heads.split("  ")[0] == "trial" and "training s" in heads
    columns = [column(name) for name in study.search.objectives]
    front = pareto.front([[row[column] for column in columns] for row in rows], study.search.objectives)
    assert sorted(line.split()[0] for line in cells) == sorted(rows[index]["trial_id"] for index in front)


def test_other_studies_have_the_columns_empty_and_no_pareto_table(tmp_path: Path) -> None:
    study = load(tmp_path, "search.trials=1")
    played = Played(study, tmp_path / "run").play(width)
    (row,) = tables.read_trials(tmp_path / "run").to_pylist()
    assert row["student_macs"] is None and row["train_time_s"] is None and row["wall_time_s"] > 0
    played.directory.write_lock(lock_content(study, played.identity))
    shown = CliRunner().invoke(app, ["show", str(tmp_path / "run"), "--pareto"])
    assert shown.exit_code != 0 and "its search weighs accuracy alone" in str(shown.exception)


def test_seeds_of_one_configuration_are_one_point() -> None:
    row = {"role": "search", "status": "done", "cell_id": "c", "arm": "a", "student_macs": 2_500_000, "param.x": 0.25}
    rows = [{**row, "trial_id": f"c-s{seed}", "val_accuracy": 70.0 + seed} for seed in (0, 1)]
    _, cells = table(rows, BOTH)
    assert cells == [["c-s0", "a", "2", "70.50", "2.500", "x=0.25"]]


def test_a_trial_that_diverged_is_no_point_and_fails_in_optuna(tmp_path: Path) -> None:
    study = load(tmp_path, "search={algorithm: tpe, trials: 2, objectives: [accuracy, macs]}")
    played = Played(study, tmp_path / "run")
    run = played.open()
    record = run.next()
    assert record is not None
    run.started(record)
    played.directory.epoch(record.trial_id, 1, 20.0, 20.0)
    run.ended(record, ended(record, "diverged", 1))
    (optuna_study,) = run.searcher.studies.values()  # type: ignore[union-attr]
    assert optuna_study.trials[0].state.name == "FAIL"
    played.play(width)
    started = [json.loads(line) for line in (tmp_path / "run" / "ledger.jsonl").read_text().splitlines()]
    assert all("student_macs" in event for event in started if event["event"] == "started")

"""Search, confirmation and ablation of the winner in one study on Ray; killed, extended and taken over."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from akdtune import cli
from akdtune.records import tables
from akdtune.records.ledger.reading import read_events
from akdtune.records.lock_file import read_lock
from akdtune.roles import REPORT_ROLES
from tests.ray import studies

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_up")]

PHASES = """\
study: phases
data: {name: digits, validation: 600, pixel_noise: {std: 0.25}}
teacher: {network: {name: cnn, widths: [4, 8]}, epochs: 2, batch_size: 64}
student: {network: {name: cnn, widths: [2, 4]}}
views: {name: tekap, level: logit}
method: {choice: [{name: kd, weight: {choice: [1, 2, 3]}}, dkd]}
training: {epochs: 2, batch_size: 64}
search: {algorithm: tpe, trials: 3}
confirm: {top: 1, seeds: [10, 11], baselines: [kd]}
ablation:
  design: leave_one_out
  base: winner
  factors: {views.noise: [0.1, 0.3]}
  controls: [plain, weight_matched]
  seeds: [10, 11]
resources: {concurrent: 2}
tracking: {wandb: null}
"""
SEARCH, SEEDS = 3, 2


@pytest.fixture(scope="module")
def finished(ray_up: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phases")
    assert studies.run(studies.write(folder, PHASES), folder / "run") == 0
    return folder / "run"


def rows_of(root: Path) -> list[dict[str, Any]]:
    return tables.read_trials(root).to_pylist()


def test_every_phase_runs_and_only_reports_read_the_test_set(finished: Path) -> None:
    rows = rows_of(finished)
    design = json.loads((finished / "design.json").read_text())
    cells = [cell["cell_id"] for phase in ("confirm", "ablation") for cell in design[phase]["cells"]]
    assert len(cells) == 3 + 4
    assert len(set(cells)) < 3 + 4, "the winner's own cell serves both phases"
    studies.assert_exactly_once(finished, trials=SEARCH + len(set(cells)) * SEEDS, epochs=2)
    for row in rows:
        reports = row["role"] in REPORT_ROLES
        assert (row["test_accuracy"] is not None) == reports
        assert (row["val_accuracy"] is None) == reports, "they train on all images, so none are left to judge epochs"
        predictions = pq.read_table(finished / "trials" / row["trial_id"] / "predictions.parquet")
        assert predictions.num_rows == (897 if reports else 600)
    scores = {row["trial_id"]: row["val_accuracy"] for row in rows if row["role"] == "search"}
    for cell in design["confirm"]["cells"][:2]:
        assert cell["search_score"] == scores[cell["search_trial"]]
    by_name = {cell["name"]: cell for cell in design["ablation"]["cells"]}
    assert by_name["weight_matched"]["gradient_factor"]["kd" if "kd" in by_name["base"]["arm"] else "dkd.tckd"] > 1.3


def test_the_report_reads_what_the_driver_wrote(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["analyze", "ablation", str(finished)]) == 0
    report = json.loads((finished / "reports" / "ablation.json").read_text())
    assert [cell["n"] for cell in report["cells"]] == [2, 2, 2, 2]
    assert {row["cell"] for row in report["differences"]} == {"noise=0.3", "plain", "weight_matched"}
    assert report["confirm"]
    assert "not resolved" in capsys.readouterr().out


def test_the_same_command_again_trains_nothing_and_extend_adds_a_seed(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, before = finished.parent / "study.yaml", studies.metrics(finished)
    assert studies.run(file, finished) == 0
    assert studies.metrics(finished) == before
    more = "ablation.seeds=[10, 11, 12]"
    command = ["run", str(file), more, "resources.concurrent=1", "--dir", str(finished)]
    assert cli.main(command) == 2
    assert "add what is new with --extend" in capsys.readouterr().err
    assert cli.main([*command, "--extend"]) == 0
    after = studies.metrics(finished)
    assert len(after) == len(before) + 4
    assert {trial_id: after[trial_id] for trial_id in before} == before
    lock = read_lock(finished)
    assert lock is not None
    assert lock["settings"]["ablation"]["seeds"] == [10, 11, 12]
    assert lock["extended"][0]["added"] == ["ablation.seeds: [10, 11] -> [10, 11, 12]"]
    assert cli.main(command) == 0, "the extended study is the study now"


def test_another_study_takes_over_what_is_trained(finished: Path, tmp_path: Path) -> None:
    file = finished.parent / "study.yaml"
    assert cli.main(["run", str(file), "--dir", str(tmp_path / "again"), "--reuse", str(finished)]) == 0
    rows = rows_of(tmp_path / "again")
    taken = [row for row in rows if row["reused_from"] is not None]
    assert {row["reused_from"] for row in taken} == {str(finished.resolve())}
    assert len(taken) == len(rows), "the same proposals, and all that follows from them"
    there = {row["trial_id"]: row for row in rows_of(finished)}
    assert all(row["test_accuracy"] == there[row["trial_id"]]["test_accuracy"] for row in rows)


@pytest.mark.slow
def test_killed_in_its_last_phase_it_ends_with_the_same_numbers(finished: Path, tmp_path: Path) -> None:
    text = (finished.parent / "study.yaml").read_text()
    file, root = studies.write(tmp_path, text), tmp_path / "run"
    process = studies.start(file, root)
    until = time.monotonic() + 240
    while time.monotonic() < until and process.poll() is None:
        done = [event for event in read_events(root) if event.kind == "done"]
        if len(done) > SEARCH + 3 * SEEDS:
            break
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    output = process.communicate()[0]
    assert process.returncode == -signal.SIGKILL, output
    assert studies.run(file, root) == 0
    undisturbed, resumed = studies.metrics(finished), studies.metrics(root)
    assert len(resumed) >= SEARCH + 4 * SEEDS
    assert {trial_id: undisturbed.get(trial_id) for trial_id in resumed} == resumed

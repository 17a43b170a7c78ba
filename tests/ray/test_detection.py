"""Two studies of two teachers on Ray, and whose students are whose: command, JSON, what is loaded, the page."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import akdtune
from akdtune import cli
from akdtune.records import tables
from tests.ray import studies

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_up")]

TRACED = """\
study: traced
data: {name: digits, validation: 0}
teacher: {network: {name: cnn, widths: [8, 16]}, epochs: 3, batch_size: 32, seed: SEED}
student: {network: {name: cnn, widths: [4, 8]}}
views: none
method: kd
training: {epochs: 3, batch_size: 32}
ablation: {design: arms, arms: {dkd: {method: dkd}}, controls: [student_only], seeds: [SEED1, SEED2]}
resources: {concurrent: 2}
tracking: {wandb: null}
"""


@pytest.fixture(scope="module")
def runs(ray_up: None, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("traced")
    made = []
    for seed in "34":
        file = studies.write(folder, TRACED.replace("SEED", seed))
        made.append(folder / f"traced_{seed}")
        assert studies.run(file, made[-1]) == 0
    return made


def test_students_that_were_trained_are_asked(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["analyze", "detection", *map(str, runs), "--steps", "10", "--repeats", "2"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    report = json.loads((runs[0] / "reports" / "detection.json").read_text())
    assert report["notes"] == []
    assert [teacher["name"] for teacher in report["teachers"]] == ["traced_3", "traced_4"]
    groups = [(student["group"], student["teacher"]) for student in report["students"]]
    assert sorted(groups) == sorted(
        (group, name)
        for name in ("traced_3", "traced_4")
        for group in ("distilled", "distilled", "distilled", "distilled", "control", "control")
    )
    last = {(rate["group"], rate["inputs"], rate["score"]): rate for rate in report["rates"] if rate["count"] == 100}
    assert len(last) == 2 * 3 * 4
    assert last["distilled", "real", "kl"]["students"] == 8
    assert last["control", "real", "kl"]["students"] == 4
    assert "8 students (chance .50)" in report["verdict"] and report["verdict"] in printed
    loaded = akdtune.load(runs[0]).detection()
    assert loaded.verdict == report["verdict"]
    assert cli.main(["report", str(runs[0])]) == 0
    page = (runs[0] / "reports" / "report.html").read_text()
    assert "Detection of teachers" in page and "Accuracy by number of inputs" in page


def test_what_they_said_is_what_their_trials_predicted(runs: list[Path]) -> None:
    cli.main(["analyze", "detection", *map(str, runs), "--inputs", "real", "--out", str(runs[0].parent / "real")])
    said = pq.read_table(runs[0].parent / "real" / "detection" / "outputs.parquet").to_pylist()
    trial = next(row for row in tables.read_trials(runs[1]).to_pylist() if row["arm"] == "none/kd")
    kept = pq.read_table(runs[1] / "trials" / trial["trial_id"] / "predictions.parquet").to_pylist()
    by_image = {row["sample_id"]: row["logits"] for row in kept}
    own = [row for row in said if row["name"] == f"traced_4/{trial['trial_id']}"]
    assert len(own) == len(kept), "all 897 test images are fewer than the 1,000 that are asked about"
    for row in own:
        assert row["logits"] == pytest.approx(by_image[row["sample_id"]], abs=1e-4)

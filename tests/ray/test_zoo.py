"""Studies of the zoo end to end on Ray: without a teacher, with several, and with students of an earlier study."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from akdtune import cli
from akdtune.planning.identity import Identity
from akdtune.planning.prepared import Prepared
from akdtune.records import tables
from akdtune.records.plan_file import read_plan
from akdtune.study import spec
from akdtune.teacher.file import TeacherFile
from akdtune.training.config import TrialConfig
from akdtune.training.request import TrialRequest
from akdtune.training.trial import Trial
from tests.declared_columns import JUDGED
from tests.ray import studies

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_up")]

ALONE = """\
study: alone
data: {name: digits, validation: 600}
teacher: none
student: {network: {name: cnn, widths: [2, 4]}}
method: {choice: [student_only, label_smoothing, last_batch]}
training: {epochs: 2, batch_size: 64}
search: {algorithm: grid, seeds: [0, 3]}
resources: {concurrent: 1}
"""

SEVERAL = """\
study: several
data: {name: digits, validation: 600}
teacher:
  network: {name: cnn, widths: [4, 8]}
  epochs: 1
  distilled_from: [{network: {name: cnn, widths: [6, 8]}, epochs: 1}]
  others: [{network: {name: cnn, widths: [5, 8]}, epochs: 1}, {network: {name: cnn, widths: [6, 8]}, epochs: 1}]
student: {network: {name: cnn, widths: [2, 4]}}
views: multi_teacher
method: kd
training: {epochs: 2, batch_size: 64}
search: {algorithm: grid}
"""


@pytest.fixture(scope="module")
def alone(ray_up: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a finished study without a teacher."""
    folder = tmp_path_factory.mktemp("alone")
    assert studies.run(studies.write(folder, ALONE), folder / "run") == 0
    return folder / "run"


def test_a_study_without_a_teacher_runs_every_method_with_every_seed(alone: Path) -> None:
    studies.assert_exactly_once(alone, trials=6, epochs=2)
    assert (alone / "optuna.journal").exists(), "a grid asks nobody, and optuna-dashboard shows it"
    rows = tables.read_trials(alone).to_pylist()
    assert [(row["seed"], row["arm"]) for row in rows] == [
        (seed, f"none/{method}") for seed in (0, 3) for method in ("student_only", "label_smoothing", "last_batch")
    ]
    for row in rows:
        assert row["val_accuracy"] is not None
        assert {name for name in (*JUDGED, "agreement") if row.get(name) is not None} == set()
    lock = yaml.safe_load((alone / "study.lock.yaml").read_text())
    assert (lock["teacher"]["network"], lock["teacher"]["weights_hash"]) == ("none", "none")
    assert lock["seeds"]["trial"] == [0, 3]
    assert studies.run(alone.parent / "study.yaml", alone) == 0, "the same command again has nothing to do"


def test_it_can_be_looked_at(alone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["show", str(alone), "--summary"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sorted(line.split()[0] for line in lines[2:]) == ["none/label_smoothing", "none/last_batch",
                                                             "none/student_only"]  # fmt: skip
    assert all(line.split()[2] == "2" for line in lines[2:]), "two seeds each"
    assert cli.main(["analyze", "diversity_accuracy", str(alone), "--draws", "100"]) == 0
    captured = capsys.readouterr()
    assert "6 trials: 6 done" in captured.out
    assert captured.err == ""


def test_a_student_of_one_study_is_where_another_begins(alone: Path, tmp_path: Path) -> None:
    file = tmp_path / "best.pt"
    assert cli.main(["best", str(alone), "--student", str(file)]) == 0
    changes = (f"student.checkpoint={file}", "student.train=classifier", "method=student_only")
    study = spec.load(alone.parent / "study.yaml", changes)
    prepared = Prepared.load(study)
    settings = study.arms[0].centre().settings
    trial = Trial(TrialConfig.parse(TrialRequest(settings=settings, teacher_file=TeacherFile.none())))
    rows = [epoch.row for epoch in trial.run()]
    best = max(row["val_accuracy"] for row in tables.read_trials(alone).to_pylist())
    assert rows[-1]["val_accuracy"] is not None
    assert rows[-1]["val_accuracy"] > best - 15, "it knows what the first one has learnt"
    assert Identity(study, prepared, TeacherFile.none()).cell_id(settings) not in {
        row["cell_id"] for row in read_plan(alone)
    }


def test_several_teachers_one_of_them_distilled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "run"
    assert studies.run(studies.write(tmp_path, SEVERAL), root) == 0
    studies.assert_exactly_once(root, trials=1, epochs=2)
    (row,) = tables.read_trials(root).to_pylist()
    assert row["arm"] == "multi_teacher/kd"
    assert row["teacher_accuracy"] is not None
    assert row["diversity_sq_prob"] is not None
    lock = yaml.safe_load((root / "study.lock.yaml").read_text())
    widths = [one["network"]["widths"][0] for one in (lock["teacher"], *lock["teacher"]["others"])]
    assert widths == [4, 5, 6]
    assert len({one["weights_hash"] for one in (lock["teacher"], *lock["teacher"]["others"])}) == 3

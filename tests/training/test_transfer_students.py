"""Students that begin with weights: linear transfer, other class counts, and files that do not fit."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from akdtune import cli, networks
from akdtune.errors import CheckpointError, SettingsError
from akdtune.planning import report
from akdtune.planning.identity import Identity, initial_rows
from akdtune.planning.plan import Plan
from akdtune.planning.prepared import Prepared
from akdtune.records.files import trial_directory
from akdtune.settings.data import DataSettings
from akdtune.settings.training import StudentSettings
from akdtune.signals import InputSpec
from akdtune.study import spec
from akdtune.study.proposals import Outline
from akdtune.teacher.file import TeacherFile
from akdtune.training.config import TrialConfig
from akdtune.training.parts import begin_with
from akdtune.training.request import TrialRequest
from akdtune.training.trial import Trial
from tests.study_fixture import StudyBuilder

CNN: dict[str, Any] = {"name": "cnn", "widths": [2, 4]}
STUDY = """\
study: transfer
data: {name: digits, validation: 600}
teacher: none
student:
  network: {name: cnn, widths: [2, 4]}
  train: classifier
  checkpoint: {choice: [students/a.pt, students/b.pt]}
views: none
method: student_only
training: {epochs: 2}
search: {algorithm: grid}
"""


def student(file: Path, classes: int = 10, seed: int = 1, network: dict[str, Any] = CNN, **beside: Any) -> Path:
    """A student that has learnt something: weights and statistics that no fresh network has."""
    built = networks.build(network, InputSpec(1, 8, classes), seed)
    built.train()
    with torch.no_grad():
        for _ in range(3):
            built(torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 + 1)
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": built.state_dict(), **beside}, file)
    return file


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the study and its two students."""
    monkeypatch.chdir(tmp_path)
    Path("transfer.yaml").write_text(STUDY)
    student(Path("students/a.pt"), seed=1)
    student(Path("students/b.pt"), seed=2)
    return tmp_path


def trial(checkpoint: Path | None, method: str = "student_only", **more: Any) -> Trial:
    """A trial without a teacher."""
    settings = {
        "data": {"name": "digits", "validation": 600},
        "student": {"network": CNN, "checkpoint": None if checkpoint is None else str(checkpoint), **more},
        "views": {"name": "none"},
        "method": [{"name": method}],
        "training": {"epochs": 2, "batch_size": 32},
    }
    return Trial(TrialConfig.parse(TrialRequest(settings=settings, teacher_file=TeacherFile.none())))


def weights(of: Trial) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in of.student.state_dict().items()}


# ---------------------------------------------------------------------------------------------------- what is moved


@pytest.mark.parametrize("method", ["student_only", "label_smoothing", "last_batch"])
def test_only_the_classifier_moves(tmp_path: Path, method: str) -> None:
    file = student(tmp_path / "a.pt")
    stored = torch.load(file, weights_only=True)["model"]
    transfer = trial(file, method, train="classifier")
    before = weights(transfer)
    assert all(torch.equal(before[name], value) for name, value in stored.items()), "it begins with the file"
    epochs = list(transfer.run())
    after = weights(transfer)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"fc.weight", "fc.bias"}
    again = list(trial(file, method, train="classifier").run(epochs[0].state))
    assert again[-1].row["loss.ce"] == epochs[-1].row["loss.ce"]
    assert sum(len(group["params"]) for group in transfer.optimizer.param_groups) == 2


def test_everything_moves_unless_it_is_frozen(tmp_path: Path) -> None:
    transfer = trial(student(tmp_path / "a.pt"))
    before = weights(transfer)
    list(transfer.run())
    after = weights(transfer)
    assert {name for name in before if torch.equal(before[name], after[name])} == set()


def test_a_classifier_for_other_classes_is_drawn_as_in_a_fresh_student(tmp_path: Path) -> None:
    file = student(tmp_path / "a.pt", classes=7)
    stored = torch.load(file, weights_only=True)["model"]
    fresh, begun = weights(trial(None)), weights(trial(file, train="classifier"))
    for name, value in begun.items():
        assert torch.equal(value, fresh[name] if name.startswith("fc.") else stored[name]), name


def test_the_student_of_a_trial_checkpoint_and_of_data_parallel_training(tmp_path: Path) -> None:
    stored = torch.load(student(tmp_path / "a.pt"), weights_only=True)["model"]
    torch.save({"stage": "student", "student": stored, "optimizer": {"lr": 0.1}}, tmp_path / "trial.pt")
    torch.save({"model": {f"module.{key}": value for key, value in stored.items()}}, tmp_path / "parallel.pt")
    for name in ("trial.pt", "parallel.pt"):
        begun = weights(trial(tmp_path / name))
        assert all(torch.equal(begun[key], value) for key, value in stored.items())


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    file = student(tmp_path / "a.pt", network={"name": "cnn", "widths": [2, 5]})
    built = networks.build(CNN, InputSpec(1, 8, 10), 0)
    with pytest.raises(CheckpointError, match=r"a\.pt: not a checkpoint of cnn for 10 classes; different shapes"):
        begin_with(built, StudentSettings(network=CNN, checkpoint=str(file)))


def test_classifiers_of_every_family_are_found() -> None:
    for name in ("resnet8", "wrn_16_1", "vgg8", "MobileNetV2", "ShuffleV1", "ResNet18"):
        built = networks.build(name, InputSpec(3, 32, 10), 0)
        own = {tensor.data_ptr() for tensor in built.classifier()}
        assert sum(parameter.data_ptr() in own for parameter in built.parameters()) == 2, name


# --------------------------------------------------------------------------------------------------------- studies


def test_students_can_be_chosen_among(home: Path) -> None:
    study = spec.load("transfer.yaml")
    paths = [str(home / "students" / name) for name in ("a.pt", "b.pt")]
    students = [proposal.settings["student"] for _, proposal in Outline(study).proposals]
    assert students == [{"network": CNN, "checkpoint": path, "train": "classifier"} for path in paths]
    text = "\n".join(report.plan_report(Plan.of(study)))
    assert f"student.checkpoint  choice [{paths[0]}, {paths[1]}]" in text
    assert "missing" not in text


def cells(*overrides: str) -> list[str]:
    study = spec.load("transfer.yaml", overrides)
    identity = Identity(study, Prepared.load(study), TeacherFile.none())
    return [row["cell_id"] for row in initial_rows(Outline(study), identity)]


def test_ids_follow_what_a_file_holds_and_not_where_it_lies(home: Path) -> None:
    first = cells()
    assert len(set(first)) == 2
    Path("students").rename("elsewhere")
    assert cells("student.checkpoint={choice: [elsewhere/a.pt, elsewhere/b.pt]}") == first
    assert cells("student.checkpoint=elsewhere/b.pt") == first[1:]
    student(Path("elsewhere/a.pt"), seed=3)
    changed = cells("student.checkpoint={choice: [elsewhere/a.pt, elsewhere/b.pt]}")
    assert changed[0] != first[0]
    assert changed[1] == first[1]
    assert cells("student.checkpoint=elsewhere/b.pt", "student.train=all")[0] not in first
    Path("elsewhere/c.pt").write_bytes(Path("elsewhere/b.pt").read_bytes())
    assert cells("student.checkpoint={choice: [elsewhere/b.pt, elsewhere/c.pt]}") == first[1:], "one file, one trial"


def test_a_missing_student_is_listed_by_plan_and_refused_by_run(home: Path) -> None:
    Path("students/b.pt").unlink()
    study = spec.load("transfer.yaml")
    missing = home / "students" / "b.pt"
    assert f"missing checkpoint: {missing} (student.checkpoint)" in report.plan_report(Plan.of(study))
    with pytest.raises(SettingsError) as raised:
        Prepared.load(study)
    assert str(raised.value) == f"transfer.yaml: student.checkpoint: {missing}: no such file"


def test_a_student_that_does_not_fit_is_refused_before_anything_runs(home: Path) -> None:
    student(Path("students/b.pt"), network={"name": "cnn", "widths": [3, 4]})
    Path("students/a.pt").write_bytes(b"no checkpoint")
    with pytest.raises(SettingsError) as raised:
        Prepared.load(spec.load("transfer.yaml"))
    damaged, misshapen = raised.value.problems
    assert re.search(r"student\.checkpoint: .*a\.pt: not a readable checkpoint", str(damaged))
    assert re.search(
        r"student\.checkpoint: .*b\.pt: not a checkpoint of cnn for 10 classes; different shapes", str(misshapen)
    )


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("  checkpoint: {choice: [students/a.pt, students/b.pt]}\n", "",
         "transfer.yaml:6: student.train: train is classifier, which needs a checkpoint"),
        ("{choice: [students/a.pt, students/b.pt]}", "''", "transfer.yaml:7: student.checkpoint: must be at least 1"),
        ("{choice: [students/a.pt, students/b.pt]}", "3", "transfer.yaml:7: student.checkpoint: must be text, got 3"),
        ("classifier", "clasifier", "transfer.yaml:6: student.train: must be one of 'all', 'classifier'"),
    ],
)  # fmt: skip
def test_wrong_settings_of_a_student(home: Path, old: str, new: str, problem: str) -> None:
    Path("transfer.yaml").write_text(STUDY.replace(old, new))
    with pytest.raises(SettingsError) as raised:
        spec.load("transfer.yaml")
    assert str(raised.value).startswith(problem)


def test_whole_students_can_be_chosen_among(home: Path) -> None:
    values = yaml.safe_load(STUDY)
    fresh = {"network": "resnet8"}
    values["student"] = {"choice": [fresh, {"network": CNN, "checkpoint": "students/a.pt"}]}
    Path("transfer.yaml").write_text(yaml.safe_dump(values))
    study = spec.load("transfer.yaml")
    checkpoints = [arm.centre().settings["student"]["checkpoint"] for arm in study.arms]
    assert checkpoints == [None, str(home / "students" / "a.pt")]
    assert len(set(cells())) == 2


def test_a_student_learns_other_images_of_other_classes(home: Path) -> None:
    generator = np.random.default_rng(0)
    for role, count in (("train", 12), ("test", 2)):
        for label, level in (("bright", 150), ("dark", 0), ("middle", 80)):
            (home / "set" / role / label).mkdir(parents=True)
            for index in range(count):
                pixels = generator.integers(level, level + 60, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(home / "set" / role / label / f"{index}.png")
    colour = networks.build(CNN, InputSpec(3, 8, 10), 0)
    torch.save({"model": colour.state_dict()}, "students/colour.pt")
    overrides = (f"data={{name: image_folder, root: {home / 'set'}, size: 8, validation: 6}}",
                 "student.checkpoint=students/colour.pt")  # fmt: skip
    study = spec.load("transfer.yaml", overrides)
    prepared = Prepared.load(study)
    assert prepared.dataset.inputs.num_classes == 3
    settings = study.arms[0].centre().settings
    transfer = Trial(TrialConfig.parse(TrialRequest(settings=settings, teacher_file=TeacherFile.none())))
    assert transfer.student.classifier()[0].shape == (3, 4)
    rows = [epoch.row for epoch in transfer.run()]
    assert all(math.isfinite(row["loss.ce"] or math.nan) for row in rows)


# ---------------------------------------------------------------------------------------------- best RUN --student


@pytest.fixture
def finished(home: Path) -> Path:
    """A study whose best trial has left its checkpoint."""
    build = StudyBuilder(home / "runs" / "made")
    build.add("none/kd", 50.0, None, role="search", seed=0)
    best = build.add("none/kd", 60.0, None, role="search", seed=1)
    directory = build.write()
    stored = torch.load("students/a.pt", weights_only=True)["model"]
    state = {"stage": "student", "epoch": 2, "student": stored, "optimizer": {"state": {}}, "recent_scores": [1.0]}
    torch.save(state, trial_directory(directory, best) / "checkpoint.pt")
    return directory


def test_the_best_student_is_written_and_can_be_begun_with(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["best", "made", "--student", "made/best.pt"]) == 0
    assert "written: made/best.pt" in capsys.readouterr().out
    held = torch.load("made/best.pt", weights_only=True)
    assert list(held) == ["model"]
    begun = weights(trial(Path("made/best.pt"), train="classifier"))
    assert all(torch.equal(begun[name], value) for name, value in held["model"].items())
    assert cli.main(["best", "made", "--student", "made/best.pt"]) == 2
    assert "made/best.pt: exists already" in capsys.readouterr().err


def test_a_best_trial_without_a_checkpoint(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in finished.rglob("checkpoint.pt"):
        file.unlink()
    assert cli.main(["best", "made", "--student", "made/best.pt"]) == 2
    message = capsys.readouterr().err
    assert "checkpoint.pt: no such file; without it there is no trained student of trial t00001" in message
    assert not Path("made").exists()


def test_the_packaged_transfer_study_reads_what_best_writes() -> None:
    study = spec.load("tinyimagenet_transfer")
    assert study.teacher.absent
    kept = [arm.centre().settings["student"] for arm in study.arms]
    assert {student_settings["train"] for student_settings in kept} == {"classifier"}
    assert isinstance(study.data, DataSettings)


def test_a_student_that_changed_is_refused_on_resume(home: Path) -> None:
    from akdtune.errors import StudyError
    from akdtune.records.study_directory import StudyDirectory
    from akdtune.running import driver
    from akdtune.running.lock import lock_content

    settings = spec.load("transfer.yaml")
    prepared = Prepared.load(settings)
    identity = Identity(settings, prepared, TeacherFile.none())
    directory = StudyDirectory(home / "runs")
    with directory.opened():
        directory.write_lock(lock_content(settings, identity))
        directory.add_to_plan(initial_rows(Outline(settings), identity))
    student(Path("students/b.pt"), seed=3)
    with pytest.raises(StudyError, match=r"students/b\.pt is not the student this study began with"):
        driver.run(settings, home / "runs")

"""analysis/detection.py: candidates out of studies and of any checkpoints, and what is refused."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from akdtune import networks
from akdtune.data.dataset import load_data
from akdtune.detection.synthesis import norms_of
from akdtune.networks import Network
from akdtune.records.files import trial_directory
from akdtune.settings.data import DataSettings
from akdtune.signals import InputSpec
from akdtune.teacher.checkpoints import weights_hash
from akdtune.teacher.file import TeacherFile
from tests.study_fixture import StudyBuilder

analysis = importlib.import_module("akdtune.analysis.detection")
CNN: dict[str, Any] = {"name": "cnn", "widths": [4, 8]}
WIDE: dict[str, Any] = {"name": "cnn", "widths": [6, 8]}
DATA: dict[str, Any] = {"name": "digits", "validation": 0}
DIGITS = InputSpec(1, 8, 10)
B = "b={path: b.pt, key: model}"
QUICK = ("--counts", "1", "20", "--repeats", "2", "--steps", "3")
SETTINGS = """
study: small
data: {name: digits, validation: 0}
teacher: {network: {name: cnn, widths: [4, 8]}}
student: {network: {name: cnn, widths: [4, 8]}}
views: none
method: kd
ablation: {design: arms, arms: {dkd: {method: dkd}}, seeds: [1, 2]}
"""


def network(seed: int, setting: Mapping[str, Any] = CNN) -> Network:
    built = networks.build(dict(setting), DIGITS, seed=seed)
    for norm in norms_of(built):
        assert norm.running_mean is not None
        norm.running_mean.add_(torch.randn(len(norm.running_mean), generator=torch.Generator().manual_seed(seed)))
    return built


def near(built: Network, seed: int) -> dict[str, torch.Tensor]:
    """The weights of a network, a little off."""
    generator = torch.Generator().manual_seed(seed)
    return {
        key: value + 0.01 * torch.randn(value.shape, generator=generator) if value.is_floating_point() else value
        for key, value in built.state_dict().items()
    }


def save(path: Path, weights: Mapping[str, torch.Tensor], key: str = "model") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({key: dict(weights)}, path)
    return path


def study(root: Path, seed: int, data: Mapping[str, Any] = DATA, teacher: Mapping[str, Any] = CNN) -> Path:
    """A study with two students of its teacher, one without a teacher, and five that cannot be asked."""
    run = root / f"run_{seed}"
    own = network(seed, teacher)
    file = save(root / "teachers" / f"{seed}.pt", own.state_dict())
    build = StudyBuilder(run)
    kinds = {
        "kd": ("none", "kd"), "dkd": ("none", "dkd"), "alone": ("none", "student_only"), "noise": ("random", "kd"),
        "head": ("none", "simkd"), "pruned": ("none", "kd"), "lost": ("none", "kd"),
    }  # fmt: skip
    for place, (name, (views, method)) in enumerate(kinds.items()):
        status = "pruned" if name == "pruned" else "done"
        trial = build.add(f"{views}/{method}", 60.0, None, role="ablation", status=status, seed=place)
        build.plan[-1]["settings"] = {
            "views": {"name": views}, "method": [{"name": method}], "student": {"network": dict(teacher)},
        }  # fmt: skip
        weights = network(1000 + 10 * seed + place, teacher).state_dict() if name == "alone" else near(own, place)
        if name != "lost":
            save(trial_directory(run, trial) / "checkpoint.pt", weights, "student")
    dataset = load_data(DataSettings(**data), torch.device("cpu"))
    lies = TeacherFile(str(file), "", weights_hash(own), dict(teacher), None, 90.0, True)
    build.lock = {
        "settings": {"study": run.name, "search": {}, "data": dict(data), "teacher": {"network": dict(teacher)},
                     "student": {"network": dict(CNN)}},
        "data": {"hash": dataset.content_hash, "name": "digits"}, "teacher": lies.plain(), "source": "small.yaml",
    }  # fmt: skip
    return build.write()


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    return [study(tmp_path, 0), study(tmp_path, 1), study(tmp_path, 2, teacher=WIDE)]


def asked(*options: object) -> int:
    code: int = analysis.main([*map(str, options), *QUICK])
    return code


def refused(capsys: pytest.CaptureFixture[str], *options: object) -> str:
    assert asked(*options) == 2
    return capsys.readouterr().err


class TestStudies:
    def test_their_teachers_students_and_controls(self, runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
        assert asked(*runs) == 0
        printed = capsys.readouterr().out
        report = json.loads((runs[0] / "reports" / "detection.json").read_text())
        assert [teacher["name"] for teacher in report["teachers"]] == ["run_0", "run_1", "run_2"]
        assert [teacher["accuracy"] for teacher in report["teachers"]] == [90.0] * 3
        assert [student["group"] for student in report["students"]] == ["distilled", "distilled", "control"] * 3
        of_runs = [f"run_{seed}" for seed in (0, 1, 2) for _ in range(3)]
        assert [student["teacher"] for student in report["students"]] == of_runs
        assert report["students"][1]["name"] == "run_0/t00001"
        assert (report["students"][1]["run"], report["students"][1]["arm"]) == ("run_0", "none/dkd")
        assert report["chance"] == pytest.approx(1 / 3)
        largest = [rate for rate in report["rates"] if rate["group"] == "distilled" and rate["count"] == 20]
        assert {(rate["inputs"], rate["students"]) for rate in largest} == {
            ("real", 6), ("synthesised", 6), ("gaussian", 6),
        }  # fmt: skip
        assert next(rate["accuracy"] for rate in largest if (rate["score"], rate["inputs"]) == ("kl", "real")) == 1
        for reason in ("pruned, not done", "no checkpoint", "taught by noise", "predicts through a head of simkd"):
            assert any(f"1 student left out: {reason}" in note for note in report["notes"]), reason
        assert report["verdict"].split("; ")[0] in " ".join(printed.split())
        assert (runs[0] / "reports" / "detection.png").exists()
        assert (runs[0] / "reports" / "detection" / "outputs.parquet").exists()
        assert (runs[0] / "reports" / "detection" / "synthesised.parquet").exists()
        assert not (runs[1] / "reports").exists()

    def test_the_same_numbers_each_time(self, runs: list[Path], tmp_path: Path) -> None:
        for name in ("first", "again"):
            assert asked(*runs, "--out", tmp_path / name) == 0
        files = [(tmp_path / name / "detection.json").read_text() for name in ("first", "again")]
        assert files[0] == files[1]

    def test_chosen_inputs_alone(self, runs: list[Path]) -> None:
        assert asked(*runs, "--inputs", "gaussian") == 0
        report = json.loads((runs[0] / "reports" / "detection.json").read_text())
        assert {rate["inputs"] for rate in report["rates"]} == {"gaussian"}
        assert not (runs[0] / "reports" / "detection" / "synthesised.parquet").exists()

    def test_a_study_and_a_file(self, runs: list[Path], tmp_path: Path) -> None:
        other = network(9)
        file, student = save(tmp_path / "o.pt", other.state_dict()), save(tmp_path / "s.pt", near(other, 3))
        assert asked(runs[0], "--teacher", f"other={file}", "--student", f"{student}=other") == 0
        report = json.loads((runs[0] / "reports" / "detection.json").read_text())
        assert [teacher["name"] for teacher in report["teachers"]] == ["run_0", "other"]
        last = report["students"][-1]
        assert (last["name"], last["group"], last["teacher"]) == ("s", "distilled", "other")

    def test_one_teacher_is_no_choice(self, runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
        assert "needs two at least, with other weights; there is one: run_0" in refused(capsys, runs[0])

    def test_other_images(self, runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        noisy = study(tmp_path, 5, {**DATA, "pixel_noise": {"std": 0.25, "seed": 0}})
        assert "run_5: data.pixel_noise is {'std': 0.25, 'seed': 0}, in " in refused(capsys, runs[0], noisy)

    def test_a_split_of_its_own_is_no_other_image(self, runs: list[Path], tmp_path: Path) -> None:
        assert asked(runs[0], study(tmp_path, 5, {**DATA, "validation": 300}), "--inputs", "gaussian") == 0

    def test_weights_that_are_not_the_locks(self, runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
        save(runs[0].parent / "teachers" / "0.pt", network(8).state_dict())
        assert "holds other weights" in refused(capsys, *runs)
        (runs[0].parent / "teachers" / "0.pt").unlink()
        assert "0.pt: " in refused(capsys, *runs)

    def test_without_a_lock(self, runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
        (runs[1] / "study.lock.yaml").unlink()
        assert "nobody knows which teacher a study has" in refused(capsys, *runs)


class TestFiles:
    @pytest.fixture
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "small.yaml").write_text(SETTINGS)
        for seed, name in enumerate("ab"):
            save(tmp_path / f"{name}.pt", network(seed).state_dict())
            save(tmp_path / f"of_{name}.pt", near(network(seed), 5 + seed))
        save(tmp_path / "trial" / "checkpoint.pt", network(7).state_dict(), "student")
        save(tmp_path / "wide.pt", network(3, WIDE).state_dict())
        return tmp_path

    FILES = ("--settings", "small.yaml", "--out", "found", "--teacher", "a=a.pt", "--teacher", B)

    def report(self, folder: Path) -> dict[str, Any]:
        held: dict[str, Any] = json.loads((folder / "found" / "detection.json").read_text())
        return held

    def test_whose_teacher_is_asked_for(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert asked(*self.FILES, "--student", "of_b.pt") == 0
        assert self.report(folder)["students"][0]["group"] == "unknown"
        assert self.report(folder)["verdict"].startswith("likeliest teacher of of_b: b by real inputs")
        assert "likeliest teacher, and in which share of the draws" in capsys.readouterr().out
        assert not (folder / "found" / "detection.png").exists(), "there is no accuracy to draw"

    def test_with_their_truth(self, folder: Path) -> None:
        students = ("of_a.pt=a", "of_b.pt=b", "trial/checkpoint.pt=none")
        assert asked(*self.FILES, *(word for student in students for word in ("--student", student))) == 0
        held = {student["name"]: (student["group"], student["teacher"]) for student in self.report(folder)["students"]}
        assert held == {"of_a": ("distilled", "a"), "of_b": ("distilled", "b"), "trial": ("control", None)}
        assert {preference["students"] for preference in self.report(folder)["preferences"]} == {1}

    def test_a_network_of_its_own(self, folder: Path) -> None:
        wide = ("--teacher", "wide=wide.pt", "--network", "wide={name: cnn, widths: [6, 8]}")
        assert asked(*self.FILES, *wide, "--student", "of_a.pt=a") == 0
        assert len(self.report(folder)["teachers"]) == 3

    def test_equal_weights_are_one_candidate(self, folder: Path) -> None:
        assert asked(*self.FILES, "--teacher", "again=a.pt", "--student", "of_a.pt=a") == 0
        assert [teacher["name"] for teacher in self.report(folder)["teachers"]] == ["a", "b"]
        assert any("teacher again has the weights of a" in note for note in self.report(folder)["notes"])

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            (("--student", "of_a.pt=c"), "unknown teacher 'c' (allowed: a, b, none)"),
            (("--student", "gone.pt"), "gone.pt"),
            (("--student", "wide.pt"), "not a checkpoint of cnn"),
            (("--teacher", "c"), "--teacher c: must have the form NAME=FILE"),
            (("--teacher", "a=b.pt"), "--teacher: 'a' is named twice"),
            (("--teacher", "none=b.pt"), "'none' stands for no teacher"),
            (("--teacher", "c={path: a.pt, kye: x}"), "did you mean 'key'?"),
            (("--teacher", "c={path: a.pt"), "cannot be parsed"),
            (("--teacher", "c=auto"), "--teacher c=auto: is not trained yet"),
            (("--teacher", "c=pretrained"), "pretrained needs a network with weights of its own"),
            (("--network", "z=cnn"), "unknown teacher or student 'z'"),
            (("--network", "a=cnnn"), "did you mean 'cnn'?"),
            (("--network", "a=3"), "must be a name or {name: ..., its settings}"),
            ((), "there is no student to ask"),
            (("--repeats", "0"), "--repeats: 0 are none"),
        ],
    )
    def test_what_is_refused(
        self, folder: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], said: str
    ) -> None:
        assert analysis.main([*self.FILES, "--counts", "5", *options]) == 2
        assert said in capsys.readouterr().err
        assert not (folder / "found").exists(), "nothing half-written"

    def test_nothing_says_which_images(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert "--out DIR is needed" in refused(capsys, "--teacher", "a=a.pt")
        said = refused(capsys, "--teacher", "a=a.pt", "--out", "x")
        assert "give the directories of studies, or --settings FILE" in said

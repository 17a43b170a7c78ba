"""`import akdtune`: light, typed, and each of its names does what the command line does."""

from __future__ import annotations

import ast
import doctest
import pkgutil
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import akdtune
from akdtune import cli
from akdtune.cli.from_python import Trained
from akdtune.errors import AkdtuneError, SettingsError, StudyError
from akdtune.records.files import trial_directory
from akdtune.running import driver
from akdtune.study import from_python, spec
from akdtune.training.loop import Diverged, Epoch
from akdtune.training.trial import Trial
from tests.study_fixture import StudyBuilder

STUDY = """
study: small
data: {name: digits, validation: 600}
teacher: {network: {name: cnn, widths: [4, 8]}, epochs: 1}
student: {network: {name: cnn, widths: [2, 4]}}
views: {name: angular, variant: constrained, warmup_epochs: 1, num_views: 2, margin: {uniform: [0.2, 0.6]}}
method: {choice: [{name: kd, weight: {choice: [0.5, 1.0, 2.0]}}, [kd, crd]]}
training: {epochs: 2, batch_size: 32}
search: {algorithm: random, trials: 4, trial_seed: 5}
scheduler: {name: none}
"""
HEAVY = (
    "torch torchvision ray pandas pyarrow numpy wandb optuna matplotlib scipy sklearn statsmodels pydantic yaml typer"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working directory with a study and a cache, in which a teacher is trained once."""
    with pytest.MonkeyPatch.context() as patch:
        path = tmp_path_factory.mktemp("face")
        (path / "small.yaml").write_text(STUDY)
        patch.chdir(path)
        patch.setenv("AKDTUNE_CACHE", str(path / "cache"))
        yield path


@pytest.fixture(scope="module")
def trained(folder: Path) -> Trained:
    return akdtune.train("small.yaml", arm="angular/kd", seed=3, quiet=True)


@pytest.fixture
def run(folder: Path, trained: Trained, tmp_path: Path) -> Path:
    """A study directory that holds the trained trial as its search's best."""
    study = StudyBuilder(tmp_path / "runs" / "small")
    trial_id = study.add(trained.arm, trained.accuracy, None, role="search", seed=trained.seed)
    study.plan[0]["settings"] = trained.settings
    study.add(trained.arm, 0.0, None, role="search")
    study.lock = {"settings": akdtune.read("small.yaml").resolved(), "source": "small.yaml"}
    study.write()
    torch.save({"student": trained.student.state_dict()}, trial_directory(study.path, trial_id) / "checkpoint.pt")
    return study.path


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120).stdout


class TestImport:
    def test_nothing_heavy_is_loaded_and_no_time_is_lost(self) -> None:
        code = f"""
import sys, time
started = time.process_time()
import akdtune
passed = time.process_time() - started
dir(akdtune), akdtune.__version__, akdtune.AkdtuneError
print([name for name in {HEAVY!r}.split() if name in sys.modules], passed < 0.1)
"""
        assert python(code) == "[] True\n"

    def test_a_name_loads_no_more_than_it_needs(self) -> None:
        loaded = "print([name for name in ('torch', 'ray', 'optuna', 'wandb') if name in sys.modules])"
        assert python(f"import sys, akdtune; akdtune.register, akdtune.load, akdtune.Results; {loaded}") == "[]\n"
        assert python(f"import sys, akdtune; akdtune.read, akdtune.Method; {loaded}") == "['torch']\n"

    def test_the_names_are_those_that_type_checkers_see(self) -> None:
        tree = ast.parse(Path(akdtune.__file__).read_text())
        (typed,) = (node for node in tree.body if isinstance(node, ast.If))
        imports = [node for node in typed.body if isinstance(node, ast.ImportFrom)]
        seen = {alias.name: node.module for node in imports for alias in node.names}
        assert seen == akdtune._HOMES
        assert sorted({*seen, "__version__"}) == sorted(akdtune.__all__) == dir(akdtune)

    def test_no_name_is_a_package_of_ours(self) -> None:
        packages = {module.name for module in pkgutil.iter_modules(akdtune.__path__)}
        assert not packages & set(akdtune.__all__)
        for name in packages - {"analysis", "search_spaces"}:
            import_module(f"akdtune.{name}")
        assert {name: getattr(akdtune, name).__module__ for name in akdtune._HOMES} == akdtune._HOMES

    def test_another_name(self) -> None:
        with pytest.raises(AttributeError, match="module 'akdtune' has no attribute 'reed'"):
            akdtune.reed  # noqa: B018


class TestRead:
    def test_overrides_as_texts_and_as_mappings(self, folder: Path) -> None:
        texts = ["search.trials=6", "views.margin={uniform: [0.1, 0.3]}", "teacher.network.widths=[2, 4]"]
        asked = akdtune.read(
            "small.yaml",
            "search.trials=6",
            {"views.margin": {"uniform": [np.float64(0.1), 0.3]}, "teacher.network.widths": np.array([2, 4])},
        )
        assert asked.resolved() == spec.load("small.yaml", texts).resolved()
        assert akdtune.read("digits_angular").name == "digits_angular"

    @pytest.mark.parametrize(
        ("value", "text"), [(None, "null"), (True, "true"), ("1e3", '"1e3"'), (1e-05, "1e-05"), ("a: b", '"a: b"')]
    )
    def test_values_keep_their_kind(self, folder: Path, value: Any, text: str) -> None:
        with pytest.raises(SettingsError) as error:
            akdtune.read("small.yaml", {"training.epochs": value})
        with pytest.raises(SettingsError) as expected:
            spec.load("small.yaml", [f"training.epochs={text}"])
        assert str(error.value) == str(expected.value)

    def test_the_example(self) -> None:
        assert doctest.testmod(from_python) == (0, 2)

    def test_all_problems_at_once(self, folder: Path) -> None:
        with pytest.raises(akdtune.AkdtuneError, match=r"(?s)2 problems.*did you mean 'trials'.*did you mean 'epochs'"):
            akdtune.read("small.yaml", {"training.epocs": 3, "search.trails": 3})

    def test_what_no_settings_file_could_hold(self, folder: Path) -> None:
        with pytest.raises(AkdtuneError, match=r"training\.epochs: is no plain value .*type"):
            akdtune.read("small.yaml", {"training.epochs": int})


def test_plan_shows_what_the_command_prints(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overrides = ["study=plain", "teacher=none", "views=none", "method=student_only"]
    preview = akdtune.plan(akdtune.read("small.yaml", *overrides))
    assert cli.main(["plan", "small.yaml", *overrides]) == 0
    untimed = [
        [line for line in text.splitlines() if " s = " not in line and not line.startswith("time with")]
        for text in (str(preview), capsys.readouterr().out)
    ]
    off = "Weights & Biases: off (tracking.wandb is null)"
    assert off in untimed[1] and off not in untimed[0], "a notebook's own settings"
    assert [line for line in untimed[1] if line != off] == untimed[0]
    assert len(untimed[0]) >= len(str(preview).splitlines()) - 2
    assert repr(preview) == str(preview)
    assert preview.study.name == "plain"
    shown = preview._repr_html_()
    assert shown.startswith("<pre>study plain") and "<b>" not in shown
    assert preview.trials["search"] == preview.outline.search_trials


class TestRun:
    """With a driver that only writes what a study leaves; docs/notebook.ipynb runs a real one."""

    @pytest.fixture
    def calls(self, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
        calls: list[Any] = []

        def run(study: Any, root: Path, address: Any, console: Any, *, extend: bool, reuse: list[Path]) -> int:
            calls.append((study.name, root, address, extend, reuse))
            console.print("[progress]")
            written = StudyBuilder(root)
            written.add("angular/kd", 80.0, None, role="search")
            if root.name == "failing":
                written.add("angular/kd", None, None, role="search", status="failed")
            written.write()
            return {"failing": 1, "interrupted": 130}.get(root.name, 0)

        monkeypatch.setattr(driver, "run", run)
        return calls

    def test_the_results_at_the_end(
        self, folder: Path, tmp_path: Path, calls: list[Any], capsys: pytest.CaptureFixture[str]
    ) -> None:
        results = akdtune.run(akdtune.read("small.yaml"), tmp_path / "x", extend=True, reuse=["y"])
        assert results.best().accuracy == 80.0
        assert calls == [("small", tmp_path / "x", None, True, [Path("y")])]
        assert capsys.readouterr().out == "[progress]\n"

    def test_under_runs_by_itself(self, tmp_path: Path, calls: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        assert akdtune.run("digits_angular").directory == Path("runs/digits_angular")
        assert akdtune.load("digits_angular").best().accuracy == 80.0

    def test_failed_trials(self, folder: Path, tmp_path: Path, calls: list[Any]) -> None:
        with pytest.raises(StudyError, match=r"1 of 2 trials failed: t00001 .*akdtune\.load"):
            akdtune.run("small.yaml", tmp_path / "failing")

    def test_interrupted(self, folder: Path, tmp_path: Path, calls: list[Any]) -> None:
        with pytest.raises(KeyboardInterrupt, match="the same call goes on"):
            akdtune.run("small.yaml", tmp_path / "interrupted")


class TestTrain:
    def test_rows_and_student(self, trained: Trained) -> None:
        assert (trained.arm, trained.seed, [row["epoch"] for row in trained.rows]) == ("angular/kd", 3, [1, 2])
        assert trained.epochs.column("loss.kd").null_count == 0
        assert not trained.student.training
        assert not any(parameter.requires_grad for parameter in trained.student.parameters())
        assert (
            repr(trained)
            == f"{trained.id} of angular/kd, seed 3: {trained.accuracy:.2f} % on validation images after 2 epochs"
        )

    def test_a_line_per_epoch_and_the_threads_of_the_process(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(Trial, "run", _one_epoch)
        before = torch.get_num_threads()
        torch.set_num_threads(2)
        try:
            akdtune.train("small.yaml", {"training.epochs": 1}, arm="angular/kd+crd")
            assert torch.get_num_threads() == 2
        finally:
            torch.set_num_threads(before)
        assert capsys.readouterr().out == "epoch 1 of 1: validation 50.00 %\n"

    def test_arms(self, folder: Path) -> None:
        with pytest.raises(AkdtuneError, match=r"small has 2 arms; arm must be one of angular/kd, angular/kd\+crd"):
            akdtune.train("small.yaml")
        with pytest.raises(AkdtuneError, match=r"unknown arm 'angular/kf'; did you mean 'angular/kd'"):
            akdtune.train("small.yaml", arm="angular/kf")

    def test_a_study_that_was_read_is_fixed(self, folder: Path) -> None:
        with pytest.raises(AkdtuneError, match="overrides need the study's name or file"):
            akdtune.train(akdtune.read("small.yaml"), "training.epochs=1", arm="angular/kd")

    def test_a_loss_that_is_not_finite(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def run(self: Trial, state: Any) -> Iterator[Epoch]:
            raise Diverged(2)
            yield

        monkeypatch.setattr(Trial, "run", run)
        with pytest.raises(AkdtuneError, match="small, angular/kd: diverged: the loss is not finite in epoch 2"):
            akdtune.train("small.yaml", arm="angular/kd", quiet=True)

    def test_a_student_that_predicts_through_its_method(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Trial, "run", _one_epoch)
        with pytest.warns(UserWarning, match="predicts through 'simkd'"):
            akdtune.train("small.yaml", "views=none", "method=simkd", "training.epochs=1", quiet=True)


def _one_epoch(self: Trial, state: Any) -> Iterator[Epoch]:
    yield Epoch("student", 1, {"val_accuracy": 50.0}, {})


class TestBestTrial:
    def test_its_student_answers_as_the_trial_did(self, run: Path, trained: Trained) -> None:
        best = akdtune.load(run).best()
        student = best.student()
        assert not student.training
        assert not any(parameter.requires_grad for parameter in student.parameters())
        held_out = best.data().split("subset").validation
        assert held_out is not None
        predicted_N = student(held_out.images(torch.arange(len(held_out)))).logits_BK.argmax(1)
        assert 100 * (predicted_N == held_out.labels_N).double().mean().item() == pytest.approx(trained.accuracy)

    def test_its_command_trains_it_again(self, run: Path, trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(run.parent)
        best = akdtune.load("small").best()
        export, again = (shlex.split(part) for part in best.command.split(" && "))
        assert export[0] == again[0] == "akdtune"
        assert cli.main(export[1:]) == 0
        assert again[1:] == ["run", f"{best.id}.yaml"]
        study = akdtune.read(again[2])
        assert study.arms[0].centre().settings == best.settings
        anew = akdtune.train(study, quiet=True)
        assert (anew.id, anew.seed, anew.accuracy) == (trained.id, best.seed, best.accuracy)

    def test_plugins_of_the_study(self, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        lock = akdtune.load(run).settings
        assert lock["plugins"] == []
        best = akdtune.load(run).best()
        (run / "study.lock.yaml").write_text("settings: {plugins: [no_such_plugin]}\nsource: /elsewhere/study.yaml\n")
        with pytest.raises(AkdtuneError, match="plugins: cannot import 'no_such_plugin'"):
            best.student()

    def test_without_a_checkpoint(self, run: Path) -> None:
        best = akdtune.load(run).best()
        (trial_directory(run, best.id) / "checkpoint.pt").unlink()
        with pytest.raises(StudyError, match=f"checkpoint.pt: no such file; without it .* of trial {best.id}"):
            best.student()

"""`python -m akdtune.training`: one trial without Ray, with a study's numbers; it goes on, and says what is wrong."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from akdtune.cli import one_trial
from akdtune.data.dataset import load_data
from akdtune.records.files import EPOCHS, read_rows, trial_directory
from akdtune.running.trial_log import line
from akdtune.running.trial_writer import Limits
from akdtune.study import spec
from akdtune.teacher.checkpoints import load_plain
from akdtune.teacher.file import TeacherFile
from akdtune.teacher.find import find_teacher
from akdtune.teacher.sealed import sealed
from akdtune.training.config import TrialConfig
from akdtune.training.loop import Epoch
from akdtune.training.request import TrialRequest
from akdtune.training.trial import Trial
from tests.small_trials import roomy_disk

STUDY = """
study: small
data: {name: digits, validation: 600, label_noise: {fraction: 0.2}}
teacher: {network: {name: cnn, widths: [4, 8]}, epochs: 1}
student: {network: {name: cnn, widths: [2, 4]}}
views: {name: angular, variant: constrained, warmup_epochs: 2, num_views: 2, margin: {uniform: [0.2, 0.6]}}
method: {choice: [{name: kd, weight: {choice: [0.5, 1.0, 2.0]}}, [kd, crd]]}
training: {epochs: 3, batch_size: 32}
search: {algorithm: random, trials: 4, trial_seed: 5}
scheduler: {name: none}
"""
KD, BOTH = "angular/kd", "angular/kd+crd"
TIMINGS = {"wall_time_s", "images_per_s", "peak_memory_mib", "warmup_time_s", "attempt"}
CACHE_RATES = {"teacher_cache_hit_rate", "teacher_cache_fill_rate"}  # how full it was, not what a trial computes


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache folder for the file: the teacher is trained in it once."""
    return tmp_path_factory.mktemp("standalone")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a study."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AKDTUNE_CACHE", str(cache))
    roomy_disk(monkeypatch)
    (tmp_path / "small.yaml").write_text(STUDY)
    return tmp_path


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two epochs to print, none to train: for tests of everything around them."""

    def run(self: Trial, state: Any = None, *_: Any, **__: Any) -> Iterator[Epoch]:
        done = 0 if state is None else state["epoch"]
        for number in range(done + 1, self.config.training.epochs + 1):
            row = {"lr": 0.1, "loss.ce": 1 / number, "val_accuracy": 50.0 + number, "wall_time_s": 0.1}
            yield Epoch("student", number, row, self.state("student", number))

    monkeypatch.setattr(Trial, "run", run)


def numbers(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    left_out = TIMINGS | CACHE_RATES
    return [{key: value for key, value in row.items() if key not in left_out} for row in rows]


def run(capsys: pytest.CaptureFixture[str], *arguments: str, limits: Limits = one_trial.LIMITS) -> tuple[int, str, str]:
    code = one_trial.main(arguments, limits)
    out, err = capsys.readouterr()
    return code, out, err


# -------------------------------------------------------------------------------------------------------- numbers


def test_a_trial_has_the_numbers_that_a_worker_of_a_study_computes(
    capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    code, out, err = run(capsys, "small.yaml", "--arm", BOTH, "--seed", "3", "--out", "alone")
    assert (code, err) == (0, "")
    rows = read_rows("alone/epochs.parquet")
    lines = [line for line in out.splitlines() if line.startswith(("warm-up", "epoch"))]
    assert [line.split(":")[0] for line in lines][-5:] == [
        "warm-up epoch 1 of 2", "warm-up epoch 2 of 2", "epoch 1 of 3", "epoch 2 of 3", "epoch 3 of 3",
    ]  # fmt: skip
    assert f"kd {rows[-1]['loss.kd']:.4g}" in lines[-1] and f"validation {rows[-1]['val_accuracy']:.2f} %" in lines[-1]

    from akdtune.running.worker import execute

    trial = json.loads(Path("alone/trial.json").read_text())
    assert trial["trial_id"].endswith("-s3") and trial["seeds"] == {"init": 3, "order": 3, "noise": 3}
    of_worker = trial | {"root": str(home / "study"), "rungs": [], "tracking": {"wandb": None}, "stop_flag": ".stop"}
    outcome = execute(TrialRequest.parse(of_worker), lambda _: None, lambda: False)
    assert outcome["outcome"] == "done"
    folder = trial_directory(home / "study", trial["trial_id"])
    assert numbers(read_rows(folder / EPOCHS)) == numbers(rows)
    ours, theirs = (load_plain(path / "checkpoint.pt") for path in (Path("alone"), folder))
    assert all(torch.equal(ours["student"][key], theirs["student"][key]) for key in theirs["student"])
    assert Path("alone/predictions.parquet").read_bytes() == (folder / "predictions.parquet").read_bytes()


def test_the_centre_of_an_arm_is_trained_unless_settings_are_given() -> None:
    of_file = one_trial.of_study(spec.load("small.yaml"), KD)
    given = one_trial.of_study(spec.load("small.yaml", ["views.margin=0.3", "method.kd.weight=2.0"]), KD, seed=1)
    assert isinstance(of_file, TrialRequest) and isinstance(given, TrialRequest)
    assert of_file.settings["views"]["margin"] == pytest.approx(0.4) and of_file.seed == 5
    assert given.settings["views"]["margin"] == 0.3
    assert given.settings["method"][0]["weight"] == 2.0 and given.seed == 1
    assert given.cell_id != of_file.cell_id
    assert TrialConfig.parse(given).seeds.noise == 1


def test_an_absent_teacher_is_trained_first_and_then_found(capsys: pytest.CaptureFixture[str], quick: None) -> None:
    override = "teacher.seed=77"
    settings = spec.load("small.yaml", [override])
    dataset = load_data(settings.data, torch.device("cpu"))
    assert find_teacher(settings.teacher, dataset, "subset") is None
    code, out, _ = run(capsys, "small.yaml", override, "--arm", KD)
    assert code == 0 and out.startswith("epoch 1 of 1: loss ") and "\ntrained: " in out
    assert find_teacher(settings.teacher, dataset, "subset") is not None
    code, out, _ = run(capsys, "small.yaml", override, "--arm", KD)
    assert code == 0 and "trained: " not in out


# ------------------------------------------------------------------------------------------------- output, resuming


def test_a_terminal_shows_how_far_it_is(
    capsys: pytest.CaptureFixture[str], quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    code, out, _ = run(capsys, "small.yaml", "--arm", KD)
    assert code == 0 and "epoch 3 of 3: ce 0.3333, validation 53.00 %, 0.1 s" in out
    assert "0/5" in out  # two epochs of warm-up and three of the student


def test_without_out_nothing_is_written(capsys: pytest.CaptureFixture[str], quick: None, home: Path) -> None:
    code, out, _ = run(capsys, "small.yaml", "--arm", KD)
    assert code == 0 and out.splitlines()[-1] == "done after 3 epochs, validation accuracy 53.00 %"
    assert [path.name for path in home.iterdir()] == ["small.yaml"]


def test_an_interrupted_trial_goes_on_to_the_same_numbers(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("small.yaml", "--arm", KD, "--out")
    assert run(capsys, *arguments, "whole")[0] == 0
    student_epoch = Trial.student_epoch

    def interrupted(self: Trial, epoch: int, *rest: Any) -> dict[str, float | None]:
        if epoch == 2:
            os.kill(os.getpid(), signal.SIGTERM)  # as a cluster stops a job; Ctrl-C does the same
        return student_epoch(self, epoch, *rest)

    monkeypatch.setattr(Trial, "student_epoch", interrupted)
    code, _, err = run(capsys, *arguments, "cut")
    assert code == 130 and err == "stopped after epoch 1; the same command goes on\n"
    assert not Path("cut/outcome.json").exists()
    assert load_plain(Path("cut/checkpoint.pt"))["epoch"] == 1
    monkeypatch.setattr(Trial, "student_epoch", student_epoch)
    code, out, _ = run(capsys, *arguments, "cut")
    assert code == 0 and out.startswith("going on after 3 of 5 epochs\nepoch 2 of 3: ")
    rows = read_rows("cut/epochs.parquet")
    assert numbers(rows) == numbers(read_rows("whole/epochs.parquet"))
    assert [row["attempt"] for row in rows] == [1, 2, 2]
    assert Path("cut/predictions.parquet").read_bytes() == Path("whole/predictions.parquet").read_bytes()
    code, out, _ = run(capsys, *arguments, "cut")
    assert code == 0 and "done after 3 epochs" in out and "nothing is left to do" in out


def test_rows_after_the_saved_state_are_computed_again(capsys: pytest.CaptureFixture[str], quick: None) -> None:
    """A kill between rows and state leaves rows that are too new."""
    arguments = ("small.yaml", "--arm", KD, "--out", "here")
    assert run(capsys, *arguments, limits=Limits(-1.0, math.inf))[0] == 0
    Path("here/outcome.json").unlink()
    state = load_plain(Path("here/checkpoint.pt"))
    torch.save(sealed(state | {"epoch": 1, "rows": state["rows"][:1]}), "here/checkpoint.pt")
    code, out, _ = run(capsys, *arguments)
    assert code == 0 and "going on after 3 of 5" in out
    assert [row["epoch"] for row in read_rows("here/epochs.parquet")] == [1, 2, 3]


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The epochs whose state was written."""
    epochs: list[int] = []
    save = torch.save

    def noted(state: dict[str, Any], file: Any) -> None:
        time.sleep(0.02)
        epochs.append(state["epoch"])
        save(state, file)

    monkeypatch.setattr(torch, "save", noted)
    return epochs


@pytest.mark.parametrize(("limits", "expected"), [(Limits(-1.0, math.inf), [1, 2, 3]), (Limits(-1.0, 1e-4), [1, 3])])
def test_saving_takes_a_share_of_the_time_at_most(
    capsys: pytest.CaptureFixture[str], quick: None, saved: list[int], limits: Limits, expected: list[int]
) -> None:
    """However soon a state may be saved again: 20 ms a save at a ten-thousandth of the time are 200 s."""
    assert run(capsys, "small.yaml", "--arm", KD, "--out", "here", limits=limits)[0] == 0
    assert saved == expected


def test_a_diversity_gate_that_never_opened_is_a_warning(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_shut(self: Trial, state: Any = None, *_: Any, **__: Any) -> Iterator[Epoch]:
        for number in (1, 2, 3):
            row = {"val_accuracy": 50.0, "loss.views.feature_diversity": 0.1, "gate_open_train": 0.009}
            yield Epoch("student", number, row, self.state("student", number))

    monkeypatch.setattr(Trial, "run", run_shut)
    code, _, err = run(capsys, "small.yaml", "--arm", KD, "--out", "here")
    line = "the feature diversity gate stayed under 0.01: its diversity term never acted"
    assert code == 0 and err == f"warning: {line}\n"
    assert json.loads(Path("here/outcome.json").read_text())["warning"] == line


def test_a_trial_that_diverges_ends_with_code_1_and_stays_so(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("small.yaml", "--arm", "none/kd", "views=none", "training.lr=1.0e+12", "--out", "bad")
    code, _, err = run(capsys, *arguments)
    assert code == 1 and err.startswith("diverged: the loss is not finite in epoch ")
    assert json.loads(Path("bad/outcome.json").read_text())["outcome"] == "diverged"
    code, out, _ = run(capsys, *arguments)
    assert code == 1 and "nothing is left to do" in out


def test_the_json_that_is_kept_trains_the_same_trial(capsys: pytest.CaptureFixture[str], quick: None) -> None:
    assert run(capsys, "small.yaml", "--arm", KD, "--out", "first")[0] == 0
    assert run(capsys, "first/trial.json", "--out", "second")[0] == 0
    assert Path("first/trial.json").read_text() == Path("second/trial.json").read_text()
    first, second = (read_rows(f"{name}/epochs.parquet") for name in ("first", "second"))
    assert numbers(first) == numbers(second)


# --------------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["small.yaml"], f"has 2 arms; --arm must be one of {KD}, {BOTH}"),
        (["small.yaml", "--arm", "angular/kdd"], f"unknown arm 'angular/kdd'; did you mean '{KD}'?"),
        (["small.yaml", "--arm", KD, "training.epoch=3"], "did you mean 'epochs'?"),
        (["smal.yaml", "--arm", KD], "there is no such file; did you mean 'small.yaml'?"),
        (["none.json"], "none.json: No such file or directory"),
        (["text.json"], "text.json: is no JSON: "),
        (["list.json"], "list.json: is no trial: it lacks settings, seeds, role, teacher_file"),
        (["part.json"], "part.json: is no trial: it lacks seeds, role, teacher_file"),
        (["odd.json"], "this trial's settings cannot be read: KeyError('data')"),
        (
            ["typo.json"],
            "settings cannot be read: DataSettings: validatoin: Extra inputs are not permitted",
        ),
        (["odd.json", "--seed", "1"], "a trial's JSON says everything"),
        (["odd.json", "training.epochs=1"], "a trial's JSON says everything"),
    ],
)
def test_a_mistake_is_one_message(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    Path("text.json").write_text("settings: {}")
    Path("list.json").write_text("[1]")
    Path("part.json").write_text('{"settings": {}}')
    file = TeacherFile.none().plain()
    odd = {"settings": {}, "seeds": {}, "role": "search", "teacher_file": file}
    Path("odd.json").write_text(json.dumps(odd))
    typo = {"data": {"name": "digits", "validation": 600, "validatoin": 600}}
    Path("typo.json").write_text(json.dumps({**odd, "settings": typo}))
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("akdtune: ") and message in err and "Traceback" not in err


def test_out_belongs_to_one_trial(capsys: pytest.CaptureFixture[str], quick: None) -> None:
    assert run(capsys, "small.yaml", "--arm", KD, "--out", "here")[0] == 0
    code, _, err = run(capsys, "small.yaml", "--arm", KD, "--seed", "9", "--out", "here")
    assert code == 2 and "here: holds another trial" in err
    Path("full").mkdir()
    Path("full/notes.txt").write_text("mine")
    code, _, err = run(capsys, "small.yaml", "--arm", KD, "--out", "full")
    assert code == 2 and "is not empty and holds no trial.json" in err
    code, _, err = run(capsys, "small.yaml", "--arm", KD, "--out", "full/notes.txt/x")
    assert code == 2 and "cannot be written: Not a directory" in err


def test_two_processes_do_not_write_to_one_folder(capsys: pytest.CaptureFixture[str], quick: None) -> None:
    arguments = ("small.yaml", "--arm", KD, "--out", "here")
    assert run(capsys, *arguments)[0] == 0
    Path("here/outcome.json").unlink()
    Path("here/attempts/1.closed").unlink()  # this very process is the one that works on it
    code, _, err = run(capsys, *arguments)
    assert code == 2 and "is working on it" in err


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        one_trial.main(["--help"])
    out = capsys.readouterr().out
    assert raised.value.code == 0
    assert "usage: python -m akdtune.training" in out and "examples:" in out
    assert "--arm angular/kd+crd" in out and "Exit code 0: trained" in out
    assert max(map(len, out.splitlines())) <= 120


def test_it_runs_where_ray_optuna_and_wandb_are_not_installed() -> None:
    """Through the door that users take."""
    code = """
import runpy, sys
for name in ("ray", "optuna", "wandb"):
    sys.modules[name] = None
sys.argv = ["training", "small.yaml", "--arm", "none/kd", "views=none", "training.epochs=1"]
runpy.run_module("akdtune.training", run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("done after 1 epoch, validation accuracy ")


def test_an_epoch_in_words() -> None:
    row = {"lr": 0.1, "loss.ce": 1.2344567, "loss.views.div": None, "train_accuracy": 61.204, "wall_time_s": 1.25}
    assert line("student", 3, 40, row) == "epoch 3 of 40: ce 1.234, training 61.20 %, 1.2 s"
    assert line("warmup", 1, 2, {"loss.views.gt": 2.0}) == "warm-up epoch 1 of 2: views.gt 2"


def test_a_trial_may_be_shorter_than_the_rungs_of_its_study(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, error = run(capsys, "digits_angular", "--arm", "angular/kf", "training.epochs=3")
    assert code == 2
    assert "angular/kd" in error and "grace_period" not in error

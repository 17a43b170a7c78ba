"""The commands: what they print, what they refuse, how fast they start."""

from __future__ import annotations

import csv
import io
import json
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from akdtune import __version__, cli
from akdtune.folders import packaged
from akdtune.records import tables
from akdtune.records.files import LEDGER, LOCK, trial_directory
from akdtune.records.plan_file import read_plan, write_plan
from akdtune.running import ahead, driver
from akdtune.study import spec
from akdtune.study.schema import json_schema
from akdtune.tracking.record import RunRecord, write_record
from tests.study_fixture import StudyBuilder

COMMANDS = [
    "run", "retry", "plan", "show", "best", "trial", "diff", "logs", "analyze", "compare", "verify", "spaces",
    "schema", "teacher", "wandb",
]  # fmt: skip


def call(capsys: pytest.CaptureFixture[str], *arguments: str | Path, code: int = 0) -> str:
    """Standard output of a command that ends with `code`; standard error where it is not 0."""
    returned = cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert returned == code, captured.err
    if code == 0:
        return captured.out
    assert "Traceback" not in captured.err
    return captured.err


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def finished(home: Path) -> Path:
    """A small study in runs/toy: two arms, a pruned and a running trial, one probe."""
    build = StudyBuilder(home / "runs" / "toy")
    build.add("angular/kd", 61.5, 0.1, role="search", params={"views.margin": 0.25, "method.kd.weight": 1.5})
    build.add("angular/kd", 66.5, 0.2, role="search", params={"views.margin": 0.5, "method.kd.weight": 0.5})
    build.add("angular/crd", 64.0, 0.3, role="search", params={"views.margin": 0.125})
    build.add("angular/crd", 12.0, 0.3, role="search", status="pruned", params={"views.margin": 0.6}, epochs=1)
    build.add("angular/crd", 30.0, 0.3, role="search", status="running", params={"views.margin": 0.3})
    build.add("angular/kd", 70.0, 0.4, role="probe", params={"views.margin": 0.4})
    return build.write(finished=False)


# ----------------------------------------------------------------------------------------------------------- help


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_shows_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = call(capsys, command, "--help")
    assert text.startswith(f"Usage: akdtune {command}")
    if command not in ("teacher", "wandb"):
        assert f"  akdtune {command}" in text.partition("Examples:")[2]


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    text = call(capsys, "--help")
    listed = [line.split()[0] for line in text.partition("Commands:")[2].splitlines() if line.startswith("  ")]
    assert [name for name in listed if name in COMMANDS] == COMMANDS
    assert "akdtune run search_spaces/digits_angular.yaml" in text


def test_help_is_quick() -> None:
    """Well under a second of processor time, which does not depend on how busy the machine is."""

    def used() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before = used()
    subprocess.run([sys.executable, "-m", "akdtune.cli", "--help"], check=True, capture_output=True)
    assert used() - before < 0.8


@pytest.mark.parametrize("command", [["show", "toy"], ["best", "toy"], ["spaces"], ["logs", "toy", "t00000"]])
def test_reading_commands_load_neither_torch_nor_ray(command: list[str], finished: Path) -> None:
    (trial_directory(finished, "t00000") / "log.txt").write_text("epoch 1\n")
    code = f"""
import sys
from akdtune import cli
assert cli.main({command!r}) == 0
print(*[name for name in ("torch", "ray", "pandas", "wandb", "optuna") if name in sys.modules])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=finished.parents[1])
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == ""


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "--version") == f"akdtune {__version__}\n"


# -------------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "digits_angualr"], "did you mean the packaged 'digits_angular'?"),
        (["run", "digits_angular", "trainin.epochs=2"], "did you mean training.epochs=2?"),
        (["plan", "nothing.yaml"], "nothing.yaml: there is no such file"),
        (["show", "tyo"], f"tyo: no such study directory; did you mean '{Path('runs/toy')}'?"),
        (["show", "toy", "--arm", "angular/kdd"], "unknown arm 'angular/kdd'; did you mean 'angular/kd'?"),
        (["show", "toy", "--status", "don"], "did you mean 'done'?"),
        (["show", "toy", "--sort", "val_acuracy"], "unknown column 'val_acuracy'; did you mean 'val_accuracy'?"),
        (["show", "toy", "--top", "0"], "--top"),
        (["logs", "toy", "t0000"], "trial 't0000' is ambiguous: t00000, t00001"),
        (["logs", "toy", "x00001"], "no trial 'x00001'; did you mean 't00001'?"),
        (["logs", "toy", "t00001"], "trial t00001 has no log yet"),
        (["analyze", "diversity_acuracy", "toy"], "did you mean 'diversity_accuracy'?"),
        (["analyze", "diversity_accuracy", "tyo"], "no such study directory"),
        (["best", "toy", "--export", "there.yaml"], "there.yaml: exists already"),
        (["wandb", "sync", "toy"], "no Weights & Biases runs here"),
        (["teacher", "show", "abc"], "no teacher 'abc'"),
        (["shwo", "toy"], "unknown command 'shwo'; did you mean 'show'?"),
    ],
)
def test_a_mistake_is_one_message_and_code_2(
    arguments: list[str], message: str, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("there.yaml").write_text("mine")
    assert message in call(capsys, *arguments, code=2)
    assert Path("there.yaml").read_text() == "mine"


# ------------------------------------------------------------------------------------------------- show, best, logs


def test_show_lists_every_trial(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("toy", str(finished), "runs/toy"):
        lines = call(capsys, "show", name).splitlines()
        assert lines[0].endswith("toy: 6 trials: 1 running, 4 done, 1 pruned")
        head = next(place for place, line in enumerate(lines) if line.startswith("trial "))
        assert lines[head].split()[:7] == ["trial", "arm", "role", "seed", "status", "epochs", "val_accuracy"]
        assert [line.split()[0] for line in lines[head + 1 :]] == [f"t{number:05d}" for number in range(6)]
    assert "method.kd.weight=1.5 views.margin=0.25" in lines[head + 1]
    assert lines[2].startswith("nothing is confirmed: "), "the answer stands before the trials"
    chosen = call(capsys, "show", "toy", "--role", "search").splitlines()
    assert chosen[1].startswith("trial "), "with an option that chooses trials, these alone are shown"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--arm", "angular/crd"], [2, 3, 4]),
        (["--status", "pruned"], [3]),
        (["--status", "failed"], []),
        (["--role", "probe"], [5]),
        (["--top", "2"], [5, 1]),
        (["--role", "search", "--sort", "views.margin"], [3, 1, 4, 0, 2]),
        (["--sort", "method.kd.weight", "--top", "2"], [0, 1]),
        (["--sort", "status"], [0, 1, 2, 5, 3, 4]),
    ],
)
def test_show_filters_and_sorts(
    options: list[str], expected: list[int], finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = call(capsys, "show", "toy", *options).splitlines()
    assert [line.split()[0] for line in lines[2:]] == [f"t{number:05d}" for number in expected]


def test_show_as_csv_holds_every_column(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = list(csv.DictReader(io.StringIO(call(capsys, "show", "toy", "--csv"))))
    table = tables.read_trials(finished)
    assert list(rows[0]) == table.column_names
    assert [row["trial_id"] for row in rows] == table["trial_id"].to_pylist()
    assert float(rows[1]["val_accuracy"]) == 66.5
    assert rows[2]["param.method.kd.weight"] == ""


@pytest.fixture
def repeated(home: Path) -> Path:
    """A study in runs/seeds: two configurations with three seeds each, one of them not finished, and a probe."""
    build = StudyBuilder(home / "runs" / "seeds")
    for seed, (kd, dkd) in enumerate([(60.0, 64.0), (62.0, 66.0), (64.0, None)]):
        build.add("none/kd", kd, 0.1, role="search", cell="kd", seed=seed, params={"method.kd.weight": 1.5})
        status = "running" if dkd is None else "done"
        build.add("none/dkd", dkd or 12.0, 0.3, role="search", cell="dkd", seed=seed, status=status)
    build.add("none/kd", 50.0, 0.2, role="probe", cell="kd", seed=7, params={"method.kd.weight": 1.5})
    return build.write(finished=False)


def test_a_summary_has_mean_and_deviation_over_seeds(repeated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = call(capsys, "show", "seeds", "--summary").splitlines()
    assert lines[0].endswith("7 trials: 1 running, 6 done")
    assert lines[1].split() == ["arm", "role", "n", "mean", "val_accuracy", "sd", "left", "out", "searched", "settings"]
    assert [line.split() for line in lines[2:]] == [
        ["none/dkd", "search", "2", "65.00", "1.41", "1", "running"],
        ["none/kd", "search", "3", "62.00", "2.00", "method.kd.weight=1.5"],
        ["none/kd", "probe", "1", "50.00", "method.kd.weight=1.5"],
    ]
    lines = call(capsys, "show", "seeds", "--summary", "--top", "1").splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["none/dkd"], "the best of the configurations, not of the trials"
    lines = call(capsys, "show", "seeds", "--summary", "--role", "search", "--sort", "diversity_sq_prob").splitlines()
    assert [line.split()[3] for line in lines[2:]] == ["0.3", "0.1"]
    rows = list(csv.DictReader(io.StringIO(call(capsys, "show", "seeds", "--summary", "--csv"))))
    assert [(row["arm"], row["n"], row["mean"], row["param.method.kd.weight"]) for row in rows] == [
        ("none/dkd", "2", "65.0", ""), ("none/kd", "3", "62.0", "1.5"), ("none/kd", "1", "50.0", "1.5"),
    ]  # fmt: skip


def test_a_summary_says_which_seeds_are_missing_from_a_mean(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The mean of the one seed of three that was not stopped is not that of the configuration."""
    build = StudyBuilder(home / "runs" / "stopped")
    for seed, (value, status) in enumerate([(70.0, "done"), (20.0, "pruned"), (10.0, "pruned")]):
        build.add("none/kd", value, 0.1, role="search", cell="kd", seed=seed, status=status)
    build.add("none/kd", 65.0, 0.1, role="search", cell="other", seed=0)
    build.write()
    lines = call(capsys, "show", "stopped", "--summary").splitlines()
    assert [line.split() for line in lines[2:]] == [
        ["none/kd", "search", "1", "70.00", "2", "pruned"], ["none/kd", "search", "1", "65.00"],
    ]  # fmt: skip
    rows = list(csv.DictReader(io.StringIO(call(capsys, "show", "stopped", "--summary", "--csv"))))
    assert [row["left_out"] for row in rows] == ["2 pruned", ""]


def test_a_summary_of_a_searched_setting(repeated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = call(capsys, "show", "seeds", "--summary", "--sort", "method.kd.weight").splitlines()
    assert [line.split()[:4] for line in lines[2:]] == [
        ["none/kd", "search", "3", "1.5"], ["none/kd", "probe", "1", "1.5"],
    ]  # fmt: skip
    message = call(capsys, "show", "seeds", "--summary", "--sort", "arm", code=2)
    assert "a summary needs a column of numbers, and 'arm' holds 'none/kd'" in message
    assert "did you mean 'val_accuracy'?" in call(capsys, "show", "seeds", "--summary", "--sort", "val_acuracy", code=2)


def test_a_folder_of_the_same_name_hides_no_study(repeated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("seeds").mkdir()
    assert "7 trials" in call(capsys, "show", "seeds")
    Path("other").mkdir()
    assert "other: is no study directory" in call(capsys, "show", "other", code=2)


def test_the_exported_best_trains_with_its_own_seed(repeated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overrides = ["search={algorithm: grid, seeds: [0, 1]}", "scheduler=null", "probe=null"]
    fixed = [f"views.{key}={value}" for key, value in (("margin", 0.3), ("num_views", 2), ("diversity_weight", 2))]
    study_of = spec.load("digits_angular", [*overrides, *fixed, "method=kd"])
    plan = read_plan(repeated)
    for row in plan:
        row["settings"] = study_of.arms[0].centre().settings
    write_plan(repeated, plan)
    (repeated / LOCK).write_text(yaml.safe_dump({"settings": study_of.resolved()}))
    call(capsys, "best", "seeds", "--export", "best.yaml")
    assert spec.load("best.yaml").search.trial_seed == 1


def test_best_names_the_best_trial_of_each_arm(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = call(capsys, "best", "toy").splitlines()
    assert [line.split()[:3] for line in lines[2:4]] == [
        ["t00005", "angular/kd", "probe"],
        ["t00002", "angular/crd", "search"],
    ]
    assert lines[5:] == [
        "A probe is better than the search: t00005 (angular/kd, seed 1) has 70.00 %, the search's best t00001 "
        "(angular/kd, seed 1) 66.50 %. Confirmation and ablation go by the search's."
    ]
    lines = call(capsys, "best", "toy", "--role", "search").splitlines()
    assert [line.split()[:2] for line in lines[2:]] == [["t00001", "angular/kd"], ["t00002", "angular/crd"]]
    lines = call(capsys, "best", "toy", "--arm", "angular/crd").splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["t00002"]


def test_best_counts_the_trials_it_is_the_best_of(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build = StudyBuilder(home / "runs" / "both")
    build.add("none/kd", 60.0, None, role="search")
    build.add("none/kd", 10.0, None, role="search", status="pruned")
    for seed in (100, 101):
        build.add("none/kd", 70.0, None, role="confirm", seed=seed)
    build.write()
    first = call(capsys, "best", "both").splitlines()[0]
    assert first.endswith("best of 2 trials: 1 done, 1 pruned; the highest of noisy numbers, so optimistic")


def test_best_before_anything_is_done(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build = StudyBuilder(home / "runs" / "young")
    build.add("none/kd", None, None, role="search", status="planned")
    build.write(finished=False)
    message = "no search trial has reached its last epoch yet (1 trial: 1 planned)"
    assert message in call(capsys, "best", "young", code=2)


def test_the_exported_best_is_a_study_of_that_configuration(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    searched = spec.load("digits_angular")
    proposals = [arm.random(7) for arm in searched.arms[:2]]
    build = StudyBuilder(home / "runs" / searched.name)
    for proposal, accuracy in zip(proposals, (50.0, 60.0), strict=True):
        build.add(proposal.arm, accuracy, 0.1, role="search", params=proposal.params)
        build.plan[-1]["settings"] = proposal.settings
    directory = build.write()
    (directory / LOCK).write_text(yaml.safe_dump({"settings": searched.resolved()}))
    assert "written: best.yaml" in call(capsys, "best", searched.name, "--export", "best.yaml")
    exported = spec.load("best.yaml")
    (arm,) = exported.arms
    assert (arm.name, list(arm.dimensions)) == (proposals[1].arm, [])
    assert arm.random(0).settings == proposals[1].settings


def test_logs_prints_and_follows(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    running = trial_directory(finished, "t00004") / "log.txt"
    running.write_text("epoch 1\n")
    assert call(capsys, "logs", "toy", "t00004") == "epoch 1\n"

    def train() -> None:
        time.sleep(0.5)
        with running.open("a") as log:
            log.write("epoch 2\n")
        with (finished / LEDGER).open("a") as ledger:
            ledger.write(json.dumps({"time": 9.0, "event": "done", "trial_id": "t00004", "epoch": 2}) + "\n")

    thread = threading.Thread(target=train)
    thread.start()
    assert call(capsys, "logs", "toy", "t00004", "-f") == "epoch 1\nepoch 2\n"
    thread.join()


# ------------------------------------------------------------------------------------------- what others do


def test_run_hands_over_the_study(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []

    def run(
        settings: spec.Study, root: Path, address: str | None, extend: bool, reuse: list[Path], opened: bool
    ) -> int:
        assert opened, "what a new study does is said before Ray is loaded"
        asked.append((settings.name, settings.search.trials, root, address, extend, reuse))
        return 130

    monkeypatch.setattr(ahead, "begin", lambda *_: None)
    monkeypatch.setattr(driver, "run", run)
    override = "tracking.wandb={project: akdtune, mode: offline}"
    error = call(capsys, "run", "digits_angular", "search.trials=8", override, code=130)
    assert error.splitlines() == [
        "Weights & Biases: runs are written offline, tracking.wandb.mode is offline; "
        "`akdtune wandb sync RUN` uploads them"
    ]
    call(capsys, "run", "digits_angular", "--dir", "elsewhere", "--address", "auto", "tracking.wandb=null", code=130)
    assert asked[0] == ("digits_angular", 8, Path("runs/digits_angular"), None, False, [])
    assert asked[1][2:] == (Path("elsewhere"), "auto", False, [])
    call(capsys, "run", "digits_angular", "--extend", "--reuse", "a", "--reuse", "b", "tracking.wandb=null", code=130)
    assert asked[2][2:] == (Path("runs/digits_angular"), None, True, [Path("a"), Path("b")])


@pytest.fixture
def failed(home: Path) -> Path:
    """A study in runs/toy, of which two trials failed and one waits."""
    build = StudyBuilder(home / "runs" / "toy")
    build.lock = {"settings": {}, "source": "digits_angular", "overrides": ["search.trials=8", "tracking.wandb=null"],
                  "data": {}, "teacher": {}, "command": "akdtune run digits_angular"}  # fmt: skip
    build.add("angular/kd", 61.5, 0.1, role="search")
    for _ in range(2):
        trial_id = build.add("angular/kd", 12.0, 0.1, role="search", status="running")
        build.event("failed", trial_id, epoch=2, error="ValueError: a bug (p.py:3)")
    trial_id = build.add("angular/kd", 12.0, 0.1, role="search", status="running")
    build.event("interrupted", trial_id, epoch=2, cause="/t.pt: no such file (on node7); put it back")
    return build.write()


def test_retry_notes_down_which_trials_go_on_and_runs_the_study(
    failed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []

    def run(study: spec.Study, root: Path, address: str | None, **_: Any) -> int:
        asked.append((study.search.trials, study.resources.cpu, root, address))
        return 1

    monkeypatch.setattr(ahead, "begin", lambda *_: None)
    monkeypatch.setattr(driver, "run", run)
    assert "did you mean training.epochs=2?" in call(capsys, "retry", "toy", "trainin.epochs=2", code=2)
    assert not asked and '"retried"' not in (failed / LEDGER).read_text(), "the study is read first"
    call(capsys, "retry", "toy", "t00001", "resources.cpu=2", "--address", "auto", code=1)
    assert asked == [(8, 2, Path("runs/toy"), "auto")]
    out = call(capsys, "retry", "toy", "--later")
    assert "tried again: t00002" in out and "akdtune run digits_angular" in out
    assert "no trial has failed" in call(capsys, "retry", "toy")
    assert len(asked) == 1
    assert [row["status"] for row in tables.read_trials(failed).to_pylist()] == ["done", *["interrupted"] * 3]


def test_retry_refuses_what_has_not_failed(failed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (failed / LEDGER).read_bytes()
    assert "trial 't00000' is done" in call(capsys, "retry", "toy", "t00001", "t00000", "--later", code=2)
    assert "did you mean 't00001'?" in call(capsys, "retry", "toy", "t0x001", "--later", code=2)
    assert "did you mean 'runs/toy'?" in call(capsys, "retry", "tyo", code=2)
    assert (failed / LEDGER).read_bytes() == before


def test_show_says_why_trials_failed_or_wait(failed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = call(capsys, "show", "toy").splitlines()
    first = next(place for place, line in enumerate(lines) if line.startswith("failed: "))
    assert lines[first : first + 2] == [
        "failed: t00001, t00002: ValueError: a bug (p.py:3)",
        "interrupted: t00003: /t.pt: no such file (on node7); put it back",
    ]


def test_new_takes_the_next_free_directory(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    taken: list[Path] = []
    monkeypatch.setattr(ahead, "begin", lambda *_: None)
    monkeypatch.setattr(driver, "run", lambda settings, root, address, extend, reuse, opened: taken.append(root) or 0)
    command = ("run", "digits_angular", "--new", "--dir", str(home / "run"), "tracking.wandb=null")
    call(capsys, *command)
    (home / "run").mkdir()
    (home / "run-2").mkdir()
    call(capsys, *command)
    assert taken == [home / "run", home / "run-3"]


def test_plan_prints_the_report(capsys: pytest.CaptureFixture[str]) -> None:
    lines = call(capsys, "plan", "digits_angular", "tracking=null", "--no-timing").splitlines()
    assert lines[0] == "study digits_angular (digits_angular)"
    tracked, data = (
        next(place for place, line in enumerate(lines) if line.startswith(head))
        for head in ("Weights & Biases: off (tracking.wandb is null)", "data digits: ")
    )
    assert tracked < data, "what needs no data comes first"


def test_spaces_and_schema(capsys: pytest.CaptureFixture[str]) -> None:
    text = call(capsys, "spaces")
    for name, path in packaged().items():
        assert f"{name}\n" in text
        assert str(path) in text
    assert json.loads(call(capsys, "schema")) == json_schema()


def test_analyze_runs_the_analysis(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from akdtune.analysis import diversity_accuracy

    asked: list[list[str]] = []
    monkeypatch.setattr(diversity_accuracy, "main", asked.append)
    call(capsys, "analyze", "diversity_accuracy", "toy", "--draws", "10")
    assert asked == [[str(Path("runs/toy")), "--draws", "10"]]


def test_wandb_sync_reports(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = RunRecord("t00000-a1", 1, "offline", "wandb/offline-run-t00000-a1", finished=True)
    log = run.log_file(finished)
    log.parent.mkdir(parents=True)
    log.touch()
    write_record(trial_directory(finished, "t00000"), [run])
    assert "1 run waits for upload" in call(capsys, "wandb", "sync", "toy", code=2)
    log.with_name(log.name + ".synced").touch()  # as the SDK leaves it
    assert call(capsys, "wandb", "sync", "toy") == "Weights & Biases runs: 0 uploaded, 1 already there\n"


def test_teacher_is_trained_listed_and_shown(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AKDTUNE_CACHE", str(home / "cache"))
    small = ["teacher.epochs=1", "teacher.milestones=null", "teacher.network={name: cnn, widths: [4, 4, 4]}"]
    lines = call(capsys, "teacher", "train", "digits_angular", *small).splitlines()
    assert lines[0].startswith("epoch 1 of 1: loss ")
    assert lines[1].startswith("trained: ")
    again = call(capsys, "teacher", "train", "digits_angular", *small)
    assert again.removeprefix("found: ") == lines[1].removeprefix("trained: ") + "\n"
    (row,) = call(capsys, "teacher", "list").splitlines()[1:]
    key = row.split()[0]
    assert row.split()[1:4] == ["cnn", "digits", "subset"]
    shown = yaml.safe_load(call(capsys, "teacher", "show", key[:6]))
    assert shown["teacher"]["key"] == key

"""Weights & Biases with the real SDK, offline: what is written is read back and compared with the rows given."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Literal

import pytest

from akdtune.columns import Column
from akdtune.settings.tracking import WandbSettings
from akdtune.tracking.loggers.wandb import lean_settings, run_id, system_metrics
from akdtune.tracking.mode import read_decision
from akdtune.tracking.record import RunRecord, read_record, read_trouble, write_record
from akdtune.tracking.sync import TrackingError, sync
from akdtune.tracking.tracker import Tracker
from tests.wandb_log import Stored

# A long bound: starting the SDK takes seconds on a busy machine, and most tests read the finished run.
OFFLINE = {
    "wandb": {"project": "akdtune", "entity": None, "mode": "auto", "tags": ["pilot"]},
    "names": {"views.margin": "margin", "method.kd.weight": "kd_weight", "views.inter": "inter"},
    "finish_timeout_s": 60.0,
}
COLUMNS = [Column("val_accuracy", "percent", "accuracy"), Column("wall_time_s", "s", "time"),
           Column("margin", "", "of a view", section="views")]  # fmt: skip
TRIAL = {
    "study": "toy",
    "trial_id": "0123456789ab-0",
    "cell_id": "0123456789ab",
    "arm": "angular/kd+crd",
    "role": "search",
    "seed": 0,
    "settings": {
        "views": {"name": "angular", "margin": 0.3},
        "method": [{"name": "kd", "weight": 1.5}, {"name": "crd", "weight": 0.8}],
        "student": {"network": {"name": "resnet8x4", "widths": [4, 8]}},
    },
    "params": {"views.margin": 0.3},
}
KEY = "0123456789abcdef0123456789abcdef01234567"


def rows(first: int, last: int, attempt: int = 1) -> list[dict[str, Any]]:
    return [
        {
            "trial_id": TRIAL["trial_id"],
            "attempt": attempt,
            "epoch": epoch,
            "val_accuracy": 10.0 * epoch,
            "loss.ce": 1.0 / epoch,
            "train_loss": 2.0 / epoch,
            "margin": 0.3,
            "wall_time_s": 0.5,
            "test_accuracy": None,
        }
        for epoch in range(first, last + 1)
    ]


def curve(given: list[dict[str, Any]]) -> dict[int, dict[str, float]]:
    """What the history must hold: step -> its numbers."""
    names = {"epoch": "epoch", "student/val_accuracy": "val_accuracy", "loss/ce": "loss.ce", "loss/total": "train_loss",
             "views/margin": "margin", "system/wall_time_s": "wall_time_s"}  # fmt: skip
    return {row["epoch"]: {name: row[column] for name, column in names.items()} for row in given}


def stored_runs(root: Path) -> list[Path]:
    return sorted(root.glob("wandb/offline-run-*/*.wandb"))


def tracked(root: Path, given: list[dict[str, Any]], attempt: int = 1, replay: int = 0, **settings: Any) -> None:
    tracker = Tracker({**OFFLINE, **settings}, TRIAL, root, attempt)
    tracker.start()
    tracker.declare(COLUMNS, given[:replay])
    for row in given[replay:]:
        tracker.log(row)
    tracker.finish("done", given[-1])


def test_an_offline_run_holds_what_was_logged(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    given = rows(1, 5)
    tracked(tmp_path, given)
    (path,) = stored_runs(tmp_path)
    stored = Stored(path)
    assert stored.history == curve(given)
    assert stored.summary["status"] == "done"
    assert stored.exit_code == 0
    run = stored.run
    assert (run.run_id, run.display_name) == ("0123456789ab-0-a1", "0123456789ab-0")
    assert (run.run_group, run.job_type, run.project) == ("toy/angular/kd+crd", "search", "akdtune")
    assert list(run.tags) == ["pilot", "search", "toy"]
    (record,) = read_record(tmp_path / "trials" / TRIAL["trial_id"])
    assert record.finished
    assert record.log_file(tmp_path) == path
    assert capfd.readouterr() == ("", "")


def test_settings_are_flat_and_metrics_have_their_best_and_last_value(tmp_path: Path) -> None:
    given = [{**row, "val_accuracy": value} for row, value in zip(rows(1, 3), (20.0, 30.0, 25.0), strict=True)]
    tracked(tmp_path, given)
    stored = Stored(*stored_runs(tmp_path))
    config = {name: value for name, value in stored.config.items() if name != "_wandb"}
    whole = json.loads(config.pop("settings"))
    assert whole == TRIAL["settings"]
    assert config == {
        "study": "toy", "arm": "angular/kd+crd", "role": "search", "seed": 0, "trial_id": "0123456789ab-0",
        "cell_id": "0123456789ab", "attempt": 1, "views": "angular", "method": "kd+crd", "student": "resnet8x4",
        "margin": 0.3, "kd_weight": 1.5,
    }, "and nothing of a setting that the arm lacks"  # fmt: skip
    assert not [name for name in stored.config if "." in name]
    assert stored.summary["student/val_accuracy"] == {"last": 25.0, "max": 30.0}
    assert stored.summary["loss/total"] == {"last": 2 / 3, "min": 2 / 3}
    assert stored.summary["views/margin"] == 0.3
    steps = {name: step for name, (step, _) in stored.metrics.items() if name != "epoch"}
    assert steps == dict.fromkeys(("student/val_accuracy", "loss/ce", "loss/total", "views/margin",
                                   "system/wall_time_s"), "epoch")  # fmt: skip


@pytest.mark.parametrize(("asked", "has_gpu", "sampled"), [("auto", False, False), ("auto", True, True),
                                                           (True, False, True), (False, True, False)])  # fmt: skip
def test_system_metrics_are_sampled_where_there_is_a_gpu_or_as_said(
    asked: bool | Literal["auto"], has_gpu: bool, sampled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    assert system_metrics(WandbSettings(system_metrics=asked)) == sampled
    assert lean_settings(5.0, sampled)["x_disable_stats"] is not sampled


def test_numbers_that_closing_adds_belong_to_the_last_epoch(tmp_path: Path) -> None:
    given = rows(1, 3)
    tracker = Tracker(OFFLINE, TRIAL, tmp_path, 1)
    tracker.start()
    tracker.declare(COLUMNS)
    for row in given:
        tracker.log(row)
    tracker.finish("done", {**given[-1], "test_accuracy": 71.5})
    stored = Stored(*stored_runs(tmp_path))
    expected = curve(given)
    expected[3]["student/test_accuracy"] = 71.5
    assert stored.history == expected
    assert stored.summary["student/test_accuracy"] == {"last": 71.5, "max": 71.5}


def test_a_new_attempt_holds_the_whole_curve_and_supersedes(tmp_path: Path) -> None:
    tracked(tmp_path, rows(1, 3))
    second = rows(1, 3) + rows(4, 5, attempt=2)
    tracked(tmp_path, second, attempt=2, replay=3)
    histories = {Stored(path).run.run_id: Stored(path).history for path in stored_runs(tmp_path)}
    assert histories == {"0123456789ab-0-a1": curve(rows(1, 3)), "0123456789ab-0-a2": curve(second)}
    first, last = read_record(tmp_path / "trials" / TRIAL["trial_id"])
    assert (first.superseded_by, last.superseded_by) == ("0123456789ab-0-a2", None)


def test_a_row_that_was_logged_already_is_skipped(tmp_path: Path) -> None:
    given = rows(1, 2)
    tracked(tmp_path, [*given, given[1], *rows(3, 3)])
    assert Stored(*stored_runs(tmp_path)).history == curve(rows(1, 3))


@pytest.mark.parametrize("status", ["failed", "interrupted"])
def test_a_trial_that_did_not_end_well_is_marked(status: str, tmp_path: Path) -> None:
    tracker = Tracker(OFFLINE, TRIAL, tmp_path, 1)
    tracker.start()
    tracker.log(rows(1, 1)[0])
    tracker.finish(status, rows(1, 1)[0])
    stored = Stored(*stored_runs(tmp_path))
    assert stored.exit_code == 1
    assert stored.summary["status"] == status


@pytest.mark.parametrize("settings", [{"wandb": None}, {"wandb": {"project": "akdtune", "mode": "disabled"}}])
def test_disabled_writes_and_imports_nothing(settings: dict[str, Any], tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from akdtune.tracking.tracker import Tracker
tracker = Tracker({settings!r}, {TRIAL!r}, Path({str(tmp_path)!r}), 1)
tracker.start(); tracker.log({{"epoch": 1}}); tracker.finish("done", {{"epoch": 1}})
assert "wandb" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert list(tmp_path.iterdir()) == []


def test_a_slow_close_is_bounded_and_still_completes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import wandb

    real = wandb.sdk.wandb_run.Run.finish

    def slow(self: Any, *args: Any, **named: Any) -> None:
        time.sleep(12)
        real(self, *args, **named)

    monkeypatch.setattr(wandb.sdk.wandb_run.Run, "finish", slow)
    tracker = Tracker({**OFFLINE, "finish_timeout_s": 0.5}, TRIAL, tmp_path, 1)
    tracker.start()
    tracker.log(rows(1, 1)[0])
    started = time.monotonic()
    tracker.finish("done", rows(1, 1)[0])
    assert 0.4 < time.monotonic() - started < 10  # of 12; a loaded machine may add seconds of its own
    assert "did not close within 0.5 s" in capfd.readouterr().err
    (thread,) = [thread for thread in threading.enumerate() if thread.name.startswith("wandb 0123")]
    thread.join(40)
    assert Stored(*stored_runs(tmp_path)).exit_code == 0


def test_trouble_is_one_line_and_never_an_exception(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "wandb").write_text("a file where the runs' folder should be")
    tracked(tmp_path, rows(1, 3))
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("wandb: trial 0123456789ab-0 is not logged any further: ")
    assert read_decision(tmp_path) is None  # offline: no server is to blame
    assert str(read_trouble(tmp_path / "trials" / TRIAL["trial_id"])) in line


@pytest.mark.parametrize(
    ("name", "value"),
    [("WANDB_MODE", "nonsense"), ("WANDB_TAGS", "x" * 100), ("WANDB_SERVICE", "gone"), ("HOME", "/dev/null/none")],
)
def test_an_environment_that_the_sdk_refuses_costs_no_run(name: str, value: str, tmp_path: Path) -> None:
    """In a process of its own, because the SDK reads the environment once."""
    code = f"""
from pathlib import Path
from akdtune.tracking.tracker import Tracker
settings = {{"wandb": {{"project": "akdtune", "mode": "auto"}}, "finish_timeout_s": 60}}
tracker = Tracker(settings, {TRIAL!r}, Path({str(tmp_path)!r}), 1)
tracker.start(); tracker.log({{"epoch": 1, "val_accuracy": 2.0}}); tracker.finish("done", {{"epoch": 1}})
"""
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, name: value})
    (path,) = stored_runs(tmp_path)
    assert Stored(path).history == {1: {"epoch": 1, "student/val_accuracy": 2.0}}


def test_no_file_holds_the_key(tmp_path: Path) -> None:
    """In a process of its own, because the SDK reads the environment once."""
    code = f"""
from pathlib import Path
from akdtune.tracking.tracker import Tracker
settings = {{"wandb": {{"project": "akdtune", "mode": "offline"}}, "finish_timeout_s": 60}}
tracker = Tracker(settings, {TRIAL!r}, Path({str(tmp_path)!r}), 1)
tracker.start(); tracker.log({{"epoch": 1}}); tracker.finish("done", {{"epoch": 1}})
"""
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "WANDB_API_KEY": KEY})
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" for path in files)
    assert not [path for path in files if KEY.encode() in path.read_bytes()]


def test_sync_leaves_a_running_trial_alone(tmp_path: Path) -> None:
    directory = tmp_path / "trials" / "t"
    run = RunRecord("t-a1", 1, "offline", "wandb/offline-run-t-a1", host="elsewhere")
    write_record(directory, [run])
    assert sync(tmp_path).running == ["t-a1"]


def test_sync_without_runs_says_so(tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match=r"no Weights & Biases runs here \(tracking.wandb is null or disabled\)"):
        sync(tmp_path)
    (tmp_path / "study.lock.yaml").write_text("settings: {tracking: {wandb: {project: p, mode: auto}}}")
    with pytest.raises(TrackingError, match=r"no Weights & Biases runs here \(no trial has been trained yet\)"):
        sync(tmp_path)


def test_sync_without_a_key_says_how_many_wait(tmp_path: Path) -> None:
    tracked(tmp_path, rows(1, 1))
    with pytest.raises(TrackingError, match=r"1 run waits for upload, but there is no API key: set WANDB_API_KEY"):
        sync(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"runs": 3}', '{"runs": [{"id": 3}]}', "\x00"])
def test_a_damaged_record_is_no_record(text: str, tmp_path: Path) -> None:
    (tmp_path / "wandb.json").write_text(text)
    assert read_record(tmp_path) == []


def test_names_that_are_too_long_are_shortened_and_stay_different(tmp_path: Path) -> None:
    study = "s" * 150
    groups = set()
    for cell in ("x" * 300, "x" * 299 + "y"):
        trial = {**TRIAL, "study": study, "cell": cell, "trial_id": f"{len(cell)}{cell[-1]}-0"}
        tracker = Tracker(OFFLINE, trial, tmp_path, 1)
        tracker.start()
        tracker.finish("done", {})
        (path,) = tmp_path.glob(f"wandb/offline-run-*{trial['trial_id']}-a1/*.wandb")
        stored = Stored(path)
        assert stored.config["cell"] == cell
        assert len(stored.run.run_group) == 128
        assert [len(tag) for tag in stored.run.tags] == [5, 6, 64]
        groups.add(stored.run.run_group)
    assert len(groups) == 2


def test_the_upload_command_exists(tmp_path: Path) -> None:
    """The real `wandb sync` finds the run that the tracker wrote."""
    tracked(tmp_path, rows(1, 2))
    (path,) = stored_runs(tmp_path)
    command = [sys.executable, "-m", "wandb", "sync", "--dry-run", str(path.parent)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0
    assert "Would sync 1 run" in result.stdout + result.stderr


def test_the_same_trial_of_two_studies_has_two_runs() -> None:
    ids = [run_id(uid, "0123456789ab-0", 1) for uid in ("aaaaaa", "bbbbbb", "")]
    assert ids == ["aaaaaa-0123456789ab-0-a1", "bbbbbb-0123456789ab-0-a1", "0123456789ab-0-a1"]

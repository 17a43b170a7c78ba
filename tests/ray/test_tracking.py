"""A study whose Weights & Biases server is gone: every trial has its run on disk, and one line says so."""

from __future__ import annotations

import csv
import io
import socket
from pathlib import Path

import pytest
from rich.console import Console

from akdtune import registry
from akdtune.records.plan_file import read_plan
from akdtune.running import driver
from akdtune.study import spec
from akdtune.tracking.mode import read_decision
from akdtune.tracking.record import read_record
from tests.ray import studies
from tests.wandb_log import Stored

pytestmark = pytest.mark.ray

STUDY = """
study: tiny
data: {name: digits, validation: 600}
teacher: {network: {name: cnn, widths: [4, 8]}, epochs: 1, batch_size: 32}
student: {network: {name: cnn, widths: [2, 4]}}
views: none
method: {name: kd, weight: {log_uniform: [0.1, 4.0]}}
training: {epochs: 2, batch_size: 32}
search: {algorithm: random, trials: 3}
scheduler: {name: none}
tracking: {wandb: {project: akdtune}, csv: {}, lines_of_one: {end: "!"}, finish_timeout_s: 60}
plugins: [a_logger_of_ones_own]
"""
PLUGIN = """
import akdtune
from akdtune.registry import ComponentSettings

@akdtune.register("lines_of_one")
class Lines(akdtune.Logger):
    "Writes lines."

    class Settings(ComponentSettings):
        end: str = ""

    def open(self, trial):
        self.path, self.seed = trial.directory / "lines.txt", trial.config["seed"]

    def log(self, metrics):
        with self.path.open("a") as file:
            print(self.seed, metrics["epoch"], self.settings.end, file=file)

    def finish(self, status, metrics):
        raise OSError("no space left")
"""


@pytest.mark.slow
def test_no_run_is_lost_without_a_server(ray_up: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef0123456789abcdef01234567")
    root, shown = tmp_path / "tiny", io.StringIO()
    console = Console(file=shown, width=400)
    (tmp_path / "a_logger_of_ones_own.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(tmp_path))
    with registry.kept():
        assert driver.run(spec.load(studies.write(tmp_path, STUDY), []), root, console=console) == 0
    decided = read_decision(root)
    assert decided is not None
    assert (decided[0].mode, decided[0].asked) == ("offline", False)
    for row in read_plan(root):
        (run,) = read_record(root / "trials" / row["trial_id"])
        assert run.mode == "offline"
        stored = Stored(run.log_file(root))
        assert list(stored.history) == [1, 2]
        assert stored.config["kd_weight"] == row["params"]["method.kd.weight"]
        assert {"loss/total", "loss/kd", "student/val_accuracy", "system/wall_time_s"} <= set(stored.history[2])
    (own,) = read_record(root)
    table = Stored(own.log_file(root)).history[0]["trials"]
    assert table["nrows"] == 3
    lines = [line for line in shown.getvalue().splitlines() if line.startswith("warning: ")]
    last = read_plan(root)[-1]["trial_id"]
    with (root / "csv" / f"{last}.csv").open(newline="") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2"]
    assert (root / "trials" / last / "lines.txt").read_text() == "0 1 !\n0 2 !\n"
    assert lines[0].startswith("warning: lines_of_one: trials that are not logged whole: 3 (")
    assert lines[1:] == [
        f"warning: Weights & Biases: 4 runs are on this disk alone: {decided[0].why}; "
        f"`akdtune wandb sync {root}` uploads them"
    ]

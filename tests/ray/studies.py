"""Small real studies for the tests on Ray: digits, tiny networks, a fraction of a second a trial."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from akdtune.records import tables
from akdtune.records.files import read_rows
from akdtune.records.ledger.events import EpochFinished
from akdtune.records.ledger.reading import read_events
from akdtune.records.plan_file import read_plan
from akdtune.roles import TERMINAL
from akdtune.running import driver, execution, worker
from akdtune.study import spec
from akdtune.training.request import TrialRequest

PLUGINS = Path(__file__).parent / "plugins"
# What a clock, an attempt, or whoever filled the cache before puts in.
TIMINGS = {
    "wall_time_s", "warmup_time_s", "images_per_s", "peak_memory_mib", "attempt", "teacher_cache_fill_rate",
    "teacher_cache_hit_rate",
}  # fmt: skip

TINY = """
study: tiny
data: {name: digits, validation: 600, pixel_noise: {std: 0.25}}
teacher: {network: {name: cnn, widths: [4, 8]}, epochs: 3, batch_size: 32}
student: {network: {name: cnn, widths: [2, 4]}}
views:
  name: angular
  variant: constrained
  warmup_epochs: 2
  num_views: {choice: [1, 2, 3]}
  margin: {uniform: [0.1, 0.6]}
method:
  choice:
    - {name: kd, weight: {log_uniform: [0.1, 4.0]}}
    - {name: crd}
training: {epochs: 6, batch_size: 32}
search: {algorithm: tpe, trials: 6}
scheduler: {name: asha, grace_period: 2, reduction_factor: 2}
probe: {trials: 2}
tracking: {wandb: null}
"""


def write(folder: Path, text: str = TINY) -> Path:
    file = folder / "study.yaml"
    file.write_text(text)
    return file


def run(file: Path, root: Path, *overrides: str) -> int:
    """The study in this process, on the Ray that is up."""
    return driver.run(spec.load(file, list(overrides)), root, console=Console(quiet=True))


def start(
    file: Path, root: Path, *overrides: str, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """The command in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "akdtune.cli", "run", str(file), *overrides, "--dir", str(root)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(PLUGINS), os.environ.get("PYTHONPATH", "")]),
            **(environment or {}),
        },
    )


def metrics(root: Path) -> dict[str, list[dict[str, Any]]]:
    """Every trial's epoch rows without `TIMINGS`."""
    found = {}
    for path in sorted((root / "trials").glob("*/epochs.parquet")):
        rows = read_rows(path)
        found[path.parent.name] = [{k: v for k, v in row.items() if k not in TIMINGS} for row in rows]
    return found


def assert_exactly_once(root: Path, trials: int, epochs: int) -> None:
    """Every planned trial has one terminal event that counts, its epochs are 1..n without gap or repeat, everywhere."""
    planned = [row["trial_id"] for row in read_plan(root)]
    assert len(planned) == len(set(planned)) == trials
    events = read_events(root)
    terminal = Counter(event.trial_id for event in events if event.kind in TERMINAL)
    terminal.subtract(event.trial_id for event in events if event.kind == "retried")  # what was before counts no more
    assert terminal == Counter(planned)
    for trial_id in planned:
        of_trial = [event for event in events if event.trial_id == trial_id]
        seen = [event.epoch for event in of_trial if isinstance(event, EpochFinished)]
        assert seen == list(range(1, len(seen) + 1)), (trial_id, [event.line() for event in of_trial])
        kind = [event.kind for event in of_trial if event.kind in TERMINAL][-1]
        rows = [row["epoch"] for row in read_rows(root / "trials" / trial_id / "epochs.parquet")]
        assert rows == seen, trial_id
        if kind == "done":
            assert len(seen) == epochs
            for name in ("checkpoint.pt", "predictions.parquet", "outcome.json"):
                assert (root / "trials" / trial_id / name).exists(), (trial_id, name)
    table = tables.read_trials(root).to_pylist()
    assert sorted(row["trial_id"] for row in table) == sorted(planned)
    assert all(row["status"] in TERMINAL for row in table)


def payload_of(root: Path, trial_id: str, elsewhere: Path, file: Path) -> Path:
    """The JSON that reached a trial, made again for another directory."""
    from akdtune.planning.identity import Identity
    from akdtune.planning.prepared import Prepared
    from akdtune.records.study_directory import StudyDirectory
    from akdtune.study.proposals import Outline

    checked = spec.load(file)
    prepared = Prepared.load(checked)
    teacher = prepared.find_teacher()
    assert teacher is not None
    directory = StudyDirectory(root)
    directory.load()
    runner = execution.Run(Outline(checked), directory, Identity(checked, prepared, teacher))
    trial = json.loads(runner.payload(directory.records[trial_id], None))
    trial["root"] = str(elsewhere)
    target = elsewhere / f"{trial_id}.json"
    target.write_text(json.dumps(trial))
    return target


def run_alone(payload: Path) -> None:
    """One trial in a fresh process, as Ray's worker would run it."""
    command = [sys.executable, "-m", "akdtune.running.worker", str(payload)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def run_here(payload: Path) -> None:
    """One trial in this process, as Ray's worker would run it."""
    request = TrialRequest.parse(json.loads(payload.read_text()))
    worker.execute(request, lambda row: None, worker.stop_check(request.root, request.stop_flag))

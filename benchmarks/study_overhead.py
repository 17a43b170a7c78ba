"""What a study costs beside the training steps of its trials: per epoch, per trial, and in all.

    python benchmarks/study_overhead.py [--quick] [--json FILE] [--only epoch|study]

epoch   A real trial without Ray, on one thread: CPU time of everything at the end of an epoch as a share of the epoch's
        training steps. A step is timed on a few real ones and multiplied, so an epoch of CIFAR's size is not run.
        "floor" is what the student says about the validation images, which nothing can avoid; the rest is overhead
        (at most 5 % on digits, 2 % on CIFAR's size).
study   Real trials through Ray, ledger, search, checkpoints and offline tracking. A plugin method burns CPU time, so
        that a trial takes 2, 5 or 20 s. "over" is wall time beyond compute divided by slots, where compute is the time
        inside training steps and warm-up as the trials' own rows tell it (at most 5 % for trials of 20 s), from the
        moment the first trial begins; starting Ray, and workers that import torch, stand apart.
null    64 trials that do nothing at all, and the driver's peak memory.

Exit code 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from machine import sentence

DIGITS_SHARE, CIFAR_SHARE, WALL_SHARE = 0.05, 0.02, 0.05
FULL_TRIAL_S = 20.0
"""Shorter trials are shown and not judged."""

ANGULAR = {"name": "angular", "variant": "constrained", "num_views": 5, "margin": 0.3, "warmup_epochs": 1}


class World(NamedTuple):
    """What a trial of the epoch benchmark trains."""

    name: str
    data: Mapping[str, Any]
    teacher: str | Mapping[str, Any]
    student: str | Mapping[str, Any]
    batch: int
    epochs: int
    images: int
    validation: int
    target: float


SMALL = {"name": "cnn", "widths": [32, 64, 128]}, {"name": "cnn", "widths": [4, 8, 16]}
WORLDS = [
    World("digits, 300 + 600", {"name": "digits", "validation": 600}, *SMALL, 32, 40, 300, 600, DIGITS_SHARE),
    World("digits, 810 + 90", {"name": "digits", "validation": 90}, *SMALL, 32, 40, 810, 90, DIGITS_SHARE),
    World("cifar-size, resnet20", {"name": "noise"}, "resnet56", "resnet20", 64, 240, 45_000, 5_000, CIFAR_SHARE),
]


# ------------------------------------------------------------------------------------------------ one epoch


def register_noise(validation: int) -> None:
    """A data set of CIFAR's size without content."""
    import numpy as np

    from akdtune.data.source import Source
    from akdtune.data.store import Stored
    from akdtune.registry import register
    from akdtune.settings.data import DataSettings

    @register("noise", kind="data")
    class Noise(Source):
        """Random images."""

        @classmethod
        def read(cls, settings: DataSettings) -> Stored:
            """45,000 training images besides those of validation."""
            rng = np.random.default_rng(0)
            count = 45_000 + validation
            train = rng.integers(0, 256, (count, 3, 32, 32), np.uint8)
            labels = np.arange(count) % 100
            return Stored(train, labels, train[:100], labels[:100], 100, (0.5,) * 3, (0.25,) * 3, "noise")


def trial_of(world: World, methods: list[str], validation: int) -> Any:
    """A real trial with an untrained teacher."""
    from akdtune import networks
    from akdtune.data.dataset import load_data
    from akdtune.settings.teacher import TeacherSettings
    from akdtune.teacher.file import TeacherFile
    from akdtune.training.config import TrialConfig
    from akdtune.training.request import TrialRequest
    from akdtune.training.trial import Trial

    settings = {
        "data": {**world.data, "validation": validation},
        "student": {"network": world.student},
        "views": ANGULAR,
        "method": [{"name": name} for name in methods],
        "training": {"epochs": world.epochs, "batch_size": world.batch, "device": "cpu"},
    }
    file = TeacherFile.untrained(TeacherSettings(network=world.teacher))
    config = TrialConfig.parse(TrialRequest(settings=settings, teacher_file=file))
    inputs = load_data(config.data, config_device()).inputs
    return Trial(config, (networks.build(world.teacher, inputs, 0).eval().requires_grad_(False),))


def config_device() -> Any:
    """The device that is measured."""
    import torch

    return torch.device("cpu")


def cpu_s(work: Callable[[], object], repeats: int) -> float:
    """Median CPU seconds of this process for `work`, after one run that is not counted."""
    work()
    times_s = []
    for _ in range(repeats):
        started = time.process_time()
        work()
        times_s.append(time.process_time() - started)
    return statistics.median(times_s)


def step_s(trial: Any, steps: int) -> float:
    """Median CPU seconds of a training step."""
    from akdtune.training.loop import Interrupted

    marks: list[float] = []

    def stop() -> bool:
        marks.append(time.process_time())
        return len(marks) > steps

    while len(marks) <= steps:
        before = len(marks)
        try:
            trial.student_epoch(1, stop)
        except Interrupted:
            break
        marks[before:] = marks[before:] or [time.process_time()]
    gaps = sorted(after - earlier for earlier, after in zip(marks[1:], marks[2:], strict=False))
    return gaps[len(gaps) // 2]


def descendants_cpu_s() -> float:
    """CPU seconds so far of all living processes below this one: the tracking SDK's service is one."""
    tick, parents, seconds = os.sysconf("SC_CLK_TCK"), {}, {}
    for entry in Path("/proc").iterdir():
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split() if entry.name.isdigit() else None
        except OSError:
            continue
        if fields:
            parents[int(entry.name)] = int(fields[1])
            seconds[int(entry.name)] = (int(fields[11]) + int(fields[12])) / tick

    def below(pid: int) -> bool:
        while pid in parents:
            pid = parents[pid]
            if pid == os.getpid():
                return True
        return False

    return sum(value for pid, value in seconds.items() if below(pid))


def tracking_s(row: Mapping[str, Any], epochs: int, folder: Path) -> tuple[float, float]:
    """CPU seconds per logged epoch and per run of offline tracking, the SDK's service included."""
    from akdtune.tracking.tracker import Tracker

    trial = {"study": "overhead", "trial_id": "t0", "cell_id": "t0", "arm": "a", "role": "search", "seed": 0}
    trial |= {"settings": {}, "params": {}}

    def spent_s() -> float:
        return time.process_time() + descendants_cpu_s()

    def settled(tracker: Tracker) -> None:
        while not all(line.jobs.empty() for line in tracker._lines):
            time.sleep(0.01)
        time.sleep(0.3)

    spent: list[tuple[float, float]] = []
    for attempt in (1, 2):  # the first one imports the SDK and starts its service
        started = spent_s()
        tracker = Tracker({"wandb": {"project": "p", "mode": "offline"}}, trial, folder, attempt)
        tracker.start()
        tracker.declare((), [{**row, "epoch": 1}])
        settled(tracker)
        opened = spent_s()
        for epoch in range(2, epochs + 2):
            tracker.log({**row, "epoch": epoch})
        settled(tracker)
        logged = spent_s()
        tracker.finish("done", {})
        spent.append(((logged - opened) / epochs, opened - started + spent_s() - logged))
    return spent[-1]


def transfer(student_N: Any, teacher_N: Any, labels_N: Any) -> None:
    """What is measured of student and teacher together in every epoch."""
    from akdtune.training.measures import TransferMeter, percent_right

    meter = TransferMeter()
    meter.update(student_N.logits_BK, teacher_N.logits_BK, labels_N)
    meter.result()
    for logits_NK in (student_N.logits_BK, teacher_N.logits_BK):
        float(percent_right(logits_NK, labels_N))


def epoch_rows(world: World, methods: list[str], quick: bool) -> list[dict[str, Any]]:
    """CPU milliseconds of each part of one epoch, a row each."""
    import io

    import torch

    from akdtune.records.trial_directory import TrialDirectory
    from akdtune.running.trial_writer import Limits
    from akdtune.training.evaluation import VIEWS_EVERY

    torch.set_num_threads(1)
    cifar = world.data["name"] == "noise"
    validation = 1_000 if quick and cifar else world.validation
    if cifar:
        register_noise(validation)
    trial = trial_of(world, methods, validation)
    one_step_s = step_s(trial, (12 if quick else 40) if cifar else 60)
    training_s = one_step_s * -(-world.images // world.batch)
    judge, split, repeats = trial.evaluation, trial.splits.validation, 3 if cifar else 15
    with torch.no_grad():
        student_N, teacher_N = judge.student_signals(split), judge.teacher_signals(split)
        times = [
            cpu_s(work, repeats) * world.validation / validation
            for work in (
                lambda: judge.student_signals(split),
                lambda: transfer(student_N, teacher_N, split.labels_N),
                lambda: judge._view_row(split, teacher_N, student_N),
            )
        ]
    forward_s, transfer_s, views_s = times
    views_in = sum(epoch % VIEWS_EVERY == 0 or epoch == world.epochs for epoch in range(1, world.epochs + 1))
    state = trial.state("student", 1)
    row = {"trial_id": "t0", "attempt": 1, "epoch": 1, "lr": 0.05, **judge.validation_row(1)}
    row |= dict.fromkeys(("train_accuracy", "images_per_s", "wall_time_s", "loss.ce", "loss.kd", "loss.crd"), 1.0)

    def save() -> None:
        torch.save(state, io.BytesIO())

    with tempfile.TemporaryDirectory() as temporary:
        directory = TrialDirectory(Path(temporary) / "t0")
        half = [{**row, "epoch": epoch} for epoch in range(1, world.epochs // 2)]
        half[-1] |= judge.validation_row(world.epochs)  # columns that few rows fill
        rows_s = cpu_s(lambda: directory.write_rows(half), 9)
        logged_s, run_s = tracking_s(row, 100, Path(temporary))
    checkpoints = 3 / world.epochs + training_s / Limits().checkpoint_every_s
    parts = {
        "validation: student's forward (floor)": forward_s,
        "validation: transfer": transfer_s,
        "validation: views, in the epochs that do": views_s * views_in / world.epochs,
        "copy of the state": cpu_s(lambda: trial.state("student", 1), 9),
        "rows to Parquet": rows_s * min(1.0, training_s / Limits().report_every_s),
        "checkpoints": cpu_s(save, 5) * checkpoints,
        "tracking, each epoch": logged_s,
        "tracking, each run": run_s / world.epochs,
    }
    name = f"{world.name}, {'+'.join(methods)}"
    return [
        {"what": "epoch", "world": name, "part": part, "ms": round(1e3 * part_s, 3), "share": part_s / training_s,
         "epoch_ms": round(1e3 * training_s, 1), "target": world.target}
        for part, part_s in parts.items()
    ]  # fmt: skip


def print_epoch(rows: list[dict[str, Any]]) -> list[str]:
    """Prints one world and returns its missed target, if any."""
    first = rows[0]
    print(f"\n{first['world']}: {first['epoch_ms']:.0f} ms CPU in the training steps of an epoch")
    for row in rows:
        print(f"  {row['part']:<40} {row['ms']:>10.2f} ms {100 * row['share']:>7.2f} %")
    overhead = sum(row["share"] for row in rows if "floor" not in row["part"])
    print(f"  {'overhead without the floor':<40} {'':>13} {100 * overhead:>7.2f} %", flush=True)
    if overhead <= first["target"]:
        return []
    return [f"{first['world']}: {100 * overhead:.1f} % of an epoch (at most {100 * first['target']:g} %)"]


# ------------------------------------------------------------------------------------------------ a study

BUSY = '''
"""A method for the benchmark: KD that burns CPU time in every step."""

import time

from pydantic import Field

from akdtune.methods.kd import KD
from akdtune.registry import register


@register("busy")
class Busy(KD):
    """KD that is slow."""

    class Settings(KD.Settings):
        """How slow."""

        step_s: float = Field(0.0, description="seconds of CPU time that each step burns")

    def terms(self, student, target, batch):
        until = time.thread_time() + self.settings.step_s
        while time.thread_time() < until:
            sum(range(1000))
        return {"busy": super().terms(student, target, batch)["kd"]}

    def weights(self, epoch):
        return {"busy": super().weights(epoch)["kd"]}
'''

STUDY = """
study: overhead
data: {name: digits, validation: 600}
teacher: {network: {name: cnn, widths: [4, 8]}, epochs: 1, batch_size: 32}
student: {network: {name: cnn, widths: [4, 8, 16]}}
views: {name: angular, variant: constrained, warmup_epochs: 1, num_views: 3, margin: {uniform: [0.1, 0.6]}}
training: {epochs: EPOCHS, batch_size: 32}
search: {algorithm: tpe, trials: TRIALS}
"""
BUSY_STUDY = """
plugins: [busy_for_benchmark]
method: {name: busy, step_s: STEP, weight: {uniform: [0.1, 1.0]}}
scheduler: null
tracking: {wandb: {project: overhead, mode: offline}}
"""
NULL_STUDY = """
method: {choice: [{name: kd, weight: {uniform: [0.1, 1.0]}}, {name: dkd}]}
scheduler: {name: asha, grace_period: 2, reduction_factor: 2}
tracking: {wandb: null}
"""
STEPS, BUSY_EPOCHS, NULL_EPOCHS = 10, 10, 4


def null_trial(config: dict[str, Any]) -> None:
    """Reports four epochs of made-up accuracy and an outcome; imports no torch."""
    from ray import tune

    from akdtune.records.trial_directory import TrialDirectory

    trial = json.loads(config["trial"])
    directory = TrialDirectory(Path(trial["root"]) / "trials" / trial["trial_id"])
    directory.take_attempt()
    base = {"trial": trial["trial_id"], "attempt": 1}
    for epoch in range(1, 5):
        value = 50.0 + epoch + int(trial["cell_id"][:4], 16) % 100 / 10
        directory.write_rows([{"trial_id": trial["trial_id"], "epoch": epoch, "val_accuracy": value, "score": value}])
        row = {"epoch": epoch, "val_accuracy": value, "score": value}
        tune.report({**base, **row, "rows": [list(row.values())]})
    tune.report({**base, "outcome": "done", "epoch": 4})


def run_study(folder: Path, name: str, text: str) -> tuple[Path, float, float]:
    """Runs a study on the Ray that is up; returns its directory, and when it began and ended."""
    from rich.console import Console

    from akdtune.running import driver
    from akdtune.study import spec

    file = folder / f"{name}.yaml"
    file.write_text(text)
    checked = spec.load(file)
    started = time.time()
    code = driver.run(checked, folder / name, console=Console(quiet=True))
    if code:
        raise SystemExit(f"{name}: exit code {code}")
    return folder / name, started, time.time()


def busy_row(folder: Path, trials: int, seconds: float, slots: int) -> dict[str, Any]:
    """A study of trials that take `seconds` each."""
    from akdtune.records import tables

    text = (STUDY + BUSY_STUDY).replace("TRIALS", str(trials)).replace("EPOCHS", str(BUSY_EPOCHS))
    text = text.replace("STEP", f"{seconds / BUSY_EPOCHS / STEPS}")
    root, began, ended = run_study(folder, f"busy_{seconds:g}_{trials}", text)
    epochs = tables.read_epochs(root)
    rates, warm = (epochs[name].to_pylist() for name in ("images_per_s", "warmup_time_s"))
    compute_s = sum(300 / rate for rate in rates) + sum(warm)
    stamps = [json.loads(file.read_text())["started"] for file in root.glob("trials/*/attempts/1.json")]
    from_first_s, ideal_s = ended - min(stamps), compute_s / slots
    return {
        "what": "study", "trials": trials, "trial_s": seconds, "slots": slots,
        "compute_s": round(compute_s, 2), "until_first_trial_s": round(min(stamps) - began, 2),
        "wall_s": round(from_first_s, 2), "over": from_first_s / ideal_s - 1,
        "overhead_per_trial_s": round((from_first_s - ideal_s) * slots / trials, 3),
    }  # fmt: skip


def null_row(folder: Path, trials: int) -> dict[str, Any]:
    """A study of trials that do nothing."""
    from akdtune.running import worker

    worker.run_trial = null_trial
    text = (STUDY + NULL_STUDY).replace("TRIALS", str(trials)).replace("EPOCHS", str(NULL_EPOCHS))
    _, began, ended = run_study(folder, "null", text)
    return {
        "what": "null", "trials": trials, "study_s": round(ended - began, 2),
        "per_trial_s": round((ended - began) / trials, 3),
        "driver_peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }  # fmt: skip


def study_rows(quick: bool) -> list[dict[str, Any]]:
    """All studies, on one Ray."""
    from akdtune.processors import available_cpus
    from akdtune.running.ray_start import keep_ray, start_ray

    cases = [(6, 2.0), (4, 5.0)] if quick else [(8, 2.0), (8, 5.0), (8, FULL_TRIAL_S)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "busy_for_benchmark.py").write_text(BUSY)
        sys.path.insert(0, temporary)
        file = folder / "teacher.yaml"
        file.write_text((STUDY + NULL_STUDY).replace("TRIALS", "4").replace("EPOCHS", str(NULL_EPOCHS)))
        train = [sys.executable, "-m", "akdtune.cli", "teacher", "train", str(file)]  # not in the driver we measure
        subprocess.run(train, check=True, capture_output=True)
        started = time.monotonic()
        start_ray(None, 5.0)
        rows: list[dict[str, Any]] = [{"what": "ray", "start_s": round(time.monotonic() - started, 2)}]
        slots = available_cpus()
        with keep_ray():
            for trials, seconds in cases:
                rows.append(busy_row(folder, trials, seconds, slots))
                print("  ".join(f"{name} {_shown(value)}" for name, value in rows[-1].items()), flush=True)
            rows.append(null_row(folder, 16 if quick else 64))
            print("  ".join(f"{name} {_shown(value)}" for name, value in rows[-1].items()), flush=True)
    return rows


def _shown(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def main() -> int:
    """Prints both tables; 0 when every target is met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter trials, fewer steps")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there")
    parser.add_argument("--only", choices=("epoch", "study"))
    arguments = parser.parse_args()
    print(sentence())
    rows: list[dict[str, Any]] = []
    missed: list[str] = []
    if arguments.only != "study":
        for world in WORLDS:
            for methods in [["kd"], ["kd", "crd"]] if not arguments.quick or "digits" in world.name else [["kd"]]:
                measured = epoch_rows(world, methods, arguments.quick)
                missed += print_epoch(measured)
                rows += measured
    if arguments.only != "epoch":
        print()
        measured = study_rows(arguments.quick)
        rows += measured
        missed += [
            f"{row['trials']} trials of {row['trial_s']:g} s: {100 * row['over']:.1f} % over (at most 5 %)"
            for row in measured
            if row["what"] == "study" and row["trial_s"] >= FULL_TRIAL_S and row["over"] > WALL_SHARE
        ]
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))
    print("\n" + ("\n".join(f"missed: {line}" for line in missed) or "all targets are met"))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

"""A whole study against what one would write for Ray Tune otherwise: the same search, trials and machine.

The other side is `plain_tune.py`: a function trainable, ASHAScheduler, OptunaSearch, Weights & Biases (offline), the
published step with a live teacher, a checkpoint by torch.save with every report. First the two steps are compared
(`trial_speed.measure`: a study whose steps compute something else is not timed) and timed at CIFAR's size. Then, in
turn: `akdtune run` with an empty teacher cache (cold), the plain search, `akdtune run` again (warm); the teacher itself
lies there beforehand for all three.

Same trials: both get one list of configurations, drawn here, as points that the search tries first (`search.enqueue`,
`points_to_evaluate`); there are as many trials as points, so nothing else is proposed. Same seeds, split, initial
weights, batch size, schedule, rungs, and the same number to compare at a rung. What ASHA stops depends on who arrives
first, and on order and crops, which each side draws in its own way: epochs are counted, and CPU seconds are given as a
whole and by the epoch. On the made-up images students stay at chance in so few steps, and equal scores pass a rung, so
that both sides train every epoch; `--data` takes real ones. One thread a trial, two at a time.

Counted are CPU seconds of every process below the command (`process_tree.py`), wall time, the highest sum of
proportional memory, and what is left on disk. `--kill` kills both drivers (SIGKILL) in the middle, goes on as each side
says (`Tuner.restore`; the same command again), and counts what was known and what was trained again.

    python benchmarks/against_tune.py [--quick] [--settings NAME ...] [--precisions fp32 bf16] [--kill] [--json FILE]

Exit code 1 when a target is missed: 6 times fewer CPU seconds with CRD, 3 times with KD, cold and warm.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from against_tables import SIDES, TARGETS, Run, missed, print_killed, print_rows, print_scaled, rows_of, scaled
from one_search import search_of, study_of
from patterned_images import CLASSES, TRACE
from process_tree import Used, used_by
from reference_step import ReferenceStep, batches, in_bfloat16
from trial_speed import BATCH, IMAGES, LIMITS, SETTINGS, Bench, Noise, measure, pair_name, published_images, timed

from akdtune.data.dataset import load_data
from akdtune.registry import register
from akdtune.roles import TERMINAL
from akdtune.settings.data import DataSettings
from akdtune.training.trial import Trial

BENCHMARKS = Path(__file__).parent
HELD_OUT = 20
"""Validation images of each class of those that are made up."""

AKDTUNE = [sys.executable, "-m", "akdtune.cli"]
KEPT = ("teacher_cache", "warmups")
"""What akdtune keeps beside teachers and data."""


class Sides:
    """Both ways to run one search, in a folder of its own.

    Args:
        folder: of studies and logs.
        cache: of teachers, and of what akdtune keeps beside them.
        search: see `search_of`.

    Attributes:
        steps: of an epoch; a last one of few images counts as their share.
    """

    def __init__(self, folder: Path, cache: Path, search: dict[str, Any]) -> None:
        self.folder, self.cache, self.search = folder, cache, search
        folder.mkdir(parents=True)
        self.study = folder / "study.yaml"
        self.study.write_text(yaml.safe_dump(study_of(search), sort_keys=False))
        self._numbers = itertools.count()
        self._ray = Path(tempfile.mkdtemp(prefix="ag", dir="/tmp"))  # its sockets need a short path
        done = used_by([*AKDTUNE, "teacher", "train", str(self.study)], folder / "teacher.log", self._environment)
        refuse_failure(done, folder / "teacher.log")
        newest = max((cache / "teachers").glob("*/teacher.json"), key=lambda file: file.stat().st_mtime)
        data = DataSettings(**search["settings"]["data"])
        self.steps = len(load_data(data, torch.device("cpu")).split("subset").train) / BATCH
        search["teacher"] = json.loads(newest.read_text())["teacher"] | {"path": str(newest.with_name("teacher.pt"))}

    @property
    def _environment(self) -> dict[str, str]:
        path = os.pathsep.join([str(BENCHMARKS), *filter(None, [os.environ.get("PYTHONPATH")])])
        return {
            "AKDTUNE_CACHE": str(self.cache),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": path,
            "RAY_TMPDIR": str(self._ray),
            "WANDB_MODE": "offline",
            "WANDB_API_KEY": "0" * 40,
            "WANDB_SILENT": "true",
        }

    def command(self, side: str, root: Path, again: bool = False) -> list[str]:
        """What one would type; `again` after a kill."""
        if side != "plain":
            return [*AKDTUNE, "run", str(self.study), "--dir", str(root / self.search["name"])]
        root.mkdir(exist_ok=True)
        (root / "search.json").write_text(json.dumps(self.search))
        command = [sys.executable, str(BENCHMARKS / "plain_tune.py"), str(root / "search.json")]
        return [*command, "--restore"] if again else command

    def run(self, side: str) -> Run:
        """Runs the search from its beginning to its end."""
        if side == "cold":
            self._empty_cache()
        root = self.folder / f"{side}_{next(self._numbers)}"
        used = self._used(side, root)
        refuse_failure(used, root.with_suffix(".log"))
        return self._run(side, root, used)

    def killed(self, side: str, after: int) -> dict[str, Any]:
        """Kills the driver once so many epochs are trained, lets it go on, and says what came of it."""
        self._empty_cache()
        root = self.folder / f"{side}_killed"
        first = self._used(side, root, kill_after=after)
        before, ended, known = trained(root), ended_trials(side, root), known_trials(side, root)
        second = self._used(side, root, again=True)
        refuse_failure(second, root.with_suffix(".log"))
        run = self._run(side, root, second)
        return {
            "side": side, "epochs_at_kill": sum(before.values()), "ended": ended, "known": known, "again": run.again,
            "processes_left": first.left, "cpu_s_after": second.cpu_s, "ended_at_last": ended_trials(side, root),
        }  # fmt: skip

    def close(self) -> None:
        """Takes Ray's folder away."""
        shutil.rmtree(self._ray, ignore_errors=True)

    def _empty_cache(self) -> None:
        for name in KEPT:
            shutil.rmtree(self.cache / name, ignore_errors=True)

    def _used(self, side: str, root: Path, again: bool = False, kill_after: int | None = None) -> Used:
        trace = trace_of(root)
        environment = self._environment | {TRACE: str(trace)}
        return used_by(
            self.command(side, root, again),
            root.with_suffix(".log"),
            environment,
            lambda: kill_after is not None and sum(trained(root).values()) >= kill_after,
        )

    def _run(self, side: str, root: Path, used: Used) -> Run:
        counts = trained(root)
        files = [file for file in (root / self.search["name"]).rglob("*") if file.is_file()]
        beside = [self._ray] if side == "plain" else [self.cache / name for name in KEPT]
        run = Run(
            used=used,
            epochs=sum(counts.values()),
            warmups=sum(trained(root, "warmup").values()),
            again=sum(times - 1 for times in counts.values()),
            files=len(files),
            mib=sum(file.stat().st_size for file in files) / 2**20,
            beside_mib=sum(folder_mib(folder) for folder in beside),
        )
        shutil.rmtree(self._ray)
        self._ray.mkdir()
        return run


def trace_of(root: Path) -> Path:
    """Where a study's epochs are noted."""
    return root.with_suffix(".trace")


def trained(root: Path, stage: str = "student") -> Counter[tuple[str, str]]:
    """How often each epoch of each trial was trained."""
    file = trace_of(root)
    lines = [line.split() for line in file.read_text().splitlines()] if file.exists() else []
    return Counter((lr, epoch) for lr, of, epoch in lines if of == stage)


def ended_trials(side: str, root: Path) -> int:
    """Trials that had ended: as Tune printed it, as the ledger says."""
    if side == "plain":
        return root.with_suffix(".log").read_text(errors="replace").count(" completed after ")
    lines = (root / "against" / "ledger.jsonl").read_text().splitlines()
    return sum(json.loads(line)["event"] in TERMINAL for line in lines)


def known_trials(side: str, root: Path) -> int:
    """Trials that the next driver will find ended: in Tune's newest state, in the ledger."""
    if side != "plain":
        return ended_trials(side, root)
    states = sorted((root / "against").glob("experiment_state-*.json"))
    trials = json.loads(states[-1].read_text())["trial_data"] if states else []
    return sum(json.loads(described)["status"] == "TERMINATED" for described, _ in trials)


def folder_mib(folder: Path) -> float:
    """Of all files below it."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink()) / 2**20


def refuse_failure(used: Used, log: Path) -> None:
    """Ends the benchmark where a command failed."""
    if used.code:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-25:])
        raise SystemExit(f"{log.stem}: exit code {used.code}\n{tail}")


def compared(arguments: argparse.Namespace, setting: str, precision: str, folder: Path) -> list[dict[str, Any]]:
    """Ends the benchmark unless both steps compute the same losses; what they cost at CIFAR's size.

    In bf16 the plain step is timed again under autocast.
    """
    register("noise", kind="data")(Noise.of(arguments.step_images))
    bench = Bench(arguments.pair, folder, arguments.step_images)
    modes = ("reference", f"cold_{precision}", f"warm_{precision}")
    steps = 1 if arguments.quick else 2
    rows = measure(bench, setting, modes, rounds=2, steps=steps)
    if precision == "bf16":
        live = Trial(bench.config(setting, cached=False), limits=LIMITS)
        step = ReferenceStep(live)
        in_bfloat16(step)
        loading = batches(published_images(live, SETTINGS[setting][1]), bench.batch)
        step.step(next(loading))
        times_ms = timed(lambda: step.step(next(loading)), 2 * steps)
        rows[0]["cpu_ms_per_step"] = statistics.median(times_ms)
        print(f"  reference under autocast: {statistics.median(times_ms):.0f} ms")
    return rows


def measured(
    arguments: argparse.Namespace, setting: str, precision: str, folder: Path
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows of one search, and those of its killed drivers."""
    search = search_of(arguments, setting, precision)
    sides = Sides(folder / f"{setting}_{precision}", folder / "cache", search)
    runs: dict[str, list[Run]] = {side: [] for side in SIDES}
    try:
        for _ in range(arguments.rounds):
            for side in SIDES:
                runs[side].append(sides.run(side))
                last = runs[side][-1]
                print(f"  {side}: {last.used.cpu_s:.1f} CPU s, {last.epochs} epochs", flush=True)
        size = {"trials": arguments.trials, "epochs_each": arguments.epochs, "steps_each": sides.steps}
        rows = [row | size for row in rows_of(setting, precision, runs)]
        killed = []
        if arguments.kill:
            for side in ("plain", "cold"):
                of_side = sides.killed(side, runs[side][0].epochs // 2)
                killed.append({"setting": setting, "precision": precision, **of_side})
        return rows, killed
    finally:
        sides.close()


def parsed(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="4 trials of 2 epochs, few steps")
    parser.add_argument("--pair", type=pair_name, default="resnet56->resnet20", metavar="TEACHER->STUDENT")
    parser.add_argument("--settings", nargs="+", choices=TARGETS, default=["kd", "angular_kd_crd"])
    parser.add_argument("--precisions", nargs="+", choices=("fp32", "bf16"), default=["fp32"])
    parser.add_argument("--images", type=int, default=10, help="training images a class (default: %(default)s)")
    parser.add_argument("--data", help="a `data` section in YAML instead, e.g. '{name: cifar100, validation: 200}'")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--warmup", type=int, default=0, help="epochs of warm-up of the view heads (default: none)")
    tracking = "of the plain search: setup_wandb in the trial, or WandbLoggerCallback, which costs a process more"
    parser.add_argument("--tracking", choices=("setup", "callback"), default="setup", help=tracking)
    parser.add_argument("--reuse-actors", action="store_true", help="the plain search keeps its workers")
    parser.add_argument("--rounds", type=int, default=1, help="cold, plain, warm as often")
    parser.add_argument("--step-images", type=int, default=IMAGES, help="where steps are compared and timed")
    parser.add_argument("--kill", action="store_true", help="also kill both drivers in the middle")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave studies and logs there")
    parser.add_argument("--json", type=Path, metavar="FILE")
    if parser.parse_known_args(given)[0].quick:
        parser.set_defaults(images=8, epochs=2, trials=4)
    arguments = parser.parse_args(given)
    arguments.data = arguments.data or (
        f"{{name: patterned, limit_per_class: {arguments.images + HELD_OUT}, validation: {HELD_OUT * CLASSES}}}"
    )
    return arguments


def main() -> int:
    """Prints the tables; 0 when every target is met."""
    arguments = parsed()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows: list[dict[str, Any]] = []
    killed: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for setting, precision in itertools.product(arguments.settings, arguments.precisions):
            steps = compared(arguments, setting, precision, Path(temporary))
            found, of_killed = measured(arguments, setting, precision, folder)
            for row in found:
                row["at_cifars_size"] = scaled(found, steps)
            rows, killed = rows + found, killed + of_killed
    print_rows(rows)
    print_scaled(rows)
    if killed:
        print_killed(killed)
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": rows, "killed": killed}, indent=1) + "\n")
    lines = missed(rows)
    print("\n" + ("\n".join(f"missed: {line}" for line in lines) or "all targets are met"))
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())

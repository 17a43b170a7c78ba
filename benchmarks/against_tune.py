"""A whole study against what one would write for Ray Tune otherwise: the same search, trials and machine.

The other side is `plain_tune.py`: a function trainable, ASHAScheduler, OptunaSearch, Weights & Biases (offline), the
published step with a live teacher, a checkpoint by torch.save with every report. First the two steps are compared
(`trial_speed.measure`: a study whose steps compute something else is not timed) and timed at CIFAR's size. Then, in
turn: `akdtune run` in each precision with an empty teacher cache (cold), the plain search in float32 as published (and
under autocast with --autocast), `akdtune run` again (warm); the teacher itself lies there beforehand for all.

Same trials: all get one list of configurations, drawn here, as points that the search tries first (`search.enqueue`,
`points_to_evaluate`); there are as many trials as points, so nothing else is proposed. Same seeds, split, initial
weights, batch size, schedule, rungs, and the same number to compare at a rung. Which trials ASHA stops depends on who
arrives first, and on order and crops, which each side draws in its own way: so epochs are counted, the target is that
of CPU seconds an epoch, and the ratio of the whole searches stands beside it. One thread a trial, two at a time.

Counted are CPU seconds of every process below the command (`process_tree.py`), of them those of training steps, wall
time, the highest sum of proportional memory, and what is left on disk. By default steps are nine tenths of the plain
search, as in any real one; an akdtune search has fixed costs of 20 to 30 s, which real ones do not feel. `--kill` kills
both drivers (SIGKILL) in the middle, goes on as each side says (`Tuner.restore`; the same command again), and counts
what was known and what was trained again.

    python benchmarks/against_tune.py [--quick] [--settings NAME ...] [--precisions fp32 bf16] [--sides SIDE ...]
        [--autocast] [--kill [SIDE ...]] [--json FILE]

Exit code 1 when a target is missed: 6 times fewer CPU seconds an epoch with CRD, 3 times with KD, cold and warm.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import signal
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from against_tables import SIDES, TARGETS, Run, missed, named, print_killed, print_rows, print_scaled, rows_of
from machine import facts, sentence
from one_search import NAME, search_of, study_of
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
HELD_OUT = 5
"""Validation images of each class of those that are made up: as many a training image as a study of CIFAR has."""

AKDTUNE = [sys.executable, "-m", "akdtune.cli"]
KILLED = ("plain", "cold")
KEPT = ("teacher_cache", "warmups")
"""What akdtune keeps beside teachers and data."""


class Sides:
    """Both ways to run one search, in a folder of its own.

    Args:
        folder: of studies and logs.
        cache: of teachers, and of what akdtune keeps beside them.
        searches: by precision, see `search_of`.

    Attributes:
        steps: of an epoch; a last one of few images counts as their share.
    """

    def __init__(self, folder: Path, cache: Path, searches: dict[str, dict[str, Any]]) -> None:
        self.folder, self.cache, self.searches = folder, cache, searches
        folder.mkdir(parents=True)
        for precision, search in searches.items():
            self._study(precision).write_text(yaml.safe_dump(study_of(search), sort_keys=False))
        self._numbers = itertools.count()
        self._ray = Path(tempfile.mkdtemp(prefix="ag", dir="/tmp"))  # its sockets need a short path
        file, search = self._study(next(iter(searches))), next(iter(searches.values()))
        done = used_by([*AKDTUNE, "teacher", "train", str(file)], folder / "teacher.log", self._environment)
        refuse_failure(done, folder / "teacher.log")
        newest = max((cache / "teachers").glob("*/teacher.json"), key=lambda file: file.stat().st_mtime)
        data = DataSettings(**search["settings"]["data"])
        self.steps = len(load_data(data, torch.device("cpu")).split("subset").train) / BATCH
        teacher = json.loads(newest.read_text())["teacher"] | {"path": str(newest.with_name("teacher.pt"))}
        for search in searches.values():
            search["teacher"] = teacher

    def _study(self, precision: str) -> Path:
        return self.folder / f"study_{precision}.yaml"

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

    def command(self, side: str, precision: str, root: Path, again: bool = False) -> list[str]:
        """What one would type; `again` after a kill."""
        search = self.searches[precision]
        if side != "plain":
            return [*AKDTUNE, "run", str(self._study(precision)), "--dir", str(root / search["name"])]
        root.mkdir(exist_ok=True)
        (root / "search.json").write_text(json.dumps(search))
        command = [sys.executable, str(BENCHMARKS / "plain_tune.py"), str(root / "search.json")]
        return [*command, "--restore"] if again else command

    def run(self, side: str, precision: str) -> Run:
        """Runs the search from its beginning to its end."""
        root = self.folder / f"{precision}_{side}_{next(self._numbers)}"
        used = self._used(side, precision, root)
        refuse_failure(used, root.with_suffix(".log"))
        return self._run(side, root, used)

    def killed(self, side: str, precision: str, after: int) -> dict[str, Any]:
        """Kills the driver once so many epochs are trained, lets it go on, and says what came of it."""
        self.empty_cache()
        root = self.folder / f"{precision}_{side}_killed"
        first = self._used(side, precision, root, kill_after=after)
        if first.code != -signal.SIGKILL:
            raise SystemExit(f"{root.name}: ended with {first.code} before {after} epochs were trained")
        before, ended, known = trained(root), ended_trials(side, root), known_trials(side, root)
        second = self._used(side, precision, root, again=True)
        refuse_failure(second, root.with_suffix(".log"))
        run = self._run(side, root, second)
        return {
            "side": side, "precision": precision, "epochs_at_kill": sum(before.values()), "ended": ended,
            "known": known, "again": run.again, "processes_left": first.left, "cpu_s_after": second.cpu_s,
            "epochs": run.epochs, "ended_at_last": ended_trials(side, root),
        }  # fmt: skip

    def empty_cache(self) -> None:
        """Takes away what akdtune keeps beside teachers and data."""
        for name in KEPT:
            shutil.rmtree(self.cache / name, ignore_errors=True)

    def close(self) -> None:
        """Takes Ray's folder away."""
        shutil.rmtree(self._ray, ignore_errors=True)

    def _used(self, side: str, precision: str, root: Path, again: bool = False, kill_after: int | None = None) -> Used:
        trace = trace_of(root)
        environment = self._environment | {TRACE: str(trace)}
        return used_by(
            self.command(side, precision, root, again),
            root.with_suffix(".log"),
            environment,
            lambda: kill_after is not None and sum(trained(root).values()) >= kill_after,
        )

    def _run(self, side: str, root: Path, used: Used) -> Run:
        counts = trained(root)
        files = [file for file in (root / NAME).rglob("*") if file.is_file()]
        beside = [self._ray] if side == "plain" else [self.cache / name for name in KEPT]
        run = Run(
            used=used,
            epochs=sum(counts.values()),
            steps_s=steps_s(root),
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
    return Counter((lr, epoch) for lr, of, epoch, _ in _noted(root) if of == stage)


def steps_s(root: Path) -> float:
    """CPU seconds of all epochs' training steps."""
    return sum(float(cpu_s) for *_, cpu_s in _noted(root))


def _noted(root: Path) -> list[list[str]]:
    file = trace_of(root)
    return [line.split() for line in file.read_text().splitlines()] if file.exists() else []


def ended_trials(side: str, root: Path) -> int:
    """Trials that had ended: as Tune printed it, as the ledger says."""
    if side == "plain":
        return root.with_suffix(".log").read_text(errors="replace").count(" completed after ")
    lines = (root / NAME / "ledger.jsonl").read_text().splitlines()
    return sum(json.loads(line)["event"] in TERMINAL for line in lines)


def known_trials(side: str, root: Path) -> int:
    """Trials that the next driver will find ended: in Tune's newest state, in the ledger."""
    if side != "plain":
        return ended_trials(side, root)
    states = sorted((root / NAME).glob("experiment_state-*.json"))
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


def compared(arguments: argparse.Namespace, setting: str, folder: Path) -> dict[str, float]:
    """Ends the benchmark unless both steps compute the same losses; ms of a step by mode at CIFAR's size.

    With bf16 among the precisions the plain step is timed under autocast, too.
    """
    register("noise", kind="data")(Noise.of(arguments.step_images))
    bench = Bench(arguments.pair, folder, arguments.step_images)
    modes = ["reference", *(f"{kept}_{precision}" for precision in arguments.precisions for kept in ("cold", "warm"))]
    steps = 1 if arguments.quick else 2
    found = {row["mode"]: row["cpu_ms_per_step"] for row in measure(bench, setting, modes, rounds=2, steps=steps)}
    if "bf16" in arguments.precisions:
        live = Trial(bench.config(setting, cached=False), limits=LIMITS)
        step = ReferenceStep(live)
        in_bfloat16(step)
        loading = batches(published_images(live, SETTINGS[setting][1]), bench.batch)
        step.step(next(loading))
        found["autocast"] = statistics.median(timed(lambda: step.step(next(loading)), 2 * steps))
    return found


def order(arguments: argparse.Namespace) -> list[tuple[str, str]]:
    """Sides and precisions in the order of a round: ours cold, plain, ours warm."""
    plain = ["fp32", *(["bf16"] if arguments.autocast else [])]
    of_side = {"cold": arguments.precisions, "plain": plain, "warm": arguments.precisions[::-1]}
    return [(side, precision) for side in SIDES if side in arguments.sides for precision in of_side[side]]


def measured(
    arguments: argparse.Namespace, setting: str, folder: Path
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows of one search, and those of its killed drivers."""
    every = dict.fromkeys([*arguments.precisions, "fp32", *(["bf16"] if arguments.autocast else [])])
    searches = {precision: search_of(arguments, setting, precision) for precision in every}
    sides = Sides(folder / setting, folder / "cache", searches)
    runs: dict[tuple[str, str], list[Run]] = {of_round: [] for of_round in order(arguments)}
    try:
        for _ in range(arguments.rounds):
            sides.empty_cache()
            for (side, precision), of_side in runs.items():
                of_side.append(sides.run(side, precision))
                used = of_side[-1].used
                said = f"{used.cpu_s:.1f} CPU s, {of_side[-1].epochs} epochs, {used.wall_s:.0f} s"
                print(f"  {named(side, precision)}: {said}", flush=True)
        size = {"trials": arguments.trials, "epochs_each": arguments.epochs, "steps_each": sides.steps}
        rows = [row | size for row in rows_of(setting, runs)]
        killed = []
        for side in arguments.kill:
            precision = "fp32" if side == "plain" else arguments.precisions[-1]
            of_side = sides.killed(side, precision, arguments.trials * arguments.epochs // 4)
            killed.append({"setting": setting, **of_side})
        return rows, killed
    finally:
        sides.close()


def parsed(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="4 trials of 2 epochs, few steps")
    parser.add_argument("--pair", type=pair_name, default="resnet32x4->resnet8x4", metavar="TEACHER->STUDENT")
    parser.add_argument("--settings", nargs="+", choices=TARGETS, default=["kd", "angular_kd_crd"])
    parser.add_argument(
        "--precisions", nargs="+", choices=("fp32", "bf16"), default=["fp32", "bf16"], help="of akdtune"
    )
    parser.add_argument("--sides", nargs="*", choices=SIDES, default=SIDES, help="default: all; none: only --kill")
    parser.add_argument("--autocast", action="store_true", help="a second plain search, under autocast")
    parser.add_argument("--images", type=int, default=40, help="training images a class (default: %(default)s)")
    parser.add_argument("--data", help="a `data` section in YAML instead, e.g. '{name: cifar100, validation: 200}'")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--warmup", type=int, default=0, help="epochs of warm-up of the view heads (default: none)")
    tracking = "of the plain search: setup_wandb in the trial, or WandbLoggerCallback, which costs a process more"
    parser.add_argument("--tracking", choices=("setup", "callback"), default="setup", help=tracking)
    parser.add_argument("--reuse-actors", action="store_true", help="the plain search keeps its workers")
    parser.add_argument("--rounds", type=int, default=1, help="cold, plain, warm as often")
    parser.add_argument("--step-images", type=int, default=IMAGES, help="where steps are compared and timed")
    kill = "also kill these drivers in the middle (default: both, akdtune in the last precision)"
    parser.add_argument("--kill", nargs="*", choices=KILLED, default=None, metavar="SIDE", help=kill)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave studies and logs there")
    parser.add_argument("--json", type=Path, metavar="FILE")
    if parser.parse_known_args(given)[0].quick:
        parser.set_defaults(images=8, epochs=2, trials=4)
    arguments = parser.parse_args(given)
    arguments.kill = list(KILLED) if arguments.kill == [] else arguments.kill or []
    arguments.data = arguments.data or (
        f"{{name: patterned, limit_per_class: {arguments.images + HELD_OUT}, validation: {HELD_OUT * CLASSES}}}"
    )
    return arguments


def main() -> int:
    """Prints the tables; 0 when every target is met."""
    arguments = parsed()
    print(sentence(), flush=True)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows: list[dict[str, Any]] = []
    killed: list[dict[str, Any]] = []
    steps: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for setting in arguments.settings:
            if arguments.sides:
                steps[setting] = compared(arguments, setting, Path(temporary))
            found, of_killed = measured(arguments, setting, folder)
            rows, killed = rows + found, killed + of_killed
    for setting in steps:
        of_setting = [row for row in rows if row["setting"] == setting]
        size = of_setting[0]
        each = f"{size['trials']} trials of {size['epochs_each']} epochs of {size['steps_each']:.1f} steps"
        print_rows(f"{arguments.pair}, {setting}: {each}", of_setting)
        if any(named(row["side"], row["precision"]) == "plain" for row in of_setting) and len(of_setting) > 1:
            print_scaled(of_setting, steps[setting])
    if killed:
        print_killed(killed)
    if arguments.json:
        found_here = {"machine": facts(), "pair": arguments.pair, "steps": steps, "rows": rows, "killed": killed}
        arguments.json.write_text(json.dumps(found_here, indent=1) + "\n")
    lines = missed(rows)
    print("\n" + ("\n".join(f"missed: {line}" for line in lines) or "all targets are met"))
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())

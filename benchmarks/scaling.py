"""How the study's own bookkeeping grows: results store, ledger and analysis with 100, 1,000 and 10,000 trials.

    python benchmarks/scaling.py [--quick] [--json FILE] [--sizes N ...] [--epochs E] [--keep DIR]

The studies are made up and trained by nobody, but everything on disk goes through the project's own writers: epochs as
trials write them, the plan one proposal at a time and the ledger event by event, as a study does that searches with
TPE. Each part is a process of its own, of which wall time, CPU time and peak memory are taken:

    driver    plan, ledger and compaction, with all imports of the real driver (Ray is not started); it also writes the
              trials' files, which workers do in a real study: timed apart as `workers_s`
    resume    opens that study again: replay of the ledger, reconciliation
    show      `akdtune show RUN`
    analyze   `akdtune analyze diversity_accuracy RUN`
    show_cold `akdtune show RUN` as after kill -9 of the driver just before it would have closed the study

Memory is the peak of the whole process, and `private_mib` the same without pages of files: those of torch's libraries
are mapped once per machine, and with CUDA they alone fill 300 MiB.

Exit code 1 when a target is missed: driver under 600 MiB (private) and 3 CPU ms a trial, resume under 3 CPU s beside
its imports, show under 3 s, analyze under 5 s with its figure (its answer comes before that), and 10 times as many
trials take no more than 13 times the CPU time beyond that of a process that only imports.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from akdtune.roles import Terminal

# Nothing heavy up here: a child's peak memory is never less than its parent's.

SIZES, QUICK_SIZES = (100, 1_000, 10_000), (100, 1_000)
EPOCHS = 40
RUNG = 10
DRIVER_MIB, TRIAL_MS, RESUME_S, GROWTH = 600, 3.0, 3.0, 1.3
COMMAND_S = {"show": 3.0, "show_cold": 3.0, "analyze": 5.0}
BEFORE = ".epochs.before"
ARMS = ("angular/kd", "angular/kd+crd", "tekap/kd", "none/kd")
LAPS = ("plan_s", "ledger_s", "closing_s", "replay_s", "reconcile_s")
"""What the driver's parts clock themselves; `workers_s` is not the driver's."""

MEASURES = (
    "diversity_sq_prob", "diversity_sq_logit", "diversity_sq_feature", "diversity_ce", "diversity_pair_prob",
    "diversity_pair_logit", "diversity_pair_feature", "inter_cosine", "offset_cosine",
)  # fmt: skip


class Planned(NamedTuple):
    """One made-up trial: its plan row, its epoch rows, and how it ends."""

    plan: dict[str, Any]
    rows: list[dict[str, Any]]
    terminal: Terminal


class Cost(NamedTuple):
    """What one process took."""

    wall_s: float
    cpu_s: float
    peak_mib: float


# ----------------------------------------------------------------------------------------------- made-up trials


def trials(count: int, epochs: int) -> Iterator[Planned]:
    """The trials of a study, the same in every process: a quarter probes, the rest searched, a third of it pruned."""
    for number in range(count):
        draw = random.Random(number)
        arm, role = ARMS[number % len(ARMS)], "probe" if number % 16 < 4 else "search"
        views, method = arm.split("/")
        params = {
            "method.kd.weight": draw.uniform(0.1, 1.0),
            "method.kd.temperature": draw.choice([2.0, 4.0, 8.0]),
            "training.lr": 10 ** draw.uniform(-2, -1),
        }
        if views != "none":
            params |= {"views.margin": draw.uniform(0.1, 0.6), "views.num_views": draw.choice([3, 5])}
        cell = f"{number:08x}{draw.getrandbits(32):08x}"
        pruned = role == "search" and draw.random() < 1 / 3
        plan = {
            "trial_id": f"{cell}-s0", "cell_id": cell, "seed": 0, "role": role, "arm": arm, "bracket": arm,
            "proposal": number if role == "search" else None, "params": params,
            "settings": settings(views, method, params, epochs), "raw": params,
        }  # fmt: skip
        last = min(RUNG, epochs) if pruned else epochs
        rows = [epoch_row(plan, epoch, epochs, draw) for epoch in range(1, last + 1)]
        yield Planned(plan, rows, "pruned" if pruned else "done")


def settings(views: str, method: str, params: dict[str, Any], epochs: int) -> dict[str, Any]:
    """A trial's settings, about as long as real ones."""
    augmentation = {"preset": "standard", "pad": 4, "flip": True, "rotate": 0.0, "cutout": 0}
    return {
        "data": {
            "name": "cifar100", "root": None, "validation": 5000, "split_seed": 0, "label_noise": None,
            "pixel_noise": None, "imbalance": None, "fraction": 1.0, "augmentation": augmentation, "strong": None,
            "mean": None, "std": None, "stream": "auto", "workers": None,
        },
        "student": {"network": {"name": "resnet8x4"}, "checkpoint": None, "train": "all"},
        "views": {
            "name": views, "variant": "constrained", "num_views": params.get("views.num_views", 0),
            "margin": params.get("views.margin"), "warmup_epochs": 30, "warmup_lr": 0.05, "diversity_weight": 1.0,
            "spread_weight": 1.0, "dropout": [0.1, 0.2, 0.3], "gate": "both",
        },
        "method": [
            {"name": name, "weight": params["method.kd.weight"], "temperature": params["method.kd.temperature"]}
            for name in method.split("+")
        ],
        "training": {
            "epochs": epochs, "batch_size": 64, "lr": params["training.lr"], "milestones": [25, 30, 35],
            "lr_decay": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "nesterov": False, "optimizer": "sgd",
            "dot_delta": 0.075, "schedule": "step", "ce_weight": None, "device": "auto",
        },
    }  # fmt: skip


def epoch_row(plan: dict[str, Any], epoch: int, epochs: int, draw: random.Random) -> dict[str, Any]:
    """One epoch's row with the columns that a real trial fills; diversity moves accuracy a little."""
    viewless = plan["arm"].startswith("none")
    diversity = 0.0 if viewless else plan["params"]["views.margin"]
    accuracy = 75 * (1 - 0.8 ** (epoch * 40 / epochs)) + 2 * diversity + draw.gauss(0, 0.5)
    row = {
        "trial_id": plan["trial_id"], "attempt": 1, "epoch": epoch, "lr": 0.05, "train_accuracy": accuracy + 5,
        "val_accuracy": accuracy, "score": accuracy, "teacher_accuracy": 79.4, "ensemble_accuracy": 79.9,
        "target_accuracy": 79.9, "target_entropy": 0.4, "agreement": 70.0, "js_divergence": 0.1,
        "wall_time_s": 60.0 + draw.random(), "warmup_time_s": 0.0, "images_per_s": 800 + draw.random(),
        "peak_memory_mib": 900.0, "teacher_cache_hit_rate": 0.9, "teacher_cache_fill_rate": 0.5,
        "loss.ce": draw.random(), "loss.kd": draw.random(), "loss.views.angular": draw.random(),
    }  # fmt: skip
    return row | {name: None if viewless else diversity + 0.05 * draw.random() for name in MEASURES}


# ----------------------------------------------------------------------------------- what the processes do


def drive(root: Path, count: int, epochs: int) -> dict[str, float]:
    """The driver's part: the plan grows by one proposal at a time, every report and decision goes to the ledger."""
    import akdtune.running.driver  # noqa: F401  # for its memory: Ray, Optuna and torch are in the driver
    from akdtune.records import files, tables
    from akdtune.records.ledger.events import RungDecided, StudyFinished, StudyStarted, TrialEnded, TrialStarted
    from akdtune.records.study_directory import StudyDirectory

    imported = memory()
    times = dict.fromkeys(("workers_s", "plan_s", "ledger_s"), 0.0)
    directory = StudyDirectory(root)
    (root / "study.lock.yaml").write_text("settings: {study: made_up}\ndata: {}\nteacher: {}\n")
    with directory.opened():
        directory.append(StudyStarted(pid=0))
        clock = _Clock()
        for trial in trials(count, epochs):
            trial_id = trial.plan["trial_id"]
            write_trial(directory, trial)
            times["workers_s"] += clock.lap()
            directory.add_to_plan([trial.plan])
            times["plan_s"] += clock.lap()
            directory.append(TrialStarted(trial_id=trial_id, attempt=1))
            for row in trial.rows:
                directory.epoch(trial_id, row["epoch"], row["val_accuracy"], row["score"])
                if row["epoch"] == RUNG and trial.plan["role"] == "search":
                    decision = "STOP" if trial.terminal == "pruned" else "CONTINUE"
                    directory.append(
                        RungDecided(
                            trial_id=trial_id, epoch=RUNG, rung=RUNG, value=row["score"], cutoff=50.0,
                            decision=decision, bracket=trial.plan["bracket"],
                        )
                    )  # fmt: skip
            directory.finish(TrialEnded(kind=trial.terminal, trial_id=trial_id, epoch=len(trial.rows)))
            times["ledger_s"] += clock.lap()
        if (root / files.EPOCHS).exists():
            shutil.copy(root / files.EPOCHS, root / BEFORE)
        clock.lap()
        directory.append(StudyFinished(interrupted=False))
        tables.compact(root)
        times["closing_s"] = clock.lap()
    return {**times, **memory(), "imported_mib": imported["private_mib"]}


def write_trial(directory: Any, trial: Planned) -> None:
    """A trial's directory as its process leaves it."""
    own = directory.trial(trial.plan["trial_id"])
    own.path.mkdir(parents=True)
    own.take_attempt()
    own.write_rows(trial.rows)
    if trial.terminal == "done":
        own.write_outcome({"outcome": "done", "epoch": len(trial.rows)})
    own.close_attempt()


def resume(root: Path, count: int, epochs: int) -> dict[str, float]:
    """What the driver does first when the same command is given again."""
    import akdtune.running.driver  # noqa: F401
    from akdtune.records.study_directory import StudyDirectory

    imported, clock = memory(), _Clock()
    with StudyDirectory(root).opened() as directory:
        replay_s = clock.lap()
        directory.reconcile()
        reconcile_s = clock.lap()
        ended = sum(record.terminal is not None for record in directory.records.values())
    assert ended == count, f"{ended} of {count} trials have ended"
    return {
        "replay_s": replay_s, "reconcile_s": reconcile_s, **memory(), "imported_mib": imported["private_mib"],
    }  # fmt: skip


class _Clock:
    """CPU seconds of this process since the last lap."""

    def __init__(self) -> None:
        self._last = time.process_time()

    def lap(self) -> float:
        """Seconds since the last call."""
        before, self._last = self._last, time.process_time()
        return self._last - before


def memory() -> dict[str, float]:
    """Peak of this process without pages of files, which stay once they are read."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    kib = {words[0]: int(words[1]) for words in lines if words[0] in ("VmHWM:", "RssFile:")}
    return {"private_mib": (kib["VmHWM:"] - kib["RssFile:"]) / 1024}


PARTS = {"driver": drive, "resume": resume}


# ------------------------------------------------------------------------------------------- measuring


def cost_of(command: list[str], log: Path) -> Cost:
    """Runs a command to its end; what it printed stands in `log`."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    with log.open("wb") as file:
        started = time.perf_counter()
        child = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
        _, status, usage = os.wait4(child.pid, 0)
        wall_s = time.perf_counter() - started
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{log.read_text(errors='replace')[-4000:]}")
    return Cost(wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def measure(root: Path, count: int, epochs: int) -> list[dict[str, Any]]:
    """All parts on one study, a row each."""
    rows = []

    def add(part: str, command: list[str], inner: bool) -> None:
        log = root.parent / f"{part}.log"
        cost = cost_of(command, log)
        details = json.loads(log.read_text().splitlines()[-1]) if inner else {}
        rounded = {name: round(value, 3) for name, value in {**cost._asdict(), **details}.items()}
        rows.append({"part": part, "trials": count, "epochs": epochs, **rounded})

    own = [sys.executable, str(Path(__file__).resolve()), "--root", str(root), "--epochs", str(epochs)]
    akdtune = [sys.executable, "-m", "akdtune.cli"]
    for part in PARTS:
        add(part, [*own, "--part", part, "--sizes", str(count)], inner=True)
    add("show", [*akdtune, "show", str(root)], inner=False)
    add("analyze", [*akdtune, "analyze", "diversity_accuracy", str(root)], inner=False)
    for name in ("trials.parquet", "epochs.parquet"):
        (root / name).unlink()
    if (root / BEFORE).exists():
        (root / BEFORE).rename(root / "epochs.parquet")
    add("show_cold", [*akdtune, "show", str(root)], inner=False)
    return rows


def growth(rows: list[dict[str, Any]], idle_s: dict[str, float]) -> list[dict[str, Any]]:
    """CPU time per trial of the largest study over that of the next smaller one, without imports and workers' work."""
    ratios = []
    for part in dict.fromkeys(row["part"] for row in rows):
        of_part = [row for row in rows if row["part"] == part]
        if len(of_part) < 2:
            continue
        small, large = (own_s(row, idle_s[part]) / row["trials"] for row in of_part[-2:])
        ratios.append({"part": part, "trials": of_part[-1]["trials"], "growth": round(large / small, 2)})
    return ratios


def own_s(row: dict[str, Any], idle_s: float) -> float:
    """CPU seconds of a part without imports, by its own clock where it has one."""
    laps = [row[name] for name in LAPS if name in row]
    return max(sum(laps) if laps else row["cpu_s"] - idle_s, 0.05)


def idle(folder: Path) -> dict[str, float]:
    """CPU seconds of each part's imports."""
    imports = {
        "show": "akdtune.cli", "show_cold": "akdtune.cli",
        "analyze": "akdtune.cli, akdtune.analysis.diversity_accuracy",
    }  # fmt: skip
    costs = {
        code: cost_of([sys.executable, "-c", f"import {code}"], folder / "idle.log").cpu_s
        for code in dict.fromkeys(imports.values())
    }
    return {"driver": 0.0, "resume": 0.0} | {part: costs[code] for part, code in imports.items()}


def missed(rows: list[dict[str, Any]], grown: list[dict[str, Any]]) -> list[str]:
    """One line per target that was missed."""
    texts = []
    for row in rows:
        if row.get("private_mib", 0.0) > DRIVER_MIB:
            texts.append(f"{row['part']}, {row['trials']} trials: {row['private_mib']:.0f} MiB (under {DRIVER_MIB})")
        laps_s = sum(row.get(name, 0.0) for name in LAPS)
        if row["part"] == "driver" and (each_ms := 1000 * laps_s / row["trials"]) > TRIAL_MS:
            texts.append(f"driver, {row['trials']} trials: {each_ms:.1f} ms a trial (under {TRIAL_MS:g})")
        if row["part"] == "resume" and laps_s > RESUME_S:
            texts.append(f"resume, {row['trials']} trials: {laps_s:.1f} s (under {RESUME_S:g} s)")
        if row["wall_s"] > (most_s := COMMAND_S.get(row["part"], math.inf)):
            texts.append(f"{row['part']}, {row['trials']} trials: {row['wall_s']:.1f} s (under {most_s:g} s)")
    texts += [
        f"{row['part']}: a trial costs {row['growth']} times as much with {row['trials']} (at most {GROWTH})"
        for row in grown
        if row["growth"] > GROWTH
    ]
    return texts


def main(argv: list[str] | None = None) -> int:
    """Prints a table; 0 when every target is met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"only {QUICK_SIZES[0]} and {QUICK_SIZES[1]} trials")
    parser.add_argument("--sizes", type=int, nargs="+", help="numbers of trials, rising")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of a full trial (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave the studies there")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    sizes = arguments.sizes or (QUICK_SIZES if arguments.quick else SIZES)
    if arguments.part:
        print(json.dumps(PARTS[arguments.part](arguments.root, sizes[0], arguments.epochs)))
        return 0
    from machine import sentence  # late: a part is measured without it

    print(sentence())
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        idle_s = idle(folder)
        print(f"{'trials':>7} {'part':<10} {'wall s':>8} {'CPU s':>8} {'peak MiB':>9}  of which")
        for count in sizes:
            root = folder / f"study_{count}"
            shutil.rmtree(root, ignore_errors=True)
            root.mkdir()
            for row in measure(root, count, arguments.epochs):
                rows.append(row)
                known = ("part", "trials", "epochs", *Cost._fields)
                details = ", ".join(f"{name} {value}" for name, value in row.items() if name not in known)
                print(
                    f"{count:>7} {row['part']:<10} {row['wall_s']:>8.2f} {row['cpu_s']:>8.2f} {row['peak_mib']:>9.0f}"
                    f"  {details}",
                    flush=True,
                )
            if not arguments.keep:
                shutil.rmtree(root)
    grown = growth(rows, idle_s)
    for row in grown:
        print(f"{row['part']}: with {row['trials']} trials each costs {row['growth']} times as much CPU")
    if arguments.json:
        arguments.json.write_text(json.dumps([*rows, *grown], indent=1))
    lines = missed(rows, grown)
    print("\n".join(f"missed: {line}" for line in lines) or "all targets are met")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())

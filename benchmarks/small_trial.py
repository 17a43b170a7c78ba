"""What a small trial costs, part by part: CPU seconds of one thread, of this checkout and, in turn, of another one.

Each round is a process of its own with an empty cache, as a worker's is: imports, the data, then the same trial several
times. The first one is cold (the teacher's rows are computed), the others are warm. Rows of all rounds must be the same
numbers, or nothing is printed; another checkout may differ from this one by rounding, which is said.

    python benchmarks/small_trial.py [--study NAME] [--arm NAME] [--rounds N] [--trials N] [--against CHECKOUT]

The processor is shared with whatever else runs: the least of all rounds is the figure, the median stands beside it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("imports", "first optimiser", "data", "build", "warm-up", "steps", "evaluation", "states", "close")
ONCE = PARTS[:3]
"""Parts that a process pays once."""

NOT_NUMBERS = ("wall_time_s", "images_per_s", "peak_memory_mib", "teacher_cache_hit_rate", "teacher_cache_fill_rate")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", default="digits_angular", help="packaged study or settings file")
    parser.add_argument("--arm", default="angular/kd")
    parser.add_argument("--rounds", type=int, default=5, help="processes of each checkout")
    parser.add_argument("--trials", type=int, default=3, help="trials of each process, the first one cold")
    parser.add_argument("--against", type=Path, help="another checkout, measured in turn with this one")
    parser.add_argument("--ask", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--round", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.ask is not None:
        given.ask.write_text(json.dumps(asked(given.study, given.arm)))
        return
    if given.round is not None:
        print(json.dumps(a_round(given.round, given.trials)))
        return
    checkouts = {"this": ROOT} | ({"other": given.against.resolve()} if given.against else {})
    with tempfile.TemporaryDirectory() as folder:
        requests = {name: Path(folder) / f"{name}.json" for name in checkouts}
        for name, checkout in checkouts.items():  # each in its own words: settings come and go
            ask = ["--ask", str(requests[name]), "--study", given.study, "--arm", given.arm]
            subprocess.run([sys.executable, __file__, *ask], env=of(checkout), check=True)
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in checkouts}
        for _ in range(given.rounds):
            for name, checkout in checkouts.items():
                found[name].append(in_process(checkout, requests[name], given.trials))
    refuse_other_numbers(found)
    from machine import sentence  # late: another checkout, which is asked below, may not have what it reads

    print(sentence())
    print(f"{given.study}, {given.arm}: CPU seconds, least (median) of {given.rounds} rounds, one thread")
    for name, rounds in found.items():
        report(name if len(checkouts) > 1 else "", rounds)
    if len(checkouts) > 1:
        (cold, warm), (other_cold, other_warm) = (totals(rounds) for rounds in found.values())
        print(f"other / this: cold process {other_cold / cold:.2f}x, warm trial {other_warm / warm:.2f}x")


def asked(study: str, arm: str) -> Mapping[str, Any]:
    """The request of the trial at an arm's centre; the teacher is trained where there is none."""
    from akdtune.cli import one_trial
    from akdtune.study import spec

    request = one_trial.of_study(spec.load(study, ["scheduler=null"]), arm, 1)
    if isinstance(request, int):
        raise SystemExit(request)
    return request.alone().plain()


def of(checkout: Path) -> dict[str, str]:
    """The environment in which a process imports a checkout."""
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(checkout)}


def in_process(checkout: Path, request: Path, trials: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, __file__, "--round", str(request), "--trials", str(trials)]
        shown = subprocess.run(
            command, env=of(checkout) | {"AKDTUNE_CACHE": cache}, stdout=subprocess.PIPE, text=True, check=True
        )
    measured: dict[str, Any] = json.loads(shown.stdout.splitlines()[-1])
    assert Path(measured["package"]).is_relative_to(checkout), f"{measured['package']} is not of {checkout}"
    return measured


def a_round(request: Path, trials: int) -> dict[str, Any]:
    """CPU seconds by part of one process that trains a trial several times."""
    clock = Clock()
    import torch

    import akdtune
    from akdtune.data.dataset import load_data
    from akdtune.training.config import TrialConfig
    from akdtune.training.optimizers import sgd
    from akdtune.training.request import TrialRequest
    from akdtune.training.trial import Trial

    torch.set_num_threads(1)
    clock.lap("imports")
    config = TrialConfig.parse(TrialRequest.parse(json.loads(request.read_text())))
    sgd([torch.nn.Parameter(torch.zeros(1))], config.training).zero_grad()
    clock.lap("first optimiser")
    dataset = load_data(config.data, torch.device("cpu"))
    clock.lap("data")
    once, of_trials, loss, digest = clock.taken(), [], 0.0, hashlib.sha256()
    for _ in range(trials):
        trial = Trial(config, dataset=dataset)
        clock.lap("build")
        clock.apart(trial, "state", "states")
        clock.apart(trial.evaluation, "validation_row", "evaluation")
        for epoch in trial.run():
            clock.lap("warm-up" if epoch.stage == "warmup" else "steps")
            numbers = {name: value for name, value in epoch.row.items() if name not in NOT_NUMBERS}
            digest.update(repr(numbers).encode())
            clock.lap()
        loss = epoch.row["train_loss"] or 0.0
        trial.close()
        clock.lap("close")
        of_trials.append(clock.taken() | {"numbers": digest.hexdigest(), "loss": loss})
        digest = hashlib.sha256()
    return {"package": akdtune.__file__, "once": once, "trials": of_trials}


class Clock:
    """CPU seconds of this process by part."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._since = 0.0  # the interpreter's own start belongs to the imports

    def lap(self, part: str = "") -> None:
        """What passed since the last lap belongs to a part; without one, to none."""
        now = time.process_time()
        if part:
            self._seconds[part] = self._seconds.get(part, 0.0) + now - self._since
        self._since = now

    def apart(self, owner: Any, name: str, part: str) -> None:
        """Counts a method for itself, not for the part that calls it."""
        whole = getattr(owner, name)

        def timed(*given: Any) -> Any:
            started = time.process_time()
            result = whole(*given)
            took = time.process_time() - started
            self._seconds[part] = self._seconds.get(part, 0.0) + took
            self._since += took
            return result

        setattr(owner, name, timed)

    def taken(self) -> dict[str, float]:
        """The seconds so far, which begin anew."""
        taken, self._seconds = self._seconds, {}
        self._since = time.process_time()
        return taken


def refuse_other_numbers(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    trials = {name: [trial for measured in rounds for trial in measured["trials"]] for name, rounds in found.items()}
    for name, of_checkout in trials.items():
        if len({trial["numbers"] for trial in of_checkout}) > 1:
            raise SystemExit(f"{name}: the same trial has other numbers in another round")
    losses = [of_checkout[0]["loss"] for of_checkout in trials.values()]
    if not all(math.isclose(losses[0], loss, rel_tol=1e-3) for loss in losses):
        raise SystemExit(f"the checkouts train to other losses: {losses}")
    if len(trials) > 1:
        same = len({of_checkout[0]["numbers"] for of_checkout in trials.values()}) == 1
        print("numbers of both checkouts: " + ("the same to the last bit" if same else f"differ, losses {losses}"))


def report(name: str, rounds: Sequence[Mapping[str, Any]]) -> None:
    print(f"{name:<16} {'cold':>14} {'warm':>14}")
    for part in PARTS:
        cold = [measured["once" if part in ONCE else "trials"] for measured in rounds]
        first = [held[part] if part in ONCE else held[0].get(part, 0.0) for held in cold]
        later = [] if part in ONCE else [trial.get(part, 0.0) for held in cold for trial in held[1:]]
        print(f"{part:<16} {least(first):>14} {least(later):>14}")
    cold_s, warm_s = totals(rounds)
    print(f"{'all (least)':<16} {cold_s:>14.2f} {warm_s:>14.2f}")


def totals(rounds: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Least CPU seconds of a process up to the end of its first trial, and of a later trial."""
    cold, warm = [], []
    for measured in rounds:
        first, *later = (sum(trial.get(part, 0.0) for part in PARTS) for trial in measured["trials"])
        cold.append(sum(measured["once"].values()) + first)
        warm += later
    return min(cold), min(warm, default=math.nan)


def least(seconds: Sequence[float]) -> str:
    return f"{min(seconds):.2f} ({statistics.median(seconds):.2f})" if seconds else "-"


if __name__ == "__main__":
    main()

"""What the study machinery costs: 64 trials that do nothing, through the real ledger, search, scheduler and display.

    python benchmarks/tune_overhead.py [--trials 64] [--json FILE]

Prints the seconds per trial beyond Ray's start, and the driver's peak memory with torch imported for validation.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

STUDY = """
study: null_trials
data: {name: digits, validation: 600}
teacher: {network: {name: cnn, widths: [2, 4]}, epochs: 1}
student: {network: {name: cnn, widths: [2, 4]}}
views: {name: angular, variant: constrained, num_views: 2, margin: {uniform: [0.1, 0.6]}}
method: {choice: [{name: kd, weight: {uniform: [0.1, 1.0]}}, {name: dkd}]}
training: {epochs: 4}
search: {algorithm: tpe, trials: TRIALS}
scheduler: {name: asha, grace_period: 2, reduction_factor: 2}
"""


def null_trial(config: dict[str, Any]) -> None:
    """Reports four epochs of made-up accuracy and an outcome; imports no torch."""
    from ray import tune

    from akdtune.ledger import TrialDirectory

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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    from rich.console import Console

    from akdtune import spec, study

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "null.yaml"
        file.write_text(STUDY.replace("TRIALS", str(arguments.trials)))
        checked = spec.load(file)
        train = [sys.executable, "-m", "akdtune.cli", "teacher", "train", str(file)]  # not in the driver we measure
        subprocess.run(train, check=True, capture_output=True)
        study.run_trial = null_trial
        started = time.monotonic()
        study.start_ray(None, 5.0)
        ray_s = time.monotonic() - started
        with study.keep_ray():
            started = time.monotonic()
            code = study.run(checked, Path(folder) / "run", console=Console(quiet=True))
            run_s = time.monotonic() - started
    row = {
        "trials": arguments.trials,
        "ray_init_s": round(ray_s, 2),
        "study_s": round(run_s, 2),
        "per_trial_s": round(run_s / arguments.trials, 3),
        "driver_peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }
    for name, value in row.items():
        print(f"{name:>16}  {value}")
    if arguments.json:
        arguments.json.write_text(json.dumps([row]))
    return code


if __name__ == "__main__":
    sys.exit(main())

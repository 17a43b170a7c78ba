"""Coverage of the intervals of importance shares, by simulation of small searches.

    python benchmarks/importance_intervals.py --evaluator ped_anova --configurations 12 --studies 60 --draws 50

Four searched settings: one explains most of the score, one option of another a part, two nothing. To be covered is the
mean share over all simulated studies.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from optuna.distributions import CategoricalDistribution, FloatDistribution

from akdtune.statistics.importance import LEVEL, Evaluator, Importance, importances

DISTRIBUTIONS = {
    "strong": FloatDistribution(0.0, 1.0),
    "log": FloatDistribution(0.1, 4.0, log=True),
    "option": CategoricalDistribution(["x", "y", "z"]),
    "nothing": FloatDistribution(0.0, 1.0),
}


def searched(count: int, rng: np.random.Generator) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Random configurations and their scores."""
    configurations = [
        {
            "strong": float(rng.uniform()), "log": float(np.exp(rng.uniform(np.log(0.1), np.log(4)))),
            "option": str(rng.choice(["x", "y", "z"])), "nothing": float(rng.uniform()),
        }
        for _ in range(count)
    ]  # fmt: skip
    scores_N = [3 * c["strong"] + (c["option"] == "x") + 0.5 * rng.normal() for c in configurations]
    return configurations, np.array(scores_N)


def main() -> None:
    """Prints one line for each setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evaluator", choices=("ped_anova", "fanova"), default="ped_anova")
    parser.add_argument("--configurations", type=int, default=12)
    parser.add_argument("--studies", type=int, default=60)
    parser.add_argument("--draws", type=int, default=50)
    asked = parser.parse_args()
    evaluator: Evaluator = asked.evaluator
    found: dict[str, list[Importance]] = {}
    for study in range(asked.studies):
        configurations, scores_N = searched(asked.configurations, np.random.default_rng(1000 + study))
        for one in importances(configurations, scores_N, DISTRIBUTIONS, evaluator, draws=asked.draws, seed=study):
            found.setdefault(one.name, []).append(one)
    print(f"{evaluator}, {asked.configurations} configurations, {asked.studies} studies; said: {LEVEL:g}")
    for name, of_setting in found.items():
        mean = float(np.mean([one.share for one in of_setting]))
        covers = float(np.mean([one.low <= mean <= one.high for one in of_setting]))
        inside = all(one.low <= one.share <= one.high for one in of_setting)
        error = (covers * (1 - covers) / len(of_setting)) ** 0.5
        print(f"{name:>8}: mean share {mean:.2f}, covered {covers:.3f} +- {error:.3f}, shares inside: {inside}")


if __name__ == "__main__":
    main()

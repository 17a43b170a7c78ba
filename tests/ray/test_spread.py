"""The packaged digits study varies accuracy by configuration, not by seed: it can show a relation if there is one."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from akdtune.records import tables
from tests.ray import studies

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_up")]

CELLS, SEEDS = 8, (0, 1)


def test_between_cell_variance_is_most_of_the_total(tmp_path: Path) -> None:
    accuracy: dict[str, list[float]] = defaultdict(list)
    for seed in SEEDS:
        root = tmp_path / f"seed{seed}"
        overrides = (
            "search.algorithm=random", f"search.trials={CELLS}", f"search.trial_seed={seed}",
            "scheduler=null", "probe=null", "tracking.wandb=null",
        )  # fmt: skip
        assert studies.run(Path("digits_angular"), root, *overrides) == 0
        for row in tables.read_trials(root).to_pylist():
            assert row["status"] == "done"
            accuracy[row["cell_id"]].append(row["val_accuracy"])
    values = np.array(list(accuracy.values()))
    assert values.shape == (CELLS, len(SEEDS)), "the same cells at both seeds"
    within = values.var(axis=1, ddof=1).mean()
    between = max(0.0, values.mean(axis=1).var(ddof=1) - within / len(SEEDS))  # one-way random-effects ANOVA
    assert between / (between + within) >= 0.6

"""ASHA per arm: decisions are in the ledger first, survive any cut, and do not depend on Tune's trial ids."""

from __future__ import annotations

import math
import pickle
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from akdtune import results
from akdtune.ledger import StudyDirectory
from akdtune.scheduling import ArmScheduler, Bracket

EPOCHS, GRACE, FACTOR = 9, 1, 3.0
RUNGS = [1, 3]

pytestmark = pytest.mark.ray


def row(trial_id: str, bracket: str, role: str = "search") -> dict[str, Any]:
    return {
        "trial_id": trial_id, "cell_id": trial_id, "seed": 0, "role": role, "arm": bracket, "bracket": bracket,
        "proposal": None, "params": {}, "settings": {}, "raw": {},
    }  # fmt: skip


def scheduler_of(directory: StudyDirectory) -> ArmScheduler:
    return ArmScheduler(directory, {name: Bracket(RUNGS, EPOCHS, GRACE, FACTOR) for name in ("x", "y")}, EPOCHS)


def started(root: Path, trials: int = 6, role: str = "search") -> StudyDirectory:
    directory = StudyDirectory(root)
    root.mkdir(exist_ok=True)
    if not directory.plan_path.exists():
        directory.add_to_plan([row(f"t{i}", "xy"[i % 2], role) for i in range(trials)])
    else:
        directory._load()
    return directory


def reports(seed: int) -> list[tuple[str, int, float]]:
    """Interleaved reports of six trials, each in epoch order."""
    rng = random.Random(seed)
    left = {f"t{i}": 1 for i in range(6)}
    found = []
    while left:
        trial = rng.choice(sorted(left))
        found.append((trial, left[trial], round(rng.uniform(10, 90), 3)))
        left[trial] += 1
        if left[trial] > EPOCHS:
            del left[trial]
    return found


def play(directory: StudyDirectory, scheduler: ArmScheduler, of: list[tuple[str, int, float]]) -> None:
    for trial_id, epoch, score in of:
        record = directory.records[trial_id]
        if record.terminal is None:
            row = {"epoch": epoch, "val_accuracy": score, "score": score}
            result = {"trial": trial_id, **row, "rows": [list(row.values())]}
            if scheduler.on_trial_result(None, SimpleNamespace(trial_id="tune's own"), result) == "STOP":
                directory.finish(trial_id, "pruned", epoch, reason="rung")


def decisions(directory: StudyDirectory) -> list[tuple[Any, ...]]:
    keys = ("trial_id", "epoch", "rung", "value", "cutoff", "decision", "bracket")
    return [tuple(event[key] for key in keys) for event in directory.events if event["event"] == "rung"]


def test_a_bad_late_arrival_stops_and_the_ledger_says_why(tmp_path: Path) -> None:
    directory = started(tmp_path)
    scheduler = scheduler_of(directory)
    play(directory, scheduler, [("t0", 1, 50.0), ("t2", 1, 60.0), ("t4", 1, 40.0)])
    assert decisions(directory) == [
        ("t0", 1, 1, 50.0, None, "CONTINUE", "x"),
        ("t2", 1, 1, 60.0, 50.0, "CONTINUE", "x"),
        ("t4", 1, 1, 40.0, pytest.approx(50 + 10 * 2 / 3), "STOP", "x"),
    ]
    assert scheduler.reasons == {"t4": "rung"}


def test_arms_do_not_prune_each_other(tmp_path: Path) -> None:
    directory = started(tmp_path)
    play(directory, scheduler_of(directory), [("t0", 1, 90.0), ("t2", 1, 95.0), ("t1", 1, 10.0)])
    assert decisions(directory)[-1][4:6] == (None, "CONTINUE")


@pytest.mark.parametrize("seed", range(4))
def test_the_same_reports_cut_anywhere_give_the_same_decisions(tmp_path: Path, seed: int) -> None:
    whole = reports(seed)
    undisturbed = started(tmp_path / "whole")
    play(undisturbed, scheduler_of(undisturbed), whole)
    expected = decisions(undisturbed)
    assert any(decision[5] == "STOP" for decision in expected), "the test must exercise a stop"
    for cut in range(0, len(whole), 5):
        root = tmp_path / f"cut{cut}"
        first = started(root)
        play(first, scheduler_of(first), whole[:cut])
        second = started(root)
        # a resumed trial reports its last row again before new ones
        again = [[r for r in whole[:cut] if r[0] == trial][-1:] for trial in second.records]
        play(second, scheduler_of(second), [r for rows in again for r in rows] + whole[cut:])
        assert decisions(second) == expected, cut


def test_a_score_that_is_not_finite_does_not_pass_and_moves_no_cutoff(tmp_path: Path) -> None:
    directory = started(tmp_path)
    play(directory, scheduler_of(directory), [("t0", 1, math.nan), ("t2", 1, 60.0)])
    assert [d[3:6] for d in decisions(directory)] == [(None, None, "STOP"), (60.0, None, "CONTINUE")]
    again = started(tmp_path)
    assert scheduler_of(again).brackets["x"].values[1] == {"t2": 60.0}


def test_the_last_epoch_is_never_stopped(tmp_path: Path) -> None:
    directory = started(tmp_path)
    scheduler = scheduler_of(directory)
    play(directory, scheduler, [("t0", 1, 90.0), ("t0", 3, 90.0), ("t2", EPOCHS, 1.0)])
    assert directory.records["t2"].terminal is None


def test_probes_are_never_pruned(tmp_path: Path) -> None:
    directory = started(tmp_path, role="probe")
    play(directory, scheduler_of(directory), reports(0))
    assert decisions(directory) == []
    assert all(record.last_epoch == EPOCHS for record in directory.records.values())


def test_outcome_rows_and_repeats_are_not_epochs(tmp_path: Path) -> None:
    directory = started(tmp_path)
    scheduler = scheduler_of(directory)
    play(directory, scheduler, [("t0", 1, 50.0)])
    repeat = {"trial": "t0", "epoch": 1, "score": 50.0, "val_accuracy": 50.0, "rows": [[1, 50.0, 50.0]]}
    for result in (repeat, {**repeat, "done": True}, {"trial": "t0", "epoch": 9, "outcome": "done"}):
        assert scheduler.on_trial_result(None, SimpleNamespace(trial_id="z"), result) == "CONTINUE"
    assert [event["event"] for event in results.read_events(tmp_path)] == ["epoch", "rung"]


def test_what_tune_pickles_is_empty(tmp_path: Path) -> None:
    scheduler = scheduler_of(started(tmp_path))
    assert pickle.loads(pickle.dumps(scheduler)).__dict__ == {}

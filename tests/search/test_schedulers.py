"""Early stopping per arm: decisions are in the ledger first, survive any cut, do not depend on Tune's trial ids."""

from __future__ import annotations

import math
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from akdtune.errors import StudyError
from akdtune.records.ledger.events import TrialEnded
from akdtune.records.ledger.reading import read_events
from akdtune.records.study_directory import StudyDirectory
from akdtune.search.schedulers import ArmScheduler, Bracket, MedianBracket

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
        directory.load()
    return directory


def reports(seed: int) -> list[tuple[str, int, float]]:
    """Interleaved reports of six trials, each in epoch order."""
    rng = random.Random(seed)
    left = {f"t{i}": 1 for i in range(6)}
    told = []
    while left:
        trial = rng.choice(sorted(left))
        told.append((trial, left[trial], round(rng.uniform(10, 90), 3)))
        left[trial] += 1
        if left[trial] > EPOCHS:
            del left[trial]
    return told


def play(directory: StudyDirectory, scheduler: ArmScheduler, of: list[tuple[str, int, float]]) -> None:
    for trial_id, epoch, score in of:
        record = directory.records[trial_id]
        if record.terminal is None:
            row = {"epoch": epoch, "val_accuracy": score, "score": score}
            result = {"trial": trial_id, **row, "rows": [list(row.values())]}
            if scheduler.on_trial_result(None, SimpleNamespace(trial_id="tune's own"), result) == "STOP":
                directory.finish(TrialEnded(kind="pruned", trial_id=trial_id, epoch=epoch, reason="rung"))


def decisions(directory: StudyDirectory) -> list[tuple[Any, ...]]:
    keys = ("trial_id", "epoch", "rung", "value", "cutoff", "decision", "bracket")
    return [tuple(getattr(event, key) for key in keys) for event in directory.events if event.kind == "rung"]


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


def median_of(directory: StudyDirectory) -> ArmScheduler:
    return ArmScheduler(directory, {name: MedianBracket(3, 1) for name in ("x", "y")}, EPOCHS)


def with_pilot(directory: StudyDirectory) -> ArmScheduler:
    brackets = {name: Bracket(RUNGS, EPOCHS, GRACE, FACTOR) for name in ("x", "y")}
    return ArmScheduler(directory, brackets, EPOCHS, pilot=1)


@pytest.mark.parametrize("make", [scheduler_of, median_of, with_pilot])
@pytest.mark.parametrize("seed", range(4))
def test_the_same_reports_cut_anywhere_give_the_same_decisions(
    tmp_path: Path, seed: int, make: Callable[[StudyDirectory], ArmScheduler]
) -> None:
    whole = reports(seed)
    undisturbed = started(tmp_path / "whole")
    play(undisturbed, make(undisturbed), whole)
    expected = decisions(undisturbed)
    assert any(decision[5] == "STOP" for decision in expected), "the test must exercise a stop"
    for cut in range(0, len(whole), 5):
        root = tmp_path / f"cut{cut}"
        first = started(root)
        play(first, make(first), whole[:cut])
        second = started(root)
        # a resumed trial reports its last row again before new ones
        again = [[r for r in whole[:cut] if r[0] == trial][-1:] for trial in second.records]
        play(second, make(second), [r for rows in again for r in rows] + whole[cut:])
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
    assert [event.kind for event in read_events(tmp_path) if event.kind != "planned"] == ["epoch", "rung"]


def test_a_report_behind_a_gap_brings_the_epochs_before_it(tmp_path: Path) -> None:
    """A worker that outlives its killed driver writes epochs that no driver hears of, and a state behind them."""
    directory = started(tmp_path)
    scheduler = scheduler_of(directory)
    play(directory, scheduler, [("t0", 1, 50.0), ("t0", 2, 51.0)])
    rows = [
        {"trial_id": "t0", "attempt": 1, "epoch": epoch, "val_accuracy": 49.0 + epoch, "score": 49.0 + epoch}
        for epoch in range(1, 6)
    ]
    directory.trial("t0").path.mkdir(parents=True, exist_ok=True)
    directory.trial("t0").write_rows(rows)
    play(directory, scheduler, [("t0", 5, 54.0)])
    epochs = [event for event in read_events(tmp_path) if event.kind == "epoch"]
    assert [(event.epoch, event.value) for event in epochs] == [(epoch, 49.0 + epoch) for epoch in range(1, 6)]


def test_the_median_rule_stops_what_never_reached_the_others_mean(tmp_path: Path) -> None:
    directory = started(tmp_path)
    scheduler = median_of(directory)
    scheduler.brackets["x"] = MedianBracket(2, 2)
    good = [("t0", 1, 5.0), ("t0", 2, 50.0), ("t0", 3, 70.0), ("t2", 2, 40.0), ("t2", 3, 60.0)]
    play(directory, scheduler, [*good, ("t4", 1, 99.0), ("t4", 2, 44.9), ("t4", 3, 54.9)])
    decided = decisions(directory)
    assert [d[5] for d in decided if d[0] != "t4"] == ["CONTINUE"] * 4, "two others are needed"
    # the mean of 50 is the others' at epoch 2 and 40; the best before the grace period (99) does not count
    assert [d[1:6] for d in decided if d[0] == "t4"] == [(2, 2, 44.9, 45.0, "STOP")]
    assert scheduler.reasons == {"t4": "rung"} and directory.records["t4"].terminal == "pruned"


@pytest.mark.parametrize("seed", range(3))
def test_the_median_that_the_ledger_holds_is_the_one_that_decides(tmp_path: Path, seed: int) -> None:
    directory = started(tmp_path)
    play(directory, median_of(directory), reports(seed))
    best: dict[str, float] = {}
    for trial_id, _, _, value, cutoff, decision, _ in decisions(directory):
        best[trial_id] = max(value, best.get(trial_id, 0.0))
        assert decision == ("STOP" if cutoff is not None and best[trial_id] < cutoff else "CONTINUE")


def test_each_epoch_of_one_report_is_decided_and_a_finished_trial_only_counts(tmp_path: Path) -> None:
    directory = started(tmp_path)
    scheduler = median_of(directory)
    play(directory, scheduler, [("t0", epoch, 80.0) for epoch in range(3, EPOCHS)])

    def report(trial_id: str, epochs: range) -> str:
        rows = [[epoch, 50.0, 50.0] for epoch in epochs]
        result = {"trial": trial_id, "epoch": epochs[-1], "score": 50.0, "rows": rows}
        return scheduler.on_trial_result(None, SimpleNamespace(trial_id="z"), result)

    assert report("t2", range(1, 6)) == "STOP"
    assert decisions(directory)[-1][:2] == ("t2", 3), "at the first epoch that is too low"
    assert directory.records["t2"].last_epoch == 5
    assert report("t4", range(1, EPOCHS + 1)) == "CONTINUE", "it is done when the report comes"
    assert len([d for d in decisions(directory) if d[0] == "t4"]) == EPOCHS - 3
    again, before = median_of(started(tmp_path)).brackets["x"], scheduler.brackets["x"]
    assert isinstance(again, MedianBracket) and isinstance(before, MedianBracket)
    assert again.values == before.values and again.cutoff(5, "t0") == before.cutoff(5, "t0") == 50.0


def test_only_the_leading_seed_is_pruned(tmp_path: Path) -> None:
    directory = StudyDirectory(tmp_path)
    directory.add_to_plan([{**row(f"c{i}-s{seed}", "x"), "seed": seed} for seed in (4, 5) for i in range(3)])
    scheduler = ArmScheduler(directory, {"x": Bracket(RUNGS, EPOCHS, GRACE, FACTOR)}, EPOCHS, leading_seed=4)
    play(directory, scheduler, [(f"c{i}-s{seed}", 1, 90.0 - 30 * i) for seed in (4, 5) for i in range(3)])
    assert [d[0] for d in decisions(directory)] == ["c0-s4", "c1-s4", "c2-s4"]
    assert [record.terminal for record in directory.records.values()] == [None, "pruned", "pruned", None, None, None]


def test_a_pilot_that_diverges_still_stops(tmp_path: Path) -> None:
    directory = started(tmp_path)
    play(directory, with_pilot(directory), [("t0", 1, math.nan)])
    assert decisions(directory)[0][5] == "STOP"


def test_a_rung_that_the_study_does_not_have_is_one_message(tmp_path: Path) -> None:
    directory = started(tmp_path / "s")
    play(directory, scheduler_of(directory), [("t0", 1, 50.0)])
    other = {name: Bracket([2, 3], EPOCHS, GRACE, FACTOR) for name in ("x", "y")}
    said = r"ledger\.jsonl: trial t0 was judged at epoch 1, which is no rung of x as the study's settings have it"
    with pytest.raises(StudyError, match=said):
        ArmScheduler(directory, other, EPOCHS)
    assert directory.events, "and nothing is lost"
    ArmScheduler(directory, {name: MedianBracket(1, 2) for name in ("x", "y")}, EPOCHS)  # any epoch is one of its rungs


def test_what_tune_pickles_is_empty(tmp_path: Path) -> None:
    scheduler = scheduler_of(started(tmp_path))
    assert pickle.loads(pickle.dumps(scheduler)).__dict__ == {}

"""Early stopping: one ASHA bracket per arm, its decisions in the ledger before they are acted on.

Ray keeps no scheduler state over a restart, so the ledger does: every decision at a rung is an event, and a resumed
study replays those reports, in order, through the scheduler's public methods.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from akdtune.ledger import StudyDirectory, TrialRecord

if TYPE_CHECKING:
    from ray.tune.execution.tune_controller import TuneController

METRIC = "score"
"""What a rung compares: the mean validation accuracy of the last three epochs, in percent."""


class _StandIn:
    """Stands for a trial in Ray's scheduler under our id; Tune gives a resumed trial a new one."""

    def __init__(self, trial_id: str) -> None:
        self.trial_id = trial_id


class Bracket(ASHAScheduler):
    """Ray's stopping ASHA over our trial ids, for one arm.

    Differs: a trial at its last epoch is never stopped; a value that is not finite does not pass a rung and is not
    recorded there, so that it moves no cutoff.

    Args:
        rungs: epochs at which a decision falls, rising.
        epochs: full length of a trial.
        grace_period, reduction_factor: as in ASHA (Li et al., arXiv 1810.05934).
    """

    def __init__(self, rungs: Sequence[int], epochs: int, grace_period: int, reduction_factor: float) -> None:
        super().__init__(
            time_attr="epoch",
            metric=METRIC,
            mode="max",
            max_t=epochs,
            grace_period=grace_period,
            reduction_factor=reduction_factor,
            stop_last_trials=False,
        )
        self.rungs = tuple(rungs)
        self.rung_factor = reduction_factor
        self.values: dict[int, dict[str, float]] = {rung: {} for rung in self.rungs}
        self._added: set[str] = set()

    def rung_due(self, trial_id: str, epoch: int) -> int | None:
        """The rung at which a report of this epoch is decided, if any: the highest one reached, if not decided yet."""
        reached = [rung for rung in self.rungs if rung <= epoch]
        return reached[-1] if reached and trial_id not in self.values[reached[-1]] else None

    def cutoff(self, rung: int) -> float | None:
        """The score below which the next report at `rung` stops, None for the first arrival."""
        scores = list(self.values[rung].values())
        return float(np.nanpercentile(scores, (1 - 1 / self.rung_factor) * 100)) if scores else None

    def decide(self, trial_id: str, epoch: int, rung: int, score: float) -> str:
        """Reports a score at a rung to Ray's ASHA and returns its decision."""
        if not math.isfinite(score):
            return str(TrialScheduler.STOP)
        controller, stand_in = cast("TuneController", None), cast(Trial, _StandIn(trial_id))
        if trial_id not in self._added:
            self.on_trial_add(controller, stand_in)
            self._added.add(trial_id)
        decision = self.on_trial_result(controller, stand_in, {"epoch": epoch, METRIC: score})
        self.values[rung][trial_id] = score
        return str(decision)


class ArmScheduler(FIFOScheduler):
    """Routes each trial's report to its arm's bracket and records the decision in the ledger.

    Args:
        directory: where decisions are recorded and read from.
        brackets: by bracket name; empty for studies without early stopping.
        epochs: full length of a trial.
    """

    def __init__(self, directory: StudyDirectory, brackets: Mapping[str, Bracket], epochs: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.directory = directory
        self.brackets = dict(brackets)
        self.epochs = epochs
        self.reasons: dict[str, str] = {}
        self._replay()

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its scheduler and never saves it again; ours lives in the ledger

    def _replay(self) -> None:
        for event in self.directory.events:
            bracket = self.brackets.get(event.get("bracket", ""))
            if event["event"] == "rung" and bracket is not None and event["value"] is not None:
                bracket.decide(event["trial_id"], event["epoch"], event["rung"], event["value"])

    def decide(self, record: TrialRecord, epoch: int, score: float | None) -> str:
        """The decision after an epoch; written to the ledger before it is returned."""
        bracket = self.brackets.get(record.plan["bracket"])
        trial_id = record.trial_id
        if bracket is None or record.plan["role"] != "search" or epoch >= self.epochs:
            return str(TrialScheduler.CONTINUE)
        rung = bracket.rung_due(trial_id, epoch)
        if rung is None:
            return str(TrialScheduler.CONTINUE)
        if rung in record.rungs:
            return str(record.rungs[rung]["decision"])
        cutoff = bracket.cutoff(rung)
        finite = score if score is not None and math.isfinite(score) else None
        decision = bracket.decide(trial_id, epoch, rung, math.nan if finite is None else finite)
        self.directory.append(
            "rung",
            trial_id=trial_id,
            epoch=epoch,
            rung=rung,
            value=finite,
            cutoff=cutoff,
            decision=decision,
            bracket=record.plan["bracket"],
        )
        return decision

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Ray's call for every report: outcome rows and repeats pass, epochs are recorded, the last one is decided."""
        record = self.directory.records.get(result.get("trial", ""))
        if record is None or result.get("outcome") or result.get("done"):
            return str(TrialScheduler.CONTINUE)
        epoch = int(result["epoch"])
        for of_row, value, score in result["rows"]:
            self.directory.epoch(record.trial_id, of_row, value, score)
        decision = self.decide(record, epoch, result.get(METRIC))
        if decision == TrialScheduler.STOP:
            self.reasons[record.trial_id] = "rung" if result.get(METRIC) is not None else "not finite"
        return decision

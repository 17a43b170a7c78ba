"""Early stopping: one bracket (ASHA, or the median rule) per arm, its decisions in the ledger before they are acted on.

Ray keeps no scheduler state over a restart, so the ledger does: every decision at a rung is an event, and a resumed
study replays those reports, in order, through the scheduler's public methods.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, cast

import numpy as np
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler
from typing_extensions import override

from akdtune.errors import StudyError
from akdtune.records.ledger.events import RungDecided
from akdtune.records.study_directory import StudyDirectory
from akdtune.records.trial_record import TrialRecord
from akdtune.search.pilot import pilots
from akdtune.study.spec import Study

METRIC = "score"
"""What a rung compares: the mean validation accuracy of the last three epochs, in percent."""


class _StandIn:
    """Stands for a trial in Ray's scheduler under our id; Tune gives a resumed trial a new one."""

    def __init__(self, trial_id: str) -> None:
        self.trial_id = trial_id


class _NobodyWaits:
    """Stands for Tune's controller: the median rule asks it whether other trials wait, to pause one in their favour."""

    def get_live_trials(self) -> list[Trial]:
        return []


class Pruner(Protocol):
    """What decides which trials of an arm stop.

    Attributes:
        every_epoch: whether it wants each epoch of a report, or only the last one.
    """

    every_epoch: bool

    def has(self, rung: int) -> bool:
        """Whether decisions fall after this epoch."""

    def rung_due(self, trial_id: str, epoch: int) -> int | None:
        """The rung at which a report of this epoch is decided, if any."""

    def cutoff(self, rung: int, trial_id: str) -> float | None:
        """The score below which this trial's report at `rung` stops; None where nothing does."""

    def decide(self, trial_id: str, epoch: int, rung: int, score: float) -> str:
        """Takes a score at a rung and returns CONTINUE or STOP."""

    def count(self, trial_id: str, epoch: int, score: float) -> None:
        """Takes a finite score that others are compared with, of a trial that has come to its end."""


class Bracket(ASHAScheduler):
    """Ray's stopping ASHA over our trial ids, for one arm.

    Differs: a trial at its last epoch is never stopped; a value that is not finite does not pass a rung and is not
    recorded there, so that it moves no cutoff.

    Args:
        rungs: epochs at which a decision falls, rising.
        epochs: full length of a trial.
        grace_period, reduction_factor: as in ASHA (Li et al., arXiv 1810.05934).
    """

    every_epoch = False

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

    def has(self, rung: int) -> bool:
        """Whether it is one of the rungs."""
        return rung in self.values

    def rung_due(self, trial_id: str, epoch: int) -> int | None:
        """The rung at which a report of this epoch is decided, if any: the highest one reached, if not decided yet."""
        reached = [rung for rung in self.rungs if rung <= epoch]
        return reached[-1] if reached and trial_id not in self.values[reached[-1]] else None

    def cutoff(self, rung: int, trial_id: str) -> float | None:
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

    def count(self, trial_id: str, epoch: int, score: float) -> None:
        """As `decide`, whose decision comes too late."""
        if (rung := self.rung_due(trial_id, epoch)) is not None:
            self.decide(trial_id, epoch, rung, score)


class MedianBracket(MedianStoppingRule):
    """Ray's median stopping rule over our trial ids, for one arm.

    A trial stops when its best score so far is below the median of the others' mean scores over the same epochs.

    References:
        Golovin et al., "Google Vizier: A Service for Black-Box Optimization", KDD 2017, section 3.2.1.

    Differs: as in Ray, trials that still run count among the others once they have come as far. Only epochs from the
    grace period on count, also for a trial's own best. A trial at its last epoch is never stopped; a value that is not
    finite stops and moves no median.

    Args:
        grace_period: the first epoch after which a trial can stop.
        min_trials: how many other trials must have come as far.
    """

    every_epoch = True

    def __init__(self, grace_period: int, min_trials: int) -> None:
        super().__init__(
            time_attr="epoch", metric=METRIC, mode="max", grace_period=grace_period, min_samples_required=min_trials
        )
        self.grace_period = grace_period
        self.min_trials = min_trials
        self.values: dict[str, dict[int, float]] = {}
        self._stand_ins: dict[str, Trial] = {}
        self._nobody = cast("TuneController", _NobodyWaits())

    def has(self, rung: int) -> bool:
        """Every epoch is a rung."""
        return True

    def rung_due(self, trial_id: str, epoch: int) -> int | None:
        """The epoch itself from the grace period on, if it has not been decided yet."""
        decided = self.values.get(trial_id, {})
        return epoch if epoch >= self.grace_period and epoch > max(decided, default=0) else None

    def cutoff(self, rung: int, trial_id: str) -> float | None:
        """The median of the others' means up to this epoch, None where too few have come as far."""
        others = [of for other, of in self.values.items() if other != trial_id and max(of) >= rung]
        means = [float(np.mean([score for epoch, score in of.items() if epoch <= rung])) for of in others]
        return float(np.median(means)) if len(means) >= self.min_trials else None

    def decide(self, trial_id: str, epoch: int, rung: int, score: float) -> str:
        """Reports a score to Ray's rule and returns its decision."""
        if not math.isfinite(score):
            return str(TrialScheduler.STOP)
        stand_in, result = self._noted(trial_id, epoch, score)
        return str(self.on_trial_result(self._nobody, stand_in, result))

    def count(self, trial_id: str, epoch: int, score: float) -> None:
        """Tells Ray's rule a score without asking it: it is asked no more of a trial that it would stop."""
        self.on_trial_complete(self._nobody, *self._noted(trial_id, epoch, score))

    def _noted(self, trial_id: str, epoch: int, score: float) -> tuple[Trial, dict[str, Any]]:
        if trial_id not in self._stand_ins:
            self._stand_ins[trial_id] = cast(Trial, _StandIn(trial_id))
            self.on_trial_add(self._nobody, self._stand_ins[trial_id])
        self.values.setdefault(trial_id, {})[epoch] = score
        return self._stand_ins[trial_id], {"epoch": epoch, METRIC: score}


def pruners(study: Study, names: Iterable[str]) -> dict[str, Pruner]:
    """A bracket of the study's scheduler for each name; none without early stopping."""
    settings, rungs = study.scheduler, study.rungs
    if settings.name == "median":
        return {name: MedianBracket(settings.grace_period, settings.min_trials) for name in names}
    if not rungs:
        return {}
    return {name: Bracket(rungs, study.epochs, settings.grace_period, settings.reduction_factor) for name in names}


class ArmScheduler(FIFOScheduler):
    """Routes each trial's report to its arm's bracket and records the decision in the ledger.

    Args:
        directory: where decisions are recorded and read from.
        brackets: by bracket name; empty for studies without early stopping.
        epochs: full length of a trial.
        leading_seed: only trials of this seed are pruned; None: all.
        pilot: how many trials of each bracket, in plan order, are never pruned; what they score counts for the others.
    """

    def __init__(
        self,
        directory: StudyDirectory,
        brackets: Mapping[str, Pruner],
        epochs: int,
        leading_seed: int | None = None,
        pilot: int = 0,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.directory = directory
        self.brackets = dict(brackets)
        self.epochs = epochs
        self.leading_seed = leading_seed
        self.pilot = pilot
        self.reasons: dict[str, str] = {}
        self._replay()

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its scheduler and never saves it again; ours lives in the ledger

    def _replay(self) -> None:
        """Takes up what was decided before.

        Raises:
            StudyError: where a decision fell at a rung that the study does not have.
        """
        for event in self.directory.events:
            if not isinstance(event, RungDecided) or event.value is None:
                continue
            if (bracket := self.brackets.get(event.bracket)) is None:
                continue
            if not bracket.has(event.rung):
                raise StudyError(
                    f"{self.directory.ledger_path}: trial {event.trial_id} was judged at epoch {event.rung}, which is "
                    f"no rung of {event.bracket} as the study's settings have it; one of both was changed after the "
                    "study began: put it back, or start anew beside it (--new)"
                )
            if event.counted:
                bracket.count(event.trial_id, event.epoch, event.value)
            else:
                bracket.decide(event.trial_id, event.epoch, event.rung, event.value)

    def _in_pilot(self, record: TrialRecord) -> bool:
        pilot_trials = pilots(self.directory.records.values(), record.plan["bracket"], self.pilot, self.leading_seed)
        return any(record is trial for trial in pilot_trials)

    def decide(self, record: TrialRecord, epoch: int, score: float | None, may_stop: bool = True) -> str:
        """The decision after an epoch; written to the ledger before it is returned.

        Args:
            record: of the trial.
            epoch: whose score it is.
            score: None where it is not finite, which always stops.
            may_stop: False for what only counts for others: the trial has come to its end meanwhile.
        """
        bracket = self.brackets.get(record.plan["bracket"])
        trial_id = record.trial_id
        if bracket is None or record.plan["role"] != "search" or epoch >= self.epochs:
            return str(TrialScheduler.CONTINUE)
        if self.leading_seed is not None and record.plan["seed"] != self.leading_seed:
            return str(TrialScheduler.CONTINUE)
        rung = bracket.rung_due(trial_id, epoch)
        if rung is None:
            return str(TrialScheduler.CONTINUE)
        if rung in record.rungs:
            return record.rungs[rung].decision
        cutoff = bracket.cutoff(rung, trial_id)
        finite = score if score is not None and math.isfinite(score) else None
        counted, would = False, None
        if finite is not None and not may_stop:
            bracket.count(trial_id, epoch, finite)
            decision, counted = str(TrialScheduler.CONTINUE), True
        else:
            decision = bracket.decide(trial_id, epoch, rung, math.nan if finite is None else finite)
            if finite is not None and self._in_pilot(record):
                decision, would = str(TrialScheduler.CONTINUE), decision
        self.directory.append(
            RungDecided(
                trial_id=trial_id,
                epoch=epoch,
                rung=rung,
                value=finite,
                cutoff=cutoff,
                decision=decision,
                bracket=record.plan["bracket"],
                counted=counted,
                pilot=would is not None,
                would=would,
            )
        )
        return decision

    @override
    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Ray's call for every report: outcome rows and repeats pass, epochs are recorded, the last one is decided."""
        record = self.directory.records.get(result.get("trial", ""))
        if record is None or result.get("outcome") or result.get("done"):
            return str(TrialScheduler.CONTINUE)
        if record.trial_id in self.reasons:
            return str(TrialScheduler.STOP)
        epoch = int(result["epoch"])
        self.directory.epochs(record.trial_id, result["rows"])
        bracket = self.brackets.get(record.plan["bracket"])
        decided = [(epoch, result.get(METRIC))]
        if bracket is not None and bracket.every_epoch:
            decided = [(int(of_row), score) for of_row, _, score in result["rows"]]
        for of_row, score in decided:
            if self.decide(record, of_row, score, may_stop=epoch < self.epochs) == TrialScheduler.STOP:
                self.reasons[record.trial_id] = "rung" if score is not None else "not finite"
                return str(TrialScheduler.STOP)
        return str(TrialScheduler.CONTINUE)

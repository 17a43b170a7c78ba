"""What Ray Tune calls while a study runs."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.execution import class_cache
from ray.tune.experiment import Trial
from ray.tune.search import Searcher as RaySearcher
from typing_extensions import override

from akdtune.errors import StudyError
from akdtune.records.ledger.events import TrialEnded
from akdtune.records.trial_record import TrialRecord
from akdtune.roles import Terminal
from akdtune.running.display import Display
from akdtune.running.execution import Run
from akdtune.running.outages import of_died_process
from akdtune.search.schedulers import METRIC, ArmScheduler
from akdtune.study.spec import Study

STOP_PATIENCE_S = 3.0
"""How long a stopping study waits for its trials to save themselves."""

INFRASTRUCTURE_RETRIES = 3
"""How often a trial is retried after its actor died; a user's own error is not counted here."""


class Adapter(RaySearcher):
    """Hands the run's next trial to Tune."""

    def __init__(self, run: Run, stop_actor: str | None) -> None:
        super().__init__(metric=METRIC, mode="max")
        self.run = run
        self.stop_actor = stop_actor

    def __getstate__(self) -> dict[str, Any]:
        return {}  # the study directory owns the state; Tune's own snapshots are never read

    @override
    def suggest(self, trial_id: str) -> Any:
        """The next trial's request; None while there may be one later."""
        record = self.run.next()
        if record is None:  # workers are killed once Tune is finished: let pruned trials close first
            return None if self.run.awaits() or self.run.closing() else RaySearcher.FINISHED
        return {"trial": self.run.payload(record, self.stop_actor), "id": record.trial_id}

    @override
    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        pass  # the callback tells outcomes: it knows why a trial ended

    @override
    def save(self, checkpoint_path: str) -> None:
        pass  # as for __getstate__

    @override
    def restore(self, checkpoint_path: str) -> None:
        pass

    @override
    def get_state(self) -> dict[str, Any]:
        return {}


class Callback(tune.Callback):
    """Writes Tune's events to the ledger and the display."""

    def __init__(self, run: Run, scheduler: ArmScheduler, shown: Display) -> None:
        self.run = run
        self.scheduler = scheduler
        self.shown = shown

    def __getstate__(self) -> dict[str, Any]:
        return {}

    @override
    def get_state(self) -> None:
        pass  # the study directory owns the state

    def _record(self, trial: Trial) -> TrialRecord:
        return self.run.directory.records[trial.config["id"]]

    @override
    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        record = self._record(trial)
        self.run.started(record)
        self.shown.running[record.trial_id] = record

    @override
    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """A trial's outcome is told to the run; its epochs are told by the scheduler."""
        self.run.warnings += [note for note in result.get("notes", ()) if note not in self.run.warnings]
        if result.get("outcome"):
            record = self._record(trial)
            if self.run.outcome(record, result):
                self.shown.finished(record)
            else:
                self.shown.interrupted(record)

    @override
    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """A trial was ended by the scheduler; others have told their outcome."""
        record = self._record(trial)
        reason = self.scheduler.reasons.get(record.trial_id)
        if reason is not None:
            kind: Terminal = "pruned" if reason == "rung" else "diverged"
            self._ended(record, TrialEnded(kind=kind, trial_id=record.trial_id, epoch=record.last_epoch, reason=reason))

    @override
    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """A trial's process died as often as it is tried: that is interrupted, not ended."""
        record = self._record(trial)
        directory = self.run.directory.trial(record.trial_id)
        fault = of_died_process(INFRASTRUCTURE_RETRIES + 1, _said_of(trial), directory.latest_host(), directory.log)
        self.run.met(record, fault, again=False)
        self.shown.interrupted(record)

    def _ended(self, record: TrialRecord, ended: TrialEnded) -> None:
        if self.run.ended(record, ended):
            self.shown.finished(record)

    @override
    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        self.shown.total = self.run.phases.outline.trials  # fewer than expected where cells were found to be equal
        self.shown.update(self.run.directory.records.values())


def _said_of(trial: Trial) -> str:
    """What Ray wrote about the last failure of a trial."""
    try:
        return (
            Path(trial.error_file).read_text(errors="replace").rpartition("Failure # ")[2] if trial.error_file else ""
        )
    except OSError:
        return ""


class Stopper(tune.Stopper):
    """Ends Tune's loop once every running trial has answered a stop, or after STOP_PATIENCE_S."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def __getstate__(self) -> dict[str, Any]:
        return {}

    @override
    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False  # no single result ends the study

    @override
    def stop_all(self) -> bool:
        if self.run.directory.broken is not None:
            return True
        since = self.run.stopping
        return since is not None and (not self.run.running or time.monotonic() - since > STOP_PATIENCE_S)


class NoReport(tune.ProgressReporter):
    """In place of Tune's own report, which in a notebook clears what has been printed before it."""

    @override
    def should_report(self, trials: list[Trial], done: bool = False) -> bool:
        return False


@ray.remote(num_cpus=0)
class StopActor:
    """The stop flag of a study whose trials run on other machines."""

    def __init__(self) -> None:
        self._stopped = False

    def stop(self) -> None:
        """Lets every trial know, when it asks next, that it is to save itself and end."""
        self._stopped = True

    def stopped(self) -> bool:
        """What a trial asks at the end of each epoch."""
        return self._stopped


@contextlib.contextmanager
def in_waiting_workers() -> Iterator[None]:
    """Within it, Tune takes the workers that Ray has started already, where that Ray is our own.

    Tune gives its actors some variables, for which Ray starts processes of their own; ours inherit these variables.
    """
    set_ones, passed_on = dict(class_cache.DEFAULT_ENV_VARS), set(class_cache.ENV_VARS_TO_PROPAGATE)
    class_cache.DEFAULT_ENV_VARS.clear()
    class_cache.ENV_VARS_TO_PROPAGATE.clear()
    try:
        yield
    finally:
        class_cache.DEFAULT_ENV_VARS.update(set_ones)
        class_cache.ENV_VARS_TO_PROPAGATE.update(passed_on)


def concurrency(study: Study) -> int:
    """How many trials run at once."""
    total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    needed = study.resources
    slots = int(total.get("CPU", 0) / needed.cpu) if needed.cpu else sys.maxsize
    if needed.gpu:
        per_gpu = int(1 / needed.gpu) if needed.gpu < 1 else 1
        slots = min(slots, int(total.get("GPU", 0) * per_gpu if needed.gpu < 1 else total.get("GPU", 0) / needed.gpu))
    if needed.concurrent is not None:
        slots = min(slots, needed.concurrent)
    if slots < 1:
        raise StudyError(f"resources: a trial asks for cpu {needed.cpu}, gpu {needed.gpu}; the cluster has {total}")
    return slots

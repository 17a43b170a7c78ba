"""Runs a study on Ray: teacher, trials, early stopping, failures, stopping and going on. Knows no loss."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, cast

import ray
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.search import ConcurrencyLimiter
from ray.tune.search import Searcher as RaySearcher
from rich.console import Console

from akdtune import display, lockfile, study_tables
from akdtune.display import Display
from akdtune.errors import AkdtuneError, StudyError
from akdtune.events import StudyFinished, StudyStarted, Terminal, TrialEnded
from akdtune.identity import Identity, initial_rows, student_hashes
from akdtune.ledger import StudyDirectory, TrialRecord
from akdtune.plan_cost import Machine, available_cpus
from akdtune.prepared import Prepared
from akdtune.proposals import Outline
from akdtune.registry import plugin_folders
from akdtune.reuse import Donors
from akdtune.run_state import Run
from akdtune.scheduling import METRIC, ArmScheduler, pruners
from akdtune.spec import Study
from akdtune.teacher import TeacherFile
from akdtune.trainable import run_trial, train_teacher

STOP_PATIENCE_S = 3.0
"""How long a stopping study waits for its trials to save themselves."""

INFRASTRUCTURE_RETRIES = 3
"""How often a trial is retried after its actor died; a user's own error is not counted here."""


class _Adapter(RaySearcher):
    """Hands the run's next trial to Tune."""

    def __init__(self, run: Run, stop_actor: str | None) -> None:
        super().__init__(metric=METRIC, mode="max")
        self.run = run
        self.stop_actor = stop_actor

    def __getstate__(self) -> dict[str, Any]:
        return {}  # the study directory owns the state; Tune's own snapshots are never read

    def suggest(self, trial_id: str) -> Any:
        record = self.run.next()
        if record is None:  # workers are killed once Tune is finished: let pruned trials close first
            return None if self.run.awaits() or self.run.closing() else RaySearcher.FINISHED
        return {"trial": self.run.payload(record, self.stop_actor), "id": record.trial_id}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """Outcomes are told by the callback, which knows why a trial ended."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""

    def get_state(self) -> dict[str, Any]:
        return {}


class _Callback(tune.Callback):
    """Writes Tune's events to the ledger and the display."""

    def __init__(self, run: Run, scheduler: ArmScheduler, shown: Display) -> None:
        self.run = run
        self.scheduler = scheduler
        self.shown = shown

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def get_state(self) -> None:
        return None

    def _record(self, trial: Trial) -> TrialRecord:
        return self.run.directory.records[trial.config["id"]]

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        record = self._record(trial)
        self.run.started(record)
        self.shown.running[record.trial_id] = record

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        if result.get("outcome"):
            record = self._record(trial)
            if self.run.outcome(record, result):
                self.shown.finished(record)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        record = self._record(trial)
        reason = self.scheduler.reasons.get(record.trial_id)
        if reason is not None:
            kind: Terminal = "pruned" if reason == "rung" else "diverged"
            self._ended(record, TrialEnded(kind=kind, trial_id=record.trial_id, epoch=record.last_epoch, reason=reason))

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        record = self._record(trial)
        error = (
            f"its process died {INFRASTRUCTURE_RETRIES + 1} times (see {self.run.directory.trial(record.trial_id).log})"
        )
        self._ended(record, TrialEnded(kind="failed", trial_id=record.trial_id, epoch=record.last_epoch, error=error))

    def _ended(self, record: TrialRecord, ended: TrialEnded) -> None:
        if self.run.ended(record, ended):
            self.shown.finished(record)

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        self.shown.update(self.run.directory.records.values())


class _Stopper(tune.Stopper):
    """Ends Tune's loop once every running trial has answered a stop, or after STOP_PATIENCE_S."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        if self.run.directory.broken is not None:
            return True
        since = self.run.stopping
        return since is not None and (not self.run.running or time.monotonic() - since > STOP_PATIENCE_S)


@ray.remote(num_cpus=0)
class _StopActor:
    """The stop flag of a study whose trials run on other machines."""

    def __init__(self) -> None:
        self._stopped = False

    def stop(self) -> None:
        self._stopped = True

    def stopped(self) -> bool:
        return self._stopped


def run(
    study: Study,
    root: Path,
    address: str | None = None,
    console: Console | None = None,
    extend: bool = False,
    reuse: Sequence[Path] = (),
) -> int:
    """Runs or resumes a study in `root`.

    Args:
        study: the checked settings.
        root: the study directory; made if absent.
        address: a running Ray cluster, or None for Ray on this machine.
        console: where to show progress.
        extend: whether trials, seeds and cells may be added to a study that has begun.
        reuse: directories of studies whose finished trials are taken over where they are the same.

    Returns:
        0 when every trial ended, 1 when some failed, 130 when interrupted.

    Raises:
        AkdtuneError: for anything the user can mend.
    """
    console = console or Console(markup=False)
    directory, outline = StudyDirectory(root.expanduser()), Outline(study)
    check_resources(study, address)
    with directory.opened():
        lock = directory.read_lock()
        added: list[str] = []
        if lock is not None:
            added = lockfile.refuse_changes(study, lock, directory.root, extend)
            ended = directory.reconcile()
            if ended:
                console.print(f"taken up from an interrupted run: {len(ended)} finished trials")
        console.print(display.short_report(outline, directory), highlight=False, soft_wrap=True)
        for line in added:
            console.print(f"  extended: {line}", highlight=False, soft_wrap=True)
        return _Driver(outline, directory, address, console, added, reuse).go(lock)


class _Driver:
    """Prepares, starts Ray only where something is left to do, and closes with what the user wants to know."""

    def __init__(
        self,
        outline: Outline,
        directory: StudyDirectory,
        address: str | None,
        console: Console,
        extended: Sequence[str] = (),
        reused: Sequence[Path] = (),
    ) -> None:
        self.study = outline.study
        self.outline = outline
        self.directory = directory
        self.address = address
        self.console = console
        self.extended = extended
        self.reused = reused
        self.run: Run | None = None

    def go(self, lock: dict[str, Any] | None) -> int:
        prepared = Prepared.load(self.study)
        with self._signals():
            total = self.outline.trials
            with Display(self.console, self.study.name, total, self.study.epochs) as shown:
                try:
                    teachers = []
                    for train_on in prepared.trains_on:
                        teacher = prepared.find_teacher(train_on) or self._train_teacher(train_on, shown)
                        if teacher is None:
                            return self._interrupted()
                        teachers.append(teacher)
                    identity = Identity(self.study, prepared, *teachers)
                    self._write_lock(lock, prepared, identity)
                    if lock is None or not self.directory.records or self.extended:
                        rows = initial_rows(self.outline, identity)
                        known = self.directory.records
                        self.directory.add_to_plan([row for row in rows if row["trial_id"] not in known])
                    uid = (self.directory.read_lock() or {}).get("uid", "")
                    donors = Donors(self.directory, self.reused)
                    self.run = Run(self.outline, self.directory, identity, uid, donors)
                    self.run.plan_phases()
                    if self.run.remaining() and not self._stopping:
                        self.directory.wait_for_workers()
                        self.directory.append(StudyStarted(pid=os.getpid()))
                        self._tune(self.run, shown)
                        self.directory.append(StudyFinished(interrupted=self.run.stopping is not None))
                finally:
                    if ray.is_initialized() and not _ray_is_kept:
                        ray.shutdown()
        study_tables.compact(self.directory.root)
        if self._stopping:
            return self._interrupted()
        return self._closing()

    def _write_lock(self, lock: dict[str, Any] | None, prepared: Prepared, identity: Identity) -> None:
        if lock is None:
            self.directory.write_lock(lockfile.lock_content(self.study, identity))
            return
        if lock["data"]["hash"] != prepared.data_hash or any(
            TeacherFile(**lock[key]).identity != file.identity
            for key, file in (("teacher", identity.teacher), ("report_teacher", identity.report_teacher))
            if file is not None and key in lock
        ):
            raise StudyError(
                f"{self.directory.root}: the data or the teacher is not the one this study began with "
                f"(teacher {lock['teacher']['weights_hash']} then, {identity.teacher.weights_hash} now; data "
                f"{lock['data']['hash']} then, {prepared.data_hash} now); restore it or choose another --dir"
            )
        if lock.get("students", {}) != (now := student_hashes(self.study)):
            changed = sorted(path for path, value in now.items() if lock.get("students", {}).get(path) != value)
            raise StudyError(
                f"{self.directory.root}: {', '.join(changed)} is not the student this study began with "
                "(student.checkpoint); restore it or choose another --dir"
            )
        if self.extended:
            self.directory.write_lock(lockfile.extended(lock, self.study, identity, self.extended))

    def _train_teacher(self, train_on: str, shown: Display) -> TeacherFile | None:
        """Trains the teacher as a Ray task with a trial's resources; None when interrupted."""
        self._start_ray()
        if self._stopping:
            return None
        task = ray.remote(train_teacher).options(
            num_returns="streaming", num_cpus=self.study.resources.cpu, num_gpus=self.study.resources.gpu, max_retries=0
        )
        rows: Any = task.remote(
            {
                "data": self.study.data.model_dump(),
                "teacher": self.study.teacher.model_dump(),
                "train_on": train_on,
                "plugins": list(self.study.plugins),
                "plugin_folders": plugin_folders(self.study.plugins),
                "root": str(self.directory.root.resolve()),
                "stop_flag": self.directory.stop_flag.name,
                "device": "auto",
                "cpu": self.study.resources.cpu,
            }
        )
        while True:
            ready, _ = ray.wait([rows], timeout=0.2)
            if self._stopping and self._stopping + STOP_PATIENCE_S < time.monotonic():
                return None
            if not ready:
                continue
            try:
                row: dict[str, Any] = cast(dict[str, Any], ray.get(next(rows)))
            except StopIteration:
                return None
            except ray.exceptions.RayTaskError as error:
                cause = error.cause if isinstance(error.cause, AkdtuneError) else error
                raise cause from None
            if row.get("done"):
                return TeacherFile(**row["teacher"])
            shown.teacher(row)

    _stopping: float = 0.0

    def _start_ray(self) -> None:
        if ray.is_initialized():
            return
        start_ray(self.address, self.study.tracking.finish_timeout_s)
        self._take_signals()

    def _tune(self, run: Run, shown: Display) -> None:
        self._start_ray()
        study = self.study
        leading = study.search.training_seeds[0] if run.phase.leads else None
        pruning = pruners(study, run.brackets)
        scheduler = ArmScheduler(self.directory, pruning, run.epochs, leading, study.scheduler.pilot)
        actor = None
        if self.address:
            actor = cast(Any, _StopActor).options(name=f"akdtune-stop-{os.getpid()}").remote()
            ray.get(actor.stopped.remote())
        self._stop_actor = actor
        slots = concurrency(study)
        shutil.rmtree(self.directory.ray, ignore_errors=True)
        tuner = tune.Tuner(
            tune.with_resources(run_trial, {"cpu": study.resources.cpu, "gpu": study.resources.gpu}),
            tune_config=tune.TuneConfig(
                search_alg=ConcurrencyLimiter(
                    _Adapter(run, f"akdtune-stop-{os.getpid()}" if actor is not None else None), max_concurrent=slots
                ),
                scheduler=scheduler,
                num_samples=run.remaining() + 1,  # the end is ours to tell
                reuse_actors=True,
                trial_dirname_creator=lambda trial: str(trial.config["id"]),
                trial_name_creator=lambda trial: str(trial.config["id"]),
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(self.directory.ray.resolve()),
                failure_config=tune.FailureConfig(max_failures=INFRASTRUCTURE_RETRIES),
                callbacks=[_Callback(run, scheduler, shown)],
                stop=_Stopper(run),
                verbose=0,
            ),
        )
        run.stopping = self._stopping or None
        tuner.fit()
        if self.directory.broken is not None:
            raise self.directory.broken

    _stop_actor: Any = None

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """The first Ctrl-C or SIGTERM asks the trials to save themselves; the second leaves at once."""
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        self._take_signals()
        try:
            yield
        finally:
            if threading.current_thread() is threading.main_thread():
                for number, handler in before.items():
                    signal.signal(number, handler)

    def _take_signals(self) -> None:
        """Makes the signals ours; again after Ray has started, which takes SIGTERM for itself."""
        if threading.current_thread() is threading.main_thread():  # elsewhere, whoever runs us handles signals
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self._stop)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self._stopping:
            sys.stderr.write("\x1b[?25h\nleft at once; the same command resumes from the last saved states\n")
            sys.stderr.flush()
            os._exit(130)
        self._stopping = time.monotonic()
        with contextlib.suppress(OSError):
            self.directory.stop_flag.touch()
        if self.run is not None:
            self.run.stopping = self._stopping
        if self._stop_actor is not None:
            self._stop_actor.stop.remote()

    def _interrupted(self) -> int:
        records = self.directory.records.values()
        ended = sum(record.terminal is not None for record in records)
        self.console.print(
            f"stopped: {ended} of {self.outline.trials} trials have ended, nothing is lost. "
            f"The same command goes on where it stopped:\n  {display.command_line(self.study, self.directory.root)}",
            highlight=False,
            soft_wrap=True,
        )
        return 130

    def _closing(self) -> int:
        assert self.run is not None
        donors = self.run.donors
        if donors is not None and donors.taken:
            self.console.print(f"taken over from other studies: {donors.taken} trials (reused_from says which)")
        for line in [*(donors.notes if donors is not None else ()), *self.run.phases.notes]:
            self.console.print(line, highlight=False, soft_wrap=True)
        for line in dict.fromkeys(self.run.warnings):
            self.console.print(f"warning: {line}", highlight=False, soft_wrap=True)
        self.console.print(display.closing_report(self.study, self.directory), highlight=False, soft_wrap=True)
        return 1 if any(record.terminal == "failed" for record in self.directory.records.values()) else 0


_ray_is_kept = False


@contextmanager
def keep_ray() -> Iterator[None]:
    """Keeps Ray up between studies of one process (tests, benchmarks)."""
    global _ray_is_kept
    _ray_is_kept = True
    try:
        yield
    finally:
        _ray_is_kept = False
        ray.shutdown()


def start_ray(address: str | None, finish_timeout_s: float) -> None:
    """Starts or joins Ray: dashboard off, token authentication on, its chatter off, one thread per worker."""
    environment = {
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "TUNE_FUNCTION_THREAD_TIMEOUT_S": str(int(finish_timeout_s) + 120),
    }
    settings = {
        "RAY_AIR_NEW_OUTPUT": "0",
        "RAY_CHDIR_TO_TRIAL_DIR": "0",
        "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
        "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
        "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
        "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    }
    os.environ.update(environment | settings)
    for name in ("ray", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # Tune's own snapshots are never read: that a full disk took none is no news.
    logging.getLogger("ray.tune.execution.experiment_state").setLevel(logging.CRITICAL)
    if address:
        ray.init(
            address=address, log_to_driver=False, logging_level=logging.ERROR, runtime_env={"env_vars": environment}
        )
        return
    ray.init(
        num_cpus=available_cpus(),
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        configure_logging=True,
    )


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


def check_resources(study: Study, address: str | None) -> None:
    """Refuses a study that asks for more CPUs or GPUs than this machine has, before anything starts."""
    if not address and (lacking := Machine.here(study.resources).lacking(study.resources)):
        raise StudyError("\n".join(lacking))

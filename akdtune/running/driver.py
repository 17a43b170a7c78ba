"""Runs a study on Ray: teacher, trials, early stopping, failures, stopping and going on. Knows no loss."""

from __future__ import annotations

import contextlib
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
from ray.tune.search import ConcurrencyLimiter
from rich.console import Console

from akdtune.errors import StudyError, SurroundingsError
from akdtune.planning.checkpoint_files import reading_lines
from akdtune.planning.cost import Machine
from akdtune.planning.identity import Identity, initial_rows, student_hashes
from akdtune.planning.prepared import Prepared
from akdtune.records import tables
from akdtune.records.events import StudyFinished, StudyStarted
from akdtune.records.study_directory import StudyDirectory
from akdtune.registry import plugin_folders
from akdtune.reports.text import counted
from akdtune.running import display
from akdtune.running import lock as running_lock
from akdtune.running.display import Display
from akdtune.running.execution import Run
from akdtune.running.lock import lock_content, refuse_changes
from akdtune.running.outages import GOES_ON, check_teacher_is_here, of_teacher
from akdtune.running.retrying import retry_outside
from akdtune.running.reuse import Donors
from akdtune.running.streams import drawn_before
from akdtune.running.tracking_study import StudyTracking
from akdtune.running.tune import (
    INFRASTRUCTURE_RETRIES,
    STOP_PATIENCE_S,
    Adapter,
    Callback,
    NoReport,
    StopActor,
    Stopper,
    concurrency,
    start_ray,
    stop_ray,
)
from akdtune.running.worker import run_trial, train_teacher
from akdtune.search.schedulers import ArmScheduler, pruners
from akdtune.study.proposals import Outline
from akdtune.study.spec import Study
from akdtune.teacher.file import TeacherFile


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
        0 when every trial ended, 1 when some failed, 3 when some wait for what they met outside, 130 when interrupted.

    Raises:
        SurroundingsError: when trials in a row met the same thing outside them.
        AkdtuneError: for anything the user can mend.
    """
    console = console or Console(markup=False)
    directory = StudyDirectory(root.expanduser())
    check_resources(study, address)
    with directory.opened():
        lock = directory.read_lock()
        added: list[str] = []
        if lock is not None:
            added = refuse_changes(study, lock, directory.root, extend)
            study = study.begun_as(lock)
            ended = directory.reconcile()
            if ended:
                console.print(f"taken up from an interrupted run: {len(ended)} finished trials")
            if again := retry_outside(directory):
                console.print(
                    f"tried again: {counted(len(again), 'trial')} that had met something outside, e.g. {again[0].why}",
                    highlight=False,
                    soft_wrap=True,
                )
        outline = Outline(study)
        console.print(display.short_report(outline, directory), highlight=False, soft_wrap=True)
        for line in added:
            console.print(f"  extended: {line}", highlight=False, soft_wrap=True)
        if lock is not None and (added or directory.unfinished()) and (differs := drawn_before(directory, lock)):
            console.print(f"warning: {differs}", highlight=False, soft_wrap=True)
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
        self.tracking: StudyTracking | None = None

    def go(self, lock: dict[str, Any] | None) -> int:
        prepared = Prepared.load(self.study)
        for note in prepared.dataset.notes:
            self.console.print(f"warning: {note}", highlight=False, soft_wrap=True)
        with self._signals(), Display(self.console, self.study.name, self._total, self.study.epochs) as shown:
            try:
                teachers = []
                for train_on in prepared.trains_on:
                    teacher = prepared.find_teacher(train_on) or self._train_teacher(train_on, shown)
                    if teacher is None:
                        return self._interrupted()
                    teachers.append(teacher)
                identity = Identity(self.study, prepared, *teachers)
                self._write_lock(lock, prepared, identity)
                for line in reading_lines(teachers, prepared.notes):
                    self.console.print(line, highlight=False, soft_wrap=True)
                if lock is None or not self.directory.records or self.extended:
                    rows = initial_rows(self.outline, identity)
                    known = self.directory.records
                    self.directory.add_to_plan([row for row in rows if row["trial_id"] not in known])
                uid = (self.directory.read_lock() or {}).get("uid", "")
                donors = Donors(self.directory, self.reused)
                self.run = Run(self.outline, self.directory, identity, uid, donors)
                self.run.plan_phases()
                shown.total = self._total
                self._print_notes()
                if self.run.remaining() and not self._stopping:
                    self.directory.wait_for_workers()
                    self.tracking = StudyTracking(self.study.tracking.model_dump(), self.directory.root)
                    self.directory.append(StudyStarted(pid=os.getpid()))
                    self._tune(self.run, shown)
                    self.directory.append(StudyFinished(interrupted=self.run.stopping is not None))
            finally:
                if self.tracking is not None:
                    self.tracking.end()
                stop_ray()
        tables.compact(self.directory.root)
        if self._stopping:
            return self._interrupted()
        if self.run.halted is not None:
            raise SurroundingsError(f"{self.directory.root}: {self.run.halted}")
        return self._closing()

    def _write_lock(self, lock: dict[str, Any] | None, prepared: Prepared, identity: Identity) -> None:
        if lock is None:
            self.directory.write_lock(lock_content(self.study, identity))
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
            self.directory.write_lock(running_lock.extended(lock, self.study, identity, self.extended))

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
                raise of_teacher(error.cause) from error
            if row.get("done"):
                teacher = TeacherFile(**row["teacher"])
                check_teacher_is_here(teacher.path, row["host"])
                return teacher
            shown.teacher(row)

    _stopping: float = 0.0

    def _start_ray(self) -> None:
        if ray.is_initialized():
            return
        start_ray(self.address, self.study.tracking.finish_timeout_s)
        self._take_signals()

    def _settle_tracking(self, run: Run) -> None:
        """Decides how trials are tracked; the server had time to answer while Ray started."""
        assert self.tracking is not None
        if line := self.tracking.settle(lambda: bool(self._stopping)):
            self.console.print(line, highlight=False, soft_wrap=True)
        run.tracking = self.tracking.for_trials

    def _tune(self, run: Run, shown: Display) -> None:
        self._start_ray()
        self._settle_tracking(run)
        study = self.study
        leading = study.search.training_seeds[0] if run.phase.leads else None
        pruning = pruners(study, run.brackets)
        scheduler = ArmScheduler(self.directory, pruning, run.epochs, leading, study.scheduler.pilot)
        actor = None
        if self.address:
            actor = cast(Any, StopActor).options(name=f"akdtune-stop-{os.getpid()}").remote()
            ray.get(actor.stopped.remote())
        self._stop_actor = actor
        slots = concurrency(study)
        shutil.rmtree(self.directory.ray, ignore_errors=True)
        tuner = tune.Tuner(
            tune.with_resources(run_trial, {"cpu": study.resources.cpu, "gpu": study.resources.gpu}),
            tune_config=tune.TuneConfig(
                search_alg=ConcurrencyLimiter(
                    Adapter(run, f"akdtune-stop-{os.getpid()}" if actor is not None else None), max_concurrent=slots
                ),
                scheduler=scheduler,
                num_samples=2 * run.remaining() + 1,  # the end is ours to tell; a trial may be handed out twice
                reuse_actors=True,
                trial_dirname_creator=lambda trial: str(trial.config["id"]),
                trial_name_creator=lambda trial: str(trial.config["id"]),
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(self.directory.ray.resolve()),
                failure_config=tune.FailureConfig(max_failures=INFRASTRUCTURE_RETRIES),
                callbacks=[Callback(run, scheduler, shown)],
                stop=Stopper(run),
                verbose=0,
                progress_reporter=NoReport(),
            ),
        )
        run.stopping = self._stopping or None
        if actor is not None:
            run.stop_elsewhere = actor.stop.remote
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

    @property
    def _total(self) -> int:
        """Trials of the study, at most."""
        return (self.outline if self.run is None else self.run.phases.outline).trials

    _printed: int = 0

    def _print_notes(self) -> None:
        """What planning confirmation and ablation has to say, each sentence once."""
        assert self.run is not None
        notes, self._printed = self.run.phases.notes[self._printed :], len(self.run.phases.notes)
        for line in notes:
            self.console.print(line, highlight=False, soft_wrap=True)

    def _interrupted(self) -> int:
        records = self.directory.records.values()
        ended = sum(record.terminal is not None for record in records)
        self.console.print(
            f"stopped: {ended} of {self._total} trials have ended, nothing is lost. "
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
        for line in donors.notes if donors is not None else ():
            self.console.print(line, highlight=False, soft_wrap=True)
        self._print_notes()
        for line in dict.fromkeys(self.run.warnings):
            self.console.print(f"warning: {line}", highlight=False, soft_wrap=True)
        if self.tracking is not None and (untold := self.tracking.closing()):
            self.console.print(untold, highlight=False, soft_wrap=True)
        self.console.print(display.closing_report(self.study, self.directory), highlight=False, soft_wrap=True)
        records = self.directory.records.values()
        if any(record.terminal is None and record.why is not None for record in records):
            self.console.print(f"mend what interrupted them, then {GOES_ON}", highlight=False, soft_wrap=True)
            return SurroundingsError.exit_code
        return 1 if any(record.terminal == "failed" for record in records) else 0


def check_resources(study: Study, address: str | None) -> None:
    """Refuses a study that asks for more CPUs or GPUs than this machine has, before anything starts."""
    if not address and (lacking := Machine.here(study.resources).lacking(study.resources)):
        raise StudyError("\n".join(lacking))

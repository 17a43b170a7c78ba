"""Runs a study on Ray: teacher, trials, early stopping, failures, stopping and going on. Knows no loss."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import ray
from ray import tune
from ray.tune.search import ConcurrencyLimiter
from rich.console import Console

from akdtune import progress
from akdtune.errors import RayError, StudyError, SurroundingsError
from akdtune.planning import needs
from akdtune.planning.checkpoint_files import reading_lines
from akdtune.planning.identity import Identity, initial_rows
from akdtune.planning.prepared import Prepared
from akdtune.records import tables
from akdtune.records.ledger.events import StudyFinished
from akdtune.records.lock_file import check_lock
from akdtune.records.study_directory import StudyDirectory
from akdtune.records.study_lock import this_driver
from akdtune.records.trial_record import TrialRecord
from akdtune.reports.text import counted
from akdtune.roles import TrainOn
from akdtune.running import ahead, display, interruption, output, ray_start, teacher_answers
from akdtune.running import lock as running_lock
from akdtune.running.display import Display
from akdtune.running.execution import Run
from akdtune.running.lock import lock_content, refuse_changes
from akdtune.running.mending import check_ids, mend, refuse_lost_plan, said
from akdtune.running.outages import GOES_ON
from akdtune.running.printed import say, width_of
from akdtune.running.retrying import retry_outside
from akdtune.running.reuse import Donors
from akdtune.running.streams import drawn_before
from akdtune.running.supervision import Supervision
from akdtune.running.teacher_training import TeacherTraining
from akdtune.running.tune import (
    INFRASTRUCTURE_RETRIES,
    Adapter,
    Callback,
    NoReport,
    StopActor,
    Stopper,
    concurrency,
    in_waiting_workers,
)
from akdtune.running.worker import run_trial
from akdtune.search.optuna_phases import add_phases
from akdtune.search.optuna_trials import Worth
from akdtune.search.schedulers import ArmScheduler, pruners
from akdtune.study.proposals import Outline
from akdtune.study.spec import Study
from akdtune.teacher.file import TeacherFile
from akdtune.tracking.study import StudyTracking


def run(
    study: Study,
    root: Path,
    address: str | None = None,
    console: Console | None = None,
    extend: bool = False,
    reuse: Sequence[Path] = (),
    reports: bool = True,
    opened: bool = False,
) -> int:
    """Runs or resumes a study in `root`.

    Args:
        study: the checked settings.
        root: the study directory; made if absent.
        address: a running Ray cluster, or None for Ray on this machine.
        console: where to show progress.
        extend: whether trials, seeds and cells may be added to a study that has begun.
        reuse: directories of studies whose finished trials are taken over where they are the same.
        reports: whether to close with warnings and results.
        opened: whether what a new study opens with has been printed.

    Returns:
        0 when every planned trial has ended, 1 when some failed or have no end, 3 when some wait for what they met
        outside, 130 when interrupted.

    Raises:
        SurroundingsError: when trials in a row met the same thing outside them.
        AkdtuneError: for anything the user can mend; `RayError` where Ray is lost or does not answer.
    """
    console = console or Console(markup=False)
    running_lock.refuse_uri(root)
    needs.check(study, elsewhere=bool(address))
    supervision = Supervision()
    driver = _Driver(study, StudyDirectory(root.expanduser()), address, console, reuse, supervision)
    driver.reports, driver.has_opened = reports, opened
    with output.steady():
        try:
            return supervision.run(lambda: driver.opened(extend), driver.left_behind)
        finally:
            if supervision.left_behind:
                driver.leave()


class _Driver:
    """Prepares, starts Ray only where something is left to do, and closes with what the user wants to know."""

    def __init__(
        self,
        study: Study,
        directory: StudyDirectory,
        address: str | None,
        console: Console,
        reused: Sequence[Path],
        supervision: Supervision,
    ) -> None:
        self.study = study
        self.directory = directory
        self.address = address
        self.console = console
        self.extended: list[str] = []
        self.reused = reused
        self.supervision = supervision
        self.run: Run | None = None
        self.tracking: StudyTracking | None = None
        self.shown: Display | None = None
        self.has_opened = False
        self._began = False

    def opened(self, extend: bool) -> int:
        """Opens the directory, refuses what it cannot go on with, and runs what is left; returns the exit code."""
        with self.directory.opened():
            lock = self.directory.read_lock()
            if lock is not None:
                check_lock(self.directory.root, lock, "settings.")
                self.extended = refuse_changes(self.study, lock, self.directory.root, extend)
                if line := running_lock.other_record(self.study, lock):
                    self._say(line)
                self.study = self.study.begun_as(lock)
                ended = self.directory.reconcile()
                mend(self.directory)
                if ended:
                    self.console.print(f"taken up from an interrupted run: {len(ended)} finished trials")
                if again := retry_outside(self.directory):
                    trials = counted(len(again), "trial")
                    self._say(f"tried again: {trials} that had met something outside, e.g. {again[0].why}")
            if lock is not None or not self.has_opened:
                self._say(display.short_report(self.outline, self.directory))
            for line in said(self.directory):
                self._say(line)
            for line in self.extended:
                self._say(f"  extended: {line}")
            unfinished = lock is not None and (self.extended or self.directory.unfinished())
            if lock is not None and unfinished and (differs := drawn_before(self.directory, lock)):
                self._say(f"warning: {differs}")
            self.supervision.on_stop = self._stop
            return self._go(lock)

    @cached_property
    def outline(self) -> Outline:
        """The study's trials; first asked for when the study is the one that the directory began with."""
        return Outline(self.study)

    def _say(self, line: str) -> None:
        say(self.console, line)

    def _go(self, lock: dict[str, Any] | None) -> int:
        begun = Display(self.console, self.study.name, self._total, self.study.epochs)
        with begun as self.shown, progress.shown_by(begun):
            try:
                self._prepare_and_tune(lock, begun)
            except ray.exceptions.RayTaskError:
                raise  # an error in our own code
            except ray.exceptions.RayError as error:
                first = next(iter(str(error).splitlines()), type(error).__name__)
                raise RayError(
                    f"Ray failed: {first}; nothing recorded so far is lost, the same command goes on"
                ) from error
            finally:
                self.supervision.lost = None
                if self.tracking is not None:
                    self.tracking.end()
                ray_start.stop_ray()
        if self.run is None or (self._stopping and self._is_unfinished(self.run)):
            return self._interrupted()
        self.supervision.unhurried()
        self.directory.remove_left_over()
        tables.compact(self.directory.root)
        self._complete_journal(self.run)
        if self.run.halted is not None:
            raise SurroundingsError(f"{self.directory.root}: {self.run.halted}")
        return self._ended(self.run)

    def _prepare_and_tune(self, lock: dict[str, Any] | None, shown: Display) -> None:
        """Everything up to the last trial; `run` is set once the study is planned."""
        prepared = Prepared.load(self.study)
        for note in prepared.dataset.notes:
            self._say(f"warning: {note}")
        teachers = []
        for train_on in prepared.trains_on:
            teacher = prepared.find_teacher(train_on) or self._train_teacher(prepared, train_on, shown)
            if teacher is None:
                return
            teachers.append(teacher)
        identity = Identity(self.study, prepared, *teachers)
        self._write_lock(lock, prepared, identity)
        check_ids(self.directory, identity)
        for line in reading_lines(teachers, prepared.notes):
            self._say(line)
        if lock is None or not self.directory.records or self.extended:
            rows = initial_rows(self.outline, identity)
            if lock is not None and not self.directory.records:
                self._plan_again(rows)
            known = self.directory.records
            self.directory.add_to_plan([row for row in rows if row["trial_id"] not in known])
        uid = (self.directory.read_lock() or {}).get("uid", "")
        donors = Donors(self.directory, self.reused)
        run = Run(self.outline, self.directory, identity, uid, donors)
        run.plan_phases()
        self.run = run
        shown.total = self._total
        self._print_notes()
        if run.remaining() and not self._stopping:
            self.directory.wait_for_workers()
            own = self.study.tracking.model_dump()
            self.tracking = StudyTracking(own, self.directory.root, lambda: self.outline.varied)
            self.directory.append(replace(this_driver(), versions=self._version_changes(lock)))
            self._began = True
            self._tune(run, shown)
            self.directory.append(StudyFinished(interrupted=self._is_unfinished(run)))
        if not self._stopping:
            teacher_answers.complete(self.directory, identity)

    def _write_lock(self, lock: dict[str, Any] | None, prepared: Prepared, identity: Identity) -> None:
        if lock is None:
            self.directory.write_lock(lock_content(self.study, identity))
            return
        check_lock(self.directory.root, lock)
        running_lock.refuse_other_files(lock, identity, self.directory.root)
        if self.extended:
            self.directory.write_lock(running_lock.extended(lock, self.study, identity, self.extended))

    def _plan_again(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Plans a study anew whose plan is lost, and takes up what was trained."""
        refuse_lost_plan(self.directory, rows)
        self.directory.add_to_plan(rows)
        self.directory.load()
        self.directory.reconcile()
        mend(self.directory)
        have = sum(record.terminal is not None for record in self.directory.records.values())
        self._say(f"the plan was lost and is made again from the settings; {counted(have, 'trial')} had ended already")

    def _version_changes(self, lock: Mapping[str, Any] | None) -> dict[str, list[Any]] | None:
        """Says where the study goes on with other versions than it began with; None where it does not."""
        changes = running_lock.version_changes(lock or {})
        if changes:
            self._say(f"warning: {running_lock.versions_warning(changes)}")
        return changes or None

    def _train_teacher(self, prepared: Prepared, train_on: TrainOn, shown: Display) -> TeacherFile | None:
        """Trains the teacher; None when interrupted."""
        training = TeacherTraining(self.study, self.directory, lambda: self._stopping, shown)
        if self._is_own_ray and training.fits_here():
            return training.here(prepared, train_on)
        self._start_ray()
        return None if self._stopping else training.by_ray(train_on)

    @property
    def _is_own_ray(self) -> bool:
        return ray_start.is_own(self.address) and (ray_start.has_begun() or not ray.is_initialized())

    @property
    def _stopping(self) -> float:
        return self.supervision.stopping

    def _start_ray(self) -> None:
        if ray_start.has_begun() or not ray.is_initialized():
            joins = not ray_start.is_own(self.address)
            if not joins:
                ahead.begin(self.study, self.directory.root)
            within_s = ray_start.JOIN_S if joins else ray_start.START_S
            harmless = self.supervision.harmless(within_s, ray_start.no_answer(self.address, within_s))
            with harmless, progress.stage("joining Ray" if joins else "starting Ray"):
                ray_start.start_ray(self.address, self.study.tracking.finish_timeout_s, self.study.plugins)
        self.supervision.lost = ray_start.watch()

    def _settle_tracking(self, run: Run) -> None:
        """Decides how trials are tracked; the server had time to answer while Ray started."""
        assert self.tracking is not None
        if line := self.tracking.settle(lambda: bool(self._stopping)):
            self._say(line)
        run.tracking = self.tracking.for_trials

    def _tune(self, run: Run, shown: Display) -> None:
        self._start_ray()
        if self._stopping:
            return
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
        shown.stage("starting the first trials")
        run.stopping = self._stopping or None
        if actor is not None:
            run.stop_elsewhere = actor.stop.remote
        try:
            with in_waiting_workers() if ray_start.has_begun() else contextlib.nullcontext():
                tuner.fit()
        except tune.TuneError:
            if self.directory.broken is None:
                raise
        if self.directory.broken is not None:
            raise self.directory.broken

    _stop_actor: Any = None
    reports = True

    def _stop(self) -> None:
        """Asks the trials to save themselves and to end."""
        with contextlib.suppress(OSError):
            self.directory.stop_flag.touch()
        if self.run is not None:
            self.run.stopping = self._stopping
        if self._stop_actor is not None:
            self._stop_actor.stop.remote()

    def left_behind(self) -> int:
        """What is said when a signal was not answered in time; the files are as whole as ever."""
        if self.shown is not None:
            self.shown.__exit__()
        if self._began:
            with contextlib.suppress(StudyError):
                self.directory.append(StudyFinished(interrupted=True))
        return self._interrupted()

    def leave(self) -> None:
        """Cleans up behind a thread that hangs."""
        if self.shown is not None:
            self.shown.__exit__()
        ray_start.abandon_ray()

    @property
    def _total(self) -> int:
        """Trials of the study, at most."""
        return (self.outline if self.run is None else self.run.phases.outline).trials

    _printed: int = 0

    def _print_notes(self) -> None:
        """What was found damaged, and what planning confirmation and ablation has to say, each sentence once."""
        assert self.run is not None
        for line in said(self.directory):
            self._say(line)
        notes, self._printed = self.run.phases.notes[self._printed :], len(self.run.phases.notes)
        for line in notes:
            self._say(line)

    def _complete_journal(self, run: Run) -> None:
        """Adds to optuna.journal what its sampler does not see."""
        searcher = run.searcher
        search = Worth(tuple(self.study.search.objectives), run.costs) if searcher is None else searcher.worth
        spaces = {**{arm.name: arm for arm in self.study.arms}, **run.brackets}
        try:
            add_phases(self.directory, spaces, () if searcher is None else searcher.brackets, search)
        except StudyError as error:
            self._say(f"warning: {error}")

    def _without_end(self, run: Run) -> list[TrialRecord]:
        """Planned trials that have no end and are not held back by the time budget."""
        return [record for record in self.directory.unfinished() if not run.phase.held_back(record)]

    def _is_unfinished(self, run: Run) -> bool:
        """Whether something is left to do; what a stopped search had not planned yet counts as well."""
        return bool(self._without_end(run)) or (bool(self._stopping) and run.remaining() > 0)

    def _ended(self, run: Run) -> int:
        """The exit code, by what the directory holds: 0 is for a study whose every planned trial has its end."""
        without_end = self._without_end(run)
        if any(record.why is not None for record in without_end):
            self._closing()
            self._say(f"mend what interrupted them, then {GOES_ON}")
            return SurroundingsError.exit_code
        if without_end:
            self._say(
                f"not finished: {len(without_end)} of {self._total} trials have no end yet. "
                f"The same command goes on with them:\n  {display.command_line(self.study, self.directory.root)}"
            )
            return 1
        self._closing()
        return int(any(record.terminal == "failed" for record in self.directory.records.values()))

    def _interrupted(self) -> int:
        records = list(self.directory.records.values())
        ended = sum(record.terminal is not None for record in records)
        self._say(
            f"stopped: {ended} of {self._total} trials have ended, nothing is lost. "
            f"The same command goes on where it stopped:\n  {display.command_line(self.study, self.directory.root)}"
        )
        return interruption.INTERRUPTED

    def _closing(self) -> None:
        assert self.run is not None
        if not self.reports:
            return
        donors = self.run.donors
        if donors is not None and donors.taken:
            self.console.print(f"taken over from other studies: {donors.taken} trials (reused_from says which)")
        for line in donors.notes if donors is not None else ():
            self._say(line)
        self._print_notes()
        for line in dict.fromkeys(self.run.warnings):
            self._say(f"warning: {line}")
        for line in () if self.tracking is None else self.tracking.closing():
            self._say(line)
        self._say(display.closing_report(self.study, self.directory, width_of(self.console)))

"""The study directory: lock, plan, append-only events, trial directories; what is done and what remains.

The directory, not Ray, owns the state of a study. Events are appended and flushed before anything acts on them, so a
kill at any instant loses nothing that was decided; whatever a trial wrote that the driver never saw is taken up by
`reconcile` before the study goes on.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import math
import os
import shutil
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from akdtune import atomic
from akdtune.errors import AkdtuneWarning, StudyError
from akdtune.records import files, lock_file, recorded_files, tables
from akdtune.records.damage import damage_of
from akdtune.records.files import DESIGN, LEDGER, LOCK, PLAN_COLUMNS
from akdtune.records.ledger.events import (
    Event,
    StudyFinished,
    StudyStarted,
    TrialEnded,
    TrialRetried,
    epoch_line,
    planned_line,
)
from akdtune.records.plan_file import as_one_text, as_texts, plan_table, plan_to_go_on_with, write_plan_table
from akdtune.records.study_folder import (
    STOP_FLAG,
    probe,
    refuse_other_folders,
    remove_left_over,
    remove_own_files,
    unwritable,
    writing,
)
from akdtune.records.study_lock import StudyLock
from akdtune.records.study_state import StudyState, cut_torn_line
from akdtune.records.trial_directory import TrialDirectory
from akdtune.records.trial_record import TrialRecord
from akdtune.roles import TERMINAL

PLAN_SHARE = 4
"""New trials stand in the ledger alone until they are one in so many; then plan.parquet is written anew."""

COMPACT_TRIALS, COMPACT_SHARE = 64, 5
"""epochs.parquet is written anew when so many trials have ended since, and one in so many: whoever reads a running
study opens no more files than that."""


class StudyDirectory(StudyState):
    """The state of one study, and its files. Opened by one process at a time; never pickled with an open file.

    Attributes:
        broken: why the directory could not be written, None while it could.
        found: what was damaged and how that was mended, a sentence each.
    """

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root
        self.lock_path = root / LOCK
        self.plan_path = root / "plan.parquet"
        self.ledger_path = root / "ledger.jsonl"
        self.journal_path = root / "optuna.journal"
        self.reports = root / "reports"
        self.ray = root / ".ray"
        self.stop_flag = root / STOP_FLAG
        self.broken: StudyError | None = None
        self.found: list[str] = []
        self._lock: StudyLock | None = None
        self._runs = False
        self._began = time.time() - time.monotonic()
        self._in_plan_file = plan_table(())
        self._planned_texts: dict[str, dict[str, Any]] = {}
        self._ended_since_compaction = 0

    def trial(self, trial_id: str) -> TrialDirectory:
        """The directory of one trial."""
        return TrialDirectory(self.root / "trials" / trial_id)

    @contextmanager
    def opened(self) -> Iterator[StudyDirectory]:
        """Holds the directory for this process; refuses when another akdtune holds it.

        Raises:
            StudyError: the directory is in use, is not a study's, or cannot be written.
        """
        absent = [folder for folder in (self.root, *self.root.parents) if not folder.exists()]
        self._lock = StudyLock(self.root)
        try:
            self._begin(self._lock)
            yield self
        finally:
            self._say_left()
            if self._lock.held and not self.lock_path.exists():
                remove_own_files(self.root)  # before others may take the lock
            self._lock.release()
            self._lock = None
            for folder in absent:  # only those that are empty go
                with contextlib.suppress(OSError):
                    folder.rmdir()

    def _begin(self, lock: StudyLock) -> None:
        """Takes the lock of the directory, makes what is missing and reads what is there."""
        try:
            refuse_other_folders(self.root)
            self.root.mkdir(parents=True, exist_ok=True)
            lock.take()
            probe(self.root)
            self.stop_flag.unlink(missing_ok=True)
            (self.root / "trials").mkdir(exist_ok=True)
            self.load()
        except OSError as error:
            of_the_disk = error.errno in (errno.EROFS, errno.ENOSPC, errno.EDQUOT)
            named = self.root if error.filename is None or of_the_disk else error.filename
            raise StudyError(f"{named}: cannot be written: {error.strerror or error}") from error

    def _say_left(self) -> None:
        """Notes that this process, which may live on, runs the study no more."""
        if self._runs and self.broken is None:
            with contextlib.suppress(StudyError):
                self.append(StudyFinished(interrupted=True))

    def load(self) -> None:
        """Reads plan and ledger; a line that was torn when its writer died is cut off.

        The ledger says what was planned: a plan's file that is missing, damaged or differs is written anew from it.

        Raises:
            StudyError: for a plan that cannot be read, and that the ledger of an earlier version does not hold.
        """
        self._cut_torn_line()
        self.found, trouble = [], None
        try:
            self._in_plan_file, rows, texts = plan_to_go_on_with(self.root)
        except StudyError as error:
            self._in_plan_file, rows, texts, trouble = plan_table(()), {}, {}, error
        self.records = {trial_id: TrialRecord(row) for trial_id, row in rows.items()}
        self.events = []
        differing = self.replay(self.root, texts)
        if trouble is not None and not self.records:
            raise StudyError(f"{trouble}; restore it from a copy, or begin again with --new")
        if trouble is not None:
            self.found.append(f"{trouble}; written anew from {LEDGER}")
        elif not self.plan_path.exists() and self.records:
            self.found.append(f"{self.plan_path}: was missing; written anew from {LEDGER}")
        self.found += differing
        if self.found and self._lock is not None and self.records:
            self.records = dict(sorted(self.records.items(), key=lambda item: item[1].plan.get("number") or 0))
            self._write_plan_file()

    def _cut_torn_line(self) -> None:
        cut_torn_line(self.ledger_path)

    def read_lock(self) -> dict[str, Any] | None:
        """The content of study.lock.yaml, None for a new study."""
        return lock_file.read_lock(self.root, ("settings", "data", "teacher"))

    def write_lock(self, content: Mapping[str, Any]) -> None:
        """Replaces study.lock.yaml."""
        with writing(self.root):
            text = yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True)
            sealed = f"{text}digest: {hashlib.sha256(text.encode()).hexdigest()[:32]}\n"
            atomic.write(self.lock_path, sealed, durable=True)

    def read_design(self) -> dict[str, Any]:
        """What design.json holds: the cells of confirmation and ablation, as far as they are decided."""
        try:
            return files.read_design(self.root)
        except StudyError as error:
            self.put_aside(self.root / DESIGN)
            self.found.append(f"{error}; written anew from the settings")
            return {}

    def write_design(self, section: str, content: Mapping[str, Any]) -> None:
        """Replaces one section of design.json, before the trials that it describes are planned."""
        known = self.read_design()
        if known.get(section) == content:
            return
        with writing(self.root):
            text = json.dumps({**known, section: content}, indent=1, allow_nan=False) + "\n"
            atomic.write(self.root / DESIGN, text, durable=True)

    def add_to_plan(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Adds trials to the plan, on disk when this returns.

        They stand in the ledger as `planned` events, where `read_plan` finds them: writing all of plan.parquet for each
        proposal of a search would cost the square of their number, so that it follows now and then.
        """
        added = [{**row, "number": number} for number, row in enumerate(rows, len(self.records))]
        ids = [row["trial_id"] for row in added]
        assert len(set(ids)) == len(ids) and not any(trial_id in self.records for trial_id in ids), ids
        plans = [{name: row.get(name) for name in PLAN_COLUMNS} for row in added]
        self._write_planned(plans)
        self.records.update((str(plan["trial_id"]), TrialRecord(plan)) for plan in plans)
        if (len(self.records) - self._in_plan_file.num_rows) * PLAN_SHARE >= self._in_plan_file.num_rows:
            self._write_plan_file(anew=False)

    def _write_planned(self, plans: Sequence[dict[str, Any]]) -> None:
        texts = {str(plan["trial_id"]): as_texts(plan) for plan in plans}
        now = self._now()
        lines = [planned_line(now, trial_id, as_one_text(row)) for trial_id, row in texts.items()]
        self._write_lines(lines, durable=True)
        self._planned_texts |= texts

    def _write_plan_file(self, anew: bool = True) -> None:
        """Writes plan.parquet; `anew`: also its rows so far."""
        table = plan_table(()) if anew else self._in_plan_file
        records = itertools.islice(self.records.values(), table.num_rows, None)
        rows = ((not anew and self._planned_texts.get(each.trial_id)) or as_texts(each.plan) for each in records)
        table = pa.concat_tables([table, plan_table(rows)])
        try:
            with writing(self.root):
                write_plan_table(self.root, table)
        except StudyError as error:
            self.broken = error
            raise
        self._in_plan_file = table
        self._planned_texts.clear()

    def append(self, event: Event) -> None:
        """Appends one event; it is with the operating system before this returns.

        Raises:
            StudyError: when it cannot be written; `broken` then holds the same error.
        """
        if isinstance(event, StudyFinished) and self._in_plan_file.num_rows < len(self.records):
            self._write_plan_file(anew=False)
        if math.isnan(event.time):
            event = replace(event, time=self._now())
        self._write_lines([event.line()])
        if isinstance(event, StudyStarted | StudyFinished):
            self._runs = isinstance(event, StudyStarted)
        self.apply(event)

    def _write_lines(self, lines: Sequence[str], durable: bool = False) -> None:
        try:
            if self._lock is not None:
                self._lock.check()
            atomic.append(self.ledger_path, "".join(lines).encode(), durable=durable)
        except StudyError as error:
            self.broken = error  # Tune swallows what its callbacks raise; the run asks for this
            raise
        except OSError as error:
            self.broken = unwritable(self.root, error.strerror or str(error))
            raise self.broken from error

    def _now(self) -> float:
        """Seconds since 1970 as they were when this process began, whatever the clock is set to meanwhile."""
        return self._began + time.monotonic()

    def refused(self, reason: str) -> None:
        """Remembers that a trial could not write its files."""
        self.broken = self.broken or unwritable(self.root, reason)

    def unfinished(self) -> list[TrialRecord]:
        """Planned trials without a terminal event, in plan order."""
        return [record for record in self.records.values() if record.terminal is None]

    def epoch(self, trial_id: str, epoch: int, value: float | None, score: float | None) -> bool:
        """Records a finished epoch as `epochs` does; False when it stands there."""
        return bool(self.epochs(trial_id, [(epoch, value, score)]))

    def epochs(self, trial_id: str, rows: Sequence[tuple[int, float | None, float | None]]) -> int:
        """Records finished epochs, and any before them that only the trial's file holds, in one go.

        Args:
            trial_id: of the trial.
            rows: number, validation value and score of each.

        Returns:
            How many of them did not stand there.
        """
        record = self.records[trial_id]
        before = record.last_epoch
        for epoch, _, _ in rows:
            if epoch > before + 1:  # a worker that outlived its killed driver wrote what no driver has heard of
                self.catch_up(record)
                break
            before = max(before, epoch)
        lacking = {epoch: (value, score) for epoch, value, score in rows if record.lacks(epoch)}
        self._write_epochs(trial_id, lacking)
        return len(lacking)

    def _write_epochs(self, trial_id: str, rows: Mapping[int, tuple[float | None, float | None]]) -> None:
        if rows:
            now = self._now()
            held = {epoch: (_finite(value), _finite(score)) for epoch, (value, score) in rows.items()}
            self._write_lines([epoch_line(now, trial_id, epoch, *row) for epoch, row in held.items()])
            for epoch, row in held.items():
                self.apply_epoch(trial_id, epoch, *row)

    def finish(self, ended: TrialEnded) -> bool:
        """Records how a trial ended; False (and nothing written) when it has a terminal event already."""
        assert ended.kind in TERMINAL
        if self.records[ended.trial_id].terminal is not None:
            return False
        self.append(ended)
        self._ended_since_compaction += 1
        if self._ended_since_compaction >= max(COMPACT_TRIALS, len(self.records) // COMPACT_SHARE):
            self._ended_since_compaction = 0
            with contextlib.suppress(StudyError), warnings.catch_warnings():
                warnings.simplefilter("ignore", AkdtuneWarning)  # a convenience for readers, who say what is wrong
                tables.compact_epochs(self.root)
        return True

    def retry(self, record: TrialRecord) -> None:
        """Lets a failed trial go on from its last saved state; its end stays in the ledger and counts no more."""
        assert record.terminal == "failed"
        with writing(self.root):  # first, or the outcome would end it again
            self.trial(record.trial_id).outcome.unlink(missing_ok=True)
        self.append(TrialRetried(trial_id=record.trial_id, ended=record.terminal, error=record.why))

    def reopen(self, record: TrialRecord, why: str) -> None:
        """Lets a trial that had ended go on, as its files are damaged."""
        self.put_aside(self.trial(record.trial_id).outcome)  # first, or the outcome would end it again
        self.append(TrialRetried(trial_id=record.trial_id, ended=record.terminal, error=why))

    def put_aside(self, path: Path) -> None:
        """Gives a damaged file another name, under which who wants to look at it finds it."""
        with writing(self.root), contextlib.suppress(FileNotFoundError):
            aside = path.with_name(f"{path.stem}.unusable{path.suffix}")
            shutil.rmtree(aside) if aside.is_dir() else aside.unlink(missing_ok=True)
            os.replace(path, aside)

    def catch_up(self, record: TrialRecord) -> None:
        """Records the epochs that are in the trial's file and not in the ledger; of a damaged file nothing."""
        try:
            rows = self.trial(record.trial_id).read_rows()
            if any(row["trial_id"] != record.trial_id for row in rows):
                return
            if [row["epoch"] for row in rows] != list(range(1, len(rows) + 1)):
                return
        except (StudyError, KeyError):  # the next attempt says what is wrong with it
            return
        value = lock_file.metric_of(self.root).validation
        known = {int(row["epoch"]): (row.get(value), row.get("score")) for row in rows}
        due = (epoch for epoch in known if record.terminal is None or epoch in record.missing)
        self._write_epochs(record.trial_id, {epoch: known[epoch] for epoch in due if record.lacks(epoch)})

    def reconcile(self) -> list[str]:
        """Takes up what trials wrote and the driver never recorded; returns the ids that became terminal.

        A recorded stop is final even where the `pruned` event is missing; a trial whose outcome file exists has
        ended, if its rows reach as far; rows that the ledger lacks are added to it.
        """
        ended = []
        for record in self.records.values():
            if record.terminal is not None and record.missing:
                self.catch_up(record)
        for record in self.unfinished():
            outcome = self._outcome_of(record)
            self.catch_up(record)
            stop = next((rung for rung in record.rungs.values() if rung.decision == "STOP"), None)
            if stop is not None:
                self.finish(TrialEnded(kind="pruned", trial_id=record.trial_id, epoch=stop.epoch, reason="rung"))
            elif outcome is not None:
                self.finish(TrialEnded.of_outcome(record.trial_id, outcome))
            if record.terminal is not None:
                ended.append(record.trial_id)
        return ended

    def _outcome_of(self, record: TrialRecord) -> dict[str, Any] | None:
        """How a trial says it ended; what cannot be so is taken away, and the trial goes on."""
        trial = self.trial(record.trial_id)
        try:
            outcome = trial.read_outcome()
            if outcome is None:
                return None
            damage = damage_of(trial, outcome["outcome"], int(outcome["epoch"]))
            if not damage:
                return outcome
        except StudyError as error:
            damage = {trial.outcome.name: str(error)}
        for name in {trial.outcome.name, *damage}:
            self.put_aside(trial.path / name)
        why = next(iter(damage.values()))
        self.found.append(f"{why}; trial {record.trial_id} goes on from its saved state, with the same numbers")
        return None

    def wait_for_workers(self, timeout_s: float = 10.0) -> list[int]:
        """Waits for workers of a killed driver to leave this machine; returns the process ids that did not."""
        until = time.monotonic() + timeout_s
        while True:
            alive = [pid for record in self.unfinished() if (pid := self.trial(record.trial_id).running_process())]
            if not alive or time.monotonic() > until:
                return alive
            time.sleep(0.1)

    def remove_left_over(self) -> None:
        """Takes away what killed writers left in folders that nobody else writes to: the study's and ended trials'."""
        ended = (self.trial(record.trial_id).path for record in self.records.values() if record.terminal is not None)
        of_teachers = self.root / recorded_files.FOLDER
        remove_left_over((self.root, of_teachers, *ended))


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None

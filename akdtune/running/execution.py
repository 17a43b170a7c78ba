"""One execution of a study, without Ray: which trial comes next, what it is given, what its end means for whom."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from akdtune.errors import StudyError
from akdtune.planning.cost import network_macs
from akdtune.planning.identity import Identity
from akdtune.planning.request import planned_request
from akdtune.records.ledger.events import TimeBudgetSpent, TrialEnded, TrialInterrupted, TrialStarted
from akdtune.records.study_directory import StudyDirectory
from akdtune.records.trial_record import TrialRecord
from akdtune.running.failures import Fault, of_unseen_directory
from akdtune.running.outages import InARow
from akdtune.running.phases import Phases, order
from akdtune.running.reuse import Donors
from akdtune.search.follow_up import SearchPhase
from akdtune.search.optuna_search import Searcher
from akdtune.study.proposals import Outline

VISIBLE_WITHIN_S = 10.0
"""How long the driver waits for what a trial wrote on another node."""


class Run:
    """One execution of a study: what is planned, what is still to do, what the driver tells whom.

    Attributes:
        halted: why the study has to stop, one sentence; None while it need not.
        stop_elsewhere: asks trials on other machines to save themselves, which do not see the flag in time.
    """

    def __init__(
        self,
        outline: Outline,
        directory: StudyDirectory,
        identity: Identity,
        study_uid: str = "",
        donors: Donors | None = None,
    ) -> None:
        self.study = study = outline.study
        self.directory = directory
        self.identity = identity
        self.study_uid = study_uid
        self.tracking: Mapping[str, Any] = study.tracking.model_dump()
        self.epochs = study.epochs
        self.brackets = outline.brackets
        self.quotas = outline.quotas
        self._counted: dict[str, int] = {}
        self.phase = SearchPhase(study, directory, self.quotas)
        if rows := self.phase.overdue():
            directory.add_to_plan(rows)
        self.searcher = self._searcher(outline)
        self.phases = Phases(outline, directory, identity)
        self.donors = donors
        self.handed_out: set[str] = set()
        unfinished = order(self._not_taken_over(directory.unfinished()))
        self.queue = [record for record in unfinished if record.attempts or record.plan["role"] == "search"]
        self.later = [record for record in unfinished if not (record.attempts or record.plan["role"] == "search")]
        self.stopping: float | None = None
        self.running: dict[str, TrialRecord] = {}
        self.warnings: list[str] = []
        self.pruned_at: dict[str, float] = {}
        self._time_noted = False
        self.halted: str | None = None
        self.stop_elsewhere: Callable[[], object] = lambda: None
        self._again: list[TrialRecord] = []
        self._met: dict[str, int] = {}
        self._in_a_row = InARow()

    def _searcher(self, outline: Outline) -> Searcher | None:
        search = self.study.search
        if not search.learns:
            return None
        startup = min(10, max(2, min(self.quotas.values()) // 3))
        return Searcher(
            self.directory,
            self.brackets,
            search.seed,
            startup,
            self.identity.search_trial,
            algorithm=search.algorithm,
            objectives=search.objectives,
            costs=self.costs,
            enqueued=outline.enqueued,
        )

    def costs(self, record: TrialRecord) -> dict[str, float]:
        """What a search of several objectives weighs against accuracy: multiply-adds, seconds of training."""
        costs: dict[str, float] = {}
        if "macs" in self.study.search.objectives:
            costs["macs"] = float(self._macs(record))
        if "time" in self.study.search.objectives:
            rows = self.directory.trial(record.trial_id).read_rows()
            costs["time"] = float(sum(row.get("wall_time_s") or 0.0 for row in rows))
        return costs

    def _macs(self, record: TrialRecord) -> int:
        network = record.plan["settings"]["student"]["network"]
        key = json.dumps(network, sort_keys=True)
        if key not in self._counted:
            self._counted[key] = network_macs(network, self.identity.prepared.dataset.inputs)
        return self._counted[key]

    def next(self) -> TrialRecord | None:
        """The next trial to start, planned first where the search proposes as it goes; None when nothing is left."""
        if self.stopping is not None or self.directory.broken is not None:
            return None
        record = self._choose()
        if record is not None:
            self.handed_out.add(record.trial_id)
        return record

    def _choose(self) -> TrialRecord | None:
        self._note_time()
        while self.queue:
            record = self.queue.pop(0)
            if not self.phase.held_back(record):
                return record
        while not self._planned_all():
            proposed = self._propose()
            if proposed is not None:
                return proposed
        if self._again:  # before the phases, which wait for the search
            return self._again.pop(0)
        if not self.later:
            self.plan_phases()
        return self.later.pop(0) if self.later else None

    def plan_phases(self) -> None:
        """Plans the trials of confirmation and ablation that are due."""
        rows = self.phases.due(self._search_has_ended())
        if rows:
            self.directory.add_to_plan(rows)
            self.later += self._not_taken_over([self.directory.records[row["trial_id"]] for row in rows])

    def _not_taken_over(self, records: list[TrialRecord]) -> list[TrialRecord]:
        """Those of some planned trials that no other study has trained already."""
        return records if self.donors is None else self.donors.take(records)

    def awaits(self) -> bool:
        """Whether trials that run now may bring further ones when they end, or are to be tried again."""
        ending = self.stopping is not None or self.directory.broken is not None
        return not ending and bool(self.handed_out)

    def _phases_to_come(self) -> int:
        return self.phases.awaited(self._search_has_ended())

    def _search_has_ended(self) -> bool:
        """Whether nothing more can come of the search: all proposed, all ended but what the time budget holds back."""
        if not self._planned_all() or self.phase.owed():
            return False
        unfinished = (record for record in self.directory.unfinished() if record.plan["role"] == "search")
        return all(self.phase.held_back(record) for record in unfinished)

    def _note_time(self) -> None:
        """Writes, once in a run, that the time budget holds something back."""
        if self._time_noted or not self.phase.time_is_up():
            return
        if self._proposals_left() or any(self.phase.held_back(record) for record in self.queue):
            self._time_noted = True
            search = [r for r in self.directory.records.values() if r.plan["role"] == "search" and r.attempts]
            self.directory.append(TimeBudgetSpent(started=len(search)))

    def _proposals_left(self) -> int:
        """Configurations that the searcher may still propose, time apart."""
        if self.searcher is None:
            return 0
        return max(0, sum(self.quotas.values()) - self.phase.configurations().total())

    def _planned_all(self) -> bool:
        return self.searcher is None or self.phase.time_is_up() or self._next_bracket() is None

    def _next_bracket(self) -> str | None:
        """The bracket furthest behind its quota, in the study's order; None when all quotas are planned."""
        assert self.searcher is not None
        planned = self.phase.configurations()
        behind = [
            name for name in self.brackets if planned[name] < self.quotas[name] and name not in self.searcher.exhausted
        ]
        return min(behind, key=lambda name: planned[name]) if behind else None

    def _propose(self) -> TrialRecord | None:
        assert self.searcher is not None
        bracket = self._next_bracket()
        assert bracket is not None
        proposed = self.searcher.propose(bracket)
        if proposed is None:
            self.warnings.append(f"{bracket}: 20 proposals in a row existed already; its space counts as exhausted")
            return None
        proposal, number = proposed
        row = self.identity.plan_row(proposal, "search", bracket, number)
        self.directory.add_to_plan([row])
        record = self.directory.records[row["trial_id"]]
        self.searcher.planned(record)
        if not self._not_taken_over([record]):
            self.searcher.tell(record)
            return None
        return record

    def closing(self) -> bool:
        """Whether trials that were pruned a moment ago are still closing their tracking; bounded by its timeout."""
        bound_s = self.study.tracking.finish_timeout_s + 1.0
        now = time.monotonic()
        self.pruned_at = {
            trial_id: at
            for trial_id, at in self.pruned_at.items()
            if now - at < bound_s and self.directory.trial(trial_id).is_closing()
        }
        return bool(self.pruned_at)

    def remaining(self) -> int:
        """An upper bound of the trials still to run."""
        waiting = sum(not self.phase.held_back(record) for record in self.queue) + len(self.later)
        seeds = len(self.study.search.training_seeds) if self.phase.leads else 1
        proposals = 0 if self.phase.time_is_up() else self._proposals_left()
        return waiting + len(self._again) + proposals * seeds + self.phase.owed() + self._phases_to_come()

    def started(self, record: TrialRecord) -> None:
        """Writes down that a trial begins: which attempt, and for several objectives what the search weighs."""
        attempt = self.directory.trial(record.trial_id).latest_attempt() + 1
        several = len(self.study.search.objectives) > 1 and record.plan["role"] == "search"
        objectives = self.study.search.objectives if several else ()
        macs = self._macs(record) if "macs" in objectives else None
        self.directory.append(
            TrialStarted(trial_id=record.trial_id, attempt=attempt, objectives=objectives, student_macs=macs)
        )
        self.running[record.trial_id] = record

    def ended(self, record: TrialRecord, ended: TrialEnded) -> bool:
        """A trial reached a terminal state: the ledger first, then whoever learns from it."""
        self._in_a_row.other()
        self._left(record)
        if not self.directory.finish(ended):
            return False
        if ended.kind == "pruned":
            self.pruned_at[record.trial_id] = time.monotonic()
        if ended.warning:
            self.warnings.append(f"{record.trial_id}: {ended.warning}")
        if self.searcher is not None:
            self.searcher.tell(record)
        if rows := self.phase.after(record):
            self.directory.add_to_plan(rows)
            self.queue += self._not_taken_over([self.directory.records[row["trial_id"]] for row in rows])
        return True

    def _left(self, record: TrialRecord) -> None:
        """A trial runs no more."""
        self.running.pop(record.trial_id, None)
        self.handed_out.discard(record.trial_id)

    def outcome(self, record: TrialRecord, result: Mapping[str, Any]) -> bool:
        """Takes the outcome row of a trial; True when it is terminal."""
        if result.get("disk"):  # the study ends; the trial goes on when the same command is given again
            self.directory.refused(str(result["disk"]))
        fault = Fault.of_plain(result.get("fault"))
        if result["outcome"] != "interrupted":
            fault = self._unseen(record, result)
        else:
            with contextlib.suppress(StudyError):  # what cannot be read now is taken up when the trial goes on
                self.directory.catch_up(record)
        if fault is not None:
            self.met(record, fault)
            return False
        if result["outcome"] == "interrupted":
            self._left(record)
            self.directory.append(TrialInterrupted(trial_id=record.trial_id, epoch=int(result["epoch"])))
            return False
        return self.ended(record, TrialEnded.of_outcome(record.trial_id, result))

    def met(self, record: TrialRecord, fault: Fault, again: bool = True) -> None:
        """A trial met something outside itself: it goes on at this run's end, once, else with the next command.

        Args:
            record: of the trial.
            fault: what it met.
            again: whether it is to be tried again in this run.
        """
        self._left(record)
        self.directory.append(
            TrialInterrupted(trial_id=record.trial_id, epoch=record.last_epoch, cause=f"{fault.cause}; {fault.remedy}")
        )
        self._met[record.trial_id] = self._met.get(record.trial_id, 0) + 1
        if (sentence := self._in_a_row.met(record.trial_id, fault)) is not None:
            self.halt(sentence)
        elif again and self._met[record.trial_id] == 1:
            self._again.append(record)

    def halt(self, sentence: str) -> None:
        """Lets running trials save themselves and starts no other, as Ctrl-C does."""
        if self.stopping is not None:
            return
        self.halted, self.stopping = sentence, time.monotonic()
        with contextlib.suppress(OSError):
            self.directory.stop_flag.touch()
        self.stop_elsewhere()

    def _unseen(self, record: TrialRecord, result: Mapping[str, Any]) -> Fault | None:
        """Takes up what a trial wrote, and says where that is not all it says; waits for a slow file system."""
        trial, until = self.directory.trial(record.trial_id), time.monotonic() + VISIBLE_WITHIN_S
        while True:
            try:
                outcome, rows = trial.read_outcome(), trial.rows_written()
                self.directory.catch_up(record)
                if outcome is not None and outcome["outcome"] == result["outcome"] and rows >= int(result["epoch"]):
                    return None
                met = f"{rows} of {result['epoch']} epochs" + ("" if outcome else " and no outcome.json")
            except (OSError, ValueError, StudyError) as error:
                if self.directory.broken is not None:
                    raise
                met = f"what cannot be read ({error})"
            if time.monotonic() >= until:
                met = f"a trial is {result['outcome']}, but here its folder holds {met}"
                return of_unseen_directory(trial.path, met, str(result.get("hostname") or ""))
            time.sleep(min(0.1, VISIBLE_WITHIN_S))

    def payload(self, record: TrialRecord, stop_actor: str | None) -> str:
        """What reaches a trial: plain JSON."""
        study, directory = self.study, self.directory
        prunes = record.plan["role"] == "search" and not self.phase.follows(record)
        request = replace(
            planned_request(study, self.identity, record.plan),
            study_uid=self.study_uid,
            report_trains_on=study.report.train_on,
            tracking=self.tracking,
            rungs=study.rungs if prunes else [],
            root=str(directory.root.resolve()),
            stop_flag=directory.stop_flag.name,
            stop_actor=stop_actor,
        )
        return json.dumps(request.plain(), allow_nan=False)

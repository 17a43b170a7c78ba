"""One execution of a study, without Ray: which trial comes next, what it is given, what its end means for whom."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from akdtune import design
from akdtune.ledger import StudyDirectory, TrialRecord
from akdtune.phases import Phases, order
from akdtune.registry import plugin_folders
from akdtune.reuse import Donors
from akdtune.search import Searcher
from akdtune.spec import Study


class Run:
    """One execution of a study: what is planned, what is still to do, what the driver tells whom."""

    def __init__(
        self, study: Study, directory: StudyDirectory, identity: design.Identity, study_uid: str = "",
        donors: Donors | None = None,
    ) -> None:
        self.study = study
        self.directory = directory
        self.identity = identity
        self.study_uid = study_uid
        self.epochs = study.epochs
        self.brackets = design.brackets(study)
        self.searcher = self._searcher()
        self.phases = Phases(study, directory, identity)
        self.donors = donors
        unfinished = order(self._not_taken_over(directory.unfinished()))
        self.queue = [record for record in unfinished if record.attempts or record.plan["role"] == "search"]
        self.later = [record for record in unfinished if not (record.attempts or record.plan["role"] == "search")]
        self.stopping: float | None = None
        self.running: dict[str, TrialRecord] = {}
        self.warnings: list[str] = []
        self.pruned_at: dict[str, float] = {}

    def _searcher(self) -> Searcher | None:
        if self.study.search.algorithm != "tpe":
            return None
        quotas = design.quotas(self.study)
        startup = min(10, max(2, min(quotas.values()) // 3))
        return Searcher(
            self.directory, self.brackets, self.study.search.seed, startup, lambda p: self.identity.search_trial(p)
        )

    def next(self) -> TrialRecord | None:
        """The next trial to start, planned first where the search proposes as it goes; None when nothing is left."""
        if self.stopping is not None or self.directory.broken is not None:
            return None
        if self.queue:
            return self.queue.pop(0)
        while not self._planned_all():
            proposed = self._propose()
            if proposed is not None:
                return proposed
        if not self.later:
            self.plan_phases()
        return self.later.pop(0) if self.later else None

    def plan_phases(self) -> None:
        """Plans the trials of confirmation and ablation that are due."""
        rows = self.phases.due(self._planned_all())
        if rows:
            self.directory.add_to_plan(rows)
            self.later += self._not_taken_over([self.directory.records[row["trial_id"]] for row in rows])

    def _not_taken_over(self, records: list[TrialRecord]) -> list[TrialRecord]:
        """Those of some planned trials that no other study has trained already."""
        return records if self.donors is None else self.donors.take(records)

    def awaiting(self) -> bool:
        """Whether nothing can start now, but more will when the running trials have ended."""
        stopped = self.stopping is not None or self.directory.broken is not None
        return not stopped and bool(self.running) and self.phases.awaited(self._planned_all()) > 0

    def _planned_all(self) -> bool:
        return self.searcher is None or self._next_bracket() is None

    def _next_bracket(self) -> str | None:
        """The bracket furthest behind its quota, in the study's order; None when all quotas are planned."""
        assert self.searcher is not None
        planned = dict.fromkeys(self.brackets, 0)
        for record in self.directory.records.values():
            if record.plan["role"] == "search":
                planned[record.plan["bracket"]] += 1
        quotas = design.quotas(self.study)
        behind = [
            name for name in self.brackets if planned[name] < quotas[name] and name not in self.searcher.exhausted
        ]
        return min(behind, key=lambda name: planned[name]) if behind else None

    def _propose(self) -> TrialRecord | None:
        assert self.searcher is not None
        bracket = self._next_bracket()
        assert bracket is not None
        found = self.searcher.propose(bracket)
        if found is None:
            self.warnings.append(f"{bracket}: 20 proposals in a row existed already; its space counts as exhausted")
            return None
        proposal, number = found
        row = self.identity.plan_row(proposal, "search", bracket, number)
        self.directory.add_to_plan([row])
        record = self.directory.records[row["trial_id"]]
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
        waiting = len(self.queue) + len(self.later) + self.phases.awaited(self._planned_all())
        if self.searcher is None:
            return waiting
        planned = sum(1 for record in self.directory.records.values() if record.plan["role"] == "search")
        return waiting + max(0, sum(design.quotas(self.study).values()) - planned)

    def started(self, record: TrialRecord) -> None:
        """A trial begins."""
        attempt = self.directory.trial(record.trial_id).latest_attempt() + 1
        self.directory.append("started", trial_id=record.trial_id, attempt=attempt)
        self.running[record.trial_id] = record

    def ended(self, record: TrialRecord, terminal: str, epoch: int, **fields: Any) -> bool:
        """A trial reached a terminal state: the ledger first, then whoever learns from it."""
        self.running.pop(record.trial_id, None)
        if not self.directory.finish(record.trial_id, terminal, epoch, **fields):
            return False
        if terminal == "pruned":
            self.pruned_at[record.trial_id] = time.monotonic()
        if fields.get("warning"):
            self.warnings.append(f"{record.trial_id}: {fields['warning']}")
        if self.searcher is not None:
            self.searcher.tell(record)
        return True

    def outcome(self, record: TrialRecord, result: Mapping[str, Any]) -> bool:
        """Takes the outcome row of a trial; True when it is terminal."""
        kind, epoch = str(result["outcome"]), int(result["epoch"])
        if result.get("disk"):  # the study ends; the trial goes on when the same command is given again
            self.directory.refused(str(result["disk"]))
        self.directory.catch_up(record)
        if kind == "interrupted":
            self.running.pop(record.trial_id, None)
            self.directory.append("interrupted", trial_id=record.trial_id, epoch=epoch)
            return False
        kept = ("warning", "error", "diverged_in", "test_accuracy")
        fields = {name: result[name] for name in kept if result.get(name) is not None}
        return self.ended(record, kind, epoch, **fields)

    def payload(self, record: TrialRecord, stop_actor: str | None) -> str:
        """What reaches a trial: plain JSON."""
        plan = record.plan
        rungs = self.study.rungs if plan["role"] == "search" else []
        cache = self.study.teacher_cache
        return json.dumps(
            {
                **{key: plan[key] for key in ("trial_id", "cell_id", "role", "arm", "seed", "settings", "params")},
                "cell": plan.get("cell"),
                "study": self.study.name,
                "study_uid": self.study_uid,
                "seeds": trial_seeds(plan["seed"], plan["settings"]),
                "report_trains_on": self.study.report.train_on,
                "teacher_file": asdict(self.identity.teacher_of(plan["role"])),
                "teacher_cache": None if cache is None else cache.model_dump(),
                "plugins": list(self.study.plugins),
                "plugin_folders": plugin_folders(self.study.plugins),
                "tracking": self.study.tracking.model_dump(),
                "rungs": rungs,
                "root": str(self.directory.root.resolve()),
                "stop_flag": self.directory.stop_flag.name,
                "stop_actor": stop_actor,
                "cpu": self.study.resources.cpu,
            },
            allow_nan=False,
        )


def trial_seeds(seed: int, settings: Mapping[str, Any]) -> dict[str, int]:
    """The seeds of one trial: the same for all sources of randomness but those that its cell shifts."""
    shift = settings.get("seeds", {})
    return {name: seed + shift.get(name, 0) for name in ("init", "order", "noise")}

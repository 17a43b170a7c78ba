"""What follows from the end of a search trial: further seeds, rounds of a race, a pilot's verdict; and when time is up.

Everything is decided from the plan and the ledger, and is in the ledger or the plan before it is acted on, so that a
study that was cut anywhere goes on alike.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from akdtune.records.ledger.events import Event, StudyStarted, TimeBudgetSpent
from akdtune.records.ledger.judgements import PilotJudged, RaceJudged
from akdtune.records.ledger.spans import read_times, spent_s
from akdtune.records.study_directory import StudyDirectory
from akdtune.records.trial_record import TrialRecord
from akdtune.search import pilot, racing
from akdtune.study import search_rules
from akdtune.study.spec import Study

Row = dict[str, Any]


class SearchPhase:
    """Decides, for the search of one study, what else is planned and whether more may start.

    Args:
        study: its settings.
        directory: its state.
        quotas: configurations of each bracket.
    """

    def __init__(self, study: Study, directory: StudyDirectory, quotas: Mapping[str, int]) -> None:
        self.search, self.scheduler = study.search, study.scheduler
        self.rungs = study.rungs
        self.directory = directory
        self.quotas = quotas
        self.seeds = study.search.training_seeds
        self.leads = search_rules.first_seed_leads(study.search, study.scheduler)
        self.races = study.scheduler.name == "racing"
        self._judged: dict[str, list[RaceJudged]] = {}
        self._settled: set[str] = set()
        for event in directory.events:
            if isinstance(event, RaceJudged):
                self._judged.setdefault(event.bracket, []).append(event)
            elif isinstance(event, PilotJudged):
                self._settled.add(event.bracket)
        self._planned: Counter[str] = Counter()
        self._seen = 0
        self._since = time.monotonic()
        self._before_s = 0.0
        if self.search.budget_s is not None:
            self._before_s = spent_s(read_times(directory.root))

    # ------------------------------------------------------------------------------------------- what follows

    def overdue(self) -> list[Row]:
        """Rows to plan after a cut between the end of a trial and what follows from it; a missing verdict is given."""
        rows = []
        if self.leads:
            rows += [row for record in list(self._leading()) for row in self._survivor(record)]
        for bracket in self.quotas:
            if self.races:
                rows += self._race(bracket)
            self._settle_pilot(bracket)
        return rows

    def after(self, record: TrialRecord) -> list[Row]:
        """Rows to plan once a trial has ended."""
        if record.plan["role"] != "search":
            return []
        if self.scheduler.pilot:
            self._settle_pilot(record.plan["bracket"])
        if self.races:
            return self._race(record.plan["bracket"])
        return self._survivor(record) if self.leads else []

    def follows(self, record: TrialRecord) -> bool:
        """Whether a trial is a further seed of a configuration that has shown itself: it is never pruned."""
        return self.leads and record.plan["role"] == "search" and record.plan["seed"] != self.seeds[0]

    def owed(self) -> int:
        """An upper bound of the rows that `after` may still give."""
        if self.leads:
            waiting = sum(record.terminal is None and not self.held_back(record) for record in self._leading())
            return waiting * (len(self.seeds) - 1)
        if self.races and not self.time_is_up():
            return sum(
                len(self._alive(bracket)) * (len(self.seeds) - self._planned_rounds(bracket)) for bracket in self.quotas
            )
        return 0

    def _leading(self, bracket: str | None = None) -> Iterator[TrialRecord]:
        for record in self.directory.records.values():
            if self._leads(record) and bracket in (None, record.plan["bracket"]):
                yield record

    def _leads(self, record: TrialRecord) -> bool:
        """Whether a trial is the first of its configuration in the search."""
        return bool(record.plan["role"] == "search" and record.plan["seed"] == self.seeds[0])

    def configurations(self) -> Counter[str]:
        """How many configurations of each bracket are planned; asked for each slot that is free."""
        records = self.directory.records
        if len(records) < self._seen:  # read anew
            self._planned, self._seen = Counter(), 0
        for record in islice(records.values(), self._seen, None):
            if self._leads(record):
                self._planned[str(record.plan["bracket"])] += 1
        self._seen = len(records)
        return self._planned

    def _survivor(self, record: TrialRecord) -> list[Row]:
        """The further seeds of a configuration whose first is done."""
        if record.terminal != "done" or record.plan["seed"] != self.seeds[0]:
            return []
        return self._with_seeds(record.plan, self.seeds[1:])

    def _with_seeds(self, plan: Mapping[str, Any], seeds: Iterable[int]) -> list[Row]:
        rows = [{**plan, "trial_id": f"{plan['cell_id']}-s{seed}", "seed": seed, "proposal": None} for seed in seeds]
        return [row for row in rows if row["trial_id"] not in self.directory.records]

    # --------------------------------------------------------------------------------------------------- races

    def _rounds(self, bracket: str) -> list[RaceJudged]:
        return self._judged.setdefault(bracket, [])

    def _alive(self, bracket: str) -> list[TrialRecord]:
        """The leading trials of the configurations that no race has dropped."""
        dropped = {cell for event in self._rounds(bracket) for cell in event.dropped}
        return [record for record in self._leading(bracket) if record.plan["cell_id"] not in dropped]

    def _planned_rounds(self, bracket: str) -> int:
        """Rounds whose trials are in the plan: those before the first test at once, then one after each test."""
        return min(len(self.seeds), max(self.scheduler.min_seeds, self._last_round(bracket) + 1))

    def _race(self, bracket: str) -> list[Row]:
        """Judges every round that is complete and not yet judged, and gives the rows of the next one."""
        if self.time_is_up():
            return []
        while True:
            alive, number = self._alive(bracket), self._planned_rounds(bracket)
            rows = [
                row for seed in self.seeds[:number] for record in alive for row in self._with_seeds(record.plan, [seed])
            ]
            if rows or not alive or self._last_round(bracket) >= number:
                return rows
            trials = {r.plan["cell_id"]: self._trials(r, number) for r in alive}
            if any(trial.terminal is None for of_cell in trials.values() for trial in of_cell):
                return []
            self._judge(bracket, number, trials)

    def _last_round(self, bracket: str) -> int:
        rounds = self._rounds(bracket)
        return rounds[-1].round if rounds else 0

    def _trials(self, leading: TrialRecord, number: int) -> list[TrialRecord]:
        records = self.directory.records
        return [records[f"{leading.plan['cell_id']}-s{seed}"] for seed in self.seeds[:number]]

    def _judge(self, bracket: str, number: int, trials: Mapping[str, list[TrialRecord]]) -> None:
        """Tests the configurations of a round and writes the verdict; what did not end everywhere is out at once."""
        values = {
            cell: [record.value for record in of_cell if record.terminal == "done" and record.value is not None]
            for cell, of_cell in trials.items()
        }
        whole = {cell: of_cell for cell, of_cell in values.items() if len(of_cell) == number}
        judged = racing.judged(whole, self.scheduler.alpha) if whole else []
        unfinished = [cell for cell in values if cell not in whole]
        verdict = RaceJudged(
            bracket=bracket,
            round=number,
            seeds=self.seeds[:number],
            alpha=self.scheduler.alpha,
            candidates=judged,
            unfinished=unfinished,
            dropped=[candidate.cell_id for candidate in judged if candidate.dropped] + unfinished,
        )
        self.directory.append(verdict)
        self._rounds(bracket).append(verdict)

    # -------------------------------------------------------------------------------------------------- pilots

    def _settle_pilot(self, bracket: str) -> None:
        """Writes how a bracket's rungs rank its pilot trials, once, when all of them have ended."""
        count = self.scheduler.pilot
        if not count or bracket in self._settled:
            return
        trials = pilot.pilots(self.directory.records.values(), bracket, count, self.seeds[0] if self.leads else None)
        expected = min(count, self.quotas[bracket]) if self.search.learns else min(count, len(trials))
        if len(trials) < max(1, expected) or any(record.terminal is None for record in trials):
            return
        rungs, threshold = pilot.correlations(trials, self.rungs), self.scheduler.pilot_threshold
        self.directory.append(PilotJudged(bracket=bracket, trials=len(trials), rungs=rungs, threshold=threshold))
        self._settled.add(bracket)

    # ---------------------------------------------------------------------------------------------------- time

    def time_is_up(self) -> bool:
        """Whether the time budget is spent, earlier runs of the study included."""
        budget_s = self.search.budget_s
        return budget_s is not None and self._before_s + time.monotonic() - self._since >= budget_s

    def held_back(self, record: TrialRecord) -> bool:
        """Whether a planned trial may not start for want of time: one of the search that has not begun.

        Further seeds of a configuration that has ended are no new configurations: they run.
        """
        fresh = record.plan["role"] == "search" and not record.attempts
        return fresh and not self.follows(record) and self.time_is_up()


def report_lines(study: Study, directory: StudyDirectory) -> list[str]:
    """What the closing report says of the search beside its trials: pilots, races, and where time was up."""
    lines = pilot.lines(directory.events) + race_lines(directory.events)
    held_back: int | None = None
    for event in directory.events:
        if isinstance(event, StudyStarted):
            held_back = None
        elif isinstance(event, TimeBudgetSpent):
            held_back = event.started
    if held_back is not None and study.search.budget_s is not None:
        lines.append(
            f"time budget: {study.search.budget_s / 3600:.3g} h were spent after {held_back} search trials had begun; "
            "no further one was started (the same command with a larger search.time_budget goes on)"
        )
    return lines


def race_lines(events: Iterable[Event]) -> list[str]:
    """A line for each bracket's race: how many configurations are left after how many seeds.

    Args:
        events: of the ledger; others than `race` are passed over.
    """
    rounds: dict[str, list[RaceJudged]] = {}
    for event in events:
        if isinstance(event, RaceJudged):
            rounds.setdefault(event.bracket, []).append(event)
    lines = []
    for bracket, of_bracket in rounds.items():
        last = of_bracket[-1]
        left = sum(not candidate.dropped for candidate in last.candidates)
        dropped = sum(len(event.dropped) for event in of_bracket)
        lines.append(
            f"race of {bracket}: {left} of {left + dropped} configurations are left after {last.round} seeds "
            f"(one-sided paired Wilcoxon test against the best, Holm over the candidates, alpha {last.alpha:g})"
        )
    return lines

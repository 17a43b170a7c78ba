"""What `akdtune show` opens with and `akdtune run` closes with: the answer, before the table of trials."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from akdtune.errors import StudyError
from akdtune.metric import ACCURACY, of_trials
from akdtune.records import files, lock_file
from akdtune.records.ledger.events import Event, StudyFinished, StudyStarted, TimeBudgetSpent
from akdtune.records.ledger.judgements import SeedsNeeded
from akdtune.records.ledger.spans import read_course, spans_of
from akdtune.records.study_lock import driver_of
from akdtune.reports.ablation.measured import Phase, phases_of
from akdtune.reports.ablation.tables import Result, compute
from akdtune.reports.standing import arms, leader, progress
from akdtune.reports.standing.leader import Leader
from akdtune.reports.standing.next_step import Asked, NextStep, next_step
from akdtune.reports.standing.progress import Durations
from akdtune.reports.standing.table import Table, wrapped
from akdtune.roles import TERMINAL

Row: TypeAlias = Mapping[str, Any]

RECENT_S = 600.0
"""A driver on another machine that has written within this time is taken to run."""


@dataclass(frozen=True)
class Standing:
    """How a study stands; prints as `akdtune show` opens.

    Attributes:
        leader: which arm leads, in one sentence; None before a trial has reached its last epoch.
        tables: the arms and cells that are comparable, the phase that decides first.
        progress: lines on trials and time.
        next: what to do next; None while the study runs, and where nothing is left to do.
    """

    leader: Leader | None
    tables: Sequence[Table]
    progress: Sequence[str]
    next: NextStep | None

    @property
    def sentence(self) -> str:
        """Which arm leads, by which phase, resolved or not."""
        return "no trial has reached its last epoch yet" if self.leader is None else self.leader.sentence

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def lines(self, width: int | None = None) -> list[str]:
        """The whole as text, with an empty line between its parts.

        Args:
            width: of the terminal: tables are fitted to it, sentences wrapped, commands continued by backslashes; None:
                none of it.
        """
        parts = [
            wrapped([self.sentence], width),
            *(table.lines(width) for table in self.tables),
            wrapped(self.progress, width),
            [] if self.next is None else self.next.lines(width),
        ]
        return [line for place, part in enumerate(filter(None, parts)) for line in ([""] if place else []) + part]


def standing(run: Path, rows: Sequence[Row], asked: Asked | None = None, now: float | None = None) -> Standing:
    """How a study stands, from its directory; neither torch nor predictions are read.

    Args:
        run: the study directory; the study may be running.
        rows: of `trials.parquet`, as `tables.read_trials` gives them.
        asked: what the study was asked for; None: what its lock says.
        now: seconds since 1970; None: the clock's.
    """
    asked = asked or Asked.of_lock(run, lock_file.read_lock(run))
    now = time.time() if now is None else now
    times, events = read_course(run, {"study_started", "study_finished", "time_budget", "seeds"})
    ended, held_back, needed, started = _said(events)
    elsewhere = _runs_elsewhere(started, times, now)
    live = driver_of(started) is not None or elsewhere
    spans = spans_of(times, now if live else None)
    design = _design(run)
    names = asked.arms or list(dict.fromkeys(str(row["arm"]) for row in rows))
    done = ended and not any(row["status"] not in TERMINAL for row in rows)
    to_come = progress.awaited(asked.settings, len(names), rows, design, done or held_back)
    epochs = (asked.settings.get("training") or {}).get("epochs")
    durations = Durations(rows, spans, epochs if isinstance(epochs, int) else None)
    results = _results(run, rows)
    leads = _leader(results, rows, (asked.settings.get("search") or {}).get("algorithm"))
    return Standing(
        leader=leads,
        tables=_tables(results, rows, asked),
        progress=progress.lines(
            rows,
            spans,
            [] if held_back else to_come,
            durations,
            f" on {started.host}" if elsewhere and started is not None else "",
        ),
        next=next_step(asked, rows, durations, to_come, leads, design, needed, held_back),
    )


def _design(run: Path) -> dict[str, Any]:
    """What design.json holds, nothing where it is damaged, which other commands say."""
    try:
        held = files.read_design(run)
    except StudyError:
        return {}
    return {name: phase for name, phase in held.items() if isinstance(phase, dict)}


def _runs_elsewhere(started: StudyStarted | None, times: Sequence[Event], now: float) -> bool:
    """Whether another machine's driver, whose process cannot be seen from here, has written a moment ago."""
    if started is None or started.host in (None, socket.gethostname()) or not times:
        return False
    return now - times[-1].time <= RECENT_S


def _said(events: Sequence[Event]) -> tuple[bool, bool, SeedsNeeded | None, StudyStarted | None]:
    """Whether the last driver came to the study's end, whether time was up, what a pilot asks for, and who drives."""
    ended, held_back, needed, started = False, False, None, None
    for event in events:
        if isinstance(event, StudyStarted):
            ended, held_back, started = False, False, event
        elif isinstance(event, StudyFinished):
            ended, started = not event.interrupted, None
        elif isinstance(event, TimeBudgetSpent):
            held_back = True
        elif isinstance(event, SeedsNeeded):
            needed = event
    return ended, held_back, needed, started


def _results(run: Path, rows: Sequence[Row]) -> list[Result]:
    """The phases that have begun, the confirmation first: it is of arms, an ablation of an arm's parts."""
    try:
        phases = phases_of(run, rows=rows)
    except StudyError:
        return []
    order = sorted(phases, key=lambda phase: phase.name != "confirm")
    return [compute(phase, run, draws=0, beside=phases) for phase in order if _has_begun(phase)]


def _has_begun(phase: Phase) -> bool:
    return any(cell.values or cell.outcomes for cell in phase.cells)


def _leader(results: Sequence[Result], rows: Sequence[Row], algorithm: str | None) -> Leader | None:
    """By the phase that decides: a confirmation, an ablation, seeds of a search, the best of a search."""
    for result in results:
        if (found := leader.of_result(result)) is not None:
            return found
    return leader.of_repeated(
        arms.repeated_arms(rows), metric=of_trials(rows[0]) if rows else ACCURACY
    ) or leader.of_configurations(arms.configurations(rows), arms.sampled_roles(rows, algorithm))


def _tables(results: Sequence[Result], rows: Sequence[Row], asked: Asked) -> list[Table]:
    """Phases with replicates; without one what search and probes allow."""
    if decided := [arms.of_result(result) for result in results]:
        return decided
    algorithm = (asked.settings.get("search") or {}).get("algorithm")
    found = (arms.of_search(rows, role, algorithm) for role in ("probe", "search"))
    return [table for table in found if table is not None]

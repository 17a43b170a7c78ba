"""The ledger, line by line: check words, what was planned, and that every trial ends once after epochs 1..n."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from akdtune.records import check_words, files
from akdtune.records.ledger import reading
from akdtune.records.ledger.events import (
    EpochFinished,
    Event,
    RungDecided,
    StudyFinished,
    TimeBudgetSpent,
    TrialEnded,
    TrialPlanned,
    TrialRetried,
)
from akdtune.records.ledger.lines import as_it_stands
from akdtune.records.study_lock import running_driver
from akdtune.reports.text import counted
from akdtune.verification.checks import Check, Progress, check


@dataclass
class OfTrial:
    """What the ledger holds of one trial.

    Attributes:
        ends: that count: those after it was last tried again.
        epochs: as they were reported, in order, since it last began anew.
        rungs: decisions.
        retried: whether it was ever tried again.
    """

    ends: list[TrialEnded] = field(default_factory=list)
    epochs: list[EpochFinished] = field(default_factory=list)
    rungs: list[RungDecided] = field(default_factory=list)
    retried: bool = False

    @property
    def end(self) -> TrialEnded | None:
        """How it ended; None while it has not."""
        return self.ends[-1] if self.ends else None


@dataclass
class Ledger:
    """Everything that the ledger says, changed lines included.

    Attributes:
        lines: how many there are.
        checked: how many of them have a check word.
        broken: what is wrong with lines, a sentence each.
        trials: by id.
        planned: the rows that were planned, by trial.
        finished: how the last driver left, None while one runs or none did.
        budget_spent: whether the time budget held trials back.
    """

    lines: int = 0
    checked: int = 0
    broken: list[str] = field(default_factory=list)
    trials: dict[str, OfTrial] = field(default_factory=dict)
    planned: dict[str, dict[str, Any]] = field(default_factory=dict)
    finished: StudyFinished | None = None
    budget_spent: bool = False


def read(run: Path, progress: Progress | None = None) -> Ledger:
    """Reads the ledger of a study; a last line that is being written is left out.

    Args:
        run: the study directory.
        progress: told about bytes read.

    Raises:
        StudyError: when it cannot be read.
    """
    held = Ledger()
    path = run / files.LEDGER
    done, total = 0, path.stat().st_size if path.exists() else 0
    for number, (_, _, line) in enumerate(reading.heads(run), start=1):
        if not line.endswith(b"\n"):
            break
        held.lines += 1
        done += len(line)
        if progress is not None and number % _TOLD == 0:
            progress("ledger, bytes", done, total)
        event = as_it_stands(line)
        holds = check_words.holds(line)
        held.checked += holds is not None
        if event is None:
            held.broken += [f"{files.LEDGER}, line {number}: holds no event"] if line.strip() else []
            continue
        if holds is False:
            held.broken.append(f"{files.LEDGER}, line {number} ({_called(event)}): was changed after it was written")
        elif holds is None and held.checked:
            held.broken.append(
                f"{files.LEDGER}, line {number} ({_called(event)}): has no check word, and earlier lines have one: "
                "changed by hand, or written by an earlier version"
            )
        _take(held, event)
    return held


_TOLD = 1_000
"""Progress is told after so many lines."""


def _called(event: Event) -> str:
    if isinstance(event, EpochFinished):
        return f"epoch {event.epoch} of trial {event.trial_id}"
    return f"{event.kind} of trial {event.trial_id}" if event.trial_id else event.kind


def _take(held: Ledger, event: Event) -> None:
    if isinstance(event, TrialPlanned):
        held.planned.setdefault(event.trial_id, event.plan)
        return
    if isinstance(event, StudyFinished):
        held.finished = event
    elif event.kind == "study_started":
        held.finished, held.budget_spent = None, False
    elif isinstance(event, TimeBudgetSpent):
        held.budget_spent = True
    if not event.trial_id:
        return
    trial = held.trials.setdefault(event.trial_id, OfTrial())
    if isinstance(event, TrialEnded):
        trial.ends.append(event)
    elif isinstance(event, TrialRetried):
        trial.ends, trial.retried = [], True
    elif isinstance(event, RungDecided):
        trial.rungs.append(event)
    elif isinstance(event, EpochFinished):
        if event.epoch == 1 and trial.retried and not trial.ends:
            trial.epochs = []  # tried again, from its beginning
        trial.epochs.append(replace(event, time=math.nan))


def lines(held: Ledger) -> Check:
    """Whether each line is what was written."""
    said = counted(held.lines, "line")
    if held.checked < held.lines:
        without = held.lines - held.checked
        said += f", {without} of an earlier version without a check word (compared with the trials' rows below)"
    return check("ledger", said, held.broken)


def exactly_once(run: Path, held: Ledger, plans: Mapping[str, Mapping[str, Any]]) -> Check:
    """Whether each planned trial ended once, after epochs 1..n."""
    found = [f"{files.LEDGER}: trial {name} is not in the plan" for name in held.trials.keys() - plans.keys()]
    open_trials = 0
    for trial_id in plans:
        trial = held.trials.get(trial_id, OfTrial())
        if len(trial.ends) > 1:
            kinds = ", ".join(end.kind for end in trial.ends)
            found.append(f"{files.LEDGER}: trial {trial_id} ended {len(trial.ends)} times ({kinds})")
        open_trials += not trial.ends
        if gap := gaps(event.epoch for event in trial.epochs):
            found.append(f"{files.LEDGER}: trial {trial_id} has {gap}")
        end = trial.end
        if end is not None and end.epoch is not None and trial.epochs and end.epoch != trial.epochs[-1].epoch:
            found.append(
                f"{files.LEDGER}: trial {trial_id} ended after epoch {end.epoch}, its last one is "
                f"{trial.epochs[-1].epoch}"
            )
    said = f"{counted(len(plans), 'planned trial')}, {len(plans) - open_trials} ended once"
    if open_trials:
        said += f"; {open_trials} have no end {_why_open(run, held)}"
        if _should_be_through(run, held):
            found.append(f"{files.LEDGER}: {counted(open_trials, 'planned trial')} without an end in a finished study")
    return check("exactly once", said, found)


def _should_be_through(run: Path, held: Ledger) -> bool:
    over = held.finished is not None and held.finished.interrupted is False and not held.budget_spent
    return over and running_driver(run) is None


def _why_open(run: Path, held: Ledger) -> str:
    if running_driver(run) is not None:
        return "yet, the study runs"
    if held.budget_spent:
        return "as its time was spent"
    return "yet" if held.finished is None or held.finished.interrupted else "(finished)"


def gaps(epochs: Iterable[Any]) -> str:
    """What is wrong with numbers that should be 1..n, in words; empty where nothing is."""
    listed = list(epochs)
    if listed == list(range(1, len(listed) + 1)):
        return ""
    missing = sorted(set(range(1, max(listed, default=0) + 1)) - set(listed))
    repeated = sorted({epoch for epoch in listed if listed.count(epoch) > 1})
    parts = [f"{word} {_few(numbers)}" for word, numbers in (("no", missing), ("more than one", repeated)) if numbers]
    return f"epochs 1..{max(listed, default=0)} with {' and '.join(parts)}" if parts else "its epochs out of order"


def _few(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:5])) + (", ..." if len(numbers) > 5 else "")

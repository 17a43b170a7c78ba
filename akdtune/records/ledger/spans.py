"""When a study ran, by its ledger: how long its drivers worked, how long each trial took, and how many ran at once."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from akdtune.records.ledger.events import Event
from akdtune.records.ledger.lines import parse
from akdtune.records.ledger.reading import heads
from akdtune.roles import TERMINAL

_TIME = re.compile(rb'"time": ([0-9.eE+]+)')


def read_times(run: Path) -> list[Event]:
    """Time, kind and trial of each line of the ledger, without what else it holds; of epochs in a row the last.

    Raises:
        StudyError: when the ledger cannot be read.
    """
    return read_course(run, ())[0]


def read_course(run: Path, kinds: Collection[str]) -> tuple[list[Event], list[Event]]:
    """`read_times`, and the events of some rare kinds with all that they hold, in one pass.

    Args:
        run: the study directory.
        kinds: of these events; not `epoch`.

    Raises:
        StudyError: when the ledger cannot be read.
    """
    times, whole = [], []
    for kind, trial_id, line in heads(run, "last"):
        found = _TIME.search(line, 0, 60)
        if kind and found is not None:
            times.append(Event(time=float(found[1]), kind=kind, trial_id=trial_id))
        if (kind in kinds or (kinds and not kind)) and (event := parse(line)) is not None and event.kind in kinds:
            whole.append(event)
    return times, whole


def spent_s(events: Iterable[Event]) -> float:
    """Seconds in which a driver ran trials: from each `study_started` to the last event before the next one.

    What a killed driver did after its last event is not counted.

    Args:
        events: of the ledger, in order.
    """
    total, began, last = 0.0, math.nan, math.nan
    for event in events:
        if event.kind == "study_started":
            total += 0.0 if math.isnan(began) else max(0.0, last - began)
            began = event.time
        last = event.time
        if event.kind == "study_finished" and not math.isnan(began):
            total += max(0.0, last - began)
            began = math.nan
    return total if math.isnan(began) else total + max(0.0, last - began)


@dataclass
class TrialSpan:
    """How long one trial ran.

    Attributes:
        seconds: over all its attempts; of one that runs, up to now.
        running_s: of the attempt that runs; None where none does.
        ended: done, pruned, diverged or failed; None before.
    """

    seconds: float = 0.0
    running_s: float | None = None
    ended: str | None = None


@dataclass(frozen=True)
class Spans:
    """When a study ran.

    Attributes:
        trials: by their ids, those that were begun.
        elapsed_s: seconds in which drivers ran trials; pauses between them do not count.
        live: whether a driver runs them now.
        at_once: the most trials that the last driver had running at a time; at least 1.
        finished: whether the last driver came to the study's end and was not cut off; none has begun: False.
    """

    trials: dict[str, TrialSpan] = field(default_factory=dict)
    elapsed_s: float = 0.0
    live: bool = False
    at_once: int = 1
    finished: bool = False

    @property
    def busy_s(self) -> float:
        """Seconds of all trials together."""
        return sum(span.seconds for span in self.trials.values())

    @property
    def pace(self) -> float:
        """Seconds that pass for each second of a trial: below 1 where several run at once."""
        busy_s = self.busy_s
        return self.elapsed_s / busy_s if busy_s > 0 and self.elapsed_s > 0 else 1 / self.at_once


def spans_of(events: Iterable[Event], now: float | None = None) -> Spans:
    """When a study ran.

    Args:
        events: of the ledger, in order; nothing but time, kind and trial is asked of them.
        now: seconds since 1970 where a driver runs the study; None: none does, and whatever ran was cut off at the last
            event of its driver.
    """
    listed = [event for event in events if not math.isnan(event.time)]
    trials: dict[str, TrialSpan] = {}
    begun: dict[str, float] = {}
    last, at_once, finished = math.nan, 1, False

    def leave(trial_id: str, at: float) -> None:
        span = trials.setdefault(trial_id, TrialSpan())
        span.seconds += max(0.0, at - begun.pop(trial_id, at))

    for event in listed:
        if event.kind in ("study_started", "study_finished"):
            for trial_id in list(begun):  # its driver was cut off
                leave(trial_id, last)
            at_once, finished = (1, False) if event.kind == "study_started" else (at_once, True)
        elif event.kind == "started":
            leave(event.trial_id, last)
            begun[event.trial_id] = event.time
            at_once = max(at_once, len(begun))
        elif event.kind == "retried":
            trials.setdefault(event.trial_id, TrialSpan()).ended = None
        elif event.kind == "interrupted" or event.kind in TERMINAL:
            if event.trial_id in begun:
                leave(event.trial_id, event.time)
            if event.trial_id in trials and event.kind in TERMINAL:
                trials[event.trial_id].ended = event.kind
        last = event.time
    live = now is not None and bool(listed)
    end = max(last, now) if now is not None and listed else last
    for trial_id in list(begun):
        running_s = max(0.0, end - begun[trial_id])
        leave(trial_id, end)
        trials[trial_id].running_s = running_s if live else None
    elapsed_s = spent_s([*listed, Event(time=end)] if live else listed)
    return Spans(trials, elapsed_s, live, at_once, finished)

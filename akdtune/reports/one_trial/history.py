"""How a trial went: when it waited, ran and was interrupted, what it measured, and of what its log warns."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from akdtune.errors import StudyError
from akdtune.records import files
from akdtune.records.ledger import reading
from akdtune.records.ledger.events import (
    Event,
    RungDecided,
    StudyFinished,
    StudyStarted,
    TrialEnded,
    TrialInterrupted,
    TrialPlanned,
    TrialRetried,
    TrialStarted,
)
from akdtune.records.ledger.judgements import RaceJudged
from akdtune.records.ledger.lines import parse
from akdtune.records.trial_directory import TrialDirectory

_OF_ALL = ("rung", "race", "study_started", "study_finished", "")
"""Kinds of events that are read of other trials and of the study."""


@dataclass(frozen=True)
class History:
    """What is on disk about one trial.

    Attributes:
        events: its own without epochs, and the study's rungs, races, starts and ends.
        rows: of its epochs.
        outcome: how it says it ended; empty while it has not.
        damage: what could not be read, a sentence each.
        warnings: of its log and its outcome.
        host: node of its latest attempt, empty where that is not known.
    """

    events: Sequence[Event]
    rows: Sequence[Mapping[str, Any]]
    outcome: Mapping[str, Any]
    damage: Sequence[str]
    warnings: Sequence[str]
    host: str = ""


@dataclass
class Times:
    """Where a trial's time went, in seconds.

    Attributes:
        planned: when, seconds since 1970; None in ledgers of earlier versions.
        waited_s: from there to its first start; None while it waits.
        ran_s: its attempts together, as the driver saw them.
        attempts: how many.
        notes: interruptions and second tries, a sentence each.
    """

    planned: float | None = None
    waited_s: float | None = None
    ran_s: float = 0.0
    attempts: int = 0
    notes: list[str] = field(default_factory=list)


def history(run: Path, trial_id: str) -> History:
    """Reads everything about one trial; what is damaged is said and left out."""
    events = []
    for kind, of, line in reading.heads(run):
        if kind != "epoch" and (of == trial_id or kind in _OF_ALL):
            event = parse(line)
            if event is not None and (event.trial_id in ("", trial_id) or isinstance(event, RungDecided | RaceJudged)):
                events.append(event)
    trial = TrialDirectory(files.trial_directory(run, trial_id))
    damage: list[str] = []
    rows: list[dict[str, Any]] = []
    outcome: dict[str, Any] = {}
    try:
        rows = sorted(trial.read_rows(), key=lambda row: int(row["epoch"]))
    except (StudyError, KeyError, TypeError) as error:
        damage.append(str(error))
    try:
        outcome = trial.read_outcome() or {}
    except StudyError as error:
        damage.append(str(error))
    warned = _warnings(trial.log)
    if outcome.get("warning") and outcome["warning"] not in " ".join(warned):
        warned.append(str(outcome["warning"]))
    return History(events, rows, outcome, damage, warned, trial.latest_host())


def _warnings(log: Path) -> list[str]:
    try:
        with log.open(encoding="utf-8", errors="replace") as lines:
            said = [line.strip() for line in lines if line.startswith("warning:") or "Warning: " in line]
    except OSError:
        return []
    return list(dict.fromkeys(line.removeprefix("warning: ") for line in said))


def times(events: Sequence[Event], trial_id: str) -> Times:
    """Where a trial's time went.

    Args:
        events: as `history` gives them.
        trial_id: of the trial.
    """
    found, began, last = Times(), math.nan, math.nan
    for event in events:
        own = event.trial_id == trial_id
        if isinstance(event, TrialPlanned) and own:
            found.planned = event.time
        elif isinstance(event, TrialStarted) and own:
            found.attempts += 1
            if found.waited_s is None and found.planned is not None:
                found.waited_s = max(0.0, event.time - found.planned)
            began = event.time
        elif isinstance(event, TrialInterrupted | TrialEnded | TrialRetried) and own:
            found.ran_s += 0.0 if math.isnan(began) else max(0.0, event.time - began)
            began = math.nan
            found.notes += _note(event)
        elif isinstance(event, StudyStarted | StudyFinished) and not math.isnan(began):
            until = event.time if isinstance(event, StudyFinished) else last
            found.ran_s += max(0.0, until - began)
            found.notes.append(f"{_clock(until)} interrupted: the driver {_left(event)}")
            began = math.nan
        last = event.time
    return found


def _left(event: Event) -> str:
    return "ended" if isinstance(event, StudyFinished) else "was killed"


def _note(event: Event) -> list[str]:
    if isinstance(event, TrialInterrupted):
        at = "" if event.epoch is None else f" after epoch {event.epoch}"
        return [f"{_clock(event.time)} interrupted{at}: {event.cause or 'the study was asked to stop'}"]
    if isinstance(event, TrialRetried):
        why = "" if event.error is None else f": {event.error}"
        return [f"{_clock(event.time)} tried again, it had {event.ended or 'ended'}{why}"]
    return []


def _clock(seconds: float) -> str:
    return time.strftime("%F %T", time.localtime(seconds)) if math.isfinite(seconds) else "(no time)"


def spent(history: History) -> dict[str, float]:
    """Seconds of its epochs by what they were spent on, as far as its rows say it."""
    total = {name: sum(row.get(name) or 0.0 for row in history.rows) for name in ("warmup_time_s", "wall_time_s")}
    parts = {"warm-up": total["warmup_time_s"], "epochs": total["wall_time_s"]}
    images = history.outcome.get("train_images")
    speeds = [row.get("images_per_s") for row in history.rows]
    if isinstance(images, int) and speeds and all(isinstance(speed, float) and speed > 0 for speed in speeds):
        training = sum(images / float(speed or 1) for speed in speeds)
        parts |= {"training": training, "evaluations": max(0.0, total["wall_time_s"] - training)}
    return parts

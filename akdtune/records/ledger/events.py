"""The ledger's events, typed: what a study writes down as it happens, one class a kind, one JSON line an event."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

from akdtune.records.check_words import with_check
from akdtune.roles import Terminal

_WRITTEN = json.JSONEncoder(allow_nan=False, default=asdict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One line of the ledger; of a kind that is not known here, or that lacks what its kind holds, nothing more.

    Attributes:
        time: when it was written, seconds since 1970; NaN before.
        kind: what happened; `event` in the file.
        trial_id: to which trial; empty where it concerns the study.
    """

    time: float = math.nan
    kind: str = ""
    trial_id: str = ""

    def plain(self) -> dict[str, Any]:
        """What stands in the file: every field without a default, any other one where it says something."""
        plain: dict[str, Any] = {"time": self.time, "event": self.kind}
        for name, default in fields_of(type(self)):
            value = getattr(self, name)
            if default is MISSING or value != default:
                plain[name] = value
        return plain

    def line(self) -> str:
        """The event as a line of the ledger."""
        return with_check(_WRITTEN.encode(self.plain())) + "\n"


_FIELDS: dict[type[Event], tuple[tuple[str, Any], ...]] = {}


def fields_of(kind: type[Event]) -> tuple[tuple[str, Any], ...]:
    """Names and defaults of a class's fields after the head, in the order of the file."""
    if kind not in _FIELDS:
        held = (field for field in fields(kind) if field.name not in ("time", "kind"))
        _FIELDS[kind] = tuple((field.name, field.default) for field in held)
    return _FIELDS[kind]


# ---------------------------------------------------------------------------------------------------- of the study


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyStarted(Event):
    """A driver began to run trials.

    Attributes:
        pid: its process.
        host: the machine that it runs on.
        born: tells the process from a later one of the same number, see `processes.born`.
        versions: of akdtune and of packages that numbers depend on, where they are not those that the study began with:
            then and now, by name.
    """

    kind: str = "study_started"
    pid: int | None = None
    host: str | None = None
    born: str | None = None
    versions: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyFinished(Event):
    """A driver ran its last trial.

    Attributes:
        interrupted: whether it was stopped before the study's end.
    """

    kind: str = "study_finished"
    interrupted: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeBudgetSpent(Event):
    """The time budget held trials of the search back.

    Attributes:
        started: how many search trials had begun by then.
    """

    kind: str = "time_budget"
    started: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DuplicateProposed(Event):
    """The search proposed what is planned already.

    Attributes:
        bracket: whose search.
        proposal: the number of the proposal there.
        of: the trial that is planned.
        raw: the values drawn, as the searcher names them.
        status: how that trial had ended by then; None: not yet.
    """

    kind: str = "duplicate"
    bracket: str
    proposal: int
    of: str
    raw: Mapping[str, Any]
    status: str | None


# ---------------------------------------------------------------------------------------------------- of one trial


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialPlanned(Event):
    """A trial was added to the plan, whose file does not have it yet.

    Attributes:
        plan: its row, decoded.
    """

    kind: str = "planned"
    trial_id: str
    plan: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialStarted(Event):
    """An execution of a trial began.

    Attributes:
        attempt: its number.
        objectives: what the search weighs, where that is more than accuracy.
        student_macs: multiply-adds of the student for one image, where the search weighs them.
    """

    kind: str = "started"
    trial_id: str
    attempt: int = 0
    objectives: Sequence[str] = ()
    student_macs: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochFinished(Event):
    """A trial reported an epoch.

    Attributes:
        epoch: its number.
        value: of the study's metric on validation images, percent; None where it is not finite or was not read.
        score: by which the search judges it; None likewise.
    """

    kind: str = "epoch"
    trial_id: str
    epoch: int
    value: float | None
    score: float | None

    def line(self) -> str:
        """The event as a line of the ledger, of which epochs are nearly all."""
        return epoch_line(self.time, self.trial_id, self.epoch, self.value, self.score)


@dataclass(frozen=True, slots=True, kw_only=True)
class RungDecided(Event):
    """A trial was judged at a rung.

    Attributes:
        epoch: after which it was.
        rung: the epoch of the rung.
        value: its score; None where that is not finite.
        cutoff: the score below which it would stop; None where there was none.
        decision: CONTINUE or STOP.
        bracket: in which it is.
        counted: whether its score only counts for others, as it had come to its end.
        pilot: whether it is of the pilot, and never stops.
        would: what was decided for one that is not.
    """

    kind: str = "rung"
    trial_id: str
    epoch: int
    rung: int
    value: float | None
    cutoff: float | None
    decision: str
    bracket: str
    counted: bool = False
    pilot: bool = False
    would: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialInterrupted(Event):
    """A trial saved itself, to go on later.

    Attributes:
        epoch: the last one finished.
        cause: what it met outside itself; None where it was asked to stop.
    """

    kind: str = "interrupted"
    trial_id: str
    epoch: int | None = None
    cause: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRetried(Event):
    """A trial that had ended is to go on: the terminal event before this one counts no more.

    Attributes:
        ended: how it had.
        error: what it had raised.
    """

    kind: str = "retried"
    trial_id: str
    ended: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialEnded(Event):
    """A trial is over.

    Attributes:
        kind: how it ended.
        epoch: the last one finished.
        reason: why it was stopped.
        reused_from: the study directory it was taken over from.
        warning: what the user should know of it.
        error: what a failed one raised.
        diverged_in: the epoch whose loss was not finite.
        test_accuracy: percent, where it has read the test set.
        test_value: the same of a study that is judged by another metric than accuracy.
        trained_on: processor, threads and versions, where it ended by itself.
    """

    kind: Terminal
    trial_id: str
    epoch: int | None = None
    reason: str | None = None
    reused_from: str | None = None
    warning: str | None = None
    error: str | None = None
    diverged_in: int | None = None
    test_accuracy: float | None = None
    test_value: float | None = None
    trained_on: Mapping[str, Any] | None = None

    @property
    def test(self) -> float | None:
        """The metric on the test set, percent, where it has read that."""
        return self.test_accuracy if self.test_value is None else self.test_value

    @classmethod
    def of_outcome(cls, trial_id: str, outcome: Mapping[str, Any], reused_from: str | None = None) -> TrialEnded:
        """The end of a trial that left this outcome, as it stands in outcome.json.

        Args:
            trial_id: of the trial.
            outcome: `outcome`, `epoch` and what else is known of its end.
            reused_from: where it was taken over from.
        """
        return cls(
            kind=outcome["outcome"],
            trial_id=trial_id,
            epoch=int(outcome["epoch"]),
            reused_from=reused_from,
            warning=outcome.get("warning"),
            error=outcome.get("error"),
            diverged_in=outcome.get("diverged_in"),
            test_accuracy=outcome.get("test_accuracy"),
            test_value=outcome.get("test_value"),
            trained_on=outcome.get("trained_on"),
        )


def planned_line(time: float, trial_id: str, plan: str) -> str:
    """What `Event.line` makes of a planned trial whose row is text already."""
    head = f'{{"time": {_number(time)}, "event": "planned", "trial_id": {_WRITTEN.encode(trial_id)}'
    return with_check(f'{head}, "plan": {plan}}}') + "\n"


def epoch_line(time: float, trial_id: str, epoch: int, value: float | None, score: float | None) -> str:
    """What `Event.line` makes of an epoch, in a third of the time.

    Args:
        time: seconds since 1970.
        trial_id: of the trial.
        epoch: its number.
        value: validation accuracy, percent; finite, or None.
        score: finite, or None.
    """
    values = f'"epoch": {epoch}, "value": {_number(value)}, "score": {_number(score)}'
    text = f'{{"time": {_number(time)}, "event": "epoch", "trial_id": {_WRITTEN.encode(trial_id)}, {values}}}'
    return with_check(text) + "\n"


def _number(value: float | None) -> str:
    if type(value) is float and math.isfinite(value):
        return float.__repr__(value)
    return "null" if value is None else _WRITTEN.encode(value)

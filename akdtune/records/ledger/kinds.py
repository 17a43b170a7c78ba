"""Which class an event of the ledger is, by the word that it is written with."""

from __future__ import annotations

from akdtune.records.ledger.events import (
    DuplicateProposed,
    EpochFinished,
    Event,
    RungDecided,
    StudyFinished,
    StudyStarted,
    TimeBudgetSpent,
    TrialEnded,
    TrialInterrupted,
    TrialPlanned,
    TrialRetried,
    TrialStarted,
)
from akdtune.records.ledger.judgements import PilotJudged, RaceJudged, SeedsNeeded
from akdtune.roles import TERMINAL

KINDS: dict[str, type[Event]] = {
    "study_started": StudyStarted,
    "study_finished": StudyFinished,
    "time_budget": TimeBudgetSpent,
    "duplicate": DuplicateProposed,
    "race": RaceJudged,
    "pilot": PilotJudged,
    "seeds": SeedsNeeded,
    "planned": TrialPlanned,
    "started": TrialStarted,
    "epoch": EpochFinished,
    "rung": RungDecided,
    "interrupted": TrialInterrupted,
    "retried": TrialRetried,
    **dict.fromkeys(TERMINAL, TrialEnded),
}

CLASSES: set[type[Event]] = {Event, *KINDS.values()}

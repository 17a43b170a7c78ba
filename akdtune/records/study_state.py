"""What plan and ledger say of a study, event by event: its trials, and what else happened."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from akdtune.errors import StudyError
from akdtune.records.files import LEDGER, PLAN
from akdtune.records.ledger.events import (
    EpochFinished,
    Event,
    RungDecided,
    TrialEnded,
    TrialInterrupted,
    TrialPlanned,
    TrialRetried,
    TrialStarted,
)
from akdtune.records.ledger.lines import epoch_of, parse, planned_in
from akdtune.records.ledger.reading import ledger_lines
from akdtune.records.plan_file import check_plan_row, plan_difference
from akdtune.records.trial_record import TrialRecord


class StudyState:
    """What is known of a study.

    Attributes:
        records: of every planned trial, in plan order.
        events: the ledger without epochs and planned trials, which are in `records`.
    """

    def __init__(self) -> None:
        self.records: dict[str, TrialRecord] = {}
        self.events: list[Event] = []

    def apply(self, event: Event) -> None:
        """Takes an event up."""
        if isinstance(event, TrialPlanned):
            if event.trial_id not in self.records:  # else plan.parquet has been written since
                self.records[event.trial_id] = TrialRecord(event.plan)
            return
        if isinstance(event, EpochFinished):
            self.apply_epoch(event.trial_id, event.epoch, event.value, event.score)
            return
        record = self.records.get(event.trial_id)
        self.events.append(event)
        if record is None:
            return
        if isinstance(event, RungDecided):
            record.rungs[event.rung] = event
        elif isinstance(event, TrialStarted):
            record.attempts += 1
            record.why = None
        elif isinstance(event, TrialInterrupted):
            record.why = event.cause
        elif isinstance(event, TrialRetried):
            record.terminal = record.test = None
            record.retried += 1
        elif isinstance(event, TrialEnded):
            record.test, record.why = event.test, event.error
            record.end(event.kind)

    def apply_epoch(self, trial_id: str, epoch: int, value: float | None, score: float | None) -> None:
        """Takes a finished epoch up."""
        record = self.records.get(trial_id)
        if record is not None:
            record.epochs[epoch] = (value, score)
            if record.missing:
                record.missing.discard(epoch)

    def replay(self, root: Path, texts: Mapping[str, bytes]) -> list[str]:
        """Applies the whole ledger to what `records` holds of the plan's file.

        Args:
            root: the study directory.
            texts: what the ledger holds of each of these trials, where the two are the same.

        Returns:
            What is wrong with lines and with rows of the plan's file, a sentence each.
        """
        said: list[str] = []
        unread: list[int] = []
        with _no_collections():
            for number, line in enumerate(ledger_lines(root), start=1):
                if (epoch := epoch_of(line)) is not None:
                    self.apply_epoch(*epoch)
                elif line.strip() and not self._take(root, line, texts, said):
                    unread.append(number)
        if unread:
            are = "1 line cannot be read" if len(unread) == 1 else f"{len(unread)} lines cannot be read"
            said.append(f"{root / LEDGER}: {are} (the first: line {unread[0]}); left out")
        return said

    def _take(self, root: Path, line: bytes, texts: Mapping[str, bytes], said: list[str]) -> bool:
        """Applies one line; whether it could be read."""
        planned = planned_in(line)
        if planned is not None and texts.get(planned[0]) == planned[1]:
            return True
        event = parse(line)
        if event is None:
            return False
        if isinstance(event, TrialPlanned):
            try:
                check_plan_row(root / LEDGER, event.plan)
            except StudyError:
                return False
            known = self.records.get(event.trial_id)
            if known is not None and (difference := plan_difference(known.plan, event.plan)):
                known.plan = event.plan
                said.append(
                    f"{root / PLAN}: trial {event.trial_id}: {difference}, as which it was "
                    f"planned; restored from {LEDGER}"
                )
        self.apply(event)
        return True


@contextmanager
def _no_collections() -> Iterator[None]:
    """Within it Python looks for no garbage: what is read stays, and looking it all over again costs time."""
    were = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if were:
            gc.enable()


def cut_torn_line(path: Path, block: int = 1 << 16) -> None:
    """Cuts off what a killed writer left after the last complete line, which it looks for from the end."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        size = start = file.seek(0, os.SEEK_END)
        newline = -1
        while start and newline < 0:
            end, start = start, max(0, start - block)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
        whole = start + newline + 1
        if whole < size:
            file.truncate(whole)

"""What a trial leaves on disk: rows of its epochs, its state, predictions, and last of all how it ended.

Everything that a trial must leave is written before each report, because a pruned trial does not come back from it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from akdtune.devices import resolve_device, trained_on
from akdtune.metric import ACCURACY
from akdtune.records.trial_directory import TrialDirectory
from akdtune.running.recorder import keep
from akdtune.running.saved_states import GoOn, save_state
from akdtune.settings.record import held_record
from akdtune.training.loop import Epoch, TrialLoop
from akdtune.training.request import TrialRequest
from akdtune.training.task import task_of

GATE_WARNING = 0.01
"""Share of open gates below which a diversity term counts as never having acted."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Limits:
    """How often a trial writes and reports between rungs.

    Attributes:
        checkpoint_every_s: the state is saved when so much time has passed since the last save, so that a kill costs
            no more than that.
        checkpoint_share: saving takes no larger share of the time: on slow storage a large state is saved less often.
        report_every_s: finished epochs are reported together, at most so often.
    """

    checkpoint_every_s: float = 300.0
    checkpoint_share: float = 0.01
    report_every_s: float = 1.0


class TrialWriter:
    """What one attempt of a trial puts on disk, and reports, while it runs.

    Rows are written before they are reported, and before a state that presupposes them is saved. The state is saved
    at rungs, at the last epoch, on interruption, and between these now and then. Reports go out at rungs, at the last
    epoch, and otherwise now and then, with all rows since the last one: an epoch of milliseconds would else wait for
    the driver longer than it trains.

    Args:
        request: what the trial was asked.
        directory: its files; None writes nothing.
        begins: what this attempt goes on from; a resumed trial reports its last row again.
        report: takes what is reported; a pruned trial does not come back from it. None: nobody.
        log: takes each row as it is finished, before anything is reported. None: nobody.
        limits: how often.
        clock: seconds, rising.

    Attributes:
        rows: of all finished epochs.
    """

    def __init__(
        self,
        request: TrialRequest,
        directory: TrialDirectory | None,
        begins: GoOn | None = None,
        report: Callable[[Row], None] | None = None,
        log: Callable[[Row], None] | None = None,
        limits: Limits | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        begins = begins or GoOn()
        self.request, self.directory, self.rows = request, directory, list(begins.rows)
        self._report, self._log, self._clock = report, log, clock
        self.limits = limits or Limits()
        self._metric = task_of(request.settings).metric
        self._decisive = {*request.rungs, request.settings["training"]["epochs"]}
        self._attempt = 1 if directory is None or directory.attempt is None else directory.attempt
        self._state: Mapping[str, Any] | None = None
        self._notes = list(begins.notes)
        self._file_differs = begins.file_differs
        self._warmup_s = 0.0
        self._written = self._reported = len(self.rows)
        if self._file_differs:
            self._written = 0
        self._saved_at = self._reported_at = clock()
        self._pause_s = self.limits.checkpoint_every_s
        if self.rows:
            self._reported -= 1
            self.report()

    def finished(self, epoch: Epoch) -> None:
        """One epoch is over; a pruned trial does not come back from here."""
        self._state = epoch.state
        decisive = epoch.stage == "student" and epoch.epoch in self._decisive
        if epoch.stage == "warmup":
            self._warmup_s += epoch.row["wall_time_s"] or 0.0
        else:
            head = {"trial_id": self.request.trial_id, "attempt": self._attempt, "epoch": epoch.epoch}
            self.rows.append({**head, **epoch.row, "warmup_time_s": self._warmup_s if epoch.epoch == 1 else 0.0})
            if self._log is not None:
                self._log(self.rows[-1])
        now = self._clock()
        if decisive or now - self._saved_at > self._pause_s:
            self.save()
        if epoch.stage == "student" and (decisive or now - self._reported_at > self.limits.report_every_s):
            self.report()

    def write(self) -> None:
        """Puts all rows on disk."""
        if self._written < len(self.rows):
            self._write_rows()

    def _write_rows(self) -> None:
        if self.directory is not None:
            self.directory.write_rows(self.rows)
        self._written = len(self.rows)

    def save(self) -> None:
        """Puts all rows and the last state on disk."""
        self.write()
        started = self._clock()
        if self._state is not None and self.directory is not None:
            save_state(self.directory, self.request.trial_id, self._state, self.rows)
        self._saved_at = self._clock()
        took_s = self._saved_at - started
        self._pause_s = max(self.limits.checkpoint_every_s, took_s / self.limits.checkpoint_share)

    def report(self) -> None:
        """Reports the rows since the last report; the last one's numbers stand at the top."""
        self.write()
        new = self.rows[self._reported :]
        self._reported, self._reported_at = len(self.rows), self._clock()
        if self._report is None:
            return
        rows = [
            [row["epoch"], _finite_or_none(row.get(self._metric.validation)), _finite_or_none(row.get("score"))]
            for row in new
        ]
        epoch, value, score = rows[-1]
        told = {"trial": self.request.trial_id, "epoch": epoch, "value": value, "score": score, "rows": rows}
        self._report({**told, "notes": self._notes} if self._notes else told)

    def diverged(self, epoch: int) -> Row:
        """The loss was not finite in an epoch; returns the outcome."""
        self.write()
        return self._ended({"outcome": "diverged", "epoch": len(self.rows), "diverged_in": epoch})

    def close(self, live: TrialLoop) -> Row:
        """A full-length trial ends: last reading, what `record` keeps, outcome, in this order; returns the last."""
        closing, predictions = live.close()
        recording = live.recording()
        if held_record(self.request.record).train:
            closing = {**closing, "plain_train_accuracy": recording.plain_train_accuracy()}
        if closing or self._file_differs:  # what was restored before the columns were known gets their declarations
            self.rows[-1] = {**self.rows[-1], **closing}
            self._write_rows()
        if self.directory is not None:
            keep(self.directory, self.request, recording, predictions)
        images = live.train_images
        outcome: Row = {"outcome": "done", "epoch": len(self.rows), "streams": live.streams, "train_images": images}
        if closing.get(self._metric.test) is not None:
            outcome["test_accuracy" if self._metric == ACCURACY else "test_value"] = closing[self._metric.test]
        if (warning := shut_gates(self.rows)) is not None:
            outcome["warning"] = warning
        return self._ended(outcome)

    def _ended(self, outcome: Row) -> Row:
        outcome["trained_on"] = trained_on(resolve_device(self.request.settings["training"].get("device", "auto")))
        if self.directory is not None:
            self.directory.write_outcome({**outcome, "trial_id": self.request.trial_id})
        return {**outcome, "notes": self._notes} if self._notes else outcome


def shut_gates(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """One line when a diversity gate never opened: the diversity term, margin and weight then meant nothing."""
    shut = []
    for column, name in (("gate_open_train", "feature"), ("gate_open_train_logit", "logit")):
        shares = [row[column] for row in rows if row.get(column) is not None]
        acts = any(f"loss.views.{name}_diversity" in row for row in rows)  # else it was switched off on purpose
        if acts and shares and max(shares) < GATE_WARNING:
            shut.append(name)
    if not shut:
        return None
    return f"the {' and '.join(shut)} diversity gate stayed under {GATE_WARNING}: its diversity term never acted"


def _finite_or_none(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value

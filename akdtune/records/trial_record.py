"""What is known of one planned trial."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from akdtune.records.ledger.events import RungDecided


@dataclass
class TrialRecord:
    """What is known of one planned trial.

    Attributes:
        plan: its row of the plan, JSON columns decoded (settings, params, raw).
        epochs: value and score by epoch, of every epoch the ledger holds; once the trial has ended, only of its rungs
            and of its last epoch, which is all that is asked for then.
        rungs: decisions by rung.
        terminal: done | pruned | diverged | failed, or None while it is unfinished.
        attempts: number of executions that started.
        test: the metric on the test set, percent, of a trial that has read the test set.
        why: what a failed trial raised, or what an interrupted one met outside itself.
        retried: how often it went on after it had failed.
        missing: epochs before `known_to` that the ledger lacks.
        known_to: the last epoch when the trial ended; `epochs` lacks most of those before it.
    """

    plan: dict[str, Any]
    epochs: dict[int, tuple[float | None, float | None]] = field(default_factory=dict)
    rungs: dict[int, RungDecided] = field(default_factory=dict)
    terminal: str | None = None
    attempts: int = 0
    test: float | None = None
    why: str | None = None
    retried: int = 0
    missing: set[int] = field(default_factory=set)
    known_to: int = 0

    @property
    def trial_id(self) -> str:
        """Of cell and seed: `<cell>-s<seed>`."""
        return str(self.plan["trial_id"])

    @property
    def last_epoch(self) -> int:
        """The last epoch in the ledger, 0 before the first."""
        return max(self.epochs, default=0)

    @property
    def value(self) -> float | None:
        """The metric on validation images after the last epoch."""
        return self.epochs[self.last_epoch][0] if self.epochs else None

    def lacks(self, epoch: int) -> bool:
        """Whether the ledger does not hold an epoch."""
        return epoch in self.missing or (epoch > self.known_to and epoch not in self.epochs)

    def end(self, terminal: str) -> None:
        """Notes how it ended, and forgets what nobody asks of a trial that has ended."""
        self.terminal = terminal
        self.missing |= {epoch for epoch in range(self.known_to + 1, self.last_epoch) if epoch not in self.epochs}
        self.known_to = self.last_epoch
        kept = {rung.epoch for rung in self.rungs.values()} | {self.last_epoch}
        self.epochs = {epoch: row for epoch, row in self.epochs.items() if epoch in kept}

"""What a running study shows: one live table in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from akdtune.ledger import TrialRecord

LINE_EVERY_S = 30.0
_STYLES = {"done": "green", "pruned": "yellow", "diverged": "magenta", "failed": "red"}


class Display:
    """Shows progress of the teacher and of the trials.

    Args:
        console: where to show it; a terminal gets a live table, anything else a line per finished trial.
        study: its name.
        total: trials the study will have in all.
        epochs: student epochs of a full trial.
    """

    def __init__(self, console: Console, study: str, total: int, epochs: int) -> None:
        self.console = console
        self.study = study
        self.total = total
        self.epochs = epochs
        self.started = time.monotonic()
        self.teacher_line = ""
        self.running: dict[str, TrialRecord] = {}
        self._live: Live | None = None
        self._last_line = time.monotonic()
        self._finished = 0

    def __enter__(self) -> Display:
        if self.console.is_terminal:
            self._live = Live(console=self.console, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def teacher(self, row: Mapping[str, object]) -> None:
        """One epoch of the teacher's training."""
        self.teacher_line = (
            f"teacher: epoch {row['epoch']} of {row['epochs']}, loss {row['loss']:.3f}, "
            f"training accuracy {row['train_accuracy']:.1f} %"
        )
        if self._live is not None:
            self._live.update(Text(self.teacher_line), refresh=True)
        elif time.monotonic() - self._last_line > LINE_EVERY_S:
            self._last_line = time.monotonic()
            self.console.print(self.teacher_line, highlight=False)

    def finished(self, record: TrialRecord) -> None:
        """One trial ended."""
        self._finished += 1
        self.running.pop(record.trial_id, None)
        if self._live is None:
            self._last_line = time.monotonic()
            value = "" if record.value is None else f" validation {record.value:5.2f} %"
            self.console.print(
                f"{self._clock()} {record.trial_id} {record.plan['arm']} {record.plan['role']}: "
                f"{record.terminal} at epoch {record.last_epoch}{value}",
                highlight=False,
                soft_wrap=True,
            )

    def update(self, records: Iterable[TrialRecord]) -> None:
        """Redraws the live table, at most a few times a second; a line now and then where there is no terminal."""
        now = time.monotonic()
        if self._live is not None and now - self._last_line > 0.25:
            self._last_line = now
            self._live.update(self._render(list(records)), refresh=True)
        elif self._live is None and now - self._last_line > LINE_EVERY_S:
            self._last_line = now
            self.console.print(self._summary(list(records)), highlight=False)

    def _clock(self) -> str:
        seconds = int(time.monotonic() - self.started)
        return f"{seconds // 60:d}:{seconds % 60:02d}"

    def _summary(self, records: list[TrialRecord]) -> str:
        counts = Counter(record.terminal for record in records if record.terminal)
        ended = sum(counts.values())
        parts = ", ".join(f"{counts[name]} {name}" for name in _STYLES if counts[name])
        return f"{self.study}  {self._clock()}  {ended} of {self.total} trials{': ' + parts if parts else ''}{self._left(ended)}"

    def _left(self, ended: int) -> str:
        if self._finished < 2 or ended >= self.total:
            return ""
        left_s = (time.monotonic() - self.started) / self._finished * (self.total - ended)
        return f", about {duration(left_s)} left"

    def _render(self, records: list[TrialRecord]) -> RenderableType:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in ("arm", "trials", "done", "pruned", "best validation", "running"):
            table.add_column(name, justify="left" if name in ("arm", "running") else "right")
        arms: dict[str, list[TrialRecord]] = {}
        for record in records:
            arms.setdefault(str(record.plan["arm"]), []).append(record)
        for arm, of_arm in sorted(arms.items()):
            counts = Counter(record.terminal for record in of_arm)
            values = [r.value for r in of_arm if r.terminal == "done" and r.value is not None]
            running = ", ".join(
                f"{r.plan['role']} {r.last_epoch}/{self.epochs}" for r in of_arm if r.trial_id in self.running
            )
            best = f"{max(values):.2f} %" if values else "–"
            table.add_row(
                escape(arm), str(len(of_arm)), str(counts["done"]), str(counts["pruned"]), best, escape(running)
            )
        return Group(Text(self._summary(records), style="bold"), table)


def duration(seconds: float) -> str:
    """A duration in the unit a person would use."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

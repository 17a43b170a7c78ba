"""What a running study shows: first lines, one live table (plain lines where there is no terminal), last lines."""

from __future__ import annotations

import shlex
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from akdtune import progress
from akdtune.planning.report import opening
from akdtune.records import tables
from akdtune.records.study_directory import StudyDirectory
from akdtune.records.trial_record import TrialRecord
from akdtune.reports.pareto import text
from akdtune.reports.standing.next_step import Asked
from akdtune.reports.standing.opening import standing
from akdtune.reports.text import counted, duration
from akdtune.running.printed import beside, say
from akdtune.search.follow_up import report_lines
from akdtune.study.proposals import Outline
from akdtune.study.spec import Study

DRAW_EVERY_S = 1.0
"""Between two drawings of the table, whose layout is what a display costs."""

_RUNNING_SAID = 4
_STYLES = {"done": "green", "pruned": "yellow", "diverged": "magenta", "failed": "red"}


class Display:
    """Shows progress of the teacher and of the trials.

    Args:
        console: where to show it; a terminal gets a live table, anything else a line per finished trial, and on
            standard error a line where nothing ends for long.
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
        self.running: dict[str, TrialRecord] = {}
        self._live: Live | None = None
        self._table: tuple[list[Segment], ...] = ()
        self._counts: Counter[str] = Counter()
        self._stages = progress.Shown(beside(console))
        self._has_ended = False
        self._drawn_at = 0.0
        self._finished = 0
        self._first_trial = 0.0

    def __enter__(self) -> Display:
        return self

    def __exit__(self, *_: object) -> None:
        self._has_ended = True
        self._stages.stage(None)
        self._stop_live()

    def stage(self, what: str | None) -> None:
        """Shows what is done before trials run, in the place of the table."""
        if what is not None and self._has_ended:
            return
        if what is not None:
            self._stop_live()
        self._stages.stage(what)

    def at(self, done: int, total: int, unit: str) -> None:
        """Shows how far such a stage is."""
        self._stages.at(done, total, unit)

    def words(self, words: progress.Words) -> None:
        """Shows what such a stage says of itself."""
        self._stages.words(words)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The summary of this moment above the table as it was last laid out."""
        yield Text(self._summary(), style="bold")
        for line in self._table:
            yield from line
            yield Segment.line()

    def _draw(self) -> None:
        """Draws the table in the one place of a terminal that moves; there it goes on moving by itself."""
        if self._has_ended:
            return
        self._stages.stage(None)
        if self._live is None:
            self._live = Live(self, console=self.console, refresh_per_second=1 / DRAW_EVERY_S, transient=True)
            self._live.start(refresh=True)

    def _stop_live(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def teacher(self, row: Mapping[str, object]) -> None:
        """Shows how far the teacher's training is."""
        if "waits" in row:
            say(self.console, str(row["waits"]))
            return
        which = f"{row['network']} ({row['number']} of {row['networks']}), " if row.get("networks", 1) != 1 else ""
        line = (
            f"teacher: {which}epoch {row['epoch']} of {row['epochs']}, loss {row['loss']:.3f}, "
            f"training accuracy {row['train_accuracy']:.1f} %"
        )
        self.words(lambda: line)

    def finished(self, record: TrialRecord) -> None:
        """Takes a trial that ended out of those that run; a log gets a line for it."""
        self._finished += 1
        self.running.pop(record.trial_id, None)
        if not self.console.is_terminal:
            value = "" if record.value is None else f" validation {record.value:5.2f} %"
            value += "" if record.test is None else f" test {record.test:5.2f} %"
            which = record.plan.get("cell") or record.plan["arm"]
            self.console.print(
                f"{self._clock()} {record.trial_id} {which} {record.plan['role']}: "
                f"{record.terminal} at epoch {record.last_epoch}{value}",
                highlight=False,
                soft_wrap=True,
            )

    def interrupted(self, record: TrialRecord) -> None:
        """Takes a trial that saved itself out of those that run; a log gets a line where it met something outside."""
        self.running.pop(record.trial_id, None)
        if not self.console.is_terminal and record.why is not None:
            which = record.plan.get("cell") or record.plan["arm"]
            self.console.print(
                f"{self._clock()} {record.trial_id} {which} {record.plan['role']}: "
                f"interrupted at epoch {record.last_epoch}: {record.why}",
                highlight=False,
                soft_wrap=True,
            )

    def update(self, records: Iterable[TrialRecord]) -> None:
        """Lays the table out anew, at most once a second; where there is no terminal a line, if none was for long."""
        now = time.monotonic()
        if self.running and not self._first_trial:
            self._first_trial = now
            self._stages.stage(None)
        if not self._first_trial:
            return
        if self.console.is_terminal and now - self._drawn_at >= DRAW_EVERY_S:
            self._drawn_at = now
            self._lay_out(list(records))
            self._draw()
        elif not self.console.is_terminal and progress.is_silent(self.started):
            self._count(records)
            progress.said()
            self._stages.console.print(self._summary(), highlight=False, soft_wrap=True)

    def _clock(self) -> str:
        seconds = int(time.monotonic() - self.started)
        return f"{seconds // 60:d}:{seconds % 60:02d}"

    def _count(self, records: Iterable[TrialRecord]) -> None:
        self._counts = Counter(record.terminal for record in records if record.terminal)

    def _summary(self) -> str:
        counts = self._counts
        ended = sum(counts.values())
        parts = ", ".join(f"{counts[name]} {name}" for name in _STYLES if counts[name])
        outcomes = f": {parts}" if parts else ""
        running = "" if self.console.is_terminal else self._running()
        return f"{self.study}  {self._clock()}  {ended} of {self.total} trials{outcomes}{running}{self._left(ended)}"

    def _running(self) -> str:
        """How far the trials are that run, for a log."""
        records = list(self.running.values())
        epochs = ", ".join(f"epoch {record.last_epoch} of {self.epochs}" for record in records[:_RUNNING_SAID])
        more = f" and {len(records) - _RUNNING_SAID} more" if len(records) > _RUNNING_SAID else ""
        return f", running: {epochs}{more}" if records else ""

    def _left(self, ended: int) -> str:
        if self._finished < 2 or ended >= self.total:
            return ""
        left_s = (time.monotonic() - self._first_trial) / self._finished * (self.total - ended)
        return f", about {duration(left_s)} left"

    def _lay_out(self, records: list[TrialRecord]) -> None:
        self._count(records)
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in ("arm", "trials", "done", "pruned", "best validation", "mean test", "running"):
            table.add_column(name, justify="left" if name in ("arm", "running") else "right")
        arms: dict[str, list[TrialRecord]] = {}
        for record in records:
            arms.setdefault(str(record.plan.get("cell") or record.plan["arm"]), []).append(record)
        for arm, of_arm in sorted(arms.items()):
            counts = Counter(record.terminal for record in of_arm)
            values = [r.value for r in of_arm if r.terminal == "done" and r.value is not None]
            running = ", ".join(
                f"{r.plan['role']} {r.last_epoch}/{self.epochs}" for r in of_arm if r.trial_id in self.running
            )
            best = f"{max(values):.2f} %" if values else "–"
            tests = [r.test for r in of_arm if r.test is not None]
            mean = f"{fmean(tests):.2f} %" if tests else "–"
            row = [str(len(of_arm)), str(counts["done"]), str(counts["pruned"]), best, mean]
            table.add_row(Text(arm), *row, Text(running))
        self._table = tuple(self.console.render_lines(table, pad=False))


def command_line(study: Study, root: Path) -> str:
    """The command that resumes this study."""
    return Asked(root, {"study": study.name}, source=str(study.source), overrides=study.overrides).command()


def short_report(outline: Outline, directory: StudyDirectory) -> str:
    """What `akdtune run` prints first, unless the command line has printed it for a new study."""
    records = directory.records.values()
    ended = sum(record.terminal is not None for record in records)
    state = f"resuming: {ended} of {outline.trials} trials have ended" if records else "new"
    return opening(outline, directory.root, state)


def closing_report(study: Study, directory: StudyDirectory, width: int | None = None) -> str:
    """What `akdtune run` prints last: outcomes, then what `akdtune show` opens with; `width` is a terminal's."""
    records = list(directory.records.values())
    kinds = ("done", "pruned", "diverged", "failed")
    counts = {kind: sum(record.terminal == kind for record in records) for kind in kinds}
    counts["unfinished"] = sum(record.terminal is None for record in records)
    lines = [
        f"{counted(len(records), 'trial')}: " + ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
    ]
    root = shlex.quote(str(directory.root))
    for record in records:
        if record.terminal == "failed":
            why = "" if record.why is None else f": {record.why}"
            log = directory.trial(record.trial_id).log
            lines.append(f"  failed: {record.trial_id} ({record.plan['arm']}){why}, see {log}")
    for record in records:
        if record.terminal is None and record.why is not None:
            lines.append(f"  interrupted: {record.trial_id} ({record.plan['arm']}): {record.why}")
    rows = tables.read_trials(directory.root).to_pylist()
    lines += ["", *standing(directory.root, rows, asked(study, directory)).lines(width), ""]
    if study.search.searches:
        lines += report_lines(study, directory)
    if len(study.search.objectives) > 1:
        lines += [
            "configurations that no other beats in every objective, as measured (near ones may change places):",
            text(rows, study.search.objectives),
        ]
    lines += ["more:"]
    lines += [f"  akdtune analyze ablation {root}"] if study.reports else []
    if study.search.searches or study.probe is not None:
        lines.append(f"  akdtune analyze diversity_accuracy {root}")
    return "\n".join([*lines, f"  akdtune show {root}", f"  akdtune report {root}"])


def asked(study: Study, directory: StudyDirectory) -> Asked:
    """What the study was asked for, with where this run's settings come from."""
    held = Asked.of_lock(directory.root, directory.read_lock())
    return replace(
        held,
        settings=held.settings or study.resolved(),
        arms=tuple(arm.name for arm in study.arms),
        source=str(study.source),
        overrides=tuple(study.overrides),
    )

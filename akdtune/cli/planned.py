"""What `akdtune plan` prints, as soon as each part of it is known."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from akdtune.cli.terminal.text import columns
from akdtune.cli.waiting import waiting
from akdtune.planning import report
from akdtune.planning.plan import Plan
from akdtune.planning.timing import Seen, Timing, TimingProgress
from akdtune.reports.fitting import fitted
from akdtune.running import extension
from akdtune.running.interruption import INTERRUPTED
from akdtune.study.spec import Study
from akdtune.tracking.study import plan_line


def print_plan(study: Study, root: Path | None, *, extend: bool, timing: bool) -> int:
    """Prints a plan in the order in which it is known.

    Args:
        study: the checked settings.
        root: the directory of a study that has begun; None: the plan is of a new one.
        extend: whether trials may be added to it.
        timing: whether a few steps are timed.

    Returns:
        The exit code: that of an interrupted command where timing was.

    Raises:
        AkdtuneError: for what a run would refuse, too.
    """
    begun = None if root is None else extension.begun(study, root, extend=extend)
    plan = Plan.outlined(study if begun is None else begun.study)
    _print([*report.outline_lines(plan), plan_line(study.tracking.model_dump())])
    if begun is not None:
        _print(begun.lines)
    with waiting("looking at data and networks"):
        plan = plan.with_data()
    _print(report.data_lines(plan))
    if begun is None:
        return _print_times(plan, timing)[1]
    added = extension.added_to(begun, plan)
    _print(extension.new_lines(begun, plan, added))
    if begun.has_times:  # better than any timed step
        return 0
    plan, code = _print_times(plan, timing)
    _print(extension.timed_lines(plan, added))
    return code


def _print_times(plan: Plan, timing: bool) -> tuple[Plan, int]:
    """Prints what a trial of each arm costs; returns the plan with that, and the exit code."""
    timed = plan.timing() if timing else None
    code = 0 if timed is None else _timed(timed)
    plan = plan if timed is None else plan.with_times(timed)
    _print(report.time_lines(plan))
    return plan, code


def _print(lines: Sequence[str]) -> None:
    if lines:
        print(fitted("\n".join(lines), columns()), flush=True)


def _timed(timing: Timing) -> int:
    """Times with a line of progress; a signal ends it and not the command, which says what is known."""
    try:
        with _progress() as seen:
            timing.run(seen)
    except (KeyboardInterrupt, SystemExit):
        print("timing was interrupted: what is not timed is estimated from what is", file=sys.stderr, flush=True)
        return INTERRUPTED
    return 0


@contextlib.contextmanager
def _progress() -> Iterator[Seen]:
    """A line on stderr that says what is timed, on a terminal; nothing elsewhere."""
    from rich.console import Console

    console = Console(stderr=True, markup=False, highlight=False)
    if not console.is_terminal:
        yield lambda _: None
        return
    with console.status("timing a few steps") as status:
        yield lambda progress: status.update(_Timed(progress))


class _Timed:
    """How far timing is, as it is drawn."""

    def __init__(self, progress: TimingProgress) -> None:
        self._progress, self._until = progress, time.monotonic() + progress.left_s

    def __rich__(self) -> str:
        left_s = max(0.0, self._until - time.monotonic())
        return (
            f"timing {self._progress.what}: {self._progress.done} of {self._progress.groups} kinds of arms are timed, "
            f"at most {left_s:.0f} s left (Ctrl-C: enough)"
        )

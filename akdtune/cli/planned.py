"""What `akdtune plan` prints, as soon as each part of it is known."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from akdtune import progress
from akdtune.cli.terminal.text import columns
from akdtune.cli.waiting import waiting
from akdtune.planning import report
from akdtune.planning.plan import Plan
from akdtune.planning.timing import Timing, TimingProgress
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
    said = report.data_lines(plan)
    _print(said)
    if begun is None:
        return _print_times(plan, timing)[1]
    added = extension.added_to(begun, plan)
    _print([line for line in extension.new_lines(begun, plan, added) if line not in said])
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
        progress.said()


def _timed(timing: Timing) -> int:
    """Times with a line of progress; a signal ends it and not the command, which says what is known."""
    try:
        with waiting("timing a few steps"):
            timing.run(_show)
    except (KeyboardInterrupt, SystemExit):
        print("timing was interrupted: what is not timed is estimated from what is", file=sys.stderr, flush=True)
        return INTERRUPTED
    return 0


def _show(timed: TimingProgress) -> None:
    """Says what is timed, and how long still at most."""
    until = time.monotonic() + timed.left_s

    def words() -> str:
        left_s = until - time.monotonic()
        left = f"at most {left_s:.0f} s left" if left_s >= 1 else "about to end"
        return f"timing {timed.what}: {timed.done} of {timed.groups} kinds of arms are timed, {left} (Ctrl-C: enough)"

    progress.words(words)

"""A plan asked for from Python: a value to read, shown as `akdtune plan` prints it."""

from __future__ import annotations

from html import escape
from pathlib import Path

from akdtune.planning.plan import Plan
from akdtune.planning.report import plan_report
from akdtune.study.from_python import as_study
from akdtune.study.spec import Study


class ShownPlan(Plan):
    """A plan that prints and shows itself as `akdtune plan` does; its attributes are `Plan`'s."""

    def __str__(self) -> str:
        return "\n".join(plan_report(self))

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"


def plan(study: Study | str | Path, *, timed: bool = True) -> ShownPlan:
    """What a study would do: arms, counts, cells, rungs, missing files, and the time that a few real steps predict.

    Args:
        study: as `read` gives it, or its name.
        timed: whether to run these steps; without them there are no times.

    Raises:
        AkdtuneError: for settings, data or components that do not fit.
    """
    return ShownPlan.of(as_study(study), timed)

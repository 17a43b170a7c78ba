"""A plan asked for from Python: shown as `akdtune plan` prints it."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path

from akdtune.planning.report import plan_report
from akdtune.study.from_python import as_study
from akdtune.study.spec import Study


@dataclass(frozen=True, repr=False)
class Preview:
    """What a study would do, without doing it; prints and shows itself as text.

    Attributes:
        study: whose plan it is.
        lines: what `akdtune plan` prints: arms, searched settings, counts, rungs, missing files, time and disk.
    """

    study: Study
    lines: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(self.lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"


def plan(study: Study | str | Path) -> Preview:
    """What a study would do: arms, counts, rungs, missing files, and the time that a few real steps predict.

    Args:
        study: as `read` gives it, or its name.

    Raises:
        AkdtuneError: for settings, data or components that do not fit.
    """
    asked = as_study(study)
    return Preview(asked, tuple(plan_report(asked)))

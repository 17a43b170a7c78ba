"""What `akdtune.load(RUN).detection()` gives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from akdtune.errors import StudyError
from akdtune.reports.detection import figures, report, verdict
from akdtune.reports.detection.judged import Detection
from akdtune.reports.notebook import html_table
from akdtune.reports.text import markdown_table


@dataclass(frozen=True, repr=False)
class Detected:
    """Whether students were traced to their teachers, as `akdtune analyze detection` last found it.

    Attributes:
        study: its name, for titles.
        found: everything: `.rates`, `.preferences`, `.choices`, `.teachers`, `.students`.
    """

    study: str
    found: Detection

    @property
    def verdict(self) -> str:
        """The one sentence: accuracies by KL at the largest number of inputs, beside chance and negative control."""
        return verdict.sentence(self.found)

    @property
    def sentences(self) -> list[str]:
        """The verdict, then what stands beside it and what was left out."""
        return [self.verdict, *verdict.remarks(self.found)]

    def report(self) -> dict[str, Any]:
        """Everything as plain JSON."""
        return report.content(self.found)

    def figure(self) -> Any:
        """Accuracy by number of inputs as a matplotlib Figure.

        Raises:
            StudyError: where no student's teacher is known.
        """
        drawn = figures.accuracy(self.found, self.study)
        if drawn is None:
            raise StudyError(f"{self.study}: nothing to draw: no student's teacher is known")
        return drawn.figure

    def _table(self) -> tuple[list[str], list[list[str]]]:
        if not self.found.rates:
            return list(verdict.CHOICE_HEADINGS), verdict.choice_rows(self.found)
        return verdict.headings(self.found), verdict.rows(self.found)

    def __repr__(self) -> str:
        return f"{self.verdict}\n\n{markdown_table(*self._table())}"

    def _repr_html_(self) -> str:
        return html_table(*self._table(), self.verdict)


def detected(run: Path) -> Detected:
    """What a detection has found for a study.

    Raises:
        StudyError: where nobody has asked for it yet, with the command; when what it left cannot be read.
    """
    found = report.stored(run)
    if found is None:
        raise StudyError(
            f"{run}: no detection yet; it asks networks, so that a command makes it: akdtune analyze detection {run} "
            "... (with the studies of the other teachers)"
        )
    return Detected(run.resolve().name, found)

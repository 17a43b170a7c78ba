"""What `akdtune analyze transfer` answers, as a value with its figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from akdtune.reports.notebook import html_table
from akdtune.reports.text import markdown_table
from akdtune.reports.transfer import figures, report, verdict
from akdtune.reports.transfer.comparison import Comparison, Finding, compare
from akdtune.reports.transfer.students import Students, students_of


@dataclass(frozen=True, repr=False)
class Transfer:
    """What students have taken over from their teachers, against independent students.

    Attributes:
        study: the studies' names, for titles.
        comparison: everything that `akdtune analyze transfer` computes.
    """

    study: str
    comparison: Comparison

    @property
    def students(self) -> Students:
        """Every student with its measures, by teacher, cell and seed; what was left out, and why."""
        return self.comparison.students

    @property
    def findings(self) -> list[Finding]:
        """Each cell against its control, in the order of the design."""
        return self.comparison.findings

    @property
    def verdict(self) -> str:
        """What is resolved after the correction, in one sentence."""
        return verdict.sentence(self.comparison)

    @property
    def sentences(self) -> list[str]:
        """The verdict, and how to read the tables."""
        return [self.verdict, *verdict.notes(self.comparison)]

    def report(self) -> dict[str, Any]:
        """Everything that was computed, as plain JSON."""
        return report.report(self.comparison)

    def figure(self) -> Any:
        """Gains of agreement by whether the teacher is right, and the four cells, as a matplotlib Figure."""
        return figures.split(self.comparison, self.study).figure

    def _rows(self) -> list[list[str]]:
        return verdict.difference_rows(self.comparison)

    def __repr__(self) -> str:
        rows = self._rows()
        table = markdown_table(verdict.DIFFERENCE_HEADINGS, rows) if rows else ""
        return f"{table}\n{self.verdict}".strip()

    def _repr_html_(self) -> str:
        rows = self._rows()
        return html_table(verdict.DIFFERENCE_HEADINGS, rows, self.verdict) if rows else f"<p>{escape(self.verdict)}</p>"


def transfer_of(runs: Sequence[Path], *, reference: str | None = None) -> Transfer:
    """The transfer of function in studies that are judged by the same images.

    Args:
        runs: study directories: several teachers, which are the blocks of the comparison.
        reference: name of the cell that others are compared with; default: the control `independent`.

    Raises:
        StudyError: for a directory that is no study or has no design, a study whose teacher's logits were not
            recorded, studies that were judged by different images, and where no trial can be looked at.
        AkdtuneError: for a reference that no study has, with the nearest that there is.
    """
    students = students_of(runs, reference=reference)
    names = dict.fromkeys(run for block in students.blocks for run in block.runs)
    return Transfer(" and ".join(names), compare(students))

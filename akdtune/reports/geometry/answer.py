"""The geometry of a study's views as a value with its figures."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from akdtune.errors import AkdtuneError, StudyError, unknown_name
from akdtune.records import tables
from akdtune.reports.answers import FEWEST_DRAWS
from akdtune.reports.geometry import figures
from akdtune.reports.geometry.calibration import Calibration, calibration_of
from akdtune.reports.geometry.courses import Course, courses_of
from akdtune.reports.geometry.report import COURSE_HEADINGS, course_rows, left_out_lines, report, verdict
from akdtune.reports.geometry.trial_offsets import Offsets, offsets_of
from akdtune.reports.notebook import html_table
from akdtune.reports.text import markdown_table
from akdtune.statistics import reliability


@dataclass(frozen=True, repr=False)
class Geometry:
    """How views lie about their teacher.

    Attributes:
        study: its name, for titles.
        courses: angles, margins and gates over the epochs, by measure and arm.
        offsets: of the views' features, where trials kept them.
        calibration: of ensembles, teachers and students, where trials kept the answers of their views.
        counts: trials of the study by status.
        how: draws and seed of the bootstrap over images.
    """

    study: str
    courses: tuple[Course, ...]
    offsets: Offsets
    calibration: Calibration
    counts: dict[str, int]
    how: dict[str, int]

    @property
    def verdict(self) -> str:
        """Where views end, and whether their ensemble is calibrated better than its teacher."""
        return verdict(self.courses, self.offsets, self.calibration)

    @property
    def sentences(self) -> list[str]:
        """The verdict, the ensemble against its student, and how many trials each part leaves out."""
        further = self.calibration.sentences[1:]
        return [self.verdict, *further, *left_out_lines(self.offsets, self.calibration)]

    @property
    def figures(self) -> list[str]:
        """Which figures there are; the first is what `figure()` gives."""
        return list(figures.sheets(self.courses, self.offsets, self.calibration, self.study))

    def report(self) -> dict[str, Any]:
        """Everything that was computed, as plain JSON."""
        return report(self.courses, self.offsets, self.calibration, self.counts, **self.how)

    def figure(self, name: str | None = None) -> Any:
        """A plot as a matplotlib Figure: by default the angles over the epochs.

        Raises:
            StudyError: where there is nothing to draw.
            AkdtuneError: for a figure that there is none of, with those that there are.
        """
        sheets = figures.sheets(self.courses, self.offsets, self.calibration, self.study)
        if not sheets:
            raise StudyError(f"{self.study}: nothing to draw: {self.verdict}")
        if name is not None and name not in sheets:
            raise AkdtuneError(unknown_name("figure", name, sheets))
        return sheets[name if name is not None else next(iter(sheets))].figure

    def __repr__(self) -> str:
        rows = course_rows(self.courses)
        return f"{self.verdict}\n\n{markdown_table(COURSE_HEADINGS, rows)}" if rows else self.verdict

    def _repr_html_(self) -> str:
        rows = course_rows(self.courses)
        return html_table(COURSE_HEADINGS, rows, self.verdict) if rows else f"<p>{escape(self.verdict)}</p>"


def geometry_in(run: Path, *, draws: int = reliability.DRAWS, seed: int = 0) -> Geometry:
    """The geometry of a study's views, also while it runs.

    Args:
        run: the study directory.
        draws: of the bootstrap over images, 100 or more.
        seed: of the bootstrap.

    Raises:
        StudyError: for a directory that is no study, or one whose trials cannot be read.
        AkdtuneError: for too few draws.
    """
    if draws < FEWEST_DRAWS:
        raise AkdtuneError(f"draws: {draws} is too few for an interval (allowed: {FEWEST_DRAWS} or more)")
    rows = tables.read_trials(run).to_pylist()
    return Geometry(
        run.resolve().name,
        tuple(courses_of(tables.read_epochs(run), rows)),
        offsets_of(run, rows),
        calibration_of(run, rows, draws=draws, seed=seed),
        dict(Counter(str(row["status"]) for row in rows)),
        {"draws": draws, "seed": seed},
    )

"""What the analysis of attention and fidelity answers about one or several studies, as a value with its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from akdtune.errors import AkdtuneError, unknown_name
from akdtune.reports.answers import FEWEST_DRAWS
from akdtune.reports.fidelity import figures
from akdtune.reports.fidelity import report as reporting
from akdtune.reports.fidelity.maps import THRESHOLD
from akdtune.reports.fidelity.measured import KINDS, Kind
from akdtune.reports.fidelity.relations import relations
from akdtune.reports.fidelity.study import StudyFidelity, study_fidelity
from akdtune.reports.figures import Sheet
from akdtune.reports.notebook import html_table
from akdtune.reports.text import markdown_table
from akdtune.statistics import association


@dataclass(frozen=True, repr=False)
class Fidelity:
    """Whether students attend and answer as their teachers do; of several studies, how both go together.

    Attributes:
        studies: each with its teachers and students.
        relations: rank correlations of the teachers' overlap with what students do; or why there are none.
        kind: of attention maps: sum or predicted.
        threshold: above which a scaled map counts as attended.
        how: draws and seed of the bootstrap.
    """

    studies: Sequence[StudyFidelity]
    relations: reporting.Relations
    kind: Kind
    threshold: float
    how: Mapping[str, int]

    @property
    def verdict(self) -> str:
        """One sentence: of several studies the two rank correlations, of one how alike students and teachers are."""
        return reporting.verdict(self.studies, self.relations, self.kind)

    @property
    def sentences(self) -> list[str]:
        """The verdict, what must hold in any case, and who is left out."""
        sanity = reporting.sanity_lines(self.studies, self.kind)
        return [self.verdict, *sanity, *reporting.left_out_lines(self.studies)]

    @property
    def students_taught(self) -> bool:
        """Whether any finished trial was taught by the teachers of its study."""
        return any(study.taught for study in self.studies)

    def report(self) -> dict[str, Any]:
        """Everything that was computed, as plain JSON."""
        return reporting.report(self.studies, self.relations, kind=self.kind, threshold=self.threshold, **self.how)

    @property
    def sheets(self) -> dict[str, Sheet]:
        """Figures by their names, drawn anew."""
        return figures.sheets(self.studies, self.relations, self.kind, self.threshold)

    def figure(self, name: str = "fidelity") -> Any:
        """A matplotlib Figure: `fidelity`, overlap beside what students do; `fidelity_maps`, maps of some images.

        Raises:
            AkdtuneError: for a figure that there is none of, with those that there are.
        """
        drawn = self.sheets
        if name not in drawn:
            raise AkdtuneError(unknown_name("figure", name, drawn))
        return drawn[name].figure

    def rows(self) -> list[list[str]]:
        """What students say, a line a cell, under `ANSWER_HEADINGS`."""
        return reporting.by_study(self.studies, reporting.answer_rows)

    def __repr__(self) -> str:
        headings = [heading.replace("\n", " ") for heading in reporting.ANSWER_HEADINGS]
        return f"{self.verdict}\n\n{markdown_table(headings, self.rows())}"

    def _repr_html_(self) -> str:
        headings = [heading.replace("\n", " ") for heading in reporting.ANSWER_HEADINGS]
        return html_table(headings, self.rows(), self.verdict)


def fidelity_in(
    runs: Sequence[Path],
    *,
    threshold: float = THRESHOLD,
    maps: str = "sum",
    draws: int = association.DRAWS,
    seed: int = 0,
) -> Fidelity:
    """Attention and fidelity in one or several studies, each with teachers of its own.

    Args:
        runs: study directories.
        threshold: above which a scaled map counts as attended, 0 up to below 1.
        maps: sum (over all classes, as published) or predicted (the class that a network predicts).
        draws: of the bootstrap over arms, 100 or more.
        seed: of the bootstrap.

    Raises:
        NotRecorded: where a study's teachers are not recorded; says which setting records them.
        StudyError: while no trial of a study has finished, or for files that cannot be read.
        AkdtuneError: for a study named twice, unknown maps, a threshold out of range or too few draws.
    """
    if maps not in KINDS:
        raise AkdtuneError(unknown_name("maps", maps, KINDS))
    if draws < FEWEST_DRAWS:
        raise AkdtuneError(f"draws: {draws} is too few for an interval (allowed: {FEWEST_DRAWS} or more)")
    known: set[Path] = set()
    for run in runs:
        if run.resolve() in known:
            raise AkdtuneError(f"{run} is named twice; name each study once")
        known.add(run.resolve())
    names = [run.resolve().name for run in runs]
    studies = [
        study_fidelity(run, threshold, name if names.count(name) == 1 else str(run))
        for run, name in zip(runs, names, strict=True)
    ]
    how = {"draws": draws, "seed": seed}
    return Fidelity(studies, relations(studies, maps, **how), maps, threshold, how)

"""Diversity and accuracy looked at in other ways: other fits, the path along the ensemble's accuracy, and theory."""

from __future__ import annotations

from akdtune.reports.answers import Diversity
from akdtune.reports.diversity import checks_report, theory_check
from akdtune.reports.diversity.measured import DiversityPanel
from akdtune.reports.left_out import left_out_text
from akdtune.reports.page.content import Part, Sentences, Table

TRIALS_SHOWN = 500
"""Rows of the table of losses."""


def of_panel(found: Diversity, panel: DiversityPanel) -> list[Part]:
    """Folded tables of a panel's other fits; empty where nothing was fitted within arms."""
    checks = found.checks[panel.name]
    if not checks:
        return []
    which = panel.title.split(":")[0]
    parts: list[Part] = [
        Table(f"The slope within arms by other fits, {which}", checks_report.FIT_HEADINGS,
              checks_report.fit_rows(checks), (2,), folded=True)
    ]  # fmt: skip
    if rows := checks_report.path_rows(checks):
        caption = f"Along the ensemble's accuracy and beside it, {which}"
        parts.append(Table(caption, checks_report.PATH_HEADINGS, rows, (2,), folded=True))
    said = [*checks_report.remarks(checks), checks_report.HOW, *checks_report.path_remarks(checks)]
    return [*parts, Sentences(said, listed=True, folded=f"How these fits agree, {which}")]


def of_theory(found: Diversity) -> list[Part]:
    """The ensembles' losses; empty for a study that kept no answers of views."""
    theory = found.theory
    if not theory.trials:
        return []
    right = tuple(range(2, len(theory_check.HEADINGS)))
    said = [theory.sentence, theory_check.READING, *([left_out_text(theory.left_out)] if theory.left_out else [])]
    return [
        Table("Losses of the ensembles", theory_check.HEADINGS, theory.rows()[:TRIALS_SHOWN], right, folded=True),
        Sentences([f"{sentence[0].upper()}{sentence[1:]}." for sentence in said]),
    ]

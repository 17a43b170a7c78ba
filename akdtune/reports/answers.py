"""What the analyses answer about a study, as values with their figures."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from akdtune.errors import AkdtuneError, StudyError, unknown_name
from akdtune.reports.ablation import figures as ablation_figures
from akdtune.reports.ablation import tables, winners
from akdtune.reports.ablation.findings import Finding
from akdtune.reports.ablation.measured import phases_of
from akdtune.reports.ablation.tables import Result
from akdtune.reports.ablation.winners import Ranks
from akdtune.reports.diversity import figures as diversity_figures
from akdtune.reports.diversity import measured as diversity
from akdtune.reports.diversity import report as diversity_report
from akdtune.reports.diversity.checks import Checks, checks_of
from akdtune.reports.diversity.measured import DiversityPanel, Relation
from akdtune.reports.diversity.report import counts_text
from akdtune.reports.diversity.theory_check import TheoryCheck, theory_check
from akdtune.reports.diversity.verdict import TABLE_HEADINGS, Verdict, headline_sentence, judge
from akdtune.reports.notebook import html_table
from akdtune.reports.text import markdown_table
from akdtune.statistics import association
from akdtune.statistics.effects import Effect

FEWEST_DRAWS = 100
"""Of a bootstrap that gives an interval."""

PHASE_SECTIONS = {"ablation": "ablation", "confirm": "confirmation"}
"""What the phases of a study's design are called."""


@dataclass(frozen=True, repr=False)
class Compared:
    """The cells of an ablation or of a confirmation against their reference, paired by seed.

    Attributes:
        study: its name, for titles.
        result: everything that `akdtune analyze ablation` computes of this phase.
    """

    study: str
    result: Result

    @property
    def findings(self) -> list[Finding]:
        """Each cell against the reference: difference, intervals, p, verdict; in the order of the design."""
        return self.result.findings

    @property
    def effects(self) -> list[Effect]:
        """Main effects and interactions of a factorial design; empty for others."""
        return self.result.effects

    @property
    def ranks(self) -> dict[str, Ranks]:
        """Of a confirmation: each cell's place in the search and after it; empty for an ablation."""
        return winners.ranks(self.result.phase) if self.result.phase.name == "confirm" else {}

    @property
    def sentences(self) -> list[str]:
        """What may be concluded, a sentence for each finding, and how to read it."""
        said = [tables.said_of(self.result, finding) for finding in self.findings]
        return [*said, *tables.status_lines(self.result), *tables.notes_of(self.result)]

    @property
    def figures(self) -> list[str]:
        """Which figures there are; the first is what `figure()` gives."""
        return list(self._sheets())

    def figure(self, name: str | None = None) -> Any:
        """A plot as a matplotlib Figure: by default the differences from the reference with their intervals.

        Raises:
            StudyError: while no cell has a finished pair of trials.
            AkdtuneError: for a figure that there is none of, with those that there are.
        """
        sheets = self._sheets()
        if not sheets:
            raise StudyError(f"{self.study}: nothing to draw: no cell has finished a seed that the reference has, too")
        if name is not None and name not in sheets:
            raise AkdtuneError(unknown_name("figure", name, sheets))
        return sheets[name if name is not None else next(iter(sheets))].figure

    def _sheets(self) -> Mapping[str, Any]:
        return ablation_figures.sheets(self.result, self.study)

    def _rows(self) -> tuple[list[str], list[list[str]]]:
        result = self.result
        rows = [row for controls in (False, True) for row in tables.paper_rows(result, controls=controls)]
        return tables.headings(result), rows

    def __repr__(self) -> str:
        return f"{tables.title_of(self.result)}\n\n{markdown_table(*self._rows())}"

    def _repr_html_(self) -> str:
        return html_table(*self._rows(), tables.title_of(self.result))


def compared(
    run: Path, phase: str, *, metric: str | None = None, reference: str | None = None, alpha: float | None = None
) -> Compared:
    """The comparisons of one phase of a study's design.

    Args:
        run: the study directory.
        phase: ablation or confirm.
        metric: a column of `trials` with numbers; default: what the design declares.
        reference: name of a cell; default: what the design declares.
        alpha: error rate of each family; default: what the design declares.

    Raises:
        StudyError: when the study has no such phase, or has not come to it yet.
        AkdtuneError: for an unknown metric or reference, or an alpha that is no error rate.
    """
    if alpha is not None and not 0 < alpha < 0.5:
        raise AkdtuneError(f"alpha: {alpha:g} is no error rate (allowed: above 0, below 0.5)")
    phases = {measured.name: measured for measured in phases_of(run, metric=metric, reference=reference)}
    if phase not in phases:
        there = ", ".join(PHASE_SECTIONS[name] for name in phases)
        raise StudyError(
            f"{run}: has no {PHASE_SECTIONS[phase]}: this study has no `{phase}` section, or has not come to it yet "
            f"(it has: {there})"
        )
    every = list(phases.values())
    return Compared(run.resolve().name, tables.compute(phases[phase], run, alpha=alpha, beside=every))


@dataclass(frozen=True, repr=False)
class Diversity:
    """How the diversity of views goes together with the accuracy of students: an association, never an effect.

    Attributes:
        study: its name, for titles.
        panels: trials that may be looked at together: probes, survivors of the search, report trials.
        relations: by the name of a panel, each measure's estimates (pooled, within arms, adjusted).
        counts: trials of the study by status.
        how: draws and seed of the bootstrap.
        directory: of the study.
    """

    study: str
    panels: tuple[DiversityPanel, ...]
    relations: dict[str, list[Relation]]
    counts: dict[str, int]
    how: dict[str, int]
    directory: Path

    @property
    def verdicts(self) -> dict[str, Verdict]:
        """By the name of a panel, what its headline measures say together."""
        return {name: judge(relations) for name, relations in self.relations.items()}

    @property
    def verdict(self) -> str:
        """The one sentence on the probes: which measure, within arms, corrected over the four headline measures."""
        return headline_sentence(self.panels, self.verdicts)

    @property
    def sentences(self) -> list[str]:
        """The verdict, then what the other panels say and where arms and cells within arms go opposite ways."""
        verdicts = self.verdicts
        others = [f"{panel.title.split(':')[0]}: {verdicts[panel.name].sentence}"
                  for panel in self.panels if panel.name != "probe"]  # fmt: skip
        turned = [sentence for verdict in verdicts.values() for sentence in verdict.simpson_sentences]
        return [self.verdict, *others, *turned]

    @functools.cached_property
    def checks(self) -> dict[str, list[Checks]]:
        """By the name of a panel: the slope within arms by other fits, and the path along the ensemble's accuracy."""
        return {panel.name: checks_of(panel, self.relations[panel.name], **self.how) for panel in self.panels}

    @functools.cached_property
    def theory(self) -> TheoryCheck:
        """The ensembles' losses against those of their members, where trials kept the answers of their views."""
        return theory_check(self.directory)

    def report(self) -> dict[str, Any]:
        """Everything that was computed, as plain JSON."""
        return diversity_report.report(
            self.panels, self.relations, self.counts, checks=self.checks, theory=self.theory, **self.how
        )

    def figure(self, name: str | None = None) -> Any:
        """Accuracy against each measure as a matplotlib Figure: a row of plots for each panel, or for one by its name.

        Raises:
            AkdtuneError: for a panel that there is none of, with the nearest that there is.
        """
        names = [panel.name for panel in self.panels]
        if name is not None and name not in names:
            raise AkdtuneError(unknown_name("panel", name, names))
        shown = [panel for panel in self.panels if name in (None, panel.name)]
        return diversity_figures.scatter(shown, self.relations, self.study).figure

    def _rows(self) -> list[list[str]]:
        verdicts = self.verdicts
        return verdicts["probe"].table() if "probe" in verdicts else []

    def __repr__(self) -> str:
        rows = self._rows()
        return f"{self.verdict}\n\n{markdown_table(TABLE_HEADINGS, rows)}" if rows else self.verdict

    def _repr_html_(self) -> str:
        rows = self._rows()
        return html_table(TABLE_HEADINGS, rows, self.verdict) if rows else f"<p>{escape(self.verdict)}</p>"


def diversity_in(run: Path, *, draws: int = association.DRAWS, seed: int = 0) -> Diversity:
    """The relation of diversity and accuracy in a study.

    Args:
        run: the study directory.
        draws: of the bootstrap, 100 or more.
        seed: of the bootstrap.

    Raises:
        StudyError: while no trial has finished.
        AkdtuneError: for too few draws.
    """
    if draws < FEWEST_DRAWS:
        raise AkdtuneError(f"draws: {draws} is too few for an interval (allowed: {FEWEST_DRAWS} or more)")
    panels, counts = diversity.panels_of(run)
    finished = tuple(panel for panel in panels if panel.arms)
    if not finished:
        raise StudyError(f"{run}: no probe, search or report trial has finished yet ({counts_text(counts)})")
    how = {"draws": draws, "seed": seed}
    relations = {panel.name: diversity.relate(panel, list(panel.measures), **how) for panel in finished}
    return Diversity(run.resolve().name, finished, relations, counts, how, run)

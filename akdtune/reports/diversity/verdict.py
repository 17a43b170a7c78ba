"""One verdict on diversity and accuracy: which of the headline measures, within arms, corrected over all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from akdtune.reports.diversity.measured import HEADLINE, DiversityPanel, Relation
from akdtune.reports.text import counted, probability, signed
from akdtune.statistics import association
from akdtune.statistics.association import Coefficient
from akdtune.statistics.paired import holm

ALPHA = 0.05
POWER = 0.8
STATED = (0.3, 0.5)
"""Correlations for which the verdict says how many cells would show them."""

TABLE_HEADINGS = ("measure", "r within arms [95 %]", "slope [95 %], points per unit", "Holm p", "cells")


@dataclass(frozen=True)
class Judged:
    """A headline measure of a panel; `p_holm` is None where nothing could be tested."""

    relation: Relation
    p_holm: float | None

    @property
    def name(self) -> str:
        """How reports call the measure."""
        return HEADLINE[self.relation.measure]

    @property
    def resolved(self) -> bool:
        """Whether an association within arms is resolved after the correction."""
        return self.p_holm is not None and self.p_holm < ALPHA

    @property
    def simpson(self) -> bool:
        """Whether arms together go one way and cells within arms resolvedly the other."""
        return self.resolved and self.relation.simpson()


@dataclass(frozen=True)
class Verdict:
    """What the headline measures of one panel allow to say together: association or nothing, never effect."""

    judged: tuple[Judged, ...]

    @property
    def tested(self) -> list[Judged]:
        """Measures with a p: the family over which Holm's correction runs."""
        return [measure for measure in self.judged if measure.p_holm is not None]

    @property
    def cells(self) -> int:
        """Cells of the measure that has the fewest of them."""
        return min((m.relation.within.clusters for m in self.tested if m.relation.within is not None), default=0)

    @property
    def detectable_r(self) -> float | None:
        """The smallest true |r| within arms that these cells show with power .8 after the correction."""
        dof = [m.relation.within.residual_dof for m in self.tested if m.relation.within is not None]
        return association.detectable_correlation(min(dof) + 2, alpha=self._first_step, power=POWER) if dof else None

    @property
    def _first_step(self) -> float:
        return ALPHA / max(1, len(self.tested))

    def cells_needed(self, r: float) -> int | None:
        """Cells, with as many arms as here, that show a true r within arms with power .8 after the correction."""
        lost = [m.relation.within.clusters - m.relation.within.residual_dof - 2
                for m in self.tested if m.relation.within is not None]  # fmt: skip
        pairs = association.pairs_needed(r, alpha=self._first_step, power=POWER)
        return pairs + max(lost) if pairs is not None and lost else None

    @property
    def sentence(self) -> str:
        """The verdict."""
        if not self.tested:
            return self._nothing()
        if any(measure.resolved for measure in self.tested):
            return self._found()
        over = f"after correction over {counted(len(self.tested), 'measure')}"
        said = f"no association resolved within arms; these {counted(self.cells, 'cell')} find a true |r| of "
        said += f"{self.detectable_r or 1.0:.2f} with power .8 {over}"
        needed = [(r, self.cells_needed(r) or 0) for r in STATED]
        more = [f"{cells} for {str(r).lstrip('0')}" for r, cells in needed if cells > self.cells]
        return f"{said} (cells needed: {', '.join(more)})" if more else said

    def _found(self) -> str:
        """Resolved measures by their sign, the smallest p first."""
        said: dict[str, list[str]] = {}
        for measure in sorted(self.judged, key=lambda m: m.relation.p if m.relation.p is not None else 2.0):
            within = measure.relation.within
            if measure.resolved and within is not None and within.pearson is not None:
                r = within.pearson.value
                which = f"{measure.name}, r = {signed(r, minus='-')} (Holm p {probability(measure.p_holm)})"
                said.setdefault("positive" if r > 0 else "negative", []).append(which)
        found = "; ".join(f"{sign} association within arms: {'; '.join(each)}" for sign, each in said.items())
        others = [measure.name for measure in self.judged if not measure.resolved]
        return f"{found}; not resolved: {'; '.join(others)}" if others else found

    def _nothing(self) -> str:
        refused = next((m.relation.refused["within_arm"] for m in self.judged if m.relation.within is None), None)
        if refused is not None:
            return f"nothing can be concluded within arms, too few cells: {refused.removeprefix('refused: ')}"
        return "nothing can be concluded: no measure varies within arms beside accuracy"

    @property
    def simpson_sentences(self) -> list[str]:
        """One sentence for each measure whose sign turns round."""
        said = []
        for measure in self.judged:
            pooled, within = measure.relation.estimates.get("pooled"), measure.relation.within
            if measure.simpson and pooled is not None and within is not None:
                said.append(
                    f"Simpson: {measure.name}: r = {coefficient_text(pooled.pearson)} pooled, but "
                    f"{coefficient_text(within.pearson)} within arms: the pooled number shows how arms differ"
                )
        return said

    def table(self) -> list[list[str]]:
        """A row for each headline measure under `TABLE_HEADINGS`."""
        rows = []
        for measure in self.judged:
            within = measure.relation.within
            pearson, slope = (within.pearson, within.slope) if within is not None else (None, None)
            cells = within.clusters if within is not None else measure.relation.estimates["pooled"].clusters
            rows.append([measure.name, coefficient_text(pearson), coefficient_text(slope, short=True),
                         probability(measure.p_holm), str(cells)])  # fmt: skip
        return rows


def judge(relations: Sequence[Relation]) -> Verdict:
    """The verdict on the headline measures among these, which are those of one panel."""
    headline = [relation for relation in relations if relation.measure in HEADLINE]
    steps = iter(holm([relation.p for relation in headline if relation.p is not None]))
    return Verdict(tuple(Judged(r, next(steps)[0] if r.p is not None else None) for r in headline))


def headline_sentence(panels: Sequence[DiversityPanel], verdicts: dict[str, Verdict]) -> str:
    """The one verdict of a study: that of its probes."""
    if not any(panel.name == "probe" and panel.arms for panel in panels):
        return "no probe trial has finished: no verdict yet (other trials were selected on their accuracy)"
    return verdicts["probe"].sentence


def coefficient_text(coefficient: Coefficient | None, short: bool = False) -> str:
    """A value with its interval; three significant digits when it is a slope (`short`).

    Not `text.interval`: ends that round to 0 stand here as 0, and a minus is the hyphen that this report always had.
    """
    if coefficient is None:
        return "n/a"
    value, low, high = (
        None if number is None else f"{number:+.3g}" if short else signed(number, minus="-")
        for number in (coefficient.value, coefficient.low, coefficient.high)
    )
    return f"{value} [n/a]" if low is None or high is None else f"{value} [{low}, {high}]"

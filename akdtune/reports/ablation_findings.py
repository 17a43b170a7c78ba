"""What the cells of an ablation allow to say: differences from a reference, effects of factors, and sentences.

The arithmetic is that of `statistics/`; this module decides what is compared with what, and puts results into words.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np

from akdtune.reports.ablation_measured import ALPHA, MARGIN, MeasuredCell, Phase, StoredPredictions
from akdtune.reports.text import interval, number, probability, signed
from akdtune.statistics import effects, power
from akdtune.statistics import paired as statistics_paired
from akdtune.statistics.effects import Effect
from akdtune.statistics.paired import (
    CellSummary,
    Difference,
    Equivalence,
    InFamily,
    cell_summary,
    holm_family,
    paired_difference,
)

FACTORIAL = ("full_factorial", "fractional_factorial")
DAGGER = "\N{DAGGER}"
CONDITIONAL = "intervals are over training seeds, conditional on this teacher, this split and this test set"


@dataclass(frozen=True)
class Finding:
    """One cell against the reference.

    Attributes:
        cell: the cell.
        reference: name of the cell it is compared with.
        difference: cell minus reference, paired by seed.
        within: what holds when its whole family is looked at; None outside every declared family.
        family: number of comparisons in its family; 0 outside every one.
        equivalence: None without a margin or with fewer than two pairs.
        more_seeds: about how many more would resolve `resolve`; None where that is not known.
        resolve: points.
        crossed: interval over seeds and test images together; None where it cannot be had, with the reason beside it.
        crossed_note: that reason.
    """

    cell: MeasuredCell
    reference: str
    difference: Difference
    within: InFamily | None
    family: int
    equivalence: Equivalence | None
    more_seeds: int | None
    resolve: float
    crossed: tuple[float, float] | None
    crossed_note: str

    @property
    def verdict(self) -> str:
        """lower, higher, equivalent, not resolved, identical, or one pair."""
        difference = self.difference
        if difference.n_pairs < 2 or difference.difference is None:
            return "no pair" if difference.n_pairs == 0 else "one pair"
        if not difference.sd and difference.difference == 0:
            return "identical"
        if self.within is not None and self.within.rejected:
            return "higher" if difference.difference > 0 else "lower"
        if self.equivalence is not None and self.equivalence.verdict == "equivalent":
            return "equivalent"
        return "not resolved"

    @property
    def low(self) -> float | None:
        """Lower end of the simultaneous interval, or of the single one outside every family."""
        return self.difference.ci_low if self.within is None else self.within.ci_family_low

    @property
    def high(self) -> float | None:
        """Upper end of the interval whose lower end is `low`."""
        return self.difference.ci_high if self.within is None else self.within.ci_family_high


def margin_of(phase: Phase) -> float | None:
    """The equivalence margin in points; None for a metric that it was not declared for."""
    if phase.metric != phase.declared_metric or not phase.in_percent:
        return None
    margin = phase.settings.get("equivalence_margin")
    return MARGIN if margin is None else float(margin)


def alpha_of(phase: Phase) -> float:
    """The declared error rate of each family."""
    alpha = phase.settings.get("alpha")
    return ALPHA if alpha is None else float(alpha)


def findings(phase: Phase, run: Path, *, alpha: float, draws: int = 2000) -> list[Finding]:
    """Every cell of a phase against its reference, in the order of the design; [] without a reference.

    Args:
        phase: with its values.
        run: the study directory, for the predictions of trials.
        alpha: error rate of each family.
        draws: of the bootstrap over seeds and images.
    """
    if phase.reference is None:
        return []
    reference = phase.cell(phase.reference)
    others = [cell for cell in phase.cells if cell.name != reference.name]
    level = 1 - alpha
    differences = {cell.name: paired_difference(cell.values, reference.values, level=level) for cell in others}
    within: dict[str, tuple[InFamily, int]] = {}
    for family in families_of(phase):
        comparable = [name for name in family if differences[name].n_pairs >= 2]
        adjusted = holm_family([differences[name] for name in comparable], alpha=alpha)
        within |= {name: (member, len(comparable)) for name, member in zip(comparable, adjusted, strict=True)}
    predictions = StoredPredictions(run) if phase.metric == "test_accuracy" else None
    margin = margin_of(phase)
    judged = []
    for cell in others:
        difference = differences[cell.name]
        paired = difference.n_pairs >= 2 and difference.sd is not None
        in_family, size = within.get(cell.name, (None, 0))
        crossed = _crossed(predictions, cell, reference, draws, level) if paired else "fewer than two pairs"
        more = equal = None
        if difference.n_pairs >= 2 and difference.sd is not None and margin is not None:
            more = power.more_seeds(difference.sd, difference.n_pairs, resolve=margin, alpha=alpha)
            equal = statistics_paired.equivalence(difference, margin, alpha=alpha)
        judged.append(
            Finding(
                cell, reference.name, difference, in_family, size,
                equal,
                more, margin or MARGIN,
                None if isinstance(crossed, str) else crossed, crossed if isinstance(crossed, str) else "",
            )
        )  # fmt: skip
    return judged


def families_of(phase: Phase) -> list[list[str]]:
    """Names of the cells whose comparisons are judged together: as declared, else all of them at once."""
    others = [cell.name for cell in phase.cells if cell.name != phase.reference]
    declared = phase.settings.get("families")
    if not declared or phase.reference != phase.declared_reference:
        return [others]
    return [[name for name in family if name in others] for family in declared]


def _crossed(
    predictions: StoredPredictions | None, cell: MeasuredCell, reference: MeasuredCell, draws: int, level: float
) -> tuple[float, float] | str:
    if predictions is None:
        return "only test_accuracy has predictions of each image"
    pair = predictions.pair(cell, reference)
    return pair if isinstance(pair, str) else effects.crossed_bootstrap(*pair, draws=draws, level=level)


# ------------------------------------------------------------------------------------------------- factors


@dataclass(frozen=True)
class LevelMean:
    """Mean over the cells with these levels, and an interval of the part that does not come from the seed."""

    levels: tuple[str, ...]
    summary: CellSummary


def level_text(value: Any) -> str:
    """A level as tables and plots show it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return value if isinstance(value, str) else json.dumps(value)


def design_cells(phase: Phase) -> list[MeasuredCell]:
    """Cells that stand for a combination of factor levels; none where the design is no factorial one."""
    if phase.settings.get("design") not in FACTORIAL:
        return []
    return [cell for cell in phase.cells if cell.levels and not cell.is_control]


def common_seeds(cells: Sequence[MeasuredCell]) -> list[int]:
    """Seeds that every cell has finished."""
    return sorted(set.intersection(*(set(cell.values) for cell in cells))) if cells else []


def effects_of(phase: Phase, *, level: float) -> tuple[list[Effect], str]:
    """Main effects and two-factor interactions of a factorial design, or a sentence why there are none."""
    cells = design_cells(phase)
    if not cells:
        return [], "effects of factors need a factorial design; in other designs each difference stands for itself"
    levels = {cell.name: {factor: level_text(value) for factor, value in (cell.levels or {}).items()} for cell in cells}
    contrasts = effects.contrasts({cell.name: cell.values for cell in cells}, levels, level=level)
    return contrasts, "" if contrasts else "the finished trials do not tell the effects of the factors apart yet"


def factors_of(phase: Phase, effect: Effect) -> list[str]:
    """The one factor or the two that an effect is of; [] where its name does not say."""
    known = list(dict.fromkeys(factor for cell in design_cells(phase) for factor in cell.levels or {}))
    parts = effect.term.split(" x ")
    factors = [next((factor for factor in known if part.startswith(f"{factor}: ")), None) for part in parts]
    return [factor for factor in factors if factor is not None] if None not in factors else []


def level_means(phase: Phase, factors: Sequence[str], *, level: float) -> list[LevelMean]:
    """Mean of each combination of levels, with intervals within seeds: what differs between seeds is taken out.

    Each seed's mean over all combinations is subtracted and the spread scaled by sqrt(L / (L - 1)).

    References:
        Morey, Confidence intervals from normalized data: a correction to Cousineau (2005), 2008.
    """
    cells = design_cells(phase)
    seeds = common_seeds(cells)
    if not seeds:
        return []
    of_cell = {cell.name: tuple(level_text((cell.levels or {})[factor]) for factor in factors) for cell in cells}
    order = [dict.fromkeys(combination[i] for combination in of_cell.values()) for i in range(len(factors))]
    wanted = [combination for combination in product(*order) if combination in of_cell.values()]
    values_SL = np.array(
        [
            [np.mean([c.values[seed] for c in cells if of_cell[c.name] == combination]) for combination in wanted]
            for seed in seeds
        ]
    )
    means_L = values_SL.mean(0)
    centred_SL = values_SL - values_SL.mean(1, keepdims=True) - (means_L - means_L.mean())
    scale = sqrt(len(wanted) / (len(wanted) - 1)) if len(wanted) > 1 else 1.0
    return [
        LevelMean(combination, cell_summary(mean + scale * centred_S, level=level))
        for combination, mean, centred_S in zip(wanted, means_L, centred_SL.T, strict=True)
    ]


# ------------------------------------------------------------------------------------------------- words


def sentence(finding: Finding, unit: str = "points") -> str:
    """What one comparison allows to say."""
    d, name, against = finding.difference, finding.cell.name, finding.reference
    verdict = finding.verdict
    if d.difference is None or verdict == "no pair":
        return f"{name}: no seed that {against} has finished too; nothing can be said yet"
    shown = f"{signed(d.difference)} {unit}"
    if verdict == "one pair":
        return f"{name}: {shown} against {against} with one seed: no interval, nothing can be concluded"
    if verdict == "identical":
        return f"{name}: the same number as {against} for each of {d.n_pairs} seeds; the change has no effect"
    span = _span(finding)
    if verdict in ("lower", "higher"):
        small = ""
        if finding.equivalence is not None and finding.equivalence.verdict == "equivalent":
            small = f"; smaller than the margin of {finding.resolve:g} {unit}"
        return f"{name}: {verdict} than {against} by {abs(d.difference):.2f} {unit}, {span}{small}"
    if verdict == "equivalent":
        assert finding.equivalence is not None
        return (
            f"{name}: equivalent to {against} within {finding.resolve:g} {unit} "
            f"(TOST p {_equals(finding.equivalence.p)}); difference {shown}, {span}"
        )
    said = [f"{name}: not resolved, {shown}, {span}"]
    if d.minimum_detectable is not None:
        said.append(f"n = {d.n_pairs} shows only {number(d.minimum_detectable)} {unit} or more")
    if finding.more_seeds:
        said.append(f"needs about {finding.more_seeds} more seeds to resolve {finding.resolve:g} {unit}")
    elif finding.more_seeds == 0:
        said.append(f"{finding.resolve:g} {unit} would have shown by itself")
    return "; ".join(said)


def _span(finding: Finding) -> str:
    """Interval, p, the sign-flip test beside it, and the interval over test images too."""
    d, within = finding.difference, finding.within
    text = interval(finding.low, finding.high)
    if within is not None:
        text = f"simultaneous {text}{mark(finding)}, Holm p {_equals(within.p_holm)}"
    else:
        text = f"single {text}, p {_equals(d.p)}, in no declared family"
    if d.permutation_p is not None:
        text += f", sign-flip p {_equals(d.permutation_p)}"
    return text if finding.crossed is None else f"{text}, over test images too {interval(*finding.crossed)}"


def mark(finding: Finding) -> str:
    """The footnote's mark where Holm rejects although the simultaneous interval covers 0."""
    return DAGGER if finding.within is not None and finding.within.holm_alone else ""


def holm_alone_remark(findings: Sequence[Finding]) -> str:
    """The footnote; "" where no comparison needs it."""
    names = [finding.cell.name for finding in findings if mark(finding)]
    if not names:
        return ""
    its = "its single-step interval covers" if len(names) == 1 else "their single-step intervals cover"
    return (
        f"{DAGGER} Holm rejects {', '.join(names)} although {its} 0: the test's later steps spend what its earlier "
        "rejections have freed, an interval that holds at once with all others does not"
    )


def _equals(p: float | None) -> str:
    text = probability(p)
    return text if text.startswith("<") else f"= {text}"


def remarks(phase: Phase, findings: Sequence[Finding], alpha: float) -> list[str]:
    """What must be known to read the numbers of a phase, one sentence each."""
    said = [f"{CONDITIONAL}; pairs are formed by seed"]
    correlations = [
        finding.difference.correlation for finding in findings if finding.difference.correlation is not None
    ]
    if correlations:
        said.append(
            f"correlation between paired seeds: {number(min(correlations))} to {number(max(correlations))}, "
            f"median {number(float(np.median(correlations)))} (pairing helps where it is above 0)"
        )
    detectable = [
        finding.difference.minimum_detectable
        for finding in findings
        if finding.difference.minimum_detectable is not None
    ]
    if detectable:
        said.append(
            f"smallest difference that these seeds show with power .8: {number(min(detectable))} to "
            f"{number(max(detectable))}, before correction for {len(findings)} comparisons"
        )
    footnote = holm_alone_remark(findings)
    said += [footnote] if footnote else []
    said += _floors(findings)
    if any(finding.verdict == "equivalent" for finding in findings):
        said.append("equivalence (TOST) is judged for each comparison by itself, not corrected for their number")
    if phase.metric != phase.declared_metric:
        said.append(
            f"exploratory: the design declares {phase.declared_metric} and this is {phase.metric}; its equivalence "
            "margin does not apply"
        )
    if phase.reference != phase.declared_reference and phase.reference is not None:
        said.append(
            f"exploratory: the design declares the reference {phase.declared_reference or '(none)'} and this is "
            f"{phase.reference}; all cells are one family"
        )
    if alpha != alpha_of(phase):
        said.append(f"exploratory: alpha is {alpha:g} and not {alpha_of(phase):g}, as declared")
    diverged = {cell.name: cell.outcomes["diverged"] for cell in phase.cells if cell.outcomes.get("diverged")}
    if diverged:
        listed = ", ".join(f"{name} {count}" for name, count in diverged.items())
        said.append(f"diverged trials are an outcome of their cell and stand in no mean, which flatters it: {listed}")
    if phase.extra:
        said.append(f"{phase.extra} finished trials with seeds outside the design (a pilot's) are not used")
    return said


def _floors(findings: Sequence[Finding]) -> list[str]:
    """Where the exact test cannot reject whatever the data, one sentence per number of seeds."""
    notes: dict[int, list[str]] = {}
    for finding in findings:
        if finding.within is not None and finding.within.permutation_note:
            notes.setdefault(finding.difference.n_pairs, []).append(finding.within.permutation_note)
    return [
        f"the exact sign-flip test {notes[n][0]}"
        + (f" (so in {len(notes[n])} comparisons)" if len(notes[n]) > 1 else "")
        for n in sorted(notes)
    ]


def crossed_remark(findings: Sequence[Finding]) -> str:
    """Why intervals over test images could not be had, where they could not."""
    reasons = [
        finding.crossed_note for finding in findings if finding.crossed is None and finding.difference.n_pairs >= 2
    ]
    if not reasons:
        return ""
    more = f" and {len(reasons) - 1} more" if len(reasons) > 1 else ""
    share = f"{len(reasons)} of {len(findings)} comparisons"
    return f"no interval over seeds and test images together for {share}: {reasons[0]}{more}"


def summaries(cells: Sequence[MeasuredCell], level: float) -> Mapping[str, CellSummary]:
    """Mean, spread and interval of each cell by name; n = 0 for one without a finished trial."""
    return {cell.name: cell_summary(np.array(list(cell.values.values())), level=level) for cell in cells}

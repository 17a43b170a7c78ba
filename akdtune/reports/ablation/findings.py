"""What the cells of an ablation are compared with: differences from a reference, effects of factors.

The arithmetic is that of `statistics/`; `ablation_words` says what its results allow to say.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from math import sqrt
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from akdtune.metric import Metric
from akdtune.records.lock_file import metric_of
from akdtune.reports.ablation.measured import ALPHA, MARGIN, NOT_PLANNED, UNFINISHED, MeasuredCell, Phase
from akdtune.reports.ablation.predictions import Agreement, StoredPredictions
from akdtune.settings.domains import label
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
        detectable: the smallest true difference that these seeds show with power .8 at the level of the rule that
            judges, alpha over the size of the family: from their own spread, and from its upper 80 % limit; None where
            that is not known, as without spread.
        more_seeds: how many more resolve `resolve` by the same rule; None where that is not known.
        resolve: points.
        crossed: interval over seeds and test items together; None where it cannot be had, with the reason beside it.
        crossed_note: that reason.
        asked: seeds of the design.
        reference_lost: why a seed of the design has no value in the reference, by seed.
        means: of the cell and of the reference over the paired seeds; None without one.
        agreement: of the answers on each image, where both have equal accuracies on every seed; None elsewhere, and
            where predictions are lacking.
        repeats: name of the cell that it repeats, or that repeats it, where the two are one experiment.
    """

    cell: MeasuredCell
    reference: str
    difference: Difference
    within: InFamily | None
    family: int
    equivalence: Equivalence | None
    detectable: tuple[float, float] | None
    more_seeds: tuple[int, int] | None
    resolve: float
    crossed: tuple[float, float] | None
    crossed_note: str
    asked: int = 0
    reference_lost: Mapping[int, str] = field(default_factory=dict)
    means: tuple[float, float] | None = None
    agreement: Agreement | None = None
    repeats: str | None = None

    @property
    def judged(self) -> str:
        """lower, higher, equivalent, not resolved, identical, tied, no spread, A/A, one pair, or no pair."""
        difference = self.difference
        if difference.n_pairs < 2 or difference.difference is None:
            return "no pair" if difference.n_pairs == 0 else "one pair"
        if self.repeats is not None:
            return "A/A"
        if self.has_no_spread and difference.difference == 0:
            return "identical" if self.agreement is not None and self.agreement.same_outputs else "tied"
        if self.within is not None and self.within.rejected:
            return "higher" if difference.difference > 0 else "lower"
        if self.equivalence is not None and self.equivalence.verdict == "equivalent":
            return "equivalent"
        return "no spread" if self.has_no_spread else "not resolved"

    @property
    def verdict(self) -> str:
        """What `judged` says, and on how many seeds where some have no value: `higher on 3 of 5 seeds; 2 diverged`."""
        lost = {"": self.cell.lost, f"{self.reference}: ": self.reference_lost}
        parts = [f"{whose}{lost_words(of_side)}" for whose, of_side in lost.items() if of_side]
        seeds = f" on {self.difference.n_pairs} of {self.asked} seeds"
        return f"{self.judged}{seeds}; {'; '.join(parts)}" if parts else self.judged

    @property
    def has_no_spread(self) -> bool:
        """Whether the differences of all seeds are one and the same number, so that nothing says how sure it is."""
        return self.difference.n_pairs >= 2 and not self.difference.sd

    @property
    def is_partial(self) -> bool:
        """Whether the difference stands on other seeds than the means of the two cells."""
        lost = {*self.cell.lost, *self.reference_lost}
        return self.cell.lost.keys() != lost or self.reference_lost.keys() != lost

    @property
    def low(self) -> float | None:
        """Lower end of the simultaneous interval, or of the single one outside every family; None without spread."""
        if self.has_no_spread:
            return None
        return self.difference.ci_low if self.within is None else self.within.ci_family_low

    @property
    def high(self) -> float | None:
        """Upper end of the interval whose lower end is `low`."""
        if self.has_no_spread:
            return None
        return self.difference.ci_high if self.within is None else self.within.ci_family_high


def is_unfinished(status: str) -> bool:
    """Whether a seed without a value may still get one."""
    return status in (*UNFINISHED, NOT_PLANNED)


def lost_words(lost: Mapping[int, str], asked: int = 0) -> str:
    """How many seeds have no value, and why: `2 diverged`, or of those asked for `2 of 5 diverged`."""
    tally = Counter("not finished" if is_unfinished(status) else status for status in lost.values())
    words = ", ".join(f"{count} {status}" for status, count in tally.items())
    first, rest = words.split(" ", 1)
    return f"{first} of {asked} {rest}" if asked else words


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
        draws: of the bootstrap over seeds and images; 0: only what needs neither predictions nor scipy.stats, which
            takes a second to load: differences, t intervals, sign flips and Holm, without what seeds can show.
    """
    if phase.reference is None:
        return []
    reference = phase.cell(phase.reference)
    others = [cell for cell in phase.cells if cell.name != reference.name]
    level = 1 - alpha
    differences = {
        cell.name: _with_spread(paired_difference(cell.values, reference.values, level=level, beside=draws > 0))
        for cell in others
    }
    within: dict[str, tuple[InFamily, int]] = {}
    for family in families_of(phase):
        comparable = [name for name in family if differences[name].n_pairs >= 2]
        adjusted = holm_family([differences[name] for name in comparable], alpha=alpha)
        within |= {name: (member, len(comparable)) for name, member in zip(comparable, adjusted, strict=True)}
    of_study = metric_of(run)
    predictions = StoredPredictions(run) if phase.metric == of_study.test else None
    bootstrapped = predictions if draws else None
    margin = margin_of(phase)
    judged = []
    for cell in others:
        difference = differences[cell.name]
        paired = difference.n_pairs >= 2 and difference.sd is not None
        in_family, size = within.get(cell.name, (None, 0))
        crossed = _crossed(bootstrapped, cell, reference, draws, level, of_study) if paired else "fewer than two pairs"
        shows = more = equal = None
        repeats = cell.replica_of or (reference.name if reference.replica_of == cell.name else None)
        if repeats is None and difference.n_pairs >= 2 and difference.sd is not None:
            n, judged_at = difference.n_pairs, alpha / max(size, 1)
            if draws:
                shows = power.detectable(difference.sd, n, alpha=judged_at)
            if draws and margin is not None:
                more = power.more_seeds(difference.sd, n, resolve=margin, alpha=judged_at)
            if margin is not None:
                equal = statistics_paired.equivalence(difference, margin, alpha=alpha)
        judged.append(
            Finding(
                cell, reference.name, difference, in_family, size,
                equal,
                shows, more, margin or MARGIN,
                None if isinstance(crossed, str) else crossed, crossed if isinstance(crossed, str) else "",
                len(phase.seeds), reference.lost, _paired_means(cell, reference, difference.seeds),
                predictions.agreement(cell, reference) if predictions is not None and _tied(difference) else None,
                repeats,
            )
        )  # fmt: skip
    return judged


def _with_spread(difference: Difference) -> Difference:
    """Without an interval where all differences are equal: one of length 0 would claim what no spread can show."""
    return difference if difference.sd else replace(difference, ci_low=None, ci_high=None)


def _tied(difference: Difference) -> bool:
    return difference.n_pairs >= 2 and difference.difference == 0 and not difference.sd


def _paired_means(cell: MeasuredCell, reference: MeasuredCell, seeds: Sequence[int]) -> tuple[float, float] | None:
    if not seeds:
        return None
    own, others = (fmean(side.values[seed] for seed in seeds) for side in (cell, reference))
    return own, others


def families_of(phase: Phase) -> list[list[str]]:
    """Names of the cells whose comparisons are judged together: as declared, else all of them at once.

    A cell that repeats another one is in none: its difference is rounding, or the other cell's a second time.
    """
    others = [cell.name for cell in phase.cells if cell.name != phase.reference and not _is_repeated(phase, cell)]
    declared = phase.settings.get("families")
    if not declared or phase.reference != phase.declared_reference:
        return [others]
    return [[name for name in family if name in others] for family in declared]


def _is_repeated(phase: Phase, cell: MeasuredCell) -> bool:
    """Whether a cell's comparison says nothing of its own: it repeats another cell, or the reference repeats it."""
    of_reference = None if phase.reference is None else phase.cell(phase.reference).replica_of
    return cell.replica_of is not None or cell.name == of_reference


def _crossed(
    predictions: StoredPredictions | None,
    cell: MeasuredCell,
    reference: MeasuredCell,
    draws: int,
    level: float,
    metric: Metric,
) -> tuple[float, float] | str:
    if predictions is None:
        return f"only {metric.test} has predictions of each image"
    pair = predictions.pair(cell, reference)
    if isinstance(pair, str):
        return pair
    values, groups_N = (pair.cell_SN, pair.reference_SN), pair.groups_N
    return effects.crossed_bootstrap(*values, groups_N=groups_N, draws=draws, level=level)


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
    if isinstance(value, dict) and "name" not in value:  # one of a component would be its name alone
        return label(value)
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


def summaries(cells: Sequence[MeasuredCell], level: float) -> Mapping[str, CellSummary]:
    """Mean, spread and interval of each cell by name; n = 0 for one without a finished trial."""
    return {cell.name: cell_summary(np.array(list(cell.values.values())), level=level) for cell in cells}

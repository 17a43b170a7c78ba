"""The slope within arms by other fits than least squares on cell means, and the path that an association may take.

Computed for the headline measures that have an estimate within arms; nothing here changes the verdict.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from akdtune import progress
from akdtune.reports.diversity.measured import HEADLINE, DiversityPanel, Relation, cell_means
from akdtune.reports.text import number, signed
from akdtune.statistics import association, mediation, mixed, robust
from akdtune.statistics.association import Coefficient
from akdtune.statistics.mediation import Mediation
from akdtune.statistics.mixed import MixedFit
from akdtune.statistics.robust import WithoutGroup

FITS = {
    "least_squares": "least squares, cell means",
    "between_cells": "mixed model, between cells",
    "between_seeds": "mixed model, between seeds",
    "theil_sen": "Theil-Sen",
    "huber": "Huber",
}
"""Each fit of the slope within arms, as reports call it."""
_MEDIATOR = "ensemble_accuracy"


@dataclass(frozen=True)
class Checks:
    """One headline measure of a panel, looked at in other ways.

    Attributes:
        relation: the estimates that stand in the report.
        mixed: the mixed model over trials; a sentence where there is none.
        theil_sen: the median slope between cells of one arm; None where no two differ.
        huber: the robust fit; a sentence where there is none.
        without_arms: the slope without each arm; empty for one arm.
        mediation: the path through the ensemble's accuracy; a sentence where there is none.
    """

    relation: Relation
    mixed: MixedFit | str
    theil_sen: Coefficient | None
    huber: Coefficient | str
    without_arms: tuple[WithoutGroup, ...]
    mediation: Mediation | str

    @property
    def name(self) -> str:
        """How reports call the measure."""
        return HEADLINE[self.relation.measure]

    @property
    def slopes(self) -> dict[str, Coefficient]:
        """The slope by each fit that there is, by the names of `FITS`."""
        found: dict[str, Coefficient | None] = {
            "least_squares": self.relation.within.slope if self.relation.within is not None else None,
            "theil_sen": self.theil_sen,
            "huber": self.huber if isinstance(self.huber, Coefficient) else None,
        }
        if isinstance(self.mixed, MixedFit):
            for name in ("between_cells", "between_seeds"):
                fitted: mixed.MixedSlope | None = getattr(self.mixed, name)
                found[name] = None if fitted is None else Coefficient(fitted.value, fitted.low, fitted.high)
        return {name: slope for name in FITS if (slope := found.get(name)) is not None}

    @property
    def extremes(self) -> tuple[WithoutGroup, WithoutGroup] | None:
        """The arms without which the slope is lowest and highest."""
        known = [left for left in self.without_arms if left.slope is not None]
        ordered = sorted(known, key=lambda left: left.slope or 0.0)
        return (ordered[0], ordered[-1]) if ordered else None

    @property
    def sentence(self) -> str:
        """Whether all fits have one sign; the slope between seeds, which is another question, does not count."""
        slopes = {FITS[name]: slope.value for name, slope in self.slopes.items() if name != "between_seeds"}
        slopes |= {f"without {left.group}": left.slope for left in self.without_arms if left.slope is not None}
        above = slopes[FITS["least_squares"]] > 0
        others = [name for name, slope in slopes.items() if (slope > 0) != above]
        if not others:
            return f"{self.name}: all {len(slopes)} slopes within arms are {'positive' if above else 'negative'}"
        return f"{self.name}: {'positive' if above else 'negative'} by least squares, but not by: {'; '.join(others)}"

    @property
    def path_sentence(self) -> str:
        """What goes along the ensemble's accuracy; association, never effect."""
        path = self.mediation
        if isinstance(path, str):
            return f"{self.name}: {path}"
        if path.indirect.low is None:
            return f"{self.name}: a path of {signed(path.indirect.value)} along the ensemble's accuracy, no interval"
        share = ""
        if path.total.excludes_zero and path.total.value * path.indirect.value > 0:
            share = f", {number(100 * path.indirect.value / path.total.value, 0)} % of the slope"
        resolved = "resolved" if path.indirect.excludes_zero else "not resolved"
        return f"{self.name}: the association along the ensemble's accuracy is {resolved}{share}"


@progress.stage("fitting the slopes in other ways")
def checks_of(
    panel: DiversityPanel, relations: Sequence[Relation], *, draws: int = association.DRAWS, seed: int = 0
) -> list[Checks]:
    """The checks of each headline measure that has a slope within arms.

    Args:
        panel: the trials that the relations are of.
        relations: of its measures.
        draws: of the bootstrap of the path.
        seed: of the bootstrap.
    """
    return [
        _checks(panel, relation, draws, seed)
        for relation in relations
        if relation.measure in HEADLINE and relation.within is not None and relation.within.slope is not None
    ]


def _checks(panel: DiversityPanel, relation: Relation, draws: int, seed: int) -> Checks:
    use_N = panel.fitted(relation.measure)
    means = cell_means(panel, [relation.measure], use_N)
    x_C, y_C = means.measures_CM[:, 0], means.accuracy_C
    used = np.flatnonzero(use_N).tolist()
    return Checks(
        relation=relation,
        mixed=mixed.fit(
            panel.measures[relation.measure][use_N],
            panel.accuracy[use_N],
            arms_N=[panel.arms[place] for place in used],
            cells_N=[panel.cells[place] for place in used],
            seeds_N=[panel.seeds[place] for place in used],
        ),
        theil_sen=robust.theil_sen(x_C, y_C, means.arms),
        huber=robust.huber(x_C, y_C, means.arms),
        without_arms=tuple(robust.leave_one_group_out(x_C, y_C, means.arms)),
        mediation=_path(panel, relation.measure, draws, seed),
    )


def _path(panel: DiversityPanel, measure: str, draws: int, seed: int) -> Mediation | str:
    known_N = np.isfinite(panel.ensemble_accuracy)
    if not known_N.any():
        return "no path: the ensemble's accuracy was not recorded"
    beside = replace(panel, measures={**panel.measures, _MEDIATOR: panel.ensemble_accuracy})
    means = cell_means(beside, [measure, _MEDIATOR], panel.fitted(measure) & known_N)
    if len(means.arms) < 3:
        return "no path: fewer than three cells have the ensemble's accuracy"
    x_C, m_C = means.measures_CM.T
    nuisance = association.dummies(means.arms)
    return mediation.mediation(x_C, m_C, means.accuracy_C, range(len(x_C)), nuisance, draws=draws, seed=seed)

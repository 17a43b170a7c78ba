"""From a checked study to trials: brackets, quotas, proposed configurations, and how many trials there are at most."""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from akdtune.designs.cells import CellPlan
from akdtune.designs.controls import REPLICAS
from akdtune.randomness import derived_seed
from akdtune.roles import TrainOn
from akdtune.settings.leaves import varied
from akdtune.settings.pickers import Point, halton
from akdtune.settings.space import Arm, Proposal, Space
from akdtune.study import enqueued
from akdtune.study.spec import Study

Proposals = Sequence[tuple[str, Proposal]]
"""Configurations, each with its bracket."""


@dataclass(frozen=True)
class Outline:
    """The trials of a study as far as its settings tell; each value is computed once, when it is first asked for.

    Where results decide how many trials there are, numbers are upper bounds.

    Attributes:
        study: the checked settings.
        measured: the cells of its ablation without those that are taught the same as another one; None before the
            trained teacher was asked.
    """

    study: Study
    measured: CellPlan | None = None

    @functools.cached_property
    def brackets(self) -> dict[str, Space]:
        """The spaces that are searched and pruned separately: one per arm, or all arms pooled."""
        return {space.name: space for space in self.study.spaces}

    @functools.cached_property
    def quotas(self) -> dict[str, int]:
        """Configurations of each bracket; where they do not divide evenly the first brackets get one more."""
        names, search = list(self.brackets), self.study.search
        if not search.searches:
            return dict.fromkeys(names, 0)
        if search.algorithm == "grid":
            counts = Counter(name for name, _ in self.proposals)
            return {name: counts[name] for name in names}
        total = search.trials or 0
        return {name: total // len(names) + (place < total % len(names)) for place, name in enumerate(names)}

    @functools.cached_property
    def enqueued(self) -> dict[str, list[Proposal]]:
        """Known points that are tried first, by bracket."""
        return enqueued.proposals(self.study.search, self.study.arms, self.study.pooled)

    @functools.cached_property
    def proposals(self) -> Proposals:
        """Every configuration of the search, the brackets dealt in turn; none where it learns from its trials."""
        search = self.study.search
        if not search.searches or search.learns:
            return ()
        if search.algorithm == "grid":
            return _grid(self.brackets, search.trials, self.enqueued)
        draw = {"random": _random, "qmc": _quasi_random}[search.algorithm]
        first = {name: [(name, point) for point in self.enqueued.get(name, ())] for name in self.brackets}
        return _dealt(
            [
                [*first[name], *draw(name, space, self.quotas[name] - len(first[name]), search.seed)]
                for name, space in self.brackets.items()
            ]
        )

    @functools.cached_property
    def probed_arms(self) -> tuple[Arm, ...]:
        """Arms whose views have settings to vary."""
        return tuple(arm for arm in self.study.arms if arm.probed)

    @functools.cached_property
    def probes(self) -> tuple[Proposal, ...]:
        """One quasi-random design over the view settings per arm, cells dealt evenly, the first arms get the rest."""
        probe, arms, seed = self.study.probe, self.probed_arms, self.study.search.seed
        if probe is None or not arms:
            return ()
        cells = probe.trials // len(probe.seeds)
        counts = [cells // len(arms) + (place < cells % len(arms)) for place in range(len(arms))]
        per_arm = [
            arm.probes(count, derived_seed("probe", seed, arm.drawn_as))
            for arm, count in zip(arms, counts, strict=True)
        ]
        return tuple(proposal for of_arm in per_arm for proposal in of_arm)

    @functools.cached_property
    def configurations(self) -> int:
        """How many configurations the search trains."""
        return sum(self.quotas.values())

    @property
    def search_trials(self) -> int:
        """Trials of the search: every configuration with each of its seeds."""
        return self.configurations * len(self.study.search.training_seeds)

    @property
    def probe_trials(self) -> int:
        """Trials that probe the view settings."""
        return self.study.probe.trials if self.study.probe and self.probed_arms else 0

    @property
    def confirm_trials(self) -> int:
        """Trials that confirm the search's best."""
        confirm = self.study.confirm
        return (len(self.study.arms) * confirm.top + len(confirm.baselines)) * len(confirm.seeds) if confirm else 0

    @property
    def ablation_trials(self) -> int:
        """Trials of the ablation, with a pilot's."""
        ablation = self.study.ablation
        if ablation is None:
            return 0
        auto = ablation.auto_seeds
        seeds = len(ablation.possible_seeds()) if auto is None or auto.take else 0
        replicas = len(REPLICAS.keys() & set(ablation.controls))
        return self.cells * seeds + (auto.pilot * (self.cells - replicas) if auto is not None else 0)

    @functools.cached_property
    def cell_plan(self) -> CellPlan | None:
        """The ablation's cells as far as they are known; None where a search decides on them."""
        return self.measured or self.study.cell_plan

    @functools.cached_property
    def cells(self) -> int:
        """Cells of the ablation: where a search decides on the base, as many as the arm with most has."""
        plans = self.study.possible_cells if self.cell_plan is None else [self.cell_plan]
        return max((len(plan.cells) for plan in plans), default=0)

    @functools.cached_property
    def varied(self) -> list[str]:
        """Key paths of the settings that the search, the probes or the cells of the ablation vary."""
        study = self.study
        searched = (dimension.path for arm in study.arms for dimension in arm.dimensions)
        cells = () if self.cell_plan is None else self.cell_plan.cells
        compared = [*(arm.centre().settings for arm in study.arms), *(cell.settings for cell in cells)]
        factors = () if study.ablation is None else study.ablation.factors
        return list(dict.fromkeys([*searched, *factors, *varied(compared)]))

    @property
    def trials(self) -> int:
        """All trials of the study."""
        return self.search_trials + self.probe_trials + self.confirm_trials + self.ablation_trials


def trains_on(study: Study) -> list[TrainOn]:
    """Which images trials of this study train on: `subset`, then `full`, as far as there are such trials."""
    ablation = study.ablation
    selects = study.search.searches or study.probe is not None
    selects = selects or (ablation is not None and ablation.auto_seeds is not None)
    reports_full = study.reports and study.report.train_on == "full"
    subset: list[TrainOn] = ["subset"] if selects or not reports_full else []
    return [*subset, "full"] if reports_full else subset


def _grid(brackets: dict[str, Space], trials: int | None, enqueued: Mapping[str, Sequence[Proposal]]) -> Proposals:
    """Every configuration of a grid, at most `trials`; those that are enqueued come first."""
    dealt: list[Proposals] = []
    for name, space in brackets.items():
        first = list(enqueued.get(name, ()))
        grid = space.grid() if not first else _without(space.grid(), [point.settings for point in first])
        dealt.append([(name, proposal) for proposal in itertools.islice(itertools.chain(first, grid), trials)])
    return _dealt(dealt)[:trials]


def _without(grid: Iterator[Proposal], settings: Sequence[Mapping[str, Any]]) -> Iterator[Proposal]:
    return (proposal for proposal in grid if proposal.settings not in settings)


def _random(name: str, space: Space, count: int, seed: int) -> Proposals:
    """Random configurations, each from (search seed, bracket, number) alone."""
    return [(name, space.random(derived_seed("search", seed, space.drawn_as, number))) for number in range(count)]


def _quasi_random(name: str, space: Space, count: int, seed: int) -> Proposals:
    """A scrambled Halton sequence over every searched setting of a bracket."""
    names = [dimension.name for dimension in space.dimensions]
    points = halton(count, len(names), derived_seed("search", seed, space.drawn_as)) or [[]] * count
    return [(name, space.sample(Point(dict(zip(names, at, strict=True))))) for at in points]


def _dealt(by_bracket: Sequence[Proposals]) -> Proposals:
    return tuple(row for turn in _turns(by_bracket) for row in turn)


def _turns(by_bracket: Sequence[Proposals]) -> Iterator[list[tuple[str, Proposal]]]:
    for place in range(max(map(len, by_bracket), default=0)):
        yield [of_bracket[place] for of_bracket in by_bracket if place < len(of_bracket)]

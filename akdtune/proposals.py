"""From a checked study to trials: brackets, quotas, proposed configurations, and how many trials there are at most."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from akdtune.cells import plan_cells
from akdtune.recipe import derived_seed
from akdtune.space import Arm, Proposal, Space
from akdtune.spec import Study
from akdtune.suggest import Point, halton

if TYPE_CHECKING:
    from akdtune.data import TrainOn  # would load torch


def brackets(study: Study) -> dict[str, Space]:
    """The spaces that are searched and pruned separately: one per arm, or all arms pooled."""
    return {space.name: space for space in study.spaces}


def quotas(study: Study) -> dict[str, int]:
    """Search trials per bracket; where they do not divide evenly the first brackets get one more."""
    names = list(brackets(study))
    if not study.search.searches:
        return dict.fromkeys(names, 0)
    if study.search.algorithm == "grid":
        counts = Counter(name for name, _ in grid_proposals(study))
        return {name: counts[name] for name in names}
    total = study.search.trials or 0
    return {name: total // len(names) + (place < total % len(names)) for place, name in enumerate(names)}


def search_count(study: Study) -> int:
    """Number of search trials of the study."""
    if not study.search.searches:
        return 0
    if study.search.algorithm == "grid":
        return len(grid_proposals(study)) * len(study.search.training_seeds)
    return (study.search.trials or 0) * len(study.search.training_seeds)


def grid_proposals(study: Study) -> list[tuple[str, Proposal]]:
    """Every configuration of a grid study with its bracket, the arms dealt in turn, at most `search.trials`."""
    by_bracket = [[(name, proposal) for proposal in space.grid()] for name, space in brackets(study).items()]
    dealt = [row for turn in _turns(by_bracket) for row in turn]
    return dealt[: study.search.trials] if study.search.trials else dealt


def random_proposals(study: Study) -> list[tuple[str, Proposal]]:
    """Random configurations with their bracket, the arms dealt in turn, each from (search seed, bracket, number)."""
    spaces = brackets(study)
    by_bracket = [
        [
            (name, spaces[name].random(derived_seed("search", study.search.seed, name, number)))
            for number in range(count)
        ]
        for name, count in quotas(study).items()
    ]
    return [row for turn in _turns(by_bracket) for row in turn]


def qmc_proposals(study: Study) -> list[tuple[str, Proposal]]:
    """A scrambled Halton sequence over every searched setting of each bracket, the brackets dealt in turn."""
    spaces = brackets(study)
    by_bracket = []
    for name, count in quotas(study).items():
        names = [dimension.name for dimension in spaces[name].dimensions]
        points = halton(count, len(names), derived_seed("search", study.search.seed, name)) or [[]] * count
        by_bracket.append([(name, spaces[name].sample(Point(dict(zip(names, at, strict=True))))) for at in points])
    return [row for turn in _turns(by_bracket) for row in turn]


def _turns(lists: list[list[tuple[str, Proposal]]]) -> Iterator[list[tuple[str, Proposal]]]:
    for place in range(max((len(one) for one in lists), default=0)):
        yield [one[place] for one in lists if place < len(one)]


def probed_arms(study: Study) -> list[Arm]:
    """Arms whose views have settings to vary."""
    return [arm for arm in study.arms if arm.probed]


def probe_count(study: Study) -> int:
    """Number of probe trials of the study."""
    return study.probe.trials if study.probe and probed_arms(study) else 0


def confirm_count(study: Study) -> int:
    """Number of confirmation trials of the study, at most."""
    confirm = study.confirm
    return (len(study.arms) * confirm.top + len(confirm.baselines)) * len(confirm.seeds) if confirm else 0


def ablation_count(study: Study) -> int:
    """Number of trials of the ablation, with a pilot's; an upper bound where a search or a pilot decides."""
    ablation = study.ablation
    if ablation is None:
        return 0
    auto = ablation.auto_seeds
    seeds = len(ablation.possible_seeds()) if auto is None or auto.take else 0
    return cell_count(study) * (seeds + (auto.pilot if auto is not None else 0))


def cell_count(study: Study) -> int:
    """Number of cells of the ablation, at most: where a search decides on the base, that of the arm with most."""
    if study.ablation is None:
        return 0
    if study.cell_plan is not None:
        return len(study.cell_plan.cells)
    plans = (plan_cells(study.ablation, arm.centre().written, study.constants) for arm in study.arms)
    return max(len(plan.cells) for plan in plans)


def trial_count(study: Study) -> int:
    """All trials of the study, at most."""
    return search_count(study) + probe_count(study) + confirm_count(study) + ablation_count(study)


def trains_on(study: Study) -> list[TrainOn]:
    """Which images trials of this study train on: `subset`, then `full`, as far as there are such trials."""
    ablation = study.ablation
    selects = study.search.searches or study.probe is not None
    selects = selects or (ablation is not None and ablation.auto_seeds is not None)
    reports_full = study.reports and study.report.train_on == "full"
    subset: list[TrainOn] = ["subset"] if selects or not reports_full else []
    return [*subset, "full"] if reports_full else subset


def probe_proposals(study: Study) -> list[Proposal]:
    """One quasi-random design over the view settings per arm, cells dealt evenly, the first arms get the rest."""
    arms = probed_arms(study)
    if study.probe is None or not arms:
        return []
    cells = study.probe.trials // len(study.probe.seeds)
    per_arm = [
        arm.probes(cells // len(arms) + (place < cells % len(arms)), derived_seed("probe", study.search.seed, arm.name))
        for place, arm in enumerate(arms)
    ]
    return [proposal for of_arm in per_arm for proposal in of_arm]

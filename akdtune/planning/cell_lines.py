"""What `akdtune plan` and `akdtune run` say about the cells of a study: design, controls, seeds, gradient factors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from akdtune.designs.cells import Cell, CellPlan
from akdtune.reports.text import counted
from akdtune.settings.file import shown
from akdtune.settings.sections import AblationSettings
from akdtune.statistics.power import minimum_detectable
from akdtune.study.proposals import Outline
from akdtune.study.spec import Study


def counts(outline: Outline) -> list[str]:
    """How many trials confirm and ablate, a line each."""
    study, lines = outline.study, []
    if (confirm := study.confirm) is not None:
        beside = f" and {', '.join(confirm.baselines)}" if confirm.baselines else ""
        lines.append(
            f"{outline.confirm_trials} confirmation trials: the best {confirm.top} of each arm{beside}, "
            f"{_seeds(len(confirm.seeds))}, {_trained(study)}"
        )
    if (ablation := study.ablation) is not None:
        at_most = "at most " if ablation.base == "winner" or ablation.auto_seeds is not None else ""
        controls = len(ablation.controls) if outline.cell_plan is None else outline.cell_plan.controls
        lines.append(
            f"{at_most}{outline.ablation_trials} ablation trials: {ablation.design}, {outline.cells} cells with "
            f"{counted(controls, 'control')}, {_seeds_of(ablation)}, never pruned, {_trained(study)}"
        )
    return lines


def _trained(study: Study) -> str:
    images = "all training images" if study.report.train_on == "full" else "training images without validation"
    return f"on {images}, test set read once at the end"


def _seeds(number: int) -> str:
    return f"{number} seed{'' if number == 1 else 's'} each"


def _seeds_of(ablation: AblationSettings) -> str:
    auto = ablation.auto_seeds
    if auto is None:
        return _seeds(len(ablation.possible_seeds()))
    decides = f"at most {auto.at_most} report seeds" if auto.take else "no report seeds before they are given"
    return f"a pilot of {auto.pilot} seeds on validation images decides (to resolve {auto.resolve:g} points), {decides}"


def cell_lines(outline: Outline) -> list[str]:
    """Every cell of the ablation, what was merged and why, aliases, explanations of controls."""
    ablation, plan = outline.study.ablation, outline.cell_plan
    if ablation is None:
        return []
    if plan is None:
        return [
            "ablation of the search's best configuration, decided when the search has ended",
            *(f"    {path}: {', '.join(map(shown, values))}" for path, values in ablation.factors.items()),
        ]
    return [
        f"ablation {ablation.design} ({len(plan.cells)} cells; all compared with {plan.reference}, Holm over "
        f"{'all but replicas' if any(cell.replica_of for cell in plan.cells) else 'them'}):",
        *(f"    {_described(cell)}" for cell in plan.cells),
        *(
            f"    {line}"
            for line in dict.fromkeys([*plan.notes, *(line for cell in plan.cells for line in cell.merged)])
        ),
        *(f"    alias: {line}" for line in plan.aliases),
        *_resolved(ablation, max(plan.family_sizes(ablation.families).values(), default=1)),
    ]


def _resolved(ablation: AblationSettings, family: int) -> list[str]:
    """What the seeds can tell apart in a family of this size, in units that a pilot translates into points."""
    seeds = len(ablation.possible_seeds())
    smallest = minimum_detectable(1.0, seeds, alpha=ablation.alpha / family) if ablation.auto_seeds is None else None
    if smallest is None:
        return []
    among = f", among {family} comparisons" if family > 1 else ""
    return [
        f"    {seeds} seeds tell a difference of {smallest:.1f} sd of the paired differences from zero "
        f"(power .8{among})"
    ]


def _described(cell: Cell) -> str:
    if cell.explanation:
        return f"{cell.name} (control): {cell.explanation}"
    changes = ", ".join(f"{path} = {shown(value)}" for path, value in cell.changes.items())
    return f"{cell.name}: {changes or 'the base as it is'}"


def factor_lines(plan: CellPlan | None, factors: Mapping[str, Mapping[str, float]] | None) -> Iterator[str]:
    """What views and controls multiply the gradient of each loss term by, against the plain teacher.

    Args:
        plan: the cells; None where they are not known.
        factors: by name of the cell and loss term; None before the teacher is trained.
    """
    if factors is None:
        yield "gradient factors against the plain teacher: measured once the teacher is trained (design.json)"
        yield "cells that are then found to have the same targets and weights are trained once"
    elif plan is not None and factors:
        yield "gradient on the student's logits or feature, as a multiple of the plain teacher's, per loss term:"
        for cell in plan.cells:
            if cell.name in factors:
                terms = ", ".join(f"{term} {factor:.2f}" for term, factor in factors[cell.name].items())
                yield f"    {cell.name}: {terms}"

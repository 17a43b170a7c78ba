"""Cells whose targets turn out to be another cell's: one of them is trained, and stands for both.

Decided on measured targets of the trained teacher, never on names: a control that puts the teacher's own output in the
views' place is the plain teacher where the views' weights sum to 1, and is not where they sum to 3.4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from akdtune.designs.cells import Cell, CellPlan
from akdtune.planning.measured_targets import ROUNDING, Taught, beside_views


@dataclass(frozen=True)
class MeasuredPlan:
    """The cells of an ablation after their targets were measured.

    Attributes:
        plan: without cells that are taught the same as another one, which stands for them.
        factors: by what views multiply the gradient of each loss term, by name of the cell and term.
        lines: a sentence for each cell that was found to be another one.
    """

    plan: CellPlan
    factors: Mapping[str, Mapping[str, float]]
    lines: tuple[str, ...] = ()


def measured_plan(plan: CellPlan, taught: Mapping[str, Taught], images: int) -> MeasuredPlan:
    """Merges cells that differ in their views alone and whose targets do the same to a student, up to rounding.

    Of several such cells the reference stands for the others, else the design's base, else one without views, else the
    first.

    Args:
        plan: with every cell.
        taught: what was measured of cells, by name; what is not there is equal to nothing.
        images: on how many real ones.
    """
    kept: list[Cell] = []
    lines: list[str] = []
    for cell in sorted(plan.cells, key=lambda cell: _rank(cell, plan)):
        place, difference = _equal_to(cell, kept, taught)
        if place is None:
            kept.append(cell)
            continue
        line = (
            f"{cell.name}: the same targets and weights as {kept[place].name} on {images} real images (largest "
            f"difference {difference:.1g} of a gradient's length); trained once"
        )
        lines.append(line)
        kept[place] = replace(
            kept[place],
            merged=(*kept[place].merged, line, *cell.merged),
            stands_for=(*kept[place].stands_for, cell.name, *cell.stands_for),
        )
    standing = {name: cell.name for cell in kept for name in (cell.name, *cell.stands_for)}
    by_name = {
        cell.name: replace(cell, replica_of=standing.get(str(cell.replica_of), cell.replica_of)) for cell in kept
    }
    cells = tuple(by_name[cell.name] for cell in plan.cells if cell.name in by_name)
    factors = {cell.name: taught[cell.name].factors for cell in cells if cell.name in taught}
    factors = {name: of_cell for name, of_cell in factors.items() if of_cell}
    return MeasuredPlan(replace(plan, cells=cells), factors, tuple(lines))


def _rank(cell: Cell, plan: CellPlan) -> tuple[bool, bool, bool]:
    """Smaller for a cell that stands for others rather than being stood for."""
    return cell.name != plan.reference, cell.name != plan.base.name, cell.settings["views"]["name"] != "none"


def _equal_to(cell: Cell, kept: Sequence[Cell], taught: Mapping[str, Taught]) -> tuple[int | None, float]:
    """The place of the cell that is taught the same, and the largest difference of their gradients."""
    if cell.name not in taught:
        return None, 0.0
    beside = beside_views(cell)
    for place, other in enumerate(kept):
        if other.name in taught and beside_views(other) == beside:
            difference = taught[cell.name].difference(taught[other.name])
            if difference is not None and difference <= ROUNDING:
                return place, difference
    return None, 0.0

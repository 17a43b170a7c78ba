"""The cells of an ablation: a design over one base configuration, and the controls beside it, checked and merged."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from akdtune.designs import controls, factors, no_effect, selecting
from akdtune.designs.changes import apply, with_task
from akdtune.errors import AkdtuneError, unknown_name
from akdtune.registry import lookup
from akdtune.registry import names as component_names
from akdtune.settings.data import data_settings
from akdtune.settings.domains import Issue, label
from akdtune.settings.file import KeyPath, shown, written
from akdtune.settings.sections import TRIAL_LEVEL, AblationSettings
from akdtune.settings.training import TrainingSettings
from akdtune.settings.trial import pair_of, resolve_ce_weight, selected, trial_settings

Sections = dict[str, Any]

MATCHED = ("weight_matched", "shrink_matched", "entropy_matched", "target_matched")
"""Controls that give a view method's strength to the plain teacher."""


@dataclass(frozen=True)
class Cell:
    """One configuration of a study's report, trained with every seed.

    Attributes:
        name: as tables and figures show it, unique in the study.
        role: ablation | control | confirm.
        arm: views/method[@selection], as arms of a search are named.
        settings: data, teacher, student, views, method, training (and `seeds` where they are shifted), filled in.
        changes: what it changes in the base, by key path.
        levels: the level of every factor; None for controls and named arms.
        explanation: one sentence; empty for cells of a design.
        merged: cells that are the same configuration, or are taught the same, with the reason, one line each.
        stands_for: names of cells that are taught the same, which is known once targets were measured.
        written: views, method, student and training before defaults were filled in.
        replica_of: name of the cell whose experiment it repeats, rounded differently; None for all others.
    """

    name: str
    role: str
    arm: str
    settings: Sections
    changes: Mapping[str, Any] = field(default_factory=dict)
    levels: Mapping[str, Any] | None = None
    explanation: str = ""
    merged: tuple[str, ...] = ()
    stands_for: tuple[str, ...] = ()
    written: Sections = field(default_factory=dict)
    replica_of: str | None = None


@dataclass(frozen=True)
class CellPlan:
    """All cells of an ablation.

    Attributes:
        cells: in the order of the design, controls last.
        reference: name of the cell that the others are compared with.
        aliases: what a fractional design cannot tell apart, one line each.
        notes: sentences about the design.
        warnings: sentences about what is odd in it.
    """

    cells: tuple[Cell, ...]
    reference: str
    aliases: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def base(self) -> Cell:
        """The cell whose factors all stand at their first value; controls are made from it."""
        return self.cells[0]

    def family_sizes(self, families: Sequence[Sequence[str]] | None) -> dict[str, int]:
        """By how many comparisons each cell's is judged, itself included; reference and replicas have none.

        Args:
            families: as declared; None: all cells are one. Outside every declared one a comparison stands alone.
        """
        compared = [cell.name for cell in self.cells if cell.name != self.reference and cell.replica_of is None]
        sizes = dict.fromkeys(compared, len(compared) if not families else 1)
        for family in families or []:
            sizes |= dict.fromkeys(members := [name for name in family if name in sizes], len(members))
        return sizes

    @property
    def controls(self) -> int:
        """How many of the cells are controls."""
        return sum(cell.role == "control" for cell in self.cells)

    def families(self, declared: Sequence[Sequence[str]] | None) -> list[list[str]] | None:
        """Declared families with the cells that stand for others in their place; None where none were declared."""
        if declared is None:
            return None
        standing = {name: cell.name for cell in self.cells for name in (cell.name, *cell.stands_for)}
        return [list(dict.fromkeys(standing.get(name, name) for name in family)) for family in declared]


_NOMINAL: dict[str, tuple[int, int, int]] = {
    "digits": (1, 8, 10), "cifar10": (3, 32, 10), "cifar100": (3, 32, 100), "fashion_mnist": (1, 28, 10),
    "svhn": (3, 32, 10), "stl10": (3, 96, 10), "tiny_imagenet": (3, 64, 200), "imagenet": (3, 224, 1000),
}  # fmt: skip
"""Channels, pixels and classes, by which parameters are counted before any data is read; CIFAR-100's elsewhere."""


class CellProblems(AkdtuneError):
    """What is wrong with an ablation, each with its key path in the file."""

    def __init__(self, issues: Sequence[Issue]) -> None:
        super().__init__("; ".join(f"{written(path)}: {message}" for path, message in issues))
        self.issues = list(issues)


def plan_cells(ablation: AblationSettings, base: Sections, constants: Sections) -> CellPlan:
    """The cells of a design over `base`, equal ones merged, with their controls.

    Args:
        ablation: checked settings.
        base: views, method, student and training of the base, as written, without domains.
        constants: `data` and `teacher`, filled in.

    Raises:
        CellProblems: with every problem found.
    """
    where: KeyPath = ("ablation", "arms" if ablation.design == "arms" else "factors")
    try:
        design = factors.cells_of(
            ablation.design, ablation.factors, resolution=ablation.resolution, arms=ablation.arms or None
        )
    except AkdtuneError as error:
        raise CellProblems([(where, str(error))]) from None
    if ablation.design == "arms" and factors.BASE not in ablation.arms:
        design = replace(design, cells=[factors.DesignCell(factors.BASE, {}), *design.cells])
    issues: list[Issue] = []
    kept, lines = _designed(design, base, constants, where, issues)
    if issues:
        raise CellProblems(list(dict.fromkeys(issues)))
    made, more = _controls(ablation, kept[0], constants, kept, issues)
    if ablation.reference is not None and ablation.reference not in (known := [cell.name for cell in [*kept, *made]]):
        issues.append((("ablation", "reference"), unknown_name("cell", ablation.reference, known)))
    reference = ablation.reference or kept[0].name
    known = [cell.name for cell in [*kept, *made]]
    for family in ablation.families or []:
        issues += [
            (("ablation", "families"), unknown_name("cell", name, known)) for name in family if name not in known
        ]
        issues += [
            (("ablation", "families"), f"'{cell.name}' repeats {cell.replica_of}: nothing about it is to be tested")
            for cell in made
            if cell.replica_of is not None and cell.name in family
        ]
    if issues:
        raise CellProblems(list(dict.fromkeys(issues)))
    cells = tuple(_told_apart([*kept, *made]))
    plan = CellPlan(cells, reference, tuple(design.aliases), (*design.notes, *lines, *more))
    return replace(plan, warnings=tuple(_oddities(plan, ablation)))


def _told_apart(cells: Sequence[Cell]) -> Iterator[Cell]:
    """The cells, with what their students see in the names of their arms where they differ in that."""
    seen = [cell.settings["training"].get("augmentation") for cell in cells]
    texts = dict.fromkeys("" if given is None else label(given) for given in seen)
    for cell, given in zip(cells, seen, strict=True):
        apart = len(texts) > 1 and given is not None
        yield replace(cell, arm=f"{cell.arm}[augmentation={label(given)}]") if apart else cell


def _designed(
    design: factors.Design, base: Sections, constants: Sections, where: KeyPath, issues: list[Issue]
) -> tuple[list[Cell], list[str]]:
    """The cells of the design, filled in, those that train the same as one; a line for each of these."""
    filled_in: dict[str, tuple[factors.DesignCell, Sections, Sections]] = {}
    nowhere: dict[str, list[no_effect.Idle]] = {}
    for cell in design.cells:
        try:
            shared = with_task(cell.applied, constants)
            sections, nowhere[cell.name] = apply(cell.applied, base)
        except AkdtuneError as error:
            issues.append((where, str(error)))
            continue
        settings, wrong = trial_settings(sections, shared)
        issues += [(where, f"cell '{cell.name}': {written(path)}: {message}") for path, message in wrong]
        if not wrong:
            filled_in[cell.name] = cell, {**shared, **settings}, sections
    issues += _without_meaning(design, nowhere, where)
    if issues:
        return [], []
    merged, lines = no_effect.merge(((cell, settings) for cell, settings, _ in filled_in.values()), nowhere)
    cells = []
    for group in merged:
        _, settings, sections = filled_in[group.cell.name]
        cells.append(
            Cell(
                group.cell.name, "ablation", arm_name(settings), settings, group.cell.changes, group.cell.levels,
                merged=tuple(group.merged), written=sections,
            )
        )  # fmt: skip
    return cells, lines


def _without_meaning(
    design: factors.Design, nowhere: Mapping[str, Sequence[no_effect.Idle]], where: KeyPath
) -> Iterator[Issue]:
    """Key paths that no cell's components have."""
    lost = {path: reason for of_cell in nowhere.values() for path, reason in of_cell}
    for path, reason in lost.items():
        asking = [cell.name for cell in design.cells if path in cell.applied]
        if all(path in dict(nowhere.get(name, ())) for name in asking):
            yield (*where, path) if where[-1] == "factors" else where, f"{path} has no effect in any cell: {reason}"


def _controls(
    ablation: AblationSettings, base: Cell, constants: Sections, cells: Sequence[Cell], issues: list[Issue]
) -> tuple[list[Cell], list[str]]:
    made: list[Cell] = []
    lines: list[str] = []
    taken = {_key(cell.settings): cell.name for cell in cells}
    for index, name in enumerate(ablation.controls):
        try:
            cell = control_cell(name, base, constants)
        except AkdtuneError as error:
            issues.append((("ablation", "controls", index), str(error)))
            continue
        key = _key(cell.settings)
        if key in taken:
            lines.append(f"control {name}: the same configuration as {taken[key]}, trained once")
            continue
        if name in {other.name for other in cells}:
            cell = replace(cell, name=f"control {name}")
        taken[key] = cell.name
        made.append(cell)
    return made, lines


def _key(settings: Sections) -> str:
    """Equal for configurations that train the same."""
    return json.dumps(no_effect.canonical(settings), sort_keys=True)


def _weighed_key(settings: Sections) -> str:
    """As `_key`, with the weight of the cross-entropy as the number that controls have it as."""
    pair = pair_of(settings, settings["student"])
    assert pair is not None, "a cell's data, teacher and student are known"
    methods = [lookup("methods", term["name"]) for term in settings["method"]]
    weight = resolve_ce_weight(TrainingSettings(**settings["training"]), methods, pair)
    return _key({**settings, "training": {**settings["training"], "ce_weight": weight}})


def control_cell(name: str, base: Cell, constants: Sections) -> Cell:
    """A control of a base cell, with the base's settings where it does not say otherwise.

    Raises:
        AkdtuneError: for an unknown control, or one that makes no sense for this base.
    """
    if "task" in base.settings:
        constants = {**constants, "task": base.settings["task"]}
    control = controls.build(name, base.settings, _context(base.settings, constants))
    settings, wrong = trial_settings({key: control.sections.get(key) for key in TRIAL_LEVEL}, constants)
    if wrong:
        listed = "; ".join(f"{written(path)}: {message}" for path, message in wrong)
        raise AkdtuneError(f"control '{name}' does not fit this study: {listed}")
    full = {**constants, **settings}
    if control.seeds_shift:
        full["seeds"] = dict(control.seeds_shift)
    repeated = base.name if control.repeats else None
    return Cell(control.name, "control", arm_name(full), full, {}, None, control.explanation, replica_of=repeated)


def _context(settings: Sections, constants: Sections) -> controls.ControlContext:
    data, teacher = constants["data"], constants["teacher"]
    source = lookup("data", data["name"])
    if source.takes == "images":
        channels, size, classes = _NOMINAL.get(data["name"], (3, 32, 100))
        inputs: controls.NetworkInputs = (channels, data.get("size") or size, data.get("num_classes") or classes)
    else:
        inputs = source.spec(data_settings(data))
    pair = pair_of(constants, settings["student"])
    assert pair is not None, "data, teacher and student are known here"
    return controls.ControlContext(
        pair, inputs, teacher["network"], tuple(other["network"] for other in teacher.get("others") or ())
    )


def arm_name(settings: Mapping[str, Any]) -> str:
    """`views/method[+method][@selection]` of a configuration."""
    return f"{settings['views']['name']}/{'+'.join(term['name'] for term in settings['method'])}{selected(settings)}"


def _is_taught(cell: Cell) -> bool:
    return any(lookup("methods", term["name"]).consumes != "self" for term in cell.settings["method"])


def _oddities(plan: CellPlan, ablation: AblationSettings) -> Iterator[str]:
    """What a reader of the study's table would object to."""
    yield from _selecting_alone(plan)
    with_views = [cell for cell in plan.cells if cell.role == "ablation" and cell.settings["views"]["name"] != "none"]
    without = [cell for cell in plan.cells if cell.settings["views"]["name"] == "none" and _is_taught(cell)]
    of_base = plan.cells[0].settings["views"]["name"] != "none"  # a matched control is one of the base's views
    if of_base and with_views and without and not any(name in ablation.controls for name in MATCHED):
        yield (
            f"{with_views[0].name} is compared with the plain teacher ({without[0].name}), whose loss may be weaker: "
            "add the control weight_matched"
        )
    lists = [ablation.seeds] if isinstance(ablation.seeds, list) else []
    if lists and len(lists[0]) < 3:
        yield f"{len(lists[0])} seeds: differences get {'no' if len(lists[0]) < 2 else 'very wide'} intervals"


def _selecting_alone(plan: CellPlan) -> Iterator[str]:
    """Cells that distil chosen rows, and are not compared with as many at random, or with all in as many steps."""
    known = {_weighed_key(cell.settings) for cell in plan.cells}
    lacking: dict[str, list[Cell]] = {}
    for cell in plan.cells:
        if cell.role != "ablation" or not selecting.chooses(cell.settings.get("selection")):
            continue
        for control, sections in selecting.beside_selection(cell.settings).items():
            if _weighed_key(sections) not in known:
                lacking.setdefault(control, []).append(cell)
    for control, cells in lacking.items():
        what = "as many rows drawn at random do" if control == selecting.RANDOM_ROWS else "all rows in as many steps do"
        arm = selecting.beside_selection(cells[0].settings)[control].get("selection", selecting.NO_SELECTION)
        given = ", ".join(f"{key}: {shown(value)}" for key, value in arm.items() if value is not None)
        how = f"the control {control}" if plan.base in cells else f"an arm with selection: {{{given}}}"
        yield f"rows are chosen in {', '.join(cell.name for cell in cells)}, and no cell says what {what}: add {how}"


def baseline_cells(
    names: Sequence[str], base: Sections, constants: Sections, base_name: str = factors.BASE
) -> list[Cell]:
    """Baselines of a confirmation: controls by their name, methods on the plain teacher, views over the base's methods.

    Args:
        names: as written under `confirm.baselines`.
        base: filled-in settings of the configuration whose student and recipe they take.
        constants: `data` and `teacher`, filled in.
        base_name: of the cell that has the base's settings.

    Raises:
        CellProblems: with every problem found.
    """
    cells: list[Cell] = []
    issues: list[Issue] = []
    start = Cell(base_name, "confirm", arm_name(base), base)
    for index, name in enumerate(names):
        try:
            if name in controls.NAMES:
                cells.append(control_cell(name, start, constants))
            else:
                cells.append(_default_cell(name, base, constants))
        except AkdtuneError as error:
            issues.append((("confirm", "baselines", index), str(error)))
    if issues:
        raise CellProblems(issues)
    return cells


def _default_cell(name: str, base: Sections, constants: Sections) -> Cell:
    """A method with its defaults on the plain teacher, or views with theirs over the base's methods."""
    known = {"views": component_names("views"), "methods": component_names("methods")}
    if name in known["methods"]:
        changed: Sections = {"views": {"name": "none"}, "method": [{"name": name}]}
        changed["training"] = {**base["training"], "ce_weight": None}
        why = f"{name} with its default settings, without views, in the same recipe"
    elif name in known["views"]:
        changed = {"views": {"name": name}}
        why = f"the views {name} with their default settings over the same methods"
    else:
        raise AkdtuneError(unknown_name("baseline", name, [*controls.NAMES, *known["methods"], *known["views"]]))
    settings, wrong = trial_settings({**{key: base.get(key) for key in TRIAL_LEVEL}, **changed}, constants)
    if wrong:
        listed = "; ".join(f"{written(path)}: {message}" for path, message in wrong)
        raise AkdtuneError(f"'{name}' does not fit this study: {listed}")
    full = {**constants, **settings}
    return Cell(name, "control", arm_name(full), full, explanation=why)

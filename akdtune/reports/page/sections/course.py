"""How trials went: learning curves, decisions of early stopping, and the search from trial to trial."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from akdtune.metric import ACCURACY
from akdtune.records.ledger.events import RungDecided
from akdtune.reports import curves as curves_report
from akdtune.reports.curves import Curve
from akdtune.reports.page.content import Figure, LeftOut, Panel, Part, Section, Sentences, Table
from akdtune.reports.page.drawing import lines, points, svg
from akdtune.reports.page.drawing.axes import PANEL, WIDE, Margins, plot
from akdtune.reports.page.drawing.lines import Line
from akdtune.reports.page.drawing.looks import Look, look
from akdtune.reports.page.drawing.points import Point
from akdtune.reports.page.material import Material, Row, finite
from akdtune.reports.text import number
from akdtune.roles import REPORT_ROLES

SEARCHED = ("search", "probe", "pilot")
GROUPS_DRAWN = 24
"""Plots of groups beside each other."""


@dataclass(frozen=True)
class _Kind:
    """Trials whose curves belong together."""

    title: str
    column: str
    rows: Sequence[Row]
    by_cell: bool


def curves(material: Material) -> Section | LeftOut:
    """The metric over epochs, an arm or a cell a plot, and the means of all beside each other."""
    parts = [figure for kind in _kinds(material) for figure in _curves(material, kind)]
    if not parts:
        named = material.metric
        value = "an accuracy" if named == ACCURACY else named.validation
        return LeftOut("Learning curves", f"no trial has finished an epoch with {value} yet")
    return Section("curves", "Learning curves", parts)


def _kinds(material: Material) -> Iterator[_Kind]:
    for role, title in (("search", "Search"), ("probe", "Probes"), ("pilot", "Pilot")):
        yield _Kind(title, material.metric.validation, material.of_roles(role), False)
    for phase in material.phases:
        cells = {cell.cell_id: cell.name for cell in phase.cells}
        held = [{**row, "cell": cells[row["cell_id"]]} for row in material.of_roles(*REPORT_ROLES)
                if row["cell_id"] in cells]  # fmt: skip
        title = "Ablation" if phase.name == "ablation" else "Confirmation"
        course = material.course(material.metric.validation)
        validated = any(row["trial_id"] in course for row in held)
        yield _Kind(title, material.metric.validation if validated else "train_accuracy", held, True)


def _curves(material: Material, kind: _Kind) -> Iterator[Figure]:
    groups = _groups(material, kind)
    if not groups:
        return
    every = np.concatenate([curve.values for group in groups.values() for curve in group])
    ends = [float(every.min()), float(every.max())]
    last = max(int(curve.epochs[-1]) for group in groups.values() for curve in group)
    unit = material.columns[kind.column].unit if kind.column in material.columns else ""
    label = f"{kind.column.replace('_', ' ')}{', %' if unit in ('percent', '') else f', {unit}'}"
    looks = {name: material.looks.get(name, look(0)) for name in groups}
    panels = []
    if len(groups) > 1:
        means = [_mean(name, group, looks[name]) for name, group in groups.items()]
        panels.append(Panel(lines.panel("means", means, name=f"{kind.title}: mean {label} of each group over epochs",
                                        y_label=label, beside=ends, last_epoch=last)))  # fmt: skip
    for name, group in list(groups.items())[:GROUPS_DRAWN]:
        drawn = [*(_thin(curve, looks[name]) for curve in group), _mean(name, group, looks[name])]
        said = f"{kind.title}: {label} of {len(group)} trials of {name} over epochs"
        panels.append(Panel(lines.panel(name, drawn, name=said, y_label=label, beside=ends, last_epoch=last)))
    yield Figure(f"{kind.title}: {label}", panels, _reading(kind, groups), looks)


def _groups(material: Material, kind: _Kind) -> dict[str, list[Curve]]:
    """Curves by arm or cell; values that are not finite are left out."""
    course = material.course(kind.column)
    groups: dict[str, list[Curve]] = {}
    for row in kind.rows:
        if row["trial_id"] not in course:
            continue
        epochs, values = course[row["trial_id"]]
        held = np.isfinite(values)
        if held.any():
            name = str(row["cell"] if kind.by_cell else row["arm"])
            curve = Curve(str(row["trial_id"]), name, str(row["role"]), str(row["status"]), epochs[held], values[held])
            groups.setdefault(name, []).append(curve)
    return groups


def _thin(curve: Curve, of: Look) -> Line:
    dim = "" if curve.status == "done" else " dim"
    said = f"{curve.trial_id}, {curve.status}: {number(float(curve.values[-1]))} after epoch {int(curve.epochs[-1])}"
    return Line(curve.epochs, curve.values, f"{of.name} ln one{dim}", said, of.shape)


def _mean(name: str, group: Sequence[Curve], of: Look) -> Line:
    epochs, means = curves_report.mean_of(group)
    return Line(epochs, means, f"{of.name} {of.line} bold", f"{name}: mean of {len(group)} trials", of.shape)


def _reading(kind: _Kind, groups: Mapping[str, Sequence[Curve]]) -> str:
    said = ["Thin: a trial; bold: mean of the trials that have the epoch, as far as half of them go"]
    if any(curve.status != "done" for group in groups.values() for curve in group):
        said.append("dimmed and dashed: pruned, or without an end")
    if any(curves_report.ends_early(group) for group in groups.values()):
        said.append("where some have stopped, the mean is of those that went on")
    if kind.by_cell and kind.column == "train_accuracy":
        said.append("on training images, for the test set is read once, after the last epoch")
    if len(groups) > GROUPS_DRAWN:
        said.append(f"the first {GROUPS_DRAWN} of {len(groups)} groups have a plot of their own")
    return "; ".join(said) + "."


# ------------------------------------------------------------------------------------------------- early stopping


def rungs(material: Material) -> Section | LeftOut:
    """What was decided at each rung: scores, cutoffs, who went on."""
    decided = [event for event in material.rungs() if not event.counted]
    if not decided:
        name = (material.settings.get("scheduler") or {}).get("name") if isinstance(
            material.settings.get("scheduler"), Mapping) else None  # fmt: skip
        why = "the study stops no trial early" if name in (None, "none") else "no trial has come to a rung yet"
        return LeftOut("Decisions of early stopping", why)
    brackets = list(dict.fromkeys(event.bracket for event in decided))
    levels = sorted({event.rung for event in decided})
    values = [value for event in decided for value in (finite(event.value), finite(event.cutoff)) if value is not None]
    panels = [
        Panel(
            _rung_panel(bracket, [e for e in decided if e.bracket == bracket], levels, values, _look(material, bracket))
        )
        for bracket in brackets[:GROUPS_DRAWN]
    ]
    caption = (
        "Filled: goes on; cross: stopped; tick: the score below which it would stop, none for the first ones of a "
        "rung. From left to right within a rung in the order of the decisions."
    )
    parts: list[Part] = [Figure("Scores at the rungs", panels, caption), _rung_table(decided, brackets, levels)]
    if any(event.pilot for event in decided):
        parts.append(Sentences(["Pilot trials are judged and never stopped."]))
    return Section("rungs", "Decisions of early stopping", parts)


def _look(material: Material, bracket: str) -> Look:
    return material.looks.get(bracket, look(0))


def _rung_panel(
    title: str, events: Sequence[RungDecided], levels: Sequence[int], beside: Sequence[float], of: Look
) -> Markup:
    options = [f"epoch {rung}" for rung in levels]
    drawn = plot(f"{title}: scores at the rungs and decisions", [], beside, y_label="score, %", title=title,
                 options=options, margins=Margins(left=46, top=40, bottom=26))  # fmt: skip
    on: list[Markup] = []
    stopped: list[Markup] = []
    cutoffs: list[Markup] = []
    for place, rung in enumerate(levels):
        mine = [event for event in events if event.rung == rung]
        for index, event in enumerate(mine):
            x = place + ((index + 0.5) / len(mine) - 0.5) * 0.8
            value, cutoff = finite(event.value), finite(event.cutoff)
            said = f"{event.trial_id}: {number(value)}, cutoff {'none' if cutoff is None else number(cutoff)}, "
            said += "stopped" if event.decision == "STOP" else "goes on"
            if value is not None:
                goes_on = event.decision != "STOP"
                at = svg.mark(*drawn.at(x, value), of.shape if goes_on else 5, said, radius=3.8 if goes_on else 4.6)
                (on if goes_on else stopped).append(at)
            if cutoff is not None:
                px, py = drawn.at(x, cutoff)
                cutoffs.append(svg.line(px - 5, py, px + 5, py, "cutoff"))
    drawn.add(*cutoffs, svg.group(f"{of.name} mk", *on), svg.group("stop mk", *stopped))
    return drawn.drawing()


def _rung_table(decided: Sequence[RungDecided], brackets: Sequence[str], levels: Sequence[int]) -> Table:
    rows = []
    for bracket in brackets:
        for rung in levels:
            mine = [event for event in decided if event.bracket == bracket and event.rung == rung]
            if not mine:
                continue
            stopped = [event for event in mine if event.decision == "STOP"]
            cutoffs = [cutoff for event in mine if (cutoff := finite(event.cutoff)) is not None]
            last = number(cutoffs[-1]) if cutoffs else "none"
            went = [value for event in mine if event.decision != "STOP" and (value := finite(event.value)) is not None]
            rows.append(
                [bracket, str(rung), str(len(mine)), str(len(stopped)), last, number(min(went)) if went else ""]
            )
    headings = ["arm", "epoch of the rung", "judged", "stopped", "last cutoff", "lowest that went on"]
    return Table("Decisions by rung", headings, rows, (1, 2, 3, 4, 5))


# ------------------------------------------------------------------------------------------------- history


def history(material: Material) -> Section | LeftOut:
    """Each search trial's value in the order of the plan, and the best so far."""
    metric = material.metric
    rows = sorted(material.of_roles("search"), key=lambda row: row["number"] or 0)
    held = [
        (place, row, value)
        for place, row in enumerate(rows, 1)
        if (value := finite(row[metric.validation])) is not None
    ]
    if not held:
        why = f"no search trial has a validation {metric.words} yet" if rows else "the study has no search"
        return LeftOut("Optimisation history", why)
    shown = {arm: material.looks[arm] for arm in material.looks if any(str(row["arm"]) == arm for _, row, _ in held)}
    caption = (
        "Line: the highest of the trials that are done so far; faint: pruned, diverged or running, at their last "
        "epoch. The highest of noisy numbers is too high."
    )
    wide, narrow = (_history(material, held, size) for size in (WIDE, PANEL))
    figure = Figure(f"Validation {metric.words} from trial to trial", [Panel(wide, narrow, broad=True)], caption, shown)
    return Section("history", "Optimisation history", [figure])


def _history(material: Material, held: Sequence[tuple[int, Row, float]], size: tuple[float, float]) -> Markup:
    drawn = plot(
        f"Validation {material.metric.words} of each search trial in the order of the plan, and the highest so far",
        [place for place, _, _ in held], [value for _, _, value in held], size=size,
        x_label="search trial, in the order of the plan", y_label=f"validation {material.metric.words}, %", whole=True,
        margins=Margins(left=46, top=28),
    )  # fmt: skip
    done = [(float(place), value) for place, row, value in held if row["status"] == "done"]
    if done:
        top = np.maximum.accumulate([value for _, value in done]).tolist()
        reached = [drawn.at(place, value) for (place, _), value in zip(done, top, strict=True)]
        drawn.add(svg.steps([*reached, (drawn.x.end, reached[-1][1])], "best"))
    looks = material.looks
    points.draw(
        drawn,
        (
            Point(place, value, _said(row, value), looks[str(row["arm"])], faint=row["status"] != "done")
            for place, row, value in held
        ),
    )
    return drawn.drawing()


def _said(row: Row, value: float) -> str:
    return f"{row['trial_id']}, {row['arm']}, {row['status']} after epoch {row['epochs']}: {number(value)} %"

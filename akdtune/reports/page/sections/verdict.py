"""The answers, in the sentences of the analyses, and the tables and plots they stand on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from akdtune.reports import figures
from akdtune.reports.ablation import figures as ablation_figures
from akdtune.reports.ablation import tables, winners
from akdtune.reports.ablation.findings import margin_of
from akdtune.reports.ablation.tables import Result
from akdtune.reports.page.content import Code, Figure, LeftOut, Panel, Part, Section, Sentences, Table
from akdtune.reports.page.drawing import forest as drawn_forest
from akdtune.reports.page.drawing.looks import look
from akdtune.reports.page.material import Material, Row, finite, without_home
from akdtune.reports.page.sections.question import part_of
from akdtune.reports.standing.arms import of_search
from akdtune.reports.text import number

PHASES = {"ablation": "Ablation", "confirm": "Confirmation"}
TRIALS_SHOWN = 2000
"""Rows of the table of trials."""


def verdict(material: Material) -> Section | LeftOut:
    """What may be concluded, and how to read it."""
    parts: list[Part] = []
    notes: list[str] = []
    if material.standing is not None and material.standing.leader is not None:
        parts.append(Sentences([f"{material.standing.sentence}."], lead=True))
    for result in material.results:
        said = [tables.said_of(result, finding) for finding in result.findings]
        if said:
            parts.append(Sentences(said, listed=True, heading=heading_of(result)))
        notes += [
            f"{PHASES[result.phase.name]}: {line}" for line in tables.status_lines(result) + tables.notes_of(result)
        ]
    if not isinstance(material.diversity, str):
        parts.append(Sentences(material.diversity.sentences, listed=True, heading="Diversity and accuracy"))
    if not parts:
        return LeftOut("Verdict", f"no trial has reached its end yet ({_tally(material.rows)})")
    parts += _next(material)
    if notes:
        parts.append(Sentences(notes, listed=True, folded="How to read this"))
    return Section("verdict", "Verdict", parts)


def heading_of(result: Result) -> str:
    """`Ablation: leave one out, 7 cells, 5 seeds, against base`."""
    title = tables.title_of(result)
    return f"Ablation: {title}" if result.phase.name == "ablation" else title[:1].upper() + title[1:]


def _next(material: Material) -> list[Part]:
    """What to do next, with its cost."""
    step = None if material.standing is None else material.standing.next
    if step is None:
        return []
    said = [f"Next ({step.why}){f': {step.cost}' if step.cost else ''}{f' ({step.note})' if step.note else ''}"]
    return [Sentences(said), Code(without_home(step.command))]


def _tally(rows: Sequence[Row]) -> str:
    counted = Counter(str(row["status"]) for row in rows)
    return ", ".join(f"{count} {status}" for status, count in counted.items()) or "no trials"


def arms(material: Material) -> Section | LeftOut:
    """Arms and cells side by side, and every trial."""
    if not material.rows:
        return LeftOut("Arms and cells", "no trial has been planned yet")
    parts: list[Part] = []
    parts += [part for role in ("search", "probe") for part in _arms_table(material, role)]
    parts += [_cells_table(material, result) for result in material.results]
    parts.append(_trials_table(material))
    return Section("arms", "Arms and cells", parts)


def _arms_table(material: Material, role: str) -> Iterator[Part]:
    """The arms of a search or of probes as `akdtune show` has them."""
    search = part_of(material.settings, "search").get("algorithm")
    found = of_search(material.rows, role, search if isinstance(search, str) else None)
    if found is None:
        return
    kept = [place for place in range(len(found.headings)) if any(row[place] for row in found.rows)]
    rows = [[row[place] for place in kept] for row in found.rows]
    right = [new for new, place in enumerate(kept) if place in found.right]
    title = found.title[:1].upper() + found.title[1:]
    yield Table(title, [found.headings[place] for place in kept], rows, right, material.looks)
    if found.note:
        yield Sentences([found.note[:1].upper() + found.note[1:] + "."])


def _cells_table(material: Material, result: Result) -> Table:
    """The table that a paper prints."""
    own, controls = (tables.paper_rows(result, controls=control) for control in (False, True))
    caption = heading_of(result)
    return Table(caption, tables.headings(result), [*own, *controls], tables.numeric(result), material.looks)


def _trials_table(material: Material) -> Table:
    shown = [
        (name, title)
        for name, title in (
            (material.metric.validation, "validation %"),
            (material.metric.test, "test %"),
            ("train_accuracy", "training %"),
        )
        if any(finite(row.get(name)) is not None for row in material.rows)
    ]
    rows = [
        [str(row["trial_id"]), str(row.get("cell") or row["arm"]), str(row["role"]), str(row["seed"]),
         str(row["status"]), str(row["epochs"] or 0), *(_two_digits(row.get(name)) for name, _ in shown),
         material.settings_text(row)]
        for row in material.rows[:TRIALS_SHOWN]
    ]  # fmt: skip
    more = len(material.rows) - TRIALS_SHOWN
    caption = f"Every trial ({len(material.rows):,})" if more <= 0 else (
        f"The first {TRIALS_SHOWN:,} of {len(material.rows):,} trials (akdtune show --csv has all)")  # fmt: skip
    headings = ["trial", "arm or cell", "role", "seed", "status", "epochs", *(title for _, title in shown),
                "searched settings"]  # fmt: skip
    return Table(caption, headings, rows, (3, *range(5, 6 + len(shown))), folded=True)


def _two_digits(value: object) -> str:
    if value is None:
        return ""
    return number(value) if isinstance(value, float) and finite(value) is not None else str(value)


def forest(material: Material) -> Section | LeftOut:
    """Differences from the reference with their intervals; effects of factors; ranks after a confirmation."""
    parts: list[Part] = []
    for result in material.results:
        parts += list(_differences(material, result))
    if not parts:
        why = (
            "no cell has finished a seed that its reference has, too" if material.phases
            else "the study has no confirmation and no ablation, or has not come to them yet"
        )  # fmt: skip
        return LeftOut("Differences from the reference", why)
    return Section("forest", "Differences from the reference", parts)


def _differences(material: Material, result: Result) -> Iterator[Part]:
    found = [finding for finding in result.findings if finite(finding.difference.difference) is not None]
    phase = result.phase
    if found:
        bars = [ablation_figures.bar_of(finding) for finding in found]
        label = phase.metric.replace("_", " ")
        floor = result.noise.usual(result.findings)
        name = heading_of(result)
        how: dict[str, Any] = {
            "name": name, "xlabel": f"{label}: difference from {phase.reference}, paired by seed ({result.unit})",
            "margin": margin_of(phase), "level": result.level, "floor": floor,
            "looks": [material.looks.get(finding.cell.name, look(0)) for finding in found],
        }  # fmt: skip
        wide, narrow = (
            drawn_forest.forest(bars, layout=layout, **how) for layout in (drawn_forest.WIDE, drawn_forest.NARROW)
        )
        yield Figure(name, [Panel(wide, narrow, broad=True)], _reading(bars, margin_of(phase), result.level, floor))
    if phase.name == "confirm":
        rows = winners.rows(phase)
        yield Table("Ranks in the search and after it", winners.headings(phase), rows, (1, 2, 3, 4), material.looks)
    if result.effects:
        yield _effects(result)


def _reading(bars: Sequence[figures.Bar], margin: float | None, level: float, floor: float | None) -> str:
    said = ["Round: cells; square: controls", f"thick: {100 * level:g} % interval of each by itself"]
    if any(bar.family_low is not None for bar in bars):
        said.append("thin: simultaneous interval")
    said += [f"band: equivalence margin, ±{margin:g}"] if margin is not None else []
    said += [f"dotted: noise floor, ±{floor:.2f}, what two runs of the same thing may differ by"] if floor else []
    return "; ".join(said) + "."


def _effects(result: Result) -> Table:
    from_zero = tables.effect_rows(result)
    caption = f"Effects of factors, {100 * result.level:g} % intervals of each by itself"
    return Table(caption, ["term", "effect", "interval", "p", "seeds"], from_zero, (1, 2, 3, 4))

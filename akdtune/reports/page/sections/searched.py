"""What the search tried: settings against accuracy, by themselves, in pairs, all together, and which of them matter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from akdtune.reports.importance.figures import Share
from akdtune.reports.importance.shares import EVALUATORS, INTERVALS, READING, JudgedArm
from akdtune.reports.page.content import Figure, LeftOut, Panel, Part, Section, Sentences, Table
from akdtune.reports.page.drawing import bars, points
from akdtune.reports.page.drawing.axes import plot
from akdtune.reports.page.drawing.contour import contour
from akdtune.reports.page.drawing.looks import Look
from akdtune.reports.page.drawing.looks import look as plain
from akdtune.reports.page.drawing.parallel import Axis, parallel
from akdtune.reports.page.drawing.points import Point
from akdtune.reports.page.material import Material, Row, finite, searched
from akdtune.reports.text import counted, number
from akdtune.settings.domains import Domain, Range

ARMS_DRAWN, SETTINGS_DRAWN = 8, 12
FEWEST_FOR_SURFACE = 8
LOG_SPAN = 10.0
"""Positive numbers whose range is not known stand on a logarithmic axis from this factor on."""


@dataclass(frozen=True)
class Values:
    """A setting's values as an axis takes them.

    Attributes:
        path: of the setting.
        at: place of each trial; None where it has none.
        options: names of the places; empty for numbers.
        log: whether equal ratios are equally long.
    """

    path: str
    at: Sequence[float | None]
    options: Sequence[str]
    log: bool

    @property
    def differ(self) -> int:
        """How many different ones there are."""
        return len({value for value in self.at if value is not None})


def values_of(path: str, rows: Sequence[Row], known: Sequence[Domain]) -> Values:
    """The values of a setting in these trials."""
    held = [row.get(f"param.{path}") for row in rows]
    numbers = [finite(value) for value in held]
    if all(value is None or number is not None for value, number in zip(held, numbers, strict=True)):
        there = [value for value in numbers if value is not None]
        ranges = [domain for domain in known if isinstance(domain, Range)]
        wide = bool(there) and min(there) > 0 and max(there) >= LOG_SPAN * min(there)
        log = bool(there) and min(there) > 0 and (ranges[0].log if ranges else wide)
        return Values(path, numbers, (), log)
    options = list(dict.fromkeys(str(value) for value in held if value is not None))
    places = {option: float(place) for place, option in enumerate(options)}
    return Values(path, [None if value is None else places[str(value)] for value in held], options, False)


def _tried(material: Material, *, done: bool) -> list[Row]:
    """Search and probe trials with a validation accuracy."""
    return [
        row
        for row in material.of_roles("search", "probe")
        if finite(row["val_accuracy"]) is not None and searched(row) and (row["status"] == "done" or not done)
    ]


def _paths(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(path for row in rows for path in searched(row)))


def _said(row: Row) -> str:
    settings = " ".join(f"{path}={_value(value)}" for path, value in searched(row).items())
    return f"{row['trial_id']}, {row['arm']}, {row['status']}: {number(finite(row['val_accuracy']))} % {settings}"


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


NOTHING = "no trial with a searched setting has a validation accuracy"


def coordinates(material: Material) -> Section | LeftOut:
    """Every trial of an arm as a line over its settings, coloured by its accuracy."""
    rows = _tried(material, done=False)
    figures = []
    for arm in list(dict.fromkeys(str(row["arm"]) for row in rows))[:ARMS_DRAWN]:
        mine = [row for row in rows if str(row["arm"]) == arm]
        every = [values_of(path, mine, material.domains.get(path, [])) for path in _paths(mine)]
        axes = [Axis(of.path, of.at, of.options, of.log) for of in every if of.differ > 1][:SETTINGS_DRAWN]
        if not axes:
            continue
        scores = [finite(row["val_accuracy"]) for row in mine]
        ended = [
            score for row, score in zip(mine, scores, strict=True) if row["status"] == "done" and score is not None
        ]
        drawn = parallel(
            axes, scores, [row["status"] != "done" for row in mine], [_said(row) for row in mine],
            name=f"{arm}: settings and validation accuracy of {len(mine)} trials", y_label="validation %",
        )  # fmt: skip
        ends = (f"{min(ended):.2f} %", f"{max(ended):.2f} %") if ended else None
        figures.append(Figure(f"{arm}: {counted(len(mine), 'trial')}", [Panel(drawn, broad=True)], levels=ends))
    if not figures:
        return LeftOut("Parallel coordinates", NOTHING if not rows else "no setting differs between trials of an arm")
    caption = (
        "A line a trial of the search or the probes; grey: not done, at its last epoch. Point at a line for its values."
    )
    return Section("coordinates", "Parallel coordinates", [Sentences([caption]), *figures])


def slices(material: Material) -> Section | LeftOut:
    """Accuracy against each setting, and against two of them."""
    rows = _tried(material, done=True)
    every = [values_of(path, rows, material.domains.get(path, [])) for path in _paths(rows)]
    varied = [of for of in every if of.differ > 1]
    if not varied:
        return LeftOut("Slices and contours", NOTHING if not rows else "no searched setting differs between trials")
    arms = {arm: look for arm, look in material.looks.items() if any(str(row["arm"]) == arm for row in rows)}
    panels = [Panel(_slice(of, rows, material.looks)) for of in varied[:SETTINGS_DRAWN]]
    caption = "A point a trial of the search or the probes that is done, against one setting whatever the others are."
    parts: list[Part] = [Figure("Validation accuracy against each setting", panels, caption, arms)]
    parts += list(_contours(material, rows))
    return Section("slices", "Slices and contours", parts)


def _slice(of: Values, rows: Sequence[Row], looks: Mapping[str, Look]) -> str:
    held = [(at, row) for at, row in zip(of.at, rows, strict=True) if at is not None]
    drawn = plot(
        f"Validation accuracy against {of.path}, {len(held)} trials", [at for at, _ in held],
        [float(row["val_accuracy"]) for row in rows], x_label=of.path, y_label="validation accuracy, %",
        log_x=of.log, options=of.options, room_x=0.05,
    )  # fmt: skip
    jitter = {id(row): (place * 0.618 % 1 - 0.5) * 0.5 if of.options else 0.0 for place, (_, row) in enumerate(held)}
    points.draw(
        drawn,
        (
            Point(at + jitter[id(row)], float(row["val_accuracy"]), _said(row), looks[str(row["arm"])])
            for at, row in held
        ),
    )
    return drawn.drawing()


def _contours(material: Material, rows: Sequence[Row]) -> Iterator[Figure]:
    """The two settings of each arm that matter most, or where nothing says so, that have most values."""
    order = {judged.arm.name: judged.by_importance for judged in material.judged if not judged.refused}
    panels, ends = [], []
    for arm in list(dict.fromkeys(str(row["arm"]) for row in rows))[:ARMS_DRAWN]:
        mine = [row for row in rows if str(row["arm"]) == arm]
        every = [values_of(path, mine, material.domains.get(path, [])) for path in _paths(mine)]
        numeric = [of for of in every if not of.options and of.differ > 1 and None not in of.at]
        if len(numeric) < 2 or len(mine) < FEWEST_FOR_SURFACE:
            continue
        ranked = order.get(arm, [])
        numeric.sort(key=lambda of: (ranked.index(of.path) if of.path in ranked else len(ranked), -of.differ))
        first, second = numeric[:2]
        scores = [float(row["val_accuracy"]) for row in mine]
        ends += scores
        panels.append(
            Panel(contour([v or 0.0 for v in first.at], [v or 0.0 for v in second.at], scores, [_said(row) for row in mine],
                          name=f"{arm}: validation accuracy over {first.path} and {second.path}",
                          title=f"{arm}: {min(scores):.2f} to {max(scores):.2f} %",
                          labels=(first.path, second.path), log=(first.log, second.log)))
        )  # fmt: skip
    if panels:
        caption = (
            "Colours: mean of the trials near a place (Gaussian kernel, 12 % of each axis), in eighths of each arm's own "
            "range; empty where nothing was tried. The two settings of an arm that matter most, or that have most values."
        )
        yield Figure("Validation accuracy over two settings", panels, caption, levels=("lowest of the arm", "highest"))


def importance(material: Material) -> Section | LeftOut:
    """Shares of the settings by two evaluators, with intervals and what chance gives."""
    judged = [arm for arm in material.judged if not arm.refused]
    if not judged:
        refused = [f"{arm.arm.name}: {arm.refused.removeprefix('refused: ')}" for arm in material.judged]
        return LeftOut("Importance of settings", "; ".join(refused[:4]) or "nothing was searched")
    panels = [Panel(drawn) for arm in judged[:ARMS_DRAWN] if (drawn := _shares(arm))]
    parts: list[Part] = []
    if panels:
        legend = {label: plain(index) for index, label in enumerate(EVALUATORS.values())}
        caption = f"Filled: above chance (the tick, which 95 % of shuffles stay below). {INTERVALS[0].upper()}{INTERVALS[1:]}."
        parts.append(Figure("Share of importance for validation accuracy", panels, caption, legend))
    for arm in judged:
        roles = ", ".join(counted(count, f"{role} trial") for role, count in arm.arm.trials.items())
        head = f"{arm.arm.name}: {len(arm.arm.configurations)} configurations ({roles})"
        parts.append(Sentences([f"{head}: {note}" for note in arm.notes], listed=True, folded=head))
    parts.append(Sentences([READING[0].upper() + READING[1:] + "."]))
    refused_too = [f"{arm.arm.name}: {arm.refused}" for arm in material.judged if arm.refused]
    parts += [Sentences(refused_too, listed=True)] if refused_too else []
    return Section("importance", "Importance of settings", [*parts, _shares_table(judged)])


def _by_setting(arm: JudgedArm) -> dict[str, dict[str, Share]]:
    found: dict[str, dict[str, Share]] = {}
    for evaluator, label in EVALUATORS.items():
        for share in arm.importances.get(evaluator, []):
            found.setdefault(share.name, {})[label] = Share(share.share, share.low, share.high, share.chance)
    return {name: found[name] for name in arm.by_importance if name in found}


def _shares(arm: JudgedArm) -> Any:
    settings = _by_setting(arm)
    if not settings:
        return None
    title = f"{arm.arm.name}, n = {len(arm.arm.configurations)}"
    return bars.shares(title, settings, list(EVALUATORS.values()), name=f"Importance of the settings of {title}")


def _shares_table(judged: Sequence[JudgedArm]) -> Table:
    rows = []
    for arm in judged:
        for name, shares in _by_setting(arm).items():
            row = [name, arm.arm.name]
            for label in EVALUATORS.values():
                share = shares.get(label)
                row += ["", ""] if share is None else [
                    f"{number(share.value)} [{number(share.low)}, {number(share.high)}]", number(share.chance)]  # fmt: skip
            best = max(arm.marginals[name], key=lambda bin_: bin_.mean)
            rows.append([*row, f"{best.label} ({number(best.mean)} %)"])
    headings = ["setting", "arm"]
    for label in EVALUATORS.values():
        headings += [f"{label} [90 %]", "chance"]
    return Table("Shares with their intervals", [*headings, "best mean at"], rows, (2, 3, 4, 5), folded=True)

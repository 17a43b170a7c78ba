"""What the search tried: settings against accuracy, by themselves, in pairs, all together, and which of them matter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from akdtune.reports.importance.figures import Share
from akdtune.reports.importance.shares import DRAWS, EVALUATORS, INTERVALS, MIN_DRAWS, READING, JudgedArm
from akdtune.reports.page.content import Figure, LeftOut, Panel, Part, Section, Sentences, Table
from akdtune.reports.page.drawing import bars, points
from akdtune.reports.page.drawing.axes import plot
from akdtune.reports.page.drawing.contour import contour
from akdtune.reports.page.drawing.looks import look as plain
from akdtune.reports.page.drawing.parallel import Axis, parallel, width_of
from akdtune.reports.page.drawing.points import Point
from akdtune.reports.page.material import Material, Row, finite
from akdtune.reports.short_names import searched, short_value
from akdtune.reports.text import counted, number
from akdtune.settings.domains import Domain, Range

ARMS_DRAWN, SETTINGS_DRAWN = 8, 12
FEWEST_FOR_SURFACE = 8
NARROW = 520
"""Pixels: wider plots are moved sideways on narrow screens."""
LOG_SPAN = 10.0
"""Positive numbers whose range is not known stand on a logarithmic axis from this factor on."""


@dataclass(frozen=True)
class Values:
    """A setting's values as an axis takes them.

    Attributes:
        name: of the setting, short.
        path: the whole of it.
        at: place of each trial; None where it has none.
        options: names of the places; empty for numbers.
        log: whether equal ratios are equally long.
    """

    name: str
    path: str
    at: Sequence[float | None]
    options: Sequence[str]
    log: bool

    @property
    def differ(self) -> int:
        """How many different ones there are."""
        return len({value for value in self.at if value is not None})


def values_of(material: Material, path: str, rows: Sequence[Row]) -> Values:
    """The values of a setting in these trials."""
    known: Sequence[Domain] = material.domains.get(path, [])
    name = material.short[path]
    held = [row.get(f"param.{path}") for row in rows]
    numbers = [finite(value) for value in held]
    if all(value is None or number is not None for value, number in zip(held, numbers, strict=True)):
        there = [value for value in numbers if value is not None]
        ranges = [domain for domain in known if isinstance(domain, Range)]
        wide = bool(there) and min(there) > 0 and max(there) >= LOG_SPAN * min(there)
        log = bool(there) and min(there) > 0 and (ranges[0].log if ranges else wide)
        return Values(name, path, numbers, (), log)
    options = list(dict.fromkeys(short_value(value) for value in held if value is not None))
    places = {option: float(place) for place, option in enumerate(options)}
    return Values(name, path, [None if value is None else places[short_value(value)] for value in held], options, False)


def _tried(material: Material, *, done: bool) -> list[Row]:
    """Search and probe trials with a value on validation images."""
    return [
        row
        for row in material.of_roles("search", "probe")
        if finite(row[material.metric.validation]) is not None
        and searched(row)
        and (row["status"] == "done" or not done)
    ]


def _value(material: Material, row: Row) -> float | None:
    """The metric on validation images, None where it is not known."""
    return finite(row[material.metric.validation])


def _paths(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(path for row in rows for path in searched(row)))


def _said(material: Material, row: Row) -> str:
    settings = material.settings_text(row)
    return f"{row['trial_id']}, {row['arm']}, {row['status']}: {number(_value(material, row))} %\n{settings}"


def _nothing(material: Material) -> str:
    return f"no trial with a searched setting has a validation {material.metric.words}"


def coordinates(material: Material) -> Section | LeftOut:
    """Every trial of an arm as a line over its settings, coloured by its accuracy."""
    rows = _tried(material, done=False)
    figures = []
    for arm in list(dict.fromkeys(str(row["arm"]) for row in rows))[:ARMS_DRAWN]:
        mine = [row for row in rows if str(row["arm"]) == arm]
        every = [values_of(material, path, mine) for path in _paths(mine)]
        axes = [Axis(of.name, of.at, of.options, of.log) for of in every if of.differ > 1][:SETTINGS_DRAWN]
        if not axes:
            continue
        scores = [finite(row[material.metric.validation]) for row in mine]
        ended = [
            score for row, score in zip(mine, scores, strict=True) if row["status"] == "done" and score is not None
        ]
        drawn = parallel(
            axes, scores, [row["status"] != "done" for row in mine], [_said(material, row) for row in mine],
            name=f"{arm}: settings and validation {material.metric.words} of {len(mine)} trials",
            y_label="validation %",
        )  # fmt: skip
        ends = (f"{min(ended):.2f} %", f"{max(ended):.2f} %") if ended else None
        panel = Panel(drawn, broad=width_of(len(axes)) > NARROW)
        figures.append(Figure(f"{arm}: {counted(len(mine), 'trial')}", [panel], levels=ends))
    if not figures:
        return LeftOut(
            "Parallel coordinates", _nothing(material) if not rows else "no setting differs between trials of an arm"
        )
    caption = (
        "A line a trial of the search or the probes; grey: not done, at its last epoch. Point at a line for its values."
    )
    return Section("coordinates", "Parallel coordinates", [Sentences([caption]), *figures])


def slices(material: Material) -> Section | LeftOut:
    """Accuracy against each setting, and against two of them."""
    rows = _tried(material, done=True)
    every = [values_of(material, path, rows) for path in _paths(rows)]
    varied = [of for of in every if of.differ > 1]
    if not varied:
        return LeftOut(
            "Slices and contours", _nothing(material) if not rows else "no searched setting differs between trials"
        )
    arms = {arm: look for arm, look in material.looks.items() if any(str(row["arm"]) == arm for row in rows)}
    panels = [Panel(_slice(material, of, rows)) for of in varied[:SETTINGS_DRAWN]]
    caption = "A point a trial of the search or the probes that is done, against one setting whatever the others are."
    parts: list[Part] = [Figure(f"Validation {material.metric.words} against each setting", panels, caption, arms)]
    parts += list(_contours(material, rows))
    return Section("slices", "Slices and contours", parts)


def _slice(material: Material, of: Values, rows: Sequence[Row]) -> Markup:
    held = [(at, row) for at, row in zip(of.at, rows, strict=True) if at is not None]
    drawn = plot(
        f"Validation {material.metric.words} against {of.name}, {len(held)} trials", [at for at, _ in held],
        [float(row[material.metric.validation]) for row in rows], x_label=of.name,
        y_label=f"validation {material.metric.words}, %",
        log_x=of.log, options=of.options, room_x=0.05,
    )  # fmt: skip
    looks, shown = material.looks, []
    jitter = {id(row): (place * 0.618 % 1 - 0.5) * 0.5 if of.options else 0.0 for place, (_, row) in enumerate(held)}
    for at, row in held:
        shown.append(
            Point(
                at + jitter[id(row)],
                float(row[material.metric.validation]),
                _said(material, row),
                looks[str(row["arm"])],
            )
        )
    points.draw(drawn, shown)
    return drawn.drawing()


def _contours(material: Material, rows: Sequence[Row]) -> Iterator[Figure]:
    """The two settings of each arm that matter most, or where nothing says so, that have most values."""
    order = {judged.arm.name: judged.by_importance for judged in material.judged if not judged.refused}
    panels, ends = [], []
    for arm in list(dict.fromkeys(str(row["arm"]) for row in rows))[:ARMS_DRAWN]:
        mine = [row for row in rows if str(row["arm"]) == arm]
        every = [values_of(material, path, mine) for path in _paths(mine)]
        numeric = [of for of in every if not of.options and of.differ > 1 and None not in of.at]
        if len(numeric) < 2 or len(mine) < FEWEST_FOR_SURFACE:
            continue
        ranked = order.get(arm, [])
        numeric.sort(key=lambda of: (ranked.index(of.path) if of.path in ranked else len(ranked), -of.differ))
        first, second = numeric[:2]
        scores = [float(row[material.metric.validation]) for row in mine]
        ends += scores
        drawn = contour(
            [v or 0.0 for v in first.at], [v or 0.0 for v in second.at], scores, [_said(material, row) for row in mine],
            name=f"{arm}: validation {material.metric.words} over {first.name} and {second.name}",
            title=f"{arm}: {min(scores):.2f} to {max(scores):.2f} %",
            labels=(first.name, second.name), log=(first.log, second.log),
        )  # fmt: skip
        panels.append(Panel(drawn))
    if panels:
        caption = (
            "Colours: mean of the trials near a place (Gaussian kernel, 12 % of each axis), in eighths of each arm's "
            "own range; empty where nothing was tried. The two settings of an arm that matter most, or that have most "
            "values."
        )
        over = f"Validation {material.metric.words} over two settings"
        yield Figure(over, panels, caption, levels=("lowest of the arm", "highest"))


def importance(material: Material) -> Section | LeftOut:
    """Shares of the settings by two evaluators, with intervals and what chance gives."""
    judged = [arm for arm in material.judged if not arm.refused]
    if not judged:
        refused = [f"{arm.arm.name}: {arm.refused.removeprefix('refused: ')}" for arm in material.judged]
        return LeftOut("Importance of settings", "; ".join(refused[:4]) or "nothing was searched")
    panels = [Panel(drawn) for arm in judged[:ARMS_DRAWN] if (drawn := _shares(material, arm))]
    parts: list[Part] = []
    if panels:
        legend = {EVALUATORS[name]: plain(index) for index, name in enumerate(judged[0].importances)}
        reading = INTERVALS[0].upper() + INTERVALS[1:]
        caption = f"Filled: above chance (the tick, which 95 % of shuffles stay below). {reading}."
        parts.append(Figure(f"Share of importance for validation {material.metric.words}", panels, caption, legend))
    for arm in judged:
        roles = ", ".join(counted(count, f"{role} trial") for role, count in arm.arm.trials.items())
        head = f"{arm.arm.name}: {len(arm.arm.configurations)} configurations ({roles})"
        parts.append(Sentences([f"{head}: {note}" for note in arm.notes], listed=True, folded=head))
    asked = " and ".join(EVALUATORS[name] for name in judged[0].importances)
    quick = f"By {asked} with {MIN_DRAWS} resamples; `akdtune analyze importance` asks both evaluators with {DRAWS}."
    parts.append(Sentences([f"{READING[0].upper()}{READING[1:]}. {quick}"]))
    refused_too = [f"{arm.arm.name}: {arm.refused}" for arm in material.judged if arm.refused]
    parts += [Sentences(refused_too, listed=True)] if refused_too else []
    return Section("importance", "Importance of settings", [*parts, _shares_table(material, judged)])


def _by_setting(arm: JudgedArm) -> dict[str, dict[str, Share]]:
    found: dict[str, dict[str, Share]] = {}
    for evaluator, label in EVALUATORS.items():
        for share in arm.importances.get(evaluator, []):
            found.setdefault(share.name, {})[label] = Share(share.share, share.low, share.high, share.chance)
    return {name: found[name] for name in arm.by_importance if name in found}


def _shares(material: Material, arm: JudgedArm) -> Markup | None:
    """Importance of an arm's settings; None where nothing could be told apart."""
    settings = {material.short[name]: shares for name, shares in _by_setting(arm).items()}
    if not settings:
        return None
    title = f"{arm.arm.name}, n = {len(arm.arm.configurations)}"
    return bars.shares(
        title, settings, [EVALUATORS[name] for name in arm.importances], name=f"Importance of the settings of {title}"
    )


def _span(share: Share) -> str:
    return f"{number(share.value)} [{number(share.low)}, {number(share.high)}]"


def _shares_table(material: Material, judged: Sequence[JudgedArm]) -> Table:
    rows, labels = [], [EVALUATORS[name] for name in judged[0].importances]
    for arm in judged:
        for name, shares in _by_setting(arm).items():
            row = [material.short[name], arm.arm.name]
            for label in labels:
                share = shares.get(label)
                row += ["", ""] if share is None else [_span(share), number(share.chance)]
            best = max(arm.marginals[name], key=lambda bin_: bin_.mean)
            rows.append([*row, f"{best.label} ({number(best.mean)} %)"])
    headings = ["setting", "arm"]
    for label in labels:
        headings += [f"{label} [90 %]", "chance"]
    return Table(
        "Shares with their intervals",
        [*headings, "best mean at"],
        rows,
        tuple(range(2, 2 + 2 * len(labels))),
        folded=True,
    )

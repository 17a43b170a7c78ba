"""What else a study left: trade-offs, trials that failed, what it cost, and where its numbers come from."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from akdtune.reports import pareto as pareto_report
from akdtune.reports.origin import ROUNDING
from akdtune.reports.page.content import Code, Figure, LeftOut, Panel, Part, Section, Sentences, Table
from akdtune.reports.page.drawing import bars, points
from akdtune.reports.page.drawing.axes import WIDE, Margins, plot
from akdtune.reports.page.drawing.points import Point
from akdtune.reports.page.material import Material, Row, as_yaml, finite, without_home
from akdtune.reports.text import counted, duration, number

REASON_LETTERS = 400
ARMS_DRAWN = 24


def pareto(material: Material) -> Section | LeftOut:
    """Configurations that no other one beats in every objective."""
    search = material.settings.get("search")
    metric = material.metric.name
    names = list((search or {}).get("objectives") or [metric]) if isinstance(search, Mapping) else [metric]
    known = [name for name in names if name in (metric, *pareto_report.COSTS)]
    if len(known) < 2:
        return LeftOut("Pareto front", f"the search weighs {material.metric.words} alone (search.objectives)")
    headings, rows = pareto_report.table(material.rows, known)
    if not rows:
        return LeftOut("Pareto front", "no search trial has come to its end yet")
    other = next(name for name in known if name != metric)
    figure = _front(material, other, {row[0] for row in rows})
    table = Table(
        "Configurations that no other beats in every objective", headings, rows, tuple(range(2, 3 + len(known)))
    )
    return Section("pareto", "Pareto front", [figure, table])


def _front(material: Material, other: str, best: set[str]) -> Figure:
    column, heading = pareto_report.column(other), pareto_report.heading(other)
    words = material.metric.words
    held = [
        (x, y, row)
        for row in material.of_roles("search")
        if row["status"] == "done"
        if (x := finite(row.get(column))) is not None and (y := finite(row[material.metric.validation])) is not None
    ]
    scale = 1e6 if other == "macs" else 1.0
    drawn = plot(
        f"Validation {words} against {heading}", [x / scale for x, _, _ in held],
        [y for _, y, _ in held], size=WIDE, x_label=heading, y_label=f"validation {words}, %",
        margins=Margins(left=54, top=28),
    )  # fmt: skip
    points.draw(
        drawn,
        (Point(x / scale, y, f"{row['trial_id']}, {row['arm']}: {number(y)} %, {x / scale:.4g}",
               material.looks[str(row["arm"])], faint=str(row["trial_id"]) not in best) for x, y, row in held),
    )  # fmt: skip
    arms = {arm: look for arm, look in material.looks.items() if any(str(row["arm"]) == arm for _, _, row in held)}
    caption = "Strong: beaten by none in every objective, as measured; near ones may change places."
    return Figure(f"{words[0].upper()}{words[1:]} and {other}", [Panel(drawn.drawing(), broad=True)], caption, arms)


# ------------------------------------------------------------------------------------------------- failures


def failures(material: Material) -> Section | LeftOut:
    """Trials that failed, diverged or wait, and why; what was wrong with files."""
    parts: list[Part] = []
    held = [row for row in material.rows if row["status"] in ("failed", "diverged", "interrupted")]
    if held:
        rows = [
            [str(row["trial_id"]), str(row.get("cell") or row["arm"]), str(row["seed"]), str(row["status"]),
             str(row["epochs"] or 0), _reason(row)] for row in held
        ]  # fmt: skip
        counts = Counter(str(row["status"]) for row in held)
        caption = ", ".join(f"{count} {status}" for status, count in counts.items())
        headings = ["trial", "arm or cell", "seed", "status", "epochs", "why"]
        parts.append(Table(f"Trials without a result: {caption}", headings, rows, (2, 4)))
    warned = {event.warning for event in material.ended().values() if event.warning}
    said = [without_home(line) for line in (*dict.fromkeys(material.trouble), *sorted(warned))]
    if said:
        parts.append(Sentences(said, listed=True))
    if not parts:
        return LeftOut("Failures", "none: no trial failed, diverged or waits, and no file is damaged")
    return Section("failures", "Failures", parts)


def _reason(row: Row) -> str:
    words = " ".join(without_home(str(row["stop_reason"] or "not said")).split())
    return words if len(words) <= REASON_LETTERS else words[:REASON_LETTERS] + "…"


# ------------------------------------------------------------------------------------------------- cost


def cost(material: Material) -> Section | LeftOut:
    """Time and epochs, by arm or cell."""
    groups: dict[str, list[Row]] = {}
    for row in material.rows:
        if _seconds(row):
            groups.setdefault(str(row.get("cell") or row["arm"]), []).append(row)
    if not groups:
        return LeftOut("Cost", "no trial has finished an epoch yet")
    total = sum(_seconds(row) for row in material.rows)
    said = [f"{duration(total)} of training in {sum(row['epochs'] or 0 for row in material.rows):,} epochs"]
    said += [] if material.standing is None else material.standing.progress
    headings = ["arm or cell", "trials", "epochs", "time", "a trial", "an epoch, s", "images a second"]
    rows_of_all = [_cost_row(name, rows) for name, rows in groups.items()]
    table = Table(
        "Time of training, warm-up of views included", headings, rows_of_all, (1, 2, 3, 4, 5, 6), material.looks
    )
    shown = sorted(groups.items(), key=lambda item: -sum(map(_seconds, item[1])))[:ARMS_DRAWN]
    drawn = bars.bars(
        [(name, sum(map(_seconds, rows)) / 60, duration(sum(map(_seconds, rows)))) for name, rows in shown],
        material.looks, name="Time of training by arm or cell", x_label="minutes of training",
    )  # fmt: skip
    return Section("cost", "Cost", [Sentences(said, listed=True), Figure("Time by arm or cell", [Panel(drawn)]), table])


def _seconds(row: Row) -> float:
    return sum(finite(row.get(name)) or 0.0 for name in ("wall_time_s", "warmup_time_s"))


def _cost_row(name: str, rows: Sequence[Row]) -> list[str]:
    time, epochs = sum(map(_seconds, rows)), sum(row["epochs"] or 0 for row in rows)
    speeds = [speed for row in rows if (speed := finite(row.get("images_per_s"))) is not None]
    return [
        name, str(len(rows)), f"{epochs:,}", duration(time), duration(time / len(rows)),
        f"{time / epochs:.3g}" if epochs else "", f"{sum(speeds) / len(speeds):,.0f}" if speeds else "",
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------------- origin


def origin(material: Material) -> Section:
    """Processor, versions, and the command that does it again."""
    parts: list[Part] = []
    if material.origin is not None and material.origin.trained_on:
        parts.append(Sentences([str(material.origin) + "; " + ROUNDING + "."]))
    rows = list(_origin_rows(material))
    if rows:
        parts.append(Table("Versions, data and teacher", [], rows, words=True))
    if command := reproduces(material):
        parts += [Sentences(["The study again, from its settings file:"]), Code(command)]
    extended = material.lock.get("extended")
    if isinstance(extended, list) and extended:
        parts.append(Sentences([f"It was extended {counted(len(extended), 'time')} (study.lock.yaml has how)."]))
    if not parts:
        parts.append(Sentences(["study.lock.yaml is not there, so that versions and command are not known."]))
    return Section("origin", "Versions and command", parts)


def _origin_rows(material: Material) -> Iterator[list[str]]:
    lock = material.lock
    for key, label in (("created", "begun"), ("akdtune", "akdtune")):
        if lock.get(key):
            yield [label, str(lock[key])]
    source = lock.get("source_code")
    if isinstance(source, Mapping) and source.get("commit"):
        diff = str(source.get("diff") or "")
        yield [
            "from commit",
            str(source["commit"]) + (f", with {len(diff.splitlines())} lines changed" if diff else ""),
        ]
    for key, label in (("packages", "packages"), ("machine", "machine"), ("seeds", "seeds")):
        held = lock.get(key)
        if isinstance(held, Mapping) and held:
            yield [label, without_home(", ".join(f"{name} {_plain(value)}" for name, value in held.items()))]
    for key, label in (("data", "data"), ("teacher", "teacher")):
        held = lock.get(key)
        if isinstance(held, Mapping):
            kept = [f"{name} {held[name]}" for name in ("name", "hash", "key", "weights_hash") if held.get(name)]
            if kept:
                yield [label, ", ".join(kept)]


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else as_yaml(value)


def reproduces(material: Material) -> str:
    """The command that began the study, by the name of the program; home folders stand as ~."""
    command = material.lock.get("command")
    if not isinstance(command, str):
        return ""
    try:
        words = shlex.split(command)
    except ValueError:
        return without_home(command)
    if words and words[0].rpartition("/")[2] in ("akdtune", "akdtune.exe"):
        words[0] = "akdtune"
    return without_home(shlex.join(words))

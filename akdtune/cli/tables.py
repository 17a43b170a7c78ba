"""Trials as tables: in a terminal one line each, as wide as it is; in a pipe complete, as wide as they are."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from akdtune.cli.terminal import layout, text
from akdtune.cli.terminal.layout import Column, Sheet
from akdtune.metric import in_percent, judged_on, of_trials
from akdtune.reports import pareto
from akdtune.reports.short_names import PARAM, searched, short_names, short_value
from akdtune.reports.trials.cell_means import CellMean

ROWS_SHOWN = 15
"""Rows in a terminal before `… 33 more (--all)`."""

Row = Mapping[str, Any]

_COLUMNS = ("trial_id", "cell", "arm", "role", "seed", "status", "epochs")
_HEADINGS = {"trial_id": "trial", "val_accuracy": "val %", "test_accuracy": "test %"}
"""Columns of `trials.parquet` that are called otherwise in a terminal."""


def _heading(name: str) -> str:
    """What a column is called in a terminal: `val %`, of another metric than accuracy `val acceptance %`."""
    if name in _HEADINGS or not in_percent(name) or judged_on(name) not in ("val", "test"):
        return _HEADINGS.get(name, name)
    return f"{name.replace('_', ' ')} %"


def print_trials(
    rows: Sequence[Row],
    columns: Sequence[str],
    extra: Sequence[str] = (),
    *,
    every: bool = False,
    stays: Sequence[str] = (),
) -> None:
    """Prints a row for each trial.

    Args:
        rows: of `trials.parquet`.
        columns: names of all columns of the study, so that a setting has one short name in all of its tables.
        extra: further columns to show.
        every: all rows in a terminal, too; a pipe always gets them.
        stays: columns that are shown where they are the same in all rows, too.
    """
    metric = of_trials(columns)
    known = ("cell", metric.validation, metric.test)
    named = (*_COLUMNS, metric.validation, metric.test)
    shown = [name for name in named if name not in known or any(row.get(name) is not None for row in rows)]
    shown += [name for name in extra if name not in shown]
    width = text.columns()
    if width is None:
        print(_whole_trials(rows, shown))
        return
    sheet = _sheet(rows, shown, columns, stays)
    _print(layout.lines(sheet, width, None if every else ROWS_SHOWN))


def _sheet(rows: Sequence[Row], shown: Sequence[str], columns: Sequence[str], stays: Sequence[str]) -> Sheet:
    """A terminal's columns of trials: all of them, then without what their ids or cells say already."""
    of = {name: _column(rows, name, stays) for name in shown}
    taken = {column.heading for column in of.values()}
    names = setting_names(columns, taken)
    fewer = []
    if "seed" not in stays and all(str(row["trial_id"]).endswith(f"-s{row['seed']}") for row in rows):
        fewer.append([column for name, column in of.items() if name != "seed"])
    if "cell" in of:
        either = Column("cell or arm", [str(row.get("cell") or row["arm"]) for row in rows])
        fewer.append(
            [either if name == "cell" else column for name, column in of.items() if name not in ("arm", "seed")]
        )
    return Sheet(list(of.values()), [searched(row) for row in rows], names, fewer)


def _column(rows: Sequence[Row], name: str, stays: Sequence[str]) -> Column:
    numbers = all(row.get(name) is None or _is_number(row[name]) for row in rows)
    texts = [_percent(row.get(name)) if in_percent(name) else short_value(row.get(name)) for row in rows]
    # Accuracies that are the same by chance are what somebody looks for.
    always = name in stays or in_percent(name)
    return Column(_heading(name), texts, numbers, always, whole=name == "trial_id")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _percent(value: Any) -> str:
    return f"{value:.2f}" if _is_number(value) else short_value(value)


def _whole_trials(rows: Sequence[Row], shown: Sequence[str]) -> str:
    headings = [*(name.removesuffix("_id") for name in shown), layout.SETTINGS]
    numeric = {i for i, name in enumerate(shown) if any(_is_number(row[name]) for row in rows)}
    return layout.plain(
        headings,
        [[*(_plain(row[name]) for name in shown), _plain_settings(searched(row))] for row in rows],
        numeric,
    )


def _plain(value: Any) -> str:
    """A value as scripts have read it so far."""
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)


def _plain_settings(settings: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={_plain(value)}" for name, value in settings.items())


def print_points(
    rows: Sequence[Row],
    objectives: Sequence[str],
    columns: Sequence[str],
    *,
    every: bool = False,
    top: int | None = None,
) -> None:
    """Prints a row for each configuration of the search that no other one beats.

    Args:
        rows: of `trials.parquet`.
        objectives: as in `search.objectives`.
        columns: names of all columns of the study.
        every: all rows in a terminal, too.
        top: only so many.
    """
    width = text.columns()
    if width is None:
        print(pareto.text(rows, objectives, top))
        return
    points = pareto.points(rows, objectives, top)
    values = [pareto.shown(point, objectives) for point in points]
    of_each = [
        Column("trial", [str(point.first["trial_id"]) for point in points], whole=True),
        Column("arm", [str(point.first["arm"]) for point in points]),
        Column("seeds", [str(point.seeds) for point in points], numbers=True),
    ]
    of_each += [
        Column(pareto.heading(name), [of_point[place] for of_point in values], numbers=True, stays=True)
        for place, name in enumerate(objectives)
    ]
    names = setting_names(columns, {of.heading for of in of_each})
    sheet = Sheet(of_each, [searched(point.first) for point in points], names)
    _print(layout.lines(sheet, width, None if every or top else ROWS_SHOWN))


def setting_names(columns: Sequence[str], taken: Collection[str] = ()) -> dict[str, str]:
    """Short names of all settings that a study has searched.

    Args:
        columns: of its `trials.parquet`.
        taken: headings beside them.
    """
    return short_names([name.removeprefix(PARAM) for name in columns if name.startswith(PARAM)], taken)


def print_means(means: Sequence[CellMean], column: str, columns: Sequence[str], *, every: bool = False) -> None:
    """Prints mean and standard deviation of a column over the seeds of each configuration.

    Args:
        means: of configurations.
        column: what they are means of.
        columns: names of all columns of the study.
        every: all rows in a terminal, too.
    """
    # Percentages with two digits after the point; other columns may be small.
    digits = ".2f" if in_percent(column) else ".4g"
    spreads = ["" if mean.sd is None else format(mean.sd, digits) for mean in means]
    values = [format(mean.mean, digits) for mean in means]
    width = text.columns()
    if width is None:
        print(_whole_means(means, column, values, spreads))
        return
    named = [
        Column("arm" if all(mean.name == mean.arm for mean in means) else "cell or arm", [mean.name for mean in means]),
        Column("role", [mean.role for mean in means]),
        Column("n", [str(mean.n) for mean in means], numbers=True, stays=True),
        Column(f"mean {_heading(column)}", values, numbers=True, stays=True),
        Column("sd", spreads, numbers=True),
        Column("left out", [mean.left_out for mean in means]),
    ]
    shown = [of for of in named if any(of.texts)]
    names = setting_names(columns, {of.heading for of in shown})
    sheet = Sheet(shown, [mean.settings for mean in means], names)
    _print(layout.lines(sheet, width, None if every else ROWS_SHOWN))


def _whole_means(means: Sequence[CellMean], column: str, values: Sequence[str], spreads: Sequence[str]) -> str:
    left_out = any(mean.left_out for mean in means)
    headings = ["arm", "role", "n", f"mean {column}", "sd", *(["left out"] if left_out else []), layout.SETTINGS]
    rows = [
        [mean.name, mean.role, str(mean.n), value, sd, *([mean.left_out] if left_out else []),
         _plain_settings(mean.settings)]
        for mean, value, sd in zip(means, values, spreads, strict=True)
    ]  # fmt: skip
    return layout.plain(headings, rows, {2, 3, 4})


@dataclass(frozen=True)
class Listing:
    """A table of texts, and how a terminal shows it that has no room for all of it.

    Attributes:
        headings: one per column; the first column names the rows.
        rows: one text per column.
        right: columns that stand on the right, by index.
        least: what columns of words are cut to at most, by index, before columns are left out.
        leave_out: columns to leave out, the first one first.
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: Collection[int] = ()
    least: Mapping[int, int] = field(default_factory=dict)
    leave_out: Sequence[int] = ()


def print_listing(listing: Listing) -> None:
    """Prints a line a row: in a terminal cut to its width, in a pipe complete."""
    width = text.columns()
    if width is None or not listing.rows:
        print(layout.plain(listing.headings, listing.rows, listing.right))
        return
    columns = [
        Column(heading, [row[place] for row in listing.rows], place in listing.right, stays=True,
               least=listing.least.get(place, 8), begins=True)
        for place, heading in enumerate(listing.headings)
    ]  # fmt: skip
    fewer = [
        [column for place, column in enumerate(columns) if place not in listing.leave_out[: count + 1]]
        for count in range(len(listing.leave_out))
    ]
    _print(layout.lines(Sheet(columns, [{} for _ in listing.rows], {}, fewer), width))


def _print(lines: Sequence[str]) -> None:
    if lines:
        print("\n".join(lines), flush=True)

"""Tables of one line a row in a terminal of so many columns.

What is the same in all rows is said once above. Settings are columns where they fit, else a text at the end of the
line, else one line of their own below it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from akdtune.reports import fitting
from akdtune.reports.short_names import separated, settings_text, short_value

GAP = 2
"""Columns between two columns of a table."""

INDENT = "    "
"""Before settings that stand below their row."""

NARROWEST = 6
"""What a column of words is cut to where nothing else helps."""

SETTINGS = "searched settings"


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        heading: its name.
        texts: one a row.
        numbers: are aligned at the decimal point and never cut.
        stays: is shown where it is the same in all rows, too.
        whole: is never cut.
        least: what a column of words may be cut to, before a set of fewer columns is taken.
        begins: only the end of its words may be cut.
    """

    heading: str
    texts: Sequence[str]
    numbers: bool = False
    stays: bool = False
    whole: bool = False
    least: int = 12
    begins: bool = False


@dataclass(frozen=True)
class Sheet:
    """What is to be shown of some rows.

    Attributes:
        columns: in order; `fewer` are those to take where these do not fit, likewise in order of preference.
        settings: of each row, by full name.
        names: short names of settings.
        fewer: other sets of columns.
    """

    columns: Sequence[Column]
    settings: Sequence[Mapping[str, Any]]
    names: Mapping[str, str]
    fewer: Sequence[Sequence[Column]] = ()

    def beginning(self, count: int) -> Sheet:
        """The first rows."""

        def first(columns: Sequence[Column]) -> list[Column]:
            return [replace(column, texts=column.texts[:count]) for column in columns]

        return Sheet(first(self.columns), self.settings[:count], self.names, [first(other) for other in self.fewer])


def lines(sheet: Sheet, width: int, limit: int | None = None) -> list[str]:
    """The table, no line wider than the terminal.

    Args:
        sheet: columns and settings.
        width: of the terminal.
        limit: of rows; a line says how many more there are. None shows all.
    """
    count = len(sheet.settings)
    if not count:
        return []
    sheet, constant = _without_constants(sheet)
    said = ", ".join(fitting.cut(fitting.on_one_line(words), width) for words in constant)
    above = fitting.wrapped(f"all {count:,}: {said}", width) if constant else []
    shown = sheet if limit is None else sheet.beginning(limit)
    below = [f"{fitting.MORE} {count - limit:,} more (--all)"] if limit is not None and count > limit else []
    return [fitting.cut(line, width) for line in [*above, *_rows(shown, width), *below]]


def _without_constants(sheet: Sheet) -> tuple[Sheet, list[str]]:
    """The sheet without what is the same in all rows, and that in words."""
    said: dict[str, str] = {}

    def varying(columns: Sequence[Column]) -> list[Column]:
        kept = []
        for column in columns:
            if column.stays or len(column.texts) < 2 or len(set(column.texts)) > 1:
                kept.append(column)
            elif column.texts[0]:
                said[column.heading] = f"{column.heading} {column.texts[0]}"
        return kept

    columns, fewer = varying(sheet.columns), [varying(other) for other in sheet.fewer]
    constant, others = separated(sheet.settings)
    order = _ordered(others, sheet.names)
    settings = [{name: row[name] for name in order if name in row} for row in sheet.settings]
    words = [*said.values(), *(settings_text({name: value}, sheet.names) for name, value in constant.items())]
    return Sheet(columns, settings, sheet.names, fewer), words


def _rows(sheet: Sheet, width: int) -> list[str]:
    """Headings and rows, and the settings in whichever way there is room for."""
    texts = [fitting.on_one_line(settings_text(settings, sheet.names)) for settings in sheet.settings]
    if not any(texts):
        return _fitted(sheet, width)
    for columns in ([*sheet.columns, *_setting_columns(sheet)], [*sheet.columns, Column(SETTINGS, texts)]):
        if _width(columns) <= width:
            return _table(columns)
    heading, *rows = _fitted(sheet, width)
    return [
        heading,
        *(
            line
            for row, settings in zip(rows, texts, strict=True)
            for line in (
                [row, INDENT + fitting.cut_between_words(settings, width - len(INDENT))] if settings else [row]
            )
        ),
    ]


def _ordered(names: Iterable[str], known: Mapping[str, str]) -> list[str]:
    """Names of settings in the order of the study's, whichever rows they come from; each once."""
    found = dict.fromkeys(names)
    return [name for name in dict.fromkeys([*known, *found]) if name in found]


def _setting_columns(sheet: Sheet) -> list[Column]:
    """A column for each setting, by its short name."""
    found = []
    for name in _ordered([name for settings in sheet.settings for name in settings], sheet.names):
        values = [settings.get(name) for settings in sheet.settings]
        numbers = all(value is None or (isinstance(value, int | float) and value is not True and value is not False)
                      for value in values)  # fmt: skip
        found.append(Column(sheet.names.get(name, name), [short_value(value) for value in values], numbers))
    return found


def _fitted(sheet: Sheet, width: int) -> list[str]:
    """Headings and rows of the first set of columns that fits, words cut where they must be."""
    sets = [sheet.columns, *sheet.fewer]
    for columns in sets:
        narrower = _narrowed(columns, width)
        if _width(narrower) <= width:
            return _table(narrower)
    return _table(_narrowed([replace(column, least=NARROWEST) for column in sets[-1]], width))


def _narrowed(columns: Sequence[Column], width: int) -> list[Column]:
    """The columns with words cut until they fit, the longest first, as far as they may be cut."""
    widths = [_needs(column) for column in columns]
    room = width - GAP * (len(columns) - 1)
    words = [place for place, column in enumerate(columns) if not column.numbers and not column.whole]
    while sum(widths) > room:
        longer = [place for place in words if widths[place] > columns[place].least]
        if not longer:
            break
        widths[max(longer, key=lambda place: widths[place])] -= 1
    return [
        column if needed >= _needs(column) else _cut(column, needed)
        for column, needed in zip(columns, widths, strict=True)
    ]


def _cut(column: Column, width: int) -> Column:
    texts = [fitting.on_one_line(of_row) for of_row in column.texts]
    of_rows = [fitting.cut(of_row, width) for of_row in texts] if column.begins else fitting.told_apart(texts, width)
    return replace(column, heading=fitting.cut(column.heading, width), texts=of_rows)


def _needs(column: Column) -> int:
    return max(fitting.taken(column.heading), *map(fitting.taken, _shown(column)), 0)


def _shown(column: Column) -> list[str]:
    return fitting.aligned(column.texts) if column.numbers else [fitting.on_one_line(of_row) for of_row in column.texts]


def _width(columns: Sequence[Column]) -> int:
    return sum(map(_needs, columns)) + GAP * (len(columns) - 1)


def _table(columns: Sequence[Column]) -> list[str]:
    """Headings and rows, each column as wide as it needs; numbers and their headings stand on the right."""
    filled = []
    for column in columns:
        width, texts = _needs(column), _shown(column)
        filled.append(
            [" " * (width - fitting.taken(of_row)) + of_row for of_row in (column.heading, *texts)]
            if column.numbers
            else [fitting.padded(of_row, width) for of_row in (column.heading, *texts)]
        )
    return [(" " * GAP).join(row).rstrip() for row in zip(*filled, strict=True)]


def plain(headings: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> str:
    """A table as wide as its content, columns two spaces apart; for pipes and files.

    Args:
        headings: one per column.
        rows: one text per column.
        right: columns that are aligned to the right, by index.
    """
    texts = [headings, *([fitting.on_one_line(of_row) for of_row in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    form = "  ".join(f"{{:{'>' if index in right else '<'}{width}}}" for index, width in enumerate(widths))
    return "\n".join(form.format(*row).rstrip() for row in texts)

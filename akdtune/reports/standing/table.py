"""A small table of text that fits a width: the first column gives way, and no number is cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from akdtune.reports import fitting
from akdtune.reports.fitting import taken

GAP = "  "
NARROWEST = 8
"""Of the first column."""


@dataclass(frozen=True)
class Table:
    """Rows under headings.

    Attributes:
        title: the line above it.
        headings: one per column; a column that is empty in every row is left out.
        rows: one text per column.
        right: columns that are aligned to the right, by index.
        note: the line below it; empty for none.
    """

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: Sequence[int] = ()
    note: str = ""

    def lines(self, width: int | None = None) -> list[str]:
        """The table as text.

        Args:
            width: of the terminal: names in the first column are cut in the middle, so that lines fit where that is
                possible. None: as wide as the content.
        """
        kept = [index for index in range(len(self.headings)) if any(row[index] for row in self.rows)]
        shown = [[row[index] for index in kept] for row in (self.headings, *self.rows)]
        widths = [max(map(taken, column)) for column in zip(*shown, strict=True)]
        if width is not None and widths:
            room = width - sum(widths[1:]) - len(GAP) * (len(widths) - 1)
            widths[0] = min(widths[0], max(NARROWEST, room))
            shown = [[shortened(row[0], widths[0]), *row[1:]] for row in shown]
        right = [index in self.right for index in kept]
        text = [GAP.join(map(_padded, row, widths, right)).rstrip() for row in shown]
        return [*wrapped([self.title], width), *text, *wrapped([self.note] if self.note else [], width)]


def wrapped(sentences: Sequence[str], width: int | None, indent: str = "") -> list[str]:
    """Sentences in lines of at most so many columns; as they are where no width is given."""
    if width is None:
        return [f"{indent}{sentence}" for sentence in sentences]
    room = max(1, width - len(indent))
    return [indent + line for sentence in sentences for line in fitting.wrapped(sentence, room, "")]


def broken_command(command: str, width: int | None) -> list[str]:
    """A command in lines of at most so many columns that a shell takes as one; words of it are never broken."""
    if width is None or taken(command) + len(GAP) <= width:
        return [GAP + command]
    lines = _broken(_words(command), width - len(GAP) - 4, " \\")
    return [f"{GAP if place == 0 else GAP * 2}{line}" for place, line in enumerate(lines)]


def _words(command: str) -> list[str]:
    """Words of a command line as they stand there, quotes included."""
    words, quote = [""], ""
    for sign in command:
        if sign == " " and not quote:
            words.append("")
            continue
        quote = "" if sign == quote else quote or (sign if sign in "'\"" else "")
        words[-1] += sign
    return words


def _broken(words: Sequence[str], width: int, end: str) -> list[str]:
    lines: list[str] = []
    for word in words:
        if lines and taken(lines[-1]) + 1 + taken(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return [f"{line}{end}" for line in lines[:-1]] + lines[-1:]


def _padded(text: str, width: int, right: bool) -> str:
    space = " " * max(0, width - taken(text))
    return space + text if right else text + space


def shortened(name: str, width: int) -> str:
    """A name in at most so many columns, its middle left out: arms and cells mostly differ at their ends."""
    if taken(name) <= width:
        return name
    tail = (width - 1) * 2 // 3
    begin, end = name, name
    while begin and taken(begin) > width - 1 - tail:
        begin = begin[:-1]
    while end and taken(end) > tail:
        end = end[1:]
    return f"{begin}…{end}"

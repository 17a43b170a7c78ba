"""A small table of text that fits a width: the first column gives way, and no number is cut."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

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
        widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
        if width is not None and widths:
            room = width - sum(widths[1:]) - len(GAP) * (len(widths) - 1)
            widths[0] = min(widths[0], max(NARROWEST, room))
            shown = [[shortened(row[0], widths[0]), *row[1:]] for row in shown]
        form = GAP.join(
            f"{{:{'>' if index in self.right else '<'}{width}}}" for index, width in zip(kept, widths, strict=True)
        )
        text = [form.format(*row).rstrip() for row in shown]
        return [*wrapped([self.title], width), *text, *wrapped([self.note] if self.note else [], width)]


def wrapped(sentences: Sequence[str], width: int | None, indent: str = "") -> list[str]:
    """Sentences in lines of at most so many signs; as they are where no width is given."""
    if width is None:
        return [f"{indent}{sentence}" for sentence in sentences]
    how: Any = {"initial_indent": indent, "subsequent_indent": indent, "break_on_hyphens": False}
    return [line for sentence in sentences for line in textwrap.wrap(sentence, max(40, width), **how)]


def shortened(name: str, width: int) -> str:
    """A name of at most so many signs, its middle left out: arms and cells mostly differ at their ends."""
    if len(name) <= width:
        return name
    tail = (width - 1) * 2 // 3
    return name[: width - 1 - tail] + "…" + name[len(name) - tail :]

"""A paper's table on a terminal: as many columns beside each other as fit, the others in further blocks."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from akdtune.reports.paper.table import PaperTable
from akdtune.reports.text import Strong

LONGEST_LABEL = 30
"""A longer name of a row goes on in a line below."""
BETWEEN = 2
"""Spaces between columns."""
STAR = "*"
"""Behind what is bold, for pipes and terminals that show no bold."""


def print_table(console: Console, table: PaperTable) -> None:
    """Prints the table in blocks of columns, and its notes."""
    console.print(table.title, style="bold")
    heads, groups = table.heads, _at_the_point(table.groups())
    rows = [row for of_group in groups.values() for row in of_group]
    widths = [max(len(text) for text in [*head, *(row[place] for row in rows)]) for place, head in enumerate(heads, 1)]
    label = min(LONGEST_LABEL, max((len(row[0]) for row in rows), default=0))
    for block in _blocks(widths, console.width - label):
        console.print()
        _print_block(console, heads, groups, block, label)
    console.print()
    width = max(40, console.width)
    # What differs between studies stands among the notes; where they come from one by one, in the other forms.
    origins = table.origins[-1:] if len(table.studies) > 1 else table.origins
    for note in [*table.footnotes, *origins]:
        note = f"{STAR} {note}" if note.startswith("bold") else note
        console.print(
            textwrap.fill(note, width, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False),
            soft_wrap=True,
        )


def _at_the_point(groups: dict[str, list[list[str]]]) -> dict[str, list[list[str]]]:
    """The rows with their numbers filled up at the right, so that in each column points stand below each other."""
    shown = {name: [[f"{text}{STAR}" if isinstance(text, Strong) else text for text in row] for row in rows]
             for name, rows in groups.items()}  # fmt: skip
    every = [row for rows in shown.values() for row in rows]
    behind = [
        max((len(text) - text.index(".") for text in column if "." in text), default=0)
        for column in zip(*every, strict=True)
    ]
    return {
        name: [[row[0], *(_filled(text, most) for text, most in zip(row[1:], behind[1:], strict=True))] for row in rows]
        for name, rows in shown.items()
    }


def _filled(text: str, behind: int) -> str:
    """The text with as many letters from its point on."""
    return text + " " * (behind - len(text) + text.index(".")) if "." in text else text


def _blocks(widths: Sequence[int], room: int) -> Iterator[dict[int, int]]:
    """Places and widths of the columns that fit beside each other, one at least."""
    block: dict[int, int] = {}
    for place, width in enumerate(widths):
        if block and sum(block.values()) + BETWEEN * (len(block) + 1) + width > room:
            yield block
            block = {}
        block[place] = width
    if block:
        yield block


def _print_block(
    console: Console,
    heads: Sequence[Sequence[str]],
    groups: dict[str, list[list[str]]],
    block: Mapping[int, int],
    label: int,
) -> None:
    """Prints some columns, given by their places with their widths."""
    shown = Table(box=None, pad_edge=False, header_style="bold", padding=(0, BETWEEN, 0, 0))
    shown.add_column("", width=label, overflow="fold")
    deepest = max(len(heads[place]) for place in block)
    for place, width in block.items():
        lines = [*[""] * (deepest - len(heads[place])), *heads[place]]
        # Justified here: a terminal's table would take the spaces away that hold points below each other.
        shown.add_column(Text("\n".join(line.rjust(width) for line in lines)), overflow="fold")
    filled = [rows for rows in groups.values() if rows]
    for number, rows in enumerate(filled, 1):
        for last, row in enumerate(rows, 1):
            cells = [
                Text(row[place + 1].rjust(width), "bold" if STAR in row[place + 1] else "")
                for place, width in block.items()
            ]
            shown.add_row(Text(row[0]), *cells, end_section=last == len(rows) and number < len(filled))
    console.print(shown)

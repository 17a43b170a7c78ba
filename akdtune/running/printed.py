"""What a running study prints: on a terminal broken between words, in a log a line as it is."""

from __future__ import annotations

from rich.cells import cell_len
from rich.console import Console

from akdtune.reports.standing.table import wrapped

COMMAND = "akdtune "


def say(console: Console, text: str) -> None:
    """Prints lines; on a terminal those that are too wide are broken between words.

    A command stays on one line, so that it can be copied.
    """
    console.print(fitted(text, width_of(console)), highlight=False, soft_wrap=True)


def width_of(console: Console) -> int | None:
    """Columns of a terminal; None for a file or a pipe."""
    return console.width if console.is_terminal else None


def fitted(text: str, width: int | None) -> str:
    """Lines of at most so many columns, behind the spaces that each begins with; as they are without a width."""
    if width is None:
        return text
    lines: list[str] = []
    for line in text.split("\n"):
        words = line.lstrip(" ")
        if cell_len(line) <= width or words.startswith(COMMAND):
            lines.append(line)
            continue
        lines += wrapped([words], width, line[: min(len(line) - len(words), width // 2)])
    return "\n".join(lines)

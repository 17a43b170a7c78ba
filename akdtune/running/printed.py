"""What a running study prints: on a terminal broken between words, in a log a line as it is."""

from __future__ import annotations

from rich.console import Console

from akdtune.reports.fitting import fitted


def say(console: Console, text: str) -> None:
    """Prints lines; on a terminal those that are too wide are broken between words."""
    console.print(fitted(text, width_of(console)), highlight=False, soft_wrap=True)


def width_of(console: Console) -> int | None:
    """Columns of a terminal; None for a file or a pipe."""
    return console.width if console.is_terminal else None

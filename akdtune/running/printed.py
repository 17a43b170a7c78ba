"""What a running study prints: on a terminal broken between words, in a log a line as it is."""

from __future__ import annotations

import sys

from rich.console import Console

from akdtune.reports.fitting import fitted


def say(console: Console, text: str) -> None:
    """Prints lines; on a terminal those that are too wide are broken between words."""
    console.print(fitted(text, width_of(console)), highlight=False, soft_wrap=True)


def width_of(console: Console) -> int | None:
    """Columns of a terminal; None for a file or a pipe."""
    return console.width if console.is_terminal else None


def beside(console: Console) -> Console:
    """Where a run says that it goes on: on a terminal in the same place, in a log on standard error, line by line."""
    if console.is_terminal or console.file is not sys.stdout:
        return console
    return Console(stderr=True, markup=False, force_terminal=False)

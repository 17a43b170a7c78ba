"""Prose printed in a terminal."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable

from akdtune.reports.fitting import on_one_line, wrapped


def columns() -> int | None:
    """Columns of the terminal that standard output is; None for a pipe or a file."""
    return max(1, shutil.get_terminal_size().columns) if sys.stdout.isatty() else None


def say(paragraphs: str | Iterable[str]) -> None:
    """Prints one paragraph or several: in a terminal broken between words, in a pipe a line each."""
    width = columns()
    for text in [paragraphs] if isinstance(paragraphs, str) else paragraphs:
        for line in [text] if width is None else wrapped(on_one_line(text), width):
            print(line, flush=True)

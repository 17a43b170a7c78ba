"""The answer that `akdtune show` opens with, as wide as the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from akdtune.cli.terminal.text import columns
from akdtune.reports.fitting import on_one_line
from akdtune.reports.standing.opening import standing


def print_opening(run: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints which arm leads, the arms, how far the study is and what comes next, and an empty line."""
    width = columns()
    lines = standing(run, rows).lines(width)
    print("\n".join(["", *(line if width is None else on_one_line(line) for line in lines), ""]), flush=True)

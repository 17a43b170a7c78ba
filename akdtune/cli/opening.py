"""The answer that `akdtune show` opens with, as wide as the terminal."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from akdtune.reports.standing.opening import standing


def print_opening(run: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints which arm leads, the arms, how far the study is and what comes next, and an empty line."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    print("\n".join(["", *standing(run, rows).lines(width), ""]), flush=True)

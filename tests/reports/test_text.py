"""Texts of reports on a terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.table import Table

from akdtune.reports.text import print_whole


@pytest.mark.parametrize("width", [40, 80, 250])
def test_no_number_of_a_table_is_cut_in_a_narrow_terminal(width: int) -> None:
    console = Console(width=width, file=io.StringIO())
    table = Table(box=None)
    for heading in ("measure", "difference", "slope"):
        table.add_column(heading, no_wrap=True)
    table.add_row("D_sq, probabilities", "+0.43 [+0.18, +0.61] of all", "+0.266 [+0.106, +0.427] a unit")
    print_whole(console, table)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "+0.43 [+0.18, +0.61] of all" in printed and "+0.266 [+0.106, +0.427] a unit" in printed
    assert console.width == width, "sentences after it break where the terminal ends"

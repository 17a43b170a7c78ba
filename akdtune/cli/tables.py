"""Trials as tables: in a terminal as wide as it is, in a pipe as wide as they are."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table


PLAIN_ROWS = 1000
"""Longer tables are not fitted to the terminal, which would take a millisecond a row."""


def print_trials(rows: Sequence[Any], extra: Sequence[str]) -> None:
    """Prints a row for each trial, with some further columns."""
    from rich.table import Table

    from akdtune.cli.browse import plain_table, searched, short

    shown = ["trial_id", "cell", "arm", "role", "seed", "status", "epochs", "val_accuracy", "test_accuracy"]
    only_where_known = ("cell", "val_accuracy", "test_accuracy")
    shown = [name for name in shown if name not in only_where_known or any(row.get(name) is not None for row in rows)]
    shown += [name for name in extra if name not in shown]
    headings = [*(name.removesuffix("_id") for name in shown), "searched settings"]
    numeric = {i for i, name in enumerate(shown) if any(isinstance(row[name], int | float) for row in rows)}
    cells = [
        [
            *(short(row[name]) for name in shown),
            " ".join(f"{name}={short(value)}" for name, value in searched(row).items()),
        ]
        for row in rows
    ]
    if not sys.stdout.isatty() or len(rows) > PLAIN_ROWS:
        print(plain_table(headings, cells, numeric))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, name in enumerate(headings[:-1]):
        table.add_column(name, no_wrap=True, justify="right" if index in numeric else "left")
    table.add_column(headings[-1], overflow="fold")
    for of_row in cells:
        table.add_row(*of_row)
    print_table(table)


def print_summary(rows: Sequence[Any], column: str) -> None:
    """Prints mean and standard deviation of a column over the seeds of each configuration."""
    from rich.table import Table

    from akdtune.cli import browse

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("arm", "role"):
        table.add_column(name, no_wrap=True)
    for name in ("n", f"mean {column}", "sd"):
        table.add_column(name, no_wrap=True, justify="right")
    some_left_out = any(row["left_out"] for row in rows)
    if some_left_out:
        table.add_column("left out", no_wrap=True)
    table.add_column("searched settings", overflow="fold")
    # Percentages with two digits after the point; other columns may be small.
    digits = ".2f" if column.endswith("_accuracy") else ".4g"
    for row in rows:
        sd = "" if row["sd"] is None else format(row["sd"], digits)
        settings = " ".join(f"{name}={browse.short(value)}" for name, value in row["settings"].items())
        left_out = [row["left_out"]] if some_left_out else []
        table.add_row(row["arm"], row["role"], str(row["n"]), format(row["mean"], digits), sd, *left_out, settings)
    print_table(table)


def print_table(table: Table) -> None:
    """In a terminal as wide as it is; in a pipe or file as wide as the content, so that nothing is cut."""
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    if console.is_terminal:
        console.print(table)
        return
    console.width = 1000
    with console.capture() as capture:
        console.print(table)
    print("\n".join(line.rstrip() for line in capture.get().splitlines()))

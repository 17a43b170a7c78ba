"""Two studies that share cells: whether they measured the same, and what differs between them.

    python analysis/compare.py runs/first runs/second
    akdtune compare first second

A trial is shared when cell and seed are: the same configuration, data and weights. Such trials should agree to the last
digit; where they do not, the versions and machines of the two studies say where to look.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from akdtune.errors import AkdtuneError, StudyError
from akdtune.reports.comparison import (
    READING,
    Shared,
    Side,
    elsewhere,
    headline,
    lock_differences,
    only_in,
    read_side,
    report_of,
    shared_cells,
    verdict,
)
from akdtune.reports.origin import ROUNDING, Origin, origin_of
from akdtune.reports.text import counted, exit_code, interval, number, print_whole, save_json, signed

if TYPE_CHECKING:
    from rich.console import Console


CONSOLE_WIDTH = 100
LINES_SHOWN = 20
NAMES_SHOWN = 10


def print_report(console: Console, a: Side, b: Side, shared: Sequence[Shared]) -> None:
    """Prints the table of shared cells, what only one has, and what differs between the locks."""
    from rich.table import Table

    if shared:
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
        table.add_column("cell", overflow="fold")
        for name in ("seeds", "mean in A", "mean in B", "B less A [95 %]"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("reproduced", overflow="fold")
        for cell in shared:
            name = cell.name if cell.name == cell.other_name else f"{cell.name} (B: {cell.other_name})"
            table.add_row(
                name, str(len(cell.seeds)), number(cell.a.mean), number(cell.b.mean), _gap(cell), cell.reproduced
            )
        print_whole(console, table)
    _item(console, verdict(shared))
    _item(console, f"compared: {', '.join(dict.fromkeys(cell.metric for cell in shared)) or 'nothing'}; {READING}")
    for label, names in (("A", only_in(a, b)), ("B", only_in(b, a))):
        if names:
            more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
            cells = counted(len(names), "cell", thousands="")
            _item(console, f"only in {label}, {cells}: {', '.join(names[:NAMES_SHOWN])}{more}")
    lines = lock_differences(a, b)
    console.print(
        f"\nwhat differs between the studies{'' if lines else ': nothing that their locks hold'}", style="bold"
    )
    for line in lines[:LINES_SHOWN]:
        _item(console, line)
    if len(lines) > LINES_SHOWN:
        _item(console, f"{len(lines) - LINES_SHOWN} more lines, in the JSON report")


def _print_origins(console: Console, a: Side, b: Side, origins: Mapping[str, Origin]) -> None:
    """Versions and processors that differ."""
    lines = elsewhere(a, b, origins)
    known = all(origin.trained_on for origin in origins.values())
    same = "no version and no processor differs" if known else "versions and processors are not recorded in both"
    console.print("\nnot the same in both:" if lines else f"\n{same}")
    for line in lines:
        _item(console, line)


def _print_rest(console: Console, a: Side, b: Side) -> None:
    """How much there is besides the shared cells, and where the details are."""
    alone = [f"{len(only_in(*sides))} only in {name}" for name, sides in (("A", (a, b)), ("B", (b, a)))]
    differing = counted(len(lock_differences(a, b)), "difference", thousands="")
    console.print(f"\ncells: {', '.join(alone)}; {differing} between the locks; --all shows each")


def _gap(cell: Shared) -> str:
    d = cell.difference
    if cell.equal == len(cell.seeds):
        return "0"
    return signed(d.difference) + ("" if d.ci_low is None else f" {interval(d.ci_low, d.ci_high)}")


def _item(console: Console, text: str) -> None:
    console.print(textwrap.fill(text, max(40, console.width), initial_indent="- ", subsequent_indent="  "))


# ------------------------------------------------------------------------------------------------- command


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="compare",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Compares the cells that two studies share, seed by seed, and the versions they ran with.",
        epilog="examples:\n  akdtune compare digits_ablation runs/elsewhere/digits_ablation\n"
        "  python analysis/compare.py runs/a runs/b --metric val_accuracy\n\n"
        "writes compare_<B>.json into RUN_A/reports where that can be written",
    )
    parser.add_argument("run_a", type=Path, metavar="RUN_A", help="a study directory")
    parser.add_argument("run_b", type=Path, metavar="RUN_B", help="another one")
    parser.add_argument("--metric", metavar="COLUMN", help="default: test accuracy where there is one, else validation")
    parser.add_argument("--all", action="store_true", help="every shared cell, and all that differs between the locks")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write (default: RUN_A/reports)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the comparison; 0 when it ran, 2 for a mistake of the user."""
    return exit_code(_arguments, _analyze, argv)


def _analyze(arguments: argparse.Namespace) -> None:
    _run(arguments.run_a, arguments.run_b, arguments.metric, arguments.out, arguments.all)


def _run(run_a: Path, run_b: Path, metric: str | None, out: Path | None, everything: bool) -> None:
    from rich.console import Console

    a, b = read_side(run_a), read_side(run_b)
    if a.path.resolve() == b.path.resolve():
        raise AkdtuneError(f"{run_a} and {run_b} are the same study; name two")
    shared = shared_cells(a, b, metric)
    console = Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else CONSOLE_WIDTH)
    origins = {"A": origin_of(run_a), "B": origin_of(run_b)}
    console.print(textwrap.fill(headline(shared), console.width))
    console.print(f"A: {run_a}\nB: {run_b}", soft_wrap=True)
    _print_origins(console, a, b, origins)
    if everything:
        console.print()
        print_report(console, a, b, shared)
        console.print()
        for line in [*(f"{name} {origin}" for name, origin in origins.items()), ROUNDING]:
            _item(console, line)
    else:
        _print_rest(console, a, b)
    path = (out or run_a / "reports") / f"compare_{b.path.resolve().name}.json"
    content = report_of(a, b, shared) | {f"origin_{name.lower()}": one.report() for name, one in origins.items()}
    try:
        written = save_json(path, content)
    except StudyError as error:
        if out is not None:
            raise
        _item(console, f"no report written: {error}")  # another's study may be readable only
        return
    console.print(f"\nwritten: {written}", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())

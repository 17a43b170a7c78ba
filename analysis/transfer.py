"""What distilled students have taken over from their teacher's function, against students without a teacher.

    python analysis/transfer.py runs/functional_kd
    akdtune analyze transfer functional_kd functional_kd_1 functional_kd_2

Students of one teacher are a block: several studies are several teachers, and tests, effect sizes and differences stay
within them. After Mason-Williams et al. (2025, arXiv 2510.12615); what is our choice stands in docs/transfer.md.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from akdtune.progress import stage
from akdtune.records.run_names import resolve_run
from akdtune.reports.figures import FORMATS, add_format, stamped
from akdtune.reports.origin import origin_of
from akdtune.reports.text import WIDEST_TABLE, exit_code, print_whole, save, save_json
from akdtune.reports.transfer import verdict
from akdtune.reports.transfer.answer import Transfer, transfer_of
from akdtune.reports.transfer.figures import draw

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

CONSOLE_WIDTH = 100


def print_transfer(console: Console, found: Transfer, *, everything: bool) -> None:
    """Prints what students have of their teacher, how that differs from the control, the verdict, how to read it."""
    comparison = found.comparison
    of_cells = verdict.cell_rows(comparison) if everything else []
    differences = verdict.difference_rows(comparison, everything=everything)
    tables = {
        "students, means": (verdict.MEAN_HEADINGS, verdict.mean_rows(comparison)),
        "four cells, percent of all images": (verdict.CELL_HEADINGS, of_cells),
        f"against {comparison.students.reference}": (verdict.DIFFERENCE_HEADINGS, differences),
    }
    for title, (headings, rows) in tables.items():
        if rows:
            console.print(f"\n{title}", style="bold")
            _print_table(console, headings, rows)
    console.print(f"\n{found.verdict}\n", style="bold", soft_wrap=True)
    for sentence in verdict.notes(comparison):
        width = max(40, console.width)
        lines = textwrap.fill(sentence, width, initial_indent="- ", subsequent_indent="  ",
                              break_on_hyphens=False)  # fmt: skip
        console.print(lines)
    if not everything and comparison.findings:
        console.print("- with --all: the four cells, every measure of controls")


def _print_table(console: Console, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns stand closer where they would not fit otherwise."""
    table = _table(headings, rows, 2)
    if console.measure(table, options=console.options.update(max_width=WIDEST_TABLE)).maximum > console.width:
        table = _table(headings, rows, 1)
    print_whole(console, table)


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]], gap: int) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, gap, 0, 0))
    for index, heading in enumerate(headings):
        left = index == 0 or heading == "measure"
        table.add_column(heading.replace(", ", ",\n"), justify="left" if left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


# ------------------------------------------------------------------------------------------------- command


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="transfer",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Compares students with independent ones in how far they answer as their teacher does: agreement,\n"
        "where the teacher is right (c+) and where it is wrong (c-), distances of predictions, asymmetry.\n"
        "Needs the control `independent`, and the teacher's logits, which studies keep unless told otherwise\n"
        "(record.teacher). Several studies are several teachers. Works on a running study.",
        epilog="examples:\n  akdtune analyze transfer functional_kd\n"
        "  akdtune analyze transfer functional_kd functional_kd_1 functional_kd_2 --out figures\n"
        "  python analysis/transfer.py runs/functional_kd --all --format pdf\n\n"
        "writes transfer.json, and the figure transfer",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a study directory, or its name under runs/")
    parser.add_argument("--reference", metavar="CELL", help="compare with this cell (default: independent)")
    parser.add_argument("--all", action="store_true", help="print the four cells, and every measure of controls")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write (default: reports of the first RUN)")
    add_format(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the analysis; 0 when it ran, 2 for a mistake of the user."""
    return exit_code(_arguments, _analyze, argv)


def _analyze(arguments: argparse.Namespace) -> None:
    runs = [resolve_run(run) for run in arguments.runs]
    print(f"transfer in {', '.join(map(str, runs))}", flush=True)
    with stage("comparing the students"):
        found = transfer_of(runs, reference=arguments.reference)
    _publish(found, runs, arguments.out or runs[0] / "reports", FORMATS[arguments.format], everything=arguments.all)


def _publish(found: Transfer, runs: Sequence[Path], out: Path, kinds: Sequence[str], *, everything: bool) -> None:
    from rich.console import Console

    console = Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else CONSOLE_WIDTH)
    print_transfer(console, found, everything=everything)
    origins = {run.resolve().name: origin_of(run) for run in runs}
    first = next(iter(origins.values()))
    lines = dict.fromkeys(line for origin in origins.values() for line in origin.lines())
    console.print("; ".join(lines), soft_wrap=True)
    content = found.report() | {"origins": {name: origin.report() for name, origin in origins.items()}}
    written = [save_json(out / "transfer.json", content)]
    with stamped(first.short):
        images = draw(found.comparison, found.study, kinds)
    written += [save(out / file, image) for file, image in images.items()]
    console.print("written: " + ", ".join(map(str, written)), soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())

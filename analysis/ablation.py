"""What the cells of an ablation and of a confirmation allow to say: tables a paper prints, and their plots.

    python analysis/ablation.py runs/digits_ablation
    akdtune analyze ablation digits_ablation

Differences are paired by seed. Holm's p and simultaneous intervals hold for each declared family; where a difference is
not resolved, the number of further seeds that would resolve the declared margin stands beside it.
"""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from akdtune.errors import AkdtuneError
from akdtune.progress import stage
from akdtune.records.files import require_study
from akdtune.reports.ablation import tables, winners
from akdtune.reports.ablation.figures import draw
from akdtune.reports.ablation.measured import phases_of
from akdtune.reports.ablation.tables import Result, headings, notes_of, paper_rows, said_of, status_lines, title_of
from akdtune.reports.figures import FORMATS, add_format, stamped
from akdtune.reports.origin import origin_of
from akdtune.reports.text import csv_text, exit_code, print_whole, save, save_json

if TYPE_CHECKING:
    from rich.console import Console


CONSOLE_WIDTH = 100

_HELD = "\N{NO-BREAK SPACE}"


# ------------------------------------------------------------------------------------------------- console


def print_result(console: Console, result: Result) -> None:
    """Prints one phase: the table, what may be concluded, what may not."""
    phase = result.phase
    console.print(f"\n{title_of(result)}", style="bold")
    _print_table(console, headings(result), [*paper_rows(result, controls=False), *paper_rows(result, controls=True)],
                 len(paper_rows(result, controls=False)))  # fmt: skip
    for cell in phase.cells:
        if cell.is_control and cell.explanation:
            _print_item(console, f"control {cell.name}: {cell.explanation}")
    if phase.name == "confirm":
        console.print()
        _print_table(console, winners.headings(phase), winners.rows(phase), len(phase.cells))
    if result.findings:
        console.print("\nfindings", style="bold")
    order = {"lower": 0, "higher": 0, "equivalent": 1, "identical": 1, "A/A": 3}
    for finding in sorted(result.findings, key=lambda finding: order.get(finding.judged, 2)):
        _print_item(console, said_of(result, finding))
    if result.effects:
        console.print(f"\neffects of factors [{100 * result.level:g} %, each by itself]", style="bold")
        rows = tables.effect_rows(result)
        _print_table(console, ["term", "effect", "interval", "p", "seeds"], rows, len(rows))
        for note in dict.fromkeys(effect.note for effect in result.effects if effect.note):
            _print_item(console, note)
    console.print("\nhow to read this", style="bold")
    for line in status_lines(result) + notes_of(result):
        _print_item(console, line)


def _print_table(console: Console, names: Sequence[str], rows: Sequence[Sequence[str]], own: int) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for index, name in enumerate(names):
        table.add_column(
            name.replace(", ", "\n").replace(" 95", "\n95"),
            justify="right" if index else "left",
            overflow="fold",
            no_wrap=False,
        )
    for index, row in enumerate(rows):
        table.add_row(*row, end_section=index + 1 == own, style=None if index < own else "dim")
    print_whole(console, table)


def _print_item(console: Console, text: str) -> None:
    """One point of a list; `p = .05`, `n = 8` and intervals stay on one line."""
    kept = re.sub(
        r"(?<=[a-z]) ([=<]) (?=[.\d])|, (?=[+\N{MINUS SIGN}])", lambda match: match[0].replace(" ", _HELD), text
    )
    lines = textwrap.fill(
        kept, max(40, console.width), initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False
    )
    console.print(lines.replace(_HELD, " "))


# ------------------------------------------------------------------------------------------------- command


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="ablation",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Compares the cells of a study's ablation, and of its confirmation, with a reference by seed.\n"
        "Works on a running study. Holm's p and simultaneous intervals hold for each declared family.",
        epilog="examples:\n  akdtune analyze ablation digits_ablation\n"
        "  python analysis/ablation.py runs/digits_ablation --metric train_accuracy --out figures\n"
        "  akdtune analyze ablation digits_ablation --format pdf\n\n"
        "writes ablation.json, .md, .tex (booktabs), .csv; figures: ablation (differences); for factorial designs\n"
        "ablation_factors and ablation_interactions; after a confirmation confirm and winners_curse",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="a study directory, e.g. runs/digits_ablation")
    parser.add_argument("--metric", metavar="COLUMN", help="of trials.parquet (default: what the design declares)")
    parser.add_argument(
        "--reference", metavar="CELL", help="compare with this cell (default: what the design declares)"
    )
    parser.add_argument("--alpha", type=float, help="error rate of each family (default: what the design declares)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write (default: RUN/reports)")
    add_format(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the analysis; 0 when it ran, 2 for a mistake of the user."""
    return exit_code(_arguments, _analyze, argv)


def _analyze(arguments: argparse.Namespace) -> None:
    run = require_study(arguments.run)
    if arguments.alpha is not None and not 0 < arguments.alpha < 0.5:
        raise AkdtuneError(f"--alpha: {arguments.alpha:g} is no error rate (allowed: above 0, below 0.5)")
    with stage("reading the trials"):
        phases = phases_of(run, metric=arguments.metric, reference=arguments.reference)
    print(f"ablation in {run}", flush=True)
    with stage("comparing the cells"):
        done = [tables.compute(phase, run, alpha=arguments.alpha, beside=phases) for phase in phases]
    _publish(done, run, arguments.out or run / "reports", FORMATS[arguments.format])


def _publish(done: Sequence[Result], run: Path, out: Path, kinds: Sequence[str]) -> None:
    from rich.console import Console

    console = Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else CONSOLE_WIDTH)
    name, origin = run.resolve().name, origin_of(run)
    for result in done:
        print_result(console, result)
    written = [
        save_json(out / "ablation.json", tables.report_of(done) | origin.report()),
        save(out / "ablation.md", tables.markdown(done, name) + origin.markdown()),
        save(out / "ablation.tex", tables.tex(done, name) + origin.tex()),
        save(out / "ablation.csv", csv_text(tables.rows_for_csv(done))),
    ]
    for result in done:
        with stamped(origin.short):
            written += [save(out / file, image) for file, image in draw(result, name, kinds).items()]
    console.print()
    for line in origin.lines():
        _print_item(console, line)
    console.print(f"\nwritten to {out}: " + ", ".join(path.name for path in written), soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())

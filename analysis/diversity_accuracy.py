"""How the diversity of an ensemble of views goes together with the accuracy of the student distilled from it.

    python analysis/diversity_accuracy.py runs/digits_angular
    akdtune analyze diversity_accuracy runs/digits_angular

Three estimands, never mixed: (a) pooled, (b) within arm, (c) adjusted for student-side settings. View-side settings are
how diversity is produced, so adjusting for them would take away what is to be measured; no estimand does.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from akdtune.errors import AkdtuneError
from akdtune.records.files import require_study
from akdtune.reports.diversity import (
    ESTIMANDS,
    FURTHER,
    HEADLINE,
    DiversityPanel,
    Relation,
    coefficient_text,
    counts_text,
    grouped_estimands,
    panels_of,
    relate,
    report,
    verdict,
)
from akdtune.reports.diversity_figures import draw
from akdtune.reports.figures import stamped
from akdtune.reports.origin import origin_of
from akdtune.reports.text import exit_code, save, save_json, signed
from akdtune.statistics import association

if TYPE_CHECKING:
    from rich.console import Console


def print_panel(console: Console, panel: DiversityPanel, relations: Sequence[Relation]) -> None:
    """Prints one panel: a table of all measures and estimands, then what may be concluded."""
    from rich.table import Table

    console.print(f"\n{panel.title}", style="bold", highlight=False)
    viewless = panel.viewless()
    cells = {cell for cell, bare in zip(panel.cells, viewless, strict=True) if not bare}
    console.print(
        f"{len(panel.arms)} finished, {len(panel.arms) - viewless.sum()} of them with views, in {len(cells)} cells; "
        f"excluded: {counts_text(panel.excluded)}; drawn but not fitted (no views): {viewless.sum()}",
        highlight=False,
    )
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for heading in ("measure", "estimand", "n", "cells"):
        table.add_column(heading, justify="right" if heading in ("n", "cells") else "left", no_wrap=True)
    for heading in ("Pearson r [95 %]", "Spearman rho [95 %]", "slope [95 %], points per unit"):
        table.add_column(heading, no_wrap=True)
    for relation in relations:
        label = {**HEADLINE, **FURTHER}[relation.measure]
        for letters, estimate in grouped_estimands(relation):
            numbers = (
                coefficient_text(estimate.pearson),
                coefficient_text(estimate.spearman),
                coefficient_text(estimate.slope, short=True),
            )
            table.add_row(label, letters, str(estimate.n), str(estimate.clusters), *numbers)
            label = ""
    console.print(table)
    for sentence in dict.fromkeys(_remarks(panel, relations)):
        console.print(sentence, highlight=False, soft_wrap=True)


def _remarks(panel: DiversityPanel, relations: Sequence[Relation]) -> list[str]:
    remarks = []
    for relation in relations:
        if relation.measure in HEADLINE:
            remarks.append(f"- {HEADLINE[relation.measure]}: {verdict(relation)}")
        if relation.simpson():
            a, b = (relation.estimates[name].pearson for name in ("pooled", "within_arm"))
            assert a is not None
            assert b is not None
            remarks.append(
                f"- Simpson: {relation.measure} has r = {signed(a.value, minus='-')} pooled but "
                f"{signed(b.value, minus='-')} within arms; the pooled number shows differences between arms"
            )
    for name in ("within_arm", "adjusted"):
        sentences = dict.fromkeys(relation.refused[name] for relation in relations if name in relation.refused)
        remarks += [f"- {ESTIMANDS[name].split(':')[0]} {sentence}" for sentence in sentences]
    adjusted = next((relation.adjusted_for for relation in relations if relation.adjusted_for), [])
    remarks.append(f"- (c) adjusts for: {', '.join(adjusted) or 'nothing, no student-side setting varies here'}")
    return remarks


# ------------------------------------------------------------------------------------------------- command


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="diversity_accuracy",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Relates each diversity measure of the views to the accuracy of the student.\n\n"
        + "\n".join(ESTIMANDS.values())
        + "\n\nThe headline uses probe trials, which are never pruned. Search survivors stand in a second panel: they\n"
        "were selected on accuracy. Works on a running study; the figures are an association, never an effect.",
        epilog="examples:\n  akdtune analyze diversity_accuracy runs/digits_angular\n"
        "  python analysis/diversity_accuracy.py runs/digits_angular --out figures\n\n"
        "writes diversity_accuracy.json, .png and .svg",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="a study directory, e.g. runs/digits_angular")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write (default: RUN/reports)")
    parser.add_argument("--draws", type=int, default=association.DRAWS, help="bootstrap draws (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: %(default)s)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the analysis; 0 when it ran, 2 for a mistake of the user."""
    return exit_code(_arguments, _analyze, argv)


def _analyze(arguments: argparse.Namespace) -> None:
    print(f"diversity and accuracy in {require_study(arguments.run)}", flush=True)
    if arguments.draws < 100:
        raise AkdtuneError(f"--draws: {arguments.draws} is too few for an interval (allowed: 100 or more)")
    _run(arguments.run, arguments.out or arguments.run / "reports", draws=arguments.draws, seed=arguments.seed)


def _run(run_dir: Path, out: Path, *, draws: int, seed: int) -> None:
    from rich.console import Console

    console = Console(markup=False, width=None if sys.stdout.isatty() else 140)
    panels, counts = panels_of(run_dir)
    console.print(f"{sum(counts.values())} trials: {counts_text(counts)}", highlight=False)
    if counts.keys() & {"planned", "running", "interrupted"}:
        console.print("the study is not finished: the numbers will change", highlight=False)
    relations = {panel.name: relate(panel, list(panel.measures), draws=draws, seed=seed) for panel in panels}
    for panel in panels:
        print_panel(console, panel, relations[panel.name])
    if not any(panel.name == "probe" and panel.arms for panel in panels):
        console.print("\nno probe trial has finished: there is no headline figure yet", highlight=False)
    console.print(
        "\nassociation, never effect; intervals: 95 % over cells, not corrected for the number of measures (bootstrap; "
        f"beyond {association.LARGE} cells, Spearman's beyond {association.LARGE_FOR_RANKS}, by influence values)",
        highlight=False,
    )
    origin = origin_of(run_dir)
    console.print("; ".join(origin.lines()), highlight=False)
    content = report(panels, relations, counts, draws=draws, seed=seed) | origin.report()
    written = [save_json(out / "diversity_accuracy.json", content)]
    if any(panel.arms for panel in panels):
        with stamped(origin.short):
            images = draw(panels, relations, run_dir.resolve().name, draws=draws, seed=seed)
        written += [save(out / f"diversity_accuracy.{kind}", image) for kind, image in images.items()]
    console.print("written: " + ", ".join(map(str, written)), highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())

"""How the diversity of an ensemble of views goes together with the accuracy of the student distilled from it.

    python analysis/diversity_accuracy.py runs/digits_angular
    akdtune analyze diversity_accuracy runs/digits_angular

Three estimands, never mixed: (a) pooled, (b) within arm, (c) adjusted for student-side settings. The verdict is on (b).
View-side settings are how diversity is produced, so adjusting for them would take away what is to be measured; no
estimand does.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from akdtune.errors import AkdtuneError
from akdtune.records.files import require_study
from akdtune.records.lock_file import metric_of
from akdtune.reports.diversity.checks import Checks, checks_of
from akdtune.reports.diversity.checks_figures import draw_checks
from akdtune.reports.diversity.checks_report import (
    FIT_HEADINGS,
    HOW,
    PATH_HEADINGS,
    fit_rows,
    path_remarks,
    path_rows,
    remarks,
)
from akdtune.reports.diversity.figures import draw
from akdtune.reports.diversity.measured import ESTIMANDS, FURTHER, HEADLINE, DiversityPanel, Relation, panels_of, relate
from akdtune.reports.diversity.report import READING, counts_text, grouped_estimands, report, size_text
from akdtune.reports.diversity.theory_check import HEADINGS, TheoryCheck, theory_check
from akdtune.reports.diversity.theory_check import READING as THEORY
from akdtune.reports.diversity.verdict import (
    TABLE_HEADINGS,
    Verdict,
    coefficient_text,
    headline_sentence,
    judge,
)
from akdtune.reports.figures import FORMATS, add_format, stamped
from akdtune.reports.left_out import left_out_text
from akdtune.reports.origin import origin_of
from akdtune.reports.text import exit_code, print_whole, save, save_json
from akdtune.statistics import association

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

TRIALS_SHOWN = 100
"""Rows of the table of losses."""


def print_headline(console: Console, panels: Sequence[DiversityPanel], verdicts: dict[str, Verdict]) -> None:
    """Prints the verdict on the probes, and one table of the four measures that it stands on."""
    console.print(headline_sentence(panels, verdicts), style="bold", highlight=False, soft_wrap=True)
    for panel in panels:
        if panel.name == "probe" and panel.arms:
            verdict = verdicts["probe"]
            for sentence in verdict.simpson_sentences:
                console.print(sentence, highlight=False, soft_wrap=True)
            console.print(f"\n{panel.title}", highlight=False, soft_wrap=True)
            console.print(size_text(panel), highlight=False, soft_wrap=True)
            table = _table(TABLE_HEADINGS, right=("Holm p", "cells"))
            for row in verdict.table():
                table.add_row(*row)
            print_whole(console, table)
            console.print(READING, highlight=False, soft_wrap=True)


def print_panel(console: Console, panel: DiversityPanel, relations: Sequence[Relation], verdict: Verdict) -> None:
    """Prints one panel: its verdict, a table of all measures and estimands, and what was refused."""
    console.print(f"\n{panel.title}", style="bold", highlight=False)
    console.print(size_text(panel), highlight=False)
    for sentence in (verdict.sentence, *verdict.simpson_sentences):
        console.print(f"- {sentence}", highlight=False, soft_wrap=True)
    headings = ("Pearson r [95 %]", "Spearman rho [95 %]", "slope [95 %], points per unit")
    table = _table(("measure", "estimand", "n", "cells", *headings), right=("n", "cells"))
    for relation in relations:
        label = {**HEADLINE, **FURTHER}[relation.measure]
        for letters, estimate in grouped_estimands(relation):
            numbers = (
                coefficient_text(estimate.pearson),
                coefficient_text(estimate.spearman),
                coefficient_text(estimate.slope, short=True),
            )
            table.add_row(label, letters, str(relation.trials), str(estimate.clusters), *numbers)
            label = ""
    print_whole(console, table)
    for remark in dict.fromkeys(_remarks(relations)):
        console.print(remark, highlight=False, soft_wrap=True)


WIDE = 105
"""Characters of a terminal that has room for every column of the table of losses."""


def print_checks(console: Console, checks: Sequence[Checks]) -> None:
    """Prints the other fits of a panel's slopes and the path along the ensemble's accuracy, each with its remarks."""
    if not checks:
        return
    _print_by_measure(console, FIT_HEADINGS, fit_rows(checks))
    for remark in (*remarks(checks), HOW):
        console.print(f"- {remark}", highlight=False, soft_wrap=True)
    if rows := path_rows(checks):
        _print_by_measure(console, PATH_HEADINGS, rows)
    for remark in path_remarks(checks):
        console.print(f"- {remark}", highlight=False, soft_wrap=True)


def _print_by_measure(console: Console, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table whose first column says each measure once."""
    table = _table(headings, right=())
    for before, row in zip([[""], *rows], rows, strict=False):
        table.add_row("" if row[0] == before[0] else row[0], *row[1:])
    console.print()
    print_whole(console, table)


def print_theory(console: Console, theory: TheoryCheck) -> None:
    """Prints the ensembles' losses trial by trial, what they say and which trials are left out."""
    console.print("\nlosses of the ensembles: teacher and views, equal weights", style="bold", highlight=False)
    if theory.trials:
        left_out = () if console.width > WIDE else ("arm", "squared, ensemble")  # which members less D_sq is
        shown = [place for place, heading in enumerate(HEADINGS) if heading not in left_out]
        table = _table([HEADINGS[place] for place in shown], right=HEADINGS[2:])
        for row in theory.rows()[:TRIALS_SHOWN]:
            table.add_row(*(row[place] for place in shown))
        print_whole(console, table)
        more = len(theory.trials) - TRIALS_SHOWN
        said = [f"{more} more trials are in the JSON"] if more > 0 else []
        said += [left_out_text(theory.left_out)] if theory.left_out else []
        for sentence in (theory.sentence, THEORY, *said):
            console.print(f"- {sentence}", highlight=False, soft_wrap=True)
    else:
        console.print(f"- {theory.sentence}", highlight=False, soft_wrap=True)


def _table(headings: Sequence[str], right: Sequence[str]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    for heading in headings:
        table.add_column(heading.replace(", ", ",\n"), justify="right" if heading in right else "left", no_wrap=True)
    return table


def _remarks(relations: Sequence[Relation]) -> list[str]:
    remarks = []
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
        + "\n\nThe verdict is on probe trials, which are never pruned: four measures, within arms, corrected over\n"
        "the four (permutations, Holm). Search survivors were selected on accuracy: --all shows them in a second\n"
        "panel. Works on a running study; the figures are an association, never an effect.",
        epilog="examples:\n  akdtune analyze diversity_accuracy runs/digits_angular\n"
        "  python analysis/diversity_accuracy.py runs/digits_angular --all --out figures\n\n"
        "writes diversity_accuracy.json, and the figure diversity_accuracy; with --all also diversity_checks, and\n"
        "diversity_theory where trials kept the answers of their views (record: {views: true})",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="a study directory, e.g. runs/digits_angular")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write (default: RUN/reports)")
    parser.add_argument("--all", action="store_true", help="print every panel, estimand and measure")
    parser.add_argument("--draws", type=int, default=association.DRAWS, help="bootstrap draws (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: %(default)s)")
    add_format(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the analysis; 0 when it ran, 2 for a mistake of the user."""
    return exit_code(_arguments, _analyze, argv)


def _analyze(arguments: argparse.Namespace) -> None:
    run = require_study(arguments.run)
    print(f"diversity and {metric_of(run).words} in {run}", flush=True)
    if arguments.draws < 100:
        raise AkdtuneError(f"--draws: {arguments.draws} is too few for an interval (allowed: 100 or more)")
    out = arguments.out or arguments.run / "reports"
    how = {"draws": arguments.draws, "seed": arguments.seed}
    _run(arguments.run, out, FORMATS[arguments.format], everything=arguments.all, **how)


def _run(run_dir: Path, out: Path, kinds: Sequence[str], *, everything: bool, draws: int, seed: int) -> None:
    from rich.console import Console

    console = Console(markup=False, width=None if sys.stdout.isatty() else 140)
    panels, counts = panels_of(run_dir)
    console.print(f"{sum(counts.values())} trials: {counts_text(counts)}", highlight=False)
    if counts.keys() & {"planned", "running", "interrupted"}:
        console.print("the study is not finished: the numbers will change", highlight=False)
    relations = {panel.name: relate(panel, list(panel.measures), draws=draws, seed=seed) for panel in panels}
    verdicts = {name: judge(of_panel) for name, of_panel in relations.items()}
    print_headline(console, panels, verdicts)
    checks = {panel.name: checks_of(panel, relations[panel.name], draws=draws, seed=seed) for panel in panels}
    theory = theory_check(run_dir)
    if everything:
        for panel in panels:
            print_panel(console, panel, relations[panel.name], verdicts[panel.name])
            print_checks(console, checks[panel.name])
        print_theory(console, theory)
        console.print(
            f"\nbeyond {association.LARGE} cells, Spearman's beyond {association.LARGE_FOR_RANKS}, intervals are by "
            "influence values; no interval is corrected for the number of measures",
            highlight=False,
        )
    elif panels:
        others = [panel.title.split(":")[0] for panel in panels if panel.name != "probe" and panel.arms]
        parts = ["pooled and adjusted estimates", "rank correlations", "five further measures", "other fits",
                 "the path along the ensemble's accuracy", "losses of the ensembles", *others]  # fmt: skip
        console.print(f"with --all: {', '.join(parts)}", highlight=False, soft_wrap=True)
    origin = origin_of(run_dir)
    console.print("; ".join(origin.lines()), highlight=False)
    how = {"draws": draws, "seed": seed}
    content = report(panels, relations, counts, checks=checks, theory=theory, **how) | origin.report()
    written = [save_json(out / "diversity_accuracy.json", content)]
    if any(panel.arms for panel in panels):
        with stamped(origin.short):
            images = draw(panels, relations, run_dir.resolve().name, kinds)
            images |= draw_checks(checks, theory, run_dir.resolve().name, kinds) if everything else {}
        written += [save(out / file, image) for file, image in images.items()]
    console.print("written: " + ", ".join(map(str, written)), highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())

"""What the cells of an ablation and of a confirmation allow to say: tables a paper prints, and their plots.

    python analysis/ablation.py runs/digits_ablation
    akdtune analyze ablation digits_ablation

Differences are paired by seed. Holm's p and the simultaneous intervals of a family always agree; where a difference is
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

from akdtune import ablation_findings, ablation_report, figures, reports, results
from akdtune.ablation_data import Cell, phases_of
from akdtune.ablation_findings import Finding, LevelMean, level_means, margin_of, sentence
from akdtune.ablation_report import Result, curse_rows, headings, notes_of, paper_rows, status_lines, title_of
from akdtune.errors import AkdtuneError
from akdtune.reports import interval, probability, signed

if TYPE_CHECKING:
    from rich.console import Console

    from akdtune.comparisons import Effect

CONSOLE_WIDTH = 100
INTERACTIONS_SHOWN = 9
TITLE_LEVELS = 12
"""Longer names of levels have a line of their own."""

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
        _print_table(console, ablation_report.CURSE_HEADINGS, curse_rows(result), len(phase.cells))
    if result.found:
        console.print("\nfindings", style="bold")
    order = {"lower": 0, "higher": 0, "equivalent": 1, "identical": 1}
    for one in sorted(result.found, key=lambda one: order.get(one.verdict, 2)):
        _print_item(console, sentence(one, result.unit))
    if result.effects:
        console.print(f"\neffects of factors [{100 * result.level:g} %, each by itself]", style="bold")
        rows = [
            [e.term, signed(e.estimate), interval(e.ci_low, e.ci_high), probability(e.p), str(e.n_seeds)]
            for e in result.effects
        ]
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
    console.print(table)


def _print_item(console: Console, text: str) -> None:
    """One point of a list; `p = .05`, `n = 8` and intervals stay on one line."""
    kept = re.sub(
        r"(?<=[a-z]) ([=<]) (?=[.\d])|, (?=[+\N{MINUS SIGN}])", lambda found: found[0].replace(" ", _HELD), text
    )
    lines = textwrap.fill(
        kept, max(40, console.width), initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False
    )
    console.print(lines.replace(_HELD, " "))


# ------------------------------------------------------------------------------------------------- figures


def draw(result: Result, name: str) -> dict[str, bytes]:
    """The figures of a phase by file name, PNG and SVG each."""
    drawn: dict[str, dict[str, bytes]] = {}
    phase, label = result.phase, result.phase.metric.replace("_", " ")
    bars = [_bar(one) for one in result.found if one.difference.difference is not None]
    if bars:
        drawn["ablation" if phase.name == "ablation" else "confirm"] = figures.forest(
            bars, title=f"{name}: {title_of(result)}", margin=margin_of(phase), level=result.level,
            xlabel=f"{label}: difference from {phase.reference}, paired by seed ({result.unit})",
        )  # fmt: skip
    footnote = f"{100 * result.level:g} % intervals within seeds (differences between seeds taken out)"
    ylabel = f"{label} (%)" if phase.in_percent else label
    for kind, panels in (("factors", _factor_panels(result)), ("interactions", _interaction_panels(result))):
        if panels:
            title = f"{name}: {'main effects' if kind == 'factors' else 'two-factor interactions'}"
            drawn[f"ablation_{kind}"] = figures.factor_panels(panels, title=title, ylabel=ylabel, footnote=footnote)
    rows = [_curse(result, cell) for cell in phase.cells if result.summaries[cell.name].mean is not None]
    if phase.name == "confirm" and rows:
        title = f"{name}: what fresh seeds make of the search's winners"
        drawn["winners_curse"] = figures.winners_curse(
            rows, title=title, searched_on="validation", confirmed_on=label.split()[0]
        )
    return {f"{stem}.{kind}": image for stem, files in drawn.items() for kind, image in files.items()}


def _bar(one: Finding) -> figures.Bar:
    d, within = one.difference, one.within
    assert d.difference is not None
    low, high, p = (None, None, d.p) if within is None else (within.ci_family_low, within.ci_family_high, within.p_holm)
    return figures.Bar(one.cell.name, d.difference, d.ci_low, d.ci_high, low, high, d.n_pairs, p, one.cell.is_control)


def _curse(result: Result, cell: Cell) -> figures.Curse:
    summary = result.summaries[cell.name]
    assert summary.mean is not None
    return figures.Curse(cell.name, cell.search_score, summary.mean, summary.ci_low, summary.ci_high, summary.n)


def _factor_panels(result: Result) -> list[figures.Panel]:
    """One per factor of a factorial design."""
    texts: dict[str, list[str]] = {}
    for effect in result.effects:
        factors = ablation_findings.factors_of(result.phase, effect)
        if len(factors) == 1:
            texts.setdefault(factors[0], []).append(_effect_text(effect, factors))
    return [
        figures.Panel("\n".join(texts[factor][:3]), factor, {"": [_point(one, 0) for one in found]})
        for factor in texts
        if (found := level_means(result.phase, [factor], level=result.level))
    ]


def _interaction_panels(result: Result) -> list[figures.Panel]:
    """One per pair of factors, the largest interactions first."""
    texts: dict[tuple[str, ...], list[str]] = {}
    for effect in sorted(result.effects, key=lambda effect: -abs(effect.estimate)):
        factors = ablation_findings.factors_of(result.phase, effect)
        if len(factors) == 2:
            texts.setdefault(tuple(factors), []).append(_effect_text(effect, factors))
    panels = []
    for pair, of_pair in list(texts.items())[:INTERACTIONS_SHOWN]:
        lines: dict[str, list[figures.Point]] = {}
        for one in level_means(result.phase, pair, level=result.level):
            lines.setdefault(one.levels[1], []).append(_point(one, 0))
        if lines:
            which = "interaction" if len(of_pair) == 1 else f"largest of {len(of_pair)} terms"
            panels.append(figures.Panel(f"{which} {of_pair[0]}", pair[0], lines, legend=pair[1]))
    return panels


def _point(one: LevelMean, place: int) -> figures.Point:
    assert one.summary.mean is not None
    return figures.Point(one.levels[place], one.summary.mean, one.summary.ci_low, one.summary.ci_high)


def _effect_text(effect: Effect, factors: Sequence[str]) -> str:
    """`off - on: -0.52 [-0.70, -0.31]`; an interaction without its factors' names, which stand at the axis."""
    if len(factors) == 2:
        return f"{signed(effect.estimate)} {_span(effect)}"
    levels = effect.term.removeprefix(f"{factors[0]}: ")
    return f"{levels}:{chr(10) if len(levels) > TITLE_LEVELS else ' '}{signed(effect.estimate)} {_span(effect)}"


def _span(effect: Effect) -> str:
    return "" if effect.ci_low is None else interval(effect.ci_low, effect.ci_high)


# ------------------------------------------------------------------------------------------------- command


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="ablation",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Compares the cells of a study's ablation, and of its confirmation, with a reference by seed.\n"
        "Works on a running study. Holm's p and simultaneous intervals hold for each declared family.",
        epilog="examples:\n  akdtune analyze ablation digits_ablation\n"
        "  python analysis/ablation.py runs/digits_ablation --metric train_accuracy --out figures\n\n"
        "writes ablation.json, .md, .tex (booktabs), .csv; ablation.png and .svg (differences); for factorial designs\n"
        "ablation_factors and ablation_interactions; after a confirmation confirm and winners_curse",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="a study directory, e.g. runs/digits_ablation")
    parser.add_argument("--metric", metavar="COLUMN", help="of trials.parquet (default: what the design declares)")
    parser.add_argument(
        "--reference", metavar="CELL", help="compare with this cell (default: what the design declares)"
    )
    parser.add_argument("--alpha", type=float, help="error rate of each family (default: what the design declares)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write (default: RUN/reports)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the analysis; 0 when it ran, 2 for a mistake of the user."""
    return reports.exit_code(_arguments, _analyze, argv)


def _analyze(arguments: argparse.Namespace) -> None:
    run = results.require_study(arguments.run)
    if arguments.alpha is not None and not 0 < arguments.alpha < 0.5:
        raise AkdtuneError(f"--alpha: {arguments.alpha:g} is no error rate (allowed: above 0, below 0.5)")
    phases = phases_of(run, metric=arguments.metric, reference=arguments.reference)
    done = [ablation_report.compute(phase, run, alpha=arguments.alpha) for phase in phases]
    _publish(done, run, arguments.out or run / "reports")


def _publish(done: Sequence[Result], run: Path, out: Path) -> None:
    from rich.console import Console

    console = Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else CONSOLE_WIDTH)
    name = run.resolve().name
    console.print(f"ablation in {run}")
    for result in done:
        print_result(console, result)
    written = [
        reports.save_json(out / "ablation.json", ablation_report.report_of(done)),
        reports.save(out / "ablation.md", ablation_report.markdown(done, name)),
        reports.save(out / "ablation.tex", ablation_report.tex(done, name)),
        reports.save(out / "ablation.csv", reports.csv_text(ablation_report.rows_for_csv(done))),
    ]
    for result in done:
        written += [reports.save(out / file, image) for file, image in draw(result, name).items()]
    console.print(f"\nwritten to {out}: " + ", ".join(path.name for path in written), soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())

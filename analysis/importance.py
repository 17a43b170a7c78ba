"""Which searched settings matter: PED-ANOVA and fANOVA per arm, with intervals, and accuracy against each setting.

    python analysis/importance.py runs/digits_angular
    akdtune analyze importance digits_angular

Only trials that reached their last epoch count: the score of a pruned one is that of another, earlier epoch.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from akdtune.errors import AkdtuneError
from akdtune.records.files import require_study
from akdtune.reports.figures import FORMATS, add_format, stamped
from akdtune.reports.importance.figures import draw
from akdtune.reports.importance.searched_arms import POOLS, ROLES, SearchedArm, Selection, arms_of
from akdtune.reports.importance.shares import (
    DRAWS,
    EVALUATORS,
    FANOVA_SHARE,
    INTERVALS,
    MIN_DRAWS,
    READING,
    JudgedArm,
    judge,
    known_domains,
    report_of,
)
from akdtune.reports.origin import origin_of
from akdtune.reports.text import exit_code, number, print_whole, save, save_json

if TYPE_CHECKING:
    from rich.console import Console


def print_arm(console: Console, judged: JudgedArm) -> None:
    """Prints one arm: its settings by importance, then what may be concluded."""
    from rich.table import Table

    arm = judged.arm
    by_role = ", ".join(f"{count} {role}" for role, count in arm.trials.items()) or "none"
    values = f", {arm.values}" if arm.configurations else ""
    left = ", ".join(f"{count} {status}" for status, count in arm.excluded.items()) or "none"
    console.print(f"\n{arm.name}", style="bold")
    console.print(f"{len(arm.configurations)} finished configurations{values} (trials: {by_role}); excluded: {left}")
    if judged.refused:
        console.print(judged.refused)
        return
    shares = {evaluator: {share.name: share for share in of_arm} for evaluator, of_arm in judged.importances.items()}
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("setting", no_wrap=True)
    for label in EVALUATORS.values():
        table.add_column(f"{label} [90 %]", justify="right", no_wrap=True)
        table.add_column("chance", justify="right", no_wrap=True)
    table.add_column("best mean at", overflow="fold")
    for name in judged.by_importance:
        row = [name]
        for evaluator in EVALUATORS:
            share = shares[evaluator].get(name)
            row += ["n/a", ""] if share is None else [
                f"{number(share.share)} [{number(share.low)}, {number(share.high)}]", number(share.chance)]  # fmt: skip
        best = max(judged.marginals[name], key=lambda bin_: bin_.mean)
        table.add_row(*row, f"{best.label} ({number(best.mean)})")
    print_whole(console, table)
    for note in judged.notes:
        console.print(textwrap.fill(note, console.width, initial_indent="- ", subsequent_indent="  "))


# ------------------------------------------------------------------------------------------------- command


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="importance",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Which searched settings matter for validation accuracy, arm by arm.\n\n"
        + textwrap.fill(READING, 100),
        epilog="examples:\n  akdtune analyze importance runs/digits_angular\n"
        "  python analysis/importance.py runs/digits_angular --role probe --out figures\n\n"
        "writes importance.json, and the figures importance and importance_slices",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="a study directory, e.g. runs/digits_angular")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write (default: RUN/reports)")
    parser.add_argument("--role", choices=ROLES, help="whose trials (default: search; probe where nothing is searched)")
    parser.add_argument("--pool", nargs="+", choices=POOLS, default=(), help="roles: trials of both; seeds: a value "
                        "is over all seeds of a configuration (default: over those that all have)")  # fmt: skip
    parser.add_argument("--draws", type=int, default=DRAWS, help="resamples for PED-ANOVA (default: %(default)s); "
                        f"fANOVA gets one in {FANOVA_SHARE}, at least {MIN_DRAWS}")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of resamples and forests (default: %(default)s)")
    parser.add_argument("--trees", type=int, metavar="N", help="of fANOVA's forests (default: 64); fewer are quicker")
    add_format(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the analysis; 0 when it ran, 2 for a mistake of the user."""
    return exit_code(_arguments, _analyze, argv)


def _analyze(arguments: argparse.Namespace) -> None:
    require_study(arguments.run)
    if arguments.draws < MIN_DRAWS:
        raise AkdtuneError(f"--draws: {arguments.draws} is too few for an interval (allowed: {MIN_DRAWS} or more)")
    if arguments.trees is not None and arguments.trees < 2:
        raise AkdtuneError(f"--trees: {arguments.trees} are no forest (allowed: 2 or more)")
    if arguments.role is not None and "roles" in arguments.pool:
        raise AkdtuneError(f"--role {arguments.role} and --pool roles say different things; give one of them")
    selection, arms = arms_of(arguments.run, arguments.role, arguments.pool)
    if not arms:
        role = arguments.role or " or ".join(ROLES)
        raise AkdtuneError(f"{arguments.run}: has no {role} trial, so nothing was searched here")
    print(f"importance of searched settings in {arguments.run}: {selection}", flush=True)
    how = {"draws": arguments.draws, "seed": arguments.seed}
    out, kinds = arguments.out or arguments.run / "reports", FORMATS[arguments.format]
    _run(arguments.run, out, selection, arms, arguments.trees, how, kinds)


def _run(
    run: Path,
    out: Path,
    selection: Selection,
    arms: Sequence[SearchedArm],
    trees: int | None,
    how: Mapping[str, int],
    kinds: Sequence[str],
) -> None:
    from rich.console import Console

    console = Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else 100)
    known = known_domains(run)
    judged = []
    for arm in arms:
        judged.append(judge(arm, known, **how, trees=trees))
        print_arm(console, judged[-1])
    console.print()
    console.print(textwrap.fill(f"{READING}; {INTERVALS}", console.width))
    origin = origin_of(run)
    console.print(textwrap.fill("; ".join(origin.lines()), console.width))
    content = report_of(judged, roles=list(selection.roles), pool_seeds=selection.pool_seeds, **how) | origin.report()
    written = [save_json(out / "importance.json", content)]
    with stamped(origin.short):
        written += [save(out / file, image) for file, image in draw(judged, run.resolve().name, kinds).items()]
    console.print("written: " + ", ".join(map(str, written)), soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())

"""The command `table`: studies joined into the table of a paper."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from akdtune.cli.app import RUN_HELP
from akdtune.errors import AkdtuneError, unknown_name

PIPE_WIDTH = 100


def table(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help=RUN_HELP, show_default=False)],
    form: Annotated[
        str | None,
        typer.Option(
            "--format", metavar="FORM", help="terminal, latex, markdown or csv; by default what --out ends in."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the table there: .tex, .md or .csv, else give --format.")
    ] = None,
    sort: Annotated[
        str, typer.Option(metavar="ORDER", help="Rows as the studies have them (study), or the best first (mean).")
    ] = "study",
    phase: Annotated[
        str | None,
        typer.Option(
            metavar="PHASE",
            help="confirm, ablation or search; by default a study's confirmation, else its ablation, else its search.",
        ),
    ] = None,
) -> None:
    """Join studies into a paper's table: methods against pairs of teacher and student, mean ± sd over seeds.

    A column is a data set, a teacher and a student, on test images or on validation images, never both. Bold is the
    best of a column where it is resolved against the runner-up (by seed, Holm); what is not resolved is marked as a
    tie. Works on running studies.

    \b
    Examples:
      akdtune table cifar_baselines
      akdtune table runs/baselines_r56 runs/baselines_wrn --sort mean
      akdtune table cifar_baselines cifar_angular --out table.tex
      akdtune table digits_ablation --phase ablation --format markdown
    """
    from akdtune.records import run_names
    from akdtune.reports.paper import forms
    from akdtune.reports.paper.table import table_of

    form = _form(form, out, forms.FORMATS)
    made = table_of([run_names.resolve_run(run) for run in runs], phase=phase, sort=sort)
    if form == "terminal":
        from rich.console import Console

        from akdtune.reports.paper.terminal import print_table

        console = Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)
        print_table(console, made)
        return
    text = {"latex": forms.latex, "markdown": forms.markdown, "csv": forms.csv}[form](made)
    if out is None:
        print(text, end="")
        return
    from akdtune.reports.text import save

    print(f"written: {save(out, text)}")


def _form(asked: str | None, out: Path | None, known: dict[str, str | None]) -> str:
    """The form that is asked for, by name or by the suffix of the file."""
    if asked is not None:
        if asked not in known:
            raise AkdtuneError(f"--format: {unknown_name('form', asked, known)}")
        if out is not None and known[asked] is None:
            raise AkdtuneError(f"--format: {asked} goes to no file; with --out: latex, markdown or csv")
        return asked
    if out is None:
        return "terminal"
    by_suffix = {suffix: name for name, suffix in known.items() if suffix is not None}
    if out.suffix not in by_suffix:
        raise AkdtuneError(f"--out: {out} ends in none of {', '.join(by_suffix)}; give --format")
    return by_suffix[out.suffix]

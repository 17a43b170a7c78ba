"""The command that writes a study's page: report."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from akdtune.cli.app import RUN_HELP


class Form(str, enum.Enum):
    """What the page is written as."""

    html = "html"
    md = "md"


def report(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help=RUN_HELP, show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Where to write.  [default: RUN/reports/report.html; of several studies the folder akdtune_report]",
        ),
    ] = None,
    form: Annotated[Form, typer.Option("--format", help="One HTML file, or Markdown without figures.")] = Form.html,
    show: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
) -> None:
    """Write a study as one page: question, design, answers, tables and figures in a single file that can be sent.

    It works on a running study and says so. The file asks nobody for anything: no address, no font, no script from
    elsewhere. Several studies get a page each in one folder, and an index that links them.

    \b
    Examples:
      akdtune report digits_angular --open
      akdtune report runs/digits_ablation --out digits_ablation.html
      akdtune report digits_angular digits_ablation --out pages
      akdtune report digits_angular --format md
    """
    from akdtune.cli.waiting import waiting
    from akdtune.records import run_names

    directories = [run_names.resolve_run(run) for run in runs]
    several = len({directory.resolve() for directory in directories}) > 1
    with waiting("writing the page"):
        from akdtune.reports.page import writing

        write_all, write = writing.write_all, writing.write
        file = write_all(directories, out, form.value) if several else write(directories[0], out, form.value)
    print(f"written: {file}", flush=True)
    if show:
        import webbrowser

        webbrowser.open(file.resolve().as_uri())

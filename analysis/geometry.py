"""How the views of a teacher lie: angles and gates over the epochs, offsets of their features, calibration.

    python analysis/geometry.py runs/digits_angular
    akdtune analyze geometry runs/digits_angular

Angles, margins and gates are in every study with views; offsets need `record: {features: N}`, calibration needs
`record: {views: true}`. Trials that kept neither are counted, not guessed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from akdtune.errors import AkdtuneError
from akdtune.records.files import require_study
from akdtune.reports.answers import FEWEST_DRAWS
from akdtune.reports.figures import FORMATS, add_format, stamped
from akdtune.reports.geometry import calibration, courses, trial_offsets
from akdtune.reports.geometry.answer import Geometry, geometry_in
from akdtune.reports.geometry.figures import draw
from akdtune.reports.geometry.report import COURSE_HEADINGS, course_rows, left_out_lines
from akdtune.reports.origin import origin_of
from akdtune.reports.text import exit_code, print_whole, save, save_json
from akdtune.statistics import reliability

if TYPE_CHECKING:
    from rich.console import Console

TRIALS_SHOWN = 100
"""Rows of the table of single trials."""


def print_geometry(console: Console, found: Geometry, *, everything: bool) -> None:
    """Prints a table for each part that there is, then the verdict, then what is left out."""
    if found.courses:
        _print_table(console, "over the epochs", COURSE_HEADINGS, course_rows(found.courses), words=(0, 1))
        console.print(courses.READING, soft_wrap=True)
    if found.offsets.trials:
        title = "offsets of the views' features from their teacher's"
        _print_table(console, title, trial_offsets.HEADINGS, trial_offsets.arm_rows(found.offsets), words=(0,))
        console.print(trial_offsets.READING, soft_wrap=True)
    if found.calibration.trials:
        title = "calibration, means over trials"
        _print_table(console, title, calibration.ARM_HEADINGS, calibration.arm_rows(found.calibration), words=(0,))
        console.print(calibration.READING, soft_wrap=True)
        if everything:
            rows = calibration.trial_rows(found.calibration)[:TRIALS_SHOWN]
            _print_table(console, "by trial", calibration.TRIAL_HEADINGS, rows, words=(0,))
    console.print(f"\n{found.verdict}", style="bold", soft_wrap=True)
    if found.counts.keys() & {"planned", "running", "interrupted"}:
        console.print("- the study is not finished: the numbers will change", soft_wrap=True)
    for sentence in (*found.calibration.sentences[1:], *left_out_lines(found.offsets, found.calibration)):
        console.print(f"- {sentence}", soft_wrap=True)
    if found.calibration.trials and not everything:
        console.print("with --all: calibration by trial", soft_wrap=True)


def _print_table(
    console: Console, title: str, headings: Sequence[str], rows: Sequence[Sequence[str]], words: Sequence[int]
) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    for place, heading in enumerate(headings):
        table.add_column(
            heading.replace(", ", ",\n"), justify="left" if place in words else "right", no_wrap=True, overflow="fold"
        )
    for row in rows:
        table.add_row(*row)
    console.print(f"\n{title}", style="bold", soft_wrap=True)
    print_whole(console, table)


# ------------------------------------------------------------------------------------------------- command


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="geometry",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="How views lie about their teacher: angles to it and to each other, margins and gates over the\n"
        "epochs; offsets of their features on the first two principal components (record: {features: N});\n"
        "calibration of the ensemble beside its teacher and its student (record: {views: true}). Works on a\n"
        "running study.",
        epilog="examples:\n  akdtune analyze geometry runs/digits_angular\n"
        "  python analysis/geometry.py runs/digits_angular --all --out figures\n\n"
        "writes geometry.json, and the figures geometry_epochs, geometry_offsets and geometry_calibration, each\n"
        "where there is something to draw",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="a study directory, e.g. runs/digits_angular")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write (default: RUN/reports)")
    parser.add_argument("--all", action="store_true", help="print calibration by trial, too")
    parser.add_argument(
        "--draws", type=int, default=reliability.DRAWS, help="bootstrap draws of images (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: %(default)s)")
    add_format(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the analysis; 0 when it ran, 2 for a mistake of the user."""
    return exit_code(_arguments, _analyze, argv)


def _analyze(arguments: argparse.Namespace) -> None:
    from rich.console import Console

    print(f"geometry of the views in {require_study(arguments.run)}", flush=True)
    if arguments.draws < FEWEST_DRAWS:
        raise AkdtuneError(f"--draws: {arguments.draws} is too few for an interval (allowed: {FEWEST_DRAWS} or more)")
    console = Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else 140)
    found = geometry_in(arguments.run, draws=arguments.draws, seed=arguments.seed)
    print_geometry(console, found, everything=arguments.all)
    origin = origin_of(arguments.run)
    console.print("; ".join(origin.lines()), soft_wrap=True)
    out = arguments.out or arguments.run / "reports"
    written = [save_json(out / "geometry.json", found.report() | origin.report())]
    with stamped(origin.short):
        images = draw(found.courses, found.offsets, found.calibration, found.study, FORMATS[arguments.format])
    written += [save(out / file, image) for file, image in images.items()]
    console.print("written: " + ", ".join(map(str, written)), soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())

"""Was this student distilled from that teacher? Scores of what both say about the same inputs, beside chance.

    python analysis/detection.py runs/detection_0 runs/detection_1
    akdtune analyze detection detection_0 detection_1 detection_2 detection_3

The question is a choice: of several candidates, which one taught? Three kinds of inputs: real images, images
synthesised from the student's BatchNorm statistics, Gaussian noise. Students without a teacher are the control.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from akdtune.detection.asking import Asked, ask
from akdtune.detection.from_files import Given
from akdtune.detection.gathering import gather
from akdtune.detection.synthesis import STEPS, Synthesis
from akdtune.errors import AkdtuneError
from akdtune.records.run_names import resolve_run
from akdtune.reports.detection.figures import draw
from akdtune.reports.detection.judged import COUNTS, REPEATS, Detection, judge
from akdtune.reports.detection.outputs import KINDS, write_inputs, write_outputs
from akdtune.reports.detection.report import FILE, content
from akdtune.reports.detection.verdict import (
    CHOICE_HEADINGS,
    READING,
    choice_rows,
    headings,
    remarks,
    rows,
    sentence,
    sizes,
)
from akdtune.reports.figures import FORMATS, add_format, stamped
from akdtune.reports.origin import Origin, origin_of
from akdtune.reports.text import exit_code, print_whole, save, save_json

if TYPE_CHECKING:
    from rich.console import Console

CONSOLE_WIDTH = 100
FOLDER = "detection"
"""Where inputs and outputs are kept, beside the report."""


def print_report(console: Console, detection: Detection) -> None:
    """Prints the tables, what was left out, how to read it, and the verdict last."""
    console.print(sizes(detection))
    console.print()
    if detection.rates:
        _print_table(console, headings(detection), rows(detection))
    if unknown := choice_rows(detection):
        console.print("\nlikeliest teacher, and in which share of the draws", style="bold")
        _print_table(console, CHOICE_HEADINGS, unknown)
    console.print()
    for remark in remarks(detection):
        console.print(textwrap.fill(remark, console.width, initial_indent="- ", subsequent_indent="  "))
    console.print(textwrap.fill(READING, console.width))
    console.print()
    console.print(textwrap.fill(sentence(detection), console.width), style="bold")


def _print_table(console: Console, names: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for place, name in enumerate(names):
        table.add_column(name, justify="left" if place < 2 else "right", no_wrap=True)
    for row in cells:
        table.add_row(*row)
    print_whole(console, table)


# ------------------------------------------------------------------------------------------------- command


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="detection",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Which of several teachers was a student distilled from?\n\n" + textwrap.fill(READING, 100),
        epilog="examples:\n  akdtune analyze detection detection_0 detection_1 detection_2 detection_3\n"
        "  akdtune analyze detection --settings digits_zoo --teacher a=a.pt --teacher b=b.pt --student s.pt --out d\n"
        "  akdtune analyze detection detection_0 --teacher 'other={path: b.pt, key: model_ema}' --student s.pt=other\n"
        "  akdtune analyze detection detection_0 --teacher big=w.pt --network 'big={name: cnn, widths: [64, 128]}'\n\n"
        f"writes {FILE}, the figure detection, and {FOLDER}/: what was asked and answered",
    )
    parser.add_argument("runs", nargs="*", metavar="RUN", help="study directories: their teachers and trained students")
    parser.add_argument("--teacher", action="append", default=[], metavar="NAME=FILE", help="a further candidate: a "
                        "file, {path: ..., key: ..., strip: ...}, auto, pretrained: as teacher.checkpoint")  # fmt: skip
    parser.add_argument("--student", action="append", default=[], metavar="FILE[=TEACHER]", help="a further student; "
                        "with its teacher's name, or none for one that had none; without: it is asked for")  # fmt: skip
    parser.add_argument("--network", action="append", default=[], metavar="NAME=NETWORK", help="of a teacher or a "
                        "student that is a file (default: the settings' teacher.network, student.network)")  # fmt: skip
    parser.add_argument("--settings", metavar="FILE", help="settings file or packaged study that says which images and "
                        "networks these are (default: the first RUN)")  # fmt: skip
    parser.add_argument("--inputs", nargs="+", choices=KINDS, default=list(KINDS), help="default: all")
    parser.add_argument("--counts", nargs="+", type=int, default=list(COUNTS), metavar="N", help="how many inputs "
                        f"(default: {' '.join(map(str, COUNTS))})")  # fmt: skip
    parser.add_argument("--repeats", type=int, default=REPEATS, help="draws of so many inputs (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of inputs and draws (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=STEPS, help="of synthesising inputs (default: %(default)s)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write (default: reports of the first RUN)")
    add_format(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the analysis; 0 when it ran, 2 for a mistake of the user."""
    return exit_code(_arguments, _analyze, argv)


def _analyze(arguments: argparse.Namespace) -> None:
    for option in ("repeats", "steps"):
        if getattr(arguments, option) < 1:
            raise AkdtuneError(f"--{option}: {getattr(arguments, option)} are none (allowed: 1 or more)")
    if min(arguments.counts) < 1:
        raise AkdtuneError(f"--counts: {min(arguments.counts)} are no inputs (allowed: 1 or more)")
    runs = [resolve_run(name) for name in arguments.runs]
    if not runs and arguments.out is None:
        raise AkdtuneError("--out DIR is needed: without a study there is no folder for its reports")
    given = Given(arguments.teacher, arguments.student, arguments.network)
    lineup = gather(runs, given, arguments.settings)
    synthesis = Synthesis(count=max(arguments.counts), steps=arguments.steps, seed=arguments.seed)
    outputs, inputs = ask(lineup, Asked(arguments.inputs, seed=arguments.seed, synthesis=synthesis))
    detection = judge(outputs, counts=arguments.counts, repeats=arguments.repeats, seed=arguments.seed)
    out: Path = arguments.out or runs[0] / "reports"
    written = [write_outputs(out / FOLDER, outputs), write_inputs(out / FOLDER, inputs)]
    _report(detection, runs, out, FORMATS[arguments.format], [path for path in written if path is not None])


def _report(
    detection: Detection, runs: Sequence[Path], out: Path, kinds: Sequence[str], written: Sequence[Path]
) -> None:
    from rich.console import Console

    console = Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else CONSOLE_WIDTH)
    print_report(console, detection)
    origin: Origin | None = origin_of(runs[0]) if runs else None
    report = content(detection) | {"runs": [str(run) for run in runs]}
    if origin is not None:
        console.print(textwrap.fill("; ".join(origin.lines()), console.width))
        report |= origin.report()
    paths = [save_json(out / FILE, report)]
    with stamped("" if origin is None else origin.short):
        images = draw(detection, runs[0].resolve().name if runs else out.resolve().name, kinds)
    paths += [save(out / file, image) for file, image in images.items()]
    console.print("written: " + ", ".join(map(str, [*paths, *written])), soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())

"""Whether students attend and answer as their teachers do, and whether teachers that look elsewhere change it.

    python analysis/fidelity.py runs/rethink_kd runs/rethink_ws runs/rethink_ss
    akdtune analyze fidelity rethink_ww rethink_ws rethink_ss

Of one study: attention overlap (IoU) beside its chance level, top-1 fidelity, KL both ways, mutual information,
calibration, affinity, gap. Of several, each with teachers of its own: rank correlations of the teachers' overlap with
what students do. After RethinkKD (Guo et al. 2024, arXiv 2405.00739).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from akdtune.records.run_names import resolve_run
from akdtune.reports.fidelity.answer import Fidelity, fidelity_in
from akdtune.reports.fidelity.maps import THRESHOLD
from akdtune.reports.fidelity.measured import KINDS
from akdtune.reports.fidelity.report import (
    ANSWER_HEADINGS,
    ATTENTION_HEADINGS,
    READING,
    RELATION_HEADINGS,
    TEACHER_HEADINGS,
    answer_rows,
    attention_rows,
    by_study,
    left_out_lines,
    measured_columns,
    pairs_line,
    relation_rows,
    sanity_lines,
    teacher_rows,
)
from akdtune.reports.figures import FORMATS, add_format, image_files, stamped
from akdtune.reports.text import exit_code, print_whole, save, save_json
from akdtune.statistics import association

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def print_answer(console: Console, found: Fidelity) -> None:
    """Prints the tables, the one sentence, what must hold in any case, and who is left out."""
    studies, kind = found.studies, found.kind
    print_whole(console, _table(ANSWER_HEADINGS, by_study(studies, answer_rows)))
    console.print()
    looking = by_study(studies, lambda study: attention_rows(study, kind))
    print_whole(console, _table(*measured_columns(ATTENTION_HEADINGS, looking)))
    console.print(f"{READING}\n", highlight=False, soft_wrap=True)
    teachers = by_study(studies, lambda study: teacher_rows(study, kind))
    print_whole(console, _table(*measured_columns(TEACHER_HEADINGS, teachers)))
    if isinstance(found.relations, str):
        console.print(f"\n{found.relations}", highlight=False, soft_wrap=True)
    else:
        console.print()
        print_whole(console, _table(RELATION_HEADINGS, relation_rows(found.relations)))
        console.print(pairs_line(found.relations), highlight=False, soft_wrap=True)
    console.print(f"\n{found.verdict}", style="bold", highlight=False, soft_wrap=True)
    for line in [*sanity_lines(found.studies, found.kind), *left_out_lines(found.studies)]:
        console.print(f"- {line}", highlight=False, soft_wrap=True)


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    for heading in headings:
        left = heading in (headings[0], "affinity")
        table.add_column(heading, justify="left" if left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


# ------------------------------------------------------------------------------------------------- command


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="fidelity",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Compares where students look and what they answer with their teachers, from recorded answers and\n"
        "attention maps (record: {attention: N}). Several studies are several sets of teachers: rank correlations of\n"
        "the teachers' overlap with fidelity and with the gap are reported, never tested. Works on a running study.",
        epilog="examples:\n  akdtune analyze fidelity rethink_kd\n"
        "  akdtune analyze fidelity rethink_kd_ww rethink_kd rethink_kd_ss --maps predicted\n\n"
        "writes fidelity.json, and the figures fidelity and fidelity_maps",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="study directories, e.g. runs/rethink_kd")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write (default: reports of the first RUN)")
    parser.add_argument("--maps", choices=KINDS, default="sum",
                        help="summed over all classes (published, default) or of the predicted class")  # fmt: skip
    parser.add_argument("--threshold", type=float, default=THRESHOLD, metavar="X",
                        help="scaled maps above it count as attended (default: %(default)s)")  # fmt: skip
    parser.add_argument("--draws", type=int, default=association.DRAWS, help="bootstrap draws (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: %(default)s)")
    add_format(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the analysis; 0 when it ran, 2 for a mistake of the user."""
    return exit_code(_arguments, _analyze, argv)


def _analyze(arguments: argparse.Namespace) -> None:
    from rich.console import Console

    runs = [resolve_run(run) for run in arguments.runs]
    print(f"attention and fidelity in {', '.join(map(str, runs))}", flush=True)
    how = {"draws": arguments.draws, "seed": arguments.seed}
    found = fidelity_in(runs, threshold=arguments.threshold, maps=arguments.maps, **how)
    console = Console(markup=False, width=None if sys.stdout.isatty() else 140)
    print_answer(console, found)
    for study in found.studies:
        before = f"{study.name}: " if len(found.studies) > 1 else ""
        console.print(before + "; ".join(study.origin.lines()), highlight=False, soft_wrap=True)
    out = arguments.out or runs[0] / "reports"
    written = [save_json(out / "fidelity.json", found.report())]
    with stamped(found.studies[0].origin.short):
        images = image_files(found.sheets, FORMATS[arguments.format])
    written += [save(out / file, image) for file, image in images.items()]
    console.print("written: " + ", ".join(map(str, written)), highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())

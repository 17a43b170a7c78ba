"""Commands that read a study directory: show, best, logs, analyze, compare."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from akdtune.cli import completion
from akdtune.cli.app import RUN_HELP, RunArgument
from akdtune.cli.tables import ROWS_SHOWN, print_means, print_points, print_trials
from akdtune.cli.terminal.text import say
from akdtune.cli.waiting import waiting
from akdtune.errors import AkdtuneError, unknown_name

AllOption = Annotated[
    bool, typer.Option("--all", help=f"All rows in a terminal, which otherwise shows {ROWS_SHOWN}; a pipe gets all.")
]
RoleOption = Annotated[str | None, typer.Option(help="Only search, probe, pilot, confirm, ablation or control trials.")]


def show(
    run: RunArgument,
    arm: Annotated[str | None, typer.Option(help="Only this arm.")] = None,
    status: Annotated[
        str | None, typer.Option(help="Only planned, running, interrupted, done, pruned, diverged or failed.")
    ] = None,
    role: RoleOption = None,
    sort: Annotated[str | None, typer.Option(metavar="COLUMN", help="Sort by a column, largest first.")] = None,
    top: Annotated[
        int | None,
        typer.Option(min=1, help="Only the first N, by validation accuracy (test where only that was read) or --sort."),
    ] = None,
    every: AllOption = False,
    summary: Annotated[
        bool, typer.Option("--summary", help="Mean and standard deviation over the seeds of each configuration.")
    ] = False,
    pareto: Annotated[
        bool, typer.Option("--pareto", help="Search trials that no other beats in every objective.")
    ] = False,
    csv: Annotated[bool, typer.Option("--csv", help="Every column as comma-separated text.")] = False,
) -> None:
    """Show how a study stands and its trials, also of a running one.

    Opens with the answer: which arm leads, by which phase, and whether it is more than luck; the arms, or the cells and
    their paired differences; how far the study is and how long still; and the command to go on with, with its cost in
    trials and time. Pruned trials stand in no mean. With an option that chooses trials, these alone are shown.

    In a terminal one line a trial, settings by names as short as they are unambiguous, and what all rows share said
    once above. A pipe or a file gets all rows, complete and as wide as they are; --csv every column in full.

    \b
    Examples:
      akdtune show digits_angular
      akdtune show runs/digits_angular --top 5
      akdtune show digits_angular --role probe --sort diversity_sq_prob --all
      akdtune show cifar_baselines --summary
      akdtune show digits_angular --arm angular/kd --status done --csv > trials.csv
    """
    from akdtune.cli import browse
    from akdtune.records import run_names
    from akdtune.reports.short_names import PARAM
    from akdtune.reports.trials.cell_means import cell_means, tally

    directory = run_names.resolve_run(run)
    trials, columns = browse.read_trials(directory)
    of_these = browse.Filter(arm, status, role).apply(trials, columns)
    if summary:
        column = browse.column_named(sort or browse.judged_by(of_these), columns, of_these)
        means = cell_means(of_these, column)
        if csv:
            print(browse.means_as_csv(means[:top]), end="")
            return
        shown = f"; {top} of {len(means)} configurations shown" if top is not None and top < len(means) else ""
        say(f"{directory}: {tally(trials)}{_of_these(of_these, trials)}{shown}")
        print_means(means[:top], column, columns, every=every or top is not None)
        return
    if pareto:
        from akdtune.reports.origin import origin_of

        print_points(of_these, browse.objectives(directory), columns, every=every, top=top)
        say(["", str(origin_of(directory))])
        return
    rows = browse.Filter(sort=sort, top=top).apply(of_these, columns)
    if csv:
        print(browse.as_csv(rows, columns), end="")
        return
    say(f"{directory}: {tally(trials)}{_of_these(rows, trials)}")
    if trials and (arm, status, role, sort, top) == (None,) * 5:
        from akdtune.cli.opening import print_opening

        print_opening(directory, trials)
    say(browse.pilot_lines(directory))
    say(browse.reason_lines(rows))
    sorted_by = [] if sort is None else [browse.column_named(sort, columns, rows)]
    extra = [column for column in sorted_by if not column.startswith(PARAM)]
    print_trials(rows, columns, extra, every=every or top is not None)


def _of_these(rows: Sequence[object], trials: Sequence[object]) -> str:
    """How many of a study's trials are shown, where that is not all."""
    return f"; {len(rows)} of {len(trials)} shown" if len(rows) < len(trials) else ""


def best(
    run: RunArgument,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]",
            help="A trial's id or its beginning, or a cell's name or hash: that one instead of the best.",
            show_default=False,
        ),
    ] = None,
    arm: Annotated[str | None, typer.Option(help="Only this arm.")] = None,
    role: RoleOption = None,
    every: AllOption = False,
    export: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write its settings as a YAML that runs as is.")
    ] = None,
    student: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write its student, for `student.checkpoint`.")
    ] = None,
) -> None:
    """Show the best trial of each arm over all roles, the best means over seeds, and export one of them.

    Search, probe and pilot trials are judged by validation accuracy after the last epoch, those of confirmation and
    ablation by test accuracy. The best is the maximum of noisy numbers and therefore optimistic: train it again with
    other seeds before you believe it. Exported is the first row, or what NAME means: one trial with its seed, or a
    cell with all of its seeds.

    \b
    Examples:
      akdtune best digits_angular
      akdtune best digits_angular --arm angular/kd+crd --export best.yaml && akdtune run best.yaml
      akdtune best digits_angular --role search --student students/best.pt
      akdtune best digits_angular 3f2a --export one.yaml            (a trial by the beginning of its id)
      akdtune best digits_ablation inter=false --export cell.yaml   (a cell, with its seeds)
    """
    from akdtune.cli import best_trials, browse
    from akdtune.records import run_names

    directory = run_names.resolve_run(run)
    trials, columns = browse.read_trials(directory)
    rows = browse.Filter(arm=arm, role=role).apply(trials, columns)
    if name is None:
        taken = best_trials.print_best(directory, rows, columns, every)
    else:
        taken = best_trials.print_chosen(directory, rows, columns, name, every)
    if export is not None:
        best_trials.export(directory, taken, export)
    if student is not None:
        best_trials.save_student(directory, taken, student)


def logs(
    run: RunArgument,
    trial: Annotated[
        str,
        typer.Argument(
            metavar="TRIAL", help="Trial id or its beginning.", show_default=False, autocompletion=completion.trials
        ),
    ],
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until the trial has ended.")] = False,
) -> None:
    """Print what a trial printed, warned and raised.

    \b
    Examples:
      akdtune logs digits_angular 3f2a
      akdtune logs digits_angular 3f2a -f
    """
    from akdtune.cli import browse
    from akdtune.records import run_names
    from akdtune.records.files import trial_directory

    directory = run_names.resolve_run(run)
    trials, _ = browse.read_trials(directory)
    trial_id = browse.find_trial([row["trial_id"] for row in trials], trial)
    if follow:
        try:
            for text in browse.follow(directory, trial_id):
                print(text, end="", flush=True)
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
        return
    log = trial_directory(directory, trial_id) / "log.txt"
    if not log.exists():
        raise AkdtuneError(f"trial {trial_id} has no log yet: it has not started")
    print(log.read_text(encoding="utf-8", errors="replace"), end="")


def analyze(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="Which analysis.", show_default=False, autocompletion=completion.analyses),
    ],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN [OPTION]...",
            help="Study directory, and the analysis' options.",
            autocompletion=completion.runs,
        ),
    ] = None,
) -> None:
    """Run an analysis over a study, also over a running one.

    \b
    Examples:
      akdtune analyze diversity_accuracy digits_angular
      akdtune analyze diversity_accuracy --help
    """
    from akdtune.records import run_names

    known = _analyses()
    if name not in known:
        raise AkdtuneError(unknown_name("analysis", name, known))
    given = list(arguments or [])
    if given and not given[0].startswith("-"):
        given[0] = str(run_names.resolve_run(given[0]))
    with waiting("loading the analysis"):
        main = import_module(f"akdtune.analysis.{name}").main
    code = main(given)
    raise typer.Exit(code or 0)


def compare(
    run_a: Annotated[
        str, typer.Argument(metavar="RUN_A", help=RUN_HELP, show_default=False, autocompletion=completion.runs)
    ],
    run_b: Annotated[
        str, typer.Argument(metavar="RUN_B", help="Another one.", show_default=False, autocompletion=completion.runs)
    ],
    metric: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Default: test accuracy where there is one, else validation.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every shared cell, and all that differs.")] = False,
) -> None:
    """Compare the cells that two studies share, seed by seed, and the versions they ran with.

    The first line says how many are equal to the last digit, or by how much the others differ at most.

    \b
    Examples:
      akdtune compare digits_ablation /elsewhere/runs/digits_ablation
      akdtune compare digits_ablation /elsewhere/runs/digits_ablation --all
      akdtune compare first second --metric val_accuracy
    """
    from akdtune.records import run_names

    given = [str(run_names.resolve_run(run)) for run in (run_a, run_b)]
    options = [*([] if metric is None else ["--metric", metric]), *(["--all"] if everything else [])]
    with waiting("loading the comparison"):
        main = import_module("akdtune.analysis.compare").main
    raise typer.Exit(main([*given, *options]))


def _analyses() -> list[str]:
    from pkgutil import iter_modules

    return sorted(module.name for module in iter_modules(import_module("akdtune.analysis").__path__))

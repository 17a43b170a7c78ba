"""Commands that read a study directory: show, best, logs, analyze, compare."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from akdtune.cli.app import RUN_HELP, RunArgument
from akdtune.cli.tables import print_summary, print_trials
from akdtune.errors import AkdtuneError, unknown_name


def show(
    run: RunArgument,
    arm: Annotated[str | None, typer.Option(help="Only this arm.")] = None,
    status: Annotated[
        str | None, typer.Option(help="Only planned, running, interrupted, done, pruned, diverged or failed.")
    ] = None,
    role: Annotated[
        str | None, typer.Option(help="Only search, probe, pilot, confirm, ablation or control trials.")
    ] = None,
    sort: Annotated[str | None, typer.Option(metavar="COLUMN", help="Sort by a column, largest first.")] = None,
    top: Annotated[
        int | None, typer.Option(min=1, help="Only the first N, by validation accuracy unless --sort is given.")
    ] = None,
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

    \b
    Examples:
      akdtune show digits_angular
      akdtune show runs/digits_angular --top 5
      akdtune show digits_angular --role probe --sort diversity_sq_prob
      akdtune show cifar_baselines --summary
      akdtune show digits_angular --arm angular/kd --status done --csv > trials.csv
    """
    from akdtune.cli import browse
    from akdtune.records import run_names

    directory = run_names.resolve_run(run)
    trials, columns = browse.read_trials(directory)
    if summary:
        rows = browse.Filter(arm, status, role).apply(trials, columns)
        column = browse.column_named(sort or browse.judged_by(rows), columns)
        means = browse.summary(rows, column)[:top]
        if csv:
            print(browse.summary_as_csv(means), end="")
            return
        print(f"{directory}: {browse.tally(rows)}", flush=True)
        print_summary(means, column)
        return
    rows = browse.Filter(arm, status, role, sort, top).apply(trials, columns)
    if pareto:
        from akdtune.reports.origin import origin_of

        print(browse.pareto_text(directory, rows))
        print(f"\n{origin_of(directory)}")
        return
    if csv:
        print(browse.as_csv(rows, columns), end="")
        return
    print(f"{directory}: {browse.tally(rows)}", flush=True)
    if (arm, status, role, sort, top) == (None,) * 5:
        from akdtune.cli.opening import print_opening

        print_opening(directory, trials)
    for line in browse.pilot_lines(directory):
        print(line, flush=True)
    for line in browse.reason_lines(rows):
        print(line, flush=True)
    extra = [sort] if sort and sort in columns else []
    print_trials(rows, extra)


def best(
    run: RunArgument,
    arm: Annotated[str | None, typer.Option(help="Only this arm.")] = None,
    export: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the best trial's settings as a YAML that runs as is.")
    ] = None,
    student: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the best trial's student, for `student.checkpoint`.")
    ] = None,
) -> None:
    """Show the best search trial of each arm, and export the best of all.

    Best means the highest validation accuracy after the last epoch. It is the maximum of noisy numbers and therefore
    optimistic: train it again with other seeds before you believe it.

    \b
    Examples:
      akdtune best digits_angular
      akdtune best digits_angular --arm angular/kd+crd --export best.yaml && akdtune run best.yaml
      akdtune best digits_angular --student students/best.pt
    """
    from akdtune.cli import browse
    from akdtune.records import run_names

    directory = run_names.resolve_run(run)
    rows = browse.Filter(arm=arm).apply(*browse.read_trials(directory))
    winners = browse.best_per_arm(rows)
    searched = [row for row in rows if row["role"] == "search"]
    print(f"{directory}: best of {browse.tally(searched)}; the highest of noisy numbers, so optimistic", flush=True)
    print_trials(winners, [])
    if export is not None:
        print(f"written: {_export(directory, winners[0]['trial_id'], export)}")
    if student is not None:
        print(f"written: {_save_student(directory, winners[0]['trial_id'], student)}")
        if warning := _predicts_through_a_method(directory, winners[0]["trial_id"]):
            print(f"warning: {warning}", file=sys.stderr)


def _export(directory: Path, trial_id: str, file: Path) -> Path:
    from akdtune.records.files import LOCK, read_lock, read_plan
    from akdtune.study.written import export_yaml

    if file.exists():
        raise AkdtuneError(f"{file}: exists already; choose another file")
    (trial,) = [row for row in read_plan(directory) if row["trial_id"] == trial_id]
    lock = read_lock(directory)
    if lock is None:
        raise AkdtuneError(f"{directory / LOCK}: no such file; without it the study's settings are not known")
    text = export_yaml(lock["settings"], trial["settings"], seed=trial["seed"])
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise AkdtuneError(f"{file}: cannot be written: {error.strerror or error}") from error
    return file


def _predicts_through_a_method(directory: Path, trial_id: str) -> str | None:
    from akdtune.records.files import read_plan
    from akdtune.registry import lookup

    (trial,) = [row for row in read_plan(directory) if row["trial_id"] == trial_id]
    heads = [
        method["name"]
        for method in trial["settings"].get("method", [])
        if lookup("methods", method["name"]).replaces_logits
    ]
    if not heads:
        return None
    return (
        f"this student predicts through '{heads[0]}', which is not in the file: its body transfers, its classifier not"
    )


def _save_student(directory: Path, trial_id: str, file: Path) -> Path:
    import torch

    from akdtune.records.files import trial_directory
    from akdtune.teacher.checkpoints import load_plain

    if file.exists():
        raise AkdtuneError(f"{file}: exists already; choose another file")
    checkpoint = trial_directory(directory, trial_id) / "checkpoint.pt"
    if not checkpoint.exists():
        raise AkdtuneError(f"{checkpoint}: no such file; without it there is no trained student of trial {trial_id}")
    weights = load_plain(checkpoint)["student"]
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"model": weights}, file)
    except (OSError, RuntimeError) as error:
        file.unlink(missing_ok=True)
        raise AkdtuneError(f"{file}: cannot be written: {error}") from error
    return file


def logs(
    run: RunArgument,
    trial: Annotated[str, typer.Argument(metavar="TRIAL", help="Trial id or its beginning.", show_default=False)],
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
    name: Annotated[str, typer.Argument(metavar="NAME", help="Which analysis.", show_default=False)],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="RUN [OPTION]...", help="Study directory, and the analysis' options.")
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
    raise typer.Exit(import_module(f"akdtune.analysis.{name}").main(given) or 0)


def compare(
    run_a: Annotated[str, typer.Argument(metavar="RUN_A", help=RUN_HELP, show_default=False)],
    run_b: Annotated[str, typer.Argument(metavar="RUN_B", help="Another one.", show_default=False)],
    metric: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Default: test accuracy where there is one, else validation.")
    ] = None,
) -> None:
    """Compare the cells that two studies share, seed by seed, and the versions they ran with.

    \b
    Examples:
      akdtune compare digits_ablation /elsewhere/runs/digits_ablation
      akdtune compare first second --metric val_accuracy
    """
    from akdtune.records import run_names

    given = [str(run_names.resolve_run(run)) for run in (run_a, run_b)]
    options = [] if metric is None else ["--metric", metric]
    raise typer.Exit(import_module("akdtune.analysis.compare").main([*given, *options]))


def _analyses() -> list[str]:
    from pkgutil import iter_modules

    return sorted(module.name for module in iter_modules(import_module("akdtune.analysis").__path__))

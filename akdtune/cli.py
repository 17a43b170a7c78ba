"""The commands; no logic. Importing this module loads nothing heavy, so that `akdtune --help` answers at once."""

from __future__ import annotations

import itertools
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from akdtune import __version__
from akdtune.errors import AkdtuneError, AkdtuneWarning, unknown_name

if TYPE_CHECKING:
    from rich.table import Table

    from akdtune.registry import Kind

FILE_HELP = "Settings file, or the name of a packaged one (see `akdtune spaces`)."
OVERRIDES_HELP = "key.path=value; the value is read as YAML and wins over the file."
RUN_HELP = "Study directory, or its name under runs/."

FileArgument = Annotated[str, typer.Argument(metavar="FILE", help=FILE_HELP, show_default=False)]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help=OVERRIDES_HELP)]
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help=RUN_HELP, show_default=False)]

PLAIN_ROWS = 1000
"""Longer tables are not fitted to the terminal, which would take a millisecond a row."""

app = typer.Typer(
    help="""Finds out what in a knowledge-distillation recipe works: one YAML in, a scheduled study out.

    \b
    A first study, about four minutes on two cores:
      akdtune run search_spaces/digits_angular.yaml
      akdtune show digits_angular
      akdtune analyze diversity_accuracy digits_angular
    """,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
teacher_app = typer.Typer(help="Train and list the frozen teachers that studies share.", rich_markup_mode=None)
cache_app = typer.Typer(help="What frozen teachers said, kept on this node's disk.", rich_markup_mode=None)
wandb_app = typer.Typer(help="Weights & Biases runs of a study.", rich_markup_mode=None)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code; a mistake of the user's is one message and code 2."""
    try:
        with _plain_warnings():
            app(args=None if arguments is None else list(arguments), prog_name="akdtune")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except AkdtuneError as error:
        print(f"akdtune: {error}", file=sys.stderr)
        return error.exit_code
    return 0


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Prints our own warnings as one line, without the place in our code that warns; all others as Python does."""
    with warnings.catch_warnings():
        others = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *place: Any, **details: Any) -> None:
            if issubclass(category, AkdtuneWarning):
                print(f"warning: {message}", file=sys.stderr)
            else:
                others(message, category, *place, **details)

        warnings.showwarning = show
        yield


def _print_version(asked: bool) -> None:
    if asked:
        print(f"akdtune {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    pass


@app.command()
def run(
    file: FileArgument,
    overrides: Overrides = None,
    directory: Annotated[
        Path | None, typer.Option("--dir", metavar="DIR", help="Study directory.  [default: runs/<study>]")
    ] = None,
    address: Annotated[
        str | None, typer.Option(metavar="ADDR", help="Join a running Ray cluster instead of starting Ray here.")
    ] = None,
    extend: Annotated[
        bool, typer.Option("--extend", help="Add trials, seeds or cells to a study that has begun.")
    ] = False,
    new: Annotated[
        bool, typer.Option("--new", help="Start beside a study that has begun, in the next free DIR-2, DIR-3, ...")
    ] = False,
    reuse: Annotated[
        list[Path] | None,
        typer.Option(metavar="RUN", help="Take over what another study has trained already; may be repeated."),
    ] = None,
) -> None:
    """Run a study, or resume it: the same command again goes on where it stopped.

    \b
    Examples:
      akdtune run search_spaces/digits_angular.yaml
      akdtune run digits_angular search.trials=48 'views.num_views={choice: [3, 5]}'
      akdtune run cifar_angular 'data={name: parquet, train: "train-*.parquet", test: test.parquet}'
      akdtune run cifar_angular --dir /data/cifar_1 --address auto
      akdtune run digits_ablation ablation.seeds='[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]' --extend
      akdtune run digits_ablation --new --reuse runs/digits_ablation

    Ctrl-C stops within seconds and loses nothing. Exit code 0: every trial ended; 1: some failed; 130: interrupted.
    """
    from akdtune import spec, tracking

    study = spec.load(file, overrides or [])
    notice = tracking.notice(study.tracking.model_dump())
    if notice:
        print(notice, file=sys.stderr)
    root = directory or Path("runs") / study.name
    if new:
        beside = (root.with_name(f"{root.name}-{number}") for number in itertools.count(2))
        root = root if not root.exists() else next(path for path in beside if not path.exists())
    code = import_module("akdtune.study").run(study, root, address, extend=extend, reuse=reuse or [])
    raise typer.Exit(code)


@app.command()
def plan(file: FileArgument, overrides: Overrides = None) -> None:
    """Show what a study would do, without doing it.

    Arms, searched settings, trial and epoch counts, early-stopping rungs, missing data and checkpoints, and an
    estimate of time and disk from timing a few real steps.

    \b
    Examples:
      akdtune plan search_spaces/cifar_angular.yaml
      akdtune plan digits_angular search.trials=96 scheduler.grace_period=16
    """
    from akdtune import spec

    planned = import_module("akdtune.study_plan").Plan.of(spec.load(file, overrides or []))
    print("\n".join(import_module("akdtune.dry_run").plan_report(planned)))


@app.command()
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
    """Show the trials of a study, also of a running one.

    \b
    Examples:
      akdtune show digits_angular
      akdtune show runs/digits_angular --top 5
      akdtune show digits_angular --role probe --sort diversity_sq_prob
      akdtune show cifar_baselines --summary
      akdtune show digits_angular --arm angular/kd --status done --csv > trials.csv
    """
    from akdtune import browse

    directory = browse.resolve_run(run)
    trials, columns = browse.read_trials(directory)
    if summary:
        rows = browse.Filter(arm, status, role).apply(trials, columns)
        column = browse.column_named(sort or browse.judged_by(rows), columns)
        found = browse.summary(rows, column)[:top]
        if csv:
            print(browse.summary_as_csv(found), end="")
            return
        print(f"{directory}: {browse.tally(rows)}", flush=True)
        _print_summary(found, column)
        return
    rows = browse.Filter(arm, status, role, sort, top).apply(trials, columns)
    if pareto:
        print(browse.pareto_text(directory, rows))
        return
    if csv:
        print(browse.as_csv(rows, columns), end="")
        return
    print(f"{directory}: {browse.tally(rows)}", flush=True)
    for line in browse.pilot_lines(directory):
        print(line, flush=True)
    extra = [sort] if sort and sort in columns else []
    _print_trials(rows, extra)


def _print_trials(rows: Sequence[Any], extra: Sequence[str]) -> None:
    from rich.table import Table

    from akdtune.browse import plain_table, searched, short

    shown = ["trial_id", "cell", "arm", "role", "seed", "status", "epochs", "val_accuracy", "test_accuracy"]
    only_where_known = ("cell", "val_accuracy", "test_accuracy")
    shown = [name for name in shown if name not in only_where_known or any(row.get(name) is not None for row in rows)]
    shown += [name for name in extra if name not in shown]
    headings = [*(name.removesuffix("_id") for name in shown), "searched settings"]
    numeric = {i for i, name in enumerate(shown) if any(isinstance(row[name], int | float) for row in rows)}
    cells = [
        [
            *(short(row[name]) for name in shown),
            " ".join(f"{name}={short(value)}" for name, value in searched(row).items()),
        ]
        for row in rows
    ]
    if not sys.stdout.isatty() or len(rows) > PLAIN_ROWS:
        print(plain_table(headings, cells, numeric))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, name in enumerate(headings[:-1]):
        table.add_column(name, no_wrap=True, justify="right" if index in numeric else "left")
    table.add_column(headings[-1], overflow="fold")
    for of_row in cells:
        table.add_row(*of_row)
    _print_table(table)


def _print_summary(found: Sequence[Any], column: str) -> None:
    from rich.table import Table

    from akdtune import browse

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("arm", "role"):
        table.add_column(name, no_wrap=True)
    for name in ("n", f"mean {column}", "sd"):
        table.add_column(name, no_wrap=True, justify="right")
    table.add_column("searched settings", overflow="fold")
    # Percentages with two digits after the point; other columns may be small.
    digits = ".2f" if column.endswith("_accuracy") else ".4g"
    for row in found:
        sd = "" if row["sd"] is None else format(row["sd"], digits)
        settings = " ".join(f"{name}={browse.short(value)}" for name, value in row["settings"].items())
        table.add_row(row["arm"], row["role"], str(row["n"]), format(row["mean"], digits), sd, settings)
    _print_table(table)


def _print_table(table: Table) -> None:
    """In a terminal as wide as it is; in a pipe or file as wide as the content, so that nothing is cut."""
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    if console.is_terminal:
        console.print(table)
        return
    console.width = 1000
    with console.capture() as capture:
        console.print(table)
    print("\n".join(line.rstrip() for line in capture.get().splitlines()))


@app.command()
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
    from akdtune import browse

    directory = browse.resolve_run(run)
    rows = browse.Filter(arm=arm).apply(*browse.read_trials(directory))
    winners = browse.best_per_arm(rows)
    print(f"{directory}: best of {browse.tally(rows)}", flush=True)
    _print_trials(winners, [])
    if export is not None:
        print(f"written: {_export(directory, winners[0]['trial_id'], export)}")
    if student is not None:
        print(f"written: {_save_student(directory, winners[0]['trial_id'], student)}")
        if warning := _predicts_through_a_method(directory, winners[0]["trial_id"]):
            print(f"warning: {warning}", file=sys.stderr)


def _export(directory: Path, trial_id: str, file: Path) -> Path:
    from akdtune import results, spec

    if file.exists():
        raise AkdtuneError(f"{file}: exists already; choose another file")
    (trial,) = [row for row in results.read_plan(directory) if row["trial_id"] == trial_id]
    lock = results.read_lock(directory)
    if lock is None:
        raise AkdtuneError(f"{directory / results.LOCK}: no such file; without it the study's settings are not known")
    text = spec.export_yaml(lock["settings"], trial["settings"], seed=trial["seed"])
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise AkdtuneError(f"{file}: cannot be written: {error.strerror or error}") from error
    return file


def _predicts_through_a_method(directory: Path, trial_id: str) -> str | None:
    from akdtune import results
    from akdtune.registry import lookup

    (trial,) = [row for row in results.read_plan(directory) if row["trial_id"] == trial_id]
    heads = [
        one["name"] for one in trial["settings"].get("method", []) if lookup("methods", one["name"]).replaces_logits
    ]
    if not heads:
        return None
    return (
        f"this student predicts through '{heads[0]}', which is not in the file: its body transfers, its classifier not"
    )


def _save_student(directory: Path, trial_id: str, file: Path) -> Path:
    import torch

    from akdtune import results
    from akdtune.checkpoints import load_plain

    if file.exists():
        raise AkdtuneError(f"{file}: exists already; choose another file")
    checkpoint = results.trial_directory(directory, trial_id) / "checkpoint.pt"
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


@app.command()
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
    from akdtune import browse, results

    directory = browse.resolve_run(run)
    trials, _ = browse.read_trials(directory)
    trial_id = browse.find_trial([row["trial_id"] for row in trials], trial)
    if follow:
        try:
            for text in browse.follow(directory, trial_id):
                print(text, end="", flush=True)
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
        return
    log = results.trial_directory(directory, trial_id) / "log.txt"
    if not log.exists():
        raise AkdtuneError(f"trial {trial_id} has no log yet: it has not started")
    print(log.read_text(encoding="utf-8", errors="replace"), end="")


@app.command(context_settings={"allow_interspersed_args": False, "ignore_unknown_options": True})
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
    from akdtune import browse

    known = _analyses()
    if name not in known:
        raise AkdtuneError(unknown_name("analysis", name, known))
    given = list(arguments or [])
    if given and not given[0].startswith("-"):
        given[0] = str(browse.resolve_run(given[0]))
    raise typer.Exit(import_module(f"akdtune.analysis.{name}").main(given) or 0)


@app.command()
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
    from akdtune import browse

    given = [str(browse.resolve_run(run)) for run in (run_a, run_b)]
    options = [] if metric is None else ["--metric", metric]
    raise typer.Exit(import_module("akdtune.analysis.compare").main([*given, *options]))


def _analyses() -> list[str]:
    from pkgutil import iter_modules

    return sorted(module.name for module in iter_modules(import_module("akdtune.analysis").__path__))


@app.command()
def spaces() -> None:
    """List the packaged settings files.

    \b
    Examples:
      akdtune spaces
      akdtune run digits_angular          (a packaged name instead of a file)
    """
    from akdtune import spec

    for name, path in spec.packaged().items():
        about = path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
        print(f"{name}\n    {about}\n    {path}")


def _list_components(kind: Kind, name: str | None) -> None:
    from akdtune import components

    if name is not None and not components.is_pattern(name):
        print(components.details(kind, name), end="")
        return
    from rich.table import Table

    rows = components.rows(kind, name or "*")
    table = Table(box=None, pad_edge=False, header_style="bold")
    shown = ("name", "about", "source", "signals")
    columns = [column for column in shown if any(getattr(row, column) for row in rows)]
    for column in columns:
        table.add_column(column, no_wrap=column == "name", overflow="fold")
    for row in rows:
        table.add_row(*(getattr(row, column) for column in columns))
    _print_table(table)


NameArgument = Annotated[
    str | None,
    typer.Argument(metavar="[NAME]", help="Only this one, with its settings; or all whose names match, as in 'k*'."),
]


@app.command()
def methods(name: NameArgument = None) -> None:
    """List the base methods, or show one: formulas, settings, where it differs from the published code.

    \b
    Examples:
      akdtune methods
      akdtune methods '*kd*'
      akdtune methods dkd
    """
    _list_components("methods", name)


@app.command()
def views(name: NameArgument = None) -> None:
    """List the view augmenters, or show one with its settings and variants.

    \b
    Examples:
      akdtune views
      akdtune views angular
    """
    _list_components("views", name)


@app.command()
def networks(name: NameArgument = None) -> None:
    """List the networks and the signals they offer, or show one.

    \b
    Examples:
      akdtune networks
      akdtune networks 'resnet*'
      akdtune networks resnet8x4
    """
    _list_components("networks", name)


@app.command()
def data(name: NameArgument = None) -> None:
    """List the data sets, or show one with its settings.

    \b
    Examples:
      akdtune data
      akdtune data parquet
    """
    _list_components("data", name)


@app.command()
def schema() -> None:
    """Print the JSON schema of settings files, for editors that complete and check them.

    \b
    Examples:
      akdtune schema > akdtune.schema.json
      (then, as the first line of a settings file)
      # yaml-language-server: $schema=akdtune.schema.json
    """
    import json

    from akdtune import spec

    print(json.dumps(spec.json_schema(), indent=2))


@teacher_app.command("train")
def teacher_train(
    file: FileArgument,
    overrides: Overrides = None,
    train_on: Annotated[
        Literal["subset", "full"], typer.Option(help="subset leaves the validation images out, as searches need it.")
    ] = "subset",
) -> None:
    """Train the teacher of a settings file, or say where it is.

    \b
    Examples:
      akdtune teacher train cifar_angular
      akdtune teacher train cifar_angular teacher.network=resnet110 teacher.seed=1
    """
    from akdtune import spec

    study = spec.load(file, overrides or [])
    raise typer.Exit(import_module("akdtune.teacher_command").train(study, train_on))


@teacher_app.command("list")
def teacher_list() -> None:
    """List the trained teachers in the cache folder (AKDTUNE_CACHE), newest first."""
    _print_table(import_module("akdtune.teacher_command").table())


@teacher_app.command("show")
def teacher_show(
    key: Annotated[str, typer.Argument(metavar="KEY", help="From `akdtune teacher list`; its beginning is enough.")],
) -> None:
    """Show everything that is stored about one teacher, as YAML."""
    print(import_module("akdtune.teacher_command").details(key), end="")


@teacher_app.command("fill")
def teacher_fill(
    file: FileArgument,
    overrides: Overrides = None,
    variants: Annotated[
        int | None, typer.Option(min=1, help="Crops of each image, drawn at random; without it, all of them.")
    ] = None,
    train_on: Annotated[
        Literal["subset", "full"], typer.Option(help="Whose teacher and images; searches use subset.")
    ] = "subset",
) -> None:
    """Fill the teacher cache of this node before a study, which otherwise does it on the way.

    Repeating it, also with more variants, computes only what is missing; Ctrl-C loses nothing.

    \b
    Examples:
      akdtune teacher fill cifar_angular --variants 20
      akdtune teacher fill cifar_angular teacher_cache.max_mib=4096
    """
    from akdtune import spec

    study = spec.load(file, overrides or [])
    raise typer.Exit(import_module("akdtune.teacher_command").fill(study, variants, train_on))


LocationOption = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="A study's teacher_cache.location; default: in the cache folder."),
]


@cache_app.command("list")
def cache_list(location: LocationOption = None) -> None:
    """List the stores of the teacher cache, last used first: teacher, data, share of rows filled, size, age."""
    from akdtune import cache_command

    stores = cache_command.found(location)
    _print_table(cache_command.table(stores))
    print(cache_command.total(stores))


@cache_app.command("verify")
def cache_verify(
    key: Annotated[str | None, typer.Argument(metavar="[KEY]", help="From `akdtune cache list`; else all.")] = None,
    location: LocationOption = None,
) -> None:
    """Read every stored row and compare it with its check word; damaged ones are computed again when next needed.

    Trials check each row that they read, so this is for peace of mind. Exit code 1: something was damaged.
    """
    from akdtune import cache_command

    raise typer.Exit(cache_command.verify(cache_command.found(location, key)))


@cache_app.command("prune")
def cache_prune(
    key: Annotated[str | None, typer.Option(metavar="KEY", help="Only stores whose key begins so.")] = None,
    days: Annotated[float | None, typer.Option(min=0, help="Those that nobody used for so many days.")] = None,
    max_mib: Annotated[
        float | None, typer.Option(min=0, help="The longest unused ones, until the rest is this small.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Really remove; without it, only say what would go.")] = False,
    location: LocationOption = None,
) -> None:
    """Remove stores of the teacher cache. Running trials go on; what is missing is computed again.

    \b
    Examples:
      akdtune cache prune --days 30 --yes
      akdtune cache prune --max-mib 20000 --yes
      akdtune cache prune --key 3f2a --all --yes
    """
    from akdtune import cache_command

    print("\n".join(cache_command.prune(cache_command.found(location, key), days, max_mib, everything, yes)))


@wandb_app.command("sync")
def wandb_sync(run: RunArgument) -> None:
    """Upload the runs that a study wrote offline; repeating it uploads only what is new.

    Runs of attempts that a later attempt replaced are tagged `superseded`.

    \b
    Examples:
      WANDB_API_KEY=... akdtune wandb sync digits_angular
    """
    from akdtune import browse, tracking

    report = tracking.sync(browse.resolve_run(run))
    print(report.sentence())
    raise typer.Exit(1 if report.failed or report.untagged else 0)


app.add_typer(teacher_app, name="teacher")
app.add_typer(cache_app, name="cache")
app.add_typer(wandb_app, name="wandb")


if __name__ == "__main__":
    sys.exit(main())

"""Commands that begin with a settings file, or go on with one: run, retry, plan, spaces, schema."""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from akdtune import progress
from akdtune.cli import completion
from akdtune.cli.app import FileArgument, Overrides, RunArgument
from akdtune.cli.waiting import load_study, waiting
from akdtune.errors import AkdtuneError

if TYPE_CHECKING:
    from akdtune.study.spec import Study


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

    Ctrl-C (or SIGTERM, SIGHUP, SIGUSR1) stops within seconds and loses nothing; a second Ctrl-C leaves at once.
    Exit code 0: every trial ended; 1: some failed (`akdtune retry`); 2: a message says what is wrong;
    3: something outside the study has to be mended first; 130: interrupted.
    """
    from akdtune.tracking import study as tracking_study

    study = load_study(file, overrides)
    notice = tracking_study.notice(study.tracking.model_dump())
    if notice:
        print(notice, file=sys.stderr)
    root = directory or Path("runs") / study.name
    if new:
        beside = (root.with_name(f"{root.name}-{number}") for number in itertools.count(2))
        root = root if not root.exists() else next(path for path in beside if not path.exists())
    raise typer.Exit(_ran(study, root, address, extend=extend, reuse=reuse or []))


def _ran(study: Study, root: Path, address: str | None, *, extend: bool = False, reuse: Sequence[Path] = ()) -> int:
    """Runs a study; Ray starts while torch is loaded and the study is prepared."""
    from akdtune.records.files import LOCK
    from akdtune.running import supervision

    new = not (root / LOCK).exists()
    if new:
        _open(study, root)
    with supervision.leaving(), contextlib.ExitStack() as while_it_runs:
        with waiting("starting Ray, loading torch"):
            from akdtune.running import ahead, ray_start

            while_it_runs.enter_context(ahead.ray_ahead(study, root, address))
            import akdtune.planning.plan  # noqa: F401  # torch, and what needs no Ray

            ray_start.settled()  # two threads that load Ray's modules may lock each other
            from akdtune.running import driver
        return driver.run(study, root, address, extend=extend, reuse=reuse, opened=new)


def _open(study: Study, root: Path) -> None:
    """Says what a new study does, before Ray is loaded."""
    from akdtune.cli.terminal.text import columns
    from akdtune.planning.report import opening
    from akdtune.reports.fitting import fitted
    from akdtune.study.proposals import Outline

    print(fitted(opening(Outline(study), root, "new"), columns()), flush=True)
    progress.said()


def retry(
    run: RunArgument,
    trials: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TRIAL]... [KEY=VALUE]...",
            help="Failed trials, by id or its beginning; none: all. KEY=VALUE: resources and tracking for the new run.",
            show_default=False,
            autocompletion=completion.trials,
        ),
    ] = None,
    give_up: Annotated[
        bool, typer.Option("--give-up", help="End trials that wait as failed instead, so that the study goes on.")
    ] = False,
    later: Annotated[
        bool, typer.Option("--later", help="Only note it down: the study's own command then goes on with them.")
    ] = False,
    address: Annotated[
        str | None, typer.Option(metavar="ADDR", help="Join a running Ray cluster instead of starting Ray here.")
    ] = None,
) -> None:
    """Try failed trials of a study again, each from its last saved state.

    A trial fails when its own code raises the same error twice: mend a plug-in's bug, then retry. What trials meet
    outside themselves (a full disk, a teacher that is not there, no GPU memory, a killed process) only interrupts
    them: the study's own command goes on with these, and needs no retry; where it can never be mended, --give-up ends
    them, and a confirmation or ablation goes on without. Trials that are done, pruned or diverged stay as they are.

    The ledger keeps the failure and adds an event `retried`. What the search proposed, and races and pilots decided,
    while a trial counted as failed stays; what comes after learns from its result.

    \b
    Examples:
      akdtune show digits_angular --status failed
      akdtune logs digits_angular 3f2a                       (what it raised)
      akdtune retry digits_angular                           (all that failed)
      akdtune retry digits_angular 3f2a 91bc resources.cpu=2 (two of them, with more threads)
      akdtune retry digits_angular --later && akdtune run digits_angular
      akdtune retry digits_angular --give-up 77aa            (it needs more memory than this GPU has)

    Exit codes as of `akdtune run`. A name that is none of a failed trial's is refused, and nothing is retried.
    """
    from akdtune.records import run_names
    from akdtune.records.files import LOCK
    from akdtune.records.lock_file import read_lock
    from akdtune.running import retrying
    from akdtune.study import spec

    directory = run_names.resolve_run(run)
    lock = read_lock(directory)
    if lock is None:
        raise AkdtuneError(f"{directory / LOCK}: no such file; without it the study's settings are not known")
    names = [name for name in trials or [] if "=" not in name]
    overrides = [*lock.get("overrides", []), *(text for text in trials or [] if "=" in text)]
    with waiting("reading the settings"):  # before anything is noted down
        study = None if later else spec.load(str(lock.get("source")), overrides)
    chosen = retrying.give_up(directory, names) if give_up else retrying.retry(directory, names)
    if not chosen:
        none = "no trial waits" if give_up else "no trial has failed"
        print(f"{directory}: {none} (what was interrupted goes on with the study's own command)")
        return
    done = "given up" if give_up else "tried again"
    print(f"{directory}: {done}: {', '.join(record.trial_id for record in chosen)}", flush=True)
    if study is None:
        print(f"the study's own command goes on with them, at first: {lock.get('command', '')}")
        return
    raise typer.Exit(_ran(study, directory, address))


def plan(
    file: FileArgument,
    overrides: Overrides = None,
    directory: Annotated[
        Path | None,
        typer.Option("--dir", metavar="DIR", help="Study directory that has begun: what is new there, and its time."),
    ] = None,
    extend: Annotated[
        bool,
        typer.Option("--extend", help="As `akdtune run --extend`: how many trials are new.  [--dir: runs/<study>]"),
    ] = False,
    timing: Annotated[bool, typer.Option(help="Time a few real steps, for half a minute at most.")] = True,
) -> None:
    """Show what a study would do, without doing it.

    Arms, searched settings, trial and epoch counts, early-stopping rungs, missing data, checkpoints and resources at
    once; then what data and teachers say; then an estimate of time and disk from timing a few real steps of one arm of
    each kind that costs alike. Ctrl-C ends the timing with what is known by then.

    With --dir or --extend: how many trials of a study that has begun are new and how many exist, and the time of the
    new ones. What `akdtune run` refuses there is refused here with the same sentence. Nothing is written.

    \b
    Examples:
      akdtune plan search_spaces/cifar_angular.yaml
      akdtune plan digits_angular search.trials=96 scheduler.grace_period=16
      akdtune plan cifar_baselines --no-timing
      akdtune plan digits_angular confirm.top=1 'confirm.seeds=[100, 101, 102]' --extend
    """
    study = load_study(file, overrides)  # what is wrong with it is said before torch and the data are loaded
    with waiting("loading torch"):
        from akdtune.cli.planned import print_plan

    root = directory or (Path("runs") / study.name if extend else None)
    code = print_plan(study, root, extend=extend, timing=timing)
    if code:
        raise typer.Exit(code)


def rehearse(
    file: FileArgument,
    overrides: Overrides = None,
    directory: Annotated[
        Path | None,
        typer.Option("--dir", metavar="DIR", help="Keep the miniature study there.  [default: only if it fails]"),
    ] = None,
) -> None:
    """Run a whole study in miniature on this machine, to find what would fail in it.

    Every arm, phase and control, two trials each, two short epochs on a few images. Where the data set, a checkpoint
    or a GPU is not here, made-up images of the set's shape, untrained weights and the CPU stand for it, and the first
    lines say so. The best thing to do before a night on a cluster.

    \b
    Examples:
      akdtune rehearse search_spaces/cifar_angular.yaml
      akdtune rehearse imagenet_r34_r18 --dir /tmp/rehearsal

    Exit code 0: every trial ended and every analysis answered; 1: something failed; 130: interrupted.
    """
    from akdtune.running import supervision

    with waiting("loading Ray and torch"):
        from akdtune.running.rehearsal import rehearse as run_small
    with supervision.leaving():
        code = run_small(file, overrides or [], directory)
    raise typer.Exit(code)


def spaces() -> None:
    """List the packaged settings files.

    \b
    Examples:
      akdtune spaces
      akdtune run digits_angular          (a packaged name instead of a file)
    """
    from akdtune.cli.tables import Listing, print_listing
    from akdtune.cli.terminal import text
    from akdtune.folders import packaged

    found = packaged()
    about = {name: path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ") for name, path in found.items()}
    if text.columns() is None:
        print("\n".join(f"{name}\n    {about[name]}\n    {path}" for name, path in found.items()))
        return
    text.say(f"in {next(iter(found.values())).parent}:")
    print_listing(Listing(("name", "about"), list(about.items()), least={0: 30}))


def schema() -> None:
    """Print the JSON schema of settings files, for editors that complete and check them.

    \b
    Examples:
      akdtune schema > akdtune.schema.json
      (then, as the first line of a settings file)
      # yaml-language-server: $schema=akdtune.schema.json
    """
    import json

    with waiting("loading torch and the components"):
        from akdtune.study.schema import json_schema

        described = json_schema()
    print(json.dumps(described, indent=2))

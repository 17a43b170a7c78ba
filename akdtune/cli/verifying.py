"""The command `verify`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from akdtune.cli import completion
from akdtune.cli.app import RunArgument
from akdtune.progress import PLAIN_AFTER_S

if TYPE_CHECKING:
    from akdtune.verification.checks import Progress


def verify(
    run: RunArgument,
    rerun: Annotated[
        int, typer.Option(metavar="N", min=0, help="Train N finished trials again and compare them bit by bit.")
    ] = 0,
    trial: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="Train this trial again; may be repeated.", autocompletion=completion.trials),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Draws the trials of --rerun.")] = 0,
    everything: Annotated[bool, typer.Option("--all", help="Name every finding.")] = False,
) -> None:
    """Check that a study directory is what its trials wrote, also of a running study; nothing is written there.

    Accuracies are recomputed from the stored predictions and compared with every place where they stand; lock, plan,
    ledger, rows, outcomes, saved states, and data and teacher where they are at hand, by their hashes; every planned
    trial has one end, after epochs 1..n; the tables in trials.parquet and epochs.parquet are recomputed.

    \b
    Examples:
      akdtune verify digits_angular
      akdtune verify digits_angular --rerun 3              (three finished trials, chosen at random)
      akdtune verify digits_angular --trial 3f2a           (this one)

    Exit code 0: all that is at hand is right; 1: something was found, with file, trial and column; 2: it cannot be
    verified (no study, or a trial could not be trained again as it was).
    """
    from akdtune.cli.waiting import waiting
    from akdtune.records import run_names

    with waiting("loading torch"):
        from akdtune.verification import checks, report

    directory = run_names.resolve_run(run)
    with _progress() as progress:
        found = report.verify(directory, report.Asked(rerun, trial or (), seed), progress)
    print("\n".join(report.lines(directory, found, everything)))
    raise typer.Exit(checks.exit_code(found))


@contextmanager
def _progress() -> Iterator[Progress]:
    """Shows what takes long: a bar on a terminal, elsewhere a line every few seconds."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(file=sys.stderr, highlight=False, markup=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("reading")
        last = time.monotonic()

        def show(what: str, done: int, total: int) -> None:
            nonlocal last
            bar.update(task, description=what, completed=done, total=total)
            if not console.is_terminal and (now := time.monotonic()) - last > PLAIN_AFTER_S:
                last = now
                console.print(f"{what}: {done:,} of {total:,}", soft_wrap=True)

        yield show

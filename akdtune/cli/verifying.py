"""The command `verify`."""

from __future__ import annotations

from typing import Annotated

import typer

from akdtune import progress
from akdtune.cli import completion
from akdtune.cli.app import RunArgument


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
    with waiting("verifying"):
        found = report.verify(directory, report.Asked(rerun, trial or (), seed), _show)
    print("\n".join(report.lines(directory, found, everything)))
    raise typer.Exit(checks.exit_code(found))


def _show(what: str, done: int, total: int) -> None:
    """Says how far it is."""
    progress.words(lambda: f"verifying {what}: {done:,} of {total:,}")

"""Commands about single trials: trial, diff."""

from __future__ import annotations

from typing import Annotated

import typer

from akdtune.cli import completion
from akdtune.cli.app import RunArgument

NAME_HELP = "Trial id or its beginning; or a cell's name."


def trial(
    run: RunArgument,
    name: Annotated[
        str, typer.Argument(metavar="TRIAL", help=NAME_HELP, show_default=False, autocompletion=completion.trials)
    ],
) -> None:
    """Show one trial: settings, curve, decisions of early stopping, time, warnings, and how to train it again.

    Settings stand beside the centre of the trial's arm, those of a cell beside the cell that it is compared with.
    Works on a running study.

    \b
    Examples:
      akdtune trial digits_angular 3f2a
      akdtune trial digits_ablation 'weight_matched'       (a cell of one trial, by its name)
    """
    from akdtune.cli import browse
    from akdtune.records import run_names
    from akdtune.records.files import trial_directory
    from akdtune.reports.one_trial.names import one_trial
    from akdtune.reports.one_trial.text import trial_lines
    from akdtune.tracking.record import read_record

    directory = run_names.resolve_run(run)
    rows, _ = browse.read_trials(directory)
    row = one_trial(rows, name)
    runs = read_record(trial_directory(directory, str(row["trial_id"])))
    tracked = [f"{one.path} ({one.mode}, attempt {one.attempt})" for one in runs]
    print("\n".join(trial_lines(directory, row, tracked)))


def diff(
    run: RunArgument,
    a: Annotated[
        str, typer.Argument(metavar="A", help=NAME_HELP, show_default=False, autocompletion=completion.trials)
    ],
    b: Annotated[
        str, typer.Argument(metavar="B", help="Another one.", show_default=False, autocompletion=completion.trials)
    ],
) -> None:
    """Show two trials of a study, or two of its cells, beside each other.

    Trials: settings that differ, results, curves. Cells: settings that differ, results seed by seed, and the mean
    difference with its paired interval. Processor and versions where they are not the same.

    \b
    Examples:
      akdtune diff digits_angular 3f2a 91bc
      akdtune diff digits_ablation base entropy_matched
    """
    from akdtune.cli import browse
    from akdtune.records import run_names
    from akdtune.reports.one_trial.difference import difference_lines
    from akdtune.reports.one_trial.names import named

    directory = run_names.resolve_run(run)
    rows, _ = browse.read_trials(directory)
    print("\n".join(difference_lines(directory, named(rows, a), named(rows, b))))

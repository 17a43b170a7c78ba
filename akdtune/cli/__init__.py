"""The command line: arguments in, text out; and one trial trained in this process, for scripts and notebooks.

What a study is, costs or has measured is computed elsewhere. Importing this package loads nothing heavy, so that
`akdtune --help` answers at once.
"""

from __future__ import annotations

import errno
import io
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from akdtune.cli import storage_commands
from akdtune.cli.app import app, cache_app, teacher_app, wandb_app
from akdtune.cli.arguments import StudyCommand
from akdtune.cli.listing_commands import data, methods, networks, selections, views
from akdtune.cli.page_command import report
from akdtune.cli.reading_commands import analyze, best, compare, logs, show
from akdtune.cli.study_commands import plan, rehearse, retry, run, schema, spaces
from akdtune.cli.table_command import table
from akdtune.cli.trial_commands import diff, trial
from akdtune.cli.verifying import verify
from akdtune.cli.waiting import shown
from akdtune.errors import AkdtuneError, AkdtuneWarning
from akdtune.running import interruption

_STUDIES = (run, retry, plan, rehearse)
_BEFORE: tuple[Callable[..., None], ...] = (run, retry, plan, rehearse, show, best, trial, diff, report, logs)
_BEHIND: tuple[Callable[..., None], ...] = (
    compare,
    verify,
    table,
    spaces,
    methods,
    views,
    selections,
    networks,
    data,
    schema,
)
for _command in _BEFORE:
    app.command(cls=StudyCommand if _command in _STUDIES else None)(_command)
# what follows the name of an analysis belongs to the analysis
app.command(context_settings={"allow_interspersed_args": False, "ignore_unknown_options": True})(analyze)
for _command in _BEHIND:
    app.command()(_command)
teacher_app.command("train", cls=StudyCommand)(storage_commands.teacher_train)
teacher_app.command("list")(storage_commands.teacher_list)
teacher_app.command("show")(storage_commands.teacher_show)
teacher_app.command("fill", cls=StudyCommand)(storage_commands.teacher_fill)
teacher_app.command("weights")(storage_commands.teacher_weights)
cache_app.command("list")(storage_commands.cache_list)
cache_app.command("verify")(storage_commands.cache_verify)
cache_app.command("prune")(storage_commands.cache_prune)
wandb_app.command("sync")(storage_commands.wandb_sync)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code: 2 and one message for a mistake of the user's, 130 for a signal."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)  # a pipe has each line when it is known
            if stream.errors == "strict":
                stream.reconfigure(errors="backslashreplace")  # names may hold what this terminal's encoding does not
    try:
        with _plain_warnings(), interruption.exiting(), shown():
            app(args=None if arguments is None else list(arguments), prog_name="akdtune")
    except SystemExit as end:
        if end.code == interruption.INTERRUPTED and arguments is None:
            interruption.leave(end.code)  # whoever stopped it waits for no exit handlers
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except AkdtuneError as error:
        print(f"akdtune: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        print(f"akdtune: {error.filename}: a name in this path is longer than the file system takes", file=sys.stderr)
        return 2
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

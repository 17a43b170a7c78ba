"""The command line's root: the application, its groups, and what all commands share.

Importing this module loads nothing heavy, so that `akdtune --help` answers at once.
"""

from __future__ import annotations

from typing import Annotated

import typer

from akdtune import __version__
from akdtune.cli import completion
from akdtune.cli.arguments import Commands

FILE_HELP = "Settings file, or the name of a packaged one (see `akdtune spaces`)."
OVERRIDES_HELP = "key.path=value; the value is read as YAML and wins over the file."
RUN_HELP = "Study directory, or its name under runs/."

FileArgument = Annotated[
    str, typer.Argument(metavar="FILE", help=FILE_HELP, show_default=False, autocompletion=completion.studies)
]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help=OVERRIDES_HELP)]
RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help=RUN_HELP, show_default=False, autocompletion=completion.runs)
]

app = typer.Typer(
    cls=Commands,
    help="""Finds out what in a knowledge-distillation recipe works: one YAML in, a scheduled study out.

    \b
    A first study, about four minutes on two cores:
      akdtune run search_spaces/digits_angular.yaml
      akdtune show digits_angular
      akdtune analyze diversity_accuracy digits_angular
    """,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
teacher_app = typer.Typer(
    cls=Commands, help="Train and list the frozen teachers that studies share.", rich_markup_mode=None
)
cache_app = typer.Typer(
    cls=Commands, help="What frozen teachers said, kept on this node's disk.", rich_markup_mode=None
)
wandb_app = typer.Typer(cls=Commands, help="Weights & Biases runs of a study.", rich_markup_mode=None)


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


app.add_typer(teacher_app, name="teacher")
app.add_typer(cache_app, name="cache")
app.add_typer(wandb_app, name="wandb")

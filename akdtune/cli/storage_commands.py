"""Commands for what lies outside study directories: teachers, the teacher cache, offline runs of Weights & Biases."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from akdtune.cli.app import FileArgument, Overrides, RunArgument
from akdtune.cli.tables import print_listing
from akdtune.cli.waiting import load_study, waiting


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
    study = load_study(file, overrides)
    with waiting("loading torch"):
        from akdtune.cli import teachers

    raise typer.Exit(teachers.train(study, train_on))


def teacher_list() -> None:
    """List the trained teachers in the cache folder (AKDTUNE_CACHE), newest first."""
    with waiting("loading torch"):
        from akdtune.cli import teachers

    print_listing(teachers.listing())


def teacher_show(
    key: Annotated[str, typer.Argument(metavar="KEY", help="From `akdtune teacher list`; its beginning is enough.")],
) -> None:
    """Show everything that is stored about one teacher, as YAML."""
    with waiting("loading torch"):
        from akdtune.cli import teachers

    print(teachers.details(key), end="")


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
    study = load_study(file, overrides)
    with waiting("loading torch"):
        from akdtune.cli import teachers

    raise typer.Exit(teachers.fill(study, variants, train_on))


def teacher_weights(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A checkpoint that holds other objects, too.")],
    to: Annotated[Path, typer.Argument(metavar="NEW", help="The file to write; it must not be there yet.")],
) -> None:
    """Save the weights in a checkpoint alone, for teacher.checkpoint and student.checkpoint.

    For files with an argparse namespace or other objects, whole pickled modules, TorchScript programs, indexes of
    several files, and compressed ones. Objects in the file are not restored, so that nothing of it is run.

    \b
    Examples:
      akdtune teacher weights resnet8_last.pth resnet8_last_weights.pth
    """
    with waiting("loading torch"):
        from akdtune.cli import teachers

    print(teachers.save_weights(file, to))


LocationOption = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="A study's teacher_cache.location; default: in the cache folder."),
]


def cache_list(location: LocationOption = None) -> None:
    """List the stores of the teacher cache, last used first: teacher, data, share of rows filled, size, age."""
    from akdtune.cli import caches

    stores = caches.stores_in(location)
    print_listing(caches.listing(stores))
    print(caches.total(stores))


def cache_verify(
    key: Annotated[str | None, typer.Argument(metavar="[KEY]", help="From `akdtune cache list`; else all.")] = None,
    location: LocationOption = None,
) -> None:
    """Read every stored row and compare it with its check word; damaged ones are computed again when next needed.

    Trials check each row that they read, so this is for peace of mind. Exit code 1: something was damaged.
    """
    from akdtune.cli import caches

    with waiting("reading the stored rows"):
        damaged = caches.verify(caches.stores_in(location, key))
    raise typer.Exit(damaged)


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
    from akdtune.cli import caches

    print("\n".join(caches.prune(caches.stores_in(location, key), days, max_mib, everything, yes)))


def wandb_sync(run: RunArgument) -> None:
    """Upload the runs that a study wrote offline; repeating it uploads only what is new.

    A trial that left no run gets one from its stored rows. Runs of attempts that a later attempt replaced are tagged
    `superseded`. Exit code 1: something is left to do; 2: no key, or the server does not answer.

    \b
    Examples:
      WANDB_API_KEY=... akdtune wandb sync digits_angular
    """
    from akdtune.records import run_names
    from akdtune.tracking.sync import sync

    report = sync(run_names.resolve_run(run))
    print(report.sentence())
    raise typer.Exit(0 if report.complete else 1)

"""Commands that list what can be named in a study: methods, views, networks, data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from akdtune.cli.tables import Listing, print_listing

if TYPE_CHECKING:
    from akdtune.registry import Kind


LEAST = {"name": 30, "about": 48, "source": 36, "signals": 20}
"""Columns of a terminal that each column of a list has at least, before one is left out."""


def _list_components(kind: Kind, name: str | None) -> None:
    from akdtune.cli import components

    if name is not None and not components.is_pattern(name):
        print(components.details(kind, name), end="")
        return
    rows = components.rows(kind, name or "*")
    shown = [column for column in ("name", "about", "source", "signals") if any(getattr(row, column) for row in rows)]
    least = {place: LEAST[column] for place, column in enumerate(shown)}
    leave_out = [shown.index(column) for column in ("source", "signals") if column in shown]
    print_listing(Listing(shown, [[getattr(row, column) for column in shown] for row in rows], (), least, leave_out))


NameArgument = Annotated[
    str | None,
    typer.Argument(metavar="[NAME]", help="Only this one, with its settings; or all whose names match, as in 'k*'."),
]


def methods(name: NameArgument = None) -> None:
    """List the base methods, or show one: formulas, settings, where it differs from the published code.

    \b
    Examples:
      akdtune methods
      akdtune methods '*kd*'
      akdtune methods dkd
    """
    _list_components("methods", name)


def views(name: NameArgument = None) -> None:
    """List the view augmenters, or show one with its settings and variants.

    \b
    Examples:
      akdtune views
      akdtune views angular
    """
    _list_components("views", name)


def networks(name: NameArgument = None) -> None:
    """List the networks and the signals they offer, or show one.

    \b
    Examples:
      akdtune networks
      akdtune networks 'resnet*'
      akdtune networks resnet8x4
    """
    _list_components("networks", name)


def data(name: NameArgument = None) -> None:
    """List the data sets, or show one with its settings.

    \b
    Examples:
      akdtune data
      akdtune data parquet
    """
    _list_components("data", name)

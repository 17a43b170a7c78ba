"""Commands that list what can be named in a study: methods, views, networks, data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from akdtune.cli.tables import print_table

if TYPE_CHECKING:
    from akdtune.registry import Kind


def _list_components(kind: Kind, name: str | None) -> None:
    from akdtune.cli import components

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
    print_table(table)


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

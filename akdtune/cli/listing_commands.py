"""Commands that list what can be named in a study: methods, views, selections, networks, data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from akdtune.cli import completion
from akdtune.cli.tables import Listing, print_listing
from akdtune.cli.terminal.text import columns
from akdtune.reports.fitting import fitted

if TYPE_CHECKING:
    from akdtune.registry import Kind


LEAST = {"name": 30, "about": 48, "source": 36, "signals": 20}
"""Columns of a terminal that each column of a list has at least, before one is left out."""


def _list_components(kind: Kind, name: str | None, plugins: str | None) -> None:
    from akdtune.cli.waiting import waiting
    from akdtune.study.plugins import brought_by

    brought = None if plugins is None else brought_by(plugins)
    with waiting("loading torch and the components"):
        from akdtune.cli import components

        one = name if name is not None and not components.is_pattern(name) else None
        details = None if one is None else components.details(kind, one)
        only = None if brought is None else brought.names.get(kind, [])
        rows = components.rows(kind, name or "*", only) if details is None else []
    if details is not None:
        print(fitted(details, columns(), hanging=4), end="")
        return
    if brought is not None:
        print(brought.sentence(kind), flush=True)
    if not rows:
        return
    shown = [column for column in ("name", "about", "source", "signals") if any(getattr(row, column) for row in rows)]
    least = {place: LEAST[column] for place, column in enumerate(shown)}
    leave_out = [shown.index(column) for column in ("source", "signals") if column in shown]
    print_listing(Listing(shown, [[getattr(row, column) for column in shown] for row in rows], (), least, leave_out))


NAME_HELP = "Only this one, with its settings; or all whose names match, as in 'k*'."
PLUGINS_HELP = "Only what this plug-in registers: a Python file, a module, or a study with `plugins`."


def _named(complete: completion.Complete) -> Any:
    return typer.Argument(metavar="[NAME]", help=NAME_HELP, autocompletion=complete)


PluginsOption = Annotated[str | None, typer.Option("--plugins", metavar="FILE", help=PLUGINS_HELP)]


def methods(name: Annotated[str | None, _named(completion.methods)] = None, plugins: PluginsOption = None) -> None:
    """List the base methods, or show one: formulas, settings, where it differs from the published code.

    \b
    Examples:
      akdtune methods
      akdtune methods '*kd*'
      akdtune methods dkd
    """
    _list_components("methods", name, plugins)


def views(name: Annotated[str | None, _named(completion.views)] = None, plugins: PluginsOption = None) -> None:
    """List the view augmenters, or show one with its settings and variants.

    \b
    Examples:
      akdtune views
      akdtune views angular
    """
    _list_components("views", name, plugins)


def selections(
    name: Annotated[str | None, _named(completion.selections)] = None, plugins: PluginsOption = None
) -> None:
    """List the selections, which say what rows of a batch are distilled, or show one with its settings.

    \b
    Examples:
      akdtune selections
      akdtune selections gap
    """
    _list_components("selections", name, plugins)


def networks(name: Annotated[str | None, _named(completion.networks)] = None, plugins: PluginsOption = None) -> None:
    """List the networks and the signals they offer, or show one.

    \b
    Examples:
      akdtune networks
      akdtune networks 'resnet*'
      akdtune networks resnet8x4
    """
    _list_components("networks", name, plugins)


def data(name: Annotated[str | None, _named(completion.data)] = None, plugins: PluginsOption = None) -> None:
    """List the data sets, or show one with its settings.

    \b
    Examples:
      akdtune data
      akdtune data parquet
    """
    _list_components("data", name, plugins)

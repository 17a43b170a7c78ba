"""Name -> class for views, methods, networks and data sets, imported on first use.

A view or a method is one file whose name is its registered name; a network family is one file that registers
several names. `plugins: [module]` in a study imports further modules that register more.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict

from akdtune.errors import AkdtuneError, unknown_name

Kind = Literal["methods", "views", "networks", "data"]
T = TypeVar("T")

NO_NETWORK = "none"
"""As `teacher.network`: there is no teacher."""

_registered: dict[str, dict[str, Any]] = {"methods": {}, "views": {}, "networks": {}, "data": {}}
_singular = {"methods": "method", "views": "view", "networks": "network", "data": "data set"}


IdleAtZero: TypeAlias = Mapping[tuple[str, ...], tuple[str, ...]]


class ComponentSettings(BaseModel):
    """Base of every component's own typed settings: unknown keys are refused, values are fixed after creation."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    idle_at_zero: ClassVar[IdleAtZero] = {}
    """Weights, and the settings that change nothing in training while all of these are 0."""

    def idle(self) -> dict[str, str]:
        """Settings that, given the others, change nothing in training: key to reason (`weight is 0`)."""
        return {
            key: f"{' and '.join(weights)} {'is' if len(weights) == 1 else 'are'} 0"
            for weights, keys in self.idle_at_zero.items()
            if not any(getattr(self, weight) for weight in weights)
            for key in keys
        }


class NoSettings(ComponentSettings):
    """A component without settings."""


def register(name: str, kind: Kind | None = None) -> Callable[[T], T]:
    """Registers a class or builder under `name`; `kind` defaults to the class's own `kind` attribute."""

    def add(component: T) -> T:
        of = kind or getattr(component, "kind")
        known = _registered[of].get(name)
        if known is not None and known.__module__ != getattr(component, "__module__", None):
            raise AkdtuneError(
                f"{_singular[of]} '{name}' is registered twice: {known.__module__} and {component.__module__}"
            )
        _registered[of][name] = component
        return component

    return add


def lookup(kind: Kind, name: str) -> Any:
    """The component registered as `name`; imports its file on first use.

    Raises:
        AkdtuneError: for an unknown name, with the nearest valid one.
    """
    found = _registered[kind]
    if name not in found and name.isidentifier() and kind in ("methods", "views") and name in _stems(kind):
        importlib.import_module(f"akdtune.{kind}.{name}")
    if name not in found:
        _import_all(kind)
    if name not in found:
        raise AkdtuneError(unknown_name(_singular[kind], name, found))
    return found[name]


def names(kind: Kind) -> list[str]:
    """Every registered name of a kind, sorted; imports all files of that kind."""
    _import_all(kind)
    return sorted(_registered[kind])


def load_plugins(modules: Iterable[str], folders: Iterable[str] = ()) -> None:
    """Imports the modules named under `plugins`, so that what they register can be used.

    Args:
        modules: importable names.
        folders: where to look besides the installed packages, e.g. the folder of the settings file.

    Raises:
        AkdtuneError: naming the module that cannot be imported.
    """
    modules = list(modules)
    if modules:
        sys.path.extend(folder for folder in folders if folder not in sys.path)
    for module in modules:
        try:
            importlib.import_module(module)
        except (ImportError, AkdtuneError) as error:
            raise AkdtuneError(f"plugins: cannot import '{module}': {error}") from error
        except (Exception, SystemExit) as error:  # whatever a user's own file does when it is imported
            reason = f"{type(error).__name__}: {error}"
            raise AkdtuneError(f"plugins: cannot import '{module}': {reason}{_raised_in(error)}") from error


def _raised_in(error: BaseException) -> str:
    """The file and line that raised an error; empty where Python itself did, before any file was read."""
    frames = traceback.extract_tb(error.__traceback__)
    inside = not isinstance(error, SyntaxError) and frames and not frames[-1].filename.startswith("<")
    return f" ({frames[-1].filename}:{frames[-1].lineno})" if inside else ""


def plugin_folders(modules: Iterable[str]) -> list[str]:
    """The folders that imported plugins were found in, for processes whose search path is another."""
    found = []
    for module in modules:
        file = getattr(sys.modules[module], "__file__", None)
        if file:
            depth = module.count(".") + (Path(file).stem == "__init__")
            found.append(str(Path(file).resolve().parents[depth]))
    return list(dict.fromkeys(found))


def _stems(kind: str) -> list[str]:
    package = importlib.import_module(f"akdtune.{kind}")
    return [module.name for module in pkgutil.iter_modules(package.__path__)]


def _import_all(kind: Kind) -> None:
    if kind == "data":
        importlib.import_module("akdtune.data")
        return
    for stem in _stems(kind):
        importlib.import_module(f"akdtune.{kind}.{stem}")


@dataclass(frozen=True)
class Pair:
    """What published settings depend on: names of the data set and of both networks (no teacher: None)."""

    data: str
    teacher: str | None
    student: str


class Component:
    """What every registered class offers besides its contract.

    Its docstring is what `akdtune methods NAME` (views, networks, data) shows: the first line in the list, `Terms:`
    with the formulas, and `Differs:` with every point where it departs from the published code or paper.

    Class attributes:
        source: the paper the formulas come from: authors, venue and year, arXiv or OpenReview number, and for a
            reconstruction without a published formula the word `reconstruction`.
    """

    kind: ClassVar[Kind]
    Settings: ClassVar[type[ComponentSettings]] = NoSettings
    source: ClassVar[str] = ""

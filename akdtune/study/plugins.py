"""What plug-ins bring: those of a study, of a file, or of a module, looked at without running anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from akdtune.errors import AkdtuneError, Problem, SettingsError
from akdtune.folders import packaged
from akdtune.registry import KINDS, Component, Kind, load_plugins, lookup, names
from akdtune.settings.file import SettingsFile, shown
from akdtune.study import taking_over

_PLURAL: dict[Kind, str] = {
    "methods": "methods", "views": "views", "networks": "networks", "data": "data sets", "selections": "selections",
}  # fmt: skip
_SINGULAR: dict[Kind, str] = {
    "methods": "method", "views": "views", "networks": "network", "data": "data set", "selections": "selection",
}  # fmt: skip


@dataclass(frozen=True)
class Brought:
    """What some plug-ins register.

    Attributes:
        source: what was asked for, as it was written.
        names: by kind.
    """

    source: str
    names: dict[Kind, list[str]]

    def sentence(self, kind: Kind) -> str:
        """What of one kind is there, and which other kinds are."""
        count = len(self.names.get(kind, []))
        here = f"{self.source} registers {count} {_SINGULAR[kind] if count == 1 else _PLURAL[kind]}" if count else ""
        others = "; ".join(f"{other}: {', '.join(known)}" for other, known in self.names.items() if other != kind)
        if here:
            return f"{here} (and {others})" if others else here
        return f"{self.source} registers no {_PLURAL[kind]}" + (f", but {others}" if others else " and nothing else")


def folders_of(file: SettingsFile) -> list[str]:
    """Where the plug-ins of a study are looked for besides the installed packages, the working directory first."""
    files = (Path(file.name).expanduser(), *(path for path, _ in file.bases))
    return [str(Path.cwd()), *(str(path.absolute().parent) for path in files)]


def module_names(value: Any) -> list[str]:
    """The modules that a study names under `plugins`.

    Raises:
        AkdtuneError: for anything but names.
    """
    modules = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(modules, list) or not all(isinstance(module, str) for module in modules):
        raise AkdtuneError(f"must be a list of module names, got {shown(value)}")
    return modules


def brought_by(source: str) -> Brought:
    """Imports plug-ins and says what they register.

    Args:
        source: a Python file, the name of a module, a settings file, or the name of a packaged study.

    Raises:
        SettingsError: with every plug-in that cannot be imported, and every component that lacks what is needed.
    """
    modules, folders, place = _asked_for(source)
    problems = []
    for module in modules:
        try:
            load_plugins([module], folders)
        except AkdtuneError as error:
            problems.append(Problem("plugins", str(error).removeprefix("plugins: "), place.line, place.file))
    found: dict[Kind, list[str]] = {}
    for kind in KINDS:
        if of_kind := [name for name in names(kind) if _is_of(lookup(kind, name), modules)]:
            found[kind] = of_kind
            lacking = ((name, _lacks(kind, name)) for name in of_kind)
            problems += [Problem(f"{_SINGULAR[kind]} {name}", why, None, place.file) for name, why in lacking if why]
    if problems:
        raise SettingsError(problems)
    return Brought(source, found)


def _asked_for(source: str) -> tuple[Sequence[str], list[str], Problem]:
    """The modules, where they are looked for, and where they are named."""
    path = Path(source).expanduser()
    nowhere = Problem("plugins", "", None, source)
    if path.suffix == ".py" or path.is_dir():
        if not path.exists():
            raise AkdtuneError(f"{source}: there is no such file")
        return [path.stem], [str(path.absolute().parent)], nowhere
    if not path.exists() and path.suffix not in (".yaml", ".yml") and source not in packaged():
        return [source], [str(Path.cwd())], nowhere
    file = taking_over.read_file(source)
    place = file.problem(("plugins",), "")
    try:
        modules = module_names(file.values.get("plugins"))
    except AkdtuneError as error:
        raise SettingsError([Problem("plugins", str(error), place.line, place.file)]) from None
    if not modules:
        raise AkdtuneError(f"{source}: names no plug-ins (`plugins: [my_module]`)")
    return modules, folders_of(file), place


def _is_of(component: Any, modules: Sequence[str]) -> bool:
    """Whether a component was written in one of some modules, or in a module of theirs."""
    home = str(getattr(component, "__module__", ""))
    return any(home == module or home.startswith(f"{module}.") for module in modules)


def _lacks(kind: Kind, name: str) -> str | None:
    """What a component of a plug-in lacks to be used; None where nothing does."""
    component = lookup(kind, name)
    if not (isinstance(component, type) and issubclass(component, Component)):
        return f"{component!r} is no class of the contract (docs/components.md)"
    if component.kind != kind:
        return f"is registered among {kind}, but is one of the {component.kind}"
    return None

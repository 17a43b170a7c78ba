"""Name -> class for views, methods, selections, networks, data sets, loggers and tasks, imported on first use.

A view, a method, a selection, a logger or a task is one file whose name is its registered name; a network family is one
file that registers several names. `plugins: [module]` in a study imports further modules that register more, and
installed packages bring theirs by entry points of the group `akdtune.plugins`.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.metadata
import os
import pkgutil
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from akdtune.errors import AkdtuneError, AkdtuneWarning, Problem, SettingsError, unknown_name

Kind = Literal["methods", "views", "networks", "data", "loggers", "tasks", "selections"]
T = TypeVar("T")

NO_NETWORK = "none"
"""As `teacher.network`: there is no teacher."""

ENTRY_POINTS = "akdtune.plugins"
"""The group of entry points under which installed packages name the modules that register their components."""

KINDS: tuple[Kind, ...] = ("methods", "views", "networks", "data", "loggers", "tasks", "selections")

_registered: dict[str, dict[str, Any]] = {kind: {} for kind in KINDS}
_families: dict[str, dict[str, Family]] = {kind: {} for kind in KINDS}
_PACKAGES: dict[Kind, str] = {
    "methods": "methods", "views": "views", "networks": "networks", "data": "datasets", "loggers": "tracking.loggers",
    "tasks": "tasks", "selections": "selections",
}  # fmt: skip
_ONE_FILE_EACH = ("methods", "views", "loggers", "tasks", "selections")
_singular = {
    "methods": "method", "views": "view", "networks": "network", "data": "data set", "loggers": "logger",
    "tasks": "task", "selections": "selection",
}  # fmt: skip


@dataclass
class _AddOns:
    """What became of the installed add-ons in this process.

    Attributes:
        looked_for: whether they were imported already.
        versions: of the packages whose add-ons are in use.
        failures: which are left out, and why.
        warned: how many of the failures the user was warned of.
    """

    looked_for: bool = False
    versions: dict[str, str] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    warned: int = 0


_add_ons = _AddOns()

_MUST_BE = "Input should be "
"""What pydantic's messages about a value begin with."""


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
    """Registers a class or builder under `name`; `kind` defaults to the class's own `kind` attribute.

    Raises:
        AkdtuneError: for a name that is taken, by akdtune itself or by another module.
    """

    def add(component: T) -> T:
        of: Kind = kind or getattr(component, "kind")
        if not _is_ours(component):
            _import_all(of)  # our own names are taken, whether used yet or not
        known = _registered[of].get(name)
        if known is not None and known.__module__ != getattr(component, "__module__", None):
            raise AkdtuneError(
                f"{_singular[of]} '{name}' is registered twice: {known.__module__} and {component.__module__}"
            )
        _registered[of][name] = component
        return component

    return add


@dataclass(frozen=True)
class Family:
    """Components of another library, under names that begin with its own and a slash.

    Attributes:
        make: the component for the rest of a name.
        names: every such rest.
        source: as of a component.
    """

    make: Callable[[str], Any]
    names: Callable[[], Iterable[str]]
    source: str


def register_family(name: str, kind: Kind, family: Family) -> None:
    """Registers the components of another library, such as `timm`."""
    _families[kind][name] = family


def families(kind: Kind) -> dict[str, Family]:
    """Libraries whose components are used by their names there, as in `timm/resnet18`."""
    _import_all(kind)
    return dict(sorted(_families[kind].items()))


def lookup(kind: Kind, name: str) -> Any:
    """The component registered as `name`; imports its file on first use.

    Raises:
        AkdtuneError: for an unknown name, with the nearest valid one and the add-ons that could not be loaded.
    """
    components = _registered[kind]
    if name not in components and name.isidentifier() and kind in _ONE_FILE_EACH and name in _stems(kind):
        importlib.import_module(f"akdtune.{_PACKAGES[kind]}.{name}")
    if name not in components:
        _import_all(kind)
    family, slash, rest = name.partition("/")
    if name not in components and slash and family in _families[kind]:
        return _families[kind][family].make(rest)
    if name not in components:
        _load_add_ons()
    if name not in components:
        known = [*components, *(f"{other}/NAME" for other in _families[kind])]
        raise AkdtuneError("\n".join([unknown_name(_singular[kind], name, known), *_add_ons.failures]))
    _warn_of_failures()
    return components[name]


def names(kind: Kind) -> list[str]:
    """Every registered name of a kind, sorted; imports all files of that kind, and the installed add-ons."""
    _import_all(kind)
    _load_add_ons()
    _warn_of_failures()
    return sorted(_registered[kind])


def add_on_versions() -> dict[str, str]:
    """Version of each installed package that has brought components into this process, by its name."""
    return dict(_add_ons.versions)


def name_of(component: type[Component]) -> str:
    """The name under which a class is registered; the name of the class itself where it is not."""
    registered = _registered[component.kind].items()
    return next((name for name, known in registered if known is component), component.__name__)


def network_name(network: str | Mapping[str, Any]) -> str:
    """The registered name in a `network` setting, which is a name or `{name: ..., settings}`; empty for none."""
    return network if isinstance(network, str) else str(network.get("name", ""))


def typed(kind: Kind, setting: str | Mapping[str, Any]) -> ComponentSettings:
    """The settings of the component that a setting names: a name, or `{name: ..., settings}`.

    Raises:
        AkdtuneError: for an unknown name.
        pydantic.ValidationError: for settings that do not fit.
    """
    name = setting if isinstance(setting, str) else str(setting["name"])
    values = {} if isinstance(setting, str) else {key: value for key, value in setting.items() if key != "name"}
    settings: ComponentSettings = lookup(kind, name).Settings(**values)
    return settings


def may_draw(kind: Kind, name: str, settings: ComponentSettings) -> bool:
    """Whether views or a method draw random numbers in training; a plug-in's may, as it need not say so."""
    component = lookup(kind, name)
    return not _is_ours(component) or bool(component.draws(settings))


def settings_given(component: type[Component], given: Mapping[str, Any]) -> ComponentSettings:
    """The settings of a component as given in Python, by keyword.

    Raises:
        SettingsError: for unknown settings, with the nearest ones, and for values that do not fit.
    """
    try:
        return component.Settings(**given)
    except ValidationError as error:
        of, allowed = f"{_singular[component.kind]} {name_of(component)}", component.Settings.model_fields
        messages: dict[str, list[str]] = {}
        for detail in error.errors(include_url=False):
            key = str(detail["loc"][0]) if detail["loc"] else ""  # what follows names members of a union
            messages.setdefault(key, []).append(detail["msg"])
        problems = [
            Problem(f"{of}.{key}" if key else of, _said(texts, given[key]) if key else _said(texts))
            if not key or key in allowed
            else Problem(f"{of}.{key}", unknown_name("setting", key, allowed))
            for key, texts in messages.items()
        ]
        raise SettingsError(problems) from error


def _said(messages: Sequence[str], *got: Any) -> str:
    """What pydantic says about a value, in the words of a settings file, and the value."""
    options = [message.removeprefix(_MUST_BE) for message in messages if message.startswith(_MUST_BE)]
    said = [message.removeprefix("Value error, ") for message in messages if not message.startswith(_MUST_BE)]
    wanted = [f"must be {' or '.join(options)}"] if options else []
    return ", ".join([*said, *wanted, *(f"got {value!r}" for value in got)])


@contextmanager
def kept() -> Iterator[None]:
    """Puts the registry back as it was, whatever is registered or removed inside; add-ons are looked for anew."""
    global _add_ons
    for kind in KINDS:
        _import_all(kind)  # a module that is imported inside for the first time would not register again
    components, add_ons = {kind: dict(_registered[kind]) for kind in KINDS}, _add_ons
    _add_ons = _AddOns()
    try:
        yield
    finally:
        for kind, of_kind in components.items():
            _registered[kind].clear()
            _registered[kind].update(of_kind)
        _add_ons = add_ons


def _load_add_ons() -> None:
    """Imports what installed packages name under `akdtune.plugins`, once in a process; their order is that of names.

    An add-on that fails is left out, as a study that does not use it must go on; a study that does is refused by
    `lookup`, which says why.
    """
    if _add_ons.looked_for:
        return
    _add_ons.looked_for = True
    for entry_point in sorted(importlib.metadata.entry_points(group=ENTRY_POINTS), key=lambda point: point.name):
        before = {kind: set(_registered[kind]) for kind in KINDS}
        try:
            entry_point.load()
        except (Exception, SystemExit) as error:  # whatever a package's own code does when it is imported
            _forget(before)
            _add_ons.failures.append(_left_out(entry_point, error))
        else:
            if entry_point.dist is not None:
                _add_ons.versions[entry_point.dist.name] = entry_point.dist.version


def _forget(before: Mapping[Kind, set[str]]) -> None:
    """Removes what others registered since; what is ours stays, as its files are not imported a second time."""
    for kind, known in before.items():
        for name in _registered[kind].keys() - known:
            if not _is_ours(_registered[kind][name]):
                del _registered[kind][name]


def _is_ours(component: Any) -> bool:
    return str(getattr(component, "__module__", "")).startswith("akdtune.")


def _warn_of_failures() -> None:
    """Says once in a process which add-ons are left out."""
    fresh = _add_ons.failures[_add_ons.warned :]
    _add_ons.warned = len(_add_ons.failures)
    for failure in fresh:
        warnings.warn(failure, AkdtuneWarning, stacklevel=3)


def _left_out(entry_point: importlib.metadata.EntryPoint, error: BaseException) -> str:
    """Which add-on is left out, why, where it failed, and how to get rid of it."""
    package = "an installed package" if entry_point.dist is None else entry_point.dist.name
    version = "" if entry_point.dist is None else f" {entry_point.dist.version}"
    kind = "" if isinstance(error, AkdtuneError) else f"{type(error).__name__}: "
    remedy = "" if entry_point.dist is None else f"; update it, or remove it with `pip uninstall {package}`"
    return (
        f"add-on {package}{version} is left out: its entry point '{entry_point.name} = {entry_point.value}' of "
        f"{ENTRY_POINTS} cannot be loaded: {kind}{error}{_raised_in(error)}{remedy}"
    )


BROUGHT = "AKDTUNE_BROUGHT"
"""Set in workers of a cluster that akdtune and the plug-ins were brought to: these are found by their names alone."""


def load_plugins(modules: Iterable[str], folders: Iterable[str] = ()) -> None:
    """Imports the modules named under `plugins`, so that what they register can be used.

    Args:
        modules: importable names.
        folders: where to look besides the installed packages, e.g. the folder of the settings file.

    Raises:
        AkdtuneError: naming the module that cannot be imported, or that is another one, too.
    """
    modules, folders = list(dict.fromkeys(modules)), list(folders)
    brought = BROUGHT in os.environ
    for module in modules if not brought else ():
        _refuse_misnamed(module, folders)
    if modules and not brought:
        sys.path.extend(folder for folder in folders if folder not in sys.path)
        importlib.invalidate_caches()  # a file may have been written since its folder was last looked into
    for module in modules:
        try:
            importlib.import_module(module)
        except (ImportError, AkdtuneError) as error:
            place = "" if isinstance(error, SyntaxError) else _raised_in(error)
            raise AkdtuneError(f"plugins: cannot import '{module}': {error}{place}") from error
        except (Exception, SystemExit) as error:  # whatever a user's own file does when it is imported
            reason = f"{type(error).__name__}: {error}"
            raise AkdtuneError(f"plugins: cannot import '{module}': {reason}{_raised_in(error)}") from error


def _refuse_misnamed(module: str, folders: Sequence[str]) -> None:
    """Refuses a plug-in that is no module's name, and one whose name means another module as well.

    Raises:
        AkdtuneError: naming the files.
    """
    if not all(part.isidentifier() for part in module.split(".")) or module.endswith(".py"):
        stem = module.replace("\\", "/").rpartition("/")[2].removesuffix(".py")
        hint = f", write {stem}" if stem.isidentifier() else ""
        raise AkdtuneError(
            f"plugins: '{module}' is not the name of a module{hint}: a plug-in is found by its name beside the "
            "settings file, in the working directory or among the installed packages"
        )
    top = module.partition(".")[0]
    beside = [file for folder in folders if (file := _module_file(top, [folder]))]
    if top in sys.stdlib_module_names or top == "test":  # which Python does not list
        other = f", so that {beside[0]} needs another name" if beside else ""
        raise AkdtuneError(f"plugins: '{module}' is a module of Python itself{other}")
    elsewhere = [
        path for path in sys.path if str(Path(path).resolve()) not in {str(Path(f).resolve()) for f in folders}
    ]
    imported = getattr(sys.modules.get(top), "__file__", None)
    files = dict.fromkeys(
        [*beside, *filter(None, [_module_file(top, elsewhere), imported and str(Path(imported).resolve())])]
    )
    if len(files) > 1:
        one, other, *_ = files
        raise AkdtuneError(f"plugins: '{module}' is {one} and {other}; give the plug-in another name")


def _module_file(name: str, folders: Sequence[str]) -> str | None:
    """The file of a module or package that these folders hold first; None without one, or for a bare folder."""
    spec = importlib.machinery.PathFinder.find_spec(name, list(folders))
    return None if spec is None or not spec.has_location or spec.origin is None else str(Path(spec.origin).resolve())


def _raised_in(error: BaseException) -> str:
    """The file and line that raised an error; empty where Python itself did, before any file was read."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
    inside = not isinstance(error, SyntaxError) and frames and not frames[-1].filename.startswith("<")
    return f" ({frames[-1].filename}:{frames[-1].lineno})" if inside else ""


def plugin_files(modules: Iterable[str]) -> list[str]:
    """The file or folder of each imported plug-in's top-level module, as Ray brings it to other machines."""
    tops = (sys.modules[module.partition(".")[0]] for module in modules)
    files = [Path(top.__file__).resolve() for top in tops if top.__file__]
    return list(dict.fromkeys(str(file.parent if file.stem == "__init__" else file) for file in files))


def plugin_folders(modules: Iterable[str]) -> list[str]:
    """The folders that imported plugins were found in, for processes whose search path is another."""
    folders = []
    for module in modules:
        file = getattr(sys.modules[module], "__file__", None)
        if file:
            depth = module.count(".") + (Path(file).stem == "__init__")
            folders.append(str(Path(file).resolve().parents[depth]))
    return list(dict.fromkeys(folders))


def _stems(kind: Kind) -> list[str]:
    package = importlib.import_module(f"akdtune.{_PACKAGES[kind]}")
    return [module.name for module in pkgutil.iter_modules(package.__path__)]


def _import_all(kind: Kind) -> None:
    for stem in _stems(kind):
        importlib.import_module(f"akdtune.{_PACKAGES[kind]}.{stem}")


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

    @classmethod
    def draws(cls, settings: ComponentSettings) -> bool:
        """Whether, with these settings, it draws from a batch's generator while a student trains."""
        return False

"""A settings file with the file that it takes over (`base: FILE`), and that one's: read, and merged into one."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from akdtune.errors import Problem, SettingsError, nearest
from akdtune.folders import packaged
from akdtune.settings import yaml_text
from akdtune.settings.file import BASE, COMPONENTS, DOMAINS, KeyPath, SettingsFile, shown
from akdtune.study import paths

LONGEST_CHAIN = 10
"""Files that take each other over."""

_OWN = ("study", BASE)
"""Keys that say something about one file, and are not taken over."""

_NAMED = (("ablation", "factors"), ("ablation", "arms"), ("probe", "fixed"))
"""Mappings whose keys a user chooses: null there takes an entry away."""


def read_file(source: str) -> SettingsFile:
    """Reads a settings file and whatever it takes over, merged.

    Args:
        source: path of a file, or the name of a packaged study.

    Raises:
        SettingsError: for a file that is not there or no YAML mapping, and for files that take each other over in a
            circle.
    """
    return _read(locate(source), source, [])


def locate(source: str) -> Path:
    """The file that a path or a packaged name stands for.

    Raises:
        SettingsError: when there is none; names the nearest.
    """
    try:
        path = Path(source).expanduser()
        if path.exists() and not (path.is_dir() and source in packaged()):  # a folder of runs is no settings file
            return path
    except (OSError, ValueError, RuntimeError) as error:  # names that no file has: too long, of no user
        raise SettingsError([Problem(shown(source), f"no file has this name: {error}")]) from None
    known = packaged()
    if source in known:
        return known[source]
    raise SettingsError([Problem(source, _nearest_file(path, source))])


def _nearest_file(path: Path, source: str) -> str:
    """That a file is not there, with the nearest one."""
    known = packaged()
    beside = [neighbour.name for neighbour in sorted(path.parent.glob("*.y*ml"))]
    if close := nearest(path.name, beside):
        hint = f"; did you mean '{Path(source).with_name(close)}'?"
    elif close := path.stem if path.stem in known else nearest(path.stem, known):
        hint = f"; did you mean the packaged '{close}'?"
    elif "=" in source:
        hint = "; the settings file stands first, overrides behind it"
    else:
        hint = f" (packaged: {', '.join(known)})"
    return f"there is no such file{hint}"


def _read(path: Path, name: str, above: list[tuple[Path, str]]) -> SettingsFile:
    file = yaml_text.read(path, name)
    if BASE not in file.values:
        return file
    problem = file.problem((BASE,), "")
    given = file.values.pop(BASE)
    chain = [*above, (_resolved(path), name)]
    if given is None:
        return file
    try:
        base, shown_as = _base_of(given, path, name)
        if _resolved(base) in (known for known, _ in chain):
            files = " -> ".join([*(of for _, of in chain), shown_as])
            raise ValueError(f"goes round in a circle: {files}")
        if len(chain) == LONGEST_CHAIN:
            raise ValueError(f"is one of more than {LONGEST_CHAIN} files that take each other over")
    except ValueError as error:
        raise SettingsError([*file.problems, Problem(BASE, str(error), problem.line, problem.file)]) from None
    below = _read(base, shown_as, chain)
    _merge(file, below)
    file.bases = [(base, shown_as), *below.bases]
    return file


def _base_of(given: Any, path: Path, name: str) -> tuple[Path, str]:
    """The file that `base` names, and what messages call it.

    Raises:
        ValueError: when it names none.
    """
    if not isinstance(given, str) or not given.strip():
        raise ValueError(f"must be the name of one file, or of a packaged study, got {shown(given)}")
    base = Path(paths.absolute(given, str(path.absolute().parent)))
    if given in packaged() and (base.is_dir() or not base.exists()):
        return packaged()[given], given
    as_named = str(Path(name).parent / given) if name not in packaged() else given
    if base.is_dir():
        raise ValueError(f"{as_named} is a folder, not a YAML file")
    if not base.exists():
        raise ValueError(f"{as_named}: {_nearest_file(base, given)}")
    return base, as_named


def _resolved(path: Path) -> Path:
    return path.expanduser().resolve()


def _merge(file: SettingsFile, below: SettingsFile) -> None:
    """Puts a file on top of the one that it takes over; where both have a value, the file's own stands."""
    replaced: list[KeyPath] = [(key,) for key in _OWN]
    taken = {key: value for key, value in below.values.items() if key not in _OWN}
    file.values = _over(taken, file.values, (), replaced)

    def stays(path: KeyPath) -> bool:
        return bool(path) and not any(path[: len(gone)] == gone for gone in replaced)

    own = dict(file.places)
    file.places = {path: place for path, place in below.places.items() if stays(path)} | own
    file.problems = [*below.problems, *file.problems]
    file.refused |= {path for path in below.refused if stays(path)}


def _over(below: Any, value: Any, path: KeyPath, replaced: list[KeyPath]) -> Any:
    """A value on top of that of another file: mappings are merged, all else replaces what is below."""
    is_component = bool(path) and path[-1] in COMPONENTS
    if is_component and isinstance(below, str) and isinstance(value, dict):
        below = {"name": below}
    if not isinstance(below, dict) or not isinstance(value, dict) or _is_domain(below) or _is_domain(value):
        replaced.append(path)
        return value
    if is_component and value.get("name", below.get("name")) != below.get("name"):  # settings of another component
        replaced.append(path)
        return value
    merged = copy.copy(below)
    for key, item in value.items():
        if item is None and path in _NAMED:
            merged.pop(key, None)
            replaced.append((*path, key))
        else:
            merged[key] = _over(below[key], item, (*path, key), replaced) if key in below else item
    return merged


def _is_domain(value: dict[str, Any]) -> bool:
    return any(key in DOMAINS for key in value)

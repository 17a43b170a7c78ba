"""Paths of a settings file, made absolute."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from akdtune.registry import NO_NETWORK
from akdtune.settings.domains import Issue
from akdtune.settings.file import KeyPath, choice_key

_VARIABLE = re.compile(r"\$(\w+|\{[^}]*\})")
_NO_PATHS = ("auto", "pretrained")
"""Words that may stand where a checkpoint's path does."""

_Place = tuple[KeyPath, Any, Any, str | None]
"""A path of the file: its key path, what holds it under which key, what it is relative to (None: left relative)."""


def make_paths_absolute(values: dict[str, Any]) -> list[Issue]:
    """Workers run elsewhere: `~`, `$VARIABLES` and relative paths are resolved here, against the working directory.

    Returns:
        What is wrong, by key path: variables that are not set, homes of nobody.
    """
    if values.get("teacher") == NO_NETWORK:
        values["teacher"] = {"network": NO_NETWORK}
    issues: list[Issue] = []
    for path, holder, key, base in _paths(values):
        try:
            resolved = absolute(holder[key], base) if base is not None else str(_expanded(holder[key]))
            if path != ("data", "root") or not _of_a_node(holder[key]):
                holder[key] = resolved
        except ValueError as error:
            issues.append((path, str(error)))
    return issues


def absolute(path: str, base: str = ".") -> str:
    """A path that means the same everywhere.

    Args:
        path: as written; empty stays empty.
        base: what it is relative to, where it is relative.

    Raises:
        ValueError: for a variable that is not set, or the home of a user that does not exist.
    """
    return str((Path.cwd() / base / _expanded(path, base)).absolute()) if path else path


def _expanded(path: str, base: str = ".") -> Path:
    """A path with `~` and variables resolved; a `$` in the name of something that is there stays."""
    if path.startswith("~"):
        try:
            path = str(Path(path).expanduser())
        except RuntimeError as error:
            raise ValueError(f"'{path}' names the home of a user that this machine does not know") from error
    if not _VARIABLE.search(path) or _is_there(Path(base) / path):
        return Path(path)
    expanded = os.path.expandvars(path)
    if unset := [found.group() for found in _VARIABLE.finditer(path) if _value(found) is None]:
        raise ValueError(f"'{path}': the variable {unset[0]} is not set")
    return Path(expanded).expanduser()


def _of_a_node(root: str) -> bool:
    """Whether a data folder begins with a variable, as each node of a cluster resolves it."""
    return root.startswith("$") and not _is_there(Path(root))


def _is_there(path: Path) -> bool:
    try:
        return path.is_symlink() or path.exists()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _value(found: re.Match[str]) -> str | None:
    return os.environ.get(found.group(1).strip("{}"))


def _paths(values: dict[str, Any]) -> Iterator[_Place]:
    """Every path of a file; of changes to a study only `~` and variables are resolved, as they stand in locks."""
    of_sections = (("teacher", "."), ("student", "."), ("search", "."), ("probe", None), ("ablation", None))
    for section, base in of_sections:
        yield from _checkpoints(values.get(section), (section,), base)
    cache = values.get("teacher_cache")
    if isinstance(cache, dict):
        for key in ("location", "seed_from"):
            if isinstance(cache.get(key), str) and not cache[key].startswith("$"):  # each node's own to resolve
                yield ("teacher_cache", key), cache, key, "."
    data = values.get("data")
    if not isinstance(data, dict):
        return
    root = data.get("root")
    if isinstance(root, str):
        yield ("data", "root"), data, "root", "."
    for key in ("train", "test"):
        base = data["root"] if isinstance(root, str) else "."  # absolute by now
        yield from _texts(data, key, ("data", key), None if isinstance(root, str) and _of_a_node(root) else base)


def _checkpoints(node: Any, path: KeyPath, base: str | None) -> Iterator[_Place]:
    """Whatever stands under a key `checkpoint`, at any depth: of teachers in teachers, in choices, in arms."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in list(items):
        if isinstance(key, str) and key.rpartition(".")[2] == "checkpoint":
            yield from _texts(node, key, (*path, key), base)
        else:
            yield from _checkpoints(value, (*path, key), base)


def _texts(holder: Any, key: Any, path: KeyPath, base: str | None) -> Iterator[_Place]:
    """The paths that stand under a key: one, a list, a choice, or the `path` of a mapping."""
    value = holder[key] if isinstance(holder, list) else holder.get(key)
    options = choice_key(value)
    if isinstance(value, str):
        if value not in _NO_PATHS or path[0] == "data":
            yield path, holder, key, base
    elif isinstance(value, list):
        for index in range(len(value)):
            yield from _texts(value, index, (*path, index), base)
    elif options is not None:
        yield from _texts(value, options, (*path, options), base)
    elif isinstance(value, dict) and isinstance(value.get("path"), str):
        yield from _texts(value, "path", (*path, "path"), base)

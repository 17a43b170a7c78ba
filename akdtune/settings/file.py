"""A settings file as plain values, and where each of them stands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

from akdtune.errors import Problem
from akdtune.registry import Kind

KeyPath: TypeAlias = "tuple[str | int, ...]"

COMMAND_LINE = "command line"
BASE = "base"
"""The key by which a file takes another over."""

DOMAINS = ("choice", "grid", "uniform", "log_uniform", "int_uniform", "log_int_uniform", "quantized_uniform")
COMPONENTS: dict[str, Kind] = {"views": "views", "method": "methods", "selection": "selections", "network": "networks"}
"""Keys whose value is a component: a name, or a mapping with `name` and the component's own settings."""


@dataclass
class SettingsFile:
    """The values of one file and the line of each.

    Attributes:
        name: the file as the user wrote it.
        values: plain mappings, lists and scalars; domains are still mappings.
        places: file and line of every key path, list items included.
        problems: what was wrong while reading; the rest is usable.
        refused: paths of values that were wrong while reading and stand as None.
        bases: the files whose values these are besides, and what messages call them, the nearest first.
    """

    name: str
    values: dict[str, Any] = field(default_factory=dict)
    places: dict[KeyPath, tuple[str, int | None]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    refused: set[KeyPath] = field(default_factory=set)
    bases: list[tuple[Path, str]] = field(default_factory=list)

    def problem(self, path: KeyPath, message: str) -> Problem:
        """A problem at a key path, placed at the closest line that is known."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.places:
                return Problem(written(path), message).at(*self.places[path[:length]])
        return Problem(written(path), message).at(self.name, None)

    def set(self, path: KeyPath, value: Any) -> None:
        """Puts a value from the command line at a key path; mappings on the way are made where there are none."""
        container: Any = self.values
        for key, following in pairwise(path):
            below = container[key] if isinstance(key, int) else container.get(key)
            if isinstance(below, str) and isinstance(following, str):
                container[key] = {"name": below}
            elif below is None:
                container[key] = {}
            container = container[key]
        container[path[-1]] = value
        self.places = {known: place for known, place in self.places.items() if known[: len(path)] != path}
        self.places[path] = (COMMAND_LINE, None)


def written(path: KeyPath) -> str:
    """A key path as text: `method.choice[1].beta`."""
    text = ""
    for key in path:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else str(key)
    return text


def related(path: KeyPath, other: KeyPath) -> bool:
    """Whether one of two key paths leads to the other."""
    return path[: len(other)] == other or other[: len(path)] == path


def shown(value: Any, limit: int = 60) -> str:
    """A value as a message shows it: text in quotes, YAML's own words for null and truth, long ones shortened."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, Mapping):
        text = "{" + ", ".join(f"{key}: {shown(item)}" for key, item in value.items()) + "}"
    elif isinstance(value, list | tuple):
        text = "[" + ", ".join(shown(item) for item in value) + "]"
    else:
        text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def choice_key(node: Any) -> str | None:
    """`choice` or `grid` when the node is such a domain, else None."""
    if isinstance(node, dict) and len(node) == 1:
        return next((key for key in ("choice", "grid") if key in node), None)
    return None


def has_domain(value: Any) -> bool:
    """Whether a domain stands anywhere in a plain value."""
    if isinstance(value, dict):
        return any(key in DOMAINS or has_domain(item) for key, item in value.items())
    return isinstance(value, list) and any(map(has_domain, value))


def settings_difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What changed between two resolved studies, one readable line each: `training.epochs: 40 -> 20`."""
    before, after = dict(leaves(old)), dict(leaves(new))
    return [
        f"{path}: {before.get(path, '(absent)')} -> {after.get(path, '(absent)')}"
        for path in dict.fromkeys([*before, *after])
        if before.get(path) != after.get(path)
    ]


def leaves(value: Any, path: KeyPath = ()) -> Iterator[tuple[str, str]]:
    """Every setting of a mapping as a line holds it: its key path, and its value as text; a domain is one value."""
    if isinstance(value, Mapping) and value and not (len(value) == 1 and next(iter(value)) in DOMAINS[2:]):
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        for index, item in enumerate(value):
            yield from leaves(item, (*path, index))
    else:
        yield written(path), shown(value, 200)

"""A YAML settings file as plain values, where each of them stands, and `key.path=value` overrides on top."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from akdtune.errors import AkdtuneError, Problem, SettingsError, nearest
from akdtune.registry import Kind, lookup

KeyPath: TypeAlias = "tuple[str | int, ...]"

COMMAND_LINE = "command line"
DOMAINS = ("choice", "grid", "uniform", "log_uniform", "int_uniform", "log_int_uniform", "quantized_uniform")
COMPONENTS: dict[str, Kind] = {"views": "views", "method": "methods", "network": "networks"}
"""Keys whose value is a component: a name, or a mapping with `name` and the component's own settings."""

_PLAIN_TAGS = {f"tag:yaml.org,2002:{tag}" for tag in ("null", "bool", "int", "float", "str")}
_OVERRIDE = re.compile(r"[^.\[\]=\s]+(?:\.[^.\[\]=\s]+|\[\d+\])*")


class _Loader(yaml.SafeLoader):
    """YAML as people write it: `5e-4` is a number, and a date stays text."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


@dataclass
class SettingsFile:
    """The values of one file and the line of each.

    Attributes:
        name: the file as the user wrote it.
        values: plain mappings, lists and scalars; domains are still mappings.
        places: file and line of every key path, list items included.
        problems: what was wrong while reading; the rest is usable.
    """

    name: str
    values: dict[str, Any] = field(default_factory=dict)
    places: dict[KeyPath, tuple[str, int | None]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

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


def read(path: Path, name: str) -> SettingsFile:
    """Reads a settings file.

    Raises:
        SettingsError: when the file cannot be read at all or is not a YAML mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except IsADirectoryError:
        raise SettingsError([Problem(name, "is a folder, not a YAML file")]) from None
    except UnicodeDecodeError:
        raise SettingsError([Problem(name, "is not a text file in UTF-8")]) from None
    except OSError as error:
        raise SettingsError([Problem(name, f"cannot be read: {error.strerror}")]) from None
    found = SettingsFile(name)
    values = parse(text, found, name)
    if not isinstance(values, dict):
        got = "nothing" if values is None else shown(values)
        problem = Problem(name, f"must be a mapping of settings, got {got}")
        raise SettingsError([*found.problems, problem])
    found.values = values
    return found


def parse(text: str, into: SettingsFile, name: str) -> Any:
    """The plain values of a YAML text; places and problems are added to `into`."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        return None if node is None else _plain(loader, node, (), into, name, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = " ".join(part for part in (error.problem, error.context) if part)
        place = None if mark is None or name == COMMAND_LINE else mark.line + 1
        raise SettingsError([Problem("(YAML)", f"cannot be parsed: {what}", place, name)]) from None
    except yaml.reader.ReaderError as error:
        place = None if name == COMMAND_LINE else text.count("\n", 0, error.position) + 1
        what = f"cannot be parsed: it holds the character #x{error.character:02x}, is this a text file?"
        raise SettingsError([Problem("(YAML)", what, place, name)]) from None


def _plain(
    loader: _Loader, node: yaml.Node, path: KeyPath, into: SettingsFile, name: str, above: tuple[yaml.Node, ...]
) -> Any:
    into.places.setdefault(path, (name, node.start_mark.line + 1))
    if any(node is other for other in above):
        into.problems.append(into.problem(path, "refers to itself"))
        return None
    if isinstance(node, yaml.SequenceNode):
        return [_plain(loader, item, (*path, i), into, name, (*above, node)) for i, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        return _plain_mapping(loader, node, path, into, name, above)
    if node.tag not in _PLAIN_TAGS:
        into.problems.append(into.problem(path, f"has the tag {node.tag}; only plain YAML values are read"))
        return None
    try:
        value = loader.construct_object(node)
    except ValueError:
        value = node.value
    if isinstance(value, float) and not math.isfinite(value):
        into.problems.append(into.problem(path, f"must be a finite number, got {node.value}"))
        return None
    return value


def _plain_mapping(
    loader: _Loader, node: yaml.MappingNode, path: KeyPath, into: SettingsFile, name: str, above: tuple[yaml.Node, ...]
) -> dict[str, Any]:
    own: dict[str, int] = {}
    for key_node, _ in node.value:
        key, line = key_node.value, key_node.start_mark.line + 1
        if isinstance(key, str) and key in own and key != "<<":
            into.problems.append(
                Problem(written((*path, key)), f"stands twice; the first time in line {own[key]}").at(name, line)
            )
        if isinstance(key, str):
            own.setdefault(key, line)
    loader.flatten_mapping(node)
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            into.problems.append(into.problem(path, "has a key that is not a word"))
            continue
        key = str(key_node.value)
        into.places[(*path, key)] = (name, key_node.start_mark.line + 1)
        values[key] = _plain(loader, value_node, (*path, key), into, name, (*above, node))
    return values


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


def override(file: SettingsFile, text: str) -> None:
    """Applies one `key.path=value`; what is wrong with it is added to the file's problems.

    A path may go through choices when only one component there has the setting (`method.beta=4`), by the component's
    name (`method.kd.temperature=2`, everywhere kd stands), or as written (`method.choice[1].beta=4`).
    """
    path_text, equals, value_text = text.partition("=")
    path_text = path_text.strip()
    if not equals or not _OVERRIDE.fullmatch(path_text):
        file.problems.append(Problem(text, "must have the form key.path=value", None, COMMAND_LINE))
        return
    keys = [int(part[1:-1]) if part[0] == "[" else part for part in re.findall(r"\[\d+\]|[^.\[\]]+", path_text)]
    aside = SettingsFile(COMMAND_LINE)
    try:
        value = parse(value_text, aside, COMMAND_LINE)
    except SettingsError as error:
        file.problems += [Problem(path_text, problem.message, None, COMMAND_LINE) for problem in error.problems]
        return
    if aside.problems:
        file.problems += [Problem(path_text, problem.message, None, COMMAND_LINE) for problem in aside.problems]
        return
    found = list(_find(file.values, (), keys, None))
    owners = {hit.owner for hit in found}
    if not found:
        file.problems.append(Problem(path_text, _nowhere(file.values, keys), None, COMMAND_LINE))
    elif len(found) > 1 and (len(owners) > 1 or None in owners):
        texts = dict.fromkeys(f"{hit.suggestion}={value_text.strip()}" for hit in found)
        file.problems.append(Problem(path_text, f"fits several places: {', '.join(texts)}", None, COMMAND_LINE))
    else:
        for hit in found:
            file.set(hit.path, value)


@dataclass(frozen=True)
class _Hit:
    path: KeyPath
    owner: str | None
    suggestion: str


def _find(node: Any, path: KeyPath, rest: list[str | int], kind: Kind | None, inside: bool = False) -> Iterator[_Hit]:
    """Every place that the rest of an override's path can mean; `inside` choices a key must be known to count."""
    key = rest[0]
    options = choice_key(node)
    if options is not None and key != options:
        if isinstance(node[options], list):
            for index, option in enumerate(node[options]):
                yield from _find(option, (*path, options, index), rest, kind, inside=True)
    elif isinstance(node, list):
        if isinstance(key, str) and not key.isdigit():
            for index, item in enumerate(node):
                yield from _find(item, (*path, index), rest, kind, inside=True)
        elif int(key) < len(node):
            yield from _step(node[int(key)], (*path, int(key)), rest, kind, None)
    elif node is None or isinstance(node, dict) or (kind is not None and isinstance(node, str)):
        mapping = node if isinstance(node, dict) else {} if node is None else {"name": node}
        owner = mapping.get("name") if kind else None
        if kind and key == owner and len(rest) > 1:
            yield from _find(node, path, rest[1:], kind, inside)
        elif isinstance(key, str) and (not inside or key in mapping or key in _settings_of(kind, owner)):
            yield from _step(mapping.get(key), (*path, key), rest, COMPONENTS.get(key), owner)


def _step(node: Any, path: KeyPath, rest: list[str | int], kind: Kind | None, owner: str | None) -> Iterator[_Hit]:
    if len(rest) == 1:
        by_name = isinstance(owner, str) and path[0] in COMPONENTS
        yield _Hit(path, owner, f"{path[0]}.{owner}.{path[-1]}" if by_name else written(path))
    else:
        yield from _find(node, path, rest[1:], kind)


def _settings_of(kind: Kind | None, name: Any) -> Iterable[str]:
    if kind is None or not isinstance(name, str):
        return ()
    try:
        return (*lookup(kind, name).Settings.model_fields, "name")
    except AkdtuneError:
        return ()


def _nowhere(values: Any, keys: list[str | int]) -> str:
    """Why an override's path leads nowhere, with the nearest setting that exists there."""
    for length in range(len(keys) - 1, 0, -1):
        node: Any = values
        for key in keys[:length]:
            node = node.get(key) if isinstance(node, dict) else None
        if node is None:
            continue
        kind = COMPONENTS.get(str(keys[length - 1]))
        terms = list(_terms(node))
        if not terms:
            return f"leads nowhere: {written(tuple(keys[:length]))} is {shown(node)}"
        allowed = dict.fromkeys(name for term in terms for name in (*term, *_settings_of(kind, term.get("name"))))
        owners = list(dict.fromkeys(str(term["name"]) for term in terms if "name" in term))
        close = nearest(str(keys[length]), [*allowed, *owners])
        hint = f"; did you mean '{close}'?" if close else ""
        choices = f" (choices: {', '.join(owners)})" if owners else ""
        return f"no choice there has a setting '{keys[length]}'{hint}{choices}"
    return "leads nowhere"


def _terms(node: Any) -> Iterator[dict[str, Any]]:
    options = choice_key(node)
    if options is not None:
        node = node[options]
    if isinstance(node, list):
        for item in node:
            yield from _terms(item)
    elif isinstance(node, dict):
        yield node


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

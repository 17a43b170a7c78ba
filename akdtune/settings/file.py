"""A YAML settings file as plain values, where each of them stands, and `key.path=value` overrides on top."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

from ruamel.yaml import YAML, MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.reader import ReaderError
from ruamel.yaml.resolver import VersionedResolver

from akdtune.errors import AkdtuneError, Problem, SettingsError, nearest
from akdtune.registry import Kind, lookup

KeyPath: TypeAlias = "tuple[str | int, ...]"

COMMAND_LINE = "command line"
DOMAINS = ("choice", "grid", "uniform", "log_uniform", "int_uniform", "log_int_uniform", "quantized_uniform")
COMPONENTS: dict[str, Kind] = {"views": "views", "method": "methods", "network": "networks"}
"""Keys whose value is a component: a name, or a mapping with `name` and the component's own settings."""

MOST_VALUES = 100_000
"""In one file; aliases of aliases reach any number in a few lines."""

_OVERRIDE = re.compile(r"[^.\[\]=\s]+(?:\.[^.\[\]=\s]+|\[\d+\])*")
_TAG = "tag:yaml.org,2002:"
_SCALARS = {
    "null": (["~", "n", "N", ""], r"(?:~|null|Null|NULL)?$"),
    "bool": ("tTfF", r"(?:true|True|TRUE|false|False|FALSE)$"),
    "int": ("-+0123456789", r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$"),
    "float": (
        "-+.0123456789",
        r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
    ),
    "merge": ("<", "<<$"),
}
_PLAIN_TAGS = {ScalarNode: {*_SCALARS, "str"} - {"merge"}, SequenceNode: {"seq"}, MappingNode: {"map"}}


def _resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    """By the first character of a scalar, which tags to try."""
    table: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
    for tag, (first, pattern) in _SCALARS.items():
        for character in first:
            table.setdefault(character, []).append((_TAG + tag, re.compile(pattern)))
    return table


class _CoreSchema(VersionedResolver):
    """The scalars of YAML 1.2's core schema, and merge keys: all else is text.

    Differs: ruamel's own rules for 1.2 take `1_28`, `0b1` and dates for more than text.
    """

    processing_version = (1, 2)
    versioned_resolver = _resolvers()


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
    file = SettingsFile(name)
    values = parse(text, file, name)
    if not isinstance(values, dict):
        got = "nothing" if values is None else shown(values)
        problem = Problem(name, f"must be a mapping of settings, got {got}")
        raise SettingsError([*file.problems, problem])
    file.values = values
    return file


def parse(text: str, into: SettingsFile, name: str) -> Any:
    """The plain values of a YAML text; places and problems are added to `into`."""
    try:
        return _Reader(into, name).values(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = " ".join(part for part in (error.problem, error.context) if part)
        line = None if mark is None else mark.line + 1
    except ReaderError as error:
        what = f"it holds the character #x{error.character:02x}, is this a text file?"
        line = text.count("\n", 0, error.position) + 1
    except RecursionError:
        what, line = "it is nested too deeply", None
    except _TooMany as error:
        what, line = f"it has more than {MOST_VALUES:,} values once its aliases are followed", error.line
    place = None if name == COMMAND_LINE else line
    raise SettingsError([Problem("(YAML)", f"cannot be parsed: {what}", place, name)])


class _TooMany(Exception):
    def __init__(self, line: int) -> None:
        super().__init__(line)
        self.line = line


class _Reader:
    """Turns the nodes of one YAML text into plain values."""

    def __init__(self, into: SettingsFile, name: str) -> None:
        self.into = into
        self.name = name
        self.read = 0
        self.yaml = YAML(typ="safe", pure=True)
        self.yaml.Resolver = _CoreSchema

    def values(self, text: str) -> Any:
        node = self.yaml.compose(text)
        return None if node is None else self._plain(node, (), ())

    def _plain(self, node: Node, path: KeyPath, above: tuple[Node, ...]) -> Any:
        line = node.start_mark.line + 1
        self.read += 1
        if self.read > MOST_VALUES:
            raise _TooMany(line)
        self.into.places.setdefault(path, (self.name, line))
        if any(node is other for other in above):
            return self._refused(path, "refers to itself")
        tag = str(node.tag)
        if tag != "!" and tag.removeprefix(_TAG) not in _PLAIN_TAGS[type(node)]:
            return self._refused(path, f"has the tag {tag}; only plain YAML values are read")
        if isinstance(node, SequenceNode):
            return [self._plain(item, (*path, i), (*above, node)) for i, item in enumerate(node.value)]
        if isinstance(node, MappingNode):
            return self._mapping(node, path, above)
        assert isinstance(node, ScalarNode)
        return self._scalar(node, path)

    def _refused(self, path: KeyPath, message: str) -> None:
        self.into.problems.append(self.into.problem(path, message))

    def _scalar(self, node: ScalarNode, path: KeyPath) -> Any:
        try:
            value = self.yaml.constructor.construct_object(node)
        except (ValueError, KeyError):  # of thousands of digits, or `!!bool x`
            value = node.value
        if isinstance(value, float) and not math.isfinite(value):
            return self._refused(path, f"must be a finite number, got {node.value}")
        return value

    def _mapping(self, node: MappingNode, path: KeyPath, above: tuple[Node, ...]) -> dict[str, Any]:
        if node.merge is None:  # else an alias led here before, and what it merges stands in it
            self._check_unique(node, path)
        self.yaml.constructor.flatten_mapping(node)
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, ScalarNode):
                self._refused(path, "has a key that is not a word")
                continue
            key = str(key_node.value)
            self.into.places[(*path, key)] = (self.name, key_node.start_mark.line + 1)
            values[key] = self._plain(value_node, (*path, key), (*above, node))
        return values

    def _check_unique(self, node: MappingNode, path: KeyPath) -> None:
        own: dict[str, int] = {}
        for item in list(node.value):
            key, line = item[0].value, item[0].start_mark.line + 1
            if not isinstance(key, str):
                continue
            if key in own:
                message = f"stands twice; the first time in line {own[key]}"
                self.into.problems.append(Problem(written((*path, key)), message).at(self.name, line))
                if key == "<<":  # ruamel would end here
                    node.value.remove(item)
            own.setdefault(key, line)


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
    hits = list(_find(file.values, (), keys, None))
    owners = {hit.owner for hit in hits}
    if not hits:
        file.problems.append(Problem(path_text, _nowhere(file.values, keys), None, COMMAND_LINE))
    elif len(hits) > 1 and (len(owners) > 1 or None in owners):
        texts = dict.fromkeys(f"{hit.suggestion}={value_text.strip()}" for hit in hits)
        file.problems.append(Problem(path_text, f"fits several places: {', '.join(texts)}", None, COMMAND_LINE))
    else:
        for hit in hits:
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


def settings_difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What changed between two resolved studies, one readable line each: `training.epochs: 40 -> 20`."""
    before, after = dict(_leaves(old)), dict(_leaves(new))
    return [
        f"{path}: {before.get(path, '(absent)')} -> {after.get(path, '(absent)')}"
        for path in dict.fromkeys([*before, *after])
        if before.get(path) != after.get(path)
    ]


def _leaves(value: Any, path: KeyPath = ()) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value and not (len(value) == 1 and next(iter(value)) in DOMAINS[2:]):
        for key, item in value.items():
            yield from _leaves(item, (*path, key))
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        for index, item in enumerate(value):
            yield from _leaves(item, (*path, index))
    else:
        yield written(path), shown(value, 200)

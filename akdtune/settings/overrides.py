"""`key.path=value` on top of a settings file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from akdtune.errors import AkdtuneError, Problem, SettingsError, nearest, unknown_name
from akdtune.registry import Kind, lookup
from akdtune.settings.file import BASE, COMMAND_LINE, COMPONENTS, KeyPath, SettingsFile, choice_key, shown, written
from akdtune.settings.hints import right_form
from akdtune.settings.sections import SECTIONS
from akdtune.settings.yaml_text import parse, shortened

MOST_KEYS = 20
"""In the path of one override."""

_NUMBER = re.compile(r"[0-9]{1,6}")
_OVERRIDE = re.compile(r"[^.\[\]=\s]+(?:\.[^.\[\]=\s]+|\[[0-9]{1,6}\])*")


def apply(file: SettingsFile, texts: Sequence[str]) -> None:
    """Applies the arguments behind a file, in order; what is wrong with them is added to the file's problems."""
    for written_as, meant in right_form.split_apart(texts):
        if written_as == meant:
            override(file, meant)
            continue
        key, _, value = meant.partition("=")
        known = right_form.overrides_meant(key, value, file.values) or [right_form.quoted(meant)]
        message = f"an override is one argument, key.path=value without spaces: {' or '.join(known)}"
        file.problems.append(Problem(shortened(written_as, 200), message, None, COMMAND_LINE))


def override(file: SettingsFile, text: str) -> None:
    """Applies one `key.path=value`; what is wrong with it is added to the file's problems.

    A path may go through choices when only one component there has the setting (`method.beta=4`), by the component's
    name (`method.kd.temperature=2`, everywhere kd stands), or as written (`method.choice[1].beta=4`).
    """
    path_text, equals, value_text = text.partition("=")
    path_text = path_text.strip()
    if not equals or not _OVERRIDE.fullmatch(path_text) or path_text[0] in "-+~":
        key, value = right_form.as_override(text)
        options = right_form.overrides_meant(key, value, file.values)
        meant = right_form.said(options, ": ") or (f": {right_form.quoted(f'{key}={value}')}" if value else "")
        file.problems.append(
            Problem(shortened(text, 200), f"must have the form key.path=value{meant}", None, COMMAND_LINE)
        )
        return
    if path_text.count(".") + path_text.count("[") >= MOST_KEYS:
        file.problems.append(Problem(shown(path_text), f"has more than {MOST_KEYS} keys", None, COMMAND_LINE))
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
    if problem := _no_section(file, keys, path_text, value_text):
        file.problems.append(Problem(path_text, problem, None, COMMAND_LINE))
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


def _no_section(file: SettingsFile, keys: Sequence[str | int], path_text: str, value_text: str) -> str | None:
    """What is wrong with a path that begins with no section, and the whole paths that it may mean."""
    first = str(keys[0])
    if first == BASE:
        return f"stands in a file: `{BASE}: FILE` as a line of it, or name that file in place of {file.name}"
    if first in SECTIONS:
        return None
    sections = unknown_name("section", first, SECTIONS)
    exact = right_form.overrides_meant(path_text, value_text, file.values, nearly=False)
    if not exact and "did you mean" in sections:
        return sections
    options = exact or right_form.overrides_meant(path_text, value_text, file.values)
    return f"unknown section '{first}'; did you mean {' or '.join(options)}?" if options else sections


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
        if isinstance(key, str) and not _NUMBER.fullmatch(key):
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

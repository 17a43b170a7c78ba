"""A trial's settings as one flat mapping of key paths, and which of them differ between trials."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from akdtune.settings.domains import label, unique

Leaves = dict[str, Any]
"""Plain values by key path; terms of a sum of methods by their names (`method.kd.weight`), the sum as `method`."""


def leaves(settings: Mapping[str, Any]) -> Leaves:
    """Every single setting of a trial by its key path, in their order."""
    return dict(_leaves(settings, ()))


def _leaves(node: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    if path == ("method",) and isinstance(node, list):
        yield "method", label(node)
        names = unique([str(term.get("name")) if isinstance(term, Mapping) else label(term) for term in node])
        for name, term in zip(names, node, strict=True):
            rest = {key: value for key, value in term.items() if key != "name"} if isinstance(term, Mapping) else {}
            yield from _leaves(rest, (*path, name))
    elif isinstance(node, Mapping):
        for key, value in node.items():
            yield from _leaves(value, (*path, str(key)))
    elif path:
        yield ".".join(path), node


def varied(trials: Iterable[Mapping[str, Any]]) -> list[str]:
    """Key paths at which those trials that have them hold more than one value.

    Args:
        trials: their settings.
    """
    seen: dict[str, set[str]] = {}
    for settings in trials:
        for path, value in leaves(settings).items():
            seen.setdefault(path, set()).add(json.dumps(value, sort_keys=True))
    return [path for path, values in seen.items() if len(values) > 1]


def scalar(value: Any) -> str | int | float | bool | None:
    """A setting as one value: lists and mappings as short text."""
    return value if value is None or isinstance(value, str | int | float | bool) else label(value)

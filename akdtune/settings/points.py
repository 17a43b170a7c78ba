"""Points of a search space as one writes them: values by key path, nested or not, and whether a domain takes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from akdtune.settings.domains import Choice, Domain, Range, label
from akdtune.settings.file import KeyPath


@dataclass(frozen=True)
class Leaf:
    """One value of a point.

    Attributes:
        path: of the setting, as in `Proposal.params`: `method.kd.weight`.
        value: as written.
        at: where it stands in the point.
    """

    path: str
    value: Any
    at: KeyPath


def leaves(point: Mapping[str, Any]) -> Iterator[Leaf]:
    """The values of a point or of a trial's settings, the terms of a sum by their methods' names."""
    for key, item in point.items():
        if key == "method":
            yield from _methods(item, (key,))
        elif key in ("views", "selection") and not isinstance(item, dict):
            yield Leaf(f"{key}.name", "none" if item is None else item, (key,))
        else:
            yield from _nested(item, str(key), (key,))


def _methods(value: Any, at: KeyPath) -> Iterator[Leaf]:
    if isinstance(value, dict) and "name" not in value:
        yield from _nested(value, "method", at)
        return
    terms = [(at, value)] if not isinstance(value, list) else [((*at, i), term) for i, term in enumerate(value)]
    names = [term.get("name") if isinstance(term, dict) else term for _, term in terms]
    yield Leaf("method", names, at)
    for (place, term), name in zip(terms, names, strict=True):
        for key, item in term.items() if isinstance(term, dict) else ():
            if key != "name":
                yield from _nested(item, f"method.{name}.{key}", (*place, key))


def _nested(value: Any, path: str, at: KeyPath) -> Iterator[Leaf]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _nested(item, f"{path}.{key}", (*at, key))
    elif path.rpartition(".")[2] == "network" and isinstance(value, str):
        yield Leaf(f"{path}.name", value, at)
    else:
        yield Leaf(path, value, at)


def equal(value: Any, other: Any) -> bool:
    """Whether two values of settings are the same; 1 and 1.0 are, 1 and true are not."""
    if isinstance(value, bool) or isinstance(other, bool):
        return value is other
    if isinstance(value, list) and isinstance(other, list):
        return len(value) == len(other) and all(map(equal, value, other))
    return bool(value == other)


def option_of(choice: Choice, path: str, given: Mapping[str, Any]) -> int | None:
    """The option that a point asks for, by index; None where it leaves the choice open.

    Args:
        choice: the domain.
        path: of its setting.
        given: values by path, each of which some option takes.
    """
    scores = [_agreement(option, path, given) for option in choice.options]
    best = max((score for score in scores if score is not None), default=0)
    return scores.index(best) if best else None


def takes(domain: Domain, path: str, given: Mapping[str, Any]) -> bool:
    """Whether a domain holds what is given for its setting, or nothing is given."""
    return _agreement(domain, path, given) is not None


def _agreement(node: Any, path: str, given: Mapping[str, Any]) -> int | None:
    """How many of the given values a part of the space agrees with; None where it contradicts one."""
    if isinstance(node, Choice):
        scores = [score for option in node.options if (score := _agreement(option, path, given)) is not None]
        return max(scores, default=None)
    if isinstance(node, dict):
        below = [_agreement(item, f"{path}.{key}", given) for key, item in node.items()]
        return None if None in below else sum(score for score in below if score is not None)
    if path not in given:
        return 0
    value = given[path]
    held = node.holds(value) if isinstance(node, Range) else equal(node, value) or label(node) == value
    return 1 if held else None


def described(domain: Domain) -> str:
    """What a domain allows, for a message."""
    if isinstance(domain, Choice):
        return "[" + ", ".join(domain.labels) + "]"
    return f"{domain.kind} [{domain.low}, {domain.high}{'' if domain.step is None else f', {domain.step}'}]"

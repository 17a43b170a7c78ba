"""Search domains inside the YAML: choices and ranges, and the trees they stand in.

A tree is what a settings file holds after `parse`: mappings, lists, scalars, and the domains `Choice` and `Range`.
A path comes in two forms: as written in the file (`method.choice[1].beta`), and within the settings of a trial
(`method.beta`), where the choices are gone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from akdtune.settings.data import AugmentationSettings
from akdtune.settings.file import DOMAINS, KeyPath, shown

MOST_OPTIONS = 1000
"""Of one choice: each is checked, named and counted by itself."""

MOST_STEPS = 10**9
"""Of one quantized range."""

LARGEST_WHOLE_END = 10**15
"""Of a range of whole numbers; all of them are numbers of double precision, too."""

Issue = tuple[KeyPath, str]
"""A path as written in the file, and what is wrong there."""


@dataclass(frozen=True)
class Choice:
    """One of several options, which may be trees with domains of their own; `key` is `choice` or `grid`."""

    path: KeyPath
    key: str
    options: tuple[Any, ...]

    @property
    def labels(self) -> list[str]:
        """One short unique text per option."""
        return unique([label(option) for option in self.options])


@dataclass(frozen=True)
class Range:
    """Numbers between `low` and `high`, both included."""

    path: KeyPath
    kind: str
    low: float
    high: float
    step: float | None = None

    @property
    def log(self) -> bool:
        """Whether values are drawn evenly on a logarithmic scale."""
        return self.kind.startswith("log_")

    @property
    def whole(self) -> bool:
        """Whether every value is a whole number."""
        return "int" in self.kind or (self.step is not None and all(isinstance(x, int) for x in (self.low, self.step)))

    def clean(self, value: float) -> float:
        """The value inside the range and on the grid of steps, free of floating-point dust."""
        value = min(max(value, self.low), self.high)
        if self.whole:
            return int(value)
        if self.step is None:
            return float(value)
        steps = round((value - self.low) / self.step)
        return float(Decimal(str(self.low)) + steps * Decimal(str(self.step)))

    def at(self, share: float) -> float:
        """The value a share (0 to 1) of the way from low to high, equal shares being equally likely."""
        if self.whole or self.step is not None:
            step = self.step or 1
            if self.log:
                low, high = math.log(self.low - 0.5), math.log(self.high + 0.5)
                return int(min(max(round(math.exp(low + share * (high - low))), self.low), self.high))
            steps = min(int(share * (self.count() or 1)), (self.count() or 1) - 1)
            return int(self.low + steps * int(step)) if self.whole else self.clean(self.low + steps * step)
        if self.log:
            return self.clean(math.exp(math.log(self.low) + share * (math.log(self.high) - math.log(self.low))))
        return self.clean(self.low + share * (self.high - self.low))

    def ends(self) -> tuple[float, float]:
        """Low and high."""
        return self.low, self.high

    def centre(self) -> float:
        """The middle, geometric for a logarithmic range."""
        middle = math.sqrt(self.low * self.high) if self.log else (self.low + self.high) / 2
        if self.whole:
            step = int(self.step or 1)
            return int(self.low) + step * round((middle - self.low) / step)
        return self.clean(middle)

    def count(self) -> int | None:
        """How many values there are; None when they are not countable."""
        if not self.whole and self.step is None:
            return None
        return round((self.high - self.low) / (self.step or 1)) + 1

    def holds(self, value: Any) -> bool:
        """Whether a value lies in the range."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            return False
        if self.whole or self.step is not None:
            return math.isclose(self.clean(value), value, abs_tol=1e-12)
        return True


Domain = Choice | Range


def parse(node: Any, issues: list[Issue], notes: list[Issue], path: KeyPath = ()) -> Any:
    """The tree of a plain value; a wrong domain is added to `issues` and stands as None, an odd one to `notes`."""
    if isinstance(node, list):
        return [parse(item, issues, notes, (*path, index)) for index, item in enumerate(node)]
    if not isinstance(node, dict):
        return node
    kinds = [key for key in node if key in DOMAINS]
    if not kinds:
        return {key: parse(item, issues, notes, (*path, key)) for key, item in node.items()}
    if len(node) > 1:
        keys = ", ".join(f"'{key}'" for key in node)
        issues.append((path, f"a domain has exactly one key out of {', '.join(DOMAINS)}; got {keys}"))
        return None
    kind, body = kinds[0], node[kinds[0]]
    if kind in ("choice", "grid"):
        return _choice(kind, body, issues, notes, path)
    return _range(kind, body, issues, notes, path)


def _choice(kind: str, body: Any, issues: list[Issue], notes: list[Issue], path: KeyPath) -> Choice | None:
    if not isinstance(body, list) or not body:
        got = "an empty list" if body == [] else shown(body)
        issues.append((path, f"'{kind}' needs a list of at least one option, got {got}"))
        return None
    if len(body) > MOST_OPTIONS:
        issues.append(
            (path, f"'{kind}' has {len(body):,} options (allowed: {MOST_OPTIONS:,}); a range has no such limit")
        )
        return None
    seen: dict[str, int] = {}
    for index, option in enumerate(body):
        text = json.dumps(option, sort_keys=True, default=str)
        if text in seen:
            issues.append(((*path, kind, index), f"'{kind}' holds {shown(option)} twice"))
        seen[text] = index
    return Choice(path, kind, tuple(parse(option, issues, notes, (*path, kind, i)) for i, option in enumerate(body)))


def _range(kind: str, body: Any, issues: list[Issue], notes: list[Issue], path: KeyPath) -> Range | None:
    names = "[low, high, step]" if kind == "quantized_uniform" else "[low, high]"
    length = names.count(",") + 1
    numbers = isinstance(body, list) and all(isinstance(x, int | float) and not isinstance(x, bool) for x in body)
    if not numbers or len(body) != length:
        issues.append((path, f"'{kind}' needs {names}, {length} numbers; got {shown(body)}"))
        return None
    low, high = body[0], body[1]
    step = body[2] if length == 3 else None
    if "int" in kind and not all(isinstance(x, int) for x in body):
        issues.append((path, f"'{kind}' needs whole numbers, got {shown(body)}"))
    elif low > high:
        issues.append((path, f"'{kind}' has its low end {low} above its high end {high}"))
    elif kind.startswith("log_") and low <= 0:
        issues.append((path, f"'{kind}' needs a low end above 0, got {low}"))
    elif "int" in kind and max(-low, high) > LARGEST_WHOLE_END:
        issues.append((path, f"'{kind}' needs ends between -10^15 and 10^15, got {shown(body)}"))
    elif step is not None and step > 0 and (high - low) / step > MOST_STEPS:
        issues.append(
            (path, f"'{kind}' has {(high - low) / step:.0e} steps (allowed: {MOST_STEPS:,}), got {shown(body)}")
        )
    elif step is not None and (step <= 0 or step > high - low):
        issues.append((path, f"'{kind}' needs a step above 0 and at most high - low, got {step}"))
    else:
        if step is not None:
            start, end, width = (Decimal(str(number)) for number in (low, high, step))
            reached = start + (end - start) // width * width
            if reached != end:
                notes.append((path, f"no step of {step} ends at {high}: the highest value tried is {reached}"))
                high = type(low + step)(reached)
        return Range(path, kind, low, high, step)
    return None


def label(option: Any) -> str:
    """A short text for an option: a component's name, `kd+crd` for a sum or an augmentation, a scalar as it is."""
    if isinstance(option, str):
        return option
    if isinstance(option, dict) and isinstance(option.get("name"), str):
        return str(option["name"])
    if isinstance(option, list) and option and all(isinstance(term, dict) for term in option):
        return "+".join(label(term) for term in option)
    if isinstance(option, Choice):
        return "|".join(option.labels)
    if isinstance(option, dict):
        if option and option.keys() <= AugmentationSettings.model_fields.keys():
            return _augmentation_text(option)
        return ", ".join(f"{key}={label(item)}" for key, item in option.items())
    if isinstance(option, Range):
        return f"{option.kind}({option.low}, {option.high})"
    if isinstance(option, list):
        return "[" + ", ".join(label(item) for item in option) + "]"
    return json.dumps(option)


def _augmentation_text(option: dict[str, Any]) -> str:
    """What is set of an augmentation: `random_resized_crop+rotation=15`, `strong+cutout=0`."""
    return "+".join(_part_text(key, item) for key, item in option.items() if item not in (None, "weak")) or "weak"


def _part_text(key: str, value: Any) -> str:
    """A part of it: `rotation=15`; by its key alone what has settings of its own, or is only on or off."""
    if key == "preset":
        return label(value)
    if isinstance(value, dict) or value is True:
        return key
    return f"{key}={value:g}" if isinstance(value, float) else f"{key}={label(value)}"


def unique(texts: Sequence[str]) -> list[str]:
    """The texts with `#2`, `#3` behind those that came before."""
    count: dict[str, int] = {}
    result = []
    for text in texts:
        count[text] = count.get(text, 0) + 1
        result.append(text if count[text] == 1 else f"{text}#{count[text]}")
    return result


Decide = Callable[[Domain, KeyPath], Any]
"""Option index of a choice or value of a range, given its path in the trial; None leaves the domain in place."""


def decided(node: Any, decide: Decide, origins: dict[KeyPath, KeyPath], logical: KeyPath = (), at: KeyPath = ()) -> Any:
    """The tree with its domains decided; `origins` receives where in the file each path of the result stands."""
    origins[logical] = at
    if isinstance(node, Choice):
        index = decide(node, logical)
        origins[logical] = node.path
        return (
            node
            if index is None
            else decided(node.options[index], decide, origins, logical, (*node.path, node.key, index))
        )
    if isinstance(node, Range):
        value = decide(node, logical)
        origins[logical] = node.path
        return node if value is None else value
    if isinstance(node, dict):
        return {k: decided(item, decide, origins, (*logical, k), (*at, k)) for k, item in node.items()}
    if isinstance(node, list):
        return [decided(item, decide, origins, (*logical, i), (*at, i)) for i, item in enumerate(node)]
    return node


def first(domain: Domain, _: KeyPath = ()) -> Any:
    """Decides for the first option or the low end."""
    return 0 if isinstance(domain, Choice) else domain.low


def domains(node: Any, logical: KeyPath = (), under: tuple[tuple[Choice, int], ...] = ()) -> Iterator[PlacedDomain]:
    """Every domain of a tree in file order, those inside options after the choice they depend on."""
    if isinstance(node, Domain):
        yield PlacedDomain(node, logical, under)
    if isinstance(node, Choice):
        for index, option in enumerate(node.options):
            yield from domains(option, logical, (*under, (node, index)))
    elif isinstance(node, dict | list):
        for key, item in node.items() if isinstance(node, dict) else enumerate(node):
            yield from domains(item, (*logical, key), under)


@dataclass(frozen=True)
class PlacedDomain:
    """A domain, its path in the trial, and the options it depends on."""

    domain: Domain
    logical: KeyPath
    under: tuple[tuple[Choice, int], ...]

"""Who picks values for searched settings: a random generator, a grid, a stored proposal, a probe point.

Optuna is one more, in `akdtune.search.optuna_search`.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from akdtune.errors import AkdtuneError
from akdtune.settings.domains import Range, label

Real: TypeAlias = float
Whole: TypeAlias = int
"""Names for the built-in types inside classes whose methods are called `float` and `int`."""


class Suggest(Protocol):
    """Who picks values: Optuna, a random generator, a grid, a probe point."""

    def categorical(self, name: str, labels: Sequence[str]) -> Whole:
        """The index of one of `labels`."""

    def float(self, name: str, low: Real, high: Real, log: bool, step: Real | None) -> Real:
        """A number in [low, high]; a whole number of steps above low when there is a step."""

    def int(self, name: str, low: Whole, high: Whole, log: bool, step: Whole) -> Whole:
        """A whole number in [low, high], a whole number of steps above low."""


def picked(domain: Range, by: Suggest, name: str) -> float:
    """A value of a range as `by` picks it: `Range.clean` it before use."""
    if domain.whole:
        return by.int(name, int(domain.low), int(domain.high), domain.log, int(domain.step or 1))
    return by.float(name, domain.low, domain.high, domain.log, domain.step)


class Corner:
    """Option number `place` of every choice (the last where there are fewer); the high end of ranges, the low at 0."""

    def __init__(self, place: Whole) -> None:
        self._place = place

    def categorical(self, name: str, labels: Sequence[str]) -> Whole:
        """The option at this place."""
        return min(self._place, len(labels) - 1)

    def float(self, name: str, low: Real, high: Real, log: bool, step: Real | None) -> Real:
        """One end."""
        return high if self._place else low

    def int(self, name: str, low: Whole, high: Whole, log: bool, step: Whole) -> Whole:
        """One end."""
        return high if self._place else low


class RandomPicker:
    """Independent draws; only `Random.random` is used, whose sequence is the same in every Python version."""

    def __init__(self, seed: Whole) -> None:
        self._rng = random.Random(seed)

    def categorical(self, name: str, labels: Sequence[str]) -> Whole:
        """A random index."""
        return int(self._rng.random() * len(labels))

    def float(self, name: str, low: Real, high: Real, log: bool, step: Real | None) -> Real:
        """A random number."""
        kind = "quantized_uniform" if step is not None else "log_uniform" if log else "uniform"
        return Range((), kind, low, high, step).at(self._rng.random())

    def int(self, name: str, low: Whole, high: Whole, log: bool, step: Whole) -> Whole:
        """A random whole number."""
        return int(Range((), "log_int_uniform" if log else "int_uniform", low, high, step).at(self._rng.random()))


@dataclass
class Recorded:
    """The values of an earlier proposal."""

    raw: Mapping[str, Any]

    def categorical(self, name: str, labels: Sequence[str]) -> Whole:
        """The index of the stored label."""
        return list(labels).index(self._of(name))

    def float(self, name: str, low: Real, high: Real, log: bool, step: Real | None) -> Real:
        """The stored number."""
        return float(self._of(name))

    def int(self, name: str, low: Whole, high: Whole, log: bool, step: Whole) -> Whole:
        """The stored whole number."""
        return int(self._of(name))

    def _of(self, name: str) -> Any:
        if name not in self.raw:
            raise AkdtuneError(f"the stored proposal has no value for '{name}': it is from another search space")
        return self.raw[name]


@dataclass
class Grid:
    """Counts through every combination, the last question asked changing fastest."""

    more: bool = True
    _prefix: list[Whole] = field(default_factory=list)
    _asked: list[tuple[Whole, Whole]] = field(default_factory=list)

    def categorical(self, name: str, labels: Sequence[str]) -> Whole:
        """The next index."""
        return self._next(len(labels))

    def float(self, name: str, low: Real, high: Real, log: bool, step: Real | None) -> Real:
        """The next step; a range without steps is refused."""
        if step is None:
            kind = "log_uniform" if log else "uniform"
            raise AkdtuneError(
                f"a grid cannot enumerate {name} ({kind}: [{low}, {high}]): give it `grid` or `choice` values, "
                "or use search.algorithm tpe or random"
            )
        domain = Range((), "quantized_uniform", low, high, step)
        return domain.clean(low + self._next(domain.count() or 1) * step)

    def int(self, name: str, low: Whole, high: Whole, log: bool, step: Whole) -> Whole:
        """The next whole number."""
        return low + self._next((high - low) // step + 1) * step

    def _next(self, count: Whole) -> Whole:
        place = len(self._asked)
        index = self._prefix[place] if place < len(self._prefix) else 0
        self._asked.append((index, count))
        return index

    def advance(self) -> None:
        """Moves on to the next combination, or sets `more` to False after the last."""
        asked, self._asked = self._asked, []
        while asked and asked[-1][0] + 1 == asked[-1][1]:
            asked.pop()
        self.more = bool(asked)
        self._prefix = [index for index, _ in asked[:-1]] + ([asked[-1][0] + 1] if asked else [])


@dataclass
class Point:
    """A point of the unit cube for some settings, given values for others, the centre for the rest."""

    shares: Mapping[str, Real] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)

    def categorical(self, name: str, labels: Sequence[str]) -> Whole:
        """The option at the point, the given one, or the middle one."""
        if name in self.fixed:
            return list(labels).index(label(self.fixed[name]))
        if name in self.shares:
            return int(self.shares[name] * len(labels))
        return (len(labels) - 1) // 2

    def float(self, name: str, low: Real, high: Real, log: bool, step: Real | None) -> Real:
        """The number at the point, the given one, or the centre."""
        kind = "quantized_uniform" if step is not None else "log_uniform" if log else "uniform"
        return float(self._value(name, Range((), kind, low, high, step)))

    def int(self, name: str, low: Whole, high: Whole, log: bool, step: Whole) -> Whole:
        """The whole number at the point, the given one, or the centre."""
        return int(self._value(name, Range((), "log_int_uniform" if log else "int_uniform", low, high, step)))

    def _value(self, name: str, domain: Range) -> Any:
        if name in self.fixed:
            return self.fixed[name]
        return domain.at(self.shares[name]) if name in self.shares else domain.centre()


def halton(count: int, dimensions: int, seed: int) -> list[list[float]]:
    """`count` points of a Halton sequence in [0, 1)^dimensions whose digits are permuted at random.

    Every stretch of base^k points fills the base^k equal intervals of its axis once each, so that a handful of points
    spreads better than independent draws do. Written out because a plan must not change with a library's version.

    References:
        Owen, "A randomized Halton algorithm in R", arXiv 1706.02808.
    """
    rng = random.Random(seed)
    columns = []
    for base in itertools.islice(_primes(), dimensions):
        digits = math.ceil(32 / math.log2(base))
        shuffles = []
        for _ in range(digits):
            order = sorted(range(base), key=lambda _: rng.random())
            shuffles.append(order)
        column = []
        for index in range(count):
            value, left = 0.0, index
            for place, order in enumerate(shuffles, start=1):
                left, digit = divmod(left, base)
                value += order[digit] * float(base) ** -place
            column.append(min(value, 1 - 2.0**-53))
        columns.append(column)
    return [list(point) for point in zip(*columns, strict=True)]


def _primes() -> Iterator[int]:
    return (n for n in itertools.count(2) if all(n % d for d in range(2, math.isqrt(n) + 1)))

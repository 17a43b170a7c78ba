"""Ablation designs over named factors: which cells there are, what each changes, and what is confounded in them.

A factor is a key path of a trial (`views.inter`, `method.kd.weight`, `views`) with its levels. The first level is the
base's. A two-level fraction is written in bits: 0 is the first level, 1 the second, and a column of the design is the
set of base factors (as a bit mask) whose bits it adds up modulo 2.

References:
    Box, Hunter and Hunter, Statistics for Experimenters, 2nd edition, 2005, chapters 5 and 6.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from akdtune.errors import AkdtuneError, unknown_name
from akdtune.settings.domains import label, unique
from akdtune.settings.file import shown
from akdtune.settings.sections import TRIAL_LEVEL

BASE, EMPTY, END = "base", "none", "end"
"""Names of the cells with every factor at its first level, with none of them added yet, and at the end of a path."""

RESOLUTIONS = {3: "III", 4: "IV", 5: "V"}
DESIGNS = ("full_factorial", "fractional_factorial", "leave_one_out", "add_one_in", "path", "arms")

MOST_CELLS = 4096
MOST_TWO_LEVEL_FACTORS = 16
SEARCH_STEPS = 200_000
"""Columns that the search for one fraction tries before it takes one with twice the runs."""

Factors = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class DesignCell:
    """One configuration of a design.

    Attributes:
        name: unique within the design.
        changes: key path to value, where it differs from the first level of each factor.
        levels: the level of every factor; None where configurations are named rather than made of factors.
    """

    name: str
    changes: Mapping[str, Any]
    levels: Mapping[str, Any] | None = None

    @property
    def applied(self) -> Mapping[str, Any]:
        """What to write into the base configuration: every level, as the base may say less than its first levels."""
        return self.changes if self.levels is None else self.levels


@dataclass(frozen=True)
class Design:
    """The cells of an ablation.

    Attributes:
        cells: in the order in which they are listed.
        aliases: effects that the design cannot tell apart, one line each: `inter = intra*margin`.
        resolution: of a fraction, as a Roman numeral; None for every other design.
        notes: what a reader of the plan should know.
    """

    cells: Sequence[DesignCell]
    aliases: Sequence[str] = field(default_factory=list)
    resolution: str | None = None
    notes: Sequence[str] = field(default_factory=list)


def cells_of(
    design: str,
    factors: Factors,
    *,
    resolution: int | str | None = None,
    arms: Mapping[str, Mapping[str, Any]] | None = None,
) -> Design:
    """The cells of a design.

    Args:
        design: `full_factorial`, `fractional_factorial` (two levels each), `leave_one_out` (the base, and each other
            level of one factor at a time), `add_one_in` (every factor at its last level, each one added at its first
            level, and all of them), `path` (from the first to the last levels one change at a time, in both
            directions) or `arms` (named configurations).
        factors: key path to levels, the base's first.
        resolution: of a fraction: III, IV or V (or the number).
        arms: name to changes, for `arms` alone.

    Raises:
        AkdtuneError: naming what is wrong and what is allowed.
    """
    if design not in DESIGNS:
        raise AkdtuneError(unknown_name("design", design, DESIGNS))
    if resolution is not None and design != "fractional_factorial":
        raise AkdtuneError(f"resolution goes with fractional_factorial only, not with {design}")
    if design == "arms":
        return _arms(factors, arms)
    if arms is not None:
        raise AkdtuneError(f"arms goes with the design 'arms' only, not with {design}")
    factors = _checked(factors)
    if design == "fractional_factorial":
        return _fraction(factors, _resolution(resolution))
    makers: Mapping[str, Callable[[Factors], Design]] = {
        "full_factorial": _full,
        "leave_one_out": _leave_one_out,
        "add_one_in": _add_one_in,
        "path": _path,
    }
    return makers[design](factors)


def short_names(paths: Iterable[str]) -> dict[str, str]:
    """The last key of each path where it is unique, else the path."""
    paths = list(paths)
    last = [path.rpartition(".")[2] for path in paths]
    return {path: key if last.count(key) == 1 else path for path, key in zip(paths, last, strict=True)}


def level_names(levels: Sequence[Any]) -> list[str]:
    """A short text for each level: a component's name, with what tells it from others of that name."""
    plain = [label(level) for level in levels]
    texts = []
    for level, text in zip(levels, plain, strict=True):
        alike = [other for other, its in zip(levels, plain, strict=True) if its == text and isinstance(other, Mapping)]
        own = dict(level) if isinstance(level, Mapping) and len(alike) > 1 else {}
        own = {key: value for key, value in own.items() if any(key not in its or its[key] != value for its in alike)}
        inside = ", ".join(f"{key}={label(value)}" for key, value in own.items())
        texts.append(f"{text}({inside})" if own else text)
    return unique(texts)


# -------------------------------------------------------------------------------------------------------------- input


def _checked(factors: Factors) -> Factors:
    if not isinstance(factors, Mapping) or not factors:
        raise AkdtuneError(f"factors must name at least one key path with its levels, got {shown(factors)}")
    for path, levels in factors.items():
        _check_path("factors", path)
        if not isinstance(levels, list | tuple):
            raise AkdtuneError(f"factors.{path}: must be a list of levels, the base's first, got {shown(levels)}")
        if len(levels) < 2:
            raise AkdtuneError(f"factors.{path}: needs at least two levels, got {shown(levels)}")
        texts = [json.dumps(level, sort_keys=True) for level in levels]
        if len(set(texts)) < len(texts):
            raise AkdtuneError(f"factors.{path}: its levels must differ, got {shown(levels)}")
    return factors


def _check_path(where: str, path: Any) -> None:
    root = path.partition(".")[0] if isinstance(path, str) else None
    if root not in (*TRIAL_LEVEL, "task") or not all(str(path).split(".")):
        raise AkdtuneError(
            f"{where}: '{path}' is no key path of a trial: it must begin with one of {', '.join(TRIAL_LEVEL)}"
            " (e.g. views.num_views)"
        )


def _resolution(given: int | str | None) -> int:
    numbers = {name: number for number, name in RESOLUTIONS.items()}
    resolution = numbers.get(given.upper()) if isinstance(given, str) else given
    if given is None:
        raise AkdtuneError("fractional_factorial needs a resolution: III, IV or V")
    if isinstance(resolution, bool) or resolution not in RESOLUTIONS:
        raise AkdtuneError(f"resolution must be III, IV or V, got {shown(given)}")
    return resolution


# ------------------------------------------------------------------------------------------------------------- designs


class _Names:
    """Names of cells: `inter=false, num_views=3`."""

    def __init__(self, factors: Factors) -> None:
        self.factors = factors
        self.short = short_names(factors)
        self.texts = {path: level_names(levels) for path, levels in factors.items()}

    def level(self, path: str, index: int) -> str:
        return f"{self.short[path]}={self.texts[path][index]}"

    def cell(self, indices: Sequence[int], name: str | None = None) -> DesignCell:
        """The cell with these level indices; by default named after what differs from the base."""
        levels = {path: of[index] for (path, of), index in zip(self.factors.items(), indices, strict=True)}
        differing = [(path, index) for path, index in zip(self.factors, indices, strict=True) if index]
        changes = {path: levels[path] for path, _ in differing}
        differences = ", ".join(self.level(path, index) for path, index in differing)
        return DesignCell(name or differences or BASE, changes, levels)


def _full(factors: Factors) -> Design:
    count = 1
    for levels in factors.values():
        count *= len(levels)
    if count > MOST_CELLS:
        raise AkdtuneError(
            f"full_factorial over these factors has {count} cells, at most {MOST_CELLS} are allowed: use fewer factors,"
            " fractional_factorial or leave_one_out"
        )
    names = _Names(factors)
    combinations = itertools.product(*(range(len(levels)) for levels in factors.values()))
    return Design([names.cell(indices) for indices in combinations])


def _leave_one_out(factors: Factors) -> Design:
    names = _Names(factors)
    cells = [names.cell([0] * len(factors))]
    for place, levels in enumerate(factors.values()):
        cells += [names.cell(_with([0] * len(factors), place, level)) for level in range(1, len(levels))]
    return Design(cells)


def _add_one_in(factors: Factors) -> Design:
    names = _Names(factors)
    start = [len(levels) - 1 for levels in factors.values()]
    cells = [names.cell(start, EMPTY)]
    if len(factors) > 1:
        for place, path in enumerate(factors):
            cells.append(names.cell(_with(start, place, 0), f"+{names.level(path, 0)}"))
    cells.append(names.cell([0] * len(factors)))
    return Design(cells)


def _path(factors: Factors) -> Design:
    names = _Names(factors)
    count, end = len(factors), [len(levels) - 1 for levels in factors.values()]
    paths = list(factors)
    forward = [end[:done] + [0] * (count - done) for done in range(count + 1)]
    backward = [[0] * done + end[done:] for done in range(count + 1)]
    cells: dict[tuple[int, ...], DesignCell] = {}
    for done, indices in enumerate(forward):
        changed = names.level(paths[done - 1], indices[done - 1]) if done else ""
        name = BASE if not done else END if done == count else f"forward {done}: {changed}"
        cells[tuple(indices)] = names.cell(indices, name)
    for done, indices in enumerate(backward):
        changed = names.level(paths[done - 1], 0) if done else ""
        cells.setdefault(tuple(indices), names.cell(indices, f"backward {done}: {changed}"))
    steps = " -> ".join(names.level(path, last) for path, last in zip(paths, end, strict=True))
    notes = [
        f"forward: from {BASE} to {END}, changes made in this order and kept: {steps}",
        f"backward: from {END} to {BASE}, the same changes taken back in the same order; a change whose effect differs"
        " between the directions interacts with others",
    ]
    return Design(list(cells.values()), notes=notes)


def _arms(factors: Factors, arms: Mapping[str, Mapping[str, Any]] | None) -> Design:
    if factors:
        raise AkdtuneError("design 'arms' has named configurations under arms: and no factors")
    if not isinstance(arms, Mapping) or not arms:
        raise AkdtuneError(f"design 'arms' needs arms: at least one name with its changes, got {shown(arms)}")
    for name, changes in arms.items():
        if not isinstance(name, str) or not name.strip():
            raise AkdtuneError(f"arms: a name must be text, got {shown(name)}")
        if not isinstance(changes, Mapping):
            raise AkdtuneError(f"arms.{name}: must be a mapping from key path to value, got {shown(changes)}")
        for path in changes:
            _check_path(f"arms.{name}", path)
    return Design([DesignCell(name, dict(changes)) for name, changes in arms.items()])


def _with(indices: Sequence[int], place: int, index: int) -> list[int]:
    return [index if at == place else old for at, old in enumerate(indices)]


# ----------------------------------------------------------------------------------------------------------- fractions


def _fraction(factors: Factors, wanted: int) -> Design:
    for path, levels in factors.items():
        if len(levels) != 2:
            raise AkdtuneError(
                f"factors.{path}: fractional_factorial takes factors of exactly two levels, got {len(levels)}"
            )
    count = len(factors)
    if count > MOST_TWO_LEVEL_FACTORS:
        raise AkdtuneError(f"fractional_factorial takes at most {MOST_TWO_LEVEL_FACTORS} factors, got {count}")
    columns, reached, proven = smallest_fraction(count, wanted)
    names = _Names(factors)
    if columns is None:
        note = f"no fraction of {count} two-level factors has resolution {RESOLUTIONS[wanted]}: this is the full design"
        return Design(_full(factors).cells, notes=[note])
    base = max(columns).bit_length()
    cells = []
    for run in range(2**base):
        bits = int(format(run, f"0{base}b")[::-1], 2)  # the first factor changes slowest, as in the full design
        cells.append(names.cell([(column & bits).bit_count() % 2 for column in columns]))
    short = [names.short[path] for path in factors]
    words = [_product(word, short) for word in defining_words(columns)]
    notes = [
        f"2^({count}-{count - base}) fraction of resolution {roman(reached)}: {len(cells)} of {2**count} cells;"
        f" I = {' = '.join(sorted(words, key=lambda word: (word.count('*'), word)))}",
        "effects of one factor and of two that are not listed as aliases are confounded with those of three or more"
        " factors only",
    ]
    if not proven:
        notes.append(f"a smaller fraction may exist: the search ended after {SEARCH_STEPS:,} steps")
    return Design(cells, _aliases(columns, short), roman(reached), notes)


def smallest_fraction(count: int, wanted: int) -> tuple[list[int] | None, int, bool]:
    """The smallest two-level fraction of at least a resolution.

    Args:
        count: of factors.
        wanted: every word of the defining relation has at least so many letters.

    Returns:
        A column (bit mask over base factors) for each factor, None where only the full design will do; the resolution
        that is reached; whether no smaller fraction exists.
    """
    proven = True
    for base in range(1, count):
        columns, complete = _columns(count, base, wanted)
        proven &= complete or columns is not None
        if columns is None:
            continue
        while (better := _columns(count, base, resolution_of(columns) + 1)[0]) is not None:
            columns = better
        return columns, resolution_of(columns), proven
    return None, 0, proven


def _columns(count: int, base: int, wanted: int) -> tuple[list[int] | None, bool]:
    """Columns of which any `wanted - 1` are independent, by backtracking; and whether the search was complete."""
    candidates = sorted(
        (mask for mask in range(1, 2**base) if mask.bit_count() >= wanted - 1), key=lambda m: (-m.bit_count(), m)
    )
    steps = 0

    def extend(columns: list[int], start: int) -> list[int] | None:
        nonlocal steps
        if len(columns) == count:
            return columns
        taken = _sums(columns, wanted - 2)
        for place in range(start, len(candidates) - (count - len(columns)) + 1):
            steps += 1
            if steps > SEARCH_STEPS:
                return None
            if candidates[place] not in taken and (extended := extend([*columns, candidates[place]], place + 1)):
                return extended
        return None

    return extend([1 << bit for bit in range(base)], 0), steps <= SEARCH_STEPS


def _sums(columns: Sequence[int], most: int) -> set[int]:
    """Sums modulo 2 of at most so many different columns."""
    sums = {0}
    for size in range(1, most + 1):
        for chosen in itertools.combinations(columns, size):
            total = 0
            for column in chosen:
                total ^= column
            sums.add(total)
    return sums


def defining_words(columns: Sequence[int]) -> list[int]:
    """The defining relation without I: every set of factors (bit mask) whose columns add up to nothing."""
    base = max(columns).bit_length()
    generators = [column | 1 << (base + place) for place, column in enumerate(columns[base:])]
    words = [0]
    for generator in generators:
        words += [word ^ generator for word in words]
    return words[1:]


def resolution_of(columns: Sequence[int]) -> int:
    """Letters of the shortest word."""
    return min(word.bit_count() for word in defining_words(columns))


def roman(number: int) -> str:
    """A resolution as it is written, III to XVI."""
    text = "X" * (number // 10)
    return text + ("", "I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX")[number % 10]


def _aliases(columns: Sequence[int], short: Sequence[str]) -> list[str]:
    """Main effects and two-factor interactions that share a column of the design."""
    effects: dict[int, list[str]] = {}
    for size in (1, 2):
        for chosen in itertools.combinations(range(len(columns)), size):
            total = 0
            for place in chosen:
                total ^= columns[place]
            effects.setdefault(total, []).append("*".join(short[place] for place in chosen))
    return [" = ".join(alike) for alike in effects.values() if len(alike) > 1]


def _product(word: int, short: Sequence[str]) -> str:
    return "*".join(name for place, name in enumerate(short) if word >> place & 1)

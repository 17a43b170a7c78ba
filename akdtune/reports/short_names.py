"""Settings shown short: names as short as they are unambiguous, values with few digits, what is constant said once."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

PARAM = "param."
"""What the columns of searched settings in `trials.parquet` begin with."""

PLAIN_BELOW = 1e7
"""Larger numbers that are not whole are shown with an exponent."""


def searched(row: Mapping[str, Any]) -> dict[str, Any]:
    """The searched settings of a trial, by key path: `{"views.margin": 0.4}`.

    Args:
        row: of `trials.parquet`; a setting that the trial's arm does not search is None there.
    """
    settings = _settings_among(tuple(row))
    return {path: value for name, path in settings if (value := row[name]) is not None}


@lru_cache(maxsize=16)
def _settings_among(columns: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Columns of searched settings with their key paths; all rows of a table have the same columns."""
    return tuple((name, name.removeprefix(PARAM)) for name in columns if _is_param(name))


def short_names(names: Iterable[str], taken: Collection[str] = ()) -> dict[str, str]:
    """The shortest ending of each name that no other one has: `{"views.margin": "margin"}`.

    A setting of a method keeps the method's name (`kd.weight`), because every method has a weight. Names should be
    those of the whole study, so that a setting is called the same in every table of it.

    Args:
        names: key paths that occur side by side.
        taken: words that mean something else there, such as headings of other columns.

    Returns:
        By name, in their order. Different names have different short ones; none is empty or begins with a number.
    """
    listed = list(dict.fromkeys(names))
    meant = Counter(ending for name in listed for ending in _endings(name))
    barred = set(taken)
    return {
        name: next(
            (
                ending
                for ending in _endings(name)
                if meant[ending] == 1 and ending not in barred and _speaks(ending, name)
            ),
            name,
        )
        for name in listed
    }


def _endings(name: str) -> list[str]:
    """The name without 0, 1, ... of its first parts, the shortest first."""
    parts = name.split(".")
    return [".".join(parts[place:]) for place in reversed(range(len(parts)))]


def _speaks(ending: str, name: str) -> bool:
    first = ending.partition(".")[0]
    of_method = name.startswith("method.") and name.count(".") > 1
    return bool(first) and not first.isdigit() and not (of_method and "." not in ending)


def short_value(value: Any) -> str:
    """A value as a table shows it: four digits of a number, words as settings files write them; empty for None."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return _short_number(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_inside(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_inside, value)) + "]"
    return str(value)


def _inside(value: Any) -> str:
    return "null" if value is None else short_value(value)


def _short_number(value: float) -> str:
    if 999.95 <= abs(value) < PLAIN_BELOW:
        return f"{value:.0f}"
    return f"{value:.4g}"


def settings_text(settings: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """Settings on one line: `margin=0.4 kd.weight=1.5`; words with a space in them are quoted.

    Args:
        settings: by full name.
        names: short ones, as `short_names` gives them; a setting without one keeps its own.
    """
    return " ".join(f"{names.get(name, name)}={_one_word(value)}" for name, value in settings.items())


def _one_word(value: Any) -> str:
    text = short_value(value)
    bare = bool(text) and (text[0] in "[{" or not any(map(str.isspace, text)))
    return text if bare else json.dumps(text, ensure_ascii=False)


class Separated(NamedTuple):
    """What is the same in all rows, with its value, and the names of what is not, in the order of appearance."""

    constant: dict[str, Any]
    varying: list[str]


def separated(rows: Sequence[Mapping[str, Any]]) -> Separated:
    """Which entries are the same in every row, and which are not.

    What some rows lack is not constant; of fewer than two rows nothing is.

    Args:
        rows: settings or columns of trials, by name.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    constant = {
        name: rows[0][name]
        for name in names
        if len(rows) > 1 and all(name in row and _same(row[name], rows[0][name]) for row in rows)
    }
    return Separated(constant, [name for name in names if name not in constant])


def _same(a: Any, b: Any) -> bool:
    """Whether two values are shown as one; NaN is NaN, and true is not 1."""
    both_nan = isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b)
    return both_nan or (a == b and isinstance(a, bool) == isinstance(b, bool))


def _is_param(name: str) -> bool:
    return name.startswith(PARAM)

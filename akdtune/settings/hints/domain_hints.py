"""Values in place of one setting that were meant to be searched over: `[1, 3, 5]`, `1,3,5`, `uniform(0, 1)`."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from akdtune.settings.file import shown

LONGEST_LIST = 100
"""Items of a list that is taken for a choice."""

_FUNCTIONS = {
    "choice": "choice", "grid": "grid", "grid_search": "grid", "categorical": "choice",
    "uniform": "uniform", "float": "uniform", "loguniform": "log_uniform", "log_uniform": "log_uniform",
    "quniform": "quantized_uniform", "quantized_uniform": "quantized_uniform",
    "randint": "int_uniform", "int": "int_uniform", "int_uniform": "int_uniform",
    "lograndint": "log_int_uniform", "log_int_uniform": "log_int_uniform",
}  # fmt: skip
"""What other tools, Ray Tune and Optuna among them, call our domains."""

_CALL = re.compile(r"(?:tune\.|suggest_)*([a-z_]+)\s*\((.*)\)", re.DOTALL)
_NUMBER = r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
_BETWEEN = re.compile(rf"({_NUMBER})\s*(?:\.\.+|…|–|:|\bto\b)\s*({_NUMBER})")


def takes(field: FieldInfo, value: Any) -> bool:
    """Whether a setting takes a plain value."""
    wanted: Any = field.annotation
    for limit in field.metadata:
        wanted = Annotated[wanted, limit]
    try:
        TypeAdapter(wanted).validate_json(json.dumps(value), strict=True)
    except (ValidationError, TypeError, ValueError):
        return False
    return True


def as_domain(field: FieldInfo, got: Any) -> str | None:
    """How to write the domain that was probably meant, as YAML; None where nothing of the kind stands there.

    Args:
        field: of the setting.
        got: what stands there, and is not one value of the setting.
    """
    if takes(field, got):
        return None
    if isinstance(got, str) and (call := _CALL.fullmatch(got.strip())) and call[1] in _FUNCTIONS:
        key, items = _FUNCTIONS[call[1]], _listed(call[2].strip().removeprefix("[").removesuffix("]"))
        return _written(key, items) if items and all(takes(field, item) for item in items) else None
    if isinstance(got, str) and (ends := _BETWEEN.fullmatch(got.strip())):
        return _range(field, [_plain(ends[1]), _plain(ends[2])])
    items = _items(field, got)
    if len(items) < 2 or len(items) > LONGEST_LIST or not all(takes(field, item) for item in items):
        return None
    between = _range(field, items) if len(items) == 2 else None
    choice = _written("choice", items)
    return choice if between is None else f"{choice} (one of these) or {between} (any between)"


def _items(field: FieldInfo, got: Any) -> list[Any]:
    if isinstance(got, list):
        return got
    if isinstance(got, dict) and got and all(value is None for value in got.values()):  # {0.1, 0.5}
        return [_plain(key) for key in got]
    if isinstance(got, str) and re.search(r"[,|/;]", got):
        if re.fullmatch(r"[-+]?[0-9]+,[0-9]+", got.strip()) and takes(field, 0.5):
            return []  # a comma in place of the point
        return _listed(got)
    return []


def _listed(text: str) -> list[Any]:
    return [_plain(part) for part in re.split(r"[,|/;]", text) if part.strip()]


def _plain(text: str) -> Any:
    text = text.strip().strip("'\"")
    if re.fullmatch(r"[-+]?[0-9]{1,15}", text):
        return int(text)
    return float(text) if re.fullmatch(_NUMBER, text) and math.isfinite(float(text)) else text


def _range(field: FieldInfo, ends: Sequence[Any]) -> str | None:
    """A range between two numbers that the setting takes."""
    numbers = all(isinstance(end, int | float) and not isinstance(end, bool) for end in ends)
    if not numbers or not ends[0] < ends[1] or not all(takes(field, end) for end in ends):
        return None
    middle = (ends[0] + ends[1]) / 2
    whole = all(isinstance(end, int) for end in ends) and not takes(field, math.floor(middle) + 0.5)
    return _written("int_uniform" if whole else "uniform", ends)


def _written(key: str, items: Sequence[Any]) -> str:
    listed = ", ".join(item if isinstance(item, str) and re.fullmatch(r"\w+", item) else shown(item) for item in items)
    return f"{{{key}: [{listed}]}}"

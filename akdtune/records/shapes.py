"""Whether what a file holds has the form that it is written in; what has not is one sentence with file and key."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from akdtune.errors import StudyError

_NAMES = {
    dict: "a mapping",
    list: "a list",
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
}


def read_json(path: Path, wanted: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
    """A file with one JSON object; None where there is no file.

    Args:
        path: the file.
        wanted: its keys and their types, see `check_shape`; those that are not named may be anything.

    Raises:
        StudyError: naming the file, for one that cannot be read or is of another form.
    """
    try:
        held = json.loads(path.read_bytes().decode("utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StudyError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, RecursionError) as error:
        reason = "empty" if _is_empty(path) else f"no JSON ({str(error).splitlines()[0]})"
        raise StudyError(f"{path}: damaged, {reason}") from error
    if not isinstance(held, dict):
        raise StudyError(f"{path}: damaged, holds {_named(held)} and no keys")
    check_shape(path, held, wanted or {})
    return held


def check_shape(path: Path | str, held: Any, wanted: Mapping[str, Any], required: Iterable[str] | None = None) -> None:
    """Refuses what lacks keys or has values of other types.

    Args:
        path: the file, for the message.
        held: its content.
        wanted: type, or types, by dotted key; None among them: it may be null.
        required: keys that must be there; default: all of `wanted`.

    Raises:
        StudyError: naming the file and the first key.
    """
    for key in wanted if required is None else required:
        if _at(held, key) is _MISSING:
            raise StudyError(f"{path}: damaged, {key} is missing; restore it from a copy")
    for key, kinds in wanted.items():
        value = _at(held, key)
        if value is not _MISSING and not _is_one_of(value, kinds if isinstance(kinds, tuple) else (kinds,)):
            allowed = kinds if isinstance(kinds, tuple) else (kinds,)
            names = " or ".join("nothing" if kind is None else _NAMES[kind] for kind in allowed)
            raise StudyError(f"{path}: damaged, {key} must be {names}, is {_named(value)}; restore it from a copy")


_MISSING = object()


def _at(held: Any, key: str) -> Any:
    for part in key.split("."):
        if not isinstance(held, Mapping) or part not in held:
            return _MISSING
        held = held[part]
    return held


def _is_one_of(value: Any, kinds: tuple[Any, ...]) -> bool:
    if value is None or isinstance(value, bool):
        return (None if value is None else bool) in kinds
    return any(isinstance(value, (int, float) if kind is float else kind) for kind in kinds if kind is not None)


def _named(value: Any) -> str:
    if value is None:
        return "nothing"
    return _NAMES.get(type(value), type(value).__name__)


def _is_empty(path: Path) -> bool:
    return path.stat().st_size == 0

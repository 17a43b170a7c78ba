"""What pydantic found wrong with some values, in words a user can act on."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from akdtune.errors import nearest, unknown_name
from akdtune.settings.file import DOMAINS, KeyPath, shown
from akdtune.settings.hints.domain_hints import as_domain
from akdtune.settings.training import ONE_PER_STUDY

Model = TypeVar("Model", bound=BaseModel)

_KINDS = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "none_required": "null",
}
_BOUNDS = {
    "greater_than": ("above", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("below", "lt"),
    "less_than_equal": ("at most", "le"),
    "multiple_of": ("a multiple of", "multiple_of"),
}


def typed(
    model: type[Model], values: Mapping[str, Any], also: Iterable[str] = (), searched: bool = False
) -> tuple[Model | None, list[tuple[KeyPath, str]]]:
    """Reads values strictly into a model (`true` is no number, '4' is text).

    Args:
        model: the settings class.
        values: plain JSON.
        also: keys beside the model's own that may stand there, to be named among the allowed ones.
        searched: whether a domain may stand for a value, so that a list may be one that was meant.

    Returns:
        The typed settings, or None and every problem with its path below `values`.
    """
    try:
        return model.model_validate_json(json.dumps(values), strict=True), []
    except ValidationError as error:
        return None, list(_explained(error, values, model, tuple(also), searched))


def _explained(
    error: ValidationError, values: Mapping[str, Any], model: type[BaseModel], also: tuple[str, ...], searched: bool
) -> Iterator[tuple[KeyPath, str]]:
    wanted: dict[KeyPath, list[str]] = {}
    for detail in error.errors(include_url=False):
        path, got = _inside(values, detail["loc"])
        kind = detail["type"]
        if kind == "missing":
            # The path must name the missing key, though only its mapping stands in the file.
            key = str(detail["loc"][-1])
            yield (*path, key), f"is missing{_example(key, _model_at(model, path))}"
        elif kind == "extra_forbidden":
            owner = _model_at(model, path[:-1])
            allowed = [*(also if len(path) == 1 else ()), *(owner.model_fields if owner else ())]
            yield path, _unknown(str(path[-1]), allowed)
        elif kind in ("value_error", "assertion_error"):
            text = detail["msg"].split(", ", 1)[-1]
            yield _named_in(text, path, got), text
        else:
            wanted.setdefault(path, []).append(_must_be(detail))
    for path, options in wanted.items():
        _, got = _inside(values, path)
        domain = _domain_at(model, path, got) if searched else None
        hint = _hint(options, got) if domain is None else f"; to search over these, write {domain}"
        yield path, f"must be {' or '.join(dict.fromkeys(options))}, got {shown(got)}{hint}"


def _domain_at(model: type[BaseModel], path: KeyPath, got: Any) -> str | None:
    """The domain that the value at a path was probably meant to be."""
    owner = _model_at(model, path[:-1])
    field = owner.model_fields.get(str(path[-1])) if owner is not None and path else None
    return None if field is None or path[-1] in ONE_PER_STUDY else as_domain(field, got)


def _example(key: str, owner: type[BaseModel] | None) -> str:
    """What can be pasted for a missing key, where its field has an example."""
    field = owner.model_fields.get(key) if owner is not None else None
    if field is None or not field.examples:
        return ""
    return f" (for example `{key}: {shown(field.examples[0])}`: {field.description})"


def _unknown(key: str, allowed: list[str]) -> str:
    """An unknown key; where many are allowed and one is close, the close one says enough."""
    close = nearest(key, allowed)
    if close and len(allowed) > 12:
        return f"unknown key '{key}'; did you mean '{close}'? (`akdtune schema` lists all {len(allowed)})"
    return unknown_name("key", key, allowed)


def _must_be(detail: ErrorDetails) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind in _KINDS:
        return _KINDS[kind]
    if kind in _BOUNDS:
        words, name = _BOUNDS[kind]
        return f"{words} {context[name]:g}"
    if kind in ("literal_error", "enum"):
        expected = str(context["expected"])
        return f"one of {expected.replace(' or ', ', ')}" if " or " in expected else expected
    if kind in ("too_short", "string_too_short"):
        return f"at least {context.get('min_length')} long"
    if kind in ("too_long", "string_too_long"):
        return f"at most {context.get('max_length')} long"
    if kind == "string_pattern_mismatch":
        return f"text of the form {context['pattern']}"
    message = detail["msg"]
    return message.removeprefix("Input should be ").removeprefix("a valid ")


def _hint(options: list[str], got: Any) -> str:
    """The nearest allowed word, or the domain that a mapping in place of a value was probably meant to be."""
    if plain := _plainly(options, got):
        return f"; write {plain}"
    if isinstance(got, str):
        close = nearest(got, [word for option in options for word in re.findall(r"'([^']*)'", option)])
        return f"; did you mean '{close}'?" if close else ""
    if any("text" in option for option in options) and isinstance(got, bool | int | float):
        return "; in quotes it is text"
    if isinstance(got, dict) and len(got) == 1:
        close = nearest(next(iter(got)), DOMAINS)
        return f"; did you mean the domain '{close}'?" if close else ""
    return ""


_TRUTH = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}
_TRUTH |= {word: word for word in ("true", "false")}


def _plainly(options: list[str], got: Any) -> str | None:
    """How to write what was probably meant, where a number or truth value is wanted and something like it stands."""
    if isinstance(got, float) and got.is_integer() and "a whole number" in options:
        return str(int(got)) if abs(got) < 1e15 else None
    if not isinstance(got, str):
        return None
    word = got.strip().lower()
    if "true or false" in options:
        return _TRUTH.get(word)
    if not any(option in ("a number", "a whole number") for option in options):
        return None
    if re.fullmatch(r"[-+]?[0-9]{1,15}", word) or ("a number" in options and re.fullmatch(_DECIMAL, word)):
        return f"{word} without quotes"
    if re.fullmatch(r"[-+]?[0-9]{1,3}(?:_[0-9]{3})+|[-+]?[0-9_]{1,15}", word):
        return word.replace("_", "")
    if re.fullmatch(r"[0-9]+:[0-9:.]+", word):
        return "a number without ':'"
    return "a point instead of the comma" if re.fullmatch(r"[-+]?[0-9]+,[0-9]+", word) else None


_DECIMAL = r"[-+]?(?:[0-9]{1,15}(?:\.[0-9]{0,17})?|\.[0-9]{1,17})(?:e[-+]?[0-9]{1,3})?"


def _inside(values: Any, location: Iterable[int | str]) -> tuple[KeyPath, Any]:
    """The part of a location that exists in the values (the rest names members of unions), and what stands there."""
    path: list[str | int] = []
    for key in location:
        inside = isinstance(values, dict) and key in values
        if isinstance(values, dict) and not inside:
            continue
        if not inside and not (isinstance(values, list) and isinstance(key, int) and key < len(values)):
            break
        values = values[key]
        path.append(key)
    return tuple(path), values


def _named_in(text: str, path: KeyPath, got: Any) -> KeyPath:
    """The key that a model's own message begins with, if it stands there: the closest place to show."""
    first = text.split(" ", 1)[0].strip("'")
    return (*path, first) if isinstance(got, dict) and first in got else path


def _model_at(model: type[BaseModel], path: KeyPath) -> type[BaseModel] | None:
    """The settings class that describes the mapping at a path below `model`."""
    for key in path:
        field = model.model_fields.get(str(key))
        if isinstance(key, int):
            continue
        inner = next(_models(field.annotation), None) if field else None
        if inner is None:
            return None
        model = inner
    return model


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)

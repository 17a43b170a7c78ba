"""Settings as lines: name, type and range, default, what it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def setting_rows(properties: Mapping[str, Any], schema: Mapping[str, Any]) -> Iterator[str]:
    """A line for each of some settings, in columns.

    Args:
        properties: their schemas, by name.
        schema: that has the definitions they refer to.
    """
    rows = [
        (key, _allowed(field, schema), "needed" if "default" not in field else f"default {shown(field['default'])}")
        for key, field in properties.items()
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row, field in zip(rows, properties.values(), strict=True):
        columns = "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        yield f"  {columns}  {field.get('description', '')}".rstrip()


def _allowed(field: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """Type and range of a setting: `number > 0`, `paper | released`, `integer 1..6 or null`."""
    if "anyOf" in field:
        return " or ".join(_allowed(option, schema) for option in field["anyOf"])
    if "$ref" in field:
        return _allowed(schema["$defs"][field["$ref"].rpartition("/")[2]], schema)
    if "enum" in field:
        return " | ".join(str(value) for value in field["enum"])
    if "const" in field:
        return str(field["const"])
    kind = str(field.get("type", "any"))
    if kind == "object" and "properties" in field:
        return "mapping"
    if kind == "array":
        return f"list of {_allowed(field.get('items', {}), schema)}"
    bounds = {">=": "minimum", ">": "exclusiveMinimum", "<=": "maximum", "<": "exclusiveMaximum"}
    limits = [f"{sign} {_number(field[key])}" for sign, key in bounds.items() if key in field]
    return " ".join([kind, " and ".join(limits)]) if limits else kind


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else f"{value:g}"


def shown(value: Any) -> str:
    """A default as YAML has it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)

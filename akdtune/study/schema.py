"""The JSON schema of a study file: every setting of a trial as a constant or as a domain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from akdtune.registry import NO_NETWORK, Kind, families, lookup, names
from akdtune.settings.data import DataSettings
from akdtune.settings.file import BASE
from akdtune.settings.sections import STUDY_LEVEL
from akdtune.settings.teacher import TeacherSettings
from akdtune.settings.tracking import every_logger
from akdtune.settings.training import ONE_PER_STUDY, StudentSettings, TrainingSettings

Schema = dict[str, Any]

_NUMBERS: Schema = {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}
_WHOLE: Schema = {**_NUMBERS, "items": {"type": "integer"}}
_POSITIVE: Schema = {**_NUMBERS, "items": {"type": "number", "exclusiveMinimum": 0}}
_RANGES: dict[str, tuple[str, Schema]] = {
    "uniform": ("[low, high]: any number between, all equally likely", _NUMBERS),
    "log_uniform": ("[low, high]: any number between, even on a logarithmic scale", _POSITIVE),
    "quantized_uniform": ("[low, high, step]: low, low + step, ... high", {**_NUMBERS, "minItems": 3, "maxItems": 3}),
    "int_uniform": ("[low, high]: any whole number between", _WHOLE),
    "log_int_uniform": ("[low, high]: any whole number between, even on a logarithmic scale",
                        {**_WHOLE, "items": {"type": "integer", "exclusiveMinimum": 0}}),
}  # fmt: skip


def json_schema() -> Schema:
    """The JSON schema of a study file with every registered component in it; editors complete and check by it."""
    definitions: Schema = {
        "range": _one_key({key: {**body, "description": text} for key, (text, body) in _RANGES.items()})
    }
    for kind in ("views", "methods", "selections", "networks"):
        definitions.update(_components(kind, searched=True, name=kind))
    definitions.update(_components("networks", searched=False, name="fixed_networks"))
    definitions.update(_components("tasks", searched=False, name="tasks"))
    several = {"type": "array", "items": _ref("fixed_teacher")}
    nested = {"others": several, "distilled_from": several}
    none_further: Schema = {"type": "array", "maxItems": 0}
    definitions["fixed_teacher"] = _settings(
        TeacherSettings, {"network": _ref("fixed_networks"), **nested, "others": none_further}
    )
    absent: list[Schema] = [{"const": NO_NETWORK}, _mapping({"name": {"const": NO_NETWORK}}, ["name"])]
    main_network = {"anyOf": [_ref("fixed_networks"), *absent]}
    method = _ref("methods")
    of_rows = [
        _settings(source.Settings, {"name": {"const": name}})
        for name in names("data")
        if (source := lookup("data", name)).takes != "images"
    ]
    sections: Schema = {
        "study": {
            "type": "string",
            "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*$",
            "description": "names the study directory",
        },
        "task": {"anyOf": [_ref("tasks"), {"type": "null"}], "description": "what is trained for; null: image"},
        "data": {"anyOf": [_settings(DataSettings), *of_rows]} if of_rows else _settings(DataSettings),
        "teacher": {"anyOf": [_settings(TeacherSettings, {"network": main_network, **nested}), {"const": NO_NETWORK}]},
        "student": _or_choice(_settings(StudentSettings, {"network": _or_choice(_ref("networks"))}, searched=True)),
        "views": {"anyOf": [_or_choice(_ref("views")), {"type": "null"}]},
        "method": _or_choice({"anyOf": [method, {"type": "array", "items": _or_choice(method), "minItems": 1}]}),
        "selection": {
            "anyOf": [_or_choice(_ref("selections")), {"type": "null"}],
            "description": "which rows of a batch are distilled; null: all",
        },
        "training": {"anyOf": [_or_choice(_training()), {"type": "null"}]},
        **{section: {"anyOf": [_settings(model), {"type": "null"}]} for section, model in STUDY_LEVEL.items()},
        "tracking": {"anyOf": [_settings(every_logger()), {"type": "null"}]},
        "plugins": {"type": "array", "items": {"type": "string"}, "description": "modules that register components"},
    }
    base: Schema = {
        "type": ["string", "null"],
        "description": "file (relative to this one) or packaged study that this one takes over: what stands here wins",
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "akdtune study",
        **_mapping({"study": sections["study"], BASE: base, **_partial(sections)}, []),
        # what is missing stands in the file that is taken over
        "if": {"properties": {BASE: {"type": "string"}}, "required": [BASE]},
        "else": {"properties": sections, "required": ["data", "teacher", "student", "method"]},
        "$defs": {**definitions, **{f"{PART}{name}": _partial(schema) for name, schema in definitions.items()}},
    }


PART = "part_of."
"""What the names of definitions begin with in which nothing is required."""


def _partial(node: Any) -> Any:
    """A schema without required keys, for a file that says only what differs from another."""
    if isinstance(node, list):
        return [_partial(item) for item in node]
    if not isinstance(node, dict):
        return node
    closed = node.get("additionalProperties") is False  # an open one would take anything
    partial = {key: _partial(item) for key, item in node.items() if key != "required" or not closed}
    if isinstance(node.get("$ref"), str):
        partial["$ref"] = node["$ref"].replace("#/$defs/", f"#/$defs/{PART}")
    return partial


def _components(kind: Kind, searched: bool, name: str) -> Schema:
    """Definitions of each component of a kind, and of any one of them, with or without domains."""
    known = names(kind)
    definitions = {}
    for component in known:
        model = lookup(kind, component).Settings
        schema = _settings(model, {"name": {"const": component}}, searched=searched)
        definitions[f"{name}.{component}"] = {**schema, "required": ["name", *schema.get("required", [])]}
    options: list[Schema] = [{"enum": known}, *({"$ref": f"#/$defs/{key}"} for key in definitions)]
    if searched:
        # A searched name: its other keys belong to whichever component is drawn.
        drawn = _one_key(
            {key: {"type": "array", "items": {"enum": known}, "minItems": 1} for key in ("choice", "grid")}
        )
        options.append({"type": "object", "properties": {"name": drawn}, "required": ["name"]})
    for family in families(kind):  # of another library: their settings are not listed
        named: Schema = {"type": "string", "pattern": f"^{family}/."}
        options += [named, {"type": "object", "properties": {"name": named}, "required": ["name"]}]
    return {**definitions, name: {"anyOf": options}}


def _settings(
    model: type[BaseModel],
    extra: Mapping[str, Schema] | None = None,
    constant: frozenset[str] | set[str] = frozenset(),
    searched: bool = False,
) -> Schema:
    """A settings class as a schema without references; with `searched`, each value may also be a domain."""
    schema = model.model_json_schema()
    whole = _inlined(schema, schema.get("$defs", {}))
    properties = {**whole.get("properties", {}), **(extra or {})}
    kept = set(extra or ()) | set(constant)
    if searched:
        properties = {key: item if key in kept else _or_domain(item) for key, item in properties.items()}
    described = {"description": whole["description"]} if "description" in whole else {}
    return {**described, **_mapping(properties, whole.get("required", []))}


def _training() -> Schema:
    """A student's training, each setting a constant or a domain, and so is each part of its augmentation."""
    whole = _settings(TrainingSettings)["properties"]["augmentation"]
    return _settings(
        TrainingSettings, {"augmentation": _or_choice(_parts_or_domains(whole))}, ONE_PER_STUDY, searched=True
    )


def _parts_or_domains(node: Any) -> Any:
    """A schema in which domains may stand for the values of every mapping."""
    if isinstance(node, list):
        return [_parts_or_domains(item) for item in node]
    if not isinstance(node, dict):
        return node
    inside = {key: _parts_or_domains(item) for key, item in node.items()}
    if isinstance(node.get("properties"), dict):
        inside["properties"] = {key: _or_domain(item) for key, item in inside["properties"].items()}
    return inside


def _inlined(node: Any, definitions: Mapping[str, Any]) -> Any:
    if isinstance(node, list):
        return [_inlined(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        target = definitions[node["$ref"].rpartition("/")[2]]
        return _inlined({**target, **{key: item for key, item in node.items() if key != "$ref"}}, definitions)
    return {key: _inlined(item, definitions) for key, item in node.items() if key not in ("$defs", "title")}


def _or_domain(schema: Schema) -> Schema:
    """A constant, a choice of constants, or, for a number, a range."""
    numeric = any(part.get("type") in ("number", "integer") for part in [schema, *schema.get("anyOf", [])])
    return _or_choice(schema, _ref("range") if numeric else None)


def _or_choice(schema: Schema, also: Schema | None = None) -> Schema:
    described: Schema = {key: item for key, item in schema.items() if key in ("description", "default")}
    plain = {key: item for key, item in schema.items() if key not in described}
    options = {"type": "array", "items": {"anyOf": [plain, *([also] if also else [])]}, "minItems": 1}
    choice = _one_key({"choice": options, "grid": options})
    return {**described, "anyOf": [plain, choice, *([also] if also else [])]}


def _mapping(properties: Schema, required: list[str]) -> Schema:
    needed = {"required": required} if required else {}
    return {"type": "object", "properties": properties, **needed, "additionalProperties": False}


def _one_key(properties: Schema) -> Schema:
    return {**_mapping(properties, []), "minProperties": 1, "maxProperties": 1}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}

"""What `akdtune data NAME` says of a data set: its settings with types and defaults, and an example to paste."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ruamel.yaml import YAML

from akdtune.cli.setting_rows import setting_rows, shown
from akdtune.registry import lookup, name_of, names
from akdtune.settings.data import EXAMPLES, OWNED_SETTINGS, DataSettings, RowDataSettings

_HIDDEN = ("name", "rehearsal")
"""Known anyway, or not a user's to set."""

STUDIES = {"images": "digits_angular", "tokens": "adaspec", "nodes": "pkd"}
"""Packaged studies of each kind of data, for examples."""

_VALIDATION = "validation: 0.1"


def settings_lines(source: Any) -> Iterator[str]:
    """An example, the settings that belong to this data set, and those of all."""
    line = example(source)
    quote = '"' if "'" in line else "'"
    yield "Example, as a line of a settings file and on the command line:"
    yield f"    data: {line}"
    yield f"    akdtune run {STUDIES[source.takes]} {quote}data={line}{quote}"
    if source.takes != "images":
        yield from _of_rows(source)
        return
    yield from _images(source)
    schema = DataSettings.model_json_schema()
    properties = {key: field for key, field in schema["properties"].items() if key not in _HIDDEN}
    for key in source.required_settings:
        properties[key] = {name: value for name, value in properties[key].items() if name != "default"}
    own = {key: field for key, field in properties.items() if key in source.own_settings}
    yield ""
    yield "Settings of its own:" if own else "Settings of its own: none"
    if own:
        yield from setting_rows(own, schema)
    yield ""
    yield "Settings of every data set:"
    common = {key: field for key, field in properties.items() if key not in OWNED_SETTINGS}
    yield from setting_rows(dict(_with_parts(common, schema["$defs"])), schema)


def _of_rows(source: Any) -> Iterator[str]:
    """What a data set holds that has no images, and its settings."""
    schema = source.Settings.model_json_schema()
    properties = {key: field for key, field in schema["properties"].items() if key not in _HIDDEN}
    own = {key: field for key, field in properties.items() if key not in RowDataSettings.model_fields}
    common = {key: field for key, field in properties.items() if key not in own}
    yield ""
    yield f"Holds {source.takes}: made for {' and '.join(_tasks_of(source.takes))}, and networks that take {source.takes}"
    yield ""
    yield "Settings of its own:" if own else "Settings of its own: none"
    if own:
        yield from setting_rows(dict(_with_parts(own, schema.get("$defs", {}))), schema)
    yield ""
    yield "Settings of every data set:"
    yield from setting_rows(common, schema)


def _tasks_of(takes: str) -> list[str]:
    """Tasks for which such data are made, as a study names them."""
    return [f"task: {name}" for name in names("tasks") if lookup("tasks", name).takes == takes]


def _images(source: Any) -> Iterator[str]:
    """What is known of the images without reading them, and the augmentation that is the data set's own."""
    settings = DataSettings.model_validate(YAML(typ="safe").load(example(source)))
    shape = source.shape(settings)
    known = {"channels": shape.channels, "size": shape.size, "num_classes": shape.num_classes}
    words = [f"{key} {value}" for key, value in known.items() if key not in shape.guessed]
    parts = source.augmentation(shape.size, shape.channels).facts()
    own = ", ".join(f"{key}: {shown(value)}" for key, value in parts.items())
    yield ""
    if words:
        yield f"Images: {', '.join(words)}"
    yield f"Own augmentation: {{{own}}}"


def example(source: Any) -> str:
    """A line that a settings file takes: the name, what is needed, and validation images."""
    if source.takes != "images":
        return str(source.example)
    needed = [EXAMPLES.get(key, f"{key}: ...") for key in source.required_settings]
    fetched = ["download: true"] if "download" in source.own_settings else []
    return "{" + ", ".join([f"name: {name_of(source)}", *needed, *fetched, _VALIDATION]) + "}"


def _with_parts(properties: Mapping[str, Any], definitions: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Settings, and behind each that is a mapping the settings inside it, unless another has shown them already."""
    known: set[str] = set()
    for key, field in properties.items():
        yield key, field
        for name in _references(field):
            inner = definitions[name]
            options = [inner, *inner.get("anyOf", [])]
            parts: Mapping[str, Any] = next((option["properties"] for option in options if "properties" in option), {})
            if name not in known:
                yield from ((f"{key}.{part}", of_part) for part, of_part in parts.items())
            known.add(name)


def _references(field: Mapping[str, Any]) -> list[str]:
    options = [field, *field.get("anyOf", [])]
    return [option["$ref"].rpartition("/")[2] for option in options if "$ref" in option]

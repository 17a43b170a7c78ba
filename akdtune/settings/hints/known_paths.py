"""Every key path that a study may have: a key without its section is answered with the whole path."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from akdtune.errors import AkdtuneError, nearest
from akdtune.registry import Kind, lookup
from akdtune.settings.data import DataSettings, data_model
from akdtune.settings.file import choice_key
from akdtune.settings.sections import STUDY_LEVEL, TRIAL_LEVEL
from akdtune.settings.teacher import TeacherSettings
from akdtune.settings.training import ONE_PER_STUDY, StudentSettings, TrainingSettings

MOST_SHOWN = 3
"""Paths that one message names."""

_ORDER = (
    "training", "search", "views", "method", "selection", "student", "scheduler", "resources", "tracking", "probe",
    "confirm", "ablation", "report", "data", "teacher", "teacher_cache", "record",
)  # fmt: skip
"""Which section is probably meant where several have a key."""

_OTHER_WORDS = {
    "arch": "student.network", "batch": "batch_size", "batchsize": "batch_size", "bs": "batch_size",
    "dataset": "data.name", "jobs": "concurrent", "learning_rate": "lr", "learningrate": "lr",
    "max_concurrent": "concurrent", "model": "student.network", "n_jobs": "concurrent", "optimiser": "optimizer",
    "parallel": "concurrent", "pruner": "scheduler.name", "sampler": "algorithm", "samples": "trials",
    "searcher": "algorithm", "t": "temperature", "tau": "temperature", "temp": "temperature",
    "timeout": "time_budget", "wd": "weight_decay",
}  # fmt: skip
"""What other tools call a setting."""

_SECTIONS: dict[str, type[BaseModel]] = {
    "data": DataSettings,
    "teacher": TeacherSettings,
    "student": StudentSettings,
    "training": TrainingSettings,
    **STUDY_LEVEL,
}
_COMPONENTS: dict[str, Kind] = {
    "views": "views", "method": "methods", "selection": "selections", "student": "networks", "teacher": "networks",
}  # fmt: skip


@dataclass(frozen=True)
class KnownSetting:
    """One setting that a study may have.

    Attributes:
        path: its full key path.
        field: type, bounds and default.
    """

    path: tuple[str, ...]
    field: FieldInfo

    @property
    def key(self) -> str:
        """The path as an override has it."""
        return ".".join(self.path)

    @property
    def is_searched(self) -> bool:
        """Whether it may be a domain."""
        return self.path[0] in TRIAL_LEVEL and self.path[-1] not in ONE_PER_STUDY


def known_settings(values: Mapping[str, Any]) -> list[KnownSetting]:
    """Every setting of a study: those of all sections, and those of the components that its values name."""
    models = {**_SECTIONS, "data": data_model(values.get("data"))}
    sections = (setting for name, model in models.items() for setting in _of_model(model, (name,)))
    return [*sections, *_of_components(values)]


def meant_by(key: str, values: Mapping[str, Any], nearly: bool = True) -> list[KnownSetting]:
    """The settings that a key without its section, or with a wrong one, probably means; the likeliest first.

    Args:
        key: as written, `trials`, `wandb.project`, `num-epochs`.
        values: plain values of the study, as far as they are known.
        nearly: whether names that are only similar count, too.
    """
    parts = re.sub(r"[\s-]+", "_", key.strip().lower()).strip("_").split(".")
    settings = known_settings(values)
    for start in range(len(parts)):
        for variant in _variants(parts[start:]):
            found = [setting for setting in settings if setting.path[-len(variant) :] == variant]
            if found:
                section = nearest(parts[0], {setting.path[0] for setting in found}) if start else None
                return _ranked([of for of in found if section in (None, of.path[0])], values)
    close = nearest(parts[-1], {setting.path[-1] for setting in settings}) if nearly and len(parts[-1]) > 2 else None
    return _ranked([setting for setting in settings if setting.path[-1] == close], values)


def _variants(parts: list[str]) -> Iterator[tuple[str, ...]]:
    """A key, then what other tools call it, then without a plural or a prefix such as `num_`."""
    *before, last = parts
    yield tuple(parts)
    if last in _OTHER_WORDS:
        yield (*before, *_OTHER_WORDS[last].split("."))
    bare = re.sub(r"^(?:n|num|number_of|max|total|total_num|random|train|training|student)_", "", last)
    for word in dict.fromkeys((bare, bare.removesuffix("s"), f"{bare}s", _OTHER_WORDS.get(bare, bare))):
        if word and word != last:
            yield (*before, *word.split("."))


def _ranked(found: Iterable[KnownSetting], values: Mapping[str, Any]) -> list[KnownSetting]:
    def rank(setting: KnownSetting) -> tuple[bool, int, int]:
        section = setting.path[0]
        return values.get(section) is None and bool(values), len(setting.path), _ORDER.index(section)

    return sorted({setting.path: setting for setting in found}.values(), key=rank)


def _of_model(model: type[BaseModel], path: tuple[str, ...]) -> Iterator[KnownSetting]:
    for name, field in model.model_fields.items():
        yield KnownSetting((*path, name), field)
        for inner in _mappings(field.annotation):
            yield from _of_model(inner, (*path, name))


def _mappings(annotation: Any) -> Iterator[type[BaseModel]]:
    """The settings classes that a value may be itself, not those of the items of a list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) is Annotated:
        yield from _mappings(get_args(annotation)[0])
    elif get_origin(annotation) not in (list, tuple, dict, set):
        for option in get_args(annotation):
            yield from _mappings(option)


def _of_components(values: Mapping[str, Any]) -> Iterator[KnownSetting]:
    """The settings of each component that a study names; where a section names several, below the component's name."""
    for section, kind in _COMPONENTS.items():
        node = values.get(section)
        path: tuple[str, ...] = (section,)
        if kind == "networks":
            node, path = node.get("network") if isinstance(node, Mapping) else None, (section, "network")
        found = list(dict.fromkeys(_named(node)))
        for name in found:
            try:
                fields = lookup(kind, name).Settings.model_fields
            except AkdtuneError:
                continue
            below = path if len(found) == 1 else (*path, name)
            yield from (KnownSetting((*below, key), field) for key, field in fields.items())


def _named(node: Any) -> Iterator[str]:
    """The names of the components that stand in a value: a name, a mapping, a sum, a choice of these."""
    options = choice_key(node)
    if isinstance(node, str):
        yield node
    elif options is not None:
        yield from _named(node[options])
    elif isinstance(node, Mapping):
        yield from _named(node.get("name"))
    elif isinstance(node, list):
        for item in node:
            yield from _named(item)

"""A study written out: with defaults filled in, and one configuration as YAML that runs as is."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

import yaml
from pydantic import BaseModel

from akdtune.registry import NO_NETWORK, Pair, lookup
from akdtune.settings import file as settings_file
from akdtune.settings.file import DOMAINS, choice_key
from akdtune.settings.messages import typed
from akdtune.settings.sections import TRIAL_LEVEL
from akdtune.settings.task import named_task
from akdtune.settings.teacher import CacheSettings
from akdtune.settings.training import TrainingSettings
from akdtune.settings.trial import published
from akdtune.study.teacher_rules import network_is, used_of


def with_defaults(value: Any, section: str, pairs: Set[Pair | None]) -> Any:
    """A section as written, with the defaults of every component in it, those published for the pairs included."""
    options = choice_key(value)
    if options is not None:
        return {options: [with_defaults(option, section, pairs) for option in value[options]]}
    if isinstance(value, list):
        return [with_defaults(term, section, pairs) for term in value]
    if not isinstance(value, dict):
        return value
    if section == "student":
        return {**value, "network": with_defaults(value["network"], "network", set())}
    if section == "training":
        # an augmentation has no default to fill in, and null says what its absence says
        given = {key: item for key, item in value.items() if key != "augmentation"}
        seen = {"augmentation": value["augmentation"]} if value.get("augmentation") is not None else {}
        return {**_defaults(TrainingSettings, _drawn(given)), **given, **seen}
    name = value.get("name")
    if not isinstance(name, str):
        return value
    given = {key: item for key, item in value.items() if key != "name"}
    drawn = _drawn(given)
    if section == "method":
        drawn = [{**published(name, settings, pair), **settings} for settings in drawn for pair in pairs]
    filled = _defaults(lookup(settings_file.COMPONENTS[section], name).Settings, drawn)
    return {"name": name, **{key: item for key, item in filled.items() if key not in given}, **given}


def _drawn(given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Settings without domains: the first option of each, then each other option of one of them at a time."""
    options = {key: list(_options(item)) for key, item in given.items()}
    first = {key: values[0] for key, values in options.items()}
    return [first, *({**first, key: other} for key, values in options.items() for other in values[1:])]


def _options(value: Any) -> Iterator[Any]:
    """Each option of a choice, the low end of a range, a constant itself; domains inside lists are decided alike."""
    key = next((key for key in value if key in DOMAINS), None) if isinstance(value, dict) else None
    if key in DOMAINS[2:]:
        yield value[key][0]
    elif key is not None:
        for option in value[key]:
            yield from _options(option)
    else:
        yield [next(_options(item)) for item in value] if isinstance(value, list) else value


def _defaults(model: type[BaseModel], drawn: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a settings class fills in whatever is drawn; nothing where what is drawn does not fit it."""
    filled = [settings.model_dump(mode="json") for values in drawn if (settings := typed(model, values)[0]) is not None]
    if len(filled) < len(drawn):
        return {}
    return {key: item for key, item in filled[0].items() if all(other[key] == item for other in filled)}


def _used(teacher: Mapping[str, Any]) -> str | dict[str, Any]:
    """A teacher's settings without those that did not matter, further teachers included."""
    if network_is(teacher, NO_NETWORK):
        return NO_NETWORK
    nested = ("others", "distilled_from")
    return {
        key: [_used(further) for further in teacher[key]] if key in nested else teacher[key] for key in used_of(teacher)
    }


class _Dumper(yaml.SafeDumper):
    """Puts quotes around text that only YAML 1.2 reads as a number: `1e5`, `08`, `0o17`."""


_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"(?:[-+]?[0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?|[-+]?\.[0-9]+(?:[eE][-+]?[0-9]+)?|0o[0-7]+)$"),
    list("-+.0123456789"),
)


def export_yaml(
    resolved: Mapping[str, Any],
    settings: Mapping[str, Any],
    name: str | None = None,
    seed: int | None = None,
    seeds: Sequence[int] = (),
) -> str:
    """A study of one configuration as YAML that runs as is.

    Args:
        resolved: the study it comes from, as `Study.resolved()` gives it.
        settings: of a proposal.
        name: of the new study; default: the old one's with `_best`.
        seed: with which it trains; default: that of the study's search trials.
        seeds: several instead of one.
    """
    study = name or f"{resolved['study']}_best"
    body: dict[str, Any] = {"study": study}
    if resolved.get("plugins"):
        body["plugins"] = resolved["plugins"]
    body.update(named_task(settings))
    body.update({section: settings[section] for section in ("data", "teacher", *TRIAL_LEVEL) if section in settings})
    body["teacher"] = _used(body["teacher"])
    if seed is None:
        seed = seeds[0] if len(seeds) == 1 else (resolved.get("search") or {}).get("trial_seed", 0)
    several, often = len(seeds) > 1, "with each of its seeds" if len(seeds) > 1 else "once"
    body["search"] = {"algorithm": "grid"} | ({"seeds": list(seeds)} if several else {"trial_seed": seed})
    body["scheduler"] = {"name": "none"}
    kept = ("resources", "tracking", "record")
    body.update({section: resolved[section] for section in kept if resolved.get(section)})
    if not network_is(settings["teacher"], NO_NETWORK):
        cache = resolved.get("teacher_cache")  # null, too, says something: the numbers are as before
        if cache is not None and settings["training"].get("precision") == "bf16":
            cache = CacheSettings.of_earlier(cache)
        body["teacher_cache"] = cache
    head = f"# One configuration out of the study '{resolved['study']}': `akdtune run` trains it {often}.\n"
    return head + yaml.dump(
        body, Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=110, allow_unicode=True
    )  # fmt: skip

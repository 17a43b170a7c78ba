"""The settings of one trial: each component typed by its own settings class, and pairs that cannot work refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel

from akdtune.domains import Issue
from akdtune.errors import AkdtuneError
from akdtune.registry import Kind, lookup, names
from akdtune.settings_errors import typed
from akdtune.settings_file import KeyPath, shown


def trial_settings(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[Issue]]:
    """Types the settings of one trial.

    Args:
        values: student, views, method and training without domains.

    Returns:
        The same with defaults filled in and `method` as a list, and what is wrong, by path; a section that is wrong
        is left out.
    """
    from akdtune.training import StudentSettings, TrainingSettings

    settings: dict[str, Any] = {}
    issues: list[Issue] = []

    def keep(section: str, value: Any, found: list[Issue]) -> None:
        issues.extend(found)
        if not found:
            settings[section] = value

    keep("views", *_component("views", values.get("views"), ("views",)))
    keep("method", *_methods(values.get("method")))
    keep("student", *_student(values.get("student"), StudentSettings))
    keep("training", *_mapping(values.get("training") or {}, TrainingSettings, ("training",)))
    if "views" in settings and "method" in settings:
        pairs = (pair_problem(settings["views"]["name"], term["name"]) for term in settings["method"])
        issues += [(("method",), message) for message in pairs if message]
    return settings, issues


def pair_problem(views: str, method: str) -> str | None:
    """Why a view augmenter and a method cannot work together, naming both; None when they can.

    An augmenter that does not offer targets of every kind says so in `offers`, a set out of `logits`, `pooled` and
    `stages`; a method says what it needs in `consumes` and `needs_stages`.
    """
    augmenter, component = lookup("views", views), lookup("methods", method)
    offers = getattr(augmenter, "offers", {"logits", "pooled", "stages"})
    lacking = sorted({component.consumes, *(["stages"] if component.needs_stages else [])} - set(offers))
    if not lacking:
        return None
    return (
        f"'{method}' cannot work with the views '{views}': it needs {' and '.join(lacking)}, "
        f"and these views offer {', '.join(sorted(offers))} only"
    )


def _methods(value: Any) -> tuple[list[Any], list[Issue]]:
    terms = value if isinstance(value, list) else [value]
    if not terms:
        return [], [(("method",), "needs at least one method, got an empty list")]
    result, issues = [], []
    seen: set[str] = set()
    for index, term in enumerate(terms):
        path: KeyPath = ("method", index) if isinstance(value, list) else ("method",)
        settings, found = _component("methods", term, path)
        if not found and settings["name"] in seen:
            found = [(path, f"'{settings['name']}' stands twice in the sum: give it one weight instead")]
        result.append(settings)
        issues += found
        seen.add(str(settings.get("name")))
    return result, issues


def _student(value: Any, model: type[BaseModel]) -> tuple[dict[str, Any], list[Issue]]:
    if not isinstance(value, dict) or "network" not in value:
        return _mapping(value, model, ("student",))
    network, issues = network_settings(value["network"], ("student", "network"))
    settings, more = _mapping({**value, "network": "any" if issues else network}, model, ("student",))
    return settings, issues + more


def network_settings(value: Any, path: KeyPath) -> tuple[Any, list[Issue]]:
    """A network's settings: just its name when it has none of its own, else a mapping with defaults filled in."""
    if isinstance(value, str):
        settings, issues = _component("networks", {"name": value}, path)
        issues = [(path if at == (*path, "name") else at, message) for at, message in issues]
    else:
        settings, issues = _component("networks", value, path)
    return (value, issues) if issues else (settings["name"] if len(settings) == 1 else settings, [])


def _component(kind: Kind, value: Any, path: KeyPath) -> tuple[dict[str, Any], list[Issue]]:
    if not isinstance(value, dict):
        return {}, [(path, f"must be a name or a mapping with a 'name', got {shown(value)}")]
    name = value.get("name")
    if name is None:
        return {}, [((*path, "name"), f"is missing (allowed: {', '.join(names(kind))})")]
    try:
        if not isinstance(name, str):
            raise AkdtuneError(f"must be a name, got {shown(name)} (allowed: {', '.join(names(kind))})")
        model = lookup(kind, name).Settings
    except AkdtuneError as error:
        return {}, [((*path, "name"), str(error))]
    settings, issues = _mapping({key: item for key, item in value.items() if key != "name"}, model, path, ("name",))
    return {"name": name, **settings}, issues


def _mapping(
    value: Any, model: type[BaseModel], path: KeyPath, also: Iterable[str] = ()
) -> tuple[dict[str, Any], list[Issue]]:
    if not isinstance(value, dict):
        return {}, [(path, f"must be a mapping, got {shown(value)}")]
    settings, issues = typed(model, value, also)
    return ({} if settings is None else settings.model_dump(mode="json")), [((*path, *at), text) for at, text in issues]

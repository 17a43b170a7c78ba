"""Paths of a settings file, made absolute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from akdtune.registry import NO_NETWORK
from akdtune.settings.file import choice_key


def make_paths_absolute(values: dict[str, Any]) -> None:
    """Workers run elsewhere: `~` and relative paths are resolved here, against the working directory."""
    data, teacher = values.get("data"), values.get("teacher")
    if teacher == NO_NETWORK:
        values["teacher"] = {"network": NO_NETWORK}
    _make_checkpoints_absolute(teacher)
    _make_cache_absolute(values.get("teacher_cache"))
    _make_checkpoints_absolute(values.get("student"))
    if not isinstance(data, dict):
        return
    root = data.get("root")
    if isinstance(root, str):
        data["root"] = root = _absolute(root)
    for key in ("train", "test"):
        base = root if isinstance(root, str) else "."
        if isinstance(data.get(key), str):
            data[key] = _absolute(data[key], base)
        elif isinstance(data.get(key), list):
            data[key] = [_absolute(item, base) if isinstance(item, str) else item for item in data[key]]


def _make_checkpoints_absolute(section: Any) -> None:
    if not isinstance(section, dict):
        return
    options = choice_key(section)
    if options is not None:
        for option in section[options] if isinstance(section[options], list) else []:
            _make_checkpoints_absolute(option)
        return
    if "checkpoint" in section:
        section["checkpoint"] = _absolute_checkpoint(section["checkpoint"])
    for key in ("others", "distilled_from"):
        for teacher in section[key] if isinstance(section.get(key), list) else []:
            _make_checkpoints_absolute(teacher)


def _absolute_checkpoint(value: Any) -> Any:
    """A path, or a choice of paths, made absolute; words that are no paths stay."""
    options = choice_key(value)
    if options is not None and isinstance(value[options], list):
        return {options: [_absolute_checkpoint(option) for option in value[options]]}
    if isinstance(value, dict) and "path" in value:
        return {**value, "path": _absolute_checkpoint(value["path"])}
    return _absolute(value) if isinstance(value, str) and value not in ("auto", "pretrained") else value


def _make_cache_absolute(section: Any) -> None:
    """Folders of the teacher cache; one that begins with a variable is each node's own to resolve."""
    for key in ("location", "seed_from") if isinstance(section, dict) else ():
        if isinstance(section.get(key), str) and not section[key].startswith("$"):
            section[key] = _absolute(section[key])


def _absolute(path: str, base: str = ".") -> str:
    return str((Path.cwd() / base / Path(path).expanduser()).absolute()) if path else path

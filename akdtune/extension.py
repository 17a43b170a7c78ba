"""`--extend`: what may be added to a study that has begun, so that everything it has trained stays part of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from akdtune.settings_file import shown

_MAY_GROW: dict[str, tuple[str, ...]] = {
    "search": ("trials", "seeds", "time_budget"),
    "probe": ("trials", "seeds"),
    "confirm": ("top", "seeds", "baselines"),
    "ablation": ("factors", "arms", "controls", "seeds", "families", "reference"),
}
"""Settings to which something may be added: trials, seeds, cells."""

_FREE = {("search", "time_budget"), ("ablation", "families"), ("ablation", "reference")}
"""Settings that no trial depends on: they may become anything."""

ALLOWED = ", ".join(f"{section}.{key}" for section, keys in _MAY_GROW.items() for key in keys)


def split_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[list[str], dict[str, Any]]:
    """What an extension adds, and the study as it was with that in it.

    Args:
        before: the resolved settings that the study was locked with.
        now: those that it is asked to go on with.

    Returns:
        A line for each addition, and `before` with the additions; what still differs from `now` is no extension.
    """
    lines: list[str] = []
    merged = dict(before)
    for section, keys in _MAY_GROW.items():
        old, new = before.get(section), now.get(section)
        if old == new or new is None:
            continue
        if old is None:  # a whole phase is new
            lines.append(f"{section}: added")
            merged[section] = new
            continue
        merged[section] = {**old}
        for key in keys:
            if old.get(key) != new.get(key) and ((section, key) in _FREE or _grows(old.get(key), new.get(key))):
                merged[section][key] = new.get(key)
                lines.append(f"{section}.{key}: {shown(old.get(key))} -> {shown(new.get(key))}")
    return lines, merged


def _grows(old: Any, new: Any) -> bool:
    """Whether everything that was there still is: longer lists, larger numbers, further keys."""
    if old is None or new is None or isinstance(old, str):  # no limit; seeds `auto` that become a list
        return isinstance(new, list) if isinstance(old, str) else True
    if isinstance(old, Mapping) and isinstance(new, list):
        return True  # a pilot's proposal is taken
    if isinstance(old, Mapping):
        return isinstance(new, Mapping) and all(
            key in new and (old[key] == new[key] or _grows(old[key], new[key])) for key in old
        )
    if isinstance(old, list):
        return isinstance(new, list) and list(_kept(old, new)) == old and new[: len(old[:1])] == old[:1]
    return isinstance(old, int | float) and isinstance(new, int | float) and new >= old


def _kept(old: list[Any], new: list[Any]) -> Iterator[Any]:
    return (item for item in old if item in new)

"""The right form of what was written in another one: whole overrides that can be pasted, and lines for a file."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from akdtune.errors import SettingsError
from akdtune.settings.file import COMMAND_LINE, KeyPath, SettingsFile
from akdtune.settings.hints.domain_hints import as_domain
from akdtune.settings.hints.known_paths import MOST_SHOWN, KnownSetting, meant_by
from akdtune.settings.yaml_text import parse

_TRUTH = {"yes": "true", "on": "true", "no": "false", "off": "false", "True": "true", "False": "false", "None": "null"}
_KEY = re.compile(r"[A-Za-z_][\w-]*(?:\.[\w-]+|\[[0-9]+\])*")


def overrides_meant(key: str, value: str | None, values: Mapping[str, Any], nearly: bool = True) -> list[str]:
    """What a key and a value were probably meant to be on the command line, the likeliest first: `search.trials=48`.

    Args:
        key: as written, without dashes before it.
        value: as written; None: there is none.
        values: plain values of the study, as far as they are known.
        nearly: whether similar names count, too.
    """
    found = meant_by(key, values, nearly)[:MOST_SHOWN]
    return list(dict.fromkeys(_override(setting, value) for setting in found))


def lines_meant(key: str, value: Any, values: Mapping[str, Any]) -> list[str]:
    """What a section that is none was probably meant to be in a file: `search: {trials: 48}`."""
    simple = "..." if isinstance(value, dict | list) else str(value)
    lines = []
    for setting in meant_by(key, values, nearly=False)[:MOST_SHOWN]:
        line = f"{setting.path[-1]}: {simple}"
        for name in reversed(setting.path[:-1]):
            line = f"{name}: {{{line}}}"
        lines.append(f"`{line}`")
    return lines


_HEADS = {"data": "name", "teacher": "network", "student": "network", "scheduler": "name", "tracking": "wandb.project"}
"""What a plain word in place of a section probably is."""


def with_hint(path: KeyPath, message: str, values: Mapping[str, Any]) -> str:
    """A message about a key path of a study, with the whole path that was meant where the key stands elsewhere."""
    if message.startswith("unknown key '") and "did you mean" not in message:
        key = str(path[-1])
        found = [setting.key for setting in meant_by(key, values, nearly=False) if setting.path != path][:MOST_SHOWN]
        before, allowed, rest = message.partition(" (allowed: ")
        return f"{before}; did you mean {' or '.join(found)}?{allowed}{rest}" if found else message
    if len(path) == 1 and path[0] in _HEADS and message.startswith("must be a mapping, got '"):
        word = values.get(str(path[0]))
        return f"{message}; did you mean {path[0]}.{_HEADS[str(path[0])]}={word}?"
    return message


def said(options: Sequence[str], before: str = "did you mean ") -> str:
    """Options as the end of a sentence; empty without any."""
    return f"{before}{' or '.join(options)}" if options else ""


def _override(setting: KnownSetting, value: str | None) -> str:
    if value is None:
        truth = setting.field.annotation is bool
        return f"{setting.key}=true" if truth else f"{setting.key}=VALUE"
    return quoted(f"{setting.key}={_value(setting, value)}")


def _value(setting: KnownSetting, value: str) -> str:
    """The value as YAML that the setting takes, where that can be told."""
    value = _TRUTH.get(value.strip(), value.strip())
    try:
        plain = parse(value, SettingsFile(COMMAND_LINE), COMMAND_LINE)
    except SettingsError:
        return value
    domain = as_domain(setting.field, plain) if setting.is_searched else None
    return value if domain is None else domain.partition(" (one of these)")[0]


def quoted(override: str) -> str:
    """An override as a shell takes it."""
    return shlex.quote(override) if re.search(r"[\s\[\]{}()*?$;&|<>!'\"\\]", override) else override


# ------------------------------------------------------------------------------------------ several arguments for one


def split_apart(texts: Sequence[str]) -> list[tuple[str, str]]:
    """Arguments one by one, or joined where one override was written as several, with what is wrong with these.

    Args:
        texts: the arguments behind the file.

    Returns:
        (what was written, the override it was meant to be), both alike where nothing is wrong.
    """
    found: list[tuple[str, str]] = []
    rest = list(texts)
    while rest:
        taken = _taken(rest)
        parts, rest = rest[:taken], rest[taken:]
        found.append((" ".join(parts), _joined(parts) if taken > 1 else parts[0]))
    return found


def _taken(texts: Sequence[str]) -> int:
    """How many arguments make the first override: `a = 1`, `a= 1`, `a =1`, `a: 1`, `a 1`."""
    first, second, third = (*texts[:3], "", "")[:3]
    if not second:
        return 1
    is_key = bool(_KEY.fullmatch(first.removesuffix("=").removesuffix(":")))
    if is_key and "=" not in first and second == "=":
        return 3 if third else 2
    if is_key and "=" not in first and second.startswith("=") and not first.endswith(":"):
        return 2
    if is_key and first[-1] in "=:" and "=" not in second and not second.endswith(":"):
        return 2
    if is_key and "=" not in first + second and ":" not in second and not _KEY.fullmatch(second):
        return 2  # key and number
    return 1


def _joined(parts: Sequence[str]) -> str:
    key, *rest = parts
    value = "".join(rest).removeprefix("=")
    return f"{key.removesuffix('=').removesuffix(':')}={value}"


def as_override(text: str) -> tuple[str, str | None]:
    """Key and value of a text that is no override: `trials: 48`, `--lr=.1`, `+training.lr=.1`, `trials`."""
    bare = text.strip().lstrip("-+~")
    for pattern in (r"([^=:\s]+)\s*=\s*(.*)", r"([^=:\s]+)\s*:\s*(.*)", r"([^=:\s]+)\s+(.*)"):
        if found := re.fullmatch(pattern, bare, re.DOTALL):
            return found[1], found[2] or None
    return bare, None

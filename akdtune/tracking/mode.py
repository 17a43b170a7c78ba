"""How a study is tracked: online, offline or not at all, and why; decided without the SDK, written down for its trials.

The driver decides once, before the first trial, and writes `tracking.json`; trials on any machine follow it. One that
loses the server writes down that it is gone, so that later ones do not wait for it.
"""

from __future__ import annotations

import configparser
import contextlib
import json
import netrc
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import urlsplit

from akdtune import atomic
from akdtune.settings.tracking import is_tag

Mode = Literal["online", "offline", "disabled"]

DECISION_FILE = "tracking.json"
"""In the study directory: how this run of the study is tracked."""

PUBLIC_SERVER = "https://api.wandb.ai"
PUBLIC_HOSTS = ("api.forge.coreweave.com", "api.wandb.ai")
"""Names of the public server; a key for the second opens the first as well."""

_MODES: Mapping[str, Mode] = {
    "online": "online", "run": "online", "shared": "online", "offline": "offline", "dryrun": "offline",
    "disabled": "disabled",
}  # fmt: skip
"""What the SDK's modes mean here."""

_KEPT_OFFLINE = ("WANDB_ENTITY", "WANDB_NOTES", "WANDB_CACHE_DIR", "WANDB_DATA_DIR")
_DROPPED_ONLINE = (
    "WANDB_DIR", "WANDB_DISABLED", "WANDB_JOB_TYPE", "WANDB_MODE", "WANDB_NAME", "WANDB_PROJECT", "WANDB_RESUME",
    "WANDB_RUN_GROUP", "WANDB_RUN_ID", "WANDB_SERVICE", "WANDB_SILENT", "WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH",
)  # fmt: skip
"""What is said in the settings file or here, or would make all trials one run."""


_REASON_CHARACTERS = 200


@dataclass(frozen=True)
class Decision:
    """How trials are tracked.

    Attributes:
        mode: online | offline | disabled.
        why: what that follows from, without the key.
        asked: whether the user asked for it; False: it was to be online and cannot be.
    """

    mode: Mode
    why: str
    asked: bool = True


def decide(settings: Mapping[str, Any]) -> Decision:
    """How the environment and the settings file want runs to be written; asks no server.

    Args:
        settings: the study's tracking section as a plain mapping.
    """
    own = settings.get("wandb")
    if not own:
        return Decision("disabled", "tracking.wandb is null")
    mode = str(own.get("mode", "auto"))
    if mode != "auto":
        return Decision(cast(Mode, mode), f"tracking.wandb.mode is {mode}")
    wish = _wish()
    if wish is None:
        key = key_place()
        return Decision("online", f"API key in {key}") if key else Decision("offline", _NO_KEY)
    name, said = wish
    known = _MODES.get(said.lower())
    if known is None:
        return Decision("offline", f"{name} is '{said[:40]}', which is none of {', '.join(_MODES)}", asked=False)
    return Decision(known, f"{name} is {said}")


_NO_KEY = "no API key found (WANDB_API_KEY or ~/.netrc)"


def _wish() -> tuple[str, str] | None:
    """Who says which mode: an environment variable, or a settings file of the SDK; None: nobody."""
    if os.environ.get("WANDB_DISABLED", "").lower() in ("true", "1", "yes", "on"):
        return "WANDB_DISABLED", "disabled"
    if said := os.environ.get("WANDB_MODE", "").strip():
        return "WANDB_MODE", said
    for file in _settings_files():
        values = _read_settings(file) or {}
        if values.get("disabled", "").lower() == "true":
            return f"mode in {file}", "disabled"
        if (said := values.get("mode", "").strip()).lower() in _MODES:  # the SDK ignores files with another word
            return f"mode in {file}", said
    return None


def _settings_files() -> tuple[Path, Path]:
    """The SDK's settings files, the one that counts more first: of the working directory, of the user."""
    folder = os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb"
    here = ".wandb" if Path(".wandb").exists() else "wandb"
    return Path(here, "settings"), _expanded(folder) / "settings"


def _expanded(path: str) -> Path:
    with contextlib.suppress(RuntimeError):  # no home
        return Path(path).expanduser()
    return Path(path)


def _read_settings(file: Path) -> dict[str, str] | None:
    """What one of the SDK's settings files says; None where the SDK, too, can make nothing of it."""
    parser = configparser.ConfigParser()
    try:
        parser.read_string(file.read_text(encoding="utf-8"))
        return dict(parser["default"]) if parser.has_section("default") else {}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, configparser.Error):
        return None


def _setting(name: str, default: str = "") -> str:
    for file in _settings_files():
        if value := (_read_settings(file) or {}).get(name):
            return value
    return default


def server() -> str:
    """Address of the server that runs go to."""
    return _own_server() or PUBLIC_SERVER


def _own_server() -> str:
    """The address that the environment or a settings file names, as `wandb login --host` writes it; empty: none."""
    return os.environ.get("WANDB_BASE_URL") or _setting("base_url")


def key_place() -> str | None:
    """Where the API key for the server stands, or None; a server of one's own needs a key of its own."""
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        if os.environ.get(name):
            return name
    file = _netrc()
    own = urlsplit(_own_server().rstrip("/")).netloc
    hosts = PUBLIC_HOSTS if not own or own == PUBLIC_HOSTS[0] or f"api.{own}" == PUBLIC_HOSTS[0] else (own,)
    with contextlib.suppress(OSError, ValueError, netrc.NetrcParseError):
        known = netrc.netrc(file)
        if any(entry is not None and entry[2] for entry in map(known.authenticators, hosts)):
            return str(file)
    return "the SDK's settings file" if _setting("api_key") else None


def _netrc() -> Path:
    """The netrc file that the SDK reads."""
    if named := os.environ.get("NETRC"):
        return _expanded(named)
    files = [_expanded("~/.netrc"), _expanded("~/_netrc")]
    return next((file for file in files if file.exists()), files[0])


def without_key(text: str) -> str:
    """A message in which the key, should it stand there, does not."""
    key = os.environ.get("WANDB_API_KEY", "").strip()
    return text.replace(key, "***") if key else text


def reason(error: BaseException) -> str:
    """An error of the SDK in one line of bounded length, without the key."""
    text = " ".join(without_key(str(error)).split()) or type(error).__name__
    return text if len(text) <= _REASON_CHARACTERS else text[: _REASON_CHARACTERS - 3] + "..."


def environment(mode: Mode) -> dict[str, str]:
    """This process's environment without what disturbs runs in this mode.

    The SDK refuses every run where one of its variables has a form that it does not know; offline, none is needed.
    """
    if mode == "online":
        return {name: value for name, value in os.environ.items() if name not in _DROPPED_ONLINE}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_") or name in _KEPT_OFFLINE}
    if (tags := os.environ.get("WANDB_TAGS")) and all(map(is_tag, tags.split(","))):
        kept["WANDB_TAGS"] = tags
    readable = _read_settings(_settings_files()[1]) is not None
    folder = os.environ.get("WANDB_CONFIG_DIR") if readable else os.devnull  # a file in no form stops the SDK
    return kept | ({"WANDB_CONFIG_DIR": folder} if folder else {})


# --------------------------------------------------------------------------------------------- of a study that runs


def write_decision(
    root: Path, decision: Decision, wandb: Mapping[str, Any] | None, names: Mapping[str, str] | None = None
) -> None:
    """Writes down how a study is tracked, for its trials and for `sync`; a disk that refuses it stops nothing.

    Args:
        root: the study directory.
        decision: how.
        wandb: the settings.
        names: flat names of the study's settings; None: those that stand there stay.
    """
    content = {**vars(decision), "wandb": wandb, "names": known_names(root) if names is None else dict(names)}
    with contextlib.suppress(OSError):
        atomic.write(root / DECISION_FILE, json.dumps(content, indent=1) + "\n")


def read_decision(root: Path) -> tuple[Decision, dict[str, Any]] | None:
    """How a study is tracked, and its settings; None where nothing readable is written."""
    try:
        stored = json.loads((root / DECISION_FILE).read_text(encoding="utf-8"))
        if stored["mode"] not in _MODES.values():
            return None
        return Decision(stored["mode"], str(stored["why"]), bool(stored["asked"])), dict(stored["wandb"] or {})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def known_names(root: Path) -> dict[str, str]:
    """The flat names that a study's settings were given, by key path; empty where none are noted."""
    try:
        held = json.loads((root / DECISION_FILE).read_text(encoding="utf-8"))["names"]
        return {str(path): str(name) for path, name in held.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def give_up(root: Path, why: str) -> None:
    """Writes down that the server is gone: later trials of this run of the study write offline without asking it."""
    known = read_decision(root)
    if known is None or known[0].mode == "online":
        write_decision(root, Decision("offline", without_key(why), asked=False), known[1] if known else None)


def mode_of_trial(settings: Mapping[str, Any], root: Path) -> Mode:
    """How a trial that starts now is tracked: as decided, and offline where the server is gone since."""
    mode = decide(settings).mode
    known = read_decision(root) if mode == "online" else None
    return "offline" if known is not None and known[0].mode == "offline" else mode

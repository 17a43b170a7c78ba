"""study.lock.yaml: what reproduces a study, and the refusal to go on with another one in its directory."""

from __future__ import annotations

import importlib.metadata
import platform
import secrets
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from akdtune import __version__, extension, spec
from akdtune.design import student_hashes
from akdtune.errors import StudyError
from akdtune.folders import PACKAGE
from akdtune.settings_file import choice_key

if TYPE_CHECKING:
    from akdtune.design import Identity
    from akdtune.spec import Study

FREE_SECTIONS = ("resources", "tracking")
"""Sections that do not determine any result and may change between two runs of one study.

Of `teacher_cache` all may change but whether there is one, and its `dtype`.
"""

FREE_OF_SEARCH = ("time_budget",)
"""Settings of `search` that may change as well: how long it goes on determines no trial's result."""


def lock_content(study: Study, identity: Identity) -> dict[str, Any]:
    """What study.lock.yaml holds: everything that one needs to reproduce the study, and no secrets."""
    teacher = identity.teacher
    facts: dict[str, Any] = {}
    for arm in study.arms:
        facts |= identity.prepared.facts(arm.random(0).settings)
    return {
        "akdtune": __version__,
        "uid": secrets.token_hex(3),
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": shlex.join(sys.argv),
        "source": str(study.source),
        "overrides": list(study.overrides),
        "settings": study.resolved(),
        "resolved": facts,
        "data": {"hash": identity.prepared.data_hash, "name": study.data.name},
        "teacher": asdict(teacher),
        **({} if identity.report_teacher is None else {"report_teacher": asdict(identity.report_teacher)}),
        "students": student_hashes(study),
        "seeds": {
            "search": study.search.seed,
            "trial": study.search.training_seeds,
            "probe": list(study.probe.seeds) if study.probe else [],
            "confirm": list(study.confirm.seeds) if study.confirm else [],
            "ablation": study.ablation.possible_seeds() if study.ablation else [],
            "split": study.data.split_seed,
        },
        "machine": {"python": platform.python_version(), "platform": platform.platform()},
        "packages": _packages(),
        "source_code": _commit(),
    }


def _packages() -> dict[str, str]:
    wanted = ("torch", "torchvision", "ray", "optuna", "wandb", "pyarrow", "numpy", "pydantic", "scipy", "scikit-learn")
    found = {}
    for name in wanted:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _commit() -> dict[str, str] | None:
    """Commit of akdtune's own source and what differs from it, where it runs from a checkout."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=PACKAGE, capture_output=True, text=True, check=True).stdout

    try:
        tracked = git("ls-files", "--error-unmatch", "__init__.py")
        return {"commit": git("rev-parse", "HEAD").strip(), "diff": git("diff", "HEAD", "--", ".")} if tracked else None
    except (OSError, subprocess.CalledProcessError):
        return None


def _with_absent(section: Any, later: Mapping[str, Any]) -> Any:
    """A section as locked by an earlier version, and what it did not know yet; also inside a choice of sections."""
    if not isinstance(section, dict):
        return section
    options = choice_key(section)
    if options is not None and isinstance(section[options], list):
        return {options: [_with_absent(option, later) for option in section[options]]}
    return {**later, **section}


def extended(lock: Mapping[str, Any], study: Study, identity: Identity, added: Sequence[str]) -> dict[str, Any]:
    """The lock of a study to which something was added: today's settings and facts, and a line of its history."""
    fresh = lock_content(study, identity)
    kept = {key: lock[key] for key in ("uid", "created", "command", "machine", "packages", "source_code")}
    entry = {"time": fresh["created"], "command": fresh["command"], "added": list(added),
             "packages": fresh["packages"]}  # fmt: skip
    return {**fresh, **kept, "extended": [*lock.get("extended", []), entry]}


def refuse_changes(study: Study, lock: Mapping[str, Any], root: Path, extend: bool = False) -> list[str]:
    """Refuses to go on in a study directory whose settings differ from the study's, showing the difference.

    Returns:
        What an extension adds, a line each; empty without `extend`.
    """
    before, now = dict(lock["settings"]), study.resolved()
    if before.get("study") != now.get("study"):
        raise StudyError(
            f"{root}: belongs to study '{before.get('study')}', not '{now.get('study')}'; choose another --dir"
        )
    for section in FREE_SECTIONS:
        before.pop(section, None)
        now.pop(section, None)
    for settings in (before, now):  # a study from before there was a cache runs its teachers live
        cache = settings.get("teacher_cache")
        settings["teacher_cache"] = None if cache is None else {"dtype": cache["dtype"]}
    for section, later in spec.ADDED_LATER.items():
        before[section] = _with_absent(before.get(section), later)
    for settings in (before, now):
        settings["search"] = {key: item for key, item in settings["search"].items() if key not in FREE_OF_SEARCH}
    added, merged = extension.split_changes(before, now)
    lines = spec.settings_difference(merged if extend else before, now)
    if lines:
        grown = added and not extend and not spec.settings_difference(merged, now)
        hint = "add what is new with --extend, " if grown else ""
        if extend:
            hint = f"--extend may add to {extension.ALLOWED}; "
        listed = "\n".join(f"  {line}" for line in lines)
        raise StudyError(
            f"{root}: the settings differ from those this study began with:\n{listed}\n"
            f"{hint}put them back to resume it, or run the changed study beside it with --new or another --dir"
        )
    return added if extend else []

"""What a study directory says about its study, and which changes of it may go on there."""

from __future__ import annotations

import importlib.metadata
import platform
import secrets
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from akdtune import __version__
from akdtune.errors import StudyError
from akdtune.folders import PACKAGE
from akdtune.metric import ACCURACY
from akdtune.planning.identity import Identity, student_hashes
from akdtune.randomness import STREAMS
from akdtune.registry import add_on_versions
from akdtune.settings import file as settings_file
from akdtune.settings.file import choice_key, shown
from akdtune.settings.record import RecordSettings, held_record
from akdtune.settings.teacher import CacheSettings, teacher_compute
from akdtune.study.ids import ADDED_LATER
from akdtune.study.spec import Study
from akdtune.teacher.file import TeacherFile

_MAY_GROW: dict[str, tuple[str, ...]] = {
    "search": ("trials", "seeds", "time_budget", "enqueue"),
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


FREE_SECTIONS = ("resources", "tracking", "record")
"""Sections that do not determine any result and may change between two runs of one study.

Of `teacher_cache` all may change but whether there is one, its `dtype`, and how teachers are computed.
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
        **({} if study.metric == ACCURACY else {"metric": study.metric.name}),
        "arms": [arm.name for arm in study.arms],
        "resolved": facts,
        "data": {"hash": identity.prepared.data_hash, "name": study.data.name, **_classes(identity)},
        "teacher": asdict(teacher),
        **({} if identity.report_teacher is None else {"report_teacher": asdict(identity.report_teacher)}),
        "students": student_hashes(study),
        **({"students_read": notes} if (notes := identity.prepared.notes) else {}),
        "seeds": {
            "search": study.search.seed,
            "trial": study.search.training_seeds,
            "probe": list(study.probe.seeds) if study.probe else [],
            "confirm": list(study.confirm.seeds) if study.confirm else [],
            "ablation": study.ablation.possible_seeds() if study.ablation else [],
            "split": study.data.split_seed,
        },
        "machine": {"python": platform.python_version(), "platform": platform.platform()},
        "packages": package_versions(),
        "streams": STREAMS,
        "source_code": source_code(),
    }


def _classes(identity: Identity) -> dict[str, Any]:
    """What the labels 0..K-1 stand for, where the data set's files say it."""
    classes = identity.prepared.dataset.classes
    return {} if classes is None else {"classes": list(classes)}


def package_versions() -> dict[str, str]:
    """Version of each package that numbers depend on, and of those that brought components, by name."""
    wanted = ("torch", "torchvision", "ray", "optuna", "wandb", "pyarrow", "numpy", "pydantic", "scipy", "scikit-learn",
              "timm")  # fmt: skip
    versions = {}
    for name in wanted:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions | add_on_versions()


OF_NUMBERS = ("torch", "torchvision", "numpy", "optuna")
"""Packages whose version may change what is computed or proposed."""


def version_changes(lock: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Versions that numbers depend on, then and now, where they are not those that the study began with.

    Args:
        lock: its content; what it does not name is not compared.
    """
    then, now = dict(lock.get("packages") or {}), package_versions()
    names = [*(name for name in OF_NUMBERS if name in then), *add_on_versions()]
    changes = {name: [then[name], now.get(name)] for name in names if name in then and then[name] != now.get(name)}
    if lock.get("akdtune") not in (None, __version__):
        changes = {"akdtune": [lock["akdtune"], __version__], **changes}
    return changes


def versions_warning(changes: Mapping[str, Sequence[Any]]) -> str:
    """A line about other versions than those that a study began with."""
    named = ", ".join(f"{name} {then}" for name, (then, _) in changes.items())
    present = ", ".join(f"{name} {now or 'not installed'}" for name, (_, now) in changes.items())
    return (
        f"this study began with {named} and goes on with {present}: numbers of trials to come may differ from those "
        "before by more than chance (the ledger records it; --new begins a study with these versions alone)"
    )


def source_code(package: Path = PACKAGE) -> dict[str, str] | None:
    """Commit of akdtune's own source and what differs from it, where it runs from a checkout; else None."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=package, capture_output=True, text=True, check=True).stdout

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


def _paths_alone(teacher: Any) -> Any:
    """A teacher's settings without where in a file its weights are, further teachers included."""
    if not isinstance(teacher, dict):
        return teacher
    named = {key: item["path"] for key, item in teacher.items() if key == "checkpoint" and isinstance(item, dict)}
    nested = {
        key: [_paths_alone(further) for further in teacher[key]]
        for key in ("others", "distilled_from")
        if isinstance(teacher.get(key), list)
    }
    return {**teacher, **named, **nested}


def _teachers_compute(settings: Mapping[str, Any]) -> str:
    """How the frozen teachers of a locked study with a cache are computed where no cell of it says otherwise."""
    training = settings.get("training") or {}
    options = choice_key(training)
    first = training if options is None else training[options][0]
    return teacher_compute(CacheSettings.held(settings["teacher_cache"]), first)


def extended(lock: Mapping[str, Any], study: Study, identity: Identity, added: Sequence[str]) -> dict[str, Any]:
    """The lock of a study to which something was added: today's settings and facts, and a line of its history."""
    fresh = lock_content(study, identity)
    kept = {
        key: lock[key] for key in ("uid", "created", "command", "machine", "packages", "source_code") if key in lock
    }
    entry = {"time": fresh["created"], "command": fresh["command"], "added": list(added),
             "packages": fresh["packages"]}  # fmt: skip
    kept["streams"] = lock.get("streams", 1)
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
        of_cache = None if cache is None else {"dtype": cache["dtype"], "compute": _teachers_compute(settings)}
        settings["teacher_cache"] = of_cache
    for settings in (before, now):  # which weights they are, their hash says
        settings["teacher"] = _paths_alone(settings.get("teacher"))
    for section, later in ADDED_LATER.items():
        before[section] = _with_absent(before.get(section), later)
    for settings in (before, now):
        settings["search"] = {key: item for key, item in settings["search"].items() if key not in FREE_OF_SEARCH}
    added, merged = split_changes(before, now)
    lines = settings_file.settings_difference(merged if extend else before, now)
    if lines:
        grown = added and not extend and not settings_file.settings_difference(merged, now)
        hint = "add what is new with --extend, " if grown else ""
        if extend:
            hint = f"--extend may add to {ALLOWED}; "
        listed = "\n".join(f"  {line}" for line in lines)
        raise StudyError(
            f"{root}: the settings differ from those this study began with:\n{listed}\n"
            f"{hint}put them back to resume it, or run the changed study beside it with --new or another --dir"
        )
    return added if extend else []


def other_record(study: Study, lock: Mapping[str, Any]) -> str:
    """A line where a study is asked to keep something else of its trials than it began with; else empty."""
    before, now = held_record(lock["settings"].get("record")), study.record
    if before == now:
        return ""
    changed = [
        f"{name}: {shown(getattr(before, name))} -> {shown(getattr(now, name))}"
        for name in RecordSettings.model_fields
        if getattr(before, name) != getattr(now, name)
    ]
    return f"record is not what the study began with, and holds for trials that end from now on ({', '.join(changed)})"


def refuse_uri(root: Path) -> None:
    """Refuses what is no folder: an object store has no ledger that grows line by line, no renames and no locks."""
    scheme, slash, rest = str(root).partition(":/")
    if slash and scheme.isalnum() and len(scheme) > 1:
        raise StudyError(
            f"--dir {scheme}://{rest.lstrip('/')}: must be a folder that all nodes see, not a URI (docs/cluster.md "
            "says why); mount the store, or copy the finished directory there"
        )


def refuse_other_files(lock: Mapping[str, Any], identity: Identity, root: Path) -> None:
    """Refuses to go on with other data, another teacher or other students than the study began with.

    Raises:
        StudyError: with the hashes then and now.
    """
    teachers = (("teacher", identity.teacher), ("report_teacher", identity.report_teacher))
    other = any(
        TeacherFile.parse(lock[key]).identity != file.identity
        for key, file in teachers
        if file is not None and key in lock
    )
    refuse_other_data(lock, identity.prepared.data_hash, root, identity.teacher.weights_hash, other)
    if lock.get("students", {}) != (now := student_hashes(identity.study)):
        changed = sorted(path for path, value in now.items() if lock.get("students", {}).get(path) != value)
        raise StudyError(
            f"{root}: {', '.join(changed)} is not the student this study began with "
            "(student.checkpoint); restore it or choose another --dir"
        )


def refuse_other_data(
    lock: Mapping[str, Any], data_hash: str, root: Path, teacher_hash: str = "not trained", other: bool = False
) -> None:
    """Refuses other data than the study began with, and where it is known to be another one, the teacher.

    Raises:
        StudyError: with the hashes then and now.
    """
    if other or lock["data"]["hash"] != data_hash:
        raise StudyError(
            f"{root}: the data or the teacher is not the one this study began with "
            f"(teacher {lock['teacher']['weights_hash']} then, {teacher_hash} now; data "
            f"{lock['data']['hash']} then, {data_hash} now); restore it or choose another --dir"
        )

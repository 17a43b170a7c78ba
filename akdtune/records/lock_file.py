"""`study.lock.yaml` as its readers take it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from akdtune.errors import AkdtuneError, StudyError
from akdtune.metric import ACCURACY, Metric
from akdtune.records.files import LOCK
from akdtune.records.shapes import check_shape


def read_lock(run_dir: str | os.PathLike[str], sections: Iterable[str] = ("settings",)) -> dict[str, Any] | None:
    """The content of `study.lock.yaml`; None where there is none.

    Args:
        run_dir: the study directory.
        sections: mappings that must be in it.

    Raises:
        StudyError: when it is damaged.
    """

    path = Path(run_dir) / LOCK
    try:
        held = yaml.load(path.read_text(encoding="utf-8"), Loader=_LOCK_LOADER)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StudyError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (yaml.YAMLError, ValueError, RecursionError):
        held = None
    lacking = [name for name in sections if not isinstance(held, dict) or not isinstance(held.get(name), dict)]
    if lacking or not isinstance(held, dict):
        named = f"it holds no {' and no '.join(lacking)}" if lacking else "it holds no keys"
        raise StudyError(f"{path}: damaged, {named}; restore it from a copy")
    check_shape(path, held, _LOCK_SHAPE, ())
    held.pop("digest", None)  # of the text, see `akdtune verify`
    return dict(held)


def check_lock(run_dir: str | os.PathLike[str], lock: Mapping[str, Any], section: str = "") -> None:
    """Refuses a lock that lacks what going on with its study needs, in one section or in all.

    Raises:
        StudyError: naming the key.
    """
    check_shape(Path(run_dir) / LOCK, lock, {}, [key for key in _LOCK_NEEDED if key.startswith(section)])


_LOCK_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_LOCK_SHAPE: dict[str, Any] = {
    "akdtune": (str, None), "uid": str, "created": str, "command": str, "source": str, "overrides": list,
    "arms": list, "packages": dict, "machine": dict, "source_code": (dict, None), "students": dict, "streams": int,
    "metric": str, "seeds": dict, "extended": list, "settings": dict, "settings.study": str,
    "settings.plugins": (list, None),
    "settings.search": dict, "settings.search.objectives": list, "settings.report": (dict, None),
    "settings.scheduler": (dict, None), "settings.record": (dict, None),
    "settings.training": (dict, None), "settings.probe": (dict, None), "settings.confirm": (dict, None),
    "settings.ablation": (dict, None),
    "data.hash": str, "teacher.path": str, "teacher.key": str, "teacher.weights_hash": str,
    "teacher.network": (str, dict), "teacher.val_accuracy": (float, None), "teacher.test_accuracy": (float, None),
    "teacher.saw_validation": bool, "report_teacher": dict,
}  # fmt: skip
_LOCK_NEEDED = (
    "settings.study", "settings.search", "data.hash",
    *(key for key in _LOCK_SHAPE if key.startswith("teacher.")),
)  # fmt: skip


def metric_of(run_dir: str | os.PathLike[str]) -> Metric:
    """What a study is judged by, as its lock says; accuracy where it says nothing or is not there.

    Raises:
        StudyError: for a name that is none.
    """
    path = Path(run_dir) / LOCK
    try:
        text = path.read_text(encoding="utf-8")
        named = text.startswith("{") or re.search("^metric:", text, re.MULTILINE)  # else it need not be decoded
        held = yaml.load(text, Loader=_LOCK_LOADER) if named else {}
        name = held.get("metric", ACCURACY.name) if isinstance(held, dict) else ACCURACY.name
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return ACCURACY
    try:
        return Metric(str(name))
    except AkdtuneError as error:
        raise StudyError(f"{path}: damaged, {error}; restore it from a copy") from error


def study_uid(run_dir: str | os.PathLike[str]) -> str | None:
    """What tells a study apart from others of its name, as its lock says; None where no lock is visible or says it."""
    try:
        with (Path(run_dir) / LOCK).open(encoding="utf-8") as lines:
            line = next((line for line in lines if line.startswith("uid:")), "")
        held = yaml.safe_load(line)
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return str(held["uid"]) if isinstance(held, dict) else None

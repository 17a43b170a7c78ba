"""What a trial is called: a hash of everything that determines its result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Set
from typing import Any

from akdtune.registry import NO_NETWORK
from akdtune.settings.data import WEAK, own_augmentation
from akdtune.settings.training import HOW_IT_RUNS

NOT_IN_THE_CELL: dict[str, Set[str]] = {
    "data": {"root", "download", "train", "test", "workers", "file", "path", "tokenizer"},
    "teacher": {"checkpoint", "augmentation"},
    "student": {"checkpoint"},
    "training": HOW_IT_RUNS,
}
"""Settings that say where files and devices are, and who reads them; what files hold is said by the content hashes, and
so is what became of a teacher's own augmentation: other weights."""

ADDED_LATER: dict[str, dict[str, Any]] = {
    "training": {"precision": "fp32", "tf32": False, "compile": False, "cuda_graphs": False},
    "search": {"objectives": ["accuracy"], "time_budget": None},
}
"""Settings that earlier versions did not have: absent is the same as this value, for hashes and for resuming."""


def cell_hash(
    settings: Mapping[str, Any],
    data_hash: str,
    teacher_hash: str,
    student_hash: str = "",
    cache_dtype: str = "",
    reports_on: str = "",
    teacher_compute: str = "fp32",
) -> str:
    """Twelve hex digits for everything that determines a trial's result except its seed.

    Args:
        settings: of a proposal.
        data_hash: content hash of the images and labels.
        teacher_hash: content hash of the teacher's weights; `none` without a teacher, whose settings then do not count.
        student_hash: content hash of the file that the student begins with; empty without one.
        cache_dtype: what the teacher's numbers are rounded to; empty where they are not.
        teacher_compute: the precision that frozen teachers are computed in; that of earlier versions leaves no trace.
        reports_on: what a trial that reads the test set trains on, `full` or `subset`; empty for the others.
    """
    seen = _by_what_is_seen(settings)
    counted = {section: _counted(value, NOT_IN_THE_CELL.get(section, set())) for section, value in seen.items()}
    for section in counted.keys() & ADDED_LATER.keys():
        later = ADDED_LATER[section]
        counted[section] = {k: item for k, item in counted[section].items() if k not in later or item != later[k]}
    if teacher_hash == NO_NETWORK:
        counted["teacher"] = NO_NETWORK
    hashes = [data_hash, teacher_hash, *([student_hash] if student_hash else [])]
    hashes += [f"teacher_cache.dtype={cache_dtype}"] if cache_dtype else []
    hashes += [f"teacher_cache.compute={teacher_compute}"] if teacher_compute != "fp32" else []
    hashes += [f"reports, trained on {reports_on}"] if reports_on else []
    text = json.dumps([counted, *hashes], sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _counted(value: Any, left_out: Set[str]) -> Any:
    """A section without some keys, in nested teachers either."""
    if not isinstance(value, dict):
        return value
    kept = {key: item for key, item in value.items() if key not in left_out}
    for key in ("others", "distilled_from"):
        if isinstance(kept.get(key), list):
            kept[key] = [_counted(teacher, left_out) for teacher in kept[key]]
    return kept


def _by_what_is_seen(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """The sections with what the student sees as `data.augmentation`, wherever it is set.

    The data's own serves nobody but students and teachers that set none, and what a teacher has seen is in its weights.
    """
    training = settings.get("training") or {}
    if "augmentation" not in training:
        return settings
    rest = {key: item for key, item in training.items() if key != "augmentation"}
    own = own_augmentation(settings.get("data") or {}, training)
    if own is None:
        return {**settings, "training": rest}
    of_data = None if own == WEAK else own.model_dump(mode="json")
    return {**settings, "training": rest, "data": {**settings["data"], "augmentation": of_data}}

"""What a column of a paper's table is of: a data set, a teacher, a student, and the images that judge; and its name."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from akdtune.metric import judged_on
from akdtune.settings.file import leaves

MAKES_ANOTHER_SET = (
    "limit_per_class", "imbalance", "fraction", "label_noise", "pixel_noise", "size", "split", "num_classes",
)  # fmt: skip
"""Settings of `data` after which a set's images or labels are others; they count where they are given."""

JUDGES = ("validation", "split_seed")
"""Settings of `data` that say which images are the validation images."""

ARROW = "→"
HASH, HASH_LETTERS = "hash", 8
UNKNOWN, NO_TEACHER = "?", "no teacher"
IMAGES = {"test": "test", "val": "validation"}
"""What splits are called."""


@dataclass(frozen=True)
class Pair:
    """A column. Two are the same where all but the name of the data set are equal texts.

    Attributes:
        data: content hash of the set and the settings that make another one of it, as JSON.
        teacher: its network, and those beside it, as JSON; student: its network.
        metric: what is compared, a column of `trials.parquet`.
        data_name: what the set is called.
    """

    data: str
    teacher: str
    student: str
    metric: str
    data_name: str = field(compare=False)

    @property
    def images(self) -> str:
        """The images that the metric is of: `test`, `validation`, or the metric's own name."""
        return IMAGES.get(judged_on(self.metric), self.metric)


def pair_of(settings: Mapping[str, Any], lock: Mapping[str, Any], metric: str) -> Pair:
    """The column that a trial belongs to.

    Args:
        settings: of the trial; sections that it lacks are taken from the study's.
        lock: content of `study.lock.yaml`, `{}` where there is none.
        metric: what is compared.
    """
    of_study = lock.get("settings") or {}
    data = settings.get("data") or of_study.get("data") or {}
    teacher = settings.get("teacher") or of_study.get("teacher") or {}
    student = settings.get("student") or of_study.get("student") or {}
    counted = MAKES_ANOTHER_SET if judged_on(metric) != "val" else (*MAKES_ANOTHER_SET, *JUDGES)
    same = {key: data[key] for key in counted if data.get(key) is not None}
    hashed = (lock.get("data") or {}).get("hash") or data.get("name") or UNKNOWN
    others = [other.get("network") for other in teacher.get("others") or [] if isinstance(other, Mapping)]
    return Pair(
        _text({HASH: hashed, **same}),
        _text([_network(network) for network in (teacher.get("network"), *others)]),
        _text(_network(student.get("network"))),
        metric,
        _data_name(data),
    )


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _network(network: Any) -> dict[str, Any]:
    """A network as a mapping with a name; one that is not known has `UNKNOWN`."""
    if isinstance(network, Mapping) and isinstance(network.get("name"), str):
        return dict(network)
    return {"name": network if isinstance(network, str) else UNKNOWN}


def _data_name(data: Mapping[str, Any]) -> str:
    """`cifar100`; a set of the user's own files is called as their folder is."""
    name, root = str(data.get("name") or UNKNOWN), data.get("root")
    return Path(root).name or name if name in ("parquet", "folders") and isinstance(root, str) else name


def headings(pairs: Sequence[Pair]) -> list[list[str]]:
    """What stands above each column, line by line: data set (where there are several), teacher, `→ student`."""
    teachers = [json.loads(pair.teacher) for pair in pairs]
    students = [json.loads(pair.student) for pair in pairs]
    names = _names([*(network for teacher in teachers for network in teacher), *students])
    sets = _set_names(pairs)
    lines = []
    for pair, teacher, student in zip(pairs, teachers, students, strict=True):
        known = [names[_text(network)] for network in teacher]
        taught_by = NO_TEACHER if known == ["none"] else " + ".join(known)
        head = [f"{sets[pair.data]}:"] if len(set(sets.values())) > 1 else []
        lines.append([*head, taught_by, f"{ARROW} {names[_text(student)]}"])
    return lines


def _names(networks: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """A name for each network by its text, with the settings in which networks of one name differ."""
    known = {_text(network): network for network in networks}
    named = {}
    for text, network in known.items():
        alike = [other for other in known.values() if other["name"] == network["name"]]
        named[text] = f"{network['name']}{_telling(network, alike, bare=True)}"
    return named


def _set_names(pairs: Sequence[Pair]) -> dict[str, str]:
    """A name for each data set by its text, with the settings in which sets of one name differ."""
    known = {pair.data: (pair.data_name, json.loads(pair.data)) for pair in reversed(pairs)}
    named = {}
    for text, (name, settings) in known.items():
        alike = [other for others_name, other in known.values() if others_name == name]
        named[text] = f"{name}{_telling(settings, alike, bare=False)}"
    return named


def _telling(one: Mapping[str, Any], alike: Sequence[Mapping[str, Any]], *, bare: bool) -> str:
    """In brackets what tells a mapping from others of its name; empty where nothing does.

    Args:
        one: the mapping.
        alike: all of its name, itself included.
        bare: whether the only setting that differs is told by its value alone.
    """
    flat, others = dict(leaves(one)), [dict(leaves(other)) for other in alike]
    keys = dict.fromkeys(key for other in others for key in other)
    # Of columns of test images nothing says which images judge.
    asked = {key: [other.get(key) for other in others if key in other or key not in JUDGES] for key in keys}
    differing = [key for key, known in asked.items() if len(set(known)) > 1]
    told = [key for key in differing if key != HASH] or differing
    values = {key: flat[key].strip("[]").replace(", ", ",") for key in told if key in flat}
    if not values:
        return ""
    if told == [HASH]:
        return f"[{flat[HASH][:HASH_LETTERS]}]"
    alone = bare and len(told) == 1
    return f"[{', '.join(value if alone else f'{key}={value}' for key, value in values.items())}]"

"""What `record` asks for and the networks, views and methods of a study cannot give."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from akdtune.registry import NO_NETWORK, lookup, names, network_name
from akdtune.settings.domains import Issue
from akdtune.settings.record import RecordSettings
from akdtune.settings.teacher import TeacherSettings

LOOK_AT_NOTHING = ("none", "random")
"""No views, and noise."""


def problems(
    record: RecordSettings,
    teacher: TeacherSettings,
    configurations: Sequence[Mapping[str, Any]],
    task: str,
) -> Iterator[Issue]:
    """Attention maps that networks have not, and what is kept of images alone.

    Args:
        record: the section.
        teacher: the study's, with further ones.
        configurations: settings that together hold every option of what is searched, and every known cell.
        task: name of the study's.
    """
    component = lookup("tasks", task)
    if component.in_parts:
        for key, asked in (("views", record.views), ("features", record.features), ("train", record.train)):
            if asked:
                yield (
                    ("record", key),
                    f"would hold all rows and classes at once, which the task '{task}' has too many of",
                )
    if (takes := component.takes) != "images":
        for key, asked in (("attention", record.attention_images), ("augmented", record.augmented)):
            if asked:
                yield ("record", key), f"is of images, and the task '{task}' takes {takes}"
        return
    if not lookup("tasks", task).keeps_more:
        for key in ("views", "features", "attention", "augmented", "train"):
            if getattr(record, key):
                yield ("record", key), f"the task '{task}' keeps predictions alone"
        return
    if not record.attention_images:
        return
    students = [network_name(settings["student"]["network"]) for settings in configurations]
    teachers = [network_name(of.network) for of in (teacher, *teacher.others)]
    lacking = [*_without_map("student", students), *_without_map("teacher", teachers)]
    if lacking:
        yield (
            ("record", "attention"),
            f"{' and '.join(lacking)} offer{'s' * (len(lacking) == 1)} no last_map, the map that is averaged before the"
            " last layer, of which attention maps are made (`akdtune networks` says what each offers)",
        )


def oddities(record: RecordSettings, configurations: Sequence[Mapping[str, Any]]) -> Iterator[Issue]:
    """What is asked for and of some trials there is none."""
    views = list(dict.fromkeys(str(settings["views"]["name"]) for settings in configurations))
    plain = all(name == "none" for name in views)
    if record.views and plain:
        yield ("record", "views"), "is ignored: no trial has views"
    students = {network_name(settings["student"]["network"]) for settings in configurations}
    if record.answers is True and not any("answers" in lookup("networks", name).offers for name in students):
        yield (
            ("record", "answers"),
            f"is ignored: {_quoted(sorted(students))} give{'s' * (len(students) == 1)} one answer",
        )
    if not record.attention_images:
        return
    without = [name for name in views if name not in LOOK_AT_NOTHING and not _has_maps(name)]
    if without:
        known = [name for name in names("views") if lookup("views", name).affine]
        yield (
            ("record", "attention"),
            f"keeps no maps of the views {_quoted(without)}: what they say is no affine function of the teacher's "
            f"feature (views that have maps: {', '.join(known)}); maps of students and teachers are kept",
        )
    methods = dict.fromkeys(str(term["name"]) for settings in configurations for term in settings["method"])
    if heads := [name for name in methods if lookup("methods", name).replaces_logits]:
        yield (
            ("record", "attention"),
            f"keeps no maps of students of {_quoted(heads)}, which predict through a head of the method",
        )


def _has_maps(views: str) -> bool:
    """Whether there are maps of these views: of their own, or, where they are further teachers, those of teachers."""
    kind = lookup("views", views)
    return bool(kind.affine or kind.needs_others)


def _without_map(role: str, networks: Iterable[str]) -> list[str]:
    """Networks without a last map, as a message names them."""
    known = (name for name in dict.fromkeys(networks) if name != NO_NETWORK)
    return [f"the {role} network '{name}'" for name in known if "last_map" not in lookup("networks", name).offers]


def _quoted(names_: Iterable[str]) -> str:
    return " and ".join(f"'{name}'" for name in names_)

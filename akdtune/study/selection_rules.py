"""What is odd about the selection of rows and the further teachers of a study."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from akdtune.designs.selecting import RANDOM, RANDOM_ROWS, SAME_STEPS, chooses
from akdtune.registry import Kind, lookup, names
from akdtune.settings.domains import Choice, Issue
from akdtune.settings.sections import ConfirmSettings
from akdtune.settings.space import Arm
from akdtune.settings.teacher import TeacherSettings

_READING_OTHERS: tuple[Kind, ...] = ("views", "selections")


def unread_others(teacher: TeacherSettings, arms: Sequence[Arm], ablation: Any) -> Iterator[Issue]:
    """Further teachers that neither views nor a selection read.

    Args:
        teacher: of the study.
        arms: of the study.
        ablation: the section as written.
    """
    others = ((name, lookup(kind, name)) for kind in _READING_OTHERS for name in names(kind))
    reading = [name for name, of in others if of.needs_others and not getattr(of, "of_clients", False)]
    asked = [[arm.tree["views"], arm.tree.get("selection")] for arm in arms]
    if teacher.others and not set(reading) & set(_texts([asked, ablation])):
        what = f"are read by no views and no selection of this study (by: {', '.join(reading)})"
        yield ("teacher", "others"), what


def chosen_alone(confirm: ConfirmSettings | None, arms: Sequence[Arm]) -> Iterator[Issue]:
    """Rows that are chosen in a search, beside no arm and no baseline that tells what the choice is worth."""
    chosen = [arm.centre().settings.get("selection") for arm in arms]
    there = set() if confirm is None else set(confirm.baselines)
    there |= {SAME_STEPS} if None in chosen else set()
    there |= {RANDOM_ROWS} if any(of and of["name"] == RANDOM for of in chosen) else set()
    lacking = [name for name in (RANDOM_ROWS, SAME_STEPS) if name not in there]
    if lacking and any(map(chooses, chosen)):
        what = "what the choice adds to training on fewer rows"
        yield ("selection",), f"{what} is told by the baselines {' and '.join(lacking)} (confirm.baselines)"


def _texts(node: Any) -> Iterator[str]:
    """Every text in a tree of settings; names of components are among them."""
    if isinstance(node, Choice):
        yield from _texts(list(node.options))
    elif isinstance(node, dict | list):
        for item in node.values() if isinstance(node, dict) else node:
            yield from _texts(item)
    elif isinstance(node, str):
        yield node

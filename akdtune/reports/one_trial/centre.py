"""In what a trial differs from the centre of its arm, and a cell from the one that it is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from akdtune.errors import AkdtuneError, StudyError
from akdtune.records import files
from akdtune.settings import domains, space
from akdtune.settings.points import leaves
from akdtune.settings.sections import TRIAL_LEVEL
from akdtune.settings.space import Arm

ABSENT = "(absent)"


@dataclass(frozen=True)
class Setting:
    """One setting of a trial beside the same of something else.

    Attributes:
        path: of the setting.
        value, other: `ABSENT` where there is none.
    """

    path: str
    value: Any
    other: Any

    @property
    def differs(self) -> bool:
        """Whether it is not the same."""
        return bool(self.value != self.other)


def arms_of(lock: Mapping[str, Any]) -> dict[str, Arm]:
    """The arms of a study out of its lock, by name; none where the lock does not give them."""
    settings = lock.get("settings") or {}
    try:
        tree = domains.parse({section: settings.get(section) for section in TRIAL_LEVEL}, [], [])
        expanded = space.expand(tree)
    except (AkdtuneError, AttributeError, KeyError, TypeError, ValueError):
        return {}
    names = lock.get("arms") or []
    if len(names) != len(expanded):
        return {}
    given: space.Names = {}
    return {
        str(name): Arm(str(name), tree, given, lambda values: values)
        for name, (tree, _, _) in zip(names, expanded, strict=True)
    }


def against_centre(lock: Mapping[str, Any], plan: Mapping[str, Any]) -> list[Setting]:
    """Every setting that a trial's arm searches, with its value there and in the middle of what is searched.

    Args:
        lock: of the study.
        plan: the trial's row.
    """
    arm = arms_of(lock).get(str(plan["arm"]))
    if arm is None:
        return []
    held = flat(plan["settings"])
    centre = arm.centre().params
    own = {path: held.get(path, (plan.get("params") or {}).get(path, ABSENT)) for path in arm.domains()}
    return [
        Setting(path, value, centre.get(path, ABSENT)) for path, value in own.items() if path in centre or path in held
    ]


def flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a trial by key path."""
    return {leaf.path: leaf.value for leaf in leaves(settings)}


def differences(settings: Mapping[str, Any], others: Mapping[str, Any]) -> list[Setting]:
    """The settings in which two trials differ."""
    mine, theirs = flat(settings), flat(others)
    pairs = [Setting(path, mine.get(path, ABSENT), theirs.get(path, ABSENT)) for path in {**theirs, **mine}]
    return [setting for setting in pairs if setting.differs]


def reference_of(run: Path, plan: Mapping[str, Any], plans: Mapping[str, Mapping[str, Any]]) -> tuple[str, Any] | None:
    """The cell that a trial of a design is compared with: its name and settings; None for that one itself, and others.

    Args:
        run: the study directory.
        plan: the trial's row.
        plans: all rows, by trial.
    """
    try:
        design = files.read_design(run)
    except StudyError:
        return None
    for phase in design.values():
        cells = {str(cell.get("name")): cell for cell in phase.get("cells", ()) if isinstance(cell, dict)}
        reference = cells.get(str(phase.get("reference")))
        own = cells.get(str(plan.get("cell")))
        if reference is None or own is None or own.get("cell_id") != plan["cell_id"] or own is reference:
            continue
        settings = next((row["settings"] for row in plans.values() if row["cell_id"] == reference["cell_id"]), None)
        if settings is not None:
            return str(reference["name"]), settings
    return None

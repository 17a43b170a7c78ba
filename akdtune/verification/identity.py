"""Lock, plan and design against each other: a trial's id is a hash of its settings, the data and the teacher."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from akdtune.errors import AkdtuneError, StudyError
from akdtune.records import files, plan_file
from akdtune.records.files import LOCK, PLAN
from akdtune.records.plan_file import plan_difference
from akdtune.reports.one_trial.centre import arms_of, flat
from akdtune.reports.text import counted
from akdtune.roles import REPORT_ROLES
from akdtune.settings.checkpoint import checkpoint_file
from akdtune.settings.points import equal
from akdtune.settings.teacher import CacheSettings, teacher_compute
from akdtune.study.ids import NOT_IN_THE_CELL, cell_hash
from akdtune.teacher.file import TeacherFile
from akdtune.verification.checks import Check, check
from akdtune.verification.ledger import Ledger

Lock = Mapping[str, Any]
Plans = Mapping[str, Mapping[str, Any]]


def teacher_of(lock: Lock, role: str) -> TeacherFile:
    """The teacher of trials of a role, as the lock holds it."""
    report = lock.get("report_teacher") if role in REPORT_ROLES else None
    return TeacherFile.parse(report or lock["teacher"], LOCK)


def lock_check(run: Path, lock: Lock, plans: Plans) -> Check:
    """The lock's digest, where it has one, and whether the plan follows from its settings."""
    found: list[str] = []
    text = (run / LOCK).read_bytes()
    body, has_digest, digest = text.rpartition(b"\ndigest: ")
    if has_digest and digest.strip().decode(errors="replace") != hashlib.sha256(body + b"\n").hexdigest()[:32]:
        found.append(f"{LOCK}: was changed after it was written (its digest says otherwise)")
    ids = {trial_id: _cell(lock, plan) for trial_id, plan in plans.items()}
    foreign = [trial_id for trial_id, plan in plans.items() if ids[trial_id] != plan["cell_id"]]
    if plans and len(foreign) == len(plans):
        found.append(
            f"{LOCK}: no trial's id follows from it: data.hash, teacher.weights_hash, teacher_cache.dtype, "
            "teacher_cache.compute or report.train_on is not what the study began with"
        )
    else:
        found += list(_of_settings(lock, plans))
    said = "has its digest" if has_digest else "has no digest (of an earlier version)"
    return check("lock", f"{said}; {counted(len(plans), 'trial')} follow from its settings", found)


def _cell(lock: Lock, plan: Mapping[str, Any]) -> str:
    """The cell that a trial's settings make, with the data and teacher that the lock names."""
    role, settings = str(plan["role"]), plan["settings"]
    held = lock["settings"]
    cache = held.get("teacher_cache")
    checkpoint = (settings.get("student") or {}).get("checkpoint")
    students = lock.get("students") or {}
    try:
        student = "" if checkpoint is None else str(students.get(checkpoint_file(checkpoint).label, "unknown"))
        report = (held.get("report") or {}).get("train_on", "full") if role in REPORT_ROLES else ""
        of_cache = "" if cache is None else str(cache["dtype"])
        compute = teacher_compute(None if cache is None else CacheSettings.held(cache), settings["training"])
        teacher = teacher_of(lock, role).identity
        return cell_hash(settings, lock["data"]["hash"], teacher, student, of_cache, report, compute)
    except (AkdtuneError, AttributeError, KeyError, TypeError, ValueError) as error:
        return f"none ({error})"


def _of_settings(lock: Lock, plans: Plans) -> Iterator[str]:
    """Where a trial's settings are not what the lock's make of what was drawn; each setting of an arm once."""
    said = set()
    for plan, path, stored, made in _differences(lock, plans):
        of = "" if path.startswith(("data.", "teacher.")) else str(plan["arm"])
        if (path, of) not in said:
            said.add((path, of))
            yield f"{LOCK}, {path}: {made}, and trial {plan['trial_id']} was planned with {stored}"


def _differences(lock: Lock, plans: Plans) -> Iterator[tuple[Mapping[str, Any], str, Any, Any]]:
    arms, constants = arms_of(lock), {name: lock["settings"].get(name) for name in ("data", "teacher")}
    of_constants = flat({name: value for name, value in constants.items() if isinstance(value, dict)})
    for plan in plans.values():
        made = dict(of_constants)
        arm = arms.get(str(plan["arm"]))
        if arm is not None and plan["role"] in ("search", "probe") and isinstance(plan.get("raw"), dict):
            try:
                made |= flat(arm.replay(plan["raw"]).settings)
            except (AkdtuneError, KeyError, ValueError) as error:
                yield plan, "settings", f"what it does not hold ({error})", "searched otherwise"
        own = flat(plan["settings"])
        for path, value in made.items():
            if path in own and not _is_a_place(path) and not equal(own[path], value):
                yield plan, path, own[path], value


def _is_a_place(path: str) -> bool:
    """Whether a setting says where files or devices are, and no trial's numbers depend on it."""
    section, _, rest = path.partition(".")
    if path in ("teacher.others", "teacher.distilled_from"):  # with files of their own; their weights are in the id
        return True
    return any(rest == key or rest.startswith(f"{key}.") for key in NOT_IN_THE_CELL.get(section, ()))


def plan_check(run: Path, lock: Lock | None, held: Ledger, plans: Plans) -> Check:
    """Every row of the plan against its id and against what the ledger planned."""
    found = []
    try:
        rows = {str(row["trial_id"]): row for row in plan_file.read_plan_file(run)}
    except StudyError as error:
        return check("plan", "cannot be read", [str(error)])
    for trial_id, row in rows.items():
        planned = held.planned.get(trial_id)
        if planned is not None and (difference := plan_difference(row, planned)):
            found.append(f"{PLAN}, trial {trial_id}: {difference}, as which it was planned")
    for trial_id, plan in plans.items():
        if trial_id != f"{plan['cell_id']}-s{plan['seed']}":
            found.append(f"{PLAN}, trial {trial_id}: cell_id {plan['cell_id']} and seed {plan['seed']} have another id")
        elif lock is not None and (made := _cell(lock, plan)) != plan["cell_id"]:
            found.append(f"{PLAN}, trial {trial_id}: cell_id: stored {plan['cell_id']}, its settings make {made}")
    if len(found) == len(plans) > 1 and lock is not None and not _any_follows(lock, plans):
        found = []  # said of the lock
    return check("plan", f"{counted(len(plans), 'trial')}, ids recomputed from settings, data and teacher", found)


def _any_follows(lock: Lock, plans: Plans) -> bool:
    return any(_cell(lock, plan) == plan["cell_id"] for plan in plans.values())


def design_check(run: Path, plans: Plans) -> Check | None:
    """The cells of confirmation and ablation against the plan; None where there are none."""
    try:
        design = files.read_design(run)
    except StudyError as error:
        return check("design", "cannot be read", [str(error)])
    if not design:
        return None
    names: dict[str, set[str]] = {}
    for plan in plans.values():
        names.setdefault(str(plan["cell_id"]), set()).add(str(plan.get("cell")))
    found, cells = [], 0
    for phase, content in design.items():
        for cell in content.get("cells", ()):
            cells += 1
            if content.get("seeds") and cell.get("planned", True) and cell.get("cell_id") not in names:
                found.append(f"{files.DESIGN}, {phase}: cell {cell.get('name')} ({cell.get('cell_id')}) is in no trial")
    return check("design", counted(cells, "cell"), found)

"""What `akdtune run` would add to a study that has begun, found out in memory: nothing is written."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from akdtune.planning.identity import Identity, initial_rows
from akdtune.planning.plan import Plan
from akdtune.records import tables
from akdtune.records.ledger.spans import read_times, spans_of
from akdtune.records.lock_file import check_lock
from akdtune.records.study_in_memory import StudyInMemory
from akdtune.records.study_lock import running_driver
from akdtune.reports.standing.progress import Durations, Seconds
from akdtune.reports.text import counted
from akdtune.roles import TERMINAL
from akdtune.running.lock import refuse_changes, refuse_other_data, refuse_other_files, refuse_uri
from akdtune.running.mending import check_ids
from akdtune.running.phases import Phases
from akdtune.search.follow_up import SearchPhase
from akdtune.study.proposals import Outline
from akdtune.study.spec import Study


@dataclass(frozen=True)
class Begun:
    """A study that has begun, and what it is asked to go on with.

    Attributes:
        study: the settings, with the names that its directory holds.
        directory: its state, in memory.
        lock: what it began with.
        added: what an extension adds, a line each.
        running: whether it runs now.
    """

    study: Study
    directory: StudyInMemory
    lock: Mapping[str, Any]
    added: Sequence[str]
    running: bool

    @functools.cached_property
    def durations(self) -> Durations:
        """How long its trials took."""
        root = self.directory.root
        return Durations(tables.read_trials(root).to_pylist(), spans_of(read_times(root)), self.study.epochs)

    @property
    def has_times(self) -> bool:
        """Whether trials of it have ended, so that nothing need be timed."""
        return self.durations.one("ablation", None) is not None

    @property
    def lines(self) -> list[str]:
        """What is added."""
        root = self.directory.root
        lines = [f"extends {root}: {line}" for line in self.added]
        lines = lines or [f"goes on with {root}: nothing is added to its settings"]
        if self.running:
            lines.append(f"{root} is being run: `akdtune run` is refused there until that has ended or was stopped")
        return lines


def begun(study: Study, root: Path, *, extend: bool) -> Begun | None:
    """A study as it stands in a directory; None where none has begun there.

    Args:
        study: the checked settings.
        root: the directory.
        extend: whether trials may be added.

    Raises:
        StudyError: where `akdtune run` is refused there, with its sentence.
    """
    refuse_uri(root)
    directory = StudyInMemory(root.expanduser())
    directory.refuse_other_folders()
    lock = directory.read_lock() if directory.root.is_dir() else None
    if lock is None:
        return None
    check_lock(directory.root, lock, "settings.")
    added = refuse_changes(study, lock, directory.root, extend)
    directory.load()
    directory.reconcile()
    running = running_driver(directory.root) is not None
    return Begun(study.begun_as(lock), directory, lock, added, running)


@dataclass(frozen=True)
class Added:
    """Trials that a run would train.

    Attributes:
        new: how many are not planned yet, by role.
        unfinished: how many are planned and have no end.
        ended: how many have ended already.
        exact: whether the new ones are known one by one; else there are at most so many.
        trials: role and arm of the new ones; None for an arm that is not known.
        notes: what planning them has to say.
    """

    new: Mapping[str, int]
    unfinished: int
    ended: int
    exact: bool
    trials: Sequence[tuple[str, str | None]]
    notes: Sequence[str] = ()

    @property
    def count(self) -> int:
        """How many are new."""
        return sum(self.new.values())


def added_to(begun: Begun, plan: Plan) -> Added:
    """Which trials a run would add; what it would decide on its way is decided in memory.

    Raises:
        StudyError: for other data, teachers or students than the study began with.
    """
    directory = begun.directory
    before = set(directory.records)
    unfinished = sum(record.terminal is None for record in directory.records.values())
    ended = len(before) - unfinished
    identity = None if plan.estimate is None else plan.estimate.identity
    if plan.estimate is not None:
        check_lock(directory.root, begun.lock)
        refuse_other_data(begun.lock, plan.estimate.prepared.data_hash, directory.root)
    if identity is None:
        later = _by_outline(plan.outline, Counter(str(r.plan["role"]) for r in directory.records.values()))
        unknown = [(role, None) for role, count in later.items() for _ in range(count)]
        return Added(later, unfinished, ended, False, unknown)
    refuse_other_files(begun.lock, identity, directory.root)
    check_ids(directory, identity)
    more, notes = _planned(begun, plan.outline, identity)
    found = [record for trial_id, record in directory.records.items() if trial_id not in before]
    new = Counter(str(record.plan["role"]) for record in found) + Counter(more)
    trials: list[tuple[str, str | None]] = [
        *((str(record.plan["role"]), str(record.plan["arm"])) for record in found),
        *((role, None) for role, count in more.items() for _ in range(count)),
    ]
    return Added(new, unfinished, ended, not more, trials, notes)


def _planned(begun: Begun, outline: Outline, identity: Identity) -> tuple[dict[str, int], Sequence[str]]:
    """Plans in memory what can be planned now; returns how many more may follow, by role, and what there is to say."""
    directory, study = begun.directory, begun.study
    rows = initial_rows(outline, identity) if begun.added or not directory.records else []
    directory.add_to_plan([row for row in rows if row["trial_id"] not in directory.records])
    search = SearchPhase(study, directory, outline.quotas)
    directory.add_to_plan(search.overdue())
    left = max(0, outline.configurations - search.configurations().total()) if study.search.learns else 0
    waiting = any(record.plan["role"] == "search" and not search.held_back(record) for record in directory.unfinished())
    over = search.time_is_up() or not (left or search.owed() or waiting)
    phases = Phases(outline, directory, identity)
    directory.add_to_plan(phases.due(over))
    seeds = len(study.search.training_seeds) if search.leads else 1
    more = {"search": 0 if search.time_is_up() else left * seeds + search.owed(), "later": phases.awaited(over)}
    return {role: count for role, count in more.items() if count}, phases.notes


def _by_outline(outline: Outline, planned: Mapping[str, int]) -> dict[str, int]:
    """By what the settings ask for, where a teacher is still to be trained: no trial of its phase can exist."""
    asked = {
        "search": outline.search_trials,
        "probe": outline.probe_trials,
        "confirm": outline.confirm_trials,
        "ablation": outline.ablation_trials,
    }
    controls = planned.get("control", 0)
    known = {**planned, "ablation": planned.get("ablation", 0) + planned.get("pilot", 0) + controls}
    later = {role: max(0, count - known.get(role, 0)) for role, count in asked.items()}
    return {role: count for role, count in later.items() if count}


# ------------------------------------------------------------------------------------------------------------ words


def new_lines(begun: Begun, plan: Plan, added: Added) -> list[str]:
    """How many trials are new and how many exist, and the time of the new ones where trials of the study tell it."""
    by_role = ", ".join(f"{role} {count}" for role, count in added.new.items())
    at_most = "" if added.exact else "at most "
    known = added.unfinished + added.ended
    exist = f"{counted(known, 'trial')} exist{'s' if known == 1 else ''}"
    lines = [
        f"new: {at_most}{counted(added.count, 'trial')}{f' ({by_role})' if by_role else ''}; {exist} already, "
        f"{added.ended} of them ended"
    ]
    lines += added.notes
    if added.count and (time := begun.durations.of(added.trials)) is not None:
        lines.append(f"time for the new ones: {time.words}, as the trials of this study took")
    waiting = [row for row in begun.durations.rows if row["status"] not in TERMINAL]
    if waiting and (left := begun.durations.remaining(waiting, [])) is not None:
        lines.append(f"time for the {counted(len(waiting), 'unfinished trial')}: {left.words}")
    return lines


def timed_lines(plan: Plan, added: Added) -> list[str]:
    """The time of the new trials from timed steps, where no trial of the study has ended yet."""
    known = plan.estimate
    costs = [] if known is None else [kind.cost.trial_s for kind in known.configurations.values() if kind.cost]
    if not costs or not added.count:
        return []
    seconds = sum(costs) / len(costs) * added.count / max(1, min(plan.slots, added.count))
    return [f"time for the new ones: {Seconds(seconds, seconds).words}"]

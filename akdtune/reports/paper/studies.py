"""What one study has for a paper's table: its replicated cells, by method and by pair of teacher and student."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, TypeAlias

from akdtune.errors import StudyError, unknown_name
from akdtune.metric import judged_on, of_trials
from akdtune.records import tables
from akdtune.records.files import DESIGN, LOCK
from akdtune.records.lock_file import read_lock
from akdtune.records.plan_file import read_plan
from akdtune.reports.ablation.measured import MeasuredCell, Phase, counts, phases_of
from akdtune.reports.origin import Origin, origin_of
from akdtune.reports.paper.pairs import Pair, pair_of
from akdtune.reports.text import counted
from akdtune.roles import REPORT_ROLES

Group: TypeAlias = Literal["student", "method", "control"]
PHASES = ("confirm", "ablation", "search")
ALONE = "student_only"
"""The method that distils nothing."""

_PLAIN_VIEWS = "none/"


@dataclass(frozen=True)
class Entry:
    """One configuration of a study with its seeds.

    Attributes:
        label: what a row is called; `arm`: its components, by which equal labels are told apart.
        values: of every finished trial, by seed.
        lost: why a seed that was asked for has no value, by seed.
        asked: how many seeds were asked for.
        chosen_from: among how many configurations the search chose it by these same values; 1 where it did not.
        settings: of its trials; `{}` where they are not known.
    """

    pair: Pair
    label: str
    arm: str
    group: Group
    cell_id: str
    values: dict[int, float]
    lost: dict[int, str]
    asked: int
    chosen_from: int = 1
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PaperStudy:
    """What a table takes from one study.

    Attributes:
        run: its directory; `name`: what notes call it.
        phase: the one that its methods come from.
        entries: in the study's order.
        teachers: accuracy of the teacher by pair, where it is known.
        lock: content of `study.lock.yaml`, `{}` without one.
        notes: what is left out or missing, a sentence each, without the study's name.
    """

    run: Path
    name: str
    phase: str
    entries: tuple[Entry, ...]
    teachers: Mapping[Pair, float]
    lock: Mapping[str, Any]
    origin: Origin
    notes: tuple[str, ...]


def read_study(run: Path, phase: str | None = None) -> PaperStudy:
    """The methods of a study: of its confirmation, else of its ablation, else of its search on validation images.

    Args:
        run: the study directory; the study may be running.
        phase: confirm, ablation or search, where another one is wanted.

    Raises:
        StudyError: for a directory that is no study, files that cannot be read, or a phase that it has not.
    """
    lock = read_lock(run, ()) or {}
    notes = [] if lock else [f"there is no {LOCK}, so that its protocol is not known"]
    phases = {known.name: known for known in phases_of(run)} if (run / DESIGN).exists() else {}
    trials = tables.read_trials(run)
    rows = [row for row in trials.to_pylist() if row["cell_id"] is not None and row["seed"] is not None]
    searched = any(row["role"] == "search" for row in rows)
    there = [name for name in PHASES if name in phases or (name == "search" and searched)]
    if phase is not None and phase not in there:
        raise StudyError(f"{run}: {unknown_name('phase', phase, there)}" if there else _nothing(run, rows))
    if not there:
        raise StudyError(_nothing(run, rows))
    taken = phase or there[0]
    settings = {row["cell_id"]: row for row in read_plan(run)}
    reader = _Reader(lock, settings, rows, notes)
    entries = reader.of_search() if taken == "search" else reader.of_phase(phases[taken])
    if taken == "confirm" and "ablation" in phases:
        entries += reader.student_beside(phases["ablation"], entries)
    declared = [name for name in ("confirm", "ablation") if (lock.get("settings") or {}).get(name)]
    if taken == "search" and phase is None and declared:
        notes.append(f"it has not come to its {' and its '.join(declared)} yet")
    return PaperStudy(
        run, run.resolve().name, taken, tuple(entries), reader.teachers(entries), lock, origin_of(run), tuple(notes)
    )


def _nothing(run: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    roles = ", ".join(f"{count} {role}" for role, count in Counter(row["role"] for row in rows).items())
    return (
        f"{run}: nothing for a table: it has no confirmation, no ablation and no search trial ({roles or 'no trial'})"
    )


class _Reader:
    """Makes entries out of what a study holds."""

    def __init__(
        self,
        lock: Mapping[str, Any],
        plan: Mapping[str, Mapping[str, Any]],
        rows: Sequence[Mapping[str, Any]],
        notes: list[str],
    ) -> None:
        self.lock = lock
        self.plan = plan
        self.rows = rows
        self.notes = notes

    # ------------------------------------------------------------------------------------------------- phases

    def of_phase(self, phase: Phase) -> list[Entry]:
        """The cells of a confirmation or an ablation, without further ranks of an arm and without repetitions."""
        repeated = [cell.name for cell in phase.cells if cell.replica_of is not None]
        lower = [cell.name for cell in phase.cells if cell.rank is not None and cell.rank > 1]
        if repeated:
            self.notes.append(f"left out, as they repeat another cell: {', '.join(repeated)}")
        if lower:
            self.notes.append(f"left out, as the search ranked them below the first of their arm: {', '.join(lower)}")
        kept = [cell for cell in phase.cells if cell.name not in {*repeated, *lower}]
        if phase.missing:
            total = len(phase.cells) * len(phase.seeds)
            self.notes.append(
                f"not finished: {phase.missing} of {total} trials of the {phase.name} are missing "
                f"({counts(phase.unfinished)}); numbers will change"
            )
        named = {cell.name for cell in kept}
        return _with_student([self._of_cell(cell, phase, named) for cell in kept])

    def _of_cell(self, cell: MeasuredCell, phase: Phase, named: set[str]) -> Entry:
        row = self.plan.get(cell.cell_id, {})
        settings: Mapping[str, Any] = row.get("settings") or {}
        arm = str(cell.arm or row.get("arm") or "")
        label = " ".join(_label(cell, arm, settings).split())
        if label != cell.name and label in named:
            label = cell.name
        group: Group = "control" if cell.is_control and phase.name == "ablation" else "method"
        return Entry(
            pair_of(settings, self.lock, phase.metric), label, arm,
            "student" if _is_alone(cell.name, arm, settings) else group, cell.cell_id, dict(cell.values),
            dict(cell.lost), len(phase.seeds), settings=settings,
        )  # fmt: skip

    def student_beside(self, phase: Phase, beside: Sequence[Entry]) -> list[Entry]:
        """The student without a teacher out of another phase, where a pair has none yet."""
        have = {entry.pair for entry in beside if entry.group == "student"}
        cells = [cell for cell in phase.cells if cell.replica_of is None]
        made = _with_student([self._of_cell(cell, phase, set()) for cell in cells])
        students = [entry for entry in made if entry.group == "student" and entry.pair not in have]
        wanted = {entry.pair for entry in beside}
        others = len(made) - len(students)
        if others:
            cells_left = counted(others, "cell")
            self.notes.append(f"left out: {cells_left} of its {phase.name} (--phase {phase.name})")
        return [entry for entry in students if entry.pair in wanted]

    def of_search(self) -> list[Entry]:
        """The best configuration of each arm by the validation images that the search was judged on."""
        rows = [row for row in self.rows if row["role"] == "search"]
        asked = self._search_seeds(rows)
        entries = []
        for arm in dict.fromkeys(str(row["arm"]) for row in rows):
            of_arm = [row for row in rows if str(row["arm"]) == arm]
            cells: dict[str, dict[int, float]] = {}
            for row in of_arm:
                value = row.get(of_trials(row).validation)
                if row["status"] == "done" and value is not None and math.isfinite(value):
                    cells.setdefault(row["cell_id"], {})[int(row["seed"])] = float(value)
            best = max(cells, key=lambda cell: (len(cells[cell]), fmean(cells[cell].values())), default=None)
            settings = self.plan.get(best or of_arm[0]["cell_id"], {}).get("settings") or {}
            values = cells.get(best, {}) if best is not None else {}
            lost = {} if best is None else _lost_in_search(of_arm, best, values)
            entries.append(
                Entry(
                    pair_of(settings, self.lock, of_trials(of_arm[0]).validation), _arm_label(arm, settings), arm,
                    "student" if _is_alone("", arm, settings) else "method", best or of_arm[0]["cell_id"], values,
                    lost, asked, max(1, len(cells)), settings,
                )
            )  # fmt: skip
        running = Counter(row["status"] for row in rows if row["status"] in ("planned", "running", "interrupted"))
        if running:
            listed = ", ".join(f"{count} {status}" for status, count in running.items())
            self.notes.append(f"not finished: {listed} of {counted(len(rows), 'search trial')}; numbers will change")
        return _with_student(entries)

    def _search_seeds(self, rows: Sequence[Mapping[str, Any]]) -> int:
        seeds = ((self.lock.get("settings") or {}).get("search") or {}).get("seeds")
        return len(seeds) if isinstance(seeds, list) else len({row["seed"] for row in rows})

    # ------------------------------------------------------------------------------------------------- teachers

    def teachers(self, entries: Sequence[Entry]) -> dict[Pair, float]:
        """The teacher's accuracy on the images of each pair: as the lock has it, else as its trials measured it."""
        found = {}
        for pair in dict.fromkeys(entry.pair for entry in entries):
            accuracy = self._locked(pair)
            if accuracy is None:
                accuracy = self._measured({entry.cell_id for entry in entries if entry.pair == pair}, pair)
            if accuracy is not None:
                found[pair] = accuracy
        return found

    def _locked(self, pair: Pair) -> float | None:
        teacher = self.lock.get("teacher") or {}
        if pair.metric == "test_accuracy":
            teacher = self.lock.get("report_teacher") or teacher
        value = teacher.get(pair.metric) if pair.metric in ("test_accuracy", "val_accuracy") else None
        return None if value is None else float(value)

    def _measured(self, cells: set[str], pair: Pair) -> float | None:
        """One number on which all trials of a pair agree, controls apart, whose teacher may be another."""
        reports = judged_on(pair.metric) != "val"
        known = {
            row["teacher_accuracy"]
            for row in self.rows
            if row["cell_id"] in cells and row["role"] != "control" and row["status"] == "done"
            if (row["role"] in REPORT_ROLES) is reports and row.get("teacher_accuracy") is not None
        }
        return float(known.pop()) if len(known) == 1 else None


def _lost_in_search(rows: Sequence[Mapping[str, Any]], cell: str, values: Mapping[int, float]) -> dict[int, str]:
    of_cell = {int(row["seed"]): str(row["status"]) for row in rows if row["cell_id"] == cell}
    return {seed: status for seed, status in of_cell.items() if seed not in values}


def _label(cell: MeasuredCell, arm: str, settings: Mapping[str, Any]) -> str:
    """A cell's name, which names a method; a winner of the search and a design's base are called by their arm."""
    is_base = cell.role == "ablation" and cell.name == "base" and not cell.changes
    return _arm_label(arm, settings) if arm and (is_base or cell.rank is not None) else cell.name


def _arm_label(arm: str, settings: Mapping[str, Any]) -> str:
    """`kd` for `none/kd`; a student's network, which the column names, is left out."""
    network = (settings.get("student") or {}).get("network")
    name = network.get("name") if isinstance(network, Mapping) else network
    return arm.removesuffix(f"/{name}").removeprefix(_PLAIN_VIEWS) or arm


def _is_alone(name: str, arm: str, settings: Mapping[str, Any]) -> bool:
    """Whether a student of this configuration has no teacher, and nothing else in its place."""
    methods = settings.get("method")
    if isinstance(methods, list) and methods:
        return [term.get("name") for term in methods] == [ALONE] and "seeds" not in settings
    return name == ALONE or arm.split("/")[-1] == ALONE


def _with_student(entries: list[Entry]) -> list[Entry]:
    """The entries; where a pair has several students without a teacher, they are rows like all others."""
    alone = Counter(entry.pair for entry in entries if entry.group == "student")
    return [
        replace(entry, group="method") if entry.group == "student" and alone[entry.pair] > 1 else entry
        for entry in entries
    ]

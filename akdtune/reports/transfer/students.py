"""The students of one or more studies beside their teachers: what is measured of each, by teacher, cell and seed.

A teacher is a block: students of one teacher share what it knows, and are no sample of what other teachers would do.
Studies that have the same teacher and the same control are one block.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from akdtune import progress
from akdtune.errors import AkdtuneError, NotRecorded, StudyError, unknown_name
from akdtune.records import recorded, tables
from akdtune.records.plan_file import read_plan
from akdtune.records.recorded import TeacherLogits
from akdtune.reports.ablation.measured import MeasuredCell, phases_of
from akdtune.reports.left_out import DAMAGED, OTHER_IMAGES, WITHOUT_PREDICTIONS, left_out_text
from akdtune.reports.text import counted
from akdtune.reports.transfer.measures import measured
from akdtune.roles import REPORT_ROLES
from akdtune.settings.training import HOW_IT_RUNS

INDEPENDENT = "independent"
"""The control with which students are compared: the same initial weights, another order of images, no teacher."""

NOISE = "random_teacher"
"""The control that has noise in the teacher's place."""

SECTIONS = ("views", "method", "selection", "student", "training", "seeds")
"""Of a trial's settings: what makes two cells of one name the same."""

NO_NUMBERS = "with logits that are not finite"


@dataclass(frozen=True)
class Student:
    """A finished trial beside the teacher of its study.

    Attributes:
        run: its study.
        trial_id, seed: of the trial.
        values: by measure or cell of agreement; without what is not defined for it.
    """

    run: str
    trial_id: str
    seed: int
    values: Mapping[str, float]


@dataclass(frozen=True)
class Cell:
    """A configuration whose students are looked at together.

    Attributes:
        label: unlike that of any other; its name, and its study where several cells have that name.
        name: in its study's design.
        is_control: whether it isolates a confound and is no row of a design.
        is_noise: whether noise stands in its teacher's place.
    """

    label: str
    name: str
    is_control: bool
    is_noise: bool


@dataclass
class Block:
    """A teacher with the students that are compared beside it.

    Attributes:
        runs: its studies.
        accuracy: the teacher's, percent of the judged images.
        control: label of the cell that others are compared with; None where its studies have none.
        students: by label of a cell and by seed.
    """

    runs: list[str]
    accuracy: float
    control: str | None = None
    students: dict[str, dict[int, Student]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its studies."""
        return ", ".join(self.runs)

    def values(self, label: str, measure: str) -> dict[int, float]:
        """A measure of a cell's students by seed, as far as it is defined for them."""
        held = self.students.get(label, {})
        return {seed: student.values[measure] for seed, student in held.items() if measure in student.values}


@dataclass(frozen=True)
class LeftOut:
    """A trial that does not count, and why; `trial_id` is None for one that was never planned."""

    run: str
    cell: str
    seed: int
    trial_id: str | None
    status: str
    reason: str


@dataclass(frozen=True)
class Students:
    """Everything that is compared.

    Attributes:
        reference: name of the cell that others are compared with.
        cells: in the order of the designs.
        blocks: teachers.
        images, classes: that every student is judged by.
        left_out: trials that do not count.
        notes: what else is not looked at, a sentence each.
    """

    reference: str
    cells: list[Cell]
    blocks: list[Block]
    images: int
    classes: int
    left_out: list[LeftOut]
    notes: list[str]

    @property
    def controls(self) -> set[str]:
        """Labels of the cells that others are compared with."""
        return {block.control for block in self.blocks if block.control is not None}

    def everyone(self, label: str) -> list[Student]:
        """A cell's students of all teachers."""
        return [student for block in self.blocks for student in block.students.get(label, {}).values()]

    def seeds_text(self, label: str) -> str:
        """How many students a cell has: `10`, with several teachers `3 x 10`, or `10 + 8`."""
        sizes = [len(block.students.get(label, {})) for block in self.blocks]
        held = [size for size in sizes if size]
        if len(held) > 1 and len(set(held)) == 1:
            return f"{len(held)} x {held[0]}"
        return " + ".join(map(str, held)) or "0"

    def left_out_text(self) -> str:
        """`left out: 2 diverged, 1 without predictions`; empty where every trial counts."""
        return left_out_text(Counter(trial.status for trial in self.left_out))


@dataclass(frozen=True)
class _Held:
    """A cell as one study holds it."""

    name: str
    key: str
    is_control: bool
    is_noise: bool
    students: dict[int, Student]


@dataclass(frozen=True)
class _Study:
    """What one study has."""

    name: str
    cells: list[_Held]
    teacher: TeacherLogits
    left_out: list[LeftOut]
    notes: list[str]

    def key_of(self, name: str) -> str | None:
        """What makes a cell of this name the same in another study; None where there is no such cell."""
        return next((cell.key for cell in self.cells if cell.name == name and cell.students), None)


def students_of(runs: Sequence[Path], *, reference: str | None = None) -> Students:
    """The students of studies that are judged by the same images.

    Args:
        runs: study directories; the studies may be running.
        reference: name of the cell that others are compared with; default: the control `independent`.

    Raises:
        StudyError: for a directory that is no study or has no design, a study whose teacher's logits were not
            recorded, studies that were judged by different images, and where no trial can be looked at.
        AkdtuneError: for a reference that no study has, with the nearest that there is.
    """
    names = _names(runs)
    studies = []
    for run, name in names.items():
        with progress.stage(f"reading the predictions of {name}"):
            studies.append(_study(run, name))
    _check_images(studies)
    _check_reference(studies, reference)
    against = reference or INDEPENDENT
    labels = _labels(studies)
    blocks: dict[tuple[bytes, str], Block] = {}
    notes = [note for study in studies for note in study.notes]
    for study in studies:
        control = study.key_of(against)
        key = (_digest(study.teacher.main_NK), control if control is not None else f"no control, {study.name}")
        accuracy = 100 * float((study.teacher.main_NK.argmax(axis=1) == study.teacher.labels_N).mean())
        block = blocks.setdefault(key, Block([], accuracy))
        block.runs.append(study.name)
        block.control = labels[against, control] if control is not None else None
        notes += _join(block, study, labels)
    first = studies[0].teacher
    found = Students(
        against, _cells(studies, labels), list(blocks.values()), len(first.labels_N), first.main_NK.shape[1],
        [trial for study in studies for trial in study.left_out], notes,
    )  # fmt: skip
    if not any(block.students for block in found.blocks):
        raise StudyError(f"{', '.join(names.values())}: no trial has finished that can be compared with a teacher")
    return found


def _names(runs: Sequence[Path]) -> dict[Path, str]:
    """Each study once, by a name of its own: that of its folder, or its path where two folders have one name."""
    once = list(dict.fromkeys(run.resolve() for run in runs))
    often = Counter(run.name for run in once)
    return {run: run.name if often[run.name] == 1 else str(run) for run in once}


def _check_images(studies: Sequence[_Study]) -> None:
    first = studies[0]
    for study in studies[1:]:
        alike = all(
            np.array_equal(getattr(first.teacher, name), getattr(study.teacher, name))
            for name in ("sample_ids_N", "labels_N")
        )
        if not alike or first.teacher.main_NK.shape != study.teacher.main_NK.shape:
            raise StudyError(
                f"{first.name} and {study.name} are judged by different images ({len(first.teacher.labels_N)} and "
                f"{len(study.teacher.labels_N)}): analyse them apart"
            )


def _check_reference(studies: Sequence[_Study], reference: str | None) -> None:
    known = dict.fromkeys(cell.name for study in studies for cell in study.cells)
    if reference is not None and reference not in known:
        raise AkdtuneError(unknown_name("cell", reference, known))


def _labels(studies: Sequence[_Study]) -> dict[tuple[str, str], str]:
    """What cells are called, by name and by what makes them the same."""
    first: dict[tuple[str, str], str] = {}
    for study in studies:
        for cell in study.cells:
            first.setdefault((cell.name, cell.key), study.name)
    often = Counter(name for name, _ in first)
    return {known: known[0] if often[known[0]] == 1 else f"{known[0]} ({study})" for known, study in first.items()}


def _cells(studies: Sequence[_Study], labels: Mapping[tuple[str, str], str]) -> list[Cell]:
    """Every cell that has a student, once."""
    found: dict[str, Cell] = {}
    for study in studies:
        for cell in study.cells:
            label = labels[cell.name, cell.key]
            if cell.students:
                found.setdefault(label, Cell(label, cell.name, cell.is_control, cell.is_noise))
    return list(found.values())


def _join(block: Block, study: _Study, labels: Mapping[tuple[str, str], str]) -> list[str]:
    """Adds a study's students to their teacher's; a seed that is there already counts once, which is said."""
    again = 0
    for cell in study.cells:
        held = block.students.setdefault(labels[cell.name, cell.key], {}) if cell.students else {}
        for seed, student in cell.students.items():
            again += seed in held
            held.setdefault(seed, student)
    said = f"{counted(again, 'trial')} of {study.name} stand in an earlier study of the same teacher: counted once"
    return [said] if again else []


# ------------------------------------------------------------------------------------------------- one study


def _study(run: Path, name: str) -> _Study:
    rows = tables.read_trials(run).to_pylist()
    phases = phases_of(run, rows=rows)
    teacher = recorded.teacher_logits(run, "test")
    settings = {str(row["cell_id"]): row["settings"] or {} for row in read_plan(run)}
    left_out = [
        LeftOut(name, gone.cell, gone.seed, gone.trial_id, gone.status, gone.reason)
        for phase in phases
        for gone in phase.excluded
    ]
    cells: list[_Held] = []
    notes: list[str] = []
    seen: set[str] = set()
    for cell in (cell for phase in phases for cell in phase.cells):
        if cell.cell_id in seen:  # a winner of the search that is the base of an ablation, too
            continue
        seen.add(cell.cell_id)
        if cell.replica_of is not None:
            notes.append(f"{name}: {cell.name} repeats {cell.replica_of} and is not looked at")
            continue
        cells.append(_held(run, name, cell, teacher, settings.get(cell.cell_id, {}), left_out))
    others = sum(row["status"] == "done" and row["role"] not in REPORT_ROLES for row in rows)
    if others:
        notes.append(f"{name}: {counted(others, 'trial')} of search, probes and pilots are not looked at")
    return _Study(name, cells, teacher, list(dict.fromkeys(left_out)), notes)


def _held(
    run: Path, name: str, cell: MeasuredCell, teacher: TeacherLogits, settings: Mapping[str, Any], gone: list[LeftOut]
) -> _Held:
    students = {}
    for seed, trial_id in cell.trials.items():
        found = _student(run, name, trial_id, seed, teacher)
        if isinstance(found, Student):
            students[seed] = found
        else:
            gone.append(LeftOut(name, cell.name, seed, trial_id, *found))
    views = settings.get("views")
    noise = cell.name == NOISE or (isinstance(views, Mapping) and views.get("name") == "random")
    return _Held(cell.name, _key(settings), cell.is_control, noise, students)


def _student(run: Path, name: str, trial_id: str, seed: int, teacher: TeacherLogits) -> Student | tuple[str, str]:
    """A trial beside its teacher, or under which word it is left out, and why."""
    try:
        held = recorded.trial_logits(run, trial_id)
    except NotRecorded as error:
        return WITHOUT_PREDICTIONS, str(error)
    except StudyError as error:
        return DAMAGED, str(error)
    if not np.array_equal(held.sample_ids_N, teacher.sample_ids_N) or held.logits_NK.shape != teacher.main_NK.shape:
        return OTHER_IMAGES, f"{len(held.sample_ids_N)} images; its teacher was asked about {len(teacher.sample_ids_N)}"
    try:
        values = measured(held.logits_NK, teacher.main_NK, teacher.labels_N)
    except ValueError as error:
        return NO_NUMBERS, str(error)
    return Student(name, trial_id, seed, values)


def _key(settings: Mapping[str, Any]) -> str:
    """What makes a cell the same in two studies, whose teachers may differ."""
    kept = {section: settings[section] for section in SECTIONS if section in settings}
    for section, left_out in (("training", HOW_IT_RUNS), ("student", {"checkpoint"})):
        if isinstance(kept.get(section), Mapping):
            kept[section] = {name: value for name, value in kept[section].items() if name not in left_out}
    return json.dumps(kept, sort_keys=True, default=str)


def _digest(logits_NK: Any) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(logits_NK).tobytes()).digest()

"""Who is asked: candidate teachers, students, and the data set that all of them were made for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import torch

from akdtune.data.dataset import DataSet
from akdtune.errors import AkdtuneError
from akdtune.networks import Network
from akdtune.reports.detection.outputs import Group, TeacherFacts
from akdtune.reports.text import counted

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Teacher:
    """A candidate with its weights."""

    facts: TeacherFacts
    network: Network


@dataclass(frozen=True)
class Student:
    """A student whose weights are read when its turn comes.

    Attributes:
        name: among the students.
        network: its registered name.
        group: what is known of its teacher.
        teacher: the candidate that taught it; of a control, the one that its study has; None: not known.
        load: its network with its weights.
        run, arm, seed: of its trial; empty for a file.
    """

    name: str
    network: str
    group: Group
    teacher: str | None
    load: Callable[[], Network]
    run: str = ""
    arm: str = ""
    seed: int | None = None


@dataclass
class Lineup:
    """Everybody who is asked; grows while studies and files are read.

    Attributes:
        dataset: whose images are asked about.
        teachers: candidates, each set of weights once.
        students: in order.
        notes: who was left out and why, a sentence each.
    """

    dataset: DataSet
    teachers: list[Teacher] = field(default_factory=list)
    students: list[Student] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add_teacher(self, teacher: Teacher) -> str:
        """Adds a candidate, unless it is there already; returns the name that it has."""
        for known in self.teachers:
            if known.facts.weights_hash == teacher.facts.weights_hash:
                return known.facts.name
        name = free(teacher.facts.name, (known.facts.name for known in self.teachers))
        self.teachers.append(replace(teacher, facts=replace(teacher.facts, name=name)))
        return name

    def add_student(self, student: Student) -> None:
        """Adds a student, under a name that nobody has."""
        name = free(student.name, (known.name for known in self.students))
        self.students.append(replace(student, name=name))

    def left_out(self, source: str, reasons: Sequence[str]) -> None:
        """Notes how many students of a study are left out, and why."""
        for reason, count in Counter(reasons).items():
            self.notes.append(f"{source}: {counted(count, 'student')} left out: {reason}")

    def check(self) -> None:
        """Refuses a question that has no answer.

        Raises:
            AkdtuneError: with fewer than two candidates, or without students.
        """
        why = "".join(f"\n  {note}" for note in self.notes)
        if len(self.teachers) < 2:
            found = f"there is one: {self.teachers[0].facts.name}" if self.teachers else "there is none"
            raise AkdtuneError(
                f"detection asks which of several teachers it was, so it needs two at least, with other weights; "
                f"{found} (give the studies of several teachers, or --teacher NAME=FILE){why}"
            )
        if not self.students:
            raise AkdtuneError(f"there is no student to ask (give studies that have finished, or --student FILE){why}")


def free(name: str, taken: Iterable[str]) -> str:
    """The name, or with a number behind it where it is taken."""
    known = set(taken)
    found, number = name, 2
    while found in known:
        found, number = f"{name}#{number}", number + 1
    return found

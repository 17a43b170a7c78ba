"""How often the likeliest teacher is the right one, by score, kind of inputs and number of inputs.

Shapes: S students, K teachers, P inputs of a pool, R draws of N of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from akdtune import progress
from akdtune.randomness import derived_seed
from akdtune.reports.detection.outputs import Kind, Outputs, Pool, StudentFacts, TeacherFacts
from akdtune.reports.detection.scores import SCORES, scores
from akdtune.statistics.binomial import clopper_pearson, p_of_as_many
from akdtune.statistics.paired import holm
from akdtune.statistics.resampling import Floats, Integers

COUNTS = (1, 10, 100)
REPEATS = 20

Judged = Literal["distilled", "control"]


@dataclass(frozen=True)
class Rate:
    """How often a score named the right teacher.

    Attributes:
        group: `distilled`: right is who taught the student; `control`: the teacher beside which a student without any
            was trained, which nothing but chance can name.
        score: one of `SCORES`.
        inputs: their kind.
        count: N, how many of them.
        repeats: draws of so many inputs that it is averaged over.
        students: how many were judged; each counts once, whatever the repeats.
        right: of them, averaged over repeats; where several teachers score alike, each has its part.
        low, high: exact interval of the accuracy over students.
        p: of so many right ones or more by chance, one-sided, exact.
        auc: one-vs-rest, mean over teachers and repeats; None where no teacher has students and others have some, too.
    """

    group: Judged
    score: str
    inputs: Kind
    count: int
    repeats: int
    students: int
    right: float
    low: float
    high: float
    p: float
    auc: float | None

    @property
    def accuracy(self) -> float:
        """Share of the students."""
        return self.right / self.students


@dataclass(frozen=True)
class Preference:
    """Which teachers students without a teacher are said to have.

    Attributes:
        score, inputs, count: as of a rate.
        students: how many.
        shares: of them by teacher, averaged over repeats.
        p: the smallest over teachers, that as many students choose it by chance; corrected over teachers by Holm.
    """

    score: str
    inputs: Kind
    count: int
    students: int
    shares: Mapping[str, float]
    p: float


@dataclass(frozen=True)
class Choice:
    """Which teacher a student is said to have.

    Attributes:
        student: its name.
        inputs: their kind.
        count: N, the largest number of inputs.
        shares: of the draws by teacher, by score.
    """

    student: str
    inputs: Kind
    count: int
    shares: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Detection:
    """Everything that a detection has found; `report.content` writes it, `report.parsed` reads it.

    Attributes:
        teachers: the candidates.
        students: all that were asked.
        rates: by group, kind of inputs, number of inputs and score.
        preferences: of students without a teacher.
        choices: of every student, at the largest number of inputs.
        notes: what was left out and why, a sentence each.
        how: settings of inputs and draws.
    """

    teachers: tuple[TeacherFacts, ...]
    students: tuple[StudentFacts, ...]
    rates: tuple[Rate, ...]
    preferences: tuple[Preference, ...]
    choices: tuple[Choice, ...]
    notes: tuple[str, ...]
    how: Mapping[str, int | float]

    @property
    def chance(self) -> float:
        """Accuracy of a guess."""
        return 1 / len(self.teachers)

    def of(self, group: Judged, score: str, inputs: str) -> list[Rate]:
        """Rates by rising number of inputs."""
        wanted = (group, score, inputs)
        return sorted(
            (rate for rate in self.rates if (rate.group, rate.score, rate.inputs) == wanted),
            key=lambda rate: rate.count,
        )

    def last(self, group: Judged, score: str, inputs: str) -> Rate | None:
        """The rate at the largest number of inputs."""
        rates = self.of(group, score, inputs)
        return rates[-1] if rates else None


def judge(outputs: Outputs, *, counts: Sequence[int] = COUNTS, repeats: int = REPEATS, seed: int = 0) -> Detection:
    """Compares what every student said with what the candidates said on the same inputs.

    Args:
        outputs: what was asked.
        counts: numbers of inputs; one that is larger than a pool is left out there.
        repeats: draws of so many inputs from each pool; one where they are the whole pool.
        seed: of the draws, which are the same for all students.
    """
    rates: list[Rate] = []
    preferences: list[Preference] = []
    choices: list[Choice] = []
    notes = list(outputs.notes)
    facts = {student.name: student for student in outputs.students}
    with progress.stage("comparing what students and teachers say"):
        for pool in outputs.pools:
            possible = sorted({count for count in counts if count <= pool.size})
            if short := sorted(set(counts) - set(possible)):
                missing = ", ".join(map(str, short))
                notes.append(f"{pool.kind} inputs: there are {pool.size}, so that N = {missing} is left out")
            for count in possible:
                draws_RN = drawn(pool, count, repeats, seed)
                compared = _compared(pool, draws_RN)
                students = [facts[name] for name in pool.students]
                for score, scores_SRK in compared.items():
                    of = score, pool.kind, count
                    rates += _rates(*of, students, scores_SRK, outputs.teachers)
                    preferences += _preference(*of, students, scores_SRK, outputs.teachers)
                if count == possible[-1]:
                    choices += _choices(pool, count, compared, outputs.teachers)
    how = {**outputs.how, "repeats": repeats, "draws_seed": seed}
    found = tuple(rates), tuple(preferences), tuple(choices)
    return Detection(outputs.teachers, outputs.students, *found, tuple(notes), how)


def drawn(pool: Pool, count: int, repeats: int, seed: int) -> Integers:
    """Which inputs of a pool belong to each draw [R, N], without replacement."""
    rng = np.random.Generator(np.random.Philox(derived_seed("detection", seed, pool.kind, count)))
    if count == pool.size:
        return np.arange(count, dtype=np.int64)[None]
    return np.stack([rng.permutation(pool.size)[:count] for _ in range(repeats)]).astype(np.int64)


def _compared(pool: Pool, draws_RN: Integers) -> dict[str, Floats]:
    """Every score of every student, [S, R, K]."""
    found: dict[str, list[Floats]] = {}
    for place, student_PD in enumerate(pool.students_SPD):
        for name, scores_RK in scores(student_PD, pool.teachers_of(place), draws_RN).items():
            found.setdefault(name, []).append(scores_RK)
        progress.at(place + 1, len(pool.students), "students")
    return {name: np.stack(found[name]) for name in SCORES if name in found}


def chosen(scores_RK: Floats) -> Floats:
    """The decision for each draw as a share of each teacher [.., K]: 1 for the largest, split where several are."""
    best = scores_RK == scores_RK.max(axis=-1, keepdims=True)
    shares: Floats = best / best.sum(axis=-1, keepdims=True)
    return shares


def _rates(
    score: str,
    inputs: Kind,
    count: int,
    students: Sequence[StudentFacts],
    scores_SRK: Floats,
    teachers: Sequence[TeacherFacts],
) -> list[Rate]:
    names = [teacher.name for teacher in teachers]
    groups: tuple[Judged, ...] = ("distilled", "control")
    rates = []
    for group in groups:
        places = [i for i, student in enumerate(students) if student.group == group and student.teacher is not None]
        if not places:
            continue
        true_S = np.array([names.index(str(students[i].teacher)) for i in places])
        own_SRK = scores_SRK[places]
        share_SR = np.take_along_axis(chosen(own_SRK), true_S[:, None, None], axis=-1)[..., 0]
        right, n = float(share_SR.mean(axis=1).sum()), len(places)
        low, high = clopper_pearson(right, n)
        p = p_of_as_many(right, n, 1 / len(names))
        rates.append(
            Rate(group, score, inputs, count, scores_SRK.shape[1], n, right, low, high, p, one_vs_rest(own_SRK, true_S))
        )
    return rates


def one_vs_rest(scores_SRK: Floats, true_S: Integers) -> float | None:
    """Area under the curve of one teacher's students against all others', mean over teachers, then over draws.

    Of the softmax of each student's scores. Teachers without students, or with all of them, have no area and are left
    out; None where none has one. By hand: what sklearn's roc_auc_score(multi_class="ovr") gives (a test compares).
    """
    shifted = scores_SRK - scores_SRK.max(axis=-1, keepdims=True)
    shares = np.exp(shifted)
    shares /= shares.sum(axis=-1, keepdims=True)
    areas: list[Floats] = []
    for teacher in range(scores_SRK.shape[-1]):
        own, others = shares[true_S == teacher][..., teacher], shares[true_S != teacher][..., teacher]
        if len(own) and len(others):
            pairs = own[:, None] - others[None]
            areas.append(((pairs > 0) + 0.5 * (pairs == 0)).mean(axis=(0, 1)))
    return float(np.mean(areas)) if areas else None


def _preference(
    score: str,
    inputs: Kind,
    count: int,
    students: Sequence[StudentFacts],
    scores_SRK: Floats,
    teachers: Sequence[TeacherFacts],
) -> list[Preference]:
    places = [i for i, student in enumerate(students) if student.group == "control"]
    if not places:
        return []
    shares_K = chosen(scores_SRK[places]).mean(axis=(0, 1))
    ps = [p_of_as_many(float(share) * len(places), len(places), 1 / len(teachers)) for share in shares_K]
    named = {teacher.name: float(share) for teacher, share in zip(teachers, shares_K, strict=True)}
    return [Preference(score, inputs, count, len(places), named, min(p for p, _ in holm(ps)))]


def _choices(pool: Pool, count: int, compared: Mapping[str, Floats], teachers: Sequence[TeacherFacts]) -> list[Choice]:
    choices = []
    for place, name in enumerate(pool.students):
        shares = {}
        for score, scores_SRK in compared.items():
            shares_K = chosen(scores_SRK[place]).mean(axis=0)
            shares[score] = {teacher.name: float(share) for teacher, share in zip(teachers, shares_K, strict=True)}
        choices.append(Choice(name, pool.kind, count, shares))
    return choices

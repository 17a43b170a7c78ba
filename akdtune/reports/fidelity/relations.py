"""How the overlap of two teachers' attention goes together with what their students do: rank correlations over arms.

An arm is a cell of one study, whose teachers are one pair. Trials of an arm differ in their seed alone, and arms of a
study share its teachers, so that what is said about other teachers rests on as many values as there are studies.
"""

# Shapes: N trials, S studies, D permutations.

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import permutations
from math import factorial
from typing import Any

import numpy as np

from akdtune.reports.fidelity.measured import Kind, StudentMeasured
from akdtune.reports.fidelity.study import StudyFidelity
from akdtune.statistics import association
from akdtune.statistics.association import Coefficient
from akdtune.statistics.resampling import Floats, Integers, weighted_ranks

FEWEST_STUDIES = 2
ALL_ORDERS = 5040
"""Permutations of studies up to which all are looked at, which is seven studies; of more, as many are drawn."""
_TIES = 1e-9


@dataclass(frozen=True)
class Outcome:
    """What a student does that may go together with its teachers' overlap.

    Attributes:
        key: in the JSON report.
        title: in tables.
        unit: of its values.
        of: its value; None where it was not measured.
    """

    key: str
    title: str
    unit: str
    of: Callable[[StudentMeasured], float | None]


OUTCOMES = (
    Outcome("fidelity", "top-1 fidelity", "%", lambda student: student.ensemble.fidelity),
    Outcome("gap", "gap", "points", lambda student: student.any_gap),
    Outcome("information", "adjusted MI", "", lambda student: student.ensemble.information.adjusted),
    Outcome("accuracy", "accuracy", "%", lambda student: student.alone.accuracy),
)
"""Fidelity and gap first, which the published claim is about."""


@dataclass(frozen=True)
class RankRelation:
    """Spearman's correlation of the teachers' IoU with one outcome of their students.

    Attributes:
        outcome: which.
        trials, arms, studies: that it stands on.
        over_arms: of all trials, its interval over arms; None where something does not vary.
        within_cells: the same once each cell's mean over all studies is taken out: the same student settings under
            other teachers; None where cells are not shared.
        p_over_studies: share of all orders of the studies' IoU that give as large a correlation over arms; None where
            IoU does not vary.
        least_p: the smallest that so many studies can give.
    """

    outcome: Outcome
    trials: int
    arms: int
    studies: int
    over_arms: Coefficient | None
    within_cells: Coefficient | None
    p_over_studies: float | None
    least_p: float | None

    def report(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "trials": self.trials, "arms": self.arms, "teacher_pairs": self.studies,
            "spearman_over_arms": _json(self.over_arms), "spearman_within_cells": _json(self.within_cells),
            "p_over_teacher_pairs": self.p_over_studies, "least_p": self.least_p,
        }  # fmt: skip


def _json(value: Coefficient | None) -> dict[str, float | None] | None:
    return None if value is None else {"value": value.value, "low": value.low, "high": value.high}


def relations(
    studies: Sequence[StudyFidelity], kind: Kind = "sum", *, draws: int = association.DRAWS, seed: int = 0
) -> list[RankRelation] | str:
    """Rank correlations of the teachers' IoU with each outcome, or why there are none.

    Args:
        studies: each with teachers of its own.
        kind: of maps.
        draws: of the bootstrap over arms.
        seed: of the bootstrap, and of orders that are drawn.
    """
    with_iou = [(study, iou) for study in studies if (iou := study.teachers.iou(kind)) is not None and study.taught]
    if len(with_iou) < FEWEST_STUDIES:
        return (
            f"studies with two teachers that have attention maps, and with students of theirs: {len(with_iou)} of "
            f"{len(studies)}; a correlation over pairs of teachers takes {FEWEST_STUDIES} or more"
        )
    return [_relation(outcome, with_iou, draws, seed) for outcome in OUTCOMES]


def _relation(outcome: Outcome, with_iou: Sequence[tuple[StudyFidelity, float]], draws: int, seed: int) -> RankRelation:
    rows = [
        (place, iou, student.cell, float(value))
        for place, (study, iou) in enumerate(with_iou)
        for student in study.taught
        if (value := outcome.of(student)) is not None
    ]
    code_N = np.array([place for place, *_ in rows], np.int64)
    x_N, y_N = (np.array([row[column] for row in rows], np.float64) for column in (1, 3))
    cells = [cell for _, _, cell, _ in rows]
    arms = [(place, cell) for place, _, cell, _ in rows]
    how: dict[str, Any] = {"draws": draws, "seed": seed}
    pooled = association.association(x_N, y_N, arms, **how).spearman
    shared = any(len({place for place, cell in arms if cell == name}) > 1 for name in set(cells))
    within = association.association(x_N, y_N, arms, association.dummies(cells), **how).spearman if shared else None
    count = len(set(code_N.tolist()))
    p, least = _p_over_studies(x_N, y_N, code_N, seed) if pooled is not None else (None, None)
    return RankRelation(outcome, len(rows), len(set(arms)), count, pooled, within, p, least)


def _p_over_studies(x_N: Floats, y_N: Floats, code_N: Integers, seed: int) -> tuple[float, float]:
    """Two-sided p of "which pair of teachers a student has does not matter", and the least it can be."""
    codes = np.unique(code_N)
    x_S = np.array([x_N[code_N == code][0] for code in codes])
    place_N = np.searchsorted(codes, code_N)
    orders = _orders(len(codes), seed)
    found_D = np.array([abs(_spearman(x_S[order][place_N], y_N)) for order in orders])
    observed = abs(_spearman(x_N, y_N))
    return float((found_D >= observed - _TIES).mean()), float((found_D >= found_D.max() - _TIES).mean())


def _orders(studies: int, seed: int) -> list[Integers]:
    """All orders of so many studies, the given one first; of many studies some, drawn."""
    if factorial(studies) <= ALL_ORDERS:
        return [np.array(order, np.int64) for order in permutations(range(studies))]
    rng = np.random.default_rng(seed)
    return [np.arange(studies, dtype=np.int64), *(rng.permutation(studies) for _ in range(ALL_ORDERS - 1))]


def _spearman(x_N: Floats, y_N: Floats) -> float:
    scaled = ((values_N - values_N.mean()) / values_N.std() for values_N in (x_N, y_N))
    ranks = [weighted_ranks(values_N[None], np.ones((1, len(values_N))))[0] for values_N in scaled]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])

"""Rank correlations over arms of several studies, and what so few teachers can say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from akdtune.reports.fidelity import relations as module
from akdtune.reports.fidelity.relations import OUTCOMES, RankRelation, relations
from akdtune.reports.fidelity.study import study_fidelity
from tests.reports.fidelity.recorded_studies import RecordedStudy, three_pairs


def of(found: list[RankRelation] | str, key: str) -> RankRelation:
    assert not isinstance(found, str), found
    return next(relation for relation in found if relation.outcome.key == key)


def test_over_arms_and_seeds(tmp_path: Path) -> None:
    studies = [study_fidelity(run) for run in three_pairs(tmp_path)]
    held = of(relations(studies, draws=200), "fidelity")
    assert (held.trials, held.arms, held.studies) == (18, 6, 3)
    x = [study.teachers.iou("sum") for study in studies for _ in study.taught]
    y = [student.ensemble.fidelity for study in studies for student in study.taught]
    assert held.over_arms is not None
    assert held.over_arms.value == pytest.approx(spearmanr(x, y).statistic)
    assert held.over_arms.value > 0.8
    assert held.over_arms.low is not None, "six arms give an interval"
    assert held.within_cells is not None and held.within_cells.value > 0.8
    assert held.p_over_studies == held.least_p == pytest.approx(2 / 6), "one order and its reverse of six"
    gap = of(relations(studies, draws=200), "gap")
    assert gap.over_arms is None, "the gap is 10 for all"
    assert gap.p_over_studies is None


def test_controls_that_no_teacher_taught_are_not_in_it(tmp_path: Path) -> None:
    studies = []
    for place, apart in enumerate((0.1, 1.0)):
        study = RecordedStudy(tmp_path / str(place), apart)
        study.teach("kd")
        study.teach("alone", method=[{"name": "student_only"}])
        studies.append(study_fidelity(study.write()))
    held = of(relations(studies, draws=200), "fidelity")
    assert (held.trials, held.arms) == (6, 2)
    assert held.over_arms is None or held.over_arms.low is None, "two arms give no interval"
    assert held.least_p in (None, 1.0), "two studies can say nothing about teachers"


def test_of_one_study_there_are_none(tmp_path: Path) -> None:
    study = RecordedStudy(tmp_path / "s")
    study.teach("weak")
    said = relations([study_fidelity(study.write())])
    assert said == (
        "studies with two teachers that have attention maps, and with students of theirs: 1 of 1; a correlation over "
        "pairs of teachers takes 2 or more"
    )


def test_many_studies_are_drawn() -> None:
    orders = module._orders(9, 0)
    assert len(orders) == module.ALL_ORDERS
    assert orders[0].tolist() == list(range(9))
    assert len(module._orders(4, 0)) == 24
    rng = np.random.default_rng(0)
    x_S = rng.normal(size=9)
    code_N = np.repeat(np.arange(9), 2)
    p, least = module._p_over_studies(x_S[code_N], x_S[code_N] + 0.01 * rng.normal(size=18), code_N, 0)
    assert p == pytest.approx(1 / module.ALL_ORDERS, abs=2 / module.ALL_ORDERS)
    assert least <= p


def test_the_claim_is_about_the_first_two() -> None:
    assert [outcome.key for outcome in OUTCOMES[:2]] == ["fidelity", "gap"]

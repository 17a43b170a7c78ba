"""A study that was really trained: what is read agrees with the rows that its trials wrote."""

from __future__ import annotations

from pathlib import Path

import pytest

from akdtune.records import tables
from akdtune.reports.fidelity.study import study_fidelity
from tests.trained_study import trained_study


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    return trained_study(folder / "study", folder, "record: {attention: 50, augmented: true, train: true}\n")


def test_numbers_are_those_of_the_rows(run: Path) -> None:
    found = study_fidelity(run)
    rows = {row["trial_id"]: row for row in tables.read_trials(run).to_pylist()}
    assert found.split == "validation"
    assert found.students and not found.without_maps
    assert len(found.students) + sum(found.left_out.values()) == len(rows)
    for student in found.students:
        row = rows[student.trial_id]
        assert student.taught
        assert student.alone.accuracy == pytest.approx(row["val_accuracy"])
        assert student.ensemble == student.each[0], "of one teacher"
        assert student.ensemble.fidelity == pytest.approx(row["agreement"])
        assert student.gap == pytest.approx(row["plain_train_accuracy"] - row["val_accuracy"])
        assert student.augmented_ensemble is not None
    (teacher,) = found.teachers.alone
    assert teacher.accuracy == pytest.approx(next(iter(rows.values()))["teacher_accuracy"])


def test_maps_of_a_teacher_its_views_and_students(run: Path) -> None:
    found = study_fidelity(run)
    teachers = found.teachers
    assert teachers.attended_images == 50
    assert teachers.itself == {"sum": 1, "predicted": 1}
    assert teachers.iou("sum") is None, "there is one teacher"
    for kind, noise in teachers.noise.items():
        assert noise.iou is not None and noise.chance is not None and noise.chance.low is not None
        assert noise.iou == pytest.approx(noise.chance.value, abs=2 * (noise.chance.value - noise.chance.low)), kind
    between = [overlap.between for overlap in found.students[0].overlaps["sum"]]
    assert between == [("student", "teacher 1"), ("view 1", "teacher 1"), ("view 2", "teacher 1")]

"""What is read and measured of a study: teachers, students, who is left out and why."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from akdtune.errors import AkdtuneError, NotRecorded, StudyError
from akdtune.records import recorded_files as files
from akdtune.records.files import trial_directory
from akdtune.reports.fidelity.agreement import likeness, mean_logits, percent_right
from akdtune.reports.fidelity.maps import attended, chance, iou
from akdtune.reports.fidelity.measured import Overlap
from akdtune.reports.fidelity.report import measured_columns
from akdtune.reports.fidelity.study import is_taught, study_fidelity
from tests.reports.fidelity.recorded_studies import IDS_N, LABELS_N, MAPPED, SIZE, Network, RecordedStudy
from tests.study_fixture import StudyBuilder


@pytest.fixture
def study(tmp_path: Path) -> RecordedStudy:
    return RecordedStudy(tmp_path / "s")


def masks(network: Network) -> np.ndarray:
    return attended(network.maps_Nhw, SIZE, SIZE)


def test_columns_that_nothing_was_measured_for_are_left_out() -> None:
    headings, rows = measured_columns(("cell", "IoU", "error"), [["a study", "", ""], ["  base", "n/a", "1.2"], ["b"]])
    assert headings == ["cell", "error"]
    assert rows == [["a study", ""], ["  base", "1.2"], ["b"]]


def test_teachers_beside_each_other(study: RecordedStudy) -> None:
    study.teach("weak")
    teachers = study_fidelity(study.write()).teachers
    first, second = study.teachers
    assert (teachers.images, teachers.attended_images) == (len(IDS_N), MAPPED)
    assert teachers.alone[0].accuracy == percent_right(first.logits_NK, LABELS_N)
    assert teachers.pairs[0, 1] == likeness(first.logits_NK, second.logits_NK)
    assert teachers.iou("sum") == iou(masks(first), masks(second))
    assert teachers.overlaps["sum"][0].chance == chance(masks(first), masks(second))
    negative = [attended(-teacher.maps_Nhw, SIZE, SIZE) for teacher in study.teachers]
    assert teachers.iou("predicted") == iou(*negative) != teachers.iou("sum")
    assert teachers.itself == {"sum": 1, "predicted": 1}
    noise = teachers.noise["sum"]
    assert noise.between == ("noise", "teacher 1")
    assert noise.iou is not None and noise.iou < 0.6


def test_a_student_beside_its_teachers(study: RecordedStudy) -> None:
    (trial,) = study.teach("weak", seeds=[4])
    (student,) = study_fidelity(study.write()).students
    network, (first, second) = study.students[trial], study.teachers
    assert (student.cell, student.seed, student.role, student.taught) == ("weak", 4, "ablation", True)
    assert student.alone.accuracy == percent_right(network.logits_NK, LABELS_N)
    assert student.ensemble == likeness(network.logits_NK, mean_logits([first.logits_NK, second.logits_NK]))
    assert student.each[1] == likeness(network.logits_NK, second.logits_NK)
    assert (student.gap, student.running_gap) == (pytest.approx(10), pytest.approx(4))
    by_names = {overlap.between: overlap for overlap in student.overlaps["sum"]}
    assert list(by_names) == [
        ("student", "teacher 1"), ("student", "teacher 2"), ("student", "teacher 1", "teacher 2"),
        ("view 1", "teacher 1"),
    ]  # fmt: skip
    three = (masks(network), masks(first), masks(second))
    assert by_names["student", "teacher 2"].iou == iou(three[0], three[2])
    assert student.with_all("sum") == by_names["student", "teacher 1", "teacher 2"].iou == iou(*three)
    assert by_names["view 1", "teacher 1"] == Overlap(("view 1", "teacher 1"), 1.0, chance(three[1], three[1]))
    both = [iou(three[0], three[1]), iou(three[0], three[2])]
    assert student.of_views("sum") == 1
    pair = student.with_teachers("sum")
    assert pair is not None and pair[0] == pytest.approx(np.mean(both))


def test_augmented_images_are_those_of_the_trial(study: RecordedStudy) -> None:
    """Both sides are shifted by an image, so that they agree as on plain images and are right less often."""
    (trial,) = study.teach("weak", seeds=[4])
    (other,) = study.teach("strong", seeds=[4])
    study.leave(other, study.students[other], augmentation="strong")
    found = study_fidelity(study.write())
    weak, strong = found.students
    shifted = np.roll(study.students[trial].logits_NK, 1, axis=0)
    assert (weak.augmentation, strong.augmentation) == ("weak", "strong")
    assert weak.augmented_accuracy == percent_right(shifted, LABELS_N)
    assert weak.affinity == pytest.approx(weak.augmented_accuracy / weak.alone.accuracy)
    assert weak.augmented_ensemble is not None
    assert weak.augmented_ensemble.fidelity == pytest.approx(weak.ensemble.fidelity)
    assert strong.augmented_accuracy is not None
    assert strong.augmented_ensemble is None, "the teachers' answers under strong augmentation are not there"
    assert list(found.teachers.augmented) == ["weak"]
    expected = found.teachers.augmented["weak"][0] / found.teachers.alone[0].accuracy
    assert found.teachers.affinity("weak")[0] == pytest.approx(expected)


def test_who_is_left_out_and_why(study: RecordedStudy) -> None:
    first, second = study.teach("weak", seeds=[1, 2])
    builder = study.builder
    builder.add("none/kd", 60.0, None, role="ablation", status="pruned")
    builder.add("none/kd", 60.0, None, role="ablation", status="running")
    builder.add("none/kd", 60.0, None, role="search")
    builder.add("none/kd", 60.0, None, role="ablation")
    (trial_directory(builder.path, second) / files.ATTENTION).unlink()
    other = study.teach("other", seeds=[5])[0]
    files.write_trial_logits(
        trial_directory(builder.path, other) / files.PREDICTIONS, IDS_N + 1, LABELS_N, study.students[other].logits_NK
    )
    found = study_fidelity(study.write(finished=False))
    assert [student.trial_id for student in found.students] == [first, second]
    assert found.left_out == {
        "pruned": 1, "running": 1, "without predictions": 1, "judged by other images than the teacher": 1,
        "judged by other images (search)": 1,
    }  # fmt: skip
    assert found.without_maps == {"none recorded": 1}
    assert not found.students[1].overlaps
    assert found.split == "test"
    assert found.shown_trial == first
    assert found.shown is not None
    assert list(found.shown.networks) == ["teacher 1", "teacher 2", "view 1", "student"]


def test_a_damaged_file_costs_its_trial_alone(study: RecordedStudy) -> None:
    trials = study.teach("weak", seeds=[1, 2, 3])
    for trial, name in zip(trials, (files.PREDICTIONS, files.ATTENTION), strict=False):
        path = trial_directory(study.builder.path, trial) / name
        path.write_bytes(path.read_bytes()[:-50])
    found = study_fidelity(study.write())
    assert [student.trial_id for student in found.students] == trials[2:]
    assert found.left_out == {"with damaged files (`akdtune verify` names them)": 2}


def test_controls_without_the_teacher_are_measured_and_not_taught(study: RecordedStudy) -> None:
    study.teach("base", seeds=[1])
    study.teach("student_only", seeds=[1], method=[{"name": "student_only"}])
    study.teach("random_teacher", seeds=[1], views={"name": "random"}, method=[{"name": "kd"}])
    found = study_fidelity(study.write())
    assert {student.cell: student.taught for student in found.students} == {
        "base": True, "student_only": False, "random_teacher": False,
    }  # fmt: skip
    assert [student.cell for student in found.taught] == ["base"]


@pytest.mark.parametrize(
    ("asked", "taught"),
    [
        ({"views": {"name": "none"}, "method": [{"name": "kd"}]}, True),
        ({"views": {"name": "none"}, "method": [{"name": "student_only"}, {"name": "kd"}]}, True),
        ({"views": {"name": "none"}, "method": [{"name": "label_smoothing"}]}, False),
        ({"views": {"name": "random"}, "method": [{"name": "kd"}]}, False),
        ({"views": "none", "method": "kd"}, True),
        ({}, True),
    ],
)
def test_who_is_taught(asked: dict[str, object], taught: bool) -> None:
    assert is_taught(asked) is taught


def test_without_maps_the_answers_count_alone(study: RecordedStudy) -> None:
    study.teach("weak", seeds=[1])
    run = study.write()
    files.teacher_attention_file(run, "test").unlink()
    found = study_fidelity(run)
    assert found.teachers.iou("sum") is None
    assert found.students[0].with_teachers("sum") is None
    assert found.students[0].ensemble.fidelity > 50
    assert found.without_maps == {"none recorded of the teachers": 1}
    assert found.shown is None


def test_a_study_without_teachers_answers_says_which_setting_keeps_them(tmp_path: Path) -> None:
    study = StudyBuilder(tmp_path / "s")
    study.add("none/kd", 60.0, None, role="ablation")
    with pytest.raises(NotRecorded, match=r"teacher-test\.parquet.*record: \{teacher: true"):
        study_fidelity(study.write())


def test_before_a_trial_has_finished(study: RecordedStudy) -> None:
    study.builder.add("none/kd", 60.0, None, role="ablation", status="running")
    with pytest.raises(StudyError, match=r"no trial has finished yet \(1 running\)"):
        study_fidelity(study.write(finished=False))


@pytest.mark.parametrize("threshold", [-0.1, 1.0])
def test_thresholds(study: RecordedStudy, threshold: float) -> None:
    study.teach("weak", seeds=[1])
    with pytest.raises(AkdtuneError, match=r"threshold: .* leaves nothing to compare"):
        study_fidelity(study.write(), threshold)

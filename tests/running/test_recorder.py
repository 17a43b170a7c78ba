"""A trial that ends leaves what `record` asks for, once a study what its teachers say, and the same numbers as ever."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from akdtune.errors import NotRecorded
from akdtune.records import recorded, recorded_files
from akdtune.records.files import read_rows
from akdtune.records.trial_directory import Superseded, TrialDirectory
from akdtune.running import recorder
from akdtune.running.trial_writer import TrialWriter
from akdtune.settings.record import RecordSettings
from akdtune.teacher.file import TeacherFile
from akdtune.training.config import TrialConfig
from akdtune.training.request import TrialRequest, trial_seeds
from akdtune.training.trial import Trial
from tests.small_trials import ANGULAR, DIGITS, TIMINGS, trained

EVERYTHING: dict[str, Any] = {
    "predictions": "float16", "views": True, "features": 6, "attention": 4, "augmented": True, "train": True,
}  # fmt: skip
CLOCKS = TIMINGS | {"warmup_time_s", "attempt", "trial_id"}


def request(record: Mapping[str, Any], root: Path | str = "", role: str = "search", **views: Any) -> TrialRequest:
    settings = {
        "data": DIGITS,
        "student": {"network": {"name": "cnn", "widths": [2, 4]}},
        "views": {**ANGULAR, "warmup_epochs": 1} if not views else views,
        "method": [{"name": "kd"}],
        "training": {"epochs": 2, "batch_size": 64, "device": "cpu"},
    }
    return TrialRequest(
        trial_id="t", role=role, settings=settings, seeds=trial_seeds(1), teacher_file=trained(), record=record,
        root=str(root),
    )  # fmt: skip


def run(asked: TrialRequest, folder: Path) -> TrialDirectory:
    """Trains a trial to its end."""
    directory = TrialDirectory(folder)
    directory.take_attempt()
    live = Trial(TrialConfig.parse(asked))
    directory.columns = live.columns
    writer = TrialWriter(asked, directory)
    for epoch in live.run():
        writer.finished(epoch)
    writer.close(live)
    return directory


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study directory with a trial that kept everything, and one that kept nothing."""
    root = tmp_path_factory.mktemp("recorded")
    run(request(EVERYTHING, root), root / "trials" / "all")
    run(request({"teacher": False}, root), root / "trials" / "none")
    return root


def rows(root: Path, trial_id: str) -> list[dict[str, Any]]:
    held = read_rows(root / "trials" / trial_id / "epochs.parquet")
    return [{name: value for name, value in row.items() if name not in CLOCKS} for row in held]


def test_trained_numbers_are_the_same_to_the_last_bit(ended: Path) -> None:
    with_all, without = rows(ended, "all"), rows(ended, "none")
    assert [row.pop("plain_train_accuracy") for row in with_all][0] is None
    assert with_all == without and len(without) == 2
    all_, none = (recorded.trial_logits(ended, name) for name in ("all", "none"))
    assert np.array_equal(all_.logits_NK.argmax(1), none.logits_NK.argmax(1))
    np.testing.assert_allclose(all_.logits_NK, none.logits_NK, rtol=1e-3, atol=1e-6)


def test_everything_that_was_asked_for_is_there(ended: Path) -> None:
    assert recorded.trial_views(ended, "all").log_probabilities_VNK.shape == (3, 600, 10)
    features, attention = recorded.trial_features(ended, "all"), recorded.trial_attention(ended, "all")
    assert {name: values.shape for name, values in features.of.items()} == {
        "student": (6, 4), "view_1": (6, 8), "view_2": (6, 8), "view_3": (6, 8),
    }  # fmt: skip
    assert list(attention.of) == ["student", "view_1", "view_2", "view_3"] and attention.image_size == 8
    assert attention.of["student"].sum_NHW.shape == (4, 4, 4)
    assert recorded.trial_augmented_logits(ended, "all").augmentation == "weak"
    accuracy = read_rows(ended / "trials" / "all" / "epochs.parquet")[-1]["plain_train_accuracy"]
    assert 0 < accuracy <= 100


def test_what_teachers_say_is_kept_once_and_agrees_with_the_rows(ended: Path) -> None:
    kept = sorted(path.name for path in (ended / "predictions").iterdir())
    assert kept == [
        "teacher-attention-validation.parquet", "teacher-augmented-weak-validation.parquet",
        "teacher-features-validation.parquet", "teacher-validation.parquet",
    ]  # fmt: skip
    teacher, student = recorded.teacher_logits(ended, "validation"), recorded.trial_logits(ended, "none")
    assert np.array_equal(teacher.sample_ids_N, student.sample_ids_N)
    answers, of_teacher = student.logits_NK.argmax(1), teacher.main_NK.argmax(1)
    last = rows(ended, "none")[-1]
    assert 100 * float((answers == of_teacher).mean()) == pytest.approx(last["agreement"], rel=1e-12)
    assert 100 * float((of_teacher == teacher.labels_N).mean()) == pytest.approx(last["teacher_accuracy"], rel=1e-12)
    wrong = (answers == of_teacher) & (of_teacher != teacher.labels_N)
    assert 100 * float(wrong.mean()) == pytest.approx(last["wrong_agree"], rel=1e-12)


def test_every_file_has_its_digest_in_the_outcome(ended: Path) -> None:
    outcome = TrialDirectory(ended / "trials" / "all").read_outcome() or {}
    assert set(outcome["files"]) == {"epochs.parquet", *recorded_files.OF_TRIAL}
    outcome = TrialDirectory(ended / "trials" / "none").read_outcome() or {}
    assert set(outcome["files"]) == {"epochs.parquet", "predictions.parquet"}


def test_who_comes_later_leaves_what_is_there(ended: Path, tmp_path: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in (ended / "predictions").iterdir()}
    run(request(EVERYTHING, ended), tmp_path / "later")
    assert {path.name: path.stat().st_mtime_ns for path in (ended / "predictions").iterdir()} == before


def test_two_that_end_at_once_write_the_same(ended: Path, tmp_path: Path) -> None:
    run(request({}, tmp_path), tmp_path / "trials" / "other")
    name = "teacher-validation.parquet"
    assert (tmp_path / "predictions" / name).read_bytes() == (ended / "predictions" / name).read_bytes()


def test_reports_keep_the_teacher_on_the_test_set(tmp_path: Path) -> None:
    run(request({}, tmp_path, role="ablation", name="none"), tmp_path / "trials" / "t")
    assert [path.name for path in (tmp_path / "predictions").iterdir()] == ["teacher-test.parquet"]
    held = recorded.teacher_logits(tmp_path)
    assert np.array_equal(held.sample_ids_N, recorded.trial_logits(tmp_path, "t").sample_ids_N)


def test_without_a_study_or_a_teacher_nothing_is_kept_of_teachers(tmp_path: Path) -> None:
    run(request(EVERYTHING), tmp_path / "alone")
    assert [path.name for path in tmp_path.iterdir()] == ["alone"]
    asked = request({}, tmp_path / "run", name="none")
    alone = replace(
        asked, settings={**asked.settings, "method": [{"name": "student_only"}]}, teacher_file=TeacherFile.none()
    )
    run(alone, tmp_path / "run" / "trials" / "t")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["trials"]
    with pytest.raises(NotRecorded):
        recorded.teacher_logits(tmp_path / "run", "validation")


def test_files_of_an_attempt_that_was_asked_for_more_go(tmp_path: Path) -> None:
    directory = run(request(EVERYTHING), tmp_path / "t")
    assert (directory.path / "features.parquet").exists()
    live = Trial(TrialConfig.parse(request({})))
    _, predictions = live.close()
    recorder.keep(directory, request({}), live.recording(), predictions)
    left = {path.name for path in directory.path.glob("*.parquet")}
    assert left == {"epochs.parquet", "predictions.parquet"}


def test_an_attempt_that_was_superseded_replaces_nothing(tmp_path: Path) -> None:
    directory = run(request({}), tmp_path / "t")
    before = directory.predictions.read_bytes()
    TrialDirectory(directory.path).take_attempt()
    live = Trial(TrialConfig.parse(request({})))
    _, predictions = live.close()
    with pytest.raises(Superseded):
        recorder.keep(directory, request(EVERYTHING), live.recording(), predictions)
    assert directory.predictions.read_bytes() == before
    assert not list(directory.path.glob(".*.tmp"))


def test_a_full_disk_leaves_no_half_of_a_teachers_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = recorded_files.write_teacher_logits

    def full(path: Path, *arguments: Any, **named: Any) -> None:
        written(path, *arguments, **named)
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(recorded_files, "write_teacher_logits", full)
    with pytest.raises(OSError, match="No space left"):
        run(request({}, tmp_path), tmp_path / "trials" / "t")
    assert list((tmp_path / "predictions").iterdir()) == []
    assert TrialDirectory(tmp_path / "trials" / "t").read_outcome() is None, "it goes on, and ends again"


@pytest.mark.parametrize(
    ("training", "data", "label"),
    [
        (None, None, "weak"),
        ("strong", None, "strong"),
        (None, {"preset": "strong", "pad": None, "cutout": None}, "strong"),
        ({"preset": "weak", "pad": None}, "strong", "weak"),
    ],
)
def test_an_augmentation_is_named_after_its_preset(training: Any, data: Any, label: str) -> None:
    given = {"training": {"augmentation": training}, "data": {"augmentation": data}}
    assert recorder.augmentation_label(given) == label


def test_an_augmentation_with_changes_of_its_own_has_a_name_of_its_own() -> None:
    names = {
        recorder.augmentation_label({"training": {}, "data": {"augmentation": {"preset": "weak", "cutout": cutout}}})
        for cutout in (2, 4, 4)
    }
    assert len(names) == 2 and all(name.startswith("weak-") and len(name) == 13 for name in names)


def test_the_request_says_what_a_study_asks_for() -> None:
    held = RecordSettings(**EVERYTHING).model_dump(mode="json")
    assert held == EVERYTHING
    assert TrialRequest.parse(request(held).plain()).record == EVERYTHING
    assert request(held).alone().record == {}
    assert "record" not in request({}).plain()
    assert asdict(request({}))["record"] == {}

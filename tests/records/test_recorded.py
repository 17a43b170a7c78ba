"""What is kept of networks comes back as it was written, in the order of the images; what is not kept says why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest

from akdtune.errors import NotRecorded, StudyError
from akdtune.records import recorded, recorded_files
from akdtune.records.files import read_schema, read_table
from akdtune.records.number_lists import in_half, read_lists, scores_in_half
from akdtune.records.recorded_files import Maps
from akdtune.records.trial_directory import TrialDirectory

IDS = np.array([9, 3, 5])
LABELS = np.array([0, 1, 2])
LOGITS = np.array([[9.5, 0.0], [3.25, 1.0], [5.0, -1.0]], np.float32)


def trial(run: Path, trial_id: str = "t") -> Path:
    """The folder of a trial."""
    folder = run / "trials" / trial_id
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def random(*shape: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_a_students_logits_come_back_in_the_order_of_ids(tmp_path: Path) -> None:
    recorded_files.write_trial_logits(trial(tmp_path) / "predictions.parquet", IDS, LABELS, LOGITS)
    held = recorded.trial_logits(tmp_path, "t")
    assert held.sample_ids_N.tolist() == [3, 5, 9]
    assert held.labels_N.tolist() == [1, 2, 0]
    assert held.logits_NK.tolist() == [[3.25, 1.0], [5.0, -1.0], [9.5, 0.0]]
    assert (held.logits_NK.dtype, held.augmentation) == (np.float32, None)


def test_values_and_groups_of_rows_come_back_and_follow_from_the_rest_where_none_are_stored(tmp_path: Path) -> None:
    path = trial(tmp_path) / "predictions.parquet"
    recorded_files.write_trial_logits(path, IDS, LABELS, LOGITS)
    held = recorded.trial_logits(tmp_path, "t")
    assert read_schema(path).names == ["sample_id", "label", "logits"]
    assert (held.values_N.tolist(), held.groups_N.tolist()) == ([0, 0, 100], [3, 5, 9])
    values_N, groups_N = np.array([41.5, 7.25, 12.0], np.float32), np.array([2, 2, 1])
    recorded_files.write_trial_logits(path, IDS, LABELS, LOGITS, values_N=values_N, groups_N=groups_N)
    held = recorded.trial_logits(tmp_path, "t")
    assert read_schema(path).names == ["sample_id", "label", "value", "group", "logits"]
    assert (held.values_N.tolist(), held.groups_N.tolist()) == ([7.25, 12.0, 41.5], [2, 1, 2])
    assert held.logits_NK.tolist() == [[3.25, 1.0], [5.0, -1.0], [9.5, 0.0]]


def test_float16_is_half_as_large_and_read_as_float32(tmp_path: Path) -> None:
    logits, ids, labels = random(2_000, 100), np.arange(2_000), np.zeros(2_000, np.int64)
    sizes = {}
    for half in (False, True):
        path = trial(tmp_path, f"t{half}") / "predictions.parquet"
        recorded_files.write_trial_logits(path, ids, labels, logits, half=half)
        sizes[half] = path.stat().st_size
    assert 0.45 < sizes[True] / sizes[False] < 0.55
    held = recorded.trial_logits(tmp_path, "tTrue").logits_NK
    assert held.dtype == np.float32
    np.testing.assert_allclose(held, logits, rtol=1e-3, atol=1e-6)
    assert np.array_equal(recorded.trial_logits(tmp_path, "tFalse").logits_NK, logits)


def test_in_float16_the_largest_score_stays_the_largest() -> None:
    step = np.float32(1e-5)  # far below what float16 tells apart at 10
    scores = np.array([[10, 10 + step, 10 - step], [10 + step, 10, 10], [-3, -3 + step, -7], [0, 0, 0]], np.float32)
    halves = scores_in_half(scores)
    assert halves.dtype == np.float16
    assert halves.argmax(axis=1).tolist() == scores.argmax(axis=1).tolist() == [1, 0, 1, 0]
    np.testing.assert_allclose(halves.astype(np.float32), scores, rtol=1e-3, atol=1e-6)
    many = random(4_000, 50, seed=1)
    many[:, 7] = many.max(axis=1) + np.float32(1e-6)
    assert (scores_in_half(many).argmax(axis=1) == many.argmax(axis=1)).all()
    assert (in_half(many).argmax(axis=1) != many.argmax(axis=1)).any(), "plain rounding makes others equal"


def test_what_float16_cannot_hold_becomes_its_largest() -> None:
    assert in_half(np.array([[1e6, -1e6, 1.0]])).tolist() == [[65504.0, -65504.0, 1.0]]
    scores = np.array([[1e6, 2e6, 0.0]], np.float32)
    halves = scores_in_half(scores)
    assert np.isfinite(halves).all() and halves.argmax(axis=1).tolist() == [1]


def test_views_come_back_and_a_plain_teacher_has_none(tmp_path: Path) -> None:
    views = [np.log(np.array([[0.5, 0.5], [0.25, 0.75], [1.0, 1e-4]])), LOGITS]
    recorded_files.write_trial_logits(trial(tmp_path) / "predictions.parquet", IDS, LABELS, LOGITS, views=views)
    held = recorded.trial_views(tmp_path, "t")
    assert held.log_probabilities_VNK.shape == (2, 3, 2)
    np.testing.assert_allclose(held.log_probabilities_VNK[0], views[0][[1, 2, 0]], rtol=2e-3)
    assert held.log_probabilities_VNK[1].tolist() == LOGITS[[1, 2, 0]].tolist()
    recorded_files.write_trial_logits(trial(tmp_path, "p") / "predictions.parquet", IDS, LABELS, LOGITS, views=[])
    assert recorded.trial_views(tmp_path, "p").log_probabilities_VNK.shape == (0, 3, 2)


def test_several_answers_come_back(tmp_path: Path) -> None:
    answers_NJK = np.arange(3 * 4 * 2, dtype=np.float32).reshape(3, 4, 2)
    path = trial(tmp_path) / "predictions.parquet"
    recorded_files.write_trial_logits(path, IDS, LABELS, LOGITS, answers_NJK=answers_NJK)
    held = recorded.trial_answers(tmp_path, "t")
    assert np.array_equal(held.logits_NJK, answers_NJK[[1, 2, 0]])
    assert (held.sample_ids_N.tolist(), held.labels_N.tolist()) == ([3, 5, 9], [1, 2, 0])


def test_teachers_come_back_in_their_order(tmp_path: Path) -> None:
    others = [LOGITS, LOGITS + 1, LOGITS * 2]
    recorded_files.write_teacher_logits(recorded_files.teacher_logits_file(tmp_path, "test"), IDS, LABELS, others)
    held = recorded.teacher_logits(tmp_path, "test")
    assert np.array_equal(held.logits_MNK, np.stack([logits[[1, 2, 0]] for logits in others]))
    assert np.array_equal(held.main_NK, held.logits_MNK[0])
    kind = read_schema(tmp_path / "predictions" / "teacher-test.parquet").field("logits_0").type
    assert str(kind.value_type) == "halffloat"


def test_each_split_has_files_of_its_own(tmp_path: Path) -> None:
    for number, split in enumerate(("validation", "test")):
        path = recorded_files.teacher_logits_file(tmp_path, split)
        recorded_files.write_teacher_logits(path, IDS, LABELS, [LOGITS + number])
    names = {split: [path.name for path in recorded_files.teacher_files(tmp_path, split)] for split in
             ("validation", "test")}  # fmt: skip
    assert names == {"validation": ["teacher-validation.parquet"], "test": ["teacher-test.parquet"]}
    assert recorded.teacher_logits(tmp_path, "validation").main_NK[0].tolist() == [3.25, 1.0]
    assert recorded.teacher_logits(tmp_path, "test").main_NK[0].tolist() == [4.25, 2.0]
    assert [recorded.split_of(role) for role in ("search", "probe", "pilot", "confirm", "ablation", "control")] == [
        "validation", "validation", "validation", "test", "test", "test",
    ]  # fmt: skip


def test_features_come_back(tmp_path: Path) -> None:
    held = {"student": random(3, 4), "view_1": random(3, 6, seed=1)}
    recorded_files.write_features(trial(tmp_path) / "features.parquet", IDS, held)
    features = recorded.trial_features(tmp_path, "t")
    assert list(features.of) == ["student", "view_1"] and features.sample_ids_N.tolist() == [3, 5, 9]
    for name, values in held.items():
        np.testing.assert_allclose(features.of[name], values[[1, 2, 0]], rtol=1e-3, atol=1e-4)
    path = recorded_files.teacher_features_file(tmp_path, "test")
    recorded_files.write_features(path, IDS, {"features_0": random(3, 2), "features_1": random(3, 5)})
    of = recorded.teacher_features(tmp_path).of
    assert {name: values.shape for name, values in of.items()} == {"teacher_0": (3, 2), "teacher_1": (3, 5)}


def test_attention_maps_come_back_in_their_own_sizes(tmp_path: Path) -> None:
    of_trial = {
        "student": Maps(random(3, 4, 4), random(3, 4, 4, seed=1)),
        "view_1": Maps(random(3, 2, 3, seed=2), random(3, 2, 3, seed=3)),
    }
    recorded_files.write_attention(trial(tmp_path) / "attention.parquet", IDS, 28, of_trial)
    columns = read_table(trial(tmp_path) / "attention.parquet").column_names
    assert columns == ["sample_id", "sum", "predicted", "view_1_sum", "view_1_predicted"]
    held = recorded.trial_attention(tmp_path, "t")
    assert (held.image_size, list(held.of)) == (28, ["student", "view_1"])
    for whose, maps in of_trial.items():
        for stored, written in zip(held.of[whose], maps, strict=True):
            np.testing.assert_allclose(stored, written[[1, 2, 0]], rtol=1e-3, atol=1e-4)
    of_teachers = {"teacher_0": of_trial["student"], "teacher_1": of_trial["view_1"]}
    path = recorded_files.teacher_attention_file(tmp_path, "validation")
    recorded_files.write_attention(path, IDS, 28, of_teachers)
    assert read_table(path).column_names == ["sample_id", "sum_0", "predicted_0", "sum_1", "predicted_1"]
    assert recorded.teacher_attention(tmp_path, "validation").of["teacher_1"].sum_NHW.shape == (3, 2, 3)


def test_answers_on_augmented_images_say_what_was_done_to_these(tmp_path: Path) -> None:
    path = trial(tmp_path) / "predictions-augmented.parquet"
    recorded_files.write_trial_logits(path, IDS, LABELS, LOGITS, augmentation="strong")
    assert recorded.trial_augmented_logits(tmp_path, "t").augmentation == "strong"
    of_teacher = recorded_files.teacher_augmented_file(tmp_path, "strong", "test")
    assert of_teacher.name == "teacher-augmented-strong.parquet"
    recorded_files.write_teacher_logits(of_teacher, IDS, LABELS, [LOGITS], augmentation="strong")
    assert recorded.teacher_augmented_logits(tmp_path, "strong").augmentation == "strong"
    with pytest.raises(NotRecorded, match=r"teacher-augmented-weak\.parquet: .* `record: \{augmented: true\}`"):
        recorded.teacher_augmented_logits(tmp_path, "weak")


def test_images_that_several_records_hold_are_brought_together() -> None:
    first, second = np.array([1, 3, 5, 8]), np.array([3, 4, 8, 9])
    rows, others = recorded.common_rows(first, second)
    assert first[rows].tolist() == second[others].tolist() == [3, 8]


@pytest.mark.parametrize(
    ("read", "words"),
    [
        (lambda run: recorded.trial_logits(run, "t"), "t left no predictions: only trials that reach their end do"),
        (lambda run: recorded.trial_features(run, "t"), r"no features: `record: \{features: N\}` keeps them"),
        (lambda run: recorded.trial_attention(run, "t"), r"no attention maps: `record: \{attention: N\}` keeps them"),
        (lambda run: recorded.trial_augmented_logits(run, "t"), r"`record: \{augmented: true\}` keeps them"),
        (lambda run: recorded.teacher_logits(run), r"teacher-test\.parquet: .*`record: \{teacher: true, the default"),
        (lambda run: recorded.teacher_features(run), r"teacher-features\.parquet: .*features: N"),
        (lambda run: recorded.teacher_attention(run, "validation"), r"teacher-attention-validation\.parquet: "),
    ],
)
def test_what_is_not_kept_says_which_setting_keeps_it(tmp_path: Path, read: Any, words: str) -> None:
    with pytest.raises(NotRecorded, match=words):
        read(tmp_path)


def test_predictions_without_views_or_answers_say_so(tmp_path: Path) -> None:
    recorded_files.write_trial_logits(trial(tmp_path) / "predictions.parquet", IDS, LABELS, LOGITS)
    with pytest.raises(NotRecorded, match=r"trial t left no answers of its views: `record: \{views: true\}`"):
        recorded.trial_views(tmp_path, "t")
    with pytest.raises(NotRecorded, match=r"its network gives one, or `record\.answers` is false"):
        recorded.trial_answers(tmp_path, "t")


def test_a_file_that_is_no_longer_what_the_trial_wrote_is_refused(tmp_path: Path) -> None:
    directory = TrialDirectory(trial(tmp_path))
    path = directory.path / "features.parquet"
    recorded_files.write_features(path, IDS, {"student": random(3, 4)})
    directory.write_outcome({"outcome": "done", "epoch": 1, "trial_id": "t"})
    assert "features.parquet" in json.loads(directory.outcome.read_text())["files"]
    assert recorded.trial_features(tmp_path, "t").of["student"].shape == (3, 4)
    recorded_files.write_features(path, IDS, {"student": random(3, 4, seed=1)})
    with pytest.raises(StudyError, match=r"features\.parquet: is not what the trial wrote.*`akdtune run` mends it"):
        recorded.trial_features(tmp_path, "t")


def test_a_file_of_another_form_is_one_sentence(tmp_path: Path) -> None:
    path = trial(tmp_path) / "predictions.parquet"
    recorded_files.write_features(path, IDS, {"student": random(3, 4)})
    with pytest.raises(StudyError, match=r"predictions\.parquet: damaged, it holds no label of each image"):
        recorded.trial_logits(tmp_path, "t")
    path.write_bytes(b"PAR1 nothing")
    with pytest.raises(StudyError, match="cannot be read, truncated or no Parquet file"):
        recorded.trial_logits(tmp_path, "t")
    attention = trial(tmp_path) / "attention.parquet"
    recorded_files.write_features(attention, IDS, {"sum": random(3, 4), "predicted": random(3, 4)})
    with pytest.raises(StudyError, match="it holds no maps sum of a known size"):
        recorded.trial_attention(tmp_path, "t")


def test_a_flipped_bit_of_a_teachers_file_is_found(tmp_path: Path) -> None:
    path = recorded_files.teacher_logits_file(tmp_path, "test")
    recorded_files.write_teacher_logits(path, np.arange(500), np.zeros(500, np.int64), [random(500, 20)])
    place = pq.ParquetFile(path).metadata.row_group(0).column(2).data_page_offset + 200
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)
    with pytest.raises(StudyError, match="cannot be read"):
        recorded.teacher_logits(tmp_path, "test")


def test_an_empty_table_has_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "empty.parquet"
    none = np.zeros(0, np.int64)
    recorded_files.write_trial_logits(path, none, none, np.zeros((0, 3), np.float32))
    assert read_lists(read_table(path), "logits").shape == (0, 0)

"""Mutual information of two labellings, adjusted for chance, beside scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import adjusted_mutual_info_score, mutual_info_score
from sklearn.metrics.cluster import contingency_matrix, expected_mutual_information

from akdtune.statistics import mutual_information as module
from akdtune.statistics.mutual_information import mutual_information


@pytest.mark.parametrize(("images", "classes", "same"), [(300, 10, 0.7), (50, 100, 0.2), (40, 3, 0.0), (7, 7, 1.0)])
def test_is_scikit_learns(images: int, classes: int, same: float) -> None:
    rng = np.random.default_rng(images)
    first_N, other_N = rng.integers(0, classes, (2, images))
    second_N = np.where(rng.uniform(size=images) < same, first_N, other_N)
    got = mutual_information(first_N, second_N)
    assert got.nats == pytest.approx(mutual_info_score(first_N, second_N))
    expected = expected_mutual_information(contingency_matrix(first_N, second_N, sparse=True), images)
    assert got.expected_nats == pytest.approx(expected)
    assert got.adjusted == pytest.approx(adjusted_mutual_info_score(first_N, second_N), abs=1e-9)


def test_in_parts_as_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first_N, second_N = np.random.default_rng(0).integers(0, 12, (2, 500))
    whole = mutual_information(first_N, second_N)
    monkeypatch.setattr(module, "_CELLS_AT_ONCE", 100)
    assert mutual_information(first_N, second_N).expected_nats == pytest.approx(whole.expected_nats, rel=1e-12)


def test_chance_is_nearly_all_of_it_where_classes_are_many() -> None:
    """100 independent images in 50 classes each: more than one nat by chance alone, adjusted about 0."""
    first_N, second_N = np.random.default_rng(1).integers(0, 50, (2, 100))
    got = mutual_information(first_N, second_N)
    assert got.nats > 2
    assert got.adjusted == pytest.approx(0, abs=0.1)


def test_names_of_labels_do_not_matter() -> None:
    labels_N = np.array([0, 0, 1, 1, 2, 2])
    assert mutual_information(labels_N, 7 - labels_N).adjusted == pytest.approx(1)
    assert mutual_information(labels_N, labels_N).nats == pytest.approx(np.log(3))


def test_a_single_label_tells_nothing() -> None:
    same_N, other_N = np.zeros(6, int), np.array([0, 0, 0, 1, 1, 1])
    assert mutual_information(same_N, same_N).adjusted is None
    assert mutual_information(same_N, other_N).nats == 0
    assert mutual_information(same_N, other_N).adjusted == pytest.approx(0)


def test_lengths_must_be_one() -> None:
    with pytest.raises(ValueError, match="got 2 and 3"):
        mutual_information(np.zeros(2, int), np.zeros(3, int))

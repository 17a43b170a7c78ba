"""The tests of a race: exact p values, Holm's correction, ties, and what is dropped."""

from __future__ import annotations

import itertools

import pytest
from scipy.stats import rankdata

from akdtune.search import racing


def enumerated(differences: list[float]) -> float:
    """The definition: the share of sign patterns whose sum of positive ranks is as large."""
    ranks = rankdata([abs(difference) for difference in differences])
    observed = sum(rank for rank, difference in zip(ranks, differences, strict=True) if difference > 0)
    sums = [sum(itertools.compress(ranks, signs)) for signs in itertools.product([0, 1], repeat=len(ranks))]
    return sum(total >= observed - 1e-9 for total in sums) / len(sums)


@pytest.mark.parametrize(
    "differences",
    [[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [1.0, -2.0, 3.0, 4.0, -5.0, 6.0], [1.0, 1.0, 2.0, -1.0, 2.0, 3.0, 3.0]],
)
def test_p_is_the_share_of_sign_patterns(differences: list[float]) -> None:
    other = [50.0 - score for score in differences]
    assert racing.worse_p([50.0] * len(differences), other) == pytest.approx(enumerated(differences))


def test_equal_pairs_say_nothing() -> None:
    assert racing.worse_p([1.0, 2.0], [1.0, 2.0]) == 1.0
    assert racing.worse_p([5.0, 1.0, 2.0], [5.0, 0.0, 0.5]) == pytest.approx(1 / 4)


def test_many_seeds_with_ties_use_the_normal_approximation() -> None:
    assert racing.worse_p([50.0] * 20, [49.0, 48.5] * 10) < 1e-3


def test_holm_steps_down_and_never_falls() -> None:
    adjusted = racing.holm({"a": 0.01, "b": 0.04, "c": 0.03})
    assert adjusted == {"a": pytest.approx(0.03), "c": pytest.approx(0.06), "b": pytest.approx(0.06)}


def test_the_first_of_equals_is_the_best_and_is_never_dropped() -> None:
    candidates = racing.judged({"x": [1.0, 2.0], "y": [1.0, 2.0]}, 0.05)
    assert [(candidate.cell_id, candidate.p, candidate.dropped) for candidate in candidates] == [
        ("x", None, False),
        ("y", 1.0, False),
    ]

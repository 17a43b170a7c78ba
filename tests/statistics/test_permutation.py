"""statistics/permutation.py: permutations within groups, against all of them, and what they are for."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.stats

from akdtune.statistics.permutation import p_within_groups


def test_it_is_the_share_of_all_orders_within_groups() -> None:
    """Two groups of four: 24 x 24 orders, all of them enumerated."""
    rng = np.random.default_rng(0)
    x_N, y_N, groups = rng.normal(size=8), rng.normal(size=8), list("aaaabbbb")
    y_N[:4] += 0.8 * x_N[:4]
    y_N[4:] += 100 + 0.8 * x_N[4:]
    left_x, left_y = (np.r_[v[:4] - v[:4].mean(), v[4:] - v[4:].mean()] for v in (x_N, y_N))
    sums = [
        abs(left_x[:4] @ left_y[list(first)] + left_x[4:] @ left_y[list(second)])
        for first in itertools.permutations(range(4))
        for second in itertools.permutations(range(4, 8))
    ]
    expected = np.mean(np.array(sums) >= abs(left_x @ left_y) - 1e-12)
    (p,) = p_within_groups(x_N[:, None], y_N, groups, draws=40_000)
    assert p == pytest.approx(expected, abs=4 * np.sqrt(expected * (1 - expected) / 40_000))


def test_one_group_is_the_plain_permutation_test_and_units_do_not_matter() -> None:
    rng = np.random.default_rng(1)
    x_N = rng.normal(size=30)
    y_N = 0.4 * x_N + rng.normal(size=30)
    (p,) = p_within_groups(x_N[:, None], y_N, ["a"] * 30)
    assert p == pytest.approx(scipy.stats.pearsonr(x_N, y_N).pvalue, abs=0.01)
    assert p_within_groups(1e-6 * x_N[:, None] + 7, 1e6 * y_N - 3, ["a"] * 30) == [p]


def test_levels_of_groups_are_not_seen_and_each_column_is_by_itself() -> None:
    rng = np.random.default_rng(2)
    x_NM, y_N = rng.normal(size=(24, 3)), rng.normal(size=24)
    groups = [index % 3 for index in range(24)]
    shifted_NM, shifted_N = x_NM + 50 * np.array(groups)[:, None], y_N - 80 * np.array(groups)
    together = p_within_groups(shifted_NM, shifted_N, groups)
    assert together == p_within_groups(x_NM, y_N, groups)
    assert together == [p_within_groups(x_NM[:, [index]], y_N, groups)[0] for index in range(3)]


def test_what_does_not_vary_within_groups_has_no_p() -> None:
    groups = [index % 4 for index in range(20)]
    rng = np.random.default_rng(3)
    constant_N = 0.1 * np.array(groups)
    ps = p_within_groups(np.column_stack([constant_N, rng.normal(size=20)]), rng.normal(size=20), groups)
    assert ps[0] is None
    assert ps[1] is not None
    assert p_within_groups(rng.normal(size=(20, 1)), constant_N, groups) == [None]


def test_beyond_the_limit_it_is_about_the_same_without_a_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    groups = [index % 5 for index in range(200)]
    x_NM = rng.normal(size=(200, 4)) * (1 + np.array(groups))[:, None]
    y_N = 0.02 * x_NM[:, 0] + rng.normal(size=200)
    drawn = p_within_groups(x_NM, y_N, groups)
    monkeypatch.setattr(np.random, "default_rng", lambda *_: pytest.fail("drawn"))
    assert p_within_groups(x_NM, y_N, groups, drawn_up_to=100) == pytest.approx(drawn, abs=0.02)


def test_arms_that_vary_more_do_not_make_false_associations() -> None:
    """One of four arms varies four times as much in both: a t test with arm means errs in .15 of studies."""
    rng = np.random.default_rng(5)
    arms_N = np.arange(44) % 4
    spread_N = np.array([1.0, 1.0, 2.0, 4.0])[arms_N]
    dummies_NG = np.eye(4)[arms_N]
    wrong = {"permutations": 0, "t": 0}
    studies = 600
    for _ in range(studies):
        x_N, y_N = spread_N * rng.normal(size=(2, 44))
        (p,) = p_within_groups(x_N[:, None], y_N, arms_N.tolist(), draws=299)
        left_x, left_y = (v - dummies_NG @ (dummies_NG.T @ v / 11) for v in (x_N, y_N))
        r = left_x @ left_y / np.sqrt((left_x**2).sum() * (left_y**2).sum())
        wrong["permutations"] += p is not None and p < 0.05
        wrong["t"] += 2 * scipy.stats.t.sf(abs(r) * np.sqrt(39 / (1 - r**2)), 39) < 0.05
    assert wrong["permutations"] / studies <= 0.05 + 4 * np.sqrt(0.05 * 0.95 / studies)
    assert wrong["t"] / studies > 0.1

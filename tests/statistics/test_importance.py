"""Intervals of importance shares: every share inside its own, and as many covered as is said."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution

from akdtune.statistics.importance import LEVEL, Evaluator, importances, marginal, share_interval

DISTRIBUTIONS = {
    "strong": FloatDistribution(0.0, 1.0),
    "log": FloatDistribution(0.1, 4.0, log=True),
    "option": CategoricalDistribution(["x", "y", "z"]),
}


def searched(count: int, seed: int) -> tuple[list[dict[str, Any]], Any]:
    rng = np.random.default_rng(seed)
    configurations = [
        {
            "strong": float(rng.uniform()), "log": float(np.exp(rng.uniform(np.log(0.1), np.log(4)))),
            "option": str(rng.choice(["x", "y", "z"])),
        }
        for _ in range(count)
    ]  # fmt: skip
    return configurations, np.array(
        [3 * c["strong"] + (c["option"] == "x") + 0.5 * rng.normal() for c in configurations]
    )


def test_a_share_outside_of_all_resamples_lies_in_its_interval() -> None:
    """Resamples of a search whose best are all alike: each blurs what the shares are."""
    share_P = np.array([0.95, 0.05, 0.0])
    resampled_DP = np.array([[0.6, 0.3, 0.1], [0.7, 0.2, 0.1], [0.5, 0.4, 0.1]])
    low_P, high_P = share_interval(share_P, resampled_DP)
    assert (resampled_DP[:, 0] < share_P[0]).all()
    assert (low_P <= share_P).all() and (share_P <= high_P).all()
    assert (low_P >= 0).all() and (high_P <= 1).all()
    assert (low_P[2], high_P[2]) == (0, 0), "a share that no resample changes"


def test_an_interval_by_hand() -> None:
    """Two resamples at 0.25 and 0.75: angles pi/6 and pi/3, sd pi/6/sqrt(2); t of one degree of freedom at .25 is 1."""
    low_P, high_P = share_interval(np.array([0.5]), np.array([[0.25], [0.75]]), level=0.5)
    reach = np.pi / 6 / np.sqrt(2)
    assert low_P[0] == pytest.approx(np.sin(np.pi / 4 - reach) ** 2)
    assert high_P[0] == pytest.approx(np.sin(np.pi / 4 + reach) ** 2)


def test_coverage_where_resamples_spread_as_studies_do_but_around_elsewhere() -> None:
    """2,000 studies of three settings: shares of Dirichlet's law, resamples shifted towards each other."""
    rng, mean_P, weight, draws = np.random.default_rng(0), np.array([0.6, 0.3, 0.1]), 12.0, 25
    covered = []
    for _ in range(2_000):
        share_P = rng.dirichlet(weight * mean_P)
        resampled_DP = rng.dirichlet(weight * (0.7 * mean_P + 0.1), size=draws)
        low_P, high_P = share_interval(share_P, resampled_DP)
        assert (low_P <= share_P).all() and (share_P <= high_P).all()
        covered.append((low_P <= mean_P) & (mean_P <= high_P))
    coverage_P = np.mean(covered, axis=0)
    assert coverage_P[:2] == pytest.approx([LEVEL] * 2, abs=0.03)
    assert coverage_P[2] == pytest.approx(LEVEL, abs=0.06), "near zero the scale is not quite even"


@pytest.mark.slow
@pytest.mark.parametrize(("evaluator", "count", "studies"), [("ped_anova", 12, 40), ("fanova", 12, 12)])
def test_many_small_studies(evaluator: Evaluator, count: int, studies: int) -> None:
    """Every share inside its interval; the mean share of all studies in about nine of ten."""
    found: dict[str, list[tuple[float, float, float]]] = {}
    for study in range(studies):
        for one in importances(*searched(count, study), DISTRIBUTIONS, evaluator, draws=20, seed=study, trees=16):
            assert one.low <= one.share <= one.high
            found.setdefault(one.name, []).append((one.share, one.low, one.high))
    covered = []
    for of_setting in found.values():
        share_S, low_S, high_S = np.array(of_setting).T
        covered.append(((low_S <= share_S.mean()) & (share_S.mean() <= high_S)).mean())
    assert 0.84 <= np.mean(covered) <= 1.0, covered


def test_fewer_than_five_have_no_interval() -> None:
    values = [0.1] * 4 + [0.5] * 5
    few, enough = marginal(values, np.arange(9.0), FloatDistribution(0.0, 1.0))
    assert (few.n, few.low, few.high) == (4, None, None)
    assert enough.low is not None and enough.low < enough.mean < (enough.high or 0)


def test_the_middle_of_a_bin_is_geometric_on_a_logarithmic_scale() -> None:
    values = list(np.geomspace(0.01, 10, 20))
    first = marginal(values, np.arange(20.0), FloatDistribution(0.01, 10.0, log=True))[0]
    inside = [values[place] for place in first.members]
    assert first.x == pytest.approx(np.exp(np.log(inside).mean()))
    plain = marginal(values, np.arange(20.0), FloatDistribution(0.0, 10.0))[0]
    assert plain.x == pytest.approx(np.mean(inside))

"""The path over a third variable: least squares' own slopes, both extremes, what the intervals cover."""

from __future__ import annotations

import numpy as np
import pytest
from statsmodels.regression.linear_model import OLS

from akdtune.statistics import mediation
from akdtune.statistics.association import dummies
from akdtune.statistics.mediation import Mediation
from akdtune.statistics.resampling import Floats


def sample(a: float, b: float, direct: float, seed: int = 0, n: int = 60) -> tuple[Floats, Floats, Floats, list[str]]:
    rng = np.random.default_rng(seed)
    arms = [f"arm{index % 3}" for index in range(n)]
    shift_N = 10.0 * (np.arange(n) % 3)
    x_N = rng.normal(size=n) + shift_N
    m_N = a * (x_N - shift_N) + rng.normal(size=n) - 2 * shift_N
    y_N = b * (m_N + 2 * shift_N) + direct * (x_N - shift_N) + rng.normal(size=n) + 3 * shift_N
    return x_N, m_N, y_N, arms


def path(a: float, b: float, direct: float, seed: int = 0, draws: int = 400, n: int = 60) -> Mediation:
    x_N, m_N, y_N, arms = sample(a, b, direct, seed, n)
    found = mediation.mediation(x_N, m_N, y_N, range(n), dummies(arms), draws=draws)
    assert isinstance(found, Mediation)
    return found


def test_slopes_are_least_squares_own_and_add_up() -> None:
    x_N, m_N, y_N, arms = sample(1.0, 0.5, 0.3)
    found = mediation.mediation(1e-3 * x_N, m_N, 10 * y_N, range(60), dummies(arms), draws=200)
    assert isinstance(found, Mediation)
    means = dummies(arms)
    a = OLS(m_N, np.column_stack([1e-3 * x_N, means])).fit().params[0]
    direct, b = OLS(10 * y_N, np.column_stack([1e-3 * x_N, m_N, means])).fit().params[:2]
    total = OLS(10 * y_N, np.column_stack([1e-3 * x_N, means])).fit().params[0]
    got = [part.value for part in (found.a, found.b, found.indirect, found.direct, found.total)]
    assert got == pytest.approx([a, b, a * b, direct, total])
    assert found.indirect.value + found.direct.value == pytest.approx(found.total.value)
    assert found.clusters == 60


def test_all_along_the_path_and_none_of_it() -> None:
    along, beside = path(1.0, 1.0, 0.0), path(1.0, 0.0, 1.0)
    assert along.indirect.excludes_zero and not along.direct.excludes_zero
    assert beside.direct.excludes_zero and not beside.indirect.excludes_zero


def test_the_intervals_are_percentiles_of_resampled_cells() -> None:
    """The same draws by hand, rows copied."""
    x_N, m_N, y_N, arms = sample(1.0, 0.5, 0.3, n=24)
    found = mediation.mediation(x_N, m_N, y_N, range(24), dummies(arms), draws=300, seed=5)
    assert isinstance(found, Mediation)
    drawn = []
    for rows in np.random.default_rng(5).integers(0, 24, (300, 24)):
        means = dummies([arms[row] for row in rows])
        a = np.linalg.lstsq(np.column_stack([x_N[rows], means]), m_N[rows])[0][0]
        b = np.linalg.lstsq(np.column_stack([x_N[rows], m_N[rows], means]), y_N[rows])[0][1]
        drawn.append(a * b)
    assert (found.indirect.low, found.indirect.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])))


def test_the_interval_of_the_product_covers() -> None:
    """True product .5: percentiles cover it in about .95 of samples (Monte-Carlo error .03)."""
    found = [path(1.0, 0.5, 0.2, seed=seed, draws=300).indirect for seed in range(60)]
    covered = np.mean([bool(part.low is not None and part.high is not None and part.low < 0.5 < part.high)
                       for part in found])  # fmt: skip
    assert 0.85 <= covered <= 1.0
    assert np.mean([part.value for part in found]) == pytest.approx(0.5, abs=0.06)


def test_what_has_no_path_says_why() -> None:
    x_N, m_N, y_N, arms = sample(1.0, 0.5, 0.3)
    means = dummies(arms)
    constant_N = np.array([float(arm[-1]) for arm in arms])
    for values, said in (
        ((constant_N, m_N, y_N), "diversity does not vary within arms"),
        ((x_N, constant_N, y_N), "the ensemble's accuracy does not vary within arms"),
        ((x_N, m_N, constant_N), "accuracy does not vary within arms"),
        ((x_N, 3 * x_N + constant_N, y_N), "lie on one line within arms"),
    ):
        found = mediation.mediation(*values, range(60), means, draws=100)
        assert isinstance(found, str)
        assert said in found


def test_few_cells_have_no_interval() -> None:
    x_N, m_N, y_N, _ = sample(1.0, 0.5, 0.3, n=5)
    found = mediation.mediation(x_N, m_N, y_N, range(5), np.ones((5, 1)), draws=100)
    assert isinstance(found, Mediation)
    assert found.indirect.low is None

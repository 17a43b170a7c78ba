"""The mixed model: both slopes on data with a known answer, statsmodels' own numbers, what happens when it fails."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.special import stdtrit
from statsmodels.regression.linear_model import OLS
from statsmodels.regression.mixed_linear_model import MixedLM

from akdtune.statistics import mixed
from akdtune.statistics.association import dummies


def simulated(cells: int = 30, seeds: int = 3, between: float = 2.0, within: float = -1.0, noise: float = 0.1) -> Any:
    """Trials of three arms whose accuracy rises with diversity between cells and falls with it between seeds."""
    rng = np.random.default_rng(0)
    cell_C, arm_C = rng.normal(size=cells), np.arange(cells) % 3
    codes_N = np.repeat(np.arange(cells), seeds)
    own_N = 0.3 * rng.normal(size=cells * seeds)
    own_N -= np.repeat(own_N.reshape(cells, seeds).mean(axis=1), seeds)
    x_N = cell_C[codes_N] + own_N + 5 * arm_C[codes_N]
    seeds_N = np.tile(np.arange(seeds), cells)
    y_N = (
        between * cell_C[codes_N]
        + within * own_N
        - 7 * arm_C[codes_N]
        + 0.5 * seeds_N
        + noise * rng.normal(size=len(x_N))
    )
    arms_N = [f"angular/{arm}" for arm in arm_C[codes_N]]
    return x_N, y_N, {"arms_N": arms_N, "cells_N": [f"c{c}" for c in codes_N], "seeds_N": seeds_N.tolist()}


def test_both_slopes_are_found_whatever_lies_between_arms() -> None:
    x_N, y_N, levels = simulated()
    found = mixed.fit(x_N, y_N, **levels)
    assert isinstance(found, mixed.MixedFit)
    assert found.between_cells is not None and found.between_seeds is not None
    assert found.between_cells.value == pytest.approx(2.0, abs=0.1)
    assert found.between_seeds.value == pytest.approx(-1.0, abs=0.2)
    assert found.between_cells.low is not None and found.between_cells.low > 1.5
    assert found.between_seeds.high is not None and found.between_seeds.high < -0.5
    assert (found.trials, found.between_cells.dof, found.between_seeds.dof) == (90, 30 - 3 - 1, 90 - 30 - 2 - 1)
    assert found.sds["residual"] == pytest.approx(0.1, abs=0.03)
    assert set(found.sds) == {"arm", "seed", "cell", "residual"} or found.fixed


def test_units_do_not_matter() -> None:
    x_N, y_N, levels = simulated(noise=0.5)
    plain, other = mixed.fit(x_N, y_N, **levels), mixed.fit(1e-4 * x_N + 3, 1e3 * y_N - 5, **levels)
    assert isinstance(plain, mixed.MixedFit) and isinstance(other, mixed.MixedFit)
    assert plain.between_cells is not None and other.between_cells is not None
    assert other.between_cells.value == pytest.approx(1e7 * plain.between_cells.value, rel=1e-3)
    assert other.sds["residual"] == pytest.approx(1e3 * plain.sds["residual"], rel=0.02)


def test_one_random_intercept_is_statsmodels_own_model() -> None:
    """One arm, one trial a cell, four seeds: slope and error of `MixedLM(groups=seeds)`."""
    rng = np.random.default_rng(3)
    x_N, seeds_N = rng.normal(size=48), np.arange(48) % 4
    y_N = 0.7 * x_N + 2.0 * seeds_N + rng.normal(size=48)
    found = mixed.fit(x_N, y_N, arms_N=["a"] * 48, cells_N=[str(i) for i in range(48)], seeds_N=seeds_N.tolist())
    own = MixedLM(y_N, np.column_stack([np.ones(48), x_N]), seeds_N).fit(reml=True)
    assert isinstance(found, mixed.MixedFit) and found.between_cells is not None
    assert found.between_seeds is None
    assert found.between_cells.value == pytest.approx(own.fe_params[1], rel=1e-3)
    assert found.between_cells.low is not None and found.between_cells.high is not None
    reach = (found.between_cells.high - found.between_cells.low) / 2
    assert reach / stdtrit(48 - 1 - 1, 0.975) == pytest.approx(own.bse_fe[1], rel=1e-3)
    assert found.sds["seed"] ** 2 == pytest.approx(float(own.cov_re[0, 0]), rel=0.02)


def test_nothing_shared_is_least_squares() -> None:
    rng = np.random.default_rng(4)
    x_N = rng.normal(size=20)
    y_N = x_N + rng.normal(size=20)
    found = mixed.fit(x_N, y_N, arms_N=["a"] * 20, cells_N=[str(i) for i in range(20)], seeds_N=[1] * 20)
    own = OLS(y_N, np.column_stack([np.ones(20), x_N])).fit()
    assert isinstance(found, mixed.MixedFit) and found.between_cells is not None
    low, high = own.conf_int()[1]
    got = (found.between_cells.value, found.between_cells.low, found.between_cells.high)
    assert got == pytest.approx((own.params[1], low, high))
    assert found.notes == ("no two trials share a seed, an arm or a cell with others: plain least squares",)


def test_what_does_not_converge_is_fixed_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    x_N, y_N, levels = simulated()
    real = mixed._variances
    monkeypatch.setattr(
        mixed, "_variances", lambda rows, fixed, random: None if "arm" in random else real(rows, fixed, random)
    )
    found = mixed.fit(x_N, y_N, **levels)
    assert isinstance(found, mixed.MixedFit) and found.between_cells is not None
    assert found.fixed == ("arm",)
    assert found.notes == (
        "random intercepts per arm, seed, cell did not converge", "arm means stand as fixed intercepts",
    )  # fmt: skip
    assert found.between_cells.value == pytest.approx(2.0, abs=0.1)


def test_the_last_resort_is_least_squares_clustered_by_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    x_N, y_N, levels = simulated()
    monkeypatch.setattr(mixed, "_variances", lambda *_: None)
    found = mixed.fit(x_N, y_N, **levels)
    assert isinstance(found, mixed.MixedFit) and found.between_cells is not None
    assert found.fixed == ("arm", "seed")
    in_cell = dummies(levels["cells_N"])
    means_N = in_cell @ ((x_N @ in_cell) / in_cell.sum(axis=0))
    columns = np.column_stack([means_N, x_N - means_N, dummies(levels["arms_N"]), dummies(levels["seeds_N"])[:, 1:]])
    groups = np.repeat(np.arange(30), 3)
    own = OLS(y_N, columns).fit(cov_type="cluster", cov_kwds={"groups": groups, "use_correction": False})
    assert found.between_cells.value == pytest.approx(own.params[0])
    assert found.between_cells.high is not None
    error = (found.between_cells.high - found.between_cells.value) / stdtrit(26, 0.975)
    assert error == pytest.approx(own.bse[0] * np.sqrt(30 / 29))


def test_a_variance_of_zero_is_an_answer() -> None:
    """Seeds have nothing in common: the fit stands, whatever statsmodels warns of."""
    rng = np.random.default_rng(5)
    x_N = rng.normal(size=40)
    y_N = x_N + rng.normal(size=40)
    cells = [str(i // 2) for i in range(40)]
    found = mixed.fit(x_N, y_N, arms_N=["a"] * 40, cells_N=cells, seeds_N=[0, 1] * 20)
    assert isinstance(found, mixed.MixedFit) and found.between_cells is not None
    assert found.between_cells.low is not None and found.between_cells.low < 1 < found.between_cells.high


@pytest.mark.parametrize(
    ("x_N", "y_N", "said"),
    [
        (np.ones(12), np.arange(12.0), "diversity or accuracy does not vary"),
        (np.arange(12.0), np.ones(12), "diversity or accuracy does not vary"),
        (np.arange(12.0) % 2, np.arange(12.0), "nothing varies within arms"),
        (np.zeros(mixed.LARGE + 1), np.zeros(mixed.LARGE + 1), f"beyond {mixed.LARGE} trials ({mixed.LARGE + 1} here)"),
    ],
)
def test_what_cannot_be_fitted_is_a_sentence(x_N: Any, y_N: Any, said: str) -> None:
    count = len(y_N)
    arms = [f"a{i % 2}" for i in range(count)]
    found = mixed.fit(x_N, y_N, arms_N=arms, cells_N=[str(i) for i in range(count)], seeds_N=[1] * count)
    assert isinstance(found, str)
    assert said in found

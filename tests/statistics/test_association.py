"""statistics/association.py: point estimates equal scipy's and statsmodels', intervals cover and respect clusters."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from statsmodels.regression.linear_model import OLS

from akdtune.statistics import association, resampling


def sample(n: int, seed: int = 0) -> tuple[resampling.Floats, resampling.Floats]:
    rng = np.random.default_rng(seed)
    x_N = rng.normal(size=n)
    return x_N, 0.5 * x_N + rng.normal(size=n)


def test_without_nuisance_the_numbers_are_scipys() -> None:
    x_N, y_N = sample(30)
    x_N, y_N = 1e-3 * x_N + 7, 1e4 * y_N  # units must not matter
    related = association.association(x_N, y_N, range(30), draws=200)
    assert related.pearson is not None
    assert related.spearman is not None
    assert related.slope is not None
    assert related.pearson.value == pytest.approx(scipy.stats.pearsonr(x_N, y_N).statistic)
    assert related.spearman.value == pytest.approx(scipy.stats.spearmanr(x_N, y_N).statistic)
    assert related.slope.value == pytest.approx(scipy.stats.linregress(x_N, y_N).slope)
    assert (related.n, related.clusters, related.residual_dof) == (30, 30, 28)
    for estimate in (related.pearson, related.spearman, related.slope):
        assert estimate.low is not None
        assert estimate.high is not None
        assert estimate.low < estimate.value < estimate.high
    error = scipy.stats.linregress(x_N, y_N).stderr
    assert related.slope.high - related.slope.low == pytest.approx(3.92 * error, rel=0.4)  # in the slope's own unit
    assert related.x_sd == pytest.approx(np.std(x_N))


def test_with_nuisance_the_slope_is_that_of_the_whole_regression() -> None:
    x_N, y_N = sample(40)
    rng = np.random.default_rng(1)
    nuisance_NQ = np.column_stack([np.ones(40), rng.normal(size=(40, 2))])
    y_N = y_N + nuisance_NQ @ [3.0, -2.0, 1.0]
    related = association.association(x_N, y_N, range(40), nuisance_NQ, draws=200)
    assert related.slope is not None
    assert related.slope.value == pytest.approx(OLS(y_N, np.column_stack([nuisance_NQ, x_N])).fit().params[-1])
    assert related.residual_dof == 40 - 3 - 1


def test_weights_stand_for_repeated_rows() -> None:
    """The vectorised statistic of the draws equals scipy on the drawn rows themselves, ties included."""
    rng = np.random.default_rng(2)
    x_N, y_N = np.round(rng.normal(size=25), 1), np.round(rng.normal(size=25), 1)
    groups = rng.integers(0, 3, 25).tolist()
    for nuisance_NQ in (np.ones((25, 1)), association.dummies(groups)):
        residuals = [OLS(v, nuisance_NQ).fit().resid for v in (x_N, y_N)]
        weights_DN = rng.integers(0, 4, (5, 25)).astype(float)
        statistic = resampling.partial_statistic(residuals[0][:, None], residuals[1], nuisance_NQ, with_ranks=True)
        values = statistic(weights_DN)[:, 0]
        for weights_N, got in zip(weights_DN, values.T, strict=True):
            rows = np.repeat(np.arange(25), weights_N.astype(int))
            a, b = (np.round(OLS(v[rows], nuisance_NQ[rows]).fit().resid, 9) for v in (x_N, y_N))
            slope = scipy.stats.linregress(a, b).slope
            expected = [scipy.stats.pearsonr(a, b).statistic, slope, scipy.stats.spearmanr(a, b).statistic]
            np.testing.assert_allclose(got, expected, atol=1e-7)


def test_repeating_every_row_of_a_cell_adds_no_information() -> None:
    x_N, y_N = sample(20)
    once = association.association(x_N, y_N, range(20), draws=300)
    rows = np.repeat(np.arange(20), 5)
    clustered = association.association(x_N[rows], y_N[rows], rows.tolist(), draws=300)
    naive = association.association(x_N[rows], y_N[rows], range(100), draws=300)
    assert (clustered.n, clustered.clusters, clustered.residual_dof) == (100, 20, once.residual_dof)
    for name in ("pearson", "spearman", "slope"):
        single, many, wrong = (getattr(related, name) for related in (once, clustered, naive))
        np.testing.assert_allclose(
            [many.value, many.low, many.high], [single.value, single.low, single.high], atol=0.02
        )
        assert wrong.high - wrong.low < 0.7 * (many.high - many.low)


def test_intervals_cover_the_truth_when_cells_repeat() -> None:
    """24 cells x 2 seeds, half of the noise shared by a cell; nominal 95 %."""
    rng = np.random.default_rng(3)
    runs, rho = 80, 0.5
    noise = np.sqrt((1 / rho**2 - 1) / 2)
    rows = np.repeat(np.arange(24), 2)
    truth = {"pearson": rho, "spearman": 6 / np.pi * np.arcsin(rho / 2), "slope": 1.0}
    covered = dict.fromkeys(truth, 0)
    for run in range(runs):
        cell_x = rng.normal(size=24)
        y_N = (cell_x + noise * rng.normal(size=24))[rows] + noise * rng.normal(size=48)
        related = association.association(cell_x[rows], y_N, rows.tolist(), draws=400, seed=run)
        for name, value in truth.items():
            estimate = getattr(related, name)
            covered[name] += estimate.low <= value <= estimate.high
    assert all(0.87 <= count / runs <= 1.0 for count in covered.values()), covered


def test_two_groups_with_opposite_shift_are_centred() -> None:
    rng = np.random.default_rng(4)
    x_N = rng.normal(size=40)
    group_N = np.repeat([0, 1], 20)
    y_N = 2.0 * x_N - 30.0 * group_N
    x_N = x_N + 10.0 * group_N
    pooled = association.association(x_N, y_N, range(40), draws=200)
    within = association.association(x_N, y_N, range(40), association.dummies(group_N.tolist()), draws=200)
    assert pooled.pearson is not None
    assert within.pearson is not None
    assert within.slope is not None
    assert pooled.pearson.value < -0.9
    assert (within.pearson.value, within.slope.value) == (pytest.approx(1.0), pytest.approx(2.0))


def test_the_same_seed_gives_the_same_interval() -> None:
    x_N, y_N = sample(24)
    first, again, other = (association.association(x_N, y_N, range(24), draws=200, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_few_clusters_get_no_interval_and_constants_no_coefficient() -> None:
    x_N, y_N = sample(20)
    few = association.association(x_N, y_N, [i % 5 for i in range(20)])
    assert few.pearson is not None
    assert (few.pearson.low, few.pearson.high, few.pearson.excludes_zero) == (None, None, False)
    for x, y in ((np.full(20, 0.1), y_N), (x_N, np.full(20, 71.3)), (x_N[:2], y_N[:2]), (x_N[:0], y_N[:0])):
        related = association.association(x, y, range(len(x)))
        assert (related.pearson, related.spearman, related.slope) == (None, None, None)
    groups = list(range(20))
    assert association.association(x_N, y_N, range(20), association.dummies(groups)).pearson is None


def test_bad_values_are_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        association.association(np.array([1.0, np.nan, 2.0]), np.ones(3), range(3))
    with pytest.raises(ValueError, match="one row each per observation, got 3 and 2"):
        association.association(np.ones(3), np.ones(2), range(3))


@pytest.mark.parametrize("grouped", [False, True])
def test_the_intervals_are_scipys(grouped: bool) -> None:
    """Bias-corrected and accelerated, from the same draws, over clusters of one to three rows."""
    rng = np.random.default_rng(5)
    cells_N = np.sort(np.r_[np.arange(20), rng.integers(0, 20, 12)])
    x_N, y_N = rng.normal(size=(2, 32)) + rng.exponential(size=(2, 20))[:, cells_N]
    groups_N = cells_N % 3
    nuisance_NQ = association.dummies(groups_N.tolist()) if grouped else np.ones((32, 1))

    def of_cells(drawn: object, axis: int = -1) -> resampling.Floats:
        def of_draw(cells: resampling.Integers) -> list[float]:
            rows = np.concatenate([np.flatnonzero(cells_N == cell) for cell in cells])
            a, b = (OLS(v[rows], nuisance_NQ[rows]).fit().resid for v in (x_N, y_N))
            ranked = scipy.stats.spearmanr(np.round(a, 9), np.round(b, 9)).statistic
            return [float(np.corrcoef(a, b)[0, 1]), float(ranked), float(a @ b / (a @ a))]

        return np.moveaxis(np.apply_along_axis(of_draw, axis, np.asarray(drawn)), -1, 0)

    expected = scipy.stats.bootstrap(
        (np.arange(20),), of_cells, n_resamples=150, method="BCa", random_state=np.random.default_rng(0)
    ).confidence_interval
    related = association.association(x_N, y_N, cells_N.tolist(), nuisance_NQ, draws=150)
    assert related.pearson and related.spearman and related.slope
    for index, estimate in enumerate((related.pearson, related.spearman, related.slope)):
        ends = [estimate.low, estimate.high]
        np.testing.assert_allclose(ends, [expected.low[index], expected.high[index]], atol=1e-6)


def test_many_at_once_are_each_by_itself() -> None:
    x_N, y_N = sample(40)
    x_NM = np.column_stack([x_N, np.full(40, 7.0), np.round(y_N - x_N, 1)])
    groups = association.dummies([i % 4 for i in range(40)])
    together = association.associations(x_NM, y_N, range(40), groups, draws=200)
    assert together[1].pearson is None
    for x, among in zip(x_NM.T, together, strict=True):
        alone = association.association(x, y_N, range(40), groups, draws=200)
        for name in ("pearson", "spearman", "slope"):
            expected, other = getattr(alone, name), getattr(among, name)
            assert expected == other or (expected.low, expected.high) == pytest.approx((other.low, other.high))


class TestManyClusters:
    """Beyond `LARGE` clusters nothing is drawn; the intervals are those that the bootstrap tends to."""

    @staticmethod
    def clustered(
        seed: int, rounded: bool, of_cell: int, cells: int = 390
    ) -> tuple[resampling.Floats, resampling.Floats, list[int]]:
        """Rows of one cell share most of x and y; four groups differ in level."""
        rng = np.random.default_rng(seed)
        cells_N = np.repeat(np.arange(cells), of_cell)
        x_G, y_G = rng.normal(size=(2, cells))
        x_N = x_G[cells_N] + 0.3 * rng.normal(size=len(cells_N)) + 0.5 * (cells_N % 4)
        y_N = (0.5 * x_G + y_G)[cells_N] + 0.3 * rng.normal(size=len(cells_N)) + cells_N % 4
        return x_N, np.round(y_N, 1) if rounded else y_N, cells_N.tolist()

    @pytest.mark.parametrize(("of_cell", "rounded"), [(1, False), (1, True), (3, False)])
    @pytest.mark.parametrize("grouped", [False, True])
    def test_the_interval_is_about_that_of_the_bootstrap(self, of_cell: int, rounded: bool, grouped: bool) -> None:
        x_N, y_N, cells_N = self.clustered(0, rounded, of_cell)
        nuisance_NQ = association.dummies([cell % 4 for cell in cells_N]) if grouped else None
        drawn = association.association(x_N, y_N, cells_N, nuisance_NQ, draws=600, ranks_drawn_up_to=1000)
        computed = association.association(x_N, y_N, cells_N, nuisance_NQ, drawn_up_to=0, ranks_drawn_up_to=0)
        for name in ("pearson", "spearman", "slope"):
            expected, other = getattr(drawn, name), getattr(computed, name)
            assert expected.value == other.value
            width = expected.high - expected.low
            assert other.low == pytest.approx(expected.low, abs=0.12 * width), name
            assert other.high == pytest.approx(expected.high, abs=0.12 * width), name

    def test_the_slope_has_the_cluster_robust_error(self) -> None:
        x_N, y_N, cells_N = self.clustered(1, False, 3)
        groups_N = np.array(cells_N)
        fit = OLS(y_N, np.column_stack([np.ones(len(x_N)), x_N])).fit(
            cov_type="cluster", cov_kwds={"groups": groups_N, "use_correction": False}
        )
        slope = association.association(x_N, y_N, cells_N, drawn_up_to=0).slope
        assert slope is not None and slope.low is not None and slope.high is not None
        assert slope.high - slope.low == pytest.approx(2 * 1.959964 * fit.bse[1] * (390 / 389) ** 0.5, rel=1e-5)

    @pytest.mark.parametrize("grouped", [False, True])
    def test_spearman_needs_no_draws_beyond_a_hundred(self, grouped: bool) -> None:
        """Just beyond the limit, where it is least exact: no further apart than two bootstraps of 2,000 draws."""
        x_N, y_N, cells_N = self.clustered(3, True, 2, cells=association.LARGE_FOR_RANKS + 1)
        nuisance_NQ = association.dummies([cell % 4 for cell in cells_N]) if grouped else None
        computed = association.association(x_N, y_N, cells_N, nuisance_NQ).spearman
        drawn = association.association(x_N, y_N, cells_N, nuisance_NQ, draws=4000, ranks_drawn_up_to=1000).spearman
        assert computed and computed.low is not None and computed.high is not None
        assert drawn and drawn.low is not None and drawn.high is not None
        width = drawn.high - drawn.low
        assert (computed.low, computed.high) == pytest.approx((drawn.low, drawn.high), abs=0.08 * width)

    def test_fishers_interval_where_it_is_known(self) -> None:
        x_N, y_N = sample(3000)
        computed = association.association(x_N, y_N, range(3000)).pearson
        assert computed is not None
        fisher = scipy.stats.pearsonr(x_N, y_N).confidence_interval()
        np.testing.assert_allclose([computed.low, computed.high], [fisher.low, fisher.high], atol=0.01)

    def test_a_perfect_correlation_has_an_interval_of_no_width(self) -> None:
        x_N, _ = sample(500)
        computed = association.association(x_N, 2 * x_N, range(500))
        assert computed.pearson is not None and computed.slope is not None
        assert (computed.pearson.low, computed.pearson.high) == pytest.approx((1.0, 1.0))
        assert computed.slope.low == pytest.approx(2.0)

    def test_the_truth_is_covered(self) -> None:
        covered = 0
        for seed in range(200):
            x_N, y_N, cells_N = self.clustered(seed, False, 2, cells=association.LARGE + 1)
            slope = association.association(
                x_N, y_N, cells_N, association.dummies([cell % 4 for cell in cells_N])
            ).slope
            assert slope is not None and slope.low is not None and slope.high is not None
            covered += slope.low < 0.5 / 1.09 < slope.high  # noise of variance 0.09 in x flattens the slope
        assert 180 <= covered <= 198

    def test_no_draw_is_made(self, monkeypatch: pytest.MonkeyPatch) -> None:
        x_N, y_N = sample(association.LARGE + 1)
        monkeypatch.setattr(np.random, "default_rng", lambda *_: pytest.fail("drawn"))
        assert association.association(x_N, y_N, range(len(x_N))).spearman is not None


def test_settings_become_columns() -> None:
    assert association.covariate([1.0, 1.0, None]) is None
    names = association.covariate(["a", "b", "a", None])
    assert names is not None
    assert names.tolist() == [[1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 1]]
    switch = association.covariate([True, False])
    assert switch is not None
    assert switch.shape == (2, 2)
    numbers = association.covariate([1.0, None, 3.0])
    assert numbers is not None
    np.testing.assert_allclose(numbers[:, 0], [-(1.5**0.5), 0, 1.5**0.5])
    spread = association.covariate([0.1, 1.0, 10.0])  # a factor of a hundred: logarithm, hence even steps
    assert spread is not None
    np.testing.assert_allclose(np.diff(spread[:, 0], n=2), 0, atol=1e-12)


def test_power_of_a_correlation_matches_the_textbook() -> None:
    assert association.pairs_needed(0.3) == 85
    assert association.pairs_needed(-0.5) == 30
    assert association.pairs_needed(0.0) is None
    assert association.detectable_correlation(85) == pytest.approx(0.3, abs=0.002)
    assert association.detectable_correlation(3) is None


def test_cells_for_a_correlation_after_the_correction() -> None:
    """Four measures: ((z(1 - .0125 / 2) + z(.8)) / atanh(.5))^2 + 3 = (3.3393 / 0.5493)^2 + 3 = 39.96."""
    assert association.pairs_needed(0.5, alpha=0.05 / 4) == 40
    assert association.detectable_correlation(41, alpha=0.05 / 4) == pytest.approx(0.494, abs=0.001)

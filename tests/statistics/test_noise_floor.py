"""The spread of A/A pairs and the share of variance that pairing removes, against closed forms and simulated ones."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest
from scipy import stats

from akdtune.statistics.noise_floor import Pair, noise_floor, pairing_share

RNG = np.random.default_rng(3)


def pair(*values: tuple[float, float]) -> Pair:
    """The two halves of an A/A pair, (one, other) for seeds 0, 1, ..."""
    return dict(enumerate(one for one, _ in values)), dict(enumerate(other for _, other in values))


def test_the_floor_is_the_t_interval_of_no_difference() -> None:
    """Differences +1, -1, +2, -2, 0: sd sqrt(2.5); the mean of 5 of them reaches t(.975, 4) sd / sqrt 5."""
    floor = noise_floor([pair((71, 70), (69, 70), (72, 70), (68, 70), (70, 70))])
    assert floor is not None and floor.dof == 4
    assert floor.sd == pytest.approx(sqrt(2.5))
    assert floor.reach(5) == pytest.approx(2.7764451 * sqrt(2.5) / sqrt(5))
    assert floor.reach(20) == pytest.approx(floor.reach(5) / 2), "more pairs, a lower floor; its sd is no surer"
    assert floor.sd_low == pytest.approx(sqrt(4 * 2.5 / stats.chi2.ppf(0.975, 4)))
    assert floor.sd_high == pytest.approx(sqrt(4 * 2.5 / stats.chi2.ppf(0.025, 4)))
    wide = noise_floor([pair((71, 70), (69, 70), (72, 70), (68, 70), (70, 70))], level=0.99)
    assert wide is not None and wide.reach(5) == pytest.approx(stats.t.ppf(0.995, 4) * sqrt(0.5))


def test_groups_are_pooled_by_their_degrees_of_freedom() -> None:
    one, other = pair((71, 70), (69, 70)), pair((74, 70), (66, 70), (70, 70))  # variances 2 and 16
    floor = noise_floor([one, other, pair((1, 2)), [{1: 3.0, 2: 4.0}]])
    assert floor is not None and floor.dof == 3, "one seed, or one cell, has no spread"
    assert floor.sd == pytest.approx(sqrt((1 * 2 + 2 * 16) / 3))
    assert noise_floor([]) is None and noise_floor([pair((1, 2))]) is None
    assert noise_floor([({1: 3.0}, {2: 3.0})]) is None, "no common seed"


def test_three_runs_of_the_same_thing_share_their_seeds() -> None:
    """Seeds 10, 20, 30 plus noise: residuals of the two-way table, not three pairs counted as independent ones."""
    noise_MN = np.array([[1.0, 0, -1], [0, 0, 0], [-1, 0, 1]])
    cells = [dict(enumerate(np.array([10.0, 20, 30]) + noise_N)) for noise_N in noise_MN]
    floor = noise_floor([cells])
    assert floor is not None and floor.dof == 4
    assert floor.sd == pytest.approx(sqrt(2 * 4 / 4))
    sds = []
    for _ in range(2000):
        runs = [dict(enumerate(RNG.normal(70, 1, 4))) for _ in range(3)]
        simulated = noise_floor([runs])
        assert simulated is not None
        sds.append(simulated.sd**2)
    assert np.mean(sds) == pytest.approx(2.0, abs=0.08), "a difference has twice the variance of a run"


def test_equal_halves_have_no_floor_but_nothing() -> None:
    floor = noise_floor([pair((0.1 + 0.2, 0.3), (70, 70), (71, 71))])
    assert floor is not None and (floor.sd, floor.sd_low, floor.sd_high, floor.reach(3)) == (0, None, None, 0)


def test_what_pairing_removes() -> None:
    """var(a) = var(b) = 2.5 in both: equal values, opposite ones, and halves of unequal seeds."""
    rising = dict(enumerate([1.0, 2, 3, 4, 5]))
    falling = dict(enumerate([5.0, 4, 3, 2, 1]))
    for other, expected in ((rising, 1.0), (falling, -1.0)):
        share = pairing_share([(rising, other)])
        assert share is not None and share.share == pytest.approx(expected)
        assert (share.low, share.high) == (None, None), "the scale has no end there"
    both = pairing_share([(rising, rising), (rising, falling)])
    assert both is not None and both.share == pytest.approx(1 - 10 / 10) and both.comparisons == 2
    assert pairing_share([(dict.fromkeys(range(5), 70.0), dict.fromkeys(range(5), 71.0))]) is None, "nothing varies"
    assert pairing_share([]) is None


def test_four_seeds_give_no_interval() -> None:
    values = RNG.normal(70, 1, (2, 5))
    for n in (4, 5):
        share = pairing_share([(dict(enumerate(values[0][:n])), dict(enumerate(values[1][:n])))])
        assert share is not None and share.seeds == n and (share.low is None) is (n == 4)
        if share.low is not None and share.high is not None:
            assert -1 < share.low < share.share < share.high < 1


@pytest.mark.parametrize(("n", "comparisons", "correlation"), [(5, 1, 0.7), (5, 4, 0.0), (8, 4, 0.7)])
def test_the_interval_of_the_share_covers(n: int, comparisons: int, correlation: float) -> None:
    replicates, covered = 600, 0
    for _ in range(replicates):
        seeds_N = sqrt(correlation) * RNG.normal(size=n)
        cells = [dict(enumerate(seeds_N + sqrt(1 - correlation) * RNG.normal(size=n))) for _ in range(comparisons + 1)]
        share = pairing_share([(cell, cells[0]) for cell in cells[1:]])
        assert share is not None and share.low is not None and share.high is not None
        covered += share.low <= correlation <= share.high
    assert 0.91 <= covered / replicates <= 0.985  # .93 to .97, and 2 Monte-Carlo errors


def test_the_floor_holds_what_two_runs_of_the_same_thing_differ_by() -> None:
    replicates, within = 1500, 0
    for _ in range(replicates):
        floor = noise_floor([pair(*RNG.normal(70, 1, (5, 2)))])
        assert floor is not None
        within += abs(float(RNG.normal(0, sqrt(2 / 8)))) <= floor.reach(8)  # means over 8 seeds, independent halves
    assert within / replicates == pytest.approx(0.95, abs=0.018)

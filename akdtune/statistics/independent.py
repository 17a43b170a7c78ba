"""Two means of independent samples: Welch's t, for configurations that share neither seed nor settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

from akdtune.statistics.power import finite, spread
from akdtune.statistics.resampling import Floats


@dataclass(frozen=True)
class IndependentDifference:
    """Mean of the first sample minus that of the second.

    Attributes:
        difference: of the means.
        error: its standard error; 0 where neither sample has a spread.
        freedom: degrees of freedom after Welch and Satterthwaite; 0 where neither sample has a spread.
        p: two-sided; None where neither sample has a spread, so that nothing can be said.
    """

    difference: float
    error: float
    freedom: float
    p: float | None

    def interval(self, alpha: float) -> tuple[float, float] | None:
        """The interval that misses with probability `alpha`; None where there is no p."""
        from scipy.special import stdtrit  # late: commands that only list trials do not wait for it

        if self.p is None:
            return None
        reach = -float(stdtrit(self.freedom, alpha / 2)) * self.error
        return self.difference - reach, self.difference + reach


def independent_difference(
    first_N: Sequence[float] | Floats, second_N: Sequence[float] | Floats
) -> IndependentDifference | None:
    """Welch's t test of two means; None where a sample has fewer than two values.

    By hand: scipy.stats.ttest_ind gives the same (a test compares) and takes a second to load.

    References:
        Welch 1947, Biometrika 34:28.
    """
    from scipy.special import stdtr  # late: commands that only list trials do not wait for it

    samples = [finite(values_N) for values_N in (first_N, second_N)]
    if any(len(values_N) < 2 for values_N in samples):
        return None
    difference = float(samples[0].mean() - samples[1].mean())
    scale = float(max(np.abs(values_N).max() for values_N in samples))
    shares = [spread(values_N, scale) ** 2 / len(values_N) for values_N in samples]
    error = sqrt(sum(shares))
    if error == 0:
        return IndependentDifference(difference, 0.0, 0.0, None)
    freedom = error**4 / sum(share**2 / (len(values_N) - 1) for share, values_N in zip(shares, samples, strict=True))
    return IndependentDifference(difference, error, freedom, 2 * float(stdtr(freedom, -abs(difference) / error)))

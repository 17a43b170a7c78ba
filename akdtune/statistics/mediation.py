"""How much of an association of x and y goes along a third variable: the product of two slopes, over clusters.

It is called association along a path, not effect: the product is a causal quantity only under `ASSUMPTIONS`, which a
study that does not assign diversity at random cannot secure.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from akdtune.statistics.association import DRAWS, LARGE, LEVEL, MIN_CLUSTERS, Coefficient, codes_of
from akdtune.statistics.resampling import TINY, Floats, distribution, full_rank, partial_moments

# Shapes: N rows, Q nuisance columns, D draws; in moments 0 is x, 1 the mediator m, 2 is y.

ASSUMPTIONS = (
    "nothing unmeasured moves diversity together with the ensemble's accuracy or the student's",
    "nothing unmeasured moves the ensemble's accuracy together with the student's (no confounding of mediator and "
    "outcome)",
    "no such common cause is itself moved by diversity",
    "both relations are linear, and the slope on the ensemble's accuracy is the same at every diversity",
    "the images that judge add nothing of their own to the relation of both accuracies, which they are the same for",
)
"""Under which the product would be an effect; none of them is tested here."""


@dataclass(frozen=True)
class Mediation:
    """Slopes within the nuisance columns; the intervals are percentiles of the bootstrap over clusters.

    Attributes:
        clusters: distinct ones.
        a: of the mediator on x.
        b: of y on the mediator at the same x.
        indirect: a times b, in units of y per unit of x.
        direct: of y on x at the same mediator.
        total: of y on x; indirect and direct add up to it.
    """

    clusters: int
    a: Coefficient
    b: Coefficient
    indirect: Coefficient
    direct: Coefficient
    total: Coefficient


def mediation(
    x_N: Floats,
    m_N: Floats,
    y_N: Floats,
    clusters_N: Sequence[Hashable],
    nuisance_NQ: Floats,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    level: float = LEVEL,
) -> Mediation | str:
    """The path from x over m to y, least squares in each draw anew.

    Args:
        x_N: finite values.
        m_N: finite values of the mediator.
        y_N: finite values.
        clusters_N: the cluster (cell) of each row.
        nuisance_NQ: columns that are taken out of all three, which must span the intercept.
        draws: bootstrap draws; no interval beyond `association.LARGE` clusters, where nothing is drawn.
        seed: of the bootstrap.
        level: coverage of the intervals, 0 to 1.

    Returns:
        A sentence where x, m or y does not vary, or m is a line of x.

    References:
        MacKinnon, Lockwood and Williams, Multivariate Behavioral Research 39:99, 2004 (percentiles of the product);
        Imai, Keele and Yamamoto, Statistical Science 25:51, 2010 (what would have to be assumed).
    """
    basis_NQ = full_rank(nuisance_NQ)
    columns, scales = [], []
    for name, values_N in (("diversity", x_N), ("the ensemble's accuracy", m_N), ("accuracy", y_N)):
        left_N = values_N - basis_NQ @ (basis_NQ.T @ values_N)
        scale = float(np.std(left_N))
        if scale <= 1e-9 * max(float(np.std(values_N)), 1e-3 * float(np.abs(values_N).max(initial=0.0)), 1e-300):
            return f"no path: {name} does not vary within arms"
        columns.append(left_N / scale)
        scales.append(scale)
    columns_N3 = np.column_stack(columns)

    def statistic(weights_DN: Floats) -> Floats:
        return _paths(partial_moments(weights_DN, basis_NQ, columns_N3))

    points_5 = statistic(np.ones((1, len(y_N))))[:, 0]
    if not np.isfinite(points_5).all():
        return "no path: diversity and the ensemble's accuracy lie on one line within arms"
    codes_N = codes_of(clusters_N)
    clusters = int(codes_N.max()) + 1
    ends_52 = np.full((5, 2), np.nan)
    if MIN_CLUSTERS <= clusters <= LARGE:
        drawn_5D = distribution(statistic, codes_N, draws, seed)
        kept_D = np.isfinite(drawn_5D).all(axis=0)
        if kept_D.mean() >= 0.95:
            ends_52 = np.quantile(drawn_5D[:, kept_D], [(1 - level) / 2, (1 + level) / 2], axis=1).T
    x_scale, m_scale, y_scale = scales
    units = (m_scale / x_scale, y_scale / m_scale, *[y_scale / x_scale] * 3)
    found = [
        Coefficient(float(point * unit), *(ends * unit).tolist()) if np.isfinite(ends).all()
        else Coefficient(float(point * unit))
        for point, unit, ends in zip(points_5, units, ends_52, strict=True)
    ]  # fmt: skip
    return Mediation(clusters, *found)


def _paths(moments_D33: Floats) -> Floats:
    """a, b, a times b, direct and total slope [5, D]; NaN where x, or m at the same x, does not vary."""
    xx, mm = moments_D33[:, 0, 0], moments_D33[:, 1, 1]
    xm, xy, my = moments_D33[:, 0, 1], moments_D33[:, 0, 2], moments_D33[:, 1, 2]
    scale = np.where(xx > TINY, xx, np.nan)
    left = mm - xm**2 / scale  # of the mediator at the same x
    left = np.where(left > TINY * np.maximum(mm, TINY), left, np.nan)
    a, total = xm / scale, xy / scale
    b = (my - xm * xy / scale) / left
    return np.stack([a, b, a * b, total - a * b, total])

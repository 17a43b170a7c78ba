"""Slopes of y on x within groups that no single row, and no single group, can carry: ranks, Huber's loss, leaving out.

Least squares weighs a row by its distance, and one arm with a wide spread may be the whole of a slope over arms.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist
from typing import Any

import numpy as np

from akdtune.statistics.association import LEVEL, Coefficient, dummies
from akdtune.statistics.resampling import TINY, Floats, full_rank

# Shapes: C rows (cells), G groups (arms).

ROUNDS = 200
"""Of reweighting after which Huber's fit counts as not converged."""


@dataclass(frozen=True)
class WithoutGroup:
    """The slope within all other groups; None where nothing varies within them."""

    group: str
    slope: float | None
    rows: int


def theil_sen(x_C: Floats, y_C: Floats, groups_C: Sequence[Hashable], *, level: float = LEVEL) -> Coefficient | None:
    """The median of the slopes between all pairs of rows of one group, with the interval that ranks give.

    With one group this is the estimator of Theil and Sen. Ours is that only pairs within a group count, and that the
    variance of Kendall's statistic is summed over groups: it takes rows of a group to be exchangeable.

    Args:
        x_C: finite values.
        y_C: finite values.
        groups_C: the group of each row.
        level: coverage of the interval, 0 to 1.

    Returns:
        None where no two rows of a group differ in x.

    References:
        Theil 1950, Indagationes Mathematicae 12:85; Sen, JASA 63:1379, 1968 (equation 2.6: the variance with ties).
    """
    slopes: list[Floats] = []
    variance = 0.0
    for x_n, y_n in _by_group(x_C, y_C, groups_C):
        first, second = np.triu_indices(len(x_n), 1)
        apart = x_n[second] - x_n[first]
        slopes.append((y_n[second] - y_n[first])[apart != 0] / apart[apart != 0])
        variance += (_pairs(np.array([len(x_n)])) - _pairs(_repeats(x_n)) - _pairs(_repeats(y_n))) / 18
    ordered = np.sort(np.concatenate(slopes)) if slopes else np.empty(0)
    if not len(ordered):
        return None
    reach = NormalDist().inv_cdf((1 + level) / 2) * sqrt(max(variance, 0.0))
    low = max(int(np.round((len(ordered) - reach) / 2)) - 1, 0)
    high = min(int(np.round((len(ordered) + reach) / 2)), len(ordered) - 1)
    return Coefficient(float(np.median(ordered)), float(ordered[low]), float(ordered[high]))


def huber(x_C: Floats, y_C: Floats, groups_C: Sequence[Hashable], *, level: float = LEVEL) -> Coefficient | str:
    """Huber's M-estimate of the slope with a mean for each group (statsmodels' RLM, tuning constant 1.345).

    Rows far from the line in y weigh less; a row far out in x weighs as in least squares.

    Args:
        x_C: finite values.
        y_C: finite values.
        groups_C: the group of each row.
        level: coverage of the interval, 0 to 1: normal, by the asymptotic covariance H1.

    Returns:
        A sentence where there is no fit.

    References:
        Huber, Annals of Mathematical Statistics 35:73, 1964.
    """
    centred_C = _centred(x_C, groups_C)
    scales = float(np.std(centred_C)), float(np.std(y_C))
    if min(scales) <= 0 or len(y_C) <= dummies(groups_C).shape[1] + 1:
        return "Huber's fit is left out: nothing varies within arms"
    # late: a second, which only this fit needs
    from statsmodels.robust.norms import HuberT
    from statsmodels.robust.robust_linear_model import RLM

    columns_CP = np.column_stack([centred_C / scales[0], full_rank(dummies(groups_C))])
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # of fits without a scale, which are looked at below
        fitted: Any = RLM((y_C - y_C.mean()) / scales[1], columns_CP, M=HuberT()).fit(maxiter=ROUNDS)
    value, error = float(fitted.params[0]), float(fitted.bse[0])
    if float(fitted.scale) <= TINY:
        return "Huber's fit is left out: most cells lie on one line exactly"
    if not (np.isfinite(value) and np.isfinite(error)) or fitted.fit_history["iteration"] >= ROUNDS:
        return "Huber's fit did not converge"
    unit, reach = scales[1] / scales[0], NormalDist().inv_cdf((1 + level) / 2) * error
    return Coefficient(value * unit, (value - reach) * unit, (value + reach) * unit)


def leave_one_group_out(x_C: Floats, y_C: Floats, groups_C: Sequence[str]) -> list[WithoutGroup]:
    """The least-squares slope within groups without each group, in the order of their names; empty for one group."""
    names = sorted(set(groups_C))
    if len(names) < 2:
        return []
    x_C, y_C = _centred(x_C, groups_C), _centred(y_C, groups_C)
    of_group = np.array(groups_C)
    products = [(float((x_C * y_C)[of_group == name].sum()), float((x_C**2)[of_group == name].sum())) for name in names]
    whole = float((x_C**2).sum())
    left = []
    for place, name in enumerate(names):
        others = [product for index, product in enumerate(products) if index != place]
        xy, xx = (sum(product[part] for product in others) for part in (0, 1))
        slope = xy / xx if xx > TINY * whole > 0 else None
        left.append(WithoutGroup(name, slope, int((of_group != name).sum())))
    return left


def _by_group(x_C: Floats, y_C: Floats, groups_C: Sequence[Hashable]) -> list[tuple[Floats, Floats]]:
    of_group_CG = dummies(groups_C) > 0
    return [(x_C[mine], y_C[mine]) for mine in of_group_CG.T]


def _centred(values_C: Floats, groups_C: Sequence[Hashable]) -> Floats:
    in_group = dummies(groups_C)
    return np.asarray(values_C - in_group @ ((values_C @ in_group) / in_group.sum(axis=0)))


def _repeats(values: Floats) -> Floats:
    """How often each value stands there that stands there more than once."""
    counts = np.unique(values, return_counts=True)[1]
    return np.asarray(counts[counts > 1], np.float64)


def _pairs(counts: Any) -> float:
    return float((counts * (counts - 1) * (2 * counts + 5)).sum())

"""A mixed model of y on x over trials: what seeds, arms and cells have in common are random intercepts.

x stands in two columns, because the association between cells need not be that between the seeds of one cell (Mundlak
1978): how far a cell's mean lies from the mean of its arm, and how far a trial lies from the mean of its cell, which
nothing but its seed has moved. Differences between arms are in neither of them.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np

from akdtune.statistics.association import LEVEL, dummies
from akdtune.statistics.resampling import TINY, Floats, full_rank

# Shapes: N trials, P fixed columns, L levels of a random intercept.

LARGE = 250
"""Trials beyond which nothing is fitted: a fit of 250 takes one to two seconds, one of 400 up to six."""
_LEFT_OUT = "the mixed model is left out"


@dataclass(frozen=True)
class MixedSlope:
    """A fixed slope in units of y per unit of x, with its interval of t; no interval without degrees of freedom."""

    value: float
    low: float | None
    high: float | None
    dof: int


@dataclass(frozen=True)
class MixedFit:
    """What the mixed model says.

    Attributes:
        trials: rows that it was fitted to.
        between_cells: of cells around the mean of their arm; None where they do not vary.
        between_seeds: of trials around the mean of their cell; None where cells have one seed or seeds move nothing.
        sds: standard deviation of each random intercept (seed, arm, cell) and of what is left (residual).
        fixed: what stands as fixed intercepts instead, because the random ones did not converge.
        notes: why the model is smaller than all intercepts at random, a sentence each.
    """

    trials: int
    between_cells: MixedSlope | None
    between_seeds: MixedSlope | None
    sds: dict[str, float]
    fixed: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Rows:
    """Standardised columns, and the level of each trial in everything that may have an intercept of its own."""

    y_N: Floats
    slopes: dict[str, Floats]
    levels: dict[str, Sequence[Hashable]]


def fit(
    x_N: Floats,
    y_N: Floats,
    *,
    arms_N: Sequence[str],
    cells_N: Sequence[str],
    seeds_N: Sequence[int],
    level: float = LEVEL,
) -> MixedFit | str:
    """Restricted maximum likelihood (statsmodels) for the random intercepts, generalised least squares for the slopes.

    Where the model with all intercepts does not converge, arms, then seeds too, get fixed intercepts; where that does
    not help either, least squares with errors clustered by cell remain. Degrees of freedom are counted as if arms (and
    for the slope between seeds, cells and seeds) were fixed, which makes intervals a little wide rather than narrow.

    Args:
        x_N: finite values, a trial each.
        y_N: finite values.
        arms_N: of each trial.
        cells_N: of each trial; a cell is one within its arm.
        seeds_N: of each trial.
        level: coverage of the intervals, 0 to 1.

    Returns:
        The fit; a sentence where there is none.

    References:
        Mundlak, Econometrica 46:69, 1978 (both slopes); Patterson and Thompson, Biometrika 58:545, 1971 (REML).
    """
    if len(y_N) > LARGE:
        return f"{_LEFT_OUT} beyond {LARGE} trials ({len(y_N)} here)"
    scales = float(np.std(x_N)), float(np.std(y_N))
    if min(scales) <= 1e-12 * max(1.0, float(np.abs(y_N).max(initial=0.0))):
        return f"{_LEFT_OUT}: diversity or accuracy does not vary"
    cells = list(zip(arms_N, cells_N, strict=True))
    slopes, cell_count = _two_columns(x_N / scales[0], arms_N, cells)
    if not slopes:
        return f"{_LEFT_OUT}: nothing varies within arms"
    rows = _Rows((y_N - y_N.mean()) / scales[1], slopes, {"arm": arms_N, "seed": seeds_N, "cell": cells})
    groups = {name: len(set(levels)) for name, levels in rows.levels.items()}
    shared = [name for name, count in groups.items() if 1 < count < len(y_N)]
    notes = [] if shared else ["no two trials share a seed, an arm or a cell with others: plain least squares"]
    for fixed in _fallbacks(shared):
        random = [name for name in shared if name not in fixed]
        variances = _variances(rows, fixed, random)
        if variances is not None:
            break
        notes.append(f"random intercepts per {', '.join(random)} did not converge")
    else:
        fixed, random, variances = tuple(name for name in shared if name != "cell"), [], None
    if fixed:
        notes.append(f"{' and '.join(fixed)} means stand as fixed intercepts")
    solved = _solved(rows, fixed, random, variances)
    if solved is None:
        return f"{_LEFT_OUT}: accuracy follows the columns exactly, nothing is left to be random"
    values, errors, sds = solved
    dofs = {
        "between_cells": cell_count - groups["arm"] - 1,
        "between_seeds": len(y_N) - cell_count - max(0, groups["seed"] - 1) - 1,
    }
    unit = scales[1] / scales[0]
    found = {
        name: _slope(value * unit, error * unit, dofs[name], level)
        for name, value, error in zip(slopes, values, errors, strict=True)
    }
    return MixedFit(
        len(y_N), found.get("between_cells"), found.get("between_seeds"),
        {name: sd * scales[1] for name, sd in sds.items()}, fixed, tuple(notes),
    )  # fmt: skip


def _two_columns(
    x_N: Floats, arms_N: Sequence[str], cells_N: Sequence[tuple[str, str]]
) -> tuple[dict[str, Floats], int]:
    """Both columns of x, those that vary, and the number of cells; a cell counts once in the mean of its arm."""
    in_cell = dummies(cells_N)
    means_C = (x_N @ in_cell) / in_cell.sum(axis=0)
    first_C = in_cell.argmax(axis=0)
    of_arm_C = [arms_N[place] for place in first_C.tolist()]
    in_arm = dummies(of_arm_C)
    centred_C = means_C - in_arm @ ((means_C @ in_arm) / in_arm.sum(axis=0))
    columns = {"between_cells": in_cell @ centred_C, "between_seeds": x_N - in_cell @ means_C}
    return {name: column for name, column in columns.items() if float(np.std(column)) > TINY}, len(means_C)


def _fallbacks(shared: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """What gets fixed intercepts, from nothing to all but cells; each that leaves something at random, once."""
    tried: list[tuple[str, ...]] = []
    for names in ((), ("arm",), ("arm", "seed")):
        fixed = tuple(name for name in names if name in shared)
        if fixed not in tried and (len(fixed) < len(shared) or not shared):
            tried.append(fixed)
            yield fixed


def _fixed_columns(rows: _Rows, fixed: Sequence[str]) -> Floats:
    """Slopes first, then a basis of the intercept and of everything that stands as fixed."""
    intercepts = [dummies(rows.levels[name]) for name in fixed] or [np.ones((len(rows.y_N), 1))]
    return np.column_stack([*rows.slopes.values(), full_rank(np.column_stack(intercepts))])


def _variances(rows: _Rows, fixed: Sequence[str], random: Sequence[str]) -> Mapping[str, float] | None:
    """Variance of each random intercept and of the residual; None where the fit did not converge."""
    if not random:
        return {}
    # late: a second, which only this fit needs
    from statsmodels.regression.mixed_linear_model import MixedLM, VCSpec

    columns = [dummies(rows.levels[name]) for name in random]
    named = [[[f"{name}{index}" for index in range(of.shape[1])]] for name, of in zip(random, columns, strict=True)]
    spec = VCSpec(list(random), named, [[of] for of in columns])
    one_group_N = np.zeros(len(rows.y_N))  # everything crosses everything
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # of variances at 0, which are answers, and of what is looked at below
        try:
            fitted: Any = MixedLM(rows.y_N, _fixed_columns(rows, fixed), one_group_N, exog_vc=spec).fit(reml=True)
        except (np.linalg.LinAlgError, ValueError, FloatingPointError):
            return None
    variances = dict(zip(random, np.maximum(fitted.vcomp, 0.0).tolist(), strict=True)) | {
        "residual": float(fitted.scale)
    }
    return variances if fitted.converged and all(np.isfinite(list(variances.values()))) else None


def _solved(
    rows: _Rows, fixed: Sequence[str], random: Sequence[str], variances: Mapping[str, float] | None
) -> tuple[Floats, Floats, dict[str, float]] | None:
    """Slopes, their standard errors and all standard deviations; None where nothing is left of y."""
    columns_NP = _fixed_columns(rows, fixed)
    if not variances:
        return _least_squares(rows, columns_NP, by_cell=variances is None)
    if variances["residual"] <= TINY**2:
        return None
    covariance_NN = variances["residual"] * np.eye(len(rows.y_N))
    for name in random:
        of_level = dummies(rows.levels[name])
        covariance_NN += variances[name] * of_level @ of_level.T
    weighted_NP = np.linalg.solve(covariance_NN, columns_NP)
    spread_PP = np.linalg.inv(columns_NP.T @ weighted_NP)
    values_P = spread_PP @ (weighted_NP.T @ rows.y_N)
    count = len(rows.slopes)
    sds = {name: sqrt(variance) for name, variance in variances.items()}
    return values_P[:count], np.sqrt(np.diag(spread_PP))[:count], sds


def _least_squares(rows: _Rows, columns_NP: Floats, *, by_cell: bool) -> tuple[Floats, Floats, dict[str, float]] | None:
    """Ordinary least squares; `by_cell`: with errors of Liang and Zeger, clustered by cell."""
    inner_PP = np.linalg.inv(columns_NP.T @ columns_NP)
    values_P = inner_PP @ (columns_NP.T @ rows.y_N)
    left_N = rows.y_N - columns_NP @ values_P
    freedom = len(rows.y_N) - columns_NP.shape[1]
    residual = float(left_N @ left_N) / freedom if freedom > 0 else 0.0
    if residual <= TINY**2:
        return None
    spread_PP = residual * inner_PP
    if by_cell:
        in_cell = dummies(rows.levels["cell"])
        scores_GP = in_cell.T @ (columns_NP * left_N[:, None])
        groups = in_cell.shape[1]
        spread_PP = inner_PP @ (scores_GP.T @ scores_GP) @ inner_PP * groups / max(1, groups - 1)
    count = len(rows.slopes)
    return values_P[:count], np.sqrt(np.diag(spread_PP))[:count], {"residual": sqrt(residual)}


def _slope(value: float, error: float, dof: int, level: float) -> MixedSlope:
    from scipy.special import stdtrit  # late: commands that only list trials do not wait for it

    if dof < 1:
        return MixedSlope(value, None, None, max(dof, 0))
    reach = float(stdtrit(dof, (1 + level) / 2)) * error
    return MixedSlope(value, value - reach, value + reach, dof)

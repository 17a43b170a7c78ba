"""Effects of factors over the cells of a design, with the seed as a block; a bootstrap over seeds and test images.

An effect is a contrast of cells within one seed; the seeds' contrasts then are independent values, whose t interval
holds whatever the spread of each seed, cell or factor. Only where seeds lack cells do rows have to be pooled.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import isfinite, sqrt
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from akdtune.statistics.association import LEVEL
from akdtune.statistics.resampling import Floats

Levels: TypeAlias = Mapping[str, Mapping[str, Any]]
Form: TypeAlias = Literal["per-seed contrasts", "seed blocks", "mixed model"]

MIXED_SEEDS = 10
_TINY = 1e-9
_NAMED = 3
_BATCH_VALUES = 2_000_000


@dataclass(frozen=True)
class Effect:
    """One effect of a factor or one interaction of two.

    Attributes:
        term: "factor: level - first level", or two of them joined by " x ".
        estimate: mean difference between the two levels over equally weighted levels of the other factors; for an
            interaction, how much one difference changes with the other (a difference of differences).
        ci_low, ci_high, p: None where the seeds give none.
        n_seeds: seeds that the estimate stands on.
        form: "per-seed contrasts": t over seeds of each seed's own least-squares estimate; "seed blocks": least squares
            of all rows on seed and factors; "mixed model": generalised least squares with a random seed intercept.
        note: with which terms it is aliased, why it is no mixed model, "" where nothing is to be said.
    """

    term: str
    estimate: float
    ci_low: float | None
    ci_high: float | None
    p: float | None
    n_seeds: int
    form: Form
    note: str


class _Rows(NamedTuple):
    """One row per cell and seed."""

    values_R: Floats
    cells_R: npt.NDArray[np.int64]
    seeds_R: npt.NDArray[np.int64]

    @property
    def num_seeds(self) -> int:
        return int(self.seeds_R.max(initial=-1)) + 1


class _Fit(NamedTuple):
    """Estimates and standard errors of all terms, with the degrees of freedom of their t."""

    estimates_P: Floats
    errors_P: Floats
    dof: int
    form: Form
    note: str = ""


def contrasts(
    values: Mapping[str, Mapping[int, float]], levels: Levels, *, level: float = LEVEL
) -> list[Effect]:  # fmt: skip
    """Main effects and two-factor interactions of a design's factors.

    Full and fractional factorials, leave-one-out and merged cells alike: every main effect, then every interaction that
    the cells can tell from the terms before it. What is left out shows in the notes of those it is aliased with.
    Several levels of a factor are each compared with its first (that of the first cell).

    From `MIXED_SEEDS` seeds on a mixed model is fitted, with errors clustered by seed, so that a factor whose effect
    varies with the seed keeps its coverage; on complete seeds its numbers are those of the per-seed contrasts. Fewer
    seeds, or a fit that does not converge or has no variance between seeds, leave the block form.

    Args:
        values: for each cell, the value of each seed; cells without levels (controls) are left out.
        levels: for each cell of the design, its level of each factor; the same factors everywhere.
        level: coverage of the intervals, 0 to 1.

    Raises:
        ValueError: for values that are not finite, cells that lack a factor, or a level outside (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")
    cells = [name for name in levels if values.get(name)]
    factors = list(dict.fromkeys(factor for name in cells for factor in levels[name]))
    for name in cells:
        for factor in factors:
            if factor not in levels[name]:
                raise ValueError(f"cell {name} has no level of {factor}; its factors: {', '.join(levels[name])}")
    if len(cells) < 2:
        return []
    terms, design_CP, notes = _design([levels[name] for name in cells], factors)
    if not terms:
        return []
    rows = _rows([values[name] for name in cells])
    fit = _fit(rows, design_CP)
    if fit is None:
        return []
    return [
        _effect(term, float(fit.estimates_P[i]), float(fit.errors_P[i]), fit, rows.num_seeds, note, level)
        for i, (term, note) in enumerate(zip(terms, notes, strict=True), start=1)
    ]


def crossed_bootstrap(
    cell_SN: npt.NDArray[np.bool_] | Floats,
    reference_SN: npt.NDArray[np.bool_] | Floats,
    *,
    groups_N: npt.NDArray[np.int64] | None = None,
    draws: int = 2000,
    seed: int = 0,
    level: float = LEVEL,
) -> tuple[float, float]:
    """Interval of the difference of a mean over test images when seeds and images are both drawn anew.

    Seeds and images are resampled independently and crossed (percentile interval). It stands beside the seed interval:
    it answers for other test images as well. It tends to be too wide, as noise of single predictions counts up to three
    times (Owen; simulated coverage .96 to .97); where seeds differ much more than images and are few, it is too narrow,
    as percentile intervals are. With one seed it answers for images alone.

    Rows that are not independent of each other are drawn in groups, as the tokens of one text: the mean over all rows
    of the groups drawn. Without groups the interval of such rows is far too narrow.

    Args:
        cell_SN: whether the cell's trial of each seed gets each image right, for an interval in points; or what each
            row contributes to another metric, in its unit.
        reference_SN: the same of the reference, same seeds and images in the same order.
        groups_N: the group of each row; None: each row is drawn by itself.
        draws: of the bootstrap, at least 100.
        seed: of the draws.
        level: coverage, 0 to 1.

    Raises:
        ValueError: for shapes that differ or hold nothing, or numbers out of range.

    References:
        Owen 2007, Ann. Appl. Stat. 1:386 (the pigeonhole bootstrap).
    """
    if cell_SN.ndim != 2 or cell_SN.shape != reference_SN.shape or not cell_SN.size:
        shapes = f"{cell_SN.shape} and {reference_SN.shape}"
        raise ValueError(f"both must be seeds x images and equal in shape, got {shapes}")
    if draws < 100 or not 0 < level < 1:
        raise ValueError(f"draws must be at least 100 and level between 0 and 1, got {draws} and {level}")
    right = cell_SN.dtype == np.bool_
    exact = np.int8 if right else np.float64
    gains_SN = (cell_SN.astype(exact) - reference_SN.astype(exact)).astype(np.float32)
    seeds, images = gains_SN.shape
    rng = np.random.default_rng(seed)
    if groups_N is not None and groups_N.shape != (images,):
        raise ValueError(f"groups_N must hold one group a row ({images}), got the shape {groups_N.shape}")
    if groups_N is None or len(np.unique(groups_N)) == images:
        drawn = _over_rows(gains_SN, draws, rng)
    else:
        drawn = _over_groups(gains_SN, groups_N, draws, rng)
    means = [
        np.take_along_axis(means_BS, rng.integers(0, seeds, means_BS.shape), axis=1).mean(axis=1) for means_BS in drawn
    ]
    tail, scale = 50 * (1 - level), 100 if right else 1
    low, high = np.percentile(scale * np.concatenate(means).astype(np.float64), [tail, 100 - tail])
    return float(low), float(high)


def _over_rows(gains_SN: npt.NDArray[np.float32], draws: int, rng: np.random.Generator) -> Iterator[Floats]:
    """Means of each seed over rows drawn anew, some draws at a time."""
    images = gains_SN.shape[1]
    # Images on which no seed differs add nothing: drawing how often they come up together is enough.
    gains_SI = gains_SN[:, gains_SN.any(axis=0)]
    active = gains_SI.shape[1]
    batch = max(1, _BATCH_VALUES // images)
    for start in range(0, draws, batch):
        count = min(batch, draws - start)
        hits_B = rng.binomial(images, active / images, count)
        owners = np.repeat(np.arange(count), hits_B)
        drawn = rng.integers(0, max(active, 1), len(owners))
        times_BI = np.bincount(owners * active + drawn, minlength=count * active).reshape(count, active)
        yield times_BI.astype(np.float32) @ gains_SI.T / images


def _over_groups(
    gains_SN: npt.NDArray[np.float32], groups_N: npt.NDArray[np.int64], draws: int, rng: np.random.Generator
) -> Iterator[Floats]:
    """The same over all rows of groups drawn anew, which need not be of one size."""
    _, place_N, sizes_G = np.unique(groups_N, return_inverse=True, return_counts=True)
    sums_SG = np.stack([np.bincount(place_N, weights=gains_N, minlength=len(sizes_G)) for gains_N in gains_SN])
    batch = max(1, _BATCH_VALUES // len(sizes_G))
    for start in range(0, draws, batch):
        drawn_BG = rng.integers(0, len(sizes_G), (min(batch, draws - start), len(sizes_G)))
        times_BG = np.stack([np.bincount(drawn_G, minlength=len(sizes_G)) for drawn_G in drawn_BG])
        yield times_BG @ sums_SG.T / (times_BG @ sizes_G)[:, None]


def _effect(term: str, estimate: float, error: float, fit: _Fit, seeds: int, note: str, level: float) -> Effect:
    from scipy.special import stdtr, stdtrit  # late: commands that only list trials do not wait for it

    note = "; ".join(part for part in (note, fit.note) if part)
    if fit.dof < 1 or not isfinite(error) or error == 0:  # without spread, an interval has no length
        p = 1.0 if error == 0 and estimate == 0 else None
        return Effect(term, estimate, None, None, p, seeds, fit.form, note)
    reach = -float(stdtrit(fit.dof, (1 - level) / 2)) * error
    p = 2 * float(stdtr(fit.dof, -abs(estimate) / error))
    return Effect(term, estimate, estimate - reach, estimate + reach, p, seeds, fit.form, note)


def _label(value: Any) -> str:
    """A level as YAML would show it; equal for equal values, also for mappings."""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)


def _design(cells: Sequence[Mapping[str, Any]], factors: Sequence[str]) -> tuple[list[str], Floats, list[str]]:
    """Terms that the cells can tell apart, their columns after the intercept's [C, 1 + terms], and their aliases."""
    mains: list[tuple[str, str, Floats]] = []
    for factor in factors:
        labels = [_label(cell[factor]) for cell in cells]
        first, *others = dict.fromkeys(labels)
        for other in others:
            is_other_C = np.array([label == other for label in labels], np.float64)
            # Less 1 / levels, other factors' effects are those at equally weighted levels of this one.
            mains.append((factor, f"{factor}: {other} - {first}", is_other_C - 1 / (1 + len(others))))
    candidates = [(term, column_C) for _, term, column_C in mains]
    candidates += [(f"{a} x {b}", x_C * y_C) for (f, a, x_C), (g, b, y_C) in combinations(mains, 2) if f != g]
    design_CP = np.ones((len(cells), 1))
    kept: list[str] = []
    dropped: list[tuple[str, Floats]] = []
    for term, column_C in candidates:
        wider_CP = np.column_stack([design_CP, column_C])
        if np.linalg.matrix_rank(wider_CP, tol=1e-8) > design_CP.shape[1]:
            design_CP = wider_CP
            kept.append(term)
        else:
            dropped.append((term, column_C))
    return kept, design_CP, _aliases(design_CP, dropped)


def _aliases(design_CP: Floats, dropped: Sequence[tuple[str, Floats]]) -> list[str]:
    """For each kept term, which of the dropped ones its estimate contains."""
    shares = [np.linalg.pinv(design_CP) @ column_C for _, column_C in dropped]
    notes = []
    for index in range(1, design_CP.shape[1]):
        aliases = [term for (term, _), share_P in zip(dropped, shares, strict=True) if abs(share_P[index]) > 1e-8]
        more = f" and {len(aliases) - _NAMED} more" if len(aliases) > _NAMED else ""
        notes.append(f"aliased with {', '.join(aliases[:_NAMED])}{more}" if aliases else "")
    return notes


def _rows(cells: Sequence[Mapping[int, float]]) -> _Rows:
    """All values; seeds with a single cell hold no contrast and are left out."""
    counts: dict[Hashable, int] = {}
    for cell in cells:
        for seed in cell:
            counts[seed] = counts.get(seed, 0) + 1
    order = {seed: place for place, seed in enumerate(seed for seed, count in counts.items() if count > 1)}
    values = [(value, c, order[seed]) for c, cell in enumerate(cells) for seed, value in cell.items() if seed in order]
    values_R = np.array([row[0] for row in values], np.float64)
    if not np.isfinite(values_R).all():
        raise ValueError(f"values must be finite, got {values_R[~np.isfinite(values_R)][0]}")
    cells_R, seeds_R = (np.array([row[i] for row in values], np.int64) for i in (1, 2))
    return _Rows(values_R, cells_R, seeds_R)


def _fit(rows: _Rows, design_CP: Floats) -> _Fit | None:
    """The best form that the rows allow, None where they hold no contrast of all terms."""
    seeds, cells = rows.num_seeds, len(design_CP)
    if not seeds:
        return None
    is_complete = len(rows.values_R) == seeds * cells
    block = _per_seed(rows, design_CP) if is_complete else _pooled(rows, design_CP)
    if block is None or seeds < MIXED_SEEDS:
        return block and block._replace(note=f"{seeds} seeds: no mixed model below {MIXED_SEEDS}")
    mixed = _mixed(rows, design_CP)
    return block._replace(note=f"no mixed model: {mixed}") if isinstance(mixed, str) else mixed


def _per_seed(rows: _Rows, design_CP: Floats) -> _Fit:
    """Least squares within each seed, then mean and standard error over seeds."""
    table_CS = np.empty((len(design_CP), rows.num_seeds))
    table_CS[rows.cells_R, rows.seeds_R] = rows.values_R
    estimates_PS = np.linalg.pinv(design_CP) @ table_CS
    seeds = rows.num_seeds
    if seeds < 2:
        return _Fit(estimates_PS[:, 0], np.full(len(estimates_PS), np.nan), 0, "per-seed contrasts")
    errors_P = estimates_PS.std(axis=1, ddof=1) / sqrt(seeds)
    errors_P[errors_P <= 1e-12 * np.abs(table_CS).max()] = 0.0
    means_P = estimates_PS.mean(axis=1)
    means_P[np.abs(means_P) <= 1e-12 * np.abs(table_CS).max()] = 0.0
    return _Fit(means_P, errors_P, seeds - 1, "per-seed contrasts")


def _pooled(rows: _Rows, design_CP: Floats) -> _Fit | None:
    """Least squares of all rows on seed dummies and factors."""
    columns_RP = design_CP[rows.cells_R, 1:]
    blocks_RS = np.eye(rows.num_seeds)[rows.seeds_R]
    whole = np.column_stack([blocks_RS, columns_RP])
    if np.linalg.matrix_rank(whole, tol=1e-8) < whole.shape[1]:
        return None
    inverse = np.linalg.inv(whole.T @ whole)
    estimates = inverse @ whole.T @ rows.values_R
    dof = whole.shape[0] - whole.shape[1]
    left_R = rows.values_R - whole @ estimates
    errors = np.sqrt(np.diag(inverse) * float(left_R @ left_R) / dof) if dof else np.full(len(estimates), np.nan)
    own = slice(rows.num_seeds - 1, None)  # the last block stands in the intercept's place
    return _Fit(estimates[own], errors[own], dof, "seed blocks")


def _mixed(rows: _Rows, design_CP: Floats) -> _Fit | str:
    """Random seed intercept by REML; errors clustered by seed, with t of seeds - 1. A text says why there is no fit."""
    # late: it loads pandas, for one estimate of one report
    from statsmodels.regression.mixed_linear_model import MixedLM

    columns_RP = design_CP[rows.cells_R]
    centre, scale = float(rows.values_R.mean()), float(rows.values_R.std())
    if scale <= 1e-12 * abs(centre):
        return "the values do not vary"
    values_R = (rows.values_R - centre) / scale
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what they would say is read off the fit below
        try:
            fit = MixedLM(values_R, columns_RP, groups=rows.seeds_R).fit(reml=True)
        except (np.linalg.LinAlgError, ValueError) as error:
            return f"the fit failed ({error})"
    within, between = float(fit.scale), float(np.asarray(fit.cov_re)[0, 0])
    if not fit.converged:
        return "the fit did not converge"
    if not (isfinite(between) and isfinite(within)) or within <= _TINY or between <= 1e-4 * within:
        return "the fit is singular (no variance between seeds)"
    left_R = values_R - columns_RP @ fit.fe_params
    width = columns_RP.shape[1]
    bread_PP, meat_PP = np.zeros((width, width)), np.zeros((width, width))
    for seed in range(rows.num_seeds):
        own = rows.seeds_R == seed
        covariance = within * np.eye(int(own.sum())) + between
        weighted = np.linalg.solve(covariance, columns_RP[own])
        bread_PP += columns_RP[own].T @ weighted
        score_P = weighted.T @ left_R[own]
        meat_PP += np.outer(score_P, score_P)
    inverse_PP = np.linalg.inv(bread_PP)
    sandwich_PP = inverse_PP @ meat_PP @ inverse_PP * rows.num_seeds / (rows.num_seeds - 1)
    estimates_P = np.asarray(fit.fe_params) * scale
    return _Fit(estimates_P, np.sqrt(np.diag(sandwich_PP)) * scale, rows.num_seeds - 1, "mixed model")

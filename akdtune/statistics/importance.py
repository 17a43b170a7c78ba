"""How much each searched setting matters, by Optuna's evaluators, with intervals by resampled configurations.

Beside `search/optuna_search.py` the only module that imports Optuna; it stands alone so that reading a study loads no
torch.
"""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import create_trial

from akdtune.settings import domains, space
from akdtune.settings.domains import Choice, Domain, Range
from akdtune.statistics import fanova
from akdtune.statistics.fanova import Encoded, explained
from akdtune.statistics.paired import cell_summary
from akdtune.statistics.power import t_quantile

Evaluator: TypeAlias = Literal["ped_anova", "fanova"]
Distribution: TypeAlias = BaseDistribution
Shares: TypeAlias = npt.NDArray[np.float64]

LEVEL = 0.9
SECTIONS = ("student", "views", "method", "selection", "training")
TOP_SHARE, TOP_LEAST = 0.1, 5
"""PED-ANOVA compares the best tenth, and never fewer than five, with all."""

TREES, DRAWS_TREES_SHARE = 64, 8
"""A forest for the shares, and ones of an eighth for the resamples: fANOVA takes most of its time in trees."""

MARGINAL_BINS, PER_BIN = 6, 5

LEAST_FOR_INTERVAL = 5
"""A mean of fewer values has no interval: a t interval of so few says more about their number than about them."""

LOG_SPAN = 10.0
"""Positive values whose range the settings do not say count as drawn on a logarithmic scale from this factor on."""


@dataclass(frozen=True)
class Importance:
    """One setting's share of what was explained.

    Attributes:
        name: key path of the setting.
        share: 0 to 1; shares of all settings add up to 1.
        low, high: of the share that studies of so many configurations give on average; the share lies between them.
        chance: the share that the setting stays below in 95 % of shuffles of the scores.
    """

    name: str
    share: float
    low: float
    high: float
    chance: float

    @property
    def above_chance(self) -> bool:
        """Whether the share is more than shuffled scores give."""
        return self.share > self.chance


@dataclass(frozen=True)
class Bin:
    """Mean score of the configurations whose setting lies here; `low` and `high` are None for fewer than five.

    Attributes:
        x: mean of the setting, geometric on a logarithmic scale; None for an option.
        one_value: whether all members have the same value.
        members: their places among the configurations that have the setting.
    """

    label: str
    one_value: bool
    members: list[int]
    x: float | None
    n: int
    mean: float
    low: float | None
    high: float | None


def domains_of(settings: Mapping[str, Any]) -> dict[str, list[Domain]]:
    """Every domain of a study by the key path of its setting; several where options have their own.

    Args:
        settings: as `study.lock.yaml` holds them.
    """
    tree = domains.parse({name: settings[name] for name in SECTIONS if settings.get(name) is not None}, [], [])
    by_path: dict[str, list[Domain]] = {}
    for expanded, _, _ in space.expand(tree):
        for placed in domains.domains(expanded):
            known = by_path.setdefault(space.setting_path(placed.logical, expanded), [])
            if placed.domain not in known:
                known.append(placed.domain)
    return by_path


def distribution(values: Sequence[Any], known: Sequence[Domain]) -> tuple[Distribution, bool]:
    """What the values of a setting were drawn from, and whether that is known and not taken from the values.

    Where it is not known, positive numbers that span a factor of ten or more count as drawn on a logarithmic scale.

    Args:
        values: of all configurations that have the setting.
        known: domains that it may have come from.
    """
    for domain in known:
        if isinstance(domain, Choice) and set(map(domains.label, values)) <= set(map(domains.label, domain.options)):
            return CategoricalDistribution(domain.labels), True
        if isinstance(domain, Range) and all(domain.holds(value) for value in values):
            return _of_range(domain), True
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        low, high = min(values), max(values)
        log = bool(low > 0 and high >= LOG_SPAN * low)
        if all(isinstance(value, int) for value in values):
            return IntDistribution(low, high, log=log), False
        return FloatDistribution(float(low), float(high), log=log), False
    return CategoricalDistribution(sorted(set(map(domains.label, values)))), False


def _of_range(domain: Range) -> Distribution:
    if domain.whole:
        return IntDistribution(int(domain.low), int(domain.high), log=domain.log, step=int(domain.step or 1))
    return FloatDistribution(domain.low, domain.high, log=domain.log, step=domain.step)


def importances(
    configurations: Sequence[Mapping[str, Any]],
    scores_N: Shares,
    distributions: Mapping[str, Distribution],
    evaluator: Evaluator,
    *,
    draws: int,
    seed: int = 0,
    level: float = LEVEL,
    trees: int = TREES,
) -> list[Importance]:
    """The importance of each setting for the score, largest first.

    PED-ANOVA asks what sets the best configurations apart, fANOVA what explains the score everywhere; fANOVA leaves out
    settings that some configurations lack. Intervals: `share_interval`.

    Args:
        configurations: values by setting; each configuration once.
        scores_N: higher is better.
        distributions: by setting.
        evaluator: which of the two.
        draws: resamples of configurations, and half as many shuffles of the scores.
        seed: of the draws and of the forest.
        level: of the intervals.
        trees: of fANOVA's forest; those of the resamples have an eighth, at least two.

    Returns:
        Nothing where no setting can be told from another: fewer than two of them vary, or all scores are equal.

    References:
        Watanabe et al., PED-ANOVA, arXiv 2304.10255; Hutter et al., An efficient approach for assessing hyperparameter
        importance, ICML 2014.
    """
    params = [_as_drawn(configuration, distributions) for configuration in configurations]
    names = [name for name in distributions if evaluator == "ped_anova" or all(name in values for values in params)]
    names = [name for name in names if not distributions[name].single()]
    if len(names) < 2 or np.ptp(scores_N) == 0:
        return []
    everything = np.arange(len(params))
    if evaluator == "fanova":
        forest = _fanova(params, distributions, names, seed)
        share_P, measure = forest(trees)(everything, scores_N), forest(max(2, trees // DRAWS_TREES_SHARE))
    else:
        measure = _ped_anova(params, distributions, names)
        share_P = measure(everything, scores_N)
    rng = np.random.default_rng(seed)
    resampled_DP, shuffled_DP = [], []
    for draw in range(draws):
        drawn = rng.integers(len(params), size=len(params))
        if np.ptp(scores_N[drawn]) > 0:
            resampled_DP.append(measure(drawn, scores_N[drawn]))
        if draw % 2 == 0:
            shuffled_DP.append(measure(everything, rng.permutation(scores_N)))
    low_P, high_P = share_interval(share_P, np.array(resampled_DP), level)
    chance_P = np.quantile(shuffled_DP, 0.95, axis=0)
    rows = zip(names, share_P, low_P, high_P, chance_P, strict=True)
    return sorted(
        (Importance(n, *map(float, row)) for n, *row in rows),
        key=lambda importance: (-importance.share, importance.name),
    )


def share_interval(share_P: Shares, resampled_DP: Shares, level: float = LEVEL) -> tuple[Shares, Shares]:
    """Intervals of shares by the spread of resamples around the shares themselves.

    A resample holds configurations twice, which blurs what sets them apart: shares of settings that matter are lower
    there, all others higher. Its quantiles are those of a shifted distribution, and a share can lie outside of them.
    Only the spread is taken, on the scale asin(sqrt(share)), where it depends little on the share and ends stay in
    [0, 1]. What is covered is the mean share of studies with as many configurations, not that of endless ones.

    Args:
        share_P: of P settings, 0 to 1.
        resampled_DP: of D resamples, at least two.
        level: of coverage, 0 to 1.

    Returns:
        The lower and the upper ends; every share lies between its own.
    """
    angle_P, angles_DP = (np.arcsin(np.sqrt(np.clip(shares, 0, 1))) for shares in (share_P, resampled_DP))
    reach_P = t_quantile((1 - level) / 2, len(angles_DP)) * angles_DP.std(axis=0, ddof=1)
    low_P, high_P = (np.sin(np.clip(angle_P + side * reach_P, 0, np.pi / 2)) ** 2 for side in (-1, 1))
    return np.minimum(low_P, share_P), np.maximum(high_P, share_P)  # a share of no spread, after rounding


def marginal(values: Sequence[Any], scores_N: Shares, kind: Distribution) -> list[Bin]:
    """Mean score by setting, whatever the other settings are: each option, or bins of about equally many.

    Args:
        values: of the setting.
        scores_N: of the same configurations.
        kind: what they were drawn from.
    """
    if isinstance(kind, CategoricalDistribution):
        labels_N = np.array([domains.label(value) for value in values], object)
        options = [option for option in kind.choices if option in labels_N]
        return [_bin(str(option), None, labels_N == option, scores_N) for option in options]
    values_N = np.array(values, np.float64)
    middle = _geometric_mean if getattr(kind, "log", False) else np.mean
    distinct = np.unique(values_N)
    if len(distinct) <= MARGINAL_BINS:
        return [_bin(f"{value:g}", float(value), values_N == value, scores_N) for value in distinct]
    count = max(2, min(MARGINAL_BINS, len(values_N) // PER_BIN))
    edges = np.unique(np.quantile(values_N, np.linspace(0, 1, count + 1)))
    places_N = np.clip(np.searchsorted(edges, values_N, side="right") - 1, 0, len(edges) - 2)
    return [
        _bin(
            f"{edges[i]:.3g} to {edges[i + 1]:.3g}",
            float(middle(values_N[places_N == i])),
            places_N == i,
            scores_N,
            False,
        )
        for i in range(len(edges) - 1)
        if (places_N == i).any()
    ]


def _geometric_mean(values_N: Shares) -> np.float64:
    return np.float64(np.exp(np.log(values_N).mean()))


def _bin(label: str, x: float | None, inside_N: npt.NDArray[np.bool_], scores_N: Shares, one_value: bool = True) -> Bin:
    summary = cell_summary(scores_N[inside_N])
    assert summary.mean is not None
    members = np.flatnonzero(inside_N).tolist()
    low, high = (summary.ci_low, summary.ci_high) if summary.n >= LEAST_FOR_INTERVAL else (None, None)
    return Bin(label, one_value, members, x, summary.n, summary.mean, low, high)


def _as_drawn(configuration: Mapping[str, Any], distributions: Mapping[str, Distribution]) -> dict[str, Any]:
    """Values as Optuna holds them: labels of options, numbers of ranges."""
    return {
        name: domains.label(configuration[name]) if isinstance(kind, CategoricalDistribution) else configuration[name]
        for name, kind in distributions.items()
        if configuration.get(name) is not None
    }


Measure: TypeAlias = Callable[[npt.NDArray[np.int64], Shares], Shares]
"""Shares by setting for chosen configurations with given scores."""


def _fanova(
    params: Sequence[dict[str, Any]], distributions: Mapping[str, Distribution], names: list[str], seed: int
) -> Callable[[int], Measure]:
    """fANOVA with so many trees."""
    encoded = Encoded(params, {name: _kind(distributions[name]) for name in names})

    def with_trees(trees: int) -> Measure:
        def measure(rows: npt.NDArray[np.int64], scores: Shares) -> Shares:
            return _adding_up(explained(encoded, rows, scores, trees, seed))

        return measure

    return with_trees


def _kind(distribution: Distribution) -> fanova.Range | fanova.Options:
    if isinstance(distribution, CategoricalDistribution):
        return [str(choice) for choice in distribution.choices]
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return float(distribution.low), float(distribution.high)


def _adding_up(shares: Shares) -> Shares:
    total = shares.sum()
    return shares / total if total else np.full(len(shares), 1 / len(shares))


def _ped_anova(
    params: Sequence[dict[str, Any]], distributions: Mapping[str, Distribution], names: list[str]
) -> Measure:
    """PED-ANOVA, by Optuna, on trials that are made once: each call says what they hold."""
    once = {name: _hashed_once(kind) for name, kind in distributions.items()}
    made = [
        create_trial(value=0.0, params=drawn, distributions={name: distributions[name] for name in drawn})
        for drawn in params
    ]
    kinds = [{name: once[name] for name in drawn} for drawn in params]
    for number, trial in enumerate(made):
        trial.number, trial._trial_id = number, number
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize")
    study.get_trials = lambda *_, **__: made  # type: ignore[method-assign]  # a study takes half a second for as many
    evaluator = _evaluator(len(params))

    def measure(rows: npt.NDArray[np.int64], scores: Shares) -> Shares:
        for trial, row, score in zip(made, rows.tolist(), scores.tolist(), strict=True):
            trial._params, trial._distributions, trial.values = params[row], kinds[row], [score]
        held = {name for row in rows for name in params[row]}
        present = [name for name in names if name in held]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that a conditional setting has few configurations
            shares = get_param_importances(study, evaluator=evaluator, params=present)
        return np.array([shares.get(name, 0.0) for name in names])

    return measure


def _hashed_once(kind: Distribution) -> Distribution:
    """The same, whose hash is known: trials are sorted by their distributions, ten thousand times for each draw."""
    known = copy.copy(kind)
    value = hash(kind)
    known.__class__ = type(type(kind).__name__, (type(kind),), {"__hash__": lambda self: value})
    return known


def _evaluator(count: int) -> Any:
    share = min(0.5, max(TOP_SHARE, TOP_LEAST / count))
    accepted = inspect.signature(PedAnovaImportanceEvaluator.__init__).parameters
    # Older versions of Optuna call it `baseline_quantile`.
    key = "target_quantile" if "target_quantile" in accepted else "baseline_quantile"
    options: dict[str, Any] = {key: share}
    return PedAnovaImportanceEvaluator(**options)

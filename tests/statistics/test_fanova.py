"""What the forests explain, against Optuna's own evaluators, which walk every tree and make every study anew."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.importance import FanovaImportanceEvaluator, PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import create_trial

from akdtune.statistics import importance
from akdtune.statistics.fanova import Encoded, explained

KINDS: dict[str, BaseDistribution] = {
    "lr": FloatDistribution(1e-3, 1.0, log=True),
    "margin": FloatDistribution(0.0, 1.0),
    "views": IntDistribution(2, 9),
    "norm": CategoricalDistribution(["batch", "group", "none"]),
}
COUNT = 60


def encoded(params: list[dict[str, Any]]) -> Encoded:
    return Encoded(params, {name: importance._kind(kind) for name, kind in KINDS.items()})


def drawn() -> tuple[list[dict[str, Any]], np.ndarray[Any, np.dtype[np.float64]]]:
    rng = np.random.default_rng(3)
    params: list[dict[str, Any]] = [
        {"lr": float(10 ** rng.uniform(-3, 0)), "margin": float(rng.uniform()), "views": int(rng.integers(2, 10)),
         "norm": str(rng.choice(["batch", "group", "none"]))}
        for _ in range(COUNT)
    ]  # fmt: skip
    scores = [5 * p["margin"] + p["views"] * (p["norm"] == "group") + np.log10(p["lr"]) + rng.normal() for p in params]
    return params, np.array(scores)


def by_optuna(rows: np.ndarray[Any, Any], scores: np.ndarray[Any, Any], evaluator: Any) -> Mapping[str, float]:
    params, _ = drawn()
    study = optuna.create_study(direction="maximize")
    study.add_trials(
        [
            create_trial(value=float(score), params=params[row], distributions=KINDS)
            for row, score in zip(rows, scores, strict=True)
        ]
    )
    return get_param_importances(study, evaluator=evaluator, params=list(KINDS))


@pytest.fixture(params=["all", "resampled"])
def rows(request: pytest.FixtureRequest) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.arange(COUNT) if request.param == "all" else np.random.default_rng(1).integers(COUNT, size=COUNT)


def test_shares_of_a_forest_are_optunas(rows: np.ndarray[Any, np.dtype[np.int64]]) -> None:
    params, scores = drawn()
    shares = explained(encoded(params), rows, scores[rows], trees=7, seed=5)
    expected = by_optuna(rows, scores[rows], FanovaImportanceEvaluator(n_trees=7, seed=5))
    assert shares / shares.sum() == pytest.approx([expected[name] for name in KINDS], abs=1e-12)
    assert max(expected, key=lambda name: expected[name]) == "norm"


def test_shares_of_ped_anova_are_optunas_to_the_last_bit(rows: np.ndarray[Any, np.dtype[np.int64]]) -> None:
    params, scores = drawn()
    shares = importance._ped_anova(params, KINDS, list(KINDS))(rows, scores[rows])
    expected = by_optuna(rows, scores[rows], PedAnovaImportanceEvaluator(target_quantile=0.1))
    assert shares.tolist() == [expected[name] for name in KINDS]


def test_scores_without_a_split_explain_nothing() -> None:
    params, _ = drawn()
    with pytest.raises(ValueError, match="no tree"):
        explained(encoded(params), np.arange(COUNT), np.ones(COUNT), trees=3, seed=0)

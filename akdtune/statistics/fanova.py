"""How much of a forest's variance each setting explains alone: fANOVA's first order, for all leaves of a tree at once.

References:
    Hutter et al., An efficient approach for assessing hyperparameter importance, ICML 2014.

Differs: nothing but the order of sums from Optuna's `FanovaImportanceEvaluator`, which walks each tree once for every
split of a setting: minutes for a thousand configurations.
"""

# Shapes: N configurations, D columns of the forest, L leaves, S spans between the splits of a column.

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float64]

Range: TypeAlias = tuple[float, float]
Options: TypeAlias = list[str]

MAX_DEPTH = 64
"""Of a tree, as in Optuna."""


class Encoded:
    """Configurations as columns of numbers: a setting's value, or a column for each of its options.

    Args:
        params: of each configuration, all of these settings.
        kinds: what each setting is drawn from: the ends of a range, or the labels of options.

    Attributes:
        rows_ND: a row for each configuration.
        bounds_D2: the ends of each column.
        columns: which of them each setting has, in the order of the settings.
    """

    def __init__(self, params: Sequence[Mapping[str, Any]], kinds: Mapping[str, Range | Options]) -> None:
        columns: list[Floats] = []
        bounds: list[Range] = []
        of: dict[str, list[int]] = {}
        for name in sorted(kinds):  # as Optuna does: which of two equal splits is taken depends on it
            first, kind = len(columns), kinds[name]
            if isinstance(kind, tuple):
                columns.append(np.array([values[name] for values in params], np.float64))
                bounds.append(kind)
            else:
                columns += [np.array([values[name] == label for values in params], np.float64) for label in kind]
                bounds += [(0.0, 1.0)] * len(kind)
            of[name] = list(range(first, len(columns)))
        self.columns = [of[name] for name in kinds]
        self.rows_ND = np.column_stack(columns)
        self.bounds_D2 = np.array(bounds, np.float64)


def explained(encoded: Encoded, rows: npt.NDArray[np.int64], scores: Floats, trees: int, seed: int) -> Floats:
    """The share of its trees' variance that each setting explains alone, before they are made to add up to 1.

    Args:
        encoded: all configurations.
        rows: those that the forest is grown on.
        scores: of these.
        trees: of the forest.
        seed: of the forest.

    Raises:
        ValueError: when no tree has a split.
    """
    from sklearn.ensemble import RandomForestRegressor  # late: only fANOVA grows forests

    forest = RandomForestRegressor(n_estimators=trees, max_depth=MAX_DEPTH, random_state=seed)
    forest.fit(encoded.rows_ND[rows], scores)
    shares = []
    for grown in forest.estimators_:
        tree = _Leaves(grown.tree_, encoded.bounds_D2)
        if tree.variance > 0.0:
            alone = (max(tree.marginal_variance(columns), 0.0) for columns in encoded.columns)
            shares.append([variance / tree.variance for variance in alone])
    if not shares:
        raise ValueError("no tree of the forest has a split")
    return np.asarray(np.mean(shares, axis=0), np.float64)


class _Leaves:
    """The leaves of a tree as boxes in the space of settings.

    Args:
        tree: of scikit-learn.
        bounds_D2: the whole space.

    Attributes:
        variance: of the leaves' values, each weighed by its share of the space.
    """

    def __init__(self, tree: Any, bounds_D2: Floats) -> None:
        boxes = _boxes(tree, bounds_D2)
        leaves = np.flatnonzero(tree.feature < 0)
        self._low_LD, self._high_LD = boxes[0][leaves], boxes[1][leaves]
        self._values_L = np.asarray(tree.value, np.float64).reshape(tree.node_count, -1)[leaves, 0]
        self._sizes_LD = self._high_LD - self._low_LD
        self._splits = [
            np.unique(np.concatenate([bounds_D2[column], tree.threshold[tree.feature == column]]))
            for column in range(len(bounds_D2))
        ]
        self.variance = _variance(self._values_L, self._sizes_LD.prod(axis=1))

    def marginal_variance(self, columns: Sequence[int]) -> float:
        """Variance of the mean over all other columns, over the spans between the splits of these."""
        others = [column for column in range(self._sizes_LD.shape[1]) if column not in columns]
        weights_L = self._sizes_LD[:, others].prod(axis=1)
        if len(columns) == 1:
            return self._of_one(columns[0], weights_L)
        middles = [0.5 * (self._splits[column][1:] + self._splits[column][:-1]) for column in columns]
        sizes = [np.diff(self._splits[column]) for column in columns]
        points_SC = np.array(list(itertools.product(*middles)))
        size_S = np.array([np.prod(of) for of in itertools.product(*sizes)])
        low_LC, high_LC = self._low_LD[:, columns], self._high_LD[:, columns]
        inside_SL = ((points_SC[:, None] > low_LC) & (points_SC[:, None] <= high_LC)).all(axis=2)
        weight_SL = inside_SL * weights_L
        total_S = weight_SL.sum(axis=1)
        return _variance(weight_SL @ self._values_L / total_S, total_S * size_S)

    def _of_one(self, column: int, weights_L: Floats) -> float:
        splits = self._splits[column]
        first_L = np.searchsorted(splits, self._low_LD[:, column])
        behind_L = np.searchsorted(splits, self._high_LD[:, column])
        begun = [np.bincount(at, weights, len(splits)) for at in (first_L, behind_L) for weights in
                 (weights_L, weights_L * self._values_L)]  # fmt: skip
        total_S = np.cumsum(begun[0] - begun[2])[:-1]
        values_S = np.cumsum(begun[1] - begun[3])[:-1] / total_S
        return _variance(values_S, total_S * np.diff(splits))


def _boxes(tree: Any, bounds_D2: Floats) -> tuple[Floats, Floats]:
    """The ends of every node's box, a level of the tree at a time."""
    low, high = (np.repeat(bounds_D2[None, :, end], tree.node_count, axis=0) for end in (0, 1))
    level = np.array([0])
    while True:
        level = level[tree.feature[level] >= 0]
        if not len(level):
            return low, high
        column, threshold = tree.feature[level], tree.threshold[level]
        left, right = tree.children_left[level], tree.children_right[level]
        for child in (left, right):
            low[child], high[child] = low[level], high[level]
        high[left, column], low[right, column] = threshold, threshold
        level = np.concatenate([left, right])


def _variance(values: Floats, weights: Floats) -> float:
    mean = np.average(values, weights=weights)
    return float(np.average((values - mean) ** 2, weights=weights))

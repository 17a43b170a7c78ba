"""Paired racing over seeds: after each round, configurations that are worse than the best one are dropped.

References:
    Birattari et al., "A Racing Algorithm for Configuring Metaheuristics", GECCO 2002 (F-Race), with a one-sided paired
    Wilcoxon test against the best in place of Friedman's.

Differs: Holm's correction over the candidates of a round; no correction over rounds, as in F-Race, so that over a
whole race a good configuration is dropped more often than `alpha` says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from akdtune.records.ledger.judgements import Candidate

ENUMERATED = 14
"""With ties, 2^n sign patterns of up to so many seeds are enumerated; beyond, the normal approximation serves."""


def judged(values: Mapping[str, Sequence[float]], alpha: float) -> list[Candidate]:
    """Tests every configuration of a round against the one with the best mean (the first of equals).

    Args:
        values: by cell id, one number per seed, larger is better; the same seeds in the same order everywhere.
        alpha: level of all tests of the round together.

    Returns:
        The candidates in the order given.
    """
    means = {cell: fmean(of_cell) for cell, of_cell in values.items()}
    best = max(means, key=lambda cell: means[cell])
    p = {cell: worse_p(values[best], of_cell) for cell, of_cell in values.items() if cell != best}
    adjusted = holm(p)
    return [
        Candidate(cell, means[cell], p.get(cell), adjusted.get(cell), adjusted.get(cell, 1.0) <= alpha)
        for cell in values
    ]


def worse_p(best_S: Sequence[float], other_S: Sequence[float]) -> float:
    """P of the one-sided paired Wilcoxon test that `other` is worse than `best`, exact; equal pairs are left out.

    Args:
        best_S: one value per seed.
        other_S: of the same seeds.
    """
    from scipy import stats  # late: commands that only list trials do not wait for it

    differences = [best - other for best, other in zip(best_S, other_S, strict=True) if best != other]
    if not differences:
        return 1.0
    sizes = {abs(difference) for difference in differences}
    method: object = "exact"
    if len(sizes) < len(differences):
        few = len(differences) <= ENUMERATED
        method = stats.PermutationMethod(n_resamples=2 ** len(differences)) if few else "asymptotic"
    return float(stats.wilcoxon(differences, alternative="greater", method=method).pvalue)


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """P values after Holm's step-down correction over all of them."""
    adjusted: dict[str, float] = {}
    highest = 0.0
    for rank, name in enumerate(sorted(p, key=lambda name: p[name])):
        highest = max(highest, min(1.0, (len(p) - rank) * p[name]))
        adjusted[name] = highest
    return adjusted

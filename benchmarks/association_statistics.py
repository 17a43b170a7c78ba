"""Simulated verdicts of `analysis/diversity_accuracy.py`: false associations and Simpsons, power, coverage, other fits.

    python benchmarks/association_statistics.py [--quick] [--only NAME...]

Studies of four arms whose levels of diversity and accuracy differ, four headline measures, through the functions that
the report uses. One line per property: the number claimed, the simulated one, its Monte-Carlo standard error; "shown"
is what another rule would have said, or a known limit. Exit code 1 where a number is more than four standard errors on
the wrong side.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from math import sqrt
from typing import NamedTuple

import numpy as np
from paired_statistics import Row, row

from akdtune.reports.diversity.measured import HEADLINE, DiversityPanel, Relation, cell_means, relate
from akdtune.reports.diversity.verdict import ALPHA, Verdict, judge
from akdtune.statistics import association, mediation, mixed, robust
from akdtune.statistics.paired import holm
from akdtune.statistics.permutation import p_within_groups

# Shapes: C cells, N trials (C cells x S seeds), M measures.

ARMS = 4
DRAWS, TEST_DRAWS = 500, 999
"""Of the bootstrap and of the test: fewer than the report's 2,000 and 9,999."""
LEAST_POWER, LEAST_COVERAGE = 0.77, 0.92
"""Permutations with these draws have a little less than Fisher's .80; the bootstrap covers a little less than .95."""
LEAST_FURTHER = 0.90
"""Of intervals that stand beside the verdict."""
LEVELS = (0.0, 1.0, 2.5, 3.0)
"""Of arms, in standard deviations of diversity within one; accuracies fall with them, three times as fast."""


class Study(NamedTuple):
    """What a simulated study is like.

    Attributes:
        r: true correlation within arms of the first measure with accuracy, of cell means without seed noise.
        alike: correlation of each measure with the first within arms.
        spreads: of accuracy and diversity within each arm, alike in all arms by default.
        seeds: trials of a cell, whose seed noise has the variance of the cells' own.
        fanning: noise of accuracy that grows with diversity, exp(fanning * standardised diversity).
    """

    cells: int = 44
    r: float = 0.0
    alike: float = 0.0
    spreads: tuple[float, ...] = (1.0,) * ARMS
    seeds: int = 1
    fanning: float = 0.0


def simulated(rng: np.random.Generator, study: Study) -> DiversityPanel:
    arms_C = np.arange(study.cells) % ARMS
    spreads_C, levels_C = np.array(study.spreads)[arms_C], np.array(LEVELS)[arms_C]
    first_C1 = rng.normal(size=(study.cells, 1))
    own_CM = rng.normal(size=(study.cells, len(HEADLINE) - 1))
    x_CM = np.hstack([first_C1, study.alike * first_C1 + sqrt(1 - study.alike**2) * own_CM])
    noise_C = rng.normal(size=study.cells) * np.exp(study.fanning * x_CM[:, 0])
    y_C = spreads_C * (study.r * x_CM[:, 0] + sqrt(1 - study.r**2) * noise_C) - 3 * levels_C
    x_CM = spreads_C[:, None] * x_CM + levels_C[:, None]
    cells_N = np.repeat(np.arange(study.cells), study.seeds)
    y_N = y_C[cells_N] + (rng.normal(size=len(cells_N)) if study.seeds > 1 else 0.0)
    return DiversityPanel(
        "probe", "", False, [f"angular/{arms_C[cell]}" for cell in cells_N], [str(cell) for cell in cells_N], 70 + y_N,
        "validation", {measure: x_CM[cells_N, index] for index, measure in enumerate(HEADLINE)}, {}, {},
        seeds=(np.arange(len(cells_N)) % study.seeds).tolist(),
    )  # fmt: skip


def resolved(study: Study, replicates: int, seed: int) -> Iterator[list[bool]]:
    """Which measures of each study are resolved: the report's test without its intervals, which take long."""
    rng = np.random.default_rng(seed)
    for _ in range(replicates):
        panel = simulated(rng, study)
        means = cell_means(panel, list(HEADLINE), np.ones(len(panel.arms), bool))
        ps = p_within_groups(means.measures_CM, means.accuracy_C, means.arms, draws=TEST_DRAWS)
        yield [p_holm < ALPHA for p_holm, _ in holm([p if p is not None else 1.0 for p in ps])]


def verdicts(study: Study, replicates: int, seed: int, measures: Sequence[str] = tuple(HEADLINE)) -> Iterator[Verdict]:
    rng = np.random.default_rng(seed)
    for _ in range(replicates):
        yield judge(relate(simulated(rng, study), measures, draws=DRAWS))


def _signs_differ(relation: Relation) -> bool:
    pooled, within = relation.estimates["pooled"].pearson, relation.estimates["within_arm"].pearson
    return pooled is not None and within is not None and pooled.value * within.value < 0


UNRELATED = (
    ("24 cells", Study(24)),
    ("44 cells", Study()),
    ("44 cells, measures alike (r = .9)", Study(alike=0.9)),
    ("44 cells, arms spread 1 : 1 : 2 : 4", Study(spreads=(1.0, 1.0, 2.0, 4.0))),
    ("44 cells x 3 seeds", Study(seeds=3)),
)


def false_associations(replicates: int) -> Iterator[Row]:
    """Studies without any relation in which one of four measures is called associated."""
    for seed, (what, study) in enumerate(UNRELATED):
        hits = [any(of_study) for of_study in resolved(study, replicates, seed)]
        yield row(f"no relation, {what}: association", "at most", ALPHA, hits)
    hits = [any(of_study) for of_study in resolved(Study(fanning=0.5), replicates, 9)]
    yield _shown("r = 0, noise of accuracy grows with diversity: association", hits)


def intervals_and_signs(replicates: int) -> Iterator[Row]:
    """What intervals and signs alone say of studies without any relation, and Simpson as the report says it."""
    for seed, (what, study) in enumerate(UNRELATED[1:3]):
        said = list(verdicts(study, max(1, replicates // 8), seed))
        relations = [[measure.relation for measure in verdict.judged] for verdict in said]
        zero = [any(_excludes_zero(relation) for relation in of_study) for of_study in relations]
        yield _shown(f"no relation, {what}: one of four intervals excludes zero", zero)
        signs = [any(map(_signs_differ, of_study)) for of_study in relations]
        yield _shown(f"no relation, {what}: pooled sign differs from that within arms", signs)
        both = [any(relation.simpson() for relation in of_study) for of_study in relations]
        yield _shown(f"no relation, {what}: the same, both intervals exclude zero", both)
        turned = [any(measure.simpson for measure in verdict.judged) for verdict in said]
        yield row(f"no relation, {what}: the same, association resolved: Simpson", "at most", ALPHA, turned)


def power(replicates: int) -> Iterator[Row]:
    """How often one related measure among four is resolved; the others are unrelated, the worst case for Holm."""
    for cells, r in ((44, 0.5), (24, detectable(24)), (44, detectable(44)), (123, 0.3)):
        hits = [of_study[0] for of_study in resolved(Study(cells, r), replicates, cells)]
        yield row(f"one of four measures with r = {r:.2f}, {cells} cells: resolved", "at least", LEAST_POWER, hits)
    hits = [of_study[0] for of_study in resolved(Study(r=0.5, alike=0.9), replicates, 1)]
    yield row("r = 0.50 and the others alike (r = .9), 44 cells: resolved", "at least", LEAST_POWER, hits)


def detectable(cells: int) -> float:
    """What the verdict on so many cells of four arms and four measures says it would have found."""
    return association.detectable_correlation(cells - ARMS + 1, alpha=ALPHA / len(HEADLINE)) or 1.0


def coverage(replicates: int) -> Iterator[Row]:
    """Of the intervals of r and of the slope within arms (bias-corrected and accelerated bootstrap over cells)."""
    for cells, r in ((24, 0.5), (44, 0.0), (44, 0.5)):
        of_r, of_slope = [], []
        for verdict in verdicts(Study(cells, r), max(1, replicates // 4), cells, list(HEADLINE)[:1]):
            within = verdict.judged[0].relation.within
            assert within is not None and within.pearson is not None and within.slope is not None
            of_r.append((within.pearson.low or 0) <= r <= (within.pearson.high or 0))
            of_slope.append((within.slope.low or 0) <= r <= (within.slope.high or 0))
        yield row(f"interval of r within arms, {cells} cells, r = {r}: coverage", "at least", LEAST_COVERAGE, of_r)
        yield row(f"interval of the slope, {cells} cells, r = {r}: coverage", "at least", LEAST_COVERAGE, of_slope)


def further_fits(replicates: int) -> Iterator[Row]:
    """Of the other fits of the slope within arms, each by its own interval; the true slope is r."""
    measure, r = next(iter(HEADLINE)), 0.5
    for cells, seeds in ((24, 1), (24, 2), (44, 1)):
        rng, held = np.random.default_rng(cells + seeds), dict[str, list[bool]]()
        for _ in range(max(1, replicates // 8)):
            panel = simulated(rng, Study(cells, r, seeds=seeds))
            means = cell_means(panel, [measure], np.ones(len(panel.arms), bool))
            x_C, y_C = means.measures_CM[:, 0], means.accuracy_C
            levels = {"arms_N": panel.arms, "cells_N": panel.cells, "seeds_N": panel.seeds}
            of_trials = mixed.fit(panel.measures[measure], panel.accuracy, **levels)
            fits = {"Theil-Sen": robust.theil_sen(x_C, y_C, means.arms), "Huber": robust.huber(x_C, y_C, means.arms)}
            fits["the mixed model"] = None if isinstance(of_trials, str) else of_trials.between_cells
            for name, fit in fits.items():
                there = fit is not None and not isinstance(fit, str) and fit.low is not None and fit.high is not None
                covered = there and fit.low <= r <= fit.high
                held.setdefault(name, []).append(covered)
        for name, of_fit in held.items():
            yield row(f"slope by {name}, {cells} cells x {seeds}, r = {r}: coverage", "at least", LEAST_FURTHER, of_fit)


def paths(replicates: int) -> Iterator[Row]:
    """Of the path through a third variable: a and b are its slopes in units of one standard deviation, 44 cells."""
    arms = [f"angular/{cell % ARMS}" for cell in range(44)]
    for a, b in ((0.0, 0.0), (0.7, 0.0), (0.0, 0.7), (0.7, 0.7)):
        rng, hits = np.random.default_rng(7), []
        for _ in range(max(1, replicates // 4)):
            x_C, m_C, y_C = rng.normal(size=(3, 44))
            m_C, y_C = a * x_C + m_C, 0.3 * x_C + b * (a * x_C + m_C) + y_C
            found = mediation.mediation(x_C, m_C, y_C, range(44), association.dummies(arms), draws=DRAWS)
            assert not isinstance(found, str) and found.indirect.low is not None and found.indirect.high is not None
            hits.append(found.indirect.low <= a * b <= found.indirect.high)
        yield row(f"path of a = {a}, b = {b}: coverage of a x b", "at least", LEAST_FURTHER, hits)


def _excludes_zero(relation: Relation) -> bool:
    pearson = relation.estimates["within_arm"].pearson
    return pearson is not None and pearson.excludes_zero


def _shown(what: str, hits: list[bool]) -> Row:
    return row(what, "shown", float(np.mean(hits)), hits)


SIMULATIONS: tuple[Callable[[int], Iterator[Row]], ...] = (
    false_associations, intervals_and_signs, power, coverage, further_fits, paths,
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="200 studies instead of 2,000")
    parser.add_argument("--only", nargs="+", choices=[of.__name__ for of in SIMULATIONS], help="some of the properties")
    arguments = parser.parse_args()
    replicates = 200 if arguments.quick else 2_000
    start, missed = time.perf_counter(), 0
    print(f"{'what':75} {'':9}{'claimed':>8} {'simulated':>9} {'MC error':>8}")
    for simulate in (of for of in SIMULATIONS if arguments.only is None or of.__name__ in arguments.only):
        for outcome in simulate(replicates):
            missed += not outcome.holds
            claimed = f"{outcome.nominal:8.3f}" if outcome.relation != "shown" else f"{'':8}"
            print(f"{outcome.what:75} {outcome.relation:9}{claimed} {outcome.simulated:9.3f} "
                  f"{outcome.error:8.3f}{'' if outcome.holds else '  MISSED'}", flush=True)  # fmt: skip
    took = f"{time.perf_counter() - start:.0f} s"
    print(f"{replicates} studies, for intervals an eighth or a quarter of them; {took}, missed: {missed}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

"""Simulated error rates, power and coverage of comparisons within teachers, as `akdtune analyze transfer` makes them.

    python benchmarks/transfer_statistics.py [--quick]

One line per property: the number claimed, the simulated one, its Monte-Carlo standard error; "shown" is what another
rule would have said, or a known limit. Exit code 1 where a number is more than four standard errors on the wrong side.

A student's value is that of its teacher's block, of its seed and noise; students and their controls share seeds.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from math import sqrt
from typing import NamedTuple

import numpy as np
from paired_statistics import Row, row
from scipy.special import ndtr

from akdtune.statistics.blocks import Groups, mean_difference, rank_test

# Shapes: B teachers, N students of a cell.

LEVELS = (0.0, 4.0, -3.0)
"""Of teachers, in standard deviations of students."""


class Design(NamedTuple):
    """What simulated students are like.

    Attributes:
        students: of each cell and teacher.
        teachers: blocks.
        shift: of the cell, in standard deviations of students.
        alike: correlation of a student and its control, which share a seed.
        same: correlation of a seed's values over teachers, where studies share their seeds; 0: they do not.
        step: values are multiples of it, as shares of few images are; 0: they are not.
    """

    students: int = 10
    teachers: int = 1
    shift: float = 0.0
    alike: float = 0.0
    same: float = 0.0
    step: float = 0.0

    @property
    def superiority(self) -> float:
        """How likely a student has a larger value than another student's control."""
        return float(ndtr(self.shift / sqrt(2)))


def simulated(rng: np.random.Generator, design: Design) -> list[Groups]:
    """Cell and control of every teacher by seed."""
    shape = (2, design.teachers, design.students)
    noise = sqrt(design.same) * rng.normal(size=(2, 1, design.students))
    noise = noise + sqrt(1 - design.same) * rng.normal(size=shape)
    common = rng.normal(size=shape[1:])
    values = sqrt(design.alike) * common + sqrt(1 - design.alike) * noise + np.array(LEVELS[: design.teachers])[:, None]
    values[0] += design.shift
    if design.step:
        values = np.round(values / design.step) * design.step
    first = [100 * (0 if design.same else block) for block in range(design.teachers)]
    return [
        Groups(*(dict(enumerate(map(float, values[side, block]), start)) for side in (0, 1)))
        for block, start in enumerate(first)
    ]


def rejected(replicates: int, seed: int, design: Design, *, independent: bool = True) -> list[bool]:
    rng = np.random.default_rng(seed)
    tests = (rank_test(simulated(rng, design), independent=independent) for _ in range(replicates))
    return [test.p is not None and test.p <= 0.05 for test in tests]


def errors(replicates: int) -> Iterator[Row]:
    """One-sided tests at .05 where there is nothing to be found."""
    for n in (5, 10):
        yield row(f"no effect, {n} students: rejected", "at most", 0.05, rejected(replicates, n, Design(n)))
    for what, design in (
        ("no effect, ties", Design(step=0.5)),
        ("no effect, seeds alike (r = .5)", Design(alike=0.5)),
        ("no effect, three teachers", Design(teachers=3)),
    ):
        yield row(f"{what}: rejected", "at most", 0.05, rejected(replicates, 1, design))
    shared = Design(teachers=3, same=0.9)
    hits = rejected(replicates, 2, shared)
    yield row("no effect, three teachers, the same seeds: as if independent", "shown", 0.15, hits)
    hits = rejected(replicates, 2, shared, independent=False)
    yield row("the same, twice the mean p: rejected", "at most", 0.05, hits)


def power(replicates: int) -> Iterator[Row]:
    """What ten students a cell show."""
    for teachers, expected in ((1, 0.65), (3, 0.98)):
        hits = rejected(replicates, 3, Design(teachers=teachers, shift=1.0))
        yield row(f"a shift of one sd, ten students, {teachers} teacher(s): power", "shown", expected, hits)


def coverage(replicates: int) -> Iterator[Row]:
    """Of the intervals that stand beside the tests."""
    designs = [Design(n, shift=shift) for n in (5, 10) for shift in (0.0, 1.0, 2.0, 3.0)]
    designs += [Design(5, teachers=3, shift=shift) for shift in (0.0, 2.0)]
    for design in designs:
        rng = np.random.default_rng(design.students)
        covered, held = [], []
        for _ in range(replicates // 4):
            groups = simulated(rng, design)
            test, means = rank_test(groups), mean_difference(groups)
            covered.append((test.low or 0.0) <= design.superiority <= (1.0 if test.high is None else test.high))
            held.append((means.low or 0.0) <= design.shift <= (means.high or 0.0))
        what = f"{design.teachers} teacher(s), {design.students} students, P(more) {design.superiority:.3f}"
        yield row(f"{what}: coverage", "at least", 0.94, covered)
        yield row(f"{what}: coverage of the difference", "at least", 0.95, held)


SIMULATIONS: tuple[Callable[[int], Iterator[Row]], ...] = (errors, power, coverage)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="1,000 replicates instead of 8,000")
    replicates = 1_000 if parser.parse_args().quick else 8_000
    start, missed = time.perf_counter(), 0
    print(f"{'what':68} {'':9}{'claimed':>8} {'simulated':>9} {'MC error':>8}")
    for simulate in SIMULATIONS:
        for outcome in simulate(replicates):
            missed += not outcome.holds
            print(f"{outcome.what:68} {outcome.relation:9}{outcome.nominal:8.4f} {outcome.simulated:9.4f} "
                  f"{outcome.error:8.4f}{'' if outcome.holds else '  MISSED'}", flush=True)  # fmt: skip
    print(f"{replicates} replicates, coverage {replicates // 4}; {time.perf_counter() - start:.0f} s, missed: {missed}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

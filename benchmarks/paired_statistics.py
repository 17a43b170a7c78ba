"""Simulated coverage, error rates and power of the paired statistics, through the functions that reports use.

    python benchmarks/paired_statistics.py [--quick] [--replicates N] [--only NAME ...]

One line per property: the number claimed, the simulated one, its Monte-Carlo standard error. "at least" and "at most"
are bounds, "equal" is a number to be met, "shown" one that is known and is why a rule stands. Exit code 1 where a
simulated number is more than four standard errors on the wrong side.

Values are seed effect + cell effect + noise, as accuracies are: cells share seeds, comparisons share a reference.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from math import sqrt
from typing import Literal, NamedTuple

import numpy as np
import scipy.special
import scipy.stats

from akdtune.reports.ablation.seed_words import rounded_up
from akdtune.statistics import paired
from akdtune.statistics.effects import contrasts, crossed_bootstrap
from akdtune.statistics.noise_floor import noise_floor, pairing_share
from akdtune.statistics.paired import Difference, holm_family
from akdtune.statistics.power import minimum_detectable, more_seeds, required_seeds, seeds_needed

# Shapes: R replicates, N seeds, M differences of a family.

NOISE = sqrt(0.5)  # of each cell: per-seed differences have sd 1
WRONG_SIDE = 4.0


class Row(NamedTuple):
    """One simulated property."""

    what: str
    relation: Literal["equal", "at least", "at most", "shown"]
    nominal: float
    simulated: float
    error: float

    @property
    def holds(self) -> bool:
        """Whether the simulated number is within the Monte-Carlo error of what is claimed."""
        off, reach = self.simulated - self.nominal, WRONG_SIDE * self.error
        return (off <= reach or self.relation == "at least") and (off >= -reach or self.relation == "at most")


def row(what: str, relation: Literal["equal", "at least", "at most", "shown"], nominal: float, hits: list[bool]) -> Row:
    share = float(np.mean(hits))
    return Row(what, relation, nominal, share, sqrt(max(nominal * (1 - nominal), share * (1 - share)) / len(hits)))


def cells(rng: np.random.Generator, n: int, effects: tuple[float, ...]) -> list[dict[int, float]]:
    """Reference and one cell per effect, by seed; accuracies near 70 with a common seed effect of sd 1."""
    values = 70 + rng.normal(size=n) + NOISE * rng.normal(size=(1 + len(effects), n))
    values[1:] += np.array(effects)[:, None]
    return [dict(enumerate(map(float, cell))) for cell in values]


def differences(rng: np.random.Generator, n: int, effects: tuple[float, ...]) -> list[Difference]:
    """As `paired_difference`, less the tests that stand beside t, which take longer than all else."""
    return compared(gains(rng, n, effects))


def gains(rng: np.random.Generator, n: int, effects: tuple[float, ...]) -> np.ndarray:
    """Per-seed differences from the reference, [M, N]."""
    reference, *others = (np.array(list(cell.values())) for cell in cells(rng, n, effects))
    return np.asarray(np.array(others) - reference)


def compared(gains_MN: np.ndarray) -> list[Difference]:
    """The paired t test of each row."""
    n = gains_MN.shape[1]
    means_M, sds_M = gains_MN.mean(axis=1), gains_MN.std(axis=1, ddof=1)
    ps_M = 2 * scipy.special.stdtr(n - 1, -np.abs(means_M) * sqrt(n) / sds_M)
    return [
        Difference(n, tuple(range(n)), float(mean), float(sd), p=float(p))
        for mean, sd, p in zip(means_M, sds_M, ps_M, strict=True)
    ]


def t_coverage(replicates: int) -> Iterator[Row]:
    for n in (5, 8, 20):
        rng = np.random.default_rng(n)
        hits = []
        for _ in range(replicates):
            reference, cell = cells(rng, n, (0.5,))
            summary = paired.cell_summary([cell[seed] - reference[seed] for seed in reference])
            hits.append((summary.ci_low or 0.0) <= 0.5 <= (summary.ci_high or 0.0))
        yield row(f"t interval, n = {n}: coverage", "equal", 0.95, hits)


def percentile_coverage(replicates: int) -> Iterator[Row]:
    for n, expected in ((5, 0.84), (15, 0.92)):
        rng = np.random.default_rng(n)
        hits = []
        for _ in range(replicates):
            gains_N = rng.normal(size=n)
            means = gains_N[rng.integers(0, n, (1000, n))].mean(axis=1)
            low, high = np.percentile(means, [2.5, 97.5])
            hits.append(low <= 0 <= high)
        yield row(f"percentile bootstrap, n = {n}: coverage (nominal .95)", "shown", expected, hits)


def bca_coverage(replicates: int) -> Iterator[Row]:
    rng = np.random.default_rng(15)
    hits = []
    for _ in range(replicates // 10):
        reference, cell = cells(rng, 15, (0.0,))
        difference = paired.paired_difference(cell, reference)
        hits.append((difference.bootstrap_low or 0.0) <= 0 <= (difference.bootstrap_high or 0.0))
    yield row("BCa bootstrap, n = 15: coverage (nominal .95)", "shown", 0.92, hits)


def families(replicates: int) -> Iterator[Row]:
    """Five differences that share a reference: family-wise error and simultaneous coverage."""
    rows = (
        ("no effects", 5, (0.0,) * 5),
        ("no effects", 8, (0.0,) * 5),
        ("no effects", 20, (0.0,) * 5),
        ("two large effects", 5, (6.0, -6.0, 0.0, 0.0, 0.0)),
        ("two large effects", 8, (3.0, -3.0, 0.0, 0.0, 0.0)),
        ("two large effects", 20, (2.0, -2.0, 0.0, 0.0, 0.0)),
        ("four effects that just show", 5, (2.6, 2.6, 2.6, 2.6, 0.0)),
        ("four effects that just show", 8, (1.6, 1.6, 1.6, 1.6, 0.0)),
        ("four effects that just show", 20, (0.85, 0.85, 0.85, 0.85, 0.0)),
    )
    for seed, (what, n, effects) in enumerate(rows):
        rng = np.random.default_rng(seed)
        wrong, cover = [], []
        for _ in range(replicates):
            family = holm_family(differences(rng, n, effects))
            ends = [(member.ci_family_low or 0.0, member.ci_family_high or 0.0) for member in family]
            wrong.append(any(f.rejected for f, effect in zip(family, effects, strict=True) if not effect))
            cover.append(all(low <= effect <= high for (low, high), effect in zip(ends, effects, strict=True)))
        yield row(f"Holm, n = {n}, {what}: family-wise error", "at most", 0.05, wrong)
        yield row(f"Bonferroni, n = {n}, {what}: simultaneous coverage", "at least", 0.95, cover)


def max_t(replicates: int) -> Iterator[Row]:
    """Why simultaneous intervals are Bonferroni's: max-t for ten differences with the correlations of the seeds.

    `multivariate t` takes the quantile of one, with a common variance; `own variances` that of t values, each over its
    own spread, drawn with the same correlations. Both from 999 draws per replicate.
    """
    for n, expected in ((5, (0.88, 0.94)), (8, (0.92, 0.95)), (20, (0.94, 0.95))):
        rng = np.random.default_rng(n)
        for name, nominal, hits in zip(
            ("multivariate t", "own variances"), expected,
            zip(*(_max_t_covers(rng, n, 10) for _ in range(max(replicates // 10, 1))), strict=True), strict=True,
        ):  # fmt: skip
            yield row(f"max-t, {name}, n = {n}: coverage (nominal .95)", "shown", nominal, list(hits))


def _max_t_covers(rng: np.random.Generator, n: int, size: int) -> tuple[bool, bool]:
    """Whether 0 lies in every max-t interval of a family without effects, in both forms."""
    gains_NM = rng.normal(size=(n, 1)) + rng.normal(size=(n, size))
    residuals_NM = gains_NM - gains_NM.mean(axis=0)
    residuals_NM /= np.sqrt((residuals_NM**2).sum(axis=0))  # their products are the correlations
    largest = _largest_t(gains_NM)
    common_D = np.abs(rng.normal(size=(999, n)) @ residuals_NM).max(axis=1)
    common_D /= np.sqrt(rng.chisquare(n - 1, 999) / (n - 1))
    own_D = _largest_t(rng.normal(size=(999, n, n)) @ residuals_NM)
    return bool(largest <= np.sort(common_D)[949]), bool(largest <= np.sort(own_D)[949])


def _largest_t(gains_DNM: np.ndarray) -> np.ndarray:
    n = gains_DNM.shape[-2]
    t_DM = gains_DNM.mean(axis=-2) * sqrt(n) / gains_DNM.std(axis=-2, ddof=1)
    return np.asarray(np.abs(t_DM).max(axis=-1))


def power(replicates: int) -> Iterator[Row]:
    for n in (5, 8, 20):
        rng = np.random.default_rng(n)
        effect = minimum_detectable(1.0, n) or 0.0
        hits = [(differences(rng, n, (effect,))[0].p or 0.0) < 0.05 for _ in range(replicates)]
        yield row(f"power at the minimum detectable difference, n = {n}", "equal", 0.8, hits)
        effect = minimum_detectable(1.0, n, alpha=0.05 / 5) or 0.0
        hits = [holm_family(differences(rng, n, (effect, *(0.0,) * 4)))[0].rejected for _ in range(replicates)]
        yield row(f"the same among five comparisons, by Holm, n = {n}", "at least", 0.8, hits)
    n = seeds_needed(1.0, 1.0)
    rng = np.random.default_rng(n)
    hits = [(differences(rng, n, (1.0,))[0].p or 0.0) < 0.05 for _ in range(replicates)]
    yield row(f"power with the {n} seeds needed", "at least", 0.8, hits)
    hits = [(differences(rng, n - 1, (1.0,))[0].p or 0.0) < 0.05 for _ in range(replicates)]
    yield row("power with one seed less", "at most", 0.8, hits)


def further_seeds(replicates: int) -> Iterator[Row]:
    """What comes of "needs about m more seeds": studies of five comparisons that did not resolve the first go on.

    Its true difference is the one to be resolved, .5 sd, the others are 0; Holm judges all seeds together.
    """
    resolve, size = 0.5, 5
    need = seeds_needed(1.0, resolve, alpha=0.05 / size)
    for n, expected in ((5, (0.40, 0.70, 0.18, 0.51)), (8, (0.46, 0.75, 0.15, 0.54)), (20, (0.46, 0.75, 0.07, 0.45))):
        rng = np.random.default_rng(n)
        totals: dict[str, list[int]] = {"upper end": [], "lower end": [], "uncorrected, from their own sd": []}
        hits: dict[str, list[bool]] = {name: [] for name in totals}
        for _ in range(max(replicates // 4, 1)):
            gains_MN = gains(rng, n, (resolve, *(0.0,) * (size - 1)))
            sd = float(gains_MN[0].std(ddof=1))
            fewest, most = more_seeds(sd, n, resolve, alpha=0.05 / size) or (0, 0)
            printed = (n + rounded_up(most), n + rounded_up(fewest), max(n, seeds_needed(sd, resolve)))
            for name, total in zip(totals, printed, strict=True):
                totals[name].append(total)
            if holm_family(compared(gains_MN))[0].rejected:
                continue
            more_MN = gains(rng, max(printed) - n, (resolve, *(0.0,) * (size - 1)))
            every_MN = np.concatenate([gains_MN, more_MN], axis=1)
            for name, total in zip(totals, printed, strict=True):
                hits[name].append(holm_family(compared(every_MN[:, :total]))[0].rejected)
        shown = iter(expected)
        for name in totals:
            kind: Literal["at least", "shown"] = "at least" if name == "upper end" else "shown"
            reached = [total >= need for total in totals[name]]
            aims = (0.8, 0.8) if name == "upper end" else (next(shown), next(shown))
            yield row(f"further seeds, n = {n}, {name}: studies with power .8", kind, aims[0], reached)
            yield row(f"further seeds, n = {n}, {name}: power", kind, aims[1], hits[name])


def pilots(replicates: int) -> Iterator[Row]:
    """How often a pilot's answer suffices: the upper limit of its variance against the variance itself."""
    need = seeds_needed(1.0, 0.5)
    for n in (4, 8):
        rng = np.random.default_rng(n)
        pilots_RN = rng.normal(size=(replicates, n))
        asked = [required_seeds(pilot_N, 0.5) for pilot_N in pilots_RN[: max(replicates // 4, 1)]]
        yield row(f"pilot of {n}: asks for enough seeds", "at least", 0.8, [required.n >= need for required in asked])
        plain = [seeds_needed(required.sd, 0.5) >= need for required in asked]
        yield row(f"pilot of {n}, its own sd: asks for enough", "shown", {4: 0.39, 8: 0.43}[n], plain)


def equivalence(replicates: int) -> Iterator[Row]:
    for n, margin in ((5, 3.0), (8, 2.0), (20, 1.0)):
        rng = np.random.default_rng(n)
        judgements = [paired.equivalence(differences(rng, n, (margin,))[0], margin) for _ in range(replicates)]
        hits = [judgement.verdict == "equivalent" for judgement in judgements]
        yield row(f"TOST at its margin, n = {n}: called equivalent", "equal", 0.05, hits)


def sign_flips(replicates: int) -> Iterator[Row]:
    for n in (6, 8):
        rng = np.random.default_rng(n)
        pairs = (cells(rng, n, (0.0,)) for _ in range(replicates))
        hits = [(paired.paired_difference(*pair).permutation_p or 0.0) <= 0.05 for pair in pairs]
        exact = np.floor(0.05 * 2 ** (n - 1)) / 2 ** (n - 1)
        yield row(f"sign flips, n = {n}: error at .05", "equal", float(exact), hits)


def factorial(
    rng: np.random.Generator, n: int, slope_sd: float
) -> tuple[dict[str, dict[int, float]], dict[str, dict[str, int]]]:
    """A 2 x 2 design with effects .5 and 0; the first factor's effect varies with the seed."""
    seeds_N, slopes_N = rng.normal(size=n), 0.5 + slope_sd * rng.normal(size=n)
    values: dict[str, dict[int, float]] = {}
    levels: dict[str, dict[str, int]] = {}
    for a in (0, 1):
        for b in (0, 1):
            own_N = 70 + seeds_N + a * slopes_N + 0.3 * rng.normal(size=n)
            values[f"{a}{b}"] = dict(enumerate(map(float, own_N)))
            levels[f"{a}{b}"] = {"a": a, "b": b}
    return values, levels


def effects(replicates: int) -> Iterator[Row]:
    """Coverage of main effects and an interaction, complete and with one value missing."""
    for n, lacks, share in ((5, False, 4), (5, True, 4), (12, False, 40), (12, True, 40)):
        rng = np.random.default_rng(n)
        hits, forms = [], set()
        for _ in range(replicates // share):
            # Pooled rows take all contrasts to vary alike; the other forms do not.
            values, levels = factorial(rng, n, 0.0 if lacks and n < 10 else 0.5)
            if lacks:
                del values["11"][0]
            estimated = contrasts(values, levels)
            forms.add(estimated[0].form)
            hits += [
                (f.ci_low or 0) <= true <= (f.ci_high or 0) for f, true in zip(estimated, (0.5, 0, 0), strict=True)
            ]
        form = max(forms, key=len) if len(forms) == 1 else " or ".join(sorted(forms))
        yield row(f"effects, n = {n}{', one missing' * lacks} ({form}): coverage", "equal", 0.95, hits)


def crossed(replicates: int) -> Iterator[Row]:
    """Seeds and images drawn anew; the true difference is that of all seeds and images."""
    for seeds in (5, 20):
        rng = np.random.default_rng(seeds)
        hits = []
        for _ in range(replicates // 20):
            ease_I, gain_I = rng.normal(0.6, 1, 500), rng.normal(0, 0.6, 500)
            skill_S = rng.normal(0, 0.1, (2, seeds, 1))
            noise = rng.normal(size=(2, seeds, 500))
            low, high = crossed_bootstrap(
                ease_I + gain_I + skill_S[0] > noise[0], ease_I + skill_S[1] > noise[1], draws=300
            )
            hits.append(low <= _crossed_truth() <= high)
        yield row(f"crossed bootstrap, {seeds} seeds: coverage", "at least", 0.95, hits)


def _crossed_truth() -> float:
    """Points: probit with the variances added up."""
    cell, reference = (scipy.stats.norm.cdf(0.6 / sqrt(1 + 1 + 0.01 + extra)) for extra in (0.36, 0.0))
    return 100 * float(cell - reference)


def noise_floors(replicates: int) -> Iterator[Row]:
    rng, replicates = np.random.default_rng(12), max(200, replicates // 10)
    for n in (5, 8, 20):
        floors, within, covers = [], [], []
        for _ in range(replicates):
            floor = noise_floor([cells(rng, n, (0.0,))])
            assert floor is not None and floor.sd_low is not None and floor.sd_high is not None
            floors.append(floor)
            covers.append(floor.sd_low <= 1 <= floor.sd_high)
            within.append(abs(float(rng.normal(0, 1 / sqrt(n)))) <= floor.reach(n))
        yield row(f"noise floor, n = {n}: holds what two runs differ by", "equal", 0.95, within)
        yield row(f"noise floor, n = {n}: coverage of its sd", "equal", 0.95, covers)
    share = 1 - 1 / 3  # cells have variance 1.5, their differences 1
    for n, comparisons in ((5, 1), (5, 5), (8, 5), (20, 5)):
        covered = []
        for _ in range(replicates):
            reference, *others = cells(rng, n, (0.0,) * comparisons)
            paired_share = pairing_share([(cell, reference) for cell in others])
            assert paired_share is not None and paired_share.low is not None and paired_share.high is not None
            covered.append(paired_share.low <= share <= paired_share.high)
        yield row(
            f"share that pairing removes, n = {n}, {comparisons} comparisons: coverage", "at least", 0.93, covered
        )


SIMULATIONS: tuple[Callable[[int], Iterator[Row]], ...] = (
    t_coverage, percentile_coverage, bca_coverage, sign_flips, families, max_t, power,
    further_seeds, pilots, equivalence, effects, crossed, noise_floors,
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--replicates", type=int, default=20_000, metavar="N", help="default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="2,000 replicates")
    names = [simulate.__name__ for simulate in SIMULATIONS]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    arguments = parser.parse_args()
    replicates = 2_000 if arguments.quick else arguments.replicates
    start, missed = time.perf_counter(), 0
    print(f"{'what':68} {'':9}{'claimed':>8} {'simulated':>9} {'MC error':>8}")
    for simulate in (simulate for simulate in SIMULATIONS if simulate.__name__ in arguments.only):
        for outcome in simulate(replicates):
            missed += not outcome.holds
            print(f"{outcome.what:68} {outcome.relation:9}{outcome.nominal:8.4f} {outcome.simulated:9.4f} "
                  f"{outcome.error:8.4f}{'' if outcome.holds else '  MISSED'}", flush=True)  # fmt: skip
    print(f"{replicates} replicates (slow simulations fewer), {time.perf_counter() - start:.0f} s, missed: {missed}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

"""Which arm leads, by which phase, and whether that is more than luck: one sentence, and what is left unresolved."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from akdtune.metric import ACCURACY, Metric
from akdtune.reports.ablation.findings import Finding
from akdtune.reports.ablation.measured import MeasuredCell
from akdtune.reports.ablation.tables import Result, said_of
from akdtune.reports.standing.arms import PHASES, Configuration
from akdtune.reports.text import counted, interval, number, probability, signed
from akdtune.statistics.paired import Difference, InFamily, holm_family, paired_difference
from akdtune.statistics.unpaired import welch_difference

BY = {"search": "search", "probe": "probes"}

MARGIN = 0.3
"""Points that a comparison without a margin of its own is to resolve, as in the reports."""


@dataclass(frozen=True)
class Unresolved:
    """The comparison that keeps a leader from being more than luck.

    Attributes:
        phase: confirm, ablation or search.
        sd, n: standard deviation of its paired differences, and how many there are.
        alpha: the level at which it is judged: that of its family over the family's size.
        resolve: points.
    """

    phase: str
    sd: float
    n: int
    alpha: float
    resolve: float


@dataclass(frozen=True)
class Leader:
    """Which arm or cell leads.

    Attributes:
        name: of the arm or of the cell; empty where nothing can be said yet.
        phase: whose numbers say so: confirm, ablation, search or probe; empty where none do.
        resolved: whether it is more than luck; None where nothing can tell.
        sentence: all of this in words.
        open: what more seeds may resolve; None where nothing is open or where seeds do not help.
    """

    name: str
    phase: str
    resolved: bool | None
    sentence: str
    open: Unresolved | None = None


# -------------------------------------------------------------------------------------------- cells with a reference


def of_result(result: Result) -> Leader | None:
    """The leading cell of a confirmation or an ablation; None where no cell has a finished trial.

    Cells that repeat another one do not lead: they are its second measurement.
    """
    phase = result.phase
    cells = [cell for cell in phase.cells if cell.values and cell.replica_of is None]
    if not cells:
        return None
    ranked = sorted(cells, key=lambda cell: -_mean(cell))
    first = ranked[0]
    sign = " %" if phase.in_percent else ""
    control = ", a control," if first.is_control and phase.name == "ablation" and first.name != phase.reference else ""
    head = (
        f"{first.name}{control} leads by the {PHASES[phase.name]}, mean {phase.metric.replace('_', ' ')} "
        f"{number(_mean(first))}{sign} over {counted(len(first.values), 'seed')}{_so_far(result)}"
    )
    if len(ranked) == 1:
        return Leader(first.name, phase.name, None, f"{head}; no other cell has finished a trial yet")
    values = {cell.name: cell.values for cell in cells}
    own = result.finding(first)
    if phase.reference is None:
        return _among(first.name, values, phase.name, head, result.alpha, result.unit)
    if own is not None:
        return _against_reference(result, first, own, ranked[1], values, head)
    return _reference_leads(result, first, ranked[1:], head)


def _so_far(result: Result) -> str:
    missing = result.phase.missing
    return f" (so far; {counted(missing, 'trial')} to come)" if missing else ""


def _mean(cell: MeasuredCell) -> float:
    return fmean(cell.values.values())


def _against_reference(
    result: Result,
    first: MeasuredCell,
    own: Finding,
    second: MeasuredCell,
    values: Mapping[str, Mapping[int, float]],
    head: str,
) -> Leader:
    """A cell leads that is compared with the reference: by its finding, and beside it the cell that follows."""
    resolved = own.judged == "higher"
    said = said_of(result, own).removeprefix(f"{first.name}: ").removeprefix("not resolved").lstrip(", ")
    word = {"higher": "resolved", "equivalent": "equivalent, so not resolved"}.get(own.judged, "not resolved")
    sentence = f"{head}; {word} against {own.reference} ({said})"
    if second.name != own.reference:
        after = _comparisons(first.name, values, result.alpha)[second.name]
        sentence += f"; {_word(after[1])} against {second.name}, which follows ({_numbers(*after, result.unit)})"
        resolved = resolved and after[1].rejected
    unresolved = None
    if not resolved and own.difference.sd and own.judged in ("not resolved", "equivalent"):
        alpha = result.alpha / max(own.family, 1)
        unresolved = Unresolved(result.phase.name, own.difference.sd, own.difference.n_pairs, alpha, own.resolve)
    return Leader(first.name, result.phase.name, resolved, sentence, unresolved)


def _reference_leads(result: Result, first: MeasuredCell, others: Sequence[MeasuredCell], head: str) -> Leader:
    findings = [found for cell in others if (found := result.finding(cell)) is not None]
    lower = [found for found in findings if found.judged == "lower"]
    left = [found for found in findings if found.judged != "lower"]
    parts = []
    if lower:
        parts.append("resolved against " + ", ".join(f"{found.cell.name} ({_short(found)})" for found in lower))
    if left:
        nearest = left[0]
        among = nearest.cell.name if len(left) == 1 else f"{len(left)} others, {nearest.cell.name} first"
        parts.append(f"not resolved against {among} ({_short(nearest)})")
    if not findings:
        parts.append("nothing it could be compared with has finished")
    unresolved = None
    if left and left[0].difference.sd:
        alpha = result.alpha / max(left[0].family, 1)
        difference = left[0].difference
        unresolved = Unresolved(result.phase.name, difference.sd or 0.0, difference.n_pairs, alpha, left[0].resolve)
    sentence = f"{head.replace(' leads', ', the reference, leads', 1)}; {'; '.join(parts)}"
    return Leader(first.name, result.phase.name, bool(findings) and not left, sentence, unresolved)


def _short(finding: Finding) -> str:
    """`−13.40 points, simultaneous [−20.97, −5.83], Holm p = .006`."""
    if finding.difference.difference is None:
        return "no pair"
    parts = [f"{signed(finding.difference.difference)} points"]
    if finding.low is not None:
        parts.append(f"{'simultaneous ' if finding.within is not None else ''}{interval(finding.low, finding.high)}")
    if finding.within is not None and finding.within.p_holm is not None:
        parts.append(f"Holm p {_equals(finding.within.p_holm)}")
    return ", ".join(parts)


# ------------------------------------------------------------------------------------------------ arms over seeds


def of_repeated(
    values: Mapping[str, Mapping[int, float]], alpha: float = 0.05, metric: Metric = ACCURACY
) -> Leader | None:
    """The leading arm of a search whose arms are one configuration of several seeds each; None for fewer than two."""
    known = {name: of_arm for name, of_arm in values.items() if of_arm}
    if len(known) < 2:
        return None
    first = max(known, key=lambda name: fmean(known[name].values()))
    head = (
        f"{first} leads by the search, mean val {metric.words} {number(fmean(known[first].values()))} % over "
        f"{counted(len(known[first]), 'seed')}, one configuration an arm"
    )
    return _among(first, known, "search", head, alpha, "points")


def _among(
    first: str, values: Mapping[str, Mapping[int, float]], phase: str, head: str, alpha: float, unit: str
) -> Leader:
    """A leader without a reference: it is compared with every other, and is resolved where it beats them all."""
    compared = _comparisons(first, values, alpha)
    left = {name: pair for name, pair in compared.items() if not pair[1].rejected}
    beaten = len(compared) - len(left)
    parts = []
    if beaten:
        of_others = "every other" if not left else f"{beaten} of {counted(len(compared), 'other')}"
        parts.append(f"resolved against {of_others}")
    unresolved = None
    if left:
        nearest = max(left, key=lambda name: fmean(values[name].values()))
        difference, within = left[nearest]
        parts.append(f"not resolved against {nearest} ({_numbers(difference, within, unit)})")
        if difference.sd:
            share = 2 * alpha / len(values) / max(len(compared), 1)
            unresolved = Unresolved(phase, difference.sd, difference.n_pairs, share, MARGIN)
    return Leader(first, phase, not left, f"{head}; {'; '.join(parts)}", unresolved)


def _comparisons(
    first: str, values: Mapping[str, Mapping[int, float]], alpha: float
) -> dict[str, tuple[Difference, InFamily]]:
    """The leader against every other, paired by seed.

    Which cell leads is not known beforehand, so that each of k could have been the one that is compared with the k - 1
    others: Holm's family is judged at 2 alpha / k, as only a higher mean makes a leader, and p is scaled alike.
    """
    names = [name for name in values if name != first]
    differences = [paired_difference(values[first], values[name], beside=False) for name in names]
    level = 2 * alpha / len(values) if len(values) > 2 else alpha
    family = holm_family(differences, alpha=level)
    scale = alpha / level
    scaled = [
        InFamily(
            None if member.p_holm is None else min(1.0, member.p_holm * scale), member.ci_family_low,
            member.ci_family_high, member.rejected, member.permutation_note,
        )
        for member in family
    ]  # fmt: skip
    return dict(zip(names, zip(differences, scaled, strict=True), strict=True))


def _numbers(difference: Difference, within: InFamily, unit: str) -> str:
    if difference.difference is None:
        return "no common seed"
    if difference.n_pairs < 2:
        return f"{signed(difference.difference)} {unit}, one common seed"
    parts = [f"{signed(difference.difference)} {unit}"]
    if within.ci_family_low is not None and difference.sd:
        parts.append(f"simultaneous {interval(within.ci_family_low, within.ci_family_high)}")
    if within.p_holm is not None:
        parts.append(f"p {_equals(within.p_holm)} after selection")
    return ", ".join(parts)


def _word(within: InFamily) -> str:
    return "resolved" if within.rejected else "not resolved"


def _equals(p: float) -> str:
    text = probability(p)
    return text if text.startswith("<") else f"= {text}"


# -------------------------------------------------------------------------------------------- over configurations


def of_configurations(found: Sequence[Configuration], sampled: Collection[str], alpha: float = 0.05) -> Leader | None:
    """The leading arm where nothing is confirmed; None where no configuration has reached its last epoch.

    Configurations that results did not choose are a sample of their arm: means of arms are compared as those of
    independent samples. What results chose is the maximum of noisy numbers, and compares no arms.

    Args:
        found: configurations of search and probes.
        sampled: the roles whose configurations are a sample, the one to judge by first.
        alpha: error rate over all pairs of arms.
    """
    if not found:
        return None
    best = max(found, key=lambda configuration: configuration.mean)
    for role in sampled:
        means: dict[str, list[float]] = {}
        for configuration in found:
            if configuration.role == role:
                means.setdefault(configuration.arm, []).append(configuration.mean)
        arms = {name: of_arm for name, of_arm in means.items() if len(of_arm) > 1}
        if len(arms) > 1:
            return _of_samples(role, arms, best, len(found), alpha)
    of_arms = ""
    if len({configuration.arm for configuration in found}) > 1:
        of_arms = f"; whether {best.arm} is the better arm is not resolved: different configurations are no replicates"
    said = f"nothing is confirmed: {best.arm} leads by the {BY[best.role]}, {_best(best, len(found))}{of_arms}"
    return Leader(best.arm, best.role, None, said)


def _best(best: Configuration, among: int) -> str:
    which = "trial" if best.role == "search" else "probe"
    seeds = f", mean of {len(best.values)} seeds" if len(best.values) > 1 else ""
    return (
        f"{number(best.mean)} % of the validation images ({which} {best.trial_id}{seeds}, the best of "
        f"{counted(among, 'configuration')} that reached the last epoch, so optimistic)"
    )


def _of_samples(
    role: str, arms: Mapping[str, Sequence[float]], best: Configuration, among: int, alpha: float
) -> Leader:
    first, second, *_ = sorted(arms, key=lambda name: -fmean(arms[name]))
    pairs = len(arms) * (len(arms) - 1) / 2  # any two might have come out first and second
    compared = welch_difference(arms[first], arms[second])
    resolved, numbers = False, "no spread to judge by"
    if compared.p is not None and compared.error:
        p, span = min(1.0, compared.p * pairs), compared.interval(alpha / pairs)
        resolved = p < alpha
        numbers = (
            f"{signed(compared.difference)} points, simultaneous {interval(*span or (None, None))}, p {_equals(p)}"
        )
    said = (
        f"nothing is confirmed: {first} leads by the {BY[role]}, mean {number(fmean(arms[first]))} % of the validation "
        f"images over {counted(len(arms[first]), 'configuration')}; {'resolved' if resolved else 'not resolved'} over "
        f"configurations against {second}, which follows ({numbers}); the best single one is of {best.arm}, "
        f"{_best(best, among)}"
    )
    return Leader(first, role, resolved, said)

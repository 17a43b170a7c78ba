"""What the comparisons of an ablation allow to say: a sentence for each finding, and remarks on all of them."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from statistics import NormalDist

from akdtune.reports.ablation import seed_words
from akdtune.reports.ablation.findings import Finding, alpha_of, is_unfinished, lost_words
from akdtune.reports.ablation.measured import Phase
from akdtune.reports.text import counted, interval, number, probability, signed
from akdtune.statistics.power import t_quantile

DAGGER = "\N{DAGGER}"
CONDITIONAL = "intervals are over training seeds, conditional on this teacher, this split and this test set"
PAIRS_SHOWN = 8


def sentence(finding: Finding, unit: str = "points") -> str:
    """What one comparison allows to say."""
    d, name, against = finding.difference, finding.cell.name, finding.reference
    judged, seeds = finding.judged, seeds_words(finding)
    if d.difference is None or judged == "no pair":
        return f"{name}: {_no_pair(finding)}"
    shown = f"{signed(d.difference)} {unit}"
    if judged == "one pair":
        return f"{name}: {shown} against {against} with one seed{seeds}: no interval, nothing can be concluded"
    if finding.repeats is not None:
        span = "" if finding.low is None else f", single {interval(finding.low, finding.high)}"
        return f"{name}: A/A, {shown} against {against}{seeds}{span}, in no family: it repeats {finding.repeats}"
    if judged in ("identical", "tied"):
        return f"{name}: {_tied(finding)}"
    if finding.has_no_spread:
        return f"{name}: {_without_spread(finding, unit)}"
    span = _span(finding)
    if judged in ("lower", "higher"):
        small = ""
        if finding.equivalence is not None and finding.equivalence.verdict == "equivalent":
            small = f"; smaller than the margin of {finding.resolve:g} {unit}"
        return f"{name}: {judged} than {against} by {abs(d.difference):.2f} {unit}{seeds}, {span}{small}"
    if judged == "equivalent":
        assert finding.equivalence is not None
        return (
            f"{name}: equivalent to {against} within {finding.resolve:g} {unit}{seeds} "
            f"(TOST p {_equals(finding.equivalence.p)}); difference {shown}, {span}"
        )
    said = [f"{name}: not resolved{seeds}, {shown}, {span}"]
    return "; ".join([*said, *seed_words.shown_and_needed(finding, unit)])


def seeds_words(finding: Finding) -> str:
    """` on the 3 seeds that finished (2 of 5 diverged)`; empty where every seed of the design has a pair."""
    lost, n = _lost(finding), finding.difference.n_pairs
    if not lost:
        return ""
    which = "one seed" if n == 1 else f"{n} seeds"
    return f" on the {which} that {'both ' if finding.reference_lost else ''}finished ({lost})"


def _lost(finding: Finding) -> str:
    """Seeds without a value: `2 of 5 diverged; base: 3 of 5 failed`."""
    lost = {"": finding.cell.lost, f"{finding.reference}: ": finding.reference_lost}
    return "; ".join(f"{whose}{lost_words(of_side, finding.asked)}" for whose, of_side in lost.items() if of_side)


def _no_pair(finding: Finding) -> str:
    """Why there is no pair: for now, or for good."""
    statuses = [*finding.cell.lost.values(), *finding.reference_lost.values()]
    if any(map(is_unfinished, statuses)):
        return f"no seed that {finding.reference} has finished too; nothing can be said yet"
    return f"no seed that {finding.reference} has finished too ({_lost(finding)}); nothing can be said"


def _tied(finding: Finding) -> str:
    """Equal values on every seed: what the answers on each image say beside it."""
    agreement, lost = finding.agreement, _lost(finding)
    where = f"{finding.reference} on {finding.difference.n_pairs} seeds{f' ({lost})' if lost else ''}"
    if agreement is None:
        return f"tied with {where}: the same value on each, which does not show that nothing changed"
    if agreement.same_outputs:
        return (
            f"identical to {where}: identical predictions on all {agreement.images} images, to the last digit; the "
            "change did not reach the student"
        )
    if not agreement.differing:
        return f"tied with {where}: the same answer on every image, from outputs that differ"
    return (
        f"tied with {where}: equal counts of right answers, {agreement.differing:,} of {agreement.answers:,} images "
        "answered differently"
    )


def _without_spread(finding: Finding, unit: str) -> str:
    """The same difference on every seed: sign flips are the only test, and nothing says what seeds would show."""
    d, against, seeds = finding.difference, finding.reference, seeds_words(finding)
    assert d.difference is not None
    said = f"all {d.n_pairs} seeds differ from {against} by the same {signed(d.difference)} {unit}{seeds}"
    test = f"no spread to judge by; the sign-flip test is the only one, p {_equals(d.permutation_p)}"
    if finding.within is not None and finding.family > 1:
        test += f", Holm p {_equals(finding.within.p_holm)}"
    if finding.crossed is not None:
        test += f", over test items too {interval(*finding.crossed)}"
    head = {"higher": f"higher than {against}: ", "lower": f"lower than {against}: "}.get(finding.judged, "")
    if finding.judged == "equivalent":
        assert finding.equivalence is not None
        flips = f"sign flips, p {_equals(finding.equivalence.p)}"
        head = f"equivalent to {against} within {finding.resolve:g} {unit} ({flips}): "
    return f"{head}{said}: {test}"


def _span(finding: Finding) -> str:
    """Interval, p, the sign-flip test beside it, and the interval over test items too."""
    d, within = finding.difference, finding.within
    text = interval(finding.low, finding.high)
    if within is not None:
        text = f"simultaneous {text}{mark(finding)}, Holm p {_equals(within.p_holm)}"
    else:
        text = f"single {text}, p {_equals(d.p)}, in no declared family"
    if d.permutation_p is not None:
        text += f", sign-flip p {_equals(d.permutation_p)}"
    return text if finding.crossed is None else f"{text}, over test items too {interval(*finding.crossed)}"


def mark(finding: Finding) -> str:
    """The footnote's mark where Holm rejects although the simultaneous interval covers 0."""
    return DAGGER if finding.within is not None and finding.within.holm_alone else ""


def holm_alone_remark(findings: Sequence[Finding]) -> str:
    """The footnote; "" where no comparison needs it."""
    names = [finding.cell.name for finding in findings if mark(finding)]
    if not names:
        return ""
    its = "its single-step interval covers" if len(names) == 1 else "their single-step intervals cover"
    return (
        f"{DAGGER} Holm rejects {', '.join(names)} although {its} 0: the test's later steps spend what its earlier "
        "rejections have freed, an interval that holds at once with all others does not"
    )


def _equals(p: float | None) -> str:
    text = probability(p)
    return text if text.startswith("<") else f"= {text}"


def remarks(phase: Phase, findings: Sequence[Finding], alpha: float) -> list[str]:
    """What must be known to read the numbers of a phase, one sentence each."""
    said = [f"{CONDITIONAL}; pairs are formed by seed"]
    said += seed_words.remarks(findings)
    footnote = holm_alone_remark(findings)
    said += [footnote] if footnote else []
    said += _floors(findings)
    said += _repeated(phase)
    if any(finding.judged == "equivalent" for finding in findings):
        said.append("equivalence (TOST) is judged for each comparison by itself, not corrected for their number")
    if phase.metric != phase.declared_metric:
        said.append(
            f"exploratory: the design declares {phase.declared_metric} and this is {phase.metric}; its equivalence "
            "margin does not apply"
        )
    if phase.reference != phase.declared_reference and phase.reference is not None:
        said.append(
            f"exploratory: the design declares the reference {phase.declared_reference or '(none)'} and this is "
            f"{phase.reference}; all cells are one family"
        )
    if alpha != alpha_of(phase):
        said.append(f"exploratory: alpha is {alpha:g} and not {alpha_of(phase):g}, as declared")
    said += [means] if (means := paired_means_remark(findings)) else []
    diverged = {cell.name: cell.outcomes["diverged"] for cell in phase.cells if cell.outcomes.get("diverged")}
    if diverged:
        listed = ", ".join(f"{name} {count}" for name, count in diverged.items())
        said.append(f"diverged trials are an outcome of their cell and stand in no mean, which flatters it: {listed}")
    if phase.extra:
        said.append(f"{phase.extra} finished trials with seeds outside the design (a pilot's) are not used")
    return said


def paired_means_remark(findings: Sequence[Finding]) -> str:
    """Means of the seeds that a difference stands on, where the cells' own means stand on others; else empty."""
    parts = [
        f"{finding.cell.name} {number(finding.means[0])} against {number(finding.means[1])} "
        f"({counted(finding.difference.n_pairs, 'pair')})"
        for finding in findings
        if finding.is_partial and finding.means is not None
    ]
    if not parts:
        return ""
    more = f"; {len(parts) - PAIRS_SHOWN} more in the CSV report" if len(parts) > PAIRS_SHOWN else ""
    listed = "; ".join(parts[:PAIRS_SHOWN])
    return f"a difference with its number of pairs is between means over these seeds alone: {listed}{more}"


def _repeated(phase: Phase) -> list[str]:
    """Which cells repeat another one, and how that is known."""
    declared = {str(entry["name"]) for entry in phase.settings["cells"] if entry.get("replica_of")}
    return [
        f"{cell.name} repeats {cell.replica_of}"
        + ("" if cell.name in declared else " (same targets, gradient factors 1)")
        + ": an A/A pair, outside the family"
        for cell in phase.cells
        if cell.replica_of is not None
    ]


def _floors(findings: Sequence[Finding]) -> list[str]:
    """Where the exact test cannot reject whatever the data, one sentence per number of seeds."""
    notes: dict[int, list[str]] = {}
    for finding in findings:
        if finding.within is not None and finding.within.permutation_note:
            notes.setdefault(finding.difference.n_pairs, []).append(finding.within.permutation_note)
    return [
        f"the exact sign-flip test {notes[n][0]}"
        + (f" (so in {len(notes[n])} comparisons)" if len(notes[n]) > 1 else "")
        for n in sorted(notes)
    ]


def crossed_remark(findings: Sequence[Finding]) -> str:
    """Why intervals over test images could not be had, where they could not."""
    reasons = [
        finding.crossed_note for finding in findings if finding.crossed is None and finding.difference.n_pairs >= 2
    ]
    if not reasons:
        return ""
    more = f" and {len(reasons) - 1} more" if len(reasons) > 1 else ""
    share = f"{len(reasons)} of {len(findings)} comparisons"
    return f"no interval over seeds and test items together for {share}: {reasons[0]}{more}"


def narrower_remark(findings: Sequence[Finding], level: float) -> str:
    """Why an interval over test items too can be narrower than the one over seeds alone; empty where none is."""
    narrower, judged = [], 0
    for finding in findings:
        d = finding.difference
        if finding.crossed is not None and d.ci_low is not None and d.ci_high is not None:
            judged += 1
            if finding.crossed[1] - finding.crossed[0] < d.ci_high - d.ci_low:
                narrower.append(d.n_pairs)
    if not narrower:
        return ""
    n = min(narrower)
    reach, needed = NormalDist().inv_cdf((1 + level) / 2) * sqrt((n - 1) / n), t_quantile((1 - level) / 2, n)
    return (
        f"the interval over test items too is narrower than that of the seeds alone in {len(narrower)} of {judged} "
        f"comparisons, although it holds more: it takes percentiles of resampled seeds, which for n = {n} reach about "
        f"{reach:.2f} standard errors of the seeds where t reaches {needed:.2f}; read the wider of the two"
    )

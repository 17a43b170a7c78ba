"""What the comparisons of an ablation allow to say: a sentence for each finding, and remarks on all of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from akdtune.reports.ablation_findings import Finding, alpha_of
from akdtune.reports.ablation_measured import Phase
from akdtune.reports.text import interval, number, probability, signed

CONDITIONAL = "intervals are over training seeds, conditional on this teacher, this split and this test set"


def sentence(finding: Finding, unit: str = "points") -> str:
    """What one comparison allows to say."""
    d, name, against = finding.difference, finding.cell.name, finding.reference
    verdict = finding.verdict
    if d.difference is None or verdict == "no pair":
        return f"{name}: no seed that {against} has finished too; nothing can be said yet"
    shown = f"{signed(d.difference)} {unit}"
    if verdict == "one pair":
        return f"{name}: {shown} against {against} with one seed: no interval, nothing can be concluded"
    if verdict == "identical":
        return f"{name}: the same number as {against} for each of {d.n_pairs} seeds; the change has no effect"
    span = _span(finding)
    if verdict in ("lower", "higher"):
        small = ""
        if finding.equivalence is not None and finding.equivalence.verdict == "equivalent":
            small = f"; smaller than the margin of {finding.resolve:g} {unit}"
        return f"{name}: {verdict} than {against} by {abs(d.difference):.2f} {unit}, {span}{small}"
    if verdict == "equivalent":
        assert finding.equivalence is not None
        return (
            f"{name}: equivalent to {against} within {finding.resolve:g} {unit} "
            f"(TOST p {_equals(finding.equivalence.p)}); difference {shown}, {span}"
        )
    said = [f"{name}: not resolved, {shown}, {span}"]
    if d.minimum_detectable is not None:
        said.append(f"n = {d.n_pairs} shows only {number(d.minimum_detectable)} {unit} or more")
    if finding.more_seeds:
        said.append(f"needs about {finding.more_seeds} more seeds to resolve {finding.resolve:g} {unit}")
    elif finding.more_seeds == 0:
        said.append(f"{finding.resolve:g} {unit} would have shown by itself")
    return "; ".join(said)


def _span(finding: Finding) -> str:
    """Interval, p, the sign-flip test beside it, and the interval over test images too."""
    d, within = finding.difference, finding.within
    text = interval(finding.low, finding.high)
    if within is not None:
        text = f"simultaneous {text}, Holm p {_equals(within.p_holm)}"
    else:
        repeats = finding.cell.replica_of
        why = "in no declared family" if repeats is None else f"in no family: it repeats {repeats}"
        text = f"single {text}, p {_equals(d.p)}, {why}"
    if d.permutation_p is not None:
        text += f", sign-flip p {_equals(d.permutation_p)}"
    return text if finding.crossed is None else f"{text}, over test images too {interval(*finding.crossed)}"


def _equals(p: float | None) -> str:
    text = probability(p)
    return text if text.startswith("<") else f"= {text}"


def remarks(phase: Phase, findings: Sequence[Finding], alpha: float) -> list[str]:
    """What must be known to read the numbers of a phase, one sentence each."""
    said = [f"{CONDITIONAL}; pairs are formed by seed"]
    correlations = [
        finding.difference.correlation for finding in findings if finding.difference.correlation is not None
    ]
    if correlations:
        said.append(
            f"correlation between paired seeds: {number(min(correlations))} to {number(max(correlations))}, "
            f"median {number(float(np.median(correlations)))} (pairing helps where it is above 0)"
        )
    detectable = [
        finding.difference.minimum_detectable
        for finding in findings
        if finding.difference.minimum_detectable is not None
    ]
    if detectable:
        said.append(
            f"smallest difference that these seeds show with power .8: {number(min(detectable))} to "
            f"{number(max(detectable))}, before correction for {len(findings)} comparisons"
        )
    said += _floors(findings)
    said += _repeated(phase)
    if any(finding.verdict == "equivalent" for finding in findings):
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
    diverged = {cell.name: cell.outcomes["diverged"] for cell in phase.cells if cell.outcomes.get("diverged")}
    if diverged:
        listed = ", ".join(f"{name} {count}" for name, count in diverged.items())
        said.append(f"diverged trials are an outcome of their cell and stand in no mean, which flatters it: {listed}")
    if phase.extra:
        said.append(f"{phase.extra} finished trials with seeds outside the design (a pilot's) are not used")
    return said


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
    return f"no interval over seeds and test images together for {share}: {reasons[0]}{more}"

"""The report of an ablation and of a confirmation: what was computed, as JSON and as the tables a paper prints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from akdtune.reports.ablation import winners, words
from akdtune.reports.ablation.findings import (
    Finding,
    alpha_of,
    effects_of,
    findings,
    is_unfinished,
    lost_words,
    margin_of,
    summaries,
)
from akdtune.reports.ablation.measured import UNFINISHED, MeasuredCell, Phase, counts
from akdtune.reports.ablation.noise_floor import Noise, noise_json, noise_of, shown
from akdtune.reports.ablation.noise_floor import remarks as noise_remarks
from akdtune.reports.ablation.words import sentence
from akdtune.reports.text import counted, interval, markdown_table, number, probability, signed, tex_table
from akdtune.statistics.effects import Effect
from akdtune.statistics.paired import CellSummary

EXCLUDED_SHOWN = 12
DRAWS = 2000


@dataclass(frozen=True)
class Result:
    """One phase with everything that its report says of it."""

    phase: Phase
    alpha: float
    summaries: dict[str, CellSummary]
    findings: list[Finding]
    effects: list[Effect]
    no_effects: str
    noise: Noise

    @property
    def level(self) -> float:
        """The level of every interval: 1 - alpha."""
        return 1 - self.alpha

    @property
    def unit(self) -> str:
        """What differences are counted in: points of an accuracy, units of another metric."""
        return "points" if self.phase.in_percent else "units"

    def finding(self, cell: MeasuredCell) -> Finding | None:
        """A cell's comparison with the reference."""
        return next((finding for finding in self.findings if finding.cell.name == cell.name), None)


def compute(
    phase: Phase, run: Path, *, alpha: float | None = None, draws: int = DRAWS, beside: Sequence[Phase] = ()
) -> Result:
    """Everything the report of one phase says; `beside` are phases of the same study, for their A/A pairs."""
    used = alpha_of(phase) if alpha is None else alpha
    effects, why = effects_of(phase, level=1 - used)
    found = findings(phase, run, alpha=used, draws=draws)
    noise = noise_of(phase, run, found, level=1 - used, beside=beside)
    return Result(phase, used, dict(summaries(phase.cells, 1 - used)), found, effects, why, noise)


def said_of(result: Result, finding: Finding) -> str:
    """What one comparison allows to say, with the warning where it lies below the noise floor."""
    warning = result.noise.warning(finding)
    return sentence(finding, result.unit) + (f"; {warning}" if warning else "")


def notes_of(result: Result) -> list[str]:
    """Sentences that hold for the whole phase."""
    phase = result.phase
    notes = noise_remarks(result.noise, result.findings, result.unit, is_ablation=phase.name == "ablation")
    notes += words.remarks(phase, result.findings, result.alpha)
    crossed = words.crossed_remark(result.findings)
    narrower = words.narrower_remark(result.findings, result.level)
    notes += [said for said in (crossed, narrower) if said]
    if phase.name == "confirm":
        notes += winners.notes(phase)
    elif result.no_effects:
        notes.append(result.no_effects)
    notes += [f"aliased: {alias}" for alias in phase.settings.get("aliases") or []]
    return [*notes, *(str(note) for note in phase.settings.get("notes") or [])]


# ------------------------------------------------------------------------------------------------- JSON


def report_of(done: Sequence[Result]) -> dict[str, Any]:
    """Everything that was computed, as plain JSON; what belongs to the confirmation stands under `confirm`."""
    parts = {result.phase.name: _phase_json(result) for result in done}
    empty: dict[str, Any] = {"cells": [], "differences": [], "effects": [], "excluded": [], "merged": [], "notes": []}
    return {**parts.pop("ablation", empty), "confirm": parts.get("confirm")}


def _phase_json(result: Result) -> dict[str, Any]:
    phase = result.phase
    return {
        "design": phase.settings.get("design"), "metric": phase.metric, "declared_metric": phase.declared_metric,
        "reference": phase.reference, "alpha": result.alpha, "level": result.level,
        "equivalence_margin": margin_of(phase), "seeds": phase.seeds, "missing_trials": phase.missing,
        "cells": [_cell_json(result, cell) for cell in phase.cells],
        "differences": [_difference_json(finding, result) for finding in result.findings],
        "noise": noise_json(result.noise),
        "effects": [asdict(effect) for effect in result.effects],
        "excluded": [asdict(trial) for trial in phase.excluded],
        "merged": [line for cell in phase.cells for line in cell.merged],
        "notes": notes_of(result),
    }  # fmt: skip


def _cell_json(result: Result, cell: MeasuredCell) -> dict[str, Any]:
    content = asdict(cell)
    content["values"] = {str(seed): value for seed, value in sorted(cell.values.items())}
    content["trials"] = {str(seed): trial for seed, trial in sorted(cell.trials.items())}
    content["diverged"] = cell.outcomes.get("diverged", 0)
    content |= asdict(winners.ranks(result.phase)[cell.name])
    return {"name": cell.name, **asdict(result.summaries[cell.name]), **content}


def _difference_json(finding: Finding, result: Result) -> dict[str, Any]:
    within, equal = finding.within, finding.equivalence
    return {
        "cell": finding.cell.name, "reference": finding.reference, "control": finding.cell.is_control,
        **asdict(finding.difference),
        "mean_of_pairs": finding.means and finding.means[0], "reference_of_pairs": finding.means and finding.means[1],
        "p_holm": within and within.p_holm, "ci_family_low": within and finding.low,
        "ci_family_high": within and finding.high, "rejected": within and within.rejected,
        "holm_alone": within and within.holm_alone,
        "permutation_note": within and within.permutation_note, "family": finding.family,
        "crossed_low": finding.crossed and finding.crossed[0], "crossed_high": finding.crossed and finding.crossed[1],
        "crossed_note": finding.crossed_note, "equivalence_p": equal and equal.p,
        "equivalence": equal and equal.verdict, "resolve": finding.resolve,
        "minimum_detectable_low": finding.detectable and finding.detectable[0],
        "minimum_detectable_high": finding.detectable and finding.detectable[1],
        "more_seeds_low": finding.more_seeds and finding.more_seeds[0],
        "more_seeds_high": finding.more_seeds and finding.more_seeds[1],
        "agreement": finding.agreement and asdict(finding.agreement), "judged": finding.judged,
        "noise_floor": result.noise.reach(finding), "pairing_share": result.noise.share(finding),
        "below_noise_floor": result.noise.is_below(finding), "repeats": finding.repeats,
        "verdict": finding.verdict, "sentence": said_of(result, finding),
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------- tables


def paper_rows(result: Result, *, controls: bool) -> list[list[str]]:
    """Rows of the table a paper prints: the reference first among cells of the design."""
    phase = result.phase
    cells = [cell for cell in phase.cells if cell.is_control is controls]
    return [_paper_row(result, cell) for cell in sorted(cells, key=lambda cell: cell.name != phase.reference)]


def _paper_row(result: Result, cell: MeasuredCell) -> list[str]:
    summary, finding = result.summaries[cell.name], result.finding(cell)
    if summary.mean is None:
        mean = "n/a"
    else:
        mean = number(summary.mean) + ("" if summary.sd is None else f" ± {number(summary.sd)}")
    if marks := lost_mark(cell):
        mean += f" ({marks})"
    seeds = len(result.phase.seeds)
    row = [cell.name, str(summary.n) if summary.n == seeds else f"{summary.n}/{seeds}", mean]
    if finding is None:
        row = [*row, "reference" if cell.name == result.phase.reference else ""]
        return [*row, *[""] * (len(headings(result)) - len(row))]
    difference = finding.difference
    alone = "" if difference.ci_low is None else interval(difference.ci_low, difference.ci_high)
    span = p_holm = ""
    if finding.within is not None:
        span = "" if finding.low is None else interval(finding.low, finding.high) + words.mark(finding)
        p_holm = probability(finding.within.p_holm)
    floor = [] if result.noise.floor is None else [shown(result.noise.reach(finding))]
    pairs = f" ({counted(difference.n_pairs, 'pair')})" if finding.is_partial and difference.n_pairs else ""
    return [*row, signed(difference.difference) + pairs, *floor, alone, span, p_holm]


def lost_mark(cell: MeasuredCell) -> str:
    """How many trials of a cell ended without a value: `2 diverged`; empty for none."""
    ended = {seed: status for seed, status in cell.lost.items() if not is_unfinished(status)}
    return lost_words(ended) if ended else ""


def headings(result: Result) -> list[str]:
    """Headings of the columns of `paper_rows`; `A/A` is the noise floor of a difference, where it is known."""
    floor = [] if result.noise.floor is None else ["A/A"]
    return ["cell", "n", f"{result.phase.metric.replace('_', ' ')}, mean ± sd", "difference", *floor,
            f"{100 * result.level:g} %", f"simultaneous {100 * result.level:g} %", "Holm p"]  # fmt: skip


def effect_rows(result: Result) -> list[list[str]]:
    """Term, effect, interval, p and seeds of each effect of a factorial design."""
    return [
        [e.term, signed(e.estimate), interval(e.ci_low, e.ci_high), probability(e.p), str(e.n_seeds)]
        for e in result.effects
    ]


def numeric(result: Result) -> tuple[int, ...]:
    """Places of the columns of `paper_rows` that hold numbers."""
    return tuple(range(1, len(headings(result))))


def markdown(done: Sequence[Result], name: str) -> str:
    """The whole report as Markdown."""
    text = [f"# {name}: {' and '.join(result.phase.name for result in done)}\n"]
    for result in done:
        phase = result.phase
        own, controls = (paper_rows(result, controls=control) for control in (False, True))
        text.append(f"## {title_of(result)}\n")
        text += [markdown_table(headings(result), own, numeric(result))] if own else []
        if controls:
            text.append(f"{'Baselines' if phase.name == 'confirm' else 'Controls'}\n")
            text.append(markdown_table(headings(result), controls, numeric(result)))
            text += [
                f"- {cell.name}: {cell.explanation}" for cell in phase.cells if cell.is_control and cell.explanation
            ]
            text.append("")
        if phase.name == "confirm":
            text.append(markdown_table(winners.headings(phase), winners.rows(phase), (1, 2, 3, 4)))
        text += [f"- {said_of(result, finding)}" for finding in result.findings] + [""]
        text += [f"- {line}" for line in status_lines(result) + notes_of(result)] + [""]
    return "\n".join(text)


def tex(done: Sequence[Result], name: str) -> str:
    """One booktabs table per phase."""
    tables = []
    for result in done:
        phase, own = result.phase, paper_rows(result, controls=False)
        heading = "Baselines" if phase.name == "confirm" else "Controls"
        caption = (
            f"{name}: {title_of(result)}. Differences are paired by seed; {100 * result.level:g} % intervals of each "
            f"alone and of all together (simultaneous), and Holm p within the family; {words.CONDITIONAL}."
        )
        means = words.paired_means_remark(result.findings)
        caption += f" {means[0].upper()}{means[1:]}." if means else ""
        footnote = words.holm_alone_remark(result.findings)
        caption += f" {footnote}." if footnote else ""
        groups = {"": own, heading: paper_rows(result, controls=True)}
        if result.noise.floor is not None:
            caption += " A/A: by how much means over as many seeds of the same thing, trained twice, may differ."
        tables.append(tex_table(headings(result), groups, caption, f"tab:{phase.name}", numeric(result)))
    return "\n".join(tables)


def rows_for_csv(done: Sequence[Result]) -> list[dict[str, Any]]:
    """One row per cell with every number, unrounded."""
    rows = []
    for result in done:
        for cell in result.phase.cells:
            finding = result.finding(cell)
            row = {"phase": result.phase.name, "cell": cell.name, "cell_id": cell.cell_id, "role": cell.role,
                   "metric": result.phase.metric, **asdict(result.summaries[cell.name]),
                   "asked": len(result.phase.seeds), "diverged": cell.outcomes.get("diverged", 0),
                   "failed": cell.outcomes.get("failed", 0)}  # fmt: skip
            if result.phase.name == "confirm":
                row |= {"search_score": cell.search_score, "search_metric": winners.search_metric(result.phase)}
                row |= asdict(winners.ranks(result.phase)[cell.name])
            if finding is not None:
                numbers = _difference_json(finding, result)
                skipped = ("cell", "control", "seeds", "sentence", "crossed_note", "permutation_note", "agreement")
                row |= {f"difference_{k}" if k in row else k: v for k, v in numbers.items() if k not in skipped}
            rows.append(row)
    return rows


def title_of(result: Result) -> str:
    """Design, size and reference in one line."""
    phase = result.phase
    kind = (
        str(phase.settings.get("design") or "design").replace("_", " ") if phase.name == "ablation" else "confirmation"
    )
    against = "" if phase.reference is None else f", against {phase.reference}"
    return f"{kind}, {len(phase.cells)} cells, {len(phase.seeds)} seed{'' if len(phase.seeds) == 1 else 's'}{against}"


def status_lines(result: Result) -> list[str]:
    """What is missing and what does not count."""
    phase, lines = result.phase, []
    if phase.missing:
        total = len(phase.cells) * len(phase.seeds)
        lines.append(
            f"not finished: {phase.missing} of {total} trials are missing ({counts(phase.unfinished)}); "
            "numbers will change"
        )
    ended = [trial for trial in phase.excluded if trial.trial_id is not None and trial.status not in UNFINISHED]
    for trial in ended[:EXCLUDED_SHOWN]:
        reason = f" ({trial.reason.splitlines()[0][:60]})" if trial.reason else ""
        lines.append(f"excluded: {trial.cell}, seed {trial.seed}: {trial.status}{reason}, trial {trial.trial_id}")
    if len(ended) > EXCLUDED_SHOWN:
        lines.append(f"excluded: {len(ended) - EXCLUDED_SHOWN} more, listed in the JSON report")
    return lines + [f"merged: {line}" for cell in phase.cells for line in cell.merged]

"""The forest plot of an ablation, factor and interaction panels, and the winner's curse."""

from __future__ import annotations

from collections.abc import Sequence

from akdtune.reports import figures
from akdtune.reports.ablation import findings, winners, winners_plot, words
from akdtune.reports.ablation.findings import Finding, LevelMean, level_means, margin_of
from akdtune.reports.ablation.measured import MeasuredCell
from akdtune.reports.ablation.tables import Result, lost_mark, title_of
from akdtune.reports.text import interval, signed
from akdtune.statistics.effects import Effect

INTERACTIONS_SHOWN = 9
TITLE_LEVELS = 12
"""Longer names of levels have a line of their own."""


# ------------------------------------------------------------------------------------------------- figures


def draw(result: Result, name: str, kinds: Sequence[str] = figures.BOTH) -> dict[str, bytes]:
    """The figures of a phase by file name, each as every kind."""
    return figures.image_files(sheets(result, name), kinds)


def sheets(result: Result, name: str) -> dict[str, figures.Sheet]:
    """The figures of a phase by the stem of their file names; `name` is the study's, for titles."""
    drawn: dict[str, figures.Sheet] = {}
    phase, label = result.phase, result.phase.metric.replace("_", " ")
    bars = [bar_of(finding) for finding in result.findings if finding.difference.difference is not None]
    if bars:
        assert phase.reference is not None
        lost = lost_mark(phase.cell(phase.reference))
        against = f"{phase.reference} ({lost})" if lost else phase.reference
        drawn["ablation" if phase.name == "ablation" else "confirm"] = figures.forest(
            bars, title=f"{name}: {title_of(result)}", margin=margin_of(phase), level=result.level,
            xlabel=f"{label}: difference from {against}, paired by seed ({result.unit})",
            floor=result.noise.usual(result.findings),
        )  # fmt: skip
    footnote = f"{100 * result.level:g} % intervals within seeds (differences between seeds taken out)"
    ylabel = f"{label} (%)" if phase.in_percent else label
    for kind, panels in (("factors", _factor_panels(result)), ("interactions", _interaction_panels(result))):
        if panels:
            title = f"{name}: {'main effects' if kind == 'factors' else 'two-factor interactions'}"
            drawn[f"ablation_{kind}"] = figures.factor_panels(panels, title=title, ylabel=ylabel, footnote=footnote)
    places = [_place(result, cell) for cell in phase.cells if result.summaries[cell.name].mean is not None]
    if phase.name == "confirm" and places:
        drawn["winners_curse"] = winners_plot.winners(
            places, title=f"{name}: the search's winners on fresh seeds", level=result.level,
            xlabel=f"{label}{' (%)' if phase.in_percent else ''}",
        )  # fmt: skip
    return drawn


def bar_of(finding: Finding) -> figures.Bar:
    """A row of the forest plot."""
    d, within = finding.difference, finding.within
    assert d.difference is not None
    low, high, p = (None, None, d.p) if within is None else (finding.low, finding.high, within.p_holm)
    label = _label(finding.cell)
    if finding.repeats is not None:  # nothing about it is tested
        label, p = f"{label} (A/A)", None
    return figures.Bar(
        label, d.difference, d.ci_low, d.ci_high, low, high, d.n_pairs, p, finding.cell.is_control,
        words.mark(finding),
    )  # fmt: skip


def _place(result: Result, cell: MeasuredCell) -> winners_plot.Place:
    summary, ranks = result.summaries[cell.name], winners.ranks(result.phase)[cell.name]
    assert summary.mean is not None
    return winners_plot.Place(
        _label(cell), ranks.search_rank, ranks.confirmed_rank, summary.mean, summary.ci_low, summary.ci_high, summary.n
    )


def _label(cell: MeasuredCell) -> str:
    """The cell's name, and how many of its trials ended without a value."""
    lost = lost_mark(cell)
    return f"{cell.name} ({lost})" if lost else cell.name


def _factor_panels(result: Result) -> list[figures.FactorPanel]:
    """One per factor of a factorial design."""
    texts: dict[str, list[str]] = {}
    for effect in result.effects:
        factors = findings.factors_of(result.phase, effect)
        if len(factors) == 1:
            texts.setdefault(factors[0], []).append(_effect_text(effect, factors))
    return [
        figures.FactorPanel("\n".join(texts[factor][:3]), factor, {"": [_point(mean, 0) for mean in means]})
        for factor in texts
        if (means := level_means(result.phase, [factor], level=result.level))
    ]


def _interaction_panels(result: Result) -> list[figures.FactorPanel]:
    """One per pair of factors, the largest interactions first."""
    texts: dict[tuple[str, ...], list[str]] = {}
    for effect in sorted(result.effects, key=lambda effect: -abs(effect.estimate)):
        factors = findings.factors_of(result.phase, effect)
        if len(factors) == 2:
            texts.setdefault(tuple(factors), []).append(_effect_text(effect, factors))
    panels = []
    for pair, of_pair in list(texts.items())[:INTERACTIONS_SHOWN]:
        lines: dict[str, list[figures.LevelPoint]] = {}
        for mean in level_means(result.phase, pair, level=result.level):
            lines.setdefault(mean.levels[1], []).append(_point(mean, 0))
        if lines:
            which = "interaction" if len(of_pair) == 1 else f"largest of {len(of_pair)} terms"
            panels.append(figures.FactorPanel(f"{which} {of_pair[0]}", pair[0], lines, legend=pair[1]))
    return panels


def _point(mean: LevelMean, place: int) -> figures.LevelPoint:
    assert mean.summary.mean is not None
    return figures.LevelPoint(mean.levels[place], mean.summary.mean, mean.summary.ci_low, mean.summary.ci_high)


def _effect_text(effect: Effect, factors: Sequence[str]) -> str:
    """`off - on: -0.52 [-0.70, -0.31]`; an interaction without its factors' names, which stand at the axis."""
    if len(factors) == 2:
        return f"{signed(effect.estimate)} {_span(effect)}"
    levels = effect.term.removeprefix(f"{factors[0]}: ")
    return f"{levels}:{chr(10) if len(levels) > TITLE_LEVELS else ' '}{signed(effect.estimate)} {_span(effect)}"


def _span(effect: Effect) -> str:
    return "" if effect.ci_low is None else interval(effect.ci_low, effect.ci_high)

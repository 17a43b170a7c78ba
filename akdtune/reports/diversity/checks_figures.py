"""The slope within arms by every fit, and the ensembles' losses beside what theory says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from akdtune.reports.diversity.checks import FITS, Checks
from akdtune.reports.diversity.figures import SYMBOLS
from akdtune.reports.diversity.measured import arms_in_order
from akdtune.reports.diversity.theory_check import TheoryCheck, TrialLosses
from akdtune.reports.figures import (
    BOTH,
    COLOURS,
    GREY,
    MARKERS,
    Sheet,
    image_files,
    interval_limits,
    sheet,
    suptitle,
)  # fmt: skip
from akdtune.reports.text import counted
from akdtune.statistics.association import Coefficient
from akdtune.statistics.mediation import Mediation

PATH = "along the ensemble's accuracy"
BESIDE = "beside it"
LEFT_OUT = ("lowest, leaving one arm out", "highest, leaving one arm out")
Line: TypeAlias = tuple[float, float | None, float | None]
"""A slope and its interval."""


def draw_checks(
    checks: Mapping[str, Sequence[Checks]], theory: TheoryCheck, name: str, kinds: Sequence[str] = BOTH
) -> dict[str, bytes]:
    """The figures that there is something for, by file name, as every kind."""
    drawn: dict[str, Sheet] = {}
    shown = {panel: of_panel for panel, of_panel in checks.items() if of_panel}
    if shown:
        drawn["diversity_checks"] = fits(shown, name)
    if theory.trials:
        drawn["diversity_theory"] = losses(theory, name)
    return image_files(drawn, kinds)


def fits(checks: Mapping[str, Sequence[Checks]], name: str) -> Sheet:
    """A row of plots for each panel, one for each measure: its slopes from top to bottom."""
    labels = {panel: _labels(of_panel) for panel, of_panel in checks.items()}
    columns = max(len(of_panel) for of_panel in checks.values())
    with sheet(2.6 + 2.5 * columns, 0.7 + sum(0.75 + 0.24 * len(of_panel) for of_panel in labels.values())) as drawn:
        suptitle(drawn.figure, f"{name}: the slope within arms by other fits (association, not effect)")
        heights = [0.75 + 0.24 * len(of_panel) for of_panel in labels.values()]
        rows = drawn.figure.subfigures(len(checks), 1, squeeze=False, height_ratios=heights)[:, 0]
        for row, (panel, of_panel) in zip(rows, checks.items(), strict=True):
            axes = row.subplots(1, columns, squeeze=False)[0]
            for index, axis in enumerate(axes):
                if index >= len(of_panel):
                    axis.set_visible(False)
                    continue
                _draw_fits(axis, lines_of(of_panel[index]), labels[panel], labelled=index == 0)
                axis.set_title(f"{panel}: {SYMBOLS[of_panel[index].relation.measure]}", loc="left")
    return drawn


def lines_of(check: Checks) -> dict[str, Line]:
    """Every slope of a measure by what it is, from top to bottom; the path last."""
    lines: dict[str, Line] = {FITS[name]: _ends(slope) for name, slope in check.slopes.items()}
    if check.extremes is not None:
        for label, left in zip(LEFT_OUT, check.extremes, strict=True):
            lines[label] = (left.slope or 0.0, None, None)
    if isinstance(check.mediation, Mediation):
        lines |= {PATH: _ends(check.mediation.indirect), BESIDE: _ends(check.mediation.direct)}
    return lines


def _ends(slope: Coefficient) -> Line:
    return slope.value, slope.low, slope.high


def _labels(checks: Sequence[Checks]) -> list[str]:
    """What stands in any of the plots of a panel, so that all of them have the same rows."""
    there = {label for check in checks for label in lines_of(check)}
    return [label for label in (*FITS.values(), *LEFT_OUT, PATH, BESIDE) if label in there]


def _draw_fits(axis: Any, lines: Mapping[str, Line], labels: Sequence[str], *, labelled: bool) -> None:
    axis.axvline(0, color=GREY, linewidth=0.9, zorder=1)
    for height, label in enumerate(labels):
        if label not in lines:
            continue
        value, low, high = lines[label]
        colour, marker = (COLOURS[1], MARKERS[1]) if label in (PATH, BESIDE) else (COLOURS[0], MARKERS[0])
        if low is not None and high is not None:
            axis.plot([low, high], [height] * 2, color=colour, linewidth=2.6, solid_capstyle="butt", alpha=0.55)
        filled = {"markeredgecolor": "white", "markeredgewidth": 0.6}
        look = filled if low is not None else {"markerfacecolor": "white", "markeredgewidth": 1.1}
        axis.plot(value, height, marker, color=colour, markersize=5.5, zorder=4, **look)
    axis.set_xlim(interval_limits(list(lines.values())))  # one long interval would make the others points
    axis.set_ylim(len(labels) - 0.4, -0.6)
    axis.set_yticks(range(len(labels)), labels if labelled else [])
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)
    axis.grid(axis="x", color="#e6e6e6", linewidth=0.5)
    axis.set_axisbelow(True)
    axis.locator_params(axis="x", nbins=4)
    axis.set_xlabel("points per unit")


def losses(theory: TheoryCheck, name: str) -> Sheet:
    """The ensemble's loss against the members' less diversity: on the line for squared loss, below it for the other.

    A point is a trial.
    """
    arms = arms_in_order(trial.arm for trial in theory.trials)
    with sheet(9.6, 4.2) as drawn:
        axes = drawn.figure.subplots(1, 2)
        for index, arm in enumerate(arms):
            mine = [trial for trial in theory.trials if trial.arm == arm]
            colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
            _draw_losses(axes[0], mine, "squared", colour, marker, arm)
            _draw_losses(axes[1], mine, "cross_entropy", colour, marker, arm)
            _draw_losses(axes[1], mine, "sharper", colour, marker, None)
        titles = ("squared loss: equal", "cross-entropy (nats): at most; hollow: the sharper bound")
        for axis, title in zip(axes, titles, strict=True):
            ends = [min(axis.get_xlim()[0], axis.get_ylim()[0]), max(axis.get_xlim()[1], axis.get_ylim()[1])]
            axis.plot(ends, ends, color=GREY, linewidth=0.9, zorder=1)
            axis.set_title(title, loc="left")
            axis.set_xlabel("mean loss of the members less diversity")
            axis.set_ylabel("loss of the ensemble")
            axis.grid(color="#e6e6e6", linewidth=0.5)
            axis.set_axisbelow(True)
        suptitle(drawn.figure, f"{name}: losses of the ensembles of {counted(len(theory.trials), 'trial')}")
        handles, labels = axes[0].get_legend_handles_labels()
        drawn.figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return drawn


def _draw_losses(
    axis: Any, trials: Sequence[TrialLosses], part: str, colour: str, marker: str, label: str | None
) -> None:
    """Points of an arm; of the sharper bound hollow."""
    of = [getattr(trial.losses, part) for trial in trials]
    x_T = np.array([held.members - held.diversity for held in of])
    axis.scatter(
        x_T, [held.ensemble for held in of], s=22, marker=marker, linewidths=0.7, zorder=3, label=label,
        facecolors="none" if part == "sharper" else colour, edgecolors=colour,
    )  # fmt: skip

"""The scatter plots of accuracy against diversity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from akdtune.reports.diversity import HEADLINE, SMALL, DiversityPanel, Relation, coefficient_text, is_viewless
from akdtune.reports.figures import COLOURS, MARKERS, Sheet, sheet
from akdtune.statistics import association
from akdtune.statistics.resampling import Floats

SYMBOLS = {
    "diversity_sq_prob": "$D_{sq}$ of probabilities",
    "diversity_sq_logit": "$D_{sq}$ of logits",
    "diversity_sq_feature": "$D_{sq}$ of features",
    "diversity_ce": "$D_{ce}$",
}

# ------------------------------------------------------------------------------------------------- drawing

POINTS = 500
"""Panels of more trials have their points as an image in the SVG, which otherwise takes most of the time."""


def draw(
    panels: Sequence[DiversityPanel], relations: dict[str, list[Relation]], name: str, **how: int
) -> dict[str, bytes]:
    """The figure as PNG and SVG."""
    return scatter(panels, relations, name, **how).files


def scatter(panels: Sequence[DiversityPanel], relations: dict[str, list[Relation]], name: str, **how: int) -> Sheet:
    """One row per panel, one column per headline measure, colour = arm."""
    shown = [panel for panel in panels if panel.arms]
    arms = sorted({arm for panel in shown for arm in panel.arms}, key=lambda arm: (is_viewless(arm), arm))
    looks = {
        arm: (COLOURS[i % len(COLOURS)], MARKERS[(i + i // len(COLOURS)) % len(MARKERS)]) for i, arm in enumerate(arms)
    }
    with sheet(12.5, 0.75 + 3.35 * len(shown)) as drawn:
        figure = drawn.figure
        figure.suptitle(
            f"{name}: diversity of the views and accuracy of the student (association, not effect)", fontsize=11
        )
        rows = figure.subfigures(len(shown), 1, squeeze=False)[:, 0]
        for row, panel in zip(rows, shown, strict=True):
            row.suptitle(_short_title(panel), x=0.01, ha="left", fontsize=9.5, fontweight="bold")
            axes = row.subplots(1, len(HEADLINE), sharey=True)
            of_measure = {relation.measure: relation for relation in relations[panel.name]}
            for index, (axis, measure) in enumerate(zip(axes, HEADLINE, strict=True)):
                _draw_measure(axis, panel, of_measure[measure], looks, **how)
                if index == 0:
                    axis.set_ylabel(f"student accuracy, {panel.accuracy_on} (%)")
        _legend(figure, looks)
    return drawn


def _short_title(panel: DiversityPanel) -> str:
    return (
        "search survivors: selected on accuracy, biased (a true r of .5 shows as .34)" if panel.biased else panel.title
    )


def _legend(figure: Any, looks: dict[str, tuple[str, str]]) -> None:
    from matplotlib.lines import Line2D  # late: reports without a figure do not wait for it

    handles = [
        Line2D([], [], color=colour, marker=marker, linestyle="", markersize=6,
               markerfacecolor="none" if is_viewless(arm) else colour,
               label=f"{arm} (no views, not fitted)" if is_viewless(arm) else arm)
        for arm, (colour, marker) in looks.items()
    ]  # fmt: skip
    handles.append(Line2D([], [], color="#333333", linewidth=1.5, label="pooled fit, 95 % band"))
    if sum(not is_viewless(arm) for arm in looks) > 1:
        handles.append(Line2D([], [], color="#777777", linewidth=1, linestyle="--", label="within-arm slope"))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(8, len(handles)), frameon=False)


def _draw_measure(
    axis: Any, panel: DiversityPanel, relation: Relation, looks: dict[str, tuple[str, str]], **how: int
) -> None:
    from matplotlib.patches import Rectangle  # late: reports without a figure do not wait for it

    use = panel.fitted(relation.measure)
    arms = np.array(panel.arms, object)
    x_N, y_N = panel.measures[relation.measure], panel.accuracy
    viewless = panel.viewless() & np.isfinite(y_N)
    area = float(np.clip(26 * (100 / max(1, use.sum())) ** 0.5, 5, 26))
    as_image = len(panel.arms) > POINTS  # all of them, as each change to shapes and back costs an image of the page
    for arm, (colour, marker) in looks.items():
        mine, bare = use & (arms == arm), viewless & (arms == arm)
        axis.scatter(
            x_N[mine],
            y_N[mine],
            s=area,
            c=colour,
            marker=marker,
            alpha=0.8,
            linewidths=0.3,
            edgecolors="white",
            zorder=3,
            rasterized=as_image,
        )
        outline = {"color": colour, "marker": marker, "markersize": area**0.5, "markerfacecolor": "none"}
        gutter = axis.get_yaxis_transform()  # x in shares of the axis: these trials have no diversity
        x_gutter = np.full(bare.sum(), 0.035)
        axis.plot(x_gutter, y_N[bare], transform=gutter, linestyle="", zorder=3, rasterized=as_image, **outline)
    if viewless.any():
        axis.add_patch(Rectangle((0, 0), 0.07, 1, transform=axis.transAxes, color="#eeeeee", zorder=0, linewidth=0))
    cells = [cell for cell, used in zip(panel.cells, use, strict=True) if used]
    if use.any():
        low, high = x_N[use].min(), x_N[use].max()
        width = (high - low) or abs(high) or 1.0
        axis.set_xlim(low - width * (0.14 if viewless.any() else 0.05), high + width * 0.05)
    if use.sum() > 2:
        grid = np.linspace(x_N[use].min(), x_N[use].max(), 60)
        band = association.line_band(x_N[use], y_N[use], cells, grid, **how)
        if band is not None:
            axis.plot(grid, band[0], color="#333333", linewidth=1.5, zorder=4)
            axis.fill_between(grid, band[1], band[2], color="#333333", alpha=0.13, linewidth=0, zorder=1)
    _draw_within(axis, relation, x_N, y_N, {arm: use & (arms == arm) for arm in looks}, looks)
    axis.set_xlabel(SYMBOLS[relation.measure])
    axis.set_title(_axis_title(relation), loc="left")
    axis.grid(color="#e6e6e6", linewidth=0.5, zorder=0)
    axis.locator_params(axis="x", nbins=5)


def _draw_within(axis: Any, relation: Relation, x_N: Floats, y_N: Floats, members: dict[str, Any], looks: Any) -> None:
    within = relation.estimates.get("within_arm")
    fitted = {arm: mine for arm, mine in members.items() if mine.any()}
    if within is None or within.slope is None or len(fitted) < 2:
        return
    for arm, mine in fitted.items():
        ends = np.array([x_N[mine].min(), x_N[mine].max()])
        line = y_N[mine].mean() + within.slope.value * (ends - x_N[mine].mean())
        axis.plot(ends, line, color=looks[arm][0], linewidth=1, linestyle="--", zorder=2)


def _axis_title(relation: Relation) -> str:
    pooled = relation.estimates["pooled"]
    if pooled.clusters < SMALL:
        return f"n = {pooled.n}: too few to conclude anything"
    title = f"r = {coefficient_text(pooled.pearson)}, n = {pooled.n}" if pooled.pearson else f"n = {pooled.n}, no fit"
    within = relation.estimates.get("within_arm")
    if within is not None and within is not pooled:
        title += f"\nwithin arms r = {coefficient_text(within.pearson)}"
    elif "within_arm" in relation.refused:
        title += "\nwithin arms: refused, n too small"
    return title.replace("-", "\N{MINUS SIGN}")

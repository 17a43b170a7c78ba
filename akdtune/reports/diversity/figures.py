"""The scatter plots of accuracy against diversity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from akdtune.metric import ACCURACY
from akdtune.reports.diversity.measured import (
    HEADLINE,
    CellMeans,
    DiversityPanel,
    Relation,
    arms_in_order,
    cell_means,
    is_viewless,
)
from akdtune.reports.diversity.verdict import Judged, coefficient_text, judge
from akdtune.reports.figures import BOTH, COLOURS, MARKERS, Sheet, image_files, sheet
from akdtune.reports.text import probability
from akdtune.statistics.resampling import Floats

SYMBOLS = {
    "diversity_sq_prob": "$D_{sq}$ of probabilities",
    "diversity_sq_logit": "$D_{sq}$ of logits",
    "diversity_sq_feature": "$D_{sq}$ of features",
    "diversity_ce": "$D_{ce}$",
}
Looks = Mapping[str, tuple[str, str]]
"""Colour and marker of each arm."""

# ------------------------------------------------------------------------------------------------- drawing

POINTS = 500
"""Panels of more trials have their points as an image in the SVG, which otherwise takes most of the time."""

CLAIM, POOLED = 2.6, 0.8
"""Widths of lines: what carries the claim, the slope within arms, and the line that mixes arms."""
POOLED_COLOUR = "#8c8c8c"


def draw(
    panels: Sequence[DiversityPanel],
    relations: dict[str, list[Relation]],
    name: str,
    kinds: Sequence[str] = BOTH,
) -> dict[str, bytes]:
    """The figure by file name, as every kind."""
    return image_files({"diversity_accuracy": scatter(panels, relations, name)}, kinds)


def scatter(panels: Sequence[DiversityPanel], relations: dict[str, list[Relation]], name: str) -> Sheet:
    """One row per panel, one column per headline measure, colour = arm; a point is a cell."""
    shown = [panel for panel in panels if panel.arms]
    arms = arms_in_order(arm for panel in shown for arm in panel.arms)
    looks = {
        arm: (COLOURS[i % len(COLOURS)], MARKERS[(i + i // len(COLOURS)) % len(MARKERS)]) for i, arm in enumerate(arms)
    }
    with sheet(12.5, 0.75 + 3.35 * len(shown)) as drawn:
        figure, words = drawn.figure, shown[0].metric.words if shown else ACCURACY.words
        figure.suptitle(
            f"{name}: diversity of the views and {words} of the student (association, not effect)", fontsize=11
        )
        rows = figure.subfigures(len(shown), 1, squeeze=False)[:, 0]
        fitted: set[str] = set()
        for row, panel in zip(rows, shown, strict=True):
            row.suptitle(panel.title, x=0.01, ha="left", fontsize=9.5, fontweight="bold")
            axes = row.subplots(1, len(HEADLINE), sharey=True)
            of_measure = {judged.relation.measure: judged for judged in judge(relations[panel.name]).judged}
            for index, (axis, measure) in enumerate(zip(axes, HEADLINE, strict=True)):
                fitted |= _draw_measure(axis, panel, of_measure[measure], looks)
                if index == 0:
                    axis.set_ylabel(f"student {panel.metric.words}, {panel.accuracy_on} (%)")
        _legend(figure, looks, fitted)
    return drawn


def _legend(figure: Any, looks: Looks, fitted: set[str]) -> None:
    """Arms, then the lines that some plot really has."""
    # late: reports without a figure do not wait for it
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [
        Line2D([], [], color=colour, marker=marker, linestyle="", markersize=6,
               markerfacecolor="none" if is_viewless(arm) else colour,
               label=f"{arm} (no views, not fitted)" if is_viewless(arm) else arm)
        for arm, (colour, marker) in looks.items()
    ]  # fmt: skip
    if "within" in fitted:
        handles.append(Line2D([], [], color="#333333", linewidth=CLAIM, label="slope within arms"))
    if "band" in fitted:
        handles.append(Patch(facecolor="#333333", alpha=0.2, linewidth=0, label="its 95 % interval"))
    if "pooled" in fitted:
        handles.append(Line2D([], [], color=POOLED_COLOUR, linewidth=POOLED, label="pooled line (mixes arms)"))
    columns = len(handles) if len(handles) < 8 else (len(handles) + 1) // 2
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)


def _draw_measure(axis: Any, panel: DiversityPanel, judged: Judged, looks: Looks) -> set[str]:
    """One plot; returns which lines it has."""
    measure = judged.relation.measure
    means = cell_means(panel, [measure], panel.fitted(measure))
    bare = cell_means(panel, [], panel.viewless() & np.isfinite(panel.accuracy))
    _draw_points(axis, means, bare, looks, as_image=len(panel.arms) > POINTS)
    x_C = means.measures_CM[:, 0]
    if len(x_C):
        width = float(np.ptp(x_C)) or abs(float(x_C.max())) or 1.0
        axis.set_xlim(x_C.min() - width * (0.14 if bare.arms else 0.05), x_C.max() + width * 0.05)
    fitted = _draw_lines(axis, judged.relation, means, looks)
    axis.set_xlabel(SYMBOLS[measure])
    axis.set_title(panel_title(judged, means), loc="left")
    axis.grid(color="#e6e6e6", linewidth=0.5, zorder=0)
    axis.locator_params(axis="x", nbins=5)
    return fitted


def _draw_points(axis: Any, means: CellMeans, bare: CellMeans, looks: Looks, *, as_image: bool) -> None:
    """Cells with views where they are; those without views, which have no diversity, in a gutter at the left."""
    from matplotlib.patches import Rectangle  # late: reports without a figure do not wait for it

    area = float(np.clip(26 * (100 / max(1, len(means.arms))) ** 0.5, 5, 26))
    gutter = axis.get_yaxis_transform()  # x in shares of the axis
    for arm, (colour, marker) in looks.items():
        mine, without = (np.array([own == arm for own in some.arms], bool) for some in (means, bare))
        axis.scatter(
            means.measures_CM[mine, 0], means.accuracy_C[mine], s=area, c=colour, marker=marker, alpha=0.75,
            linewidths=0.3, edgecolors="white", zorder=3, rasterized=as_image,
        )  # fmt: skip
        axis.plot(
            np.full(without.sum(), 0.035), bare.accuracy_C[without], transform=gutter, linestyle="", zorder=3,
            rasterized=as_image, color=colour, marker=marker, markersize=area**0.5, markerfacecolor="none",
        )  # fmt: skip
    if bare.arms:
        axis.add_patch(Rectangle((0, 0), 0.07, 1, transform=axis.transAxes, color="#eeeeee", zorder=0, linewidth=0))


def _draw_lines(axis: Any, relation: Relation, means: CellMeans, looks: Looks) -> set[str]:
    """The common slope through each arm's mean, with its interval, heaviest; the pooled line thin."""
    fitted: set[str] = set()
    x_C, y_C = means.measures_CM[:, 0], means.accuracy_C
    pooled, within = relation.estimates["pooled"].slope, relation.within
    if within is not None and within.slope is not None:
        slope = within.slope
        for arm, (colour, _) in looks.items():
            mine = np.array([own == arm for own in means.arms], bool)
            if not mine.any():
                continue
            ends, centre = _ends(x_C[mine]), (float(x_C[mine].mean()), float(y_C[mine].mean()))
            if slope.low is not None and slope.high is not None:
                edges = [_line(centre, steepness, ends) for steepness in (slope.low, slope.high)]
                axis.fill_between(ends, *edges, color=colour, alpha=0.2, linewidth=0, zorder=1)
                fitted.add("band")
            axis.plot(ends, _line(centre, slope.value, ends), color=colour, linewidth=CLAIM, zorder=4)
            fitted.add("within")
    if pooled is not None and (within is None or within.slope != pooled):
        ends, centre = _ends(x_C), (float(x_C.mean()), float(y_C.mean()))
        axis.plot(ends, _line(centre, pooled.value, ends), color=POOLED_COLOUR, linewidth=POOLED, zorder=2)
        fitted.add("pooled")
    return fitted


def _ends(x_C: Floats) -> Floats:
    """The range, with the mean between, where the band of a slope has no width."""
    return np.array([x_C.min(), x_C.mean(), x_C.max()])


def _line(centre: tuple[float, float], slope: float, x: Floats) -> Floats:
    return centre[1] + slope * (x - centre[0])


def panel_title(judged: Judged, means: CellMeans) -> str:
    """What stands above a plot in two lines: r within arms, then the corrected p and how many cells."""
    relation, cells = judged.relation, len(means.arms)
    size = f"{cells} cells" if means.trials == cells else f"{cells} cells, {means.trials} trials"
    if relation.within is not None and relation.within.pearson is not None:
        title = f"within arms r = {coefficient_text(relation.within.pearson)}"
        size = f"Holm p {probability(judged.p_holm)}, {size}"
    elif "within_arm" in relation.refused:
        title = "within arms: refused, too few cells"
    else:
        title = "no variation within arms"
    pooled = relation.estimates["pooled"]
    if pooled is not relation.within and pooled.pearson is not None:
        size += f"; pooled r = {pooled.pearson.value:+.2f}"
    return f"{title}\n{size}".replace("-", "\N{MINUS SIGN}")

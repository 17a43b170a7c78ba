"""Figures of hyper-parameter importance: shares by setting, and slices: accuracy against each setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np

from akdtune.metric import ACCURACY
from akdtune.reports.figures import BOTH, COLOURS, COLUMNS, GREY, MARKERS, Sheet, image_files, sheet, suptitle
from akdtune.reports.importance.shares import EVALUATORS, JudgedArm


@dataclass(frozen=True)
class Share:
    """A setting's importance with its interval and what chance gives."""

    value: float
    low: float
    high: float
    chance: float


def importance_panels(arms: Mapping[str, Mapping[str, Mapping[str, Share]]], *, title: str, footnote: str) -> Sheet:
    """Importance by arm, setting and evaluator; one panel per arm, settings from top to bottom."""
    heights = [max(2, len(settings)) for settings in arms.values()]
    evaluators = list(
        dict.fromkeys(name for settings in arms.values() for shares in settings.values() for name in shares)
    )
    with sheet(7.4, 1.35 + sum(0.36 * height + 0.45 for height in heights)) as drawn:
        axes = drawn.figure.subplots(len(arms), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
        for axis, (arm, settings) in zip(axes, arms.items(), strict=True):
            _draw_importances(axis, settings, evaluators)
            axis.set_title(arm, loc="left")
        axes[-1].set_xlabel("share of importance (shares of one arm add up to 1)")
        suptitle(drawn.figure, title)
        _importance_legend(drawn.figure, evaluators, footnote)
    return drawn


def _draw_importances(axis: Any, settings: Mapping[str, Mapping[str, Share]], evaluators: Sequence[str]) -> None:
    for place, of_setting in enumerate(settings.values()):
        for index, evaluator in enumerate(evaluators):
            share = of_setting.get(evaluator)
            if share is None:
                continue
            height = place + (index - (len(evaluators) - 1) / 2) * 0.3
            colour = COLOURS[index]
            axis.plot(
                [share.low, share.high], [height] * 2, color=colour, linewidth=2.2, solid_capstyle="butt", alpha=0.55
            )
            filled = share.value > share.chance
            axis.plot(share.value, height, MARKERS[index], color=colour, markersize=6, zorder=4,
                      markerfacecolor=colour if filled else "white", markeredgewidth=1.1)  # fmt: skip
            axis.plot(share.chance, height, "|", color=GREY, markersize=8, markeredgewidth=1.2, zorder=3)
    axis.set_xlim(-0.02, 1.02)
    axis.set_ylim(len(settings) - 0.45, -0.55)
    axis.set_yticks(range(len(settings)), list(settings))
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)
    axis.grid(axis="x", color="#e6e6e6", linewidth=0.5)
    axis.set_axisbelow(True)


def _importance_legend(figure: Any, evaluators: Sequence[str], footnote: str) -> None:
    from matplotlib.lines import Line2D  # late: reports without a figure do not wait for it

    handles = [
        Line2D([], [], color=COLOURS[i], marker=MARKERS[i], linewidth=2.2, label=name)
        for i, name in enumerate(evaluators)
    ]
    handles.append(
        Line2D([], [], color=GREY, marker="|", linestyle="", markersize=8, label="chance (95 % of shuffles below)")
    )
    handles.append(
        Line2D([], [], color=GREY, marker="o", markerfacecolor="white", linestyle="", label="hollow: not above chance")
    )
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, title=footnote,
                  title_fontsize=7.5, columnspacing=1.3)  # fmt: skip


@dataclass(frozen=True)
class Slice:
    """Every configuration's score against one setting.

    Attributes:
        setting: its key path.
        x: place of each configuration: its value, or the index of its option.
        scores: of the same configurations.
        numbers: their places in the plan.
        places, means, lows, highs: of bins or options; `lows` and `highs` hold None where there is no interval.
        options: labels along the axis; empty for numbers.
        log: whether numbers stand on a logarithmic axis.
    """

    setting: str
    x: Sequence[float]
    scores: Sequence[float]
    numbers: Sequence[float]
    places: Sequence[float]
    means: Sequence[float]
    lows: Sequence[float | None]
    highs: Sequence[float | None]
    options: Sequence[str]
    log: bool


PANEL, BLOCK = 2.35, 0.35
"""Inches of a row of panels, and of an arm's heading."""


def slice_panels(arms: Mapping[str, Sequence[Slice]], *, title: str, ylabel: str) -> Sheet:
    """A panel per searched setting with a point per configuration, coloured by its place in the plan.

    Panels of an arm stand in one block and share the axis of scores; colours mean the same in all blocks.
    """
    rows = [ceil(len(of_arm) / COLUMNS) for of_arm in arms.values()]
    columns = min(COLUMNS, max(len(of_arm) for of_arm in arms.values()))
    heights = [BLOCK + PANEL * count for count in rows]
    last = max((number for of_arm in arms.values() for drawn in of_arm for number in drawn.numbers), default=1.0)
    with sheet(max(5.4, 1.2 + 2.45 * columns), 0.75 + sum(heights)) as drawn:
        blocks = drawn.figure.subfigures(len(arms), 1, squeeze=False, height_ratios=heights)[:, 0]
        for block, count, (arm, of_arm) in zip(blocks, rows, arms.items(), strict=True):
            block.suptitle(arm, x=0.01, ha="left", fontsize=9, fontweight="bold")
            axes = block.subplots(count, columns, sharey=True, squeeze=False)
            points = None
            for place, axis in enumerate(axes.flat):
                if place >= len(of_arm):
                    axis.set_visible(False)
                    continue
                points = _draw_slice(axis, of_arm[place], max(1.0, last))
                if place % columns == 0:
                    axis.set_ylabel(ylabel)
            bar = block.colorbar(points, ax=axes, aspect=28 * count, pad=0.01, shrink=0.9)
            bar.set_label("place in the plan")
            bar.outline.set_linewidth(0.4)
        suptitle(drawn.figure, title)
    return drawn


def _draw_slice(axis: Any, drawn: Slice, last: float) -> Any:
    jitter = np.zeros(len(drawn.x))
    if drawn.options:
        jitter = np.random.default_rng(0).uniform(-0.16, 0.16, len(drawn.x))
    points = axis.scatter(np.array(drawn.x) + jitter, drawn.scores, c=drawn.numbers, cmap=_order_colours(), vmin=0,
                          vmax=last, s=15, edgecolors="#777777", linewidths=0.3, zorder=2,
                          rasterized=len(drawn.x) > 500)  # fmt: skip
    width = 0.26 if drawn.options else None
    for place, mean, low, high in zip(drawn.places, drawn.means, drawn.lows, drawn.highs, strict=True):
        if width is not None:
            axis.plot([place - width, place + width], [mean, mean], color=COLOURS[1], linewidth=1.6, zorder=4)
        if low is not None and high is not None:
            axis.plot([place, place], [low, high], color=COLOURS[1], linewidth=1.1, zorder=3)
    if width is None:
        axis.plot(drawn.places, drawn.means, color=COLOURS[1], marker="o", markersize=3, linewidth=1.0, zorder=4)
    if drawn.log:
        _log_axis(axis, drawn.x)
    if drawn.options:
        _option_axis(axis, drawn.options)
    axis.set_xlabel(_end_of(drawn.setting, SETTING_LETTERS))
    axis.grid(axis="y", color="#e6e6e6", linewidth=0.5)
    axis.set_axisbelow(True)
    return points


def _order_colours() -> Any:
    """Blues as in Optuna's slice plot, without those that white paper swallows."""
    from matplotlib import colormaps  # late: reports without a figure do not wait for it
    from matplotlib.colors import ListedColormap

    return ListedColormap(colormaps["Blues"](np.linspace(0.2, 1.0, 256)))


def _log_axis(axis: Any, x: Sequence[float]) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter  # late: reports without a figure do not wait for it

    decades = np.log10(max(x) / min(x))
    axis.set_xscale("log")
    subs = (1.0, 2.0, 5.0) if decades < 1.2 else (1.0, 3.0) if decades < 2.5 else (1.0,)
    axis.xaxis.set_major_locator(LogLocator(subs=subs))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter(NullFormatter())


SETTING_LETTERS, OPTION_LETTERS, ROW_LETTERS = 27, 14, 30
"""What fits under a panel: of a setting's name, of an option's, of all options side by side."""


def _option_axis(axis: Any, options: Sequence[str]) -> None:
    """Names of options under their points; slanted where they would touch each other."""
    shown = [_end_of(option, OPTION_LETTERS, keep_start=True) for option in options]
    crowded = max(map(len, shown)) * len(shown) > ROW_LETTERS
    slanted = {"rotation": 35, "ha": "right", "rotation_mode": "anchor", "fontsize": 7} if crowded else {}
    axis.set_xticks(range(len(shown)), shown, **slanted)
    axis.set_xlim(-0.5, len(shown) - 0.5)


def _end_of(text: str, letters: int, keep_start: bool = False) -> str:
    """A long text without its beginning, or without its end."""
    if len(text) <= letters:
        return text
    return text[: letters - 1] + "…" if keep_start else "…" + text[1 - letters :]


ARMS_DRAWN = 8


# ------------------------------------------------------------------------------------------------- figures


def draw(judged: Sequence[JudgedArm], name: str, kinds: Sequence[str] = BOTH) -> dict[str, bytes]:
    """The figures by file name, each as every kind; of many arms the first `ARMS_DRAWN`."""
    shown = [arm for arm in judged if not arm.refused][:ARMS_DRAWN]
    metric = shown[0].arm.metric if shown else ACCURACY
    drawn: dict[str, Sheet] = {}
    shares: dict[str, dict[str, dict[str, Share]]] = {}
    for arm in shown:
        for evaluator, label in EVALUATORS.items():
            for share in arm.importances[evaluator]:
                of_setting = shares.setdefault(_heading(arm), {}).setdefault(share.name, {})
                of_setting[label] = Share(share.share, share.low, share.high, share.chance)
    if shares:
        drawn["importance"] = importance_panels(
            shares, title=f"{name}: importance of the searched settings for validation {metric.words}",
            footnote="bars: 90 % intervals by resampled configurations",
        )  # fmt: skip
    if shown:
        drawn["importance_slices"] = slice_panels(
            {_heading(arm): [_slice(arm, setting) for setting in arm.by_importance] for arm in shown},
            title=f"{name}: configurations; orange: means, 95 % if n ≥ 5",
            ylabel=f"validation {metric.words} (%)",
        )  # fmt: skip
    return image_files(drawn, kinds)


def _heading(judged: JudgedArm) -> str:
    pruned = judged.arm.excluded.get("pruned", 0)
    survivors = f", survivors of pruning ({pruned} pruned)" if pruned else ""
    return f"{judged.arm.name}, n = {len(judged.arm.configurations)}{survivors}"


def _slice(judged: JudgedArm, setting: str) -> Slice:
    arm, bins, kind = judged.arm, judged.marginals[setting], judged.kinds[setting]
    has = [i for i, configuration in enumerate(arm.configurations) if setting in configuration]
    options = [bin_.label for bin_ in bins if bin_.x is None]
    if options:
        at = list(map(float, range(len(bins))))
        place = {member: float(index) for index, bin_ in enumerate(bins) for member in bin_.members}
        x = [place[index] for index in range(len(has))]
    else:
        at = [0.0 if bin_.x is None else bin_.x for bin_ in bins]
        x = [float(arm.configurations[i][setting]) for i in has]
    return Slice(
        setting, x, arm.scores_N[has].tolist(), arm.numbers_N[has].tolist(), at, [bin_.mean for bin_ in bins],
        [bin_.low for bin_ in bins], [bin_.high for bin_ in bins], options,
        bool(getattr(kind, "log", False)) and not options,
    )  # fmt: skip

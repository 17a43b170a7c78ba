"""Figures of hyper-parameter importance: shares by setting, and accuracy against each setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np

from akdtune.reports.figures import COLOURS, COLUMNS, GREY, MARKERS, sheet, suptitle
from akdtune.reports.importance import EVALUATORS, JudgedArm


@dataclass(frozen=True)
class Share:
    """A setting's importance with its interval and what chance gives."""

    value: float
    low: float
    high: float
    chance: float


def importance_panels(
    arms: Mapping[str, Mapping[str, Mapping[str, Share]]], *, title: str, footnote: str
) -> dict[str, bytes]:
    """Importance by arm, setting and evaluator, as PNG and SVG; one panel per arm, settings from top to bottom."""
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
    return drawn.files


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
class Marginal:
    """Scores against one setting, and their means by option or bin.

    Attributes:
        setting: its key path.
        x: place of each configuration: its value, or the index of its option.
        scores: of the same configurations.
        places, means, lows, highs, counts: of the bins; `lows` and `highs` hold None where there is no interval.
        options: labels along the axis; empty for numbers.
        log: whether numbers stand on a logarithmic axis.
    """

    setting: str
    x: Sequence[float]
    scores: Sequence[float]
    places: Sequence[float]
    means: Sequence[float]
    lows: Sequence[float | None]
    highs: Sequence[float | None]
    counts: Sequence[int]
    options: Sequence[str]
    log: bool


def marginal_panels(arms: Mapping[str, Sequence[Marginal]], *, title: str, ylabel: str) -> dict[str, bytes]:
    """Scores against every searched setting, a block of panels per arm, as PNG and SVG."""
    rows = [ceil(len(of_arm) / COLUMNS) for of_arm in arms.values()]
    columns = min(COLUMNS, max(len(of_arm) for of_arm in arms.values()))
    with sheet(max(4.6, 0.5 + 2.45 * columns), 0.7 + sum(0.3 + 2.35 * count for count in rows)) as drawn:
        blocks = drawn.figure.subfigures(
            len(arms), 1, squeeze=False, height_ratios=[0.3 + 2.35 * count for count in rows]
        )[:, 0]
        for block, count, (arm, of_arm) in zip(blocks, rows, arms.items(), strict=True):
            block.suptitle(arm, x=0.01, ha="left", fontsize=9, fontweight="bold")
            axes = block.subplots(count, columns, sharey=True, squeeze=False)
            for place, axis in enumerate(axes.flat):
                if place >= len(of_arm):
                    axis.set_visible(False)
                    continue
                _draw_marginal(axis, of_arm[place])
                if place % columns == 0:
                    axis.set_ylabel(ylabel)
        suptitle(drawn.figure, title)
    return drawn.files


def _draw_marginal(axis: Any, marginal: Marginal) -> None:
    jitter = (
        np.random.default_rng(0).uniform(-0.12, 0.12, len(marginal.x))
        if marginal.options
        else np.zeros(len(marginal.x))
    )
    axis.scatter(np.array(marginal.x) + jitter, marginal.scores, s=9, color="#9a9a9a", alpha=0.6, linewidths=0,
                 zorder=2, rasterized=len(marginal.x) > 500)  # fmt: skip
    axis.plot(
        marginal.places,
        marginal.means,
        color=COLOURS[0],
        marker="o",
        markersize=4.5,
        linewidth=0 if marginal.options else 1.1,
        zorder=4,
    )
    for place, low, high in zip(marginal.places, marginal.lows, marginal.highs, strict=True):
        if low is not None and high is not None:
            axis.plot([place, place], [low, high], color=COLOURS[0], linewidth=1.3, marker="_", markersize=5, zorder=3)
    if marginal.log:
        from matplotlib.ticker import LogLocator, NullFormatter  # late: reports without a figure do not wait for it

        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter(NullFormatter())
    if marginal.options:
        axis.set_xticks(
            range(len(marginal.options)),
            [option if len(option) < 12 else option[:10] + "…" for option in marginal.options],
        )
        axis.set_xlim(-0.5, len(marginal.options) - 0.5)
    for place, count in zip(marginal.places, marginal.counts, strict=True):
        axis.annotate(
            str(count),
            (place, 1.0),
            xycoords=("data", "axes fraction"),
            ha="center",
            va="bottom",
            fontsize=6.5,
            color=GREY,
        )
    axis.set_xlabel(marginal.setting)
    axis.grid(axis="y", color="#e6e6e6", linewidth=0.5)


ARMS_DRAWN = 8


# ------------------------------------------------------------------------------------------------- figures


def draw(judged: Sequence[JudgedArm], name: str) -> dict[str, bytes]:
    """The figures by file name, PNG and SVG each; of many arms the first `ARMS_DRAWN`."""
    shown = [arm for arm in judged if not arm.refused][:ARMS_DRAWN]
    drawn: dict[str, dict[str, bytes]] = {}
    shares: dict[str, dict[str, dict[str, Share]]] = {}
    for arm in shown:
        for evaluator, label in EVALUATORS.items():
            for share in arm.importances[evaluator]:
                of_setting = shares.setdefault(_heading(arm), {}).setdefault(share.name, {})
                of_setting[label] = Share(share.share, share.low, share.high, share.chance)
    if shares:
        drawn["importance"] = importance_panels(
            shares, title=f"{name}: importance of the searched settings for validation accuracy",
            footnote="bars: 90 % of resamples of finished configurations",
        )  # fmt: skip
    if shown:
        drawn["importance_marginals"] = marginal_panels(
            {_heading(arm): [_marginal(arm, setting) for setting in arm.by_importance] for arm in shown},
            title=f"{name}: finished configurations (grey), means with 95 % intervals (blue), their number above",
            ylabel="validation accuracy (%)",
        )  # fmt: skip
    return {f"{stem}.{kind}": image for stem, files in drawn.items() for kind, image in files.items()}


def _heading(judged: JudgedArm) -> str:
    pruned = judged.arm.excluded.get("pruned", 0)
    survivors = f", survivors of pruning ({pruned} pruned)" if pruned else ""
    return f"{judged.arm.name}, n = {len(judged.arm.configurations)}{survivors}"


def _marginal(judged: JudgedArm, setting: str) -> Marginal:
    bins = judged.marginals[setting]
    has = [i for i, configuration in enumerate(judged.arm.configurations) if setting in configuration]
    options = [bin_.label for bin_ in bins] if all(bin_.one_value for bin_ in bins) else []
    if options:
        at = list(map(float, range(len(bins))))
        place = {member: float(index) for index, bin_ in enumerate(bins) for member in bin_.members}
        x = [place[index] for index in range(len(has))]
    else:
        at = [bin_.x or 0.0 for bin_ in bins]
        x = [float(judged.arm.configurations[i][setting]) for i in has]
    return Marginal(
        setting, x, judged.arm.scores_N[has].tolist(), at, [bin_.mean for bin_ in bins], [bin_.low for bin_ in bins],
        [bin_.high for bin_ in bins], [bin_.n for bin_ in bins], options,
        bool(getattr(judged.kinds[setting], "log", False)) and not options,
    )  # fmt: skip

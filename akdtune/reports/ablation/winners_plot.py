"""The plot of a confirmation: the search's winners on fresh seeds, with their ranks before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from akdtune.reports import figures


@dataclass(frozen=True)
class Place:
    """One confirmed configuration: its ranks in the search and after confirmation, and what fresh seeds gave.

    Attributes:
        label: what it is called.
        search_rank, confirmed_rank: among the winners; None for a baseline.
        mean, low, high: of its seeds, with the interval; None for one seed.
        n: seeds.
    """

    label: str
    search_rank: int | None
    confirmed_rank: int | None
    mean: float
    low: float | None
    high: float | None
    n: int


def winners(places: Sequence[Place], *, title: str, xlabel: str, level: float) -> figures.Sheet:
    """Confirmed means in the order of the search, with their ranks there and after confirmation; baselines below.

    Args:
        places: of winners and baselines, in any order.
        title: above the plot.
        xlabel: what was confirmed.
        level: of the intervals.
    """
    # A baseline was not ranked and stands last.
    ordered = sorted(places, key=lambda place: place.search_rank or len(places) + 1)
    with figures.sheet(7.4, 1.6 + 0.32 * len(ordered)) as drawn:
        axis = drawn.figure.subplots()
        for height, place in enumerate(ordered):
            colour, marker = (figures.COLOURS[0], "o") if place.search_rank else (figures.COLOURS[1], "s")
            if place.low is not None and place.high is not None:
                axis.plot([place.low, place.high], [height] * 2, color=colour, linewidth=2.4, solid_capstyle="butt")
            axis.plot(place.mean, height, marker, color=colour, markersize=6, markeredgecolor="white", zorder=4)
        axis.set_ylim(len(ordered) - 0.4, -1.2)
        labels = [f"{place.label}   {place.search_rank or figures.DASH:>2}" for place in ordered]
        axis.set_yticks([-0.8, *range(len(ordered))], ["rank in the search", *labels])
        axis.get_yticklabels()[0].set_color(figures.GREY)
        axis.tick_params(axis="y", length=0)
        axis.spines["left"].set_visible(False)
        axis.grid(axis="x", color="#e6e6e6", linewidth=0.5)
        axis.set_axisbelow(True)
        axis.margins(x=0.06)
        axis.set_xlabel(xlabel)
        figures.suptitle(drawn.figure, title)
        texts = [f"{place.confirmed_rank or figures.DASH:>2}   n = {place.n}" for place in ordered]
        figures.at_right(axis, range(len(ordered)), texts, "rank confirmed", -0.8)
        _winners_legend(drawn.figure, ordered, level)
    return drawn


def _winners_legend(figure: Any, places: Sequence[Place], level: float) -> None:
    from matplotlib.lines import Line2D  # late: reports without a figure do not wait for it

    blue, orange = figures.COLOURS[:2]
    looks = [(True, "winner of the search", blue, "o"), (False, "baseline, not searched", orange, "s")]
    handles = [
        Line2D([], [], color=colour, marker=marker, linewidth=2.4, label=f"{label}, {100 * level:g} %")
        for is_winner, label, colour, marker in looks
        if any((place.search_rank is not None) is is_winner for place in places)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, columnspacing=1.3)

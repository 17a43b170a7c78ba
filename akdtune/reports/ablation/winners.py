"""The search's winners after their confirmation: ranks there and here, for the scores are of different images.

A search judges on validation images after training without them, a confirmation on test images, as a rule after
training on all images with fresh seeds. The difference of two such numbers is no change of one thing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

from akdtune.metric import ACCURACY, judged_on
from akdtune.reports.ablation.findings import lost_words
from akdtune.reports.ablation.measured import Phase
from akdtune.reports.text import number, probability, signed

FEWEST_RANKED = 5
"""Winners below which no rank correlation is given."""

SELECTED = (
    "a search score is the highest of noisy numbers, so it is too good by an amount that this report does not know; "
    "selection used validation images only, and the test set was read once, after it"
)


def search_metric(phase: Phase) -> str:
    """What the search judged by: the metric of the study on validation images."""
    return f"val_{phase.metric.removeprefix('test_')}" if judged_on(phase.metric) == "test" else ACCURACY.validation


@dataclass(frozen=True)
class Ranks:
    """Places among the confirmed winners, 1 for the highest; None for a baseline and without a value.

    Attributes:
        search_rank: by search score.
        confirmed_rank: by the mean over the confirmation's seeds.
    """

    search_rank: int | None
    confirmed_rank: int | None


def ranks(phase: Phase) -> dict[str, Ranks]:
    """Both ranks of every cell of a confirmation; equal numbers share the better one."""
    searched = {cell.name: cell.search_score for cell in phase.cells if cell.search_score is not None}
    confirmed = {
        cell.name: fmean(cell.values.values()) for cell in phase.cells if cell.values and cell.name in searched
    }
    both = [{name: _rank(name, of_phase) for name in of_phase} for of_phase in (searched, confirmed)]
    return {cell.name: Ranks(both[0].get(cell.name), both[1].get(cell.name)) for cell in phase.cells}


def _rank(name: str, values: Mapping[str, float]) -> int:
    return 1 + sum(value > values[name] for value in values.values())


def headings(phase: Phase) -> list[str]:
    """Headings of the columns of `rows`."""
    confirmed_on = judged_on(phase.metric)
    return ["confirmed cell", "rank in search", "rank confirmed", "search score, validation",
            f"confirmed mean, {confirmed_on}"]  # fmt: skip


def rows(phase: Phase) -> list[list[str]]:
    """Rank in the search beside the rank after confirmation, each with what it stands on; as many as cells."""
    places, table = ranks(phase), []
    for cell in phase.cells:
        place = places[cell.name]
        mean = number(fmean(cell.values.values()) if cell.values else None)
        lost = f" ({lost_words(cell.lost)})" if cell.lost else ""
        shown = ["" if rank is None else str(rank) for rank in (place.search_rank, place.confirmed_rank)]
        table.append([cell.name, *shown, "" if cell.search_score is None else number(cell.search_score), mean + lost])
    return table


def notes(phase: Phase) -> list[str]:
    """What must be known to read both ranks, one sentence each."""
    confirmed_on = judged_on(phase.metric)
    trained = {
        "full": ", after training on all of them", "subset": ", after training without the validation images"
    }.get(str(phase.settings.get("trained_on")), "")  # fmt: skip
    said = [
        SELECTED,
        "the test set chooses nothing: ranks of the search stay; those after confirmation are of means whose intervals "
        "may overlap",
        "search scores are of validation images, after training without them, and confirmed means of "
        f"{confirmed_on} images{trained}: their difference is no change of one number, and ranks alone are compared",
    ]
    correlation = _kendall(phase)
    return [*said, correlation] if correlation else said


def _kendall(phase: Phase) -> str:
    """Rank correlation of search scores and confirmed means, tau-b; empty for few winners and for one score."""
    pairs = [
        (cell.search_score, fmean(cell.values.values()))
        for cell in phase.cells
        if cell.search_score is not None and cell.values
    ]
    if len(pairs) < FEWEST_RANKED or any(len(set(side)) < 2 for side in zip(*pairs, strict=True)):
        return ""
    from scipy.stats import kendalltau  # late: commands that only list trials do not wait for it

    test = kendalltau(*zip(*pairs, strict=True))
    p = probability(float(test.pvalue))
    p = p if p.startswith("<") else f"= {p}"
    return f"Kendall's tau of both ranks: {signed(float(test.statistic))} (p {p}, n = {len(pairs)} winners)"

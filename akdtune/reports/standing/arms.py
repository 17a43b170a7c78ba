"""The arms of a study side by side: what of each is comparable, as mean, standard deviation, interval and best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import fmean
from typing import Any, TypeAlias

from akdtune.metric import of_trials
from akdtune.reports.ablation.findings import Finding, lost_words
from akdtune.reports.ablation.measured import MeasuredCell
from akdtune.reports.ablation.tables import Result, lost_mark
from akdtune.reports.ablation.words import mark
from akdtune.reports.importance.searched_arms import SearchedArm, arms_in
from akdtune.reports.standing.table import Table
from akdtune.reports.text import interval, number, signed
from akdtune.statistics.paired import CellSummary, cell_summary

Row: TypeAlias = Mapping[str, Any]

SAMPLING = ("random", "qmc")
"""Algorithms that draw configurations; others choose them by results, or take all there are."""

GRID = "a grid holds every one"

PHASES = {"ablation": "ablation", "confirm": "confirmation"}


@dataclass(frozen=True)
class Configuration:
    """A configuration of a search or of probes that has reached its last epoch.

    Attributes:
        arm, role, cell_id: its own.
        trial_id: its first trial.
        values: the metric on validation images in percent, by seed.
    """

    arm: str
    role: str
    cell_id: str
    trial_id: str
    values: Mapping[int, float]

    @property
    def mean(self) -> float:
        """Over its seeds."""
        return fmean(self.values.values())


def configurations(rows: Sequence[Row]) -> list[Configuration]:
    """Every configuration of search and probes with a trial at its last epoch, in the plan's order."""
    values: dict[tuple[str, str], dict[int, float]] = {}
    first: dict[tuple[str, str], Row] = {}
    for row in rows:
        value = row.get(of_trials(row).validation)
        if row["role"] in ("search", "probe") and row["status"] == "done" and value is not None and isfinite(value):
            key = (row["role"], row["cell_id"])
            first.setdefault(key, row)
            values.setdefault(key, {})[row["seed"]] = float(value)
    return [
        Configuration(str(first[key]["arm"]), key[0], key[1], str(first[key]["trial_id"]), of_key)
        for key, of_key in values.items()
    ]


def repeated_arms(rows: Sequence[Row]) -> dict[str, dict[int, float]]:
    """Validation values by seed of each arm, where every arm of the search is one configuration of several seeds.

    Then seeds are replicates and arms are compared as cells are. Empty for every other search, and where early
    stopping decided which of them came to their end.
    """
    searched = [row for row in rows if row["role"] == "search"]
    cells: dict[str, set[str]] = {}
    for row in searched:
        cells.setdefault(str(row["arm"]), set()).add(row["cell_id"])
    pruned = any(row["status"] == "pruned" for row in searched)
    if pruned or len(cells) < 2 or any(len(of_arm) > 1 for of_arm in cells.values()):
        return {}
    values = {found.arm: dict(found.values) for found in configurations(searched)}
    seeds = {row["seed"] for row in searched}
    return values if len(seeds) > 1 and any(len(of_arm) > 1 for of_arm in values.values()) else {}


def sampled_roles(rows: Sequence[Row], algorithm: str | None) -> tuple[str, ...]:
    """The roles whose configurations nothing but chance has chosen, so that they are a sample of their arm.

    Args:
        rows: of all trials.
        algorithm: of the search; None where it is not known.
    """
    pruned = {row["role"] for row in rows if row["status"] == "pruned"}
    drawn = {"probe"} if algorithm not in SAMPLING else {"probe", "search"}
    return tuple(role for role in ("probe", "search") if role in drawn - pruned)


# ------------------------------------------------------------------------------------------------------ in a table


def of_search(rows: Sequence[Row], role: str, algorithm: str | None) -> Table | None:
    """The arms of a search or of probes; None where there are no such trials.

    Args:
        rows: of all trials.
        role: search or probe.
        algorithm: of the search; None where it is not known.
    """
    mine = [row for row in rows if row["role"] == role]
    if not mine:
        return None
    words = of_trials(mine[0]).words
    if role == "search" and (repeated := repeated_arms(mine)):
        return _of_repeated(mine, repeated)
    _, arms = arms_in(mine, role)
    pruned = any(arm.excluded.get("pruned") for arm in arms)
    sampled = role in sampled_roles(mine, algorithm)
    table_rows = [_search_row(arm, bare=not sampled) for arm in sorted(arms, key=_by_best)]
    what = ", none pruned" if role == "probe" and not pruned else " that reached the last epoch"
    why = ["pruned ones stand in no mean"] if pruned else []
    if role == "search" and algorithm not in SAMPLING:
        why.append(GRID if algorithm == "grid" else f"{algorithm or 'the search'} proposes where it was good before")
    return Table(
        title=f"{'probes' if role == 'probe' else 'search'}: validation {words} over configurations{what}",
        headings=("arm", "n", "mean ± sd", "95 %", "best", "not counted"),
        rows=table_rows,
        right=(1, 2, 3, 4),
        note=f"no interval where configurations are no sample: {', '.join(why)}" if why else "",
    )


def _by_best(arm: SearchedArm) -> tuple[float, str]:
    return (-float(arm.scores_N.max()) if len(arm.scores_N) else 1.0, arm.name)


def _search_row(arm: SearchedArm, *, bare: bool) -> tuple[str, ...]:
    summary = cell_summary(arm.scores_N)
    best = number(float(arm.scores_N.max())) if len(arm.scores_N) else ""
    left = ", ".join(f"{count} {status}" for status, count in arm.excluded.items() if count)
    if arm.further_seeds:
        left = ", ".join(filter(None, (left, f"{arm.further_seeds} of further seeds")))
    return arm.name, str(summary.n), _spread(summary), "" if bare else _plain_interval(summary), best, left


def _of_repeated(rows: Sequence[Row], values: Mapping[str, Mapping[int, float]]) -> Table:
    names = dict.fromkeys(str(row["arm"]) for row in rows)
    left = {
        name: {row["seed"]: str(row["status"]) for row in rows if row["arm"] == name and row["status"] != "done"}
        for name in names
    }
    summaries = {name: cell_summary(list(values.get(name, {}).values())) for name in names}
    ordered = sorted(names, key=lambda name: -(summaries[name].mean or -1.0))
    return Table(
        title=f"search: validation {of_trials(rows[0]).words} over seeds, one configuration an arm",
        headings=("arm", "n", "mean ± sd", "95 %", "not counted"),
        rows=[
            (name, str(summaries[name].n), _spread(summaries[name]), _plain_interval(summaries[name]),
             lost_words(left[name]) if left[name] else "")
            for name in ordered
        ],
        right=(1, 2, 3),
    )  # fmt: skip


def of_result(result: Result) -> Table:
    """The cells of a confirmation or an ablation over their seeds, and their paired differences to the reference."""
    phase, percent = result.phase, f"{100 * result.level:g} %"
    metric = phase.metric.replace("_", " ")
    compared = phase.reference is not None
    columns = ("difference", f"simultaneous {percent}", "") if compared else (percent,)
    cells = sorted(phase.cells, key=lambda cell: (cell.name != phase.reference, cell.is_control))
    against = f", paired differences to {phase.reference}" if compared else ""
    return Table(
        title=f"{PHASES[phase.name]}: {metric} over {len(phase.seeds)} seeds{against}",
        headings=("cell", "n", "mean ± sd", *columns),
        rows=[_cell_row(result, cell, compared=compared) for cell in cells],
        right=(1, 2, 3, 4),
    )


def _cell_row(result: Result, cell: MeasuredCell, *, compared: bool) -> tuple[str, ...]:
    summary, finding = result.summaries[cell.name], result.finding(cell)
    seeds = len(result.phase.seeds)
    n = str(summary.n) if summary.n == seeds else f"{summary.n}/{seeds}"
    lost = f" ({marks})" if (marks := lost_mark(cell)) else ""
    head = cell.name, n, _spread(summary) + lost
    if not compared:
        return *head, _plain_interval(summary)
    if finding is None:
        return *head, "", "", "reference"
    return *head, *_difference(finding)


def _difference(finding: Finding) -> tuple[str, str, str]:
    """Difference, interval and verdict; an interval outside every family stands for its comparison alone."""
    if finding.difference.difference is None:
        return "", "", finding.judged
    span = "" if finding.low is None else interval(finding.low, finding.high) + mark(finding)
    return signed(finding.difference.difference), span, finding.judged


def _spread(summary: CellSummary) -> str:
    if summary.mean is None:
        return ""
    return number(summary.mean) + ("" if summary.sd is None else f" ± {number(summary.sd)}")


def _plain_interval(summary: CellSummary) -> str:
    """`[70.21, 74.39]`, of a mean and not of a difference; empty where there is none."""
    return "" if summary.ci_low is None else f"[{number(summary.ci_low)}, {number(summary.ci_high)}]"

"""The configurations that a study tried in each arm, a value each: which trials count, and what is averaged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from akdtune.metric import ACCURACY, Metric, of_trials
from akdtune.records import tables
from akdtune.reports.short_names import searched
from akdtune.reports.text import counted
from akdtune.statistics.resampling import Floats

Row: TypeAlias = Mapping[str, Any]

ROLES = ("search", "probe")
POOLS = ("roles", "seeds")
"""What is put together only where it is asked for."""


@dataclass(frozen=True)
class Selection:
    """Which trials of a study count.

    Attributes:
        roles: whose trials.
        pool_seeds: whether a configuration's value is over all of its seeds; else over those that all share.
        why: why these roles, where nobody chose them; else empty.
    """

    roles: tuple[str, ...]
    pool_seeds: bool = False
    why: str = ""

    def __str__(self) -> str:
        """`search trials`, `search and probe trials together`."""
        together = " together" if len(self.roles) > 1 else ""
        return f"{' and '.join(self.roles)} trials{together}{f' ({self.why})' if self.why else ''}"


@dataclass(frozen=True)
class SearchedArm:
    """The finished configurations of one arm.

    Attributes:
        name: of the arm.
        configurations: searched settings by key path, each configuration once.
        scores_N: the study's metric on validation images in percent, mean over seeds.
        numbers_N: place of each configuration's first trial in the plan.
        seeds_N: over how many seeds each score is.
        seeds: over which, where all configurations share them; else empty.
        trials: how many finished trials count, by role.
        excluded: trials that do not count, by status.
        further_seeds: finished trials of seeds that not all configurations have; they do not count.
        pooled: how many configurations there are with all roles pooled.
        metric: what the scores are of.
    """

    name: str
    configurations: list[dict[str, Any]]
    scores_N: Floats
    numbers_N: Floats
    seeds_N: list[int]
    seeds: tuple[int, ...]
    trials: dict[str, int]
    excluded: dict[str, int]
    further_seeds: int
    pooled: int
    metric: Metric = ACCURACY

    @property
    def settings(self) -> list[str]:
        """Key paths of settings that differ between configurations."""
        names = dict.fromkeys(name for configuration in self.configurations for name in configuration)
        return [
            name for name in names if len({repr(configuration.get(name)) for configuration in self.configurations}) > 1
        ]

    @property
    def values(self) -> str:
        """What the value of a configuration is."""
        if not self.seeds_N or max(self.seeds_N) == 1:
            return "one trial each"
        if self.seeds:
            return f"each the mean over seeds {', '.join(map(str, self.seeds))}"
        fewest, most = min(self.seeds_N), max(self.seeds_N)
        return f"each the mean over its {'' if fewest == most else f'{fewest} to '}{counted(most, 'seed')}"


def select(roles: Iterable[str], role: str | None = None, pool: Sequence[str] = ()) -> Selection:
    """Whose trials count: the role that is asked for, all with `roles` pooled, else those of the search, else probes.

    Args:
        roles: of the study's trials.
        role: the one asked for.
        pool: out of `POOLS`.
    """
    there, pool_seeds = set(roles), "seeds" in pool
    if "roles" in pool:
        return Selection(tuple(name for name in ROLES if name in there) or ROLES, pool_seeds)
    if role is not None:
        return Selection((role,), pool_seeds)
    if "search" not in there and "probe" in there:
        return Selection(("probe",), pool_seeds, "there are no search trials")
    return Selection(("search",), pool_seeds)


def arms_of(run: Path, role: str | None = None, pool: Sequence[str] = ()) -> tuple[Selection, list[SearchedArm]]:
    """The arms of a study with their finished configurations, in the order of the plan.

    Args:
        run: the study directory.
        role: search or probe; None: search, or probe in a study without a search.
        pool: `roles` takes trials of both; `seeds` averages over all seeds of a configuration, also where others have
            fewer. Without, a value is over the seeds that all configurations of the arm have finished.
    """
    return arms_in(tables.read_trials(run).to_pylist(), role, pool)


def arms_in(
    trials: Sequence[Row], role: str | None = None, pool: Sequence[str] = ()
) -> tuple[Selection, list[SearchedArm]]:
    """`arms_of` where the trials are read already."""
    rows = [row for row in trials if row["role"] in ROLES]
    selection = select((row["role"] for row in rows), role, pool)
    arms = []
    for name in dict.fromkeys(row["arm"] for row in rows if row["role"] in selection.roles):
        mine = [row for row in rows if row["arm"] == name]
        pooled = len({row["cell_id"] for row in mine if _counts(row)})
        arms.append(_arm(name, [row for row in mine if row["role"] in selection.roles], selection.pool_seeds, pooled))
    return selection, arms


def _arm(name: str, rows: Sequence[Row], pool_seeds: bool, pooled: int) -> SearchedArm:
    metric = of_trials(rows[0]) if rows else ACCURACY
    done = [row for row in rows if _counts(row)]
    shared = {} if pool_seeds else {role: _shared_seeds([row for row in done if row["role"] == role]) for role in ROLES}
    used = done if pool_seeds else [row for role, seeds in shared.items() for row in _balanced(done, role, seeds)]
    cells: dict[str, list[Row]] = {}
    for row in sorted(used, key=lambda row: row["number"] or 0):
        cells.setdefault(row["cell_id"], []).append(row)
    whole = list(cells.values())
    of_role = [seeds for seeds in shared.values() if seeds]
    left = Counter("without a value" if row["status"] == "done" else row["status"] for row in rows if not _counts(row))
    return SearchedArm(
        name=name,
        configurations=[searched(of_cell[0]) for of_cell in whole],
        scores_N=np.array([np.mean([row[metric.validation] for row in of_cell]) for of_cell in whole], np.float64),
        numbers_N=np.array([min(row["number"] or 0 for row in of_cell) for of_cell in whole], np.float64),
        seeds_N=[len(of_cell) for of_cell in whole],
        seeds=of_role[0] if len(of_role) == 1 else (),
        trials=dict(Counter(row["role"] for row in used)),
        excluded=dict(left),
        further_seeds=len(done) - len(used),
        pooled=pooled,
        metric=metric,
    )


def _counts(row: Row) -> bool:
    value = row[of_trials(row).validation]
    return row["status"] == "done" and value is not None and bool(np.isfinite(value))


def _shared_seeds(done: Sequence[Row]) -> tuple[int, ...]:
    """The seed that most configurations have finished, and those that every one of these has finished as well."""
    cells_of: dict[int, set[str]] = {}
    for row in done:
        cells_of.setdefault(row["seed"], set()).add(row["cell_id"])
    if not cells_of:
        return ()
    most = max(cells_of.values(), key=len)
    return tuple(seed for seed, cells in cells_of.items() if cells >= most)


def _balanced(done: Sequence[Row], role: str, seeds: Sequence[int]) -> list[Row]:
    """The trials of a role with these seeds, of configurations that have them all."""
    mine = [row for row in done if row["role"] == role and row["seed"] in seeds]
    held = Counter(row["cell_id"] for row in mine)
    return [row for row in mine if held[row["cell_id"]] == len(seeds)]

"""Two or more runs of one study side by side: which trials they share, and whether their numbers agree."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

from akdtune.errors import AkdtuneError, StudyError, unknown_name
from akdtune.metric import ACCURACY, in_percent, of_trials
from akdtune.records import tables
from akdtune.records.files import LOCK, require_study
from akdtune.records.lock_file import read_lock
from akdtune.reports.ablation.measured import design_phases
from akdtune.reports.origin import NOT_RECORDED, OF_A_TRIAL, Origin
from akdtune.reports.short_names import searched, short_value
from akdtune.reports.text import counted, number
from akdtune.roles import REPORT_ROLES
from akdtune.settings import file as settings_file
from akdtune.statistics import paired
from akdtune.statistics.paired import CellSummary, Difference

TO_THE_LAST_DIGIT = "to the last digit"

CLOSE = 1e-9
"""Relative; below it two numbers are the same but for the rounding of a sum."""

READING = (
    "differences are B less A, paired by seed; intervals are over training seeds, each by itself. Shared cells are the "
    "same configuration, data and weights, so what differs comes from versions, hardware, settings of execution "
    "(device, compile) or chance"
)
Key: TypeAlias = tuple[str, bool]
"""Cell id, and whether its trials trained on everything and read the test set."""


@dataclass(frozen=True)
class Side:
    """One of the two studies.

    Attributes:
        path: its directory.
        names: of its cells, by key.
        values: by key and seed, every finished trial's row.
        lock: what reproduces it; None where it has no lock.
    """

    path: Path
    names: dict[Key, str]
    values: dict[Key, dict[int, Mapping[str, Any]]]
    lock: dict[str, Any] | None


@dataclass(frozen=True)
class Shared:
    """One cell that both studies have finished with at least one common seed.

    Attributes:
        name: of the cell in A; `other_name` in B.
        metric: what is compared.
        seeds: common ones.
        a, b: summary over the common seeds.
        difference: B less A.
        equal: seeds whose values agree to the last digit; `close` those that agree up to rounding.
        largest: difference.
        alike: seeds of which all other measures agree to the last digit, too; equal accuracies on a few hundred images
            may be a tie of counts.
        measures: other measures that could be compared, at least.
    """

    name: str
    other_name: str
    cell_id: str
    metric: str
    seeds: list[int]
    a: CellSummary
    b: CellSummary
    difference: Difference
    equal: int
    close: int
    largest: float
    alike: int
    measures: int

    @property
    def reproduced(self) -> str:
        """To the last digit, up to rounding, or how many seeds differ."""
        n = len(self.seeds)
        if self.equal == n:
            tied = n - self.alike
            return TO_THE_LAST_DIGIT if not tied else f"equal, but other measures differ in {tied} of {n} seeds"
        if self.close == n:
            return "up to rounding"
        return f"{n - self.close} of {n} seeds differ"


def read_side(run: Path) -> Side:
    """The finished trials of a study by cell and seed.

    Raises:
        StudyError: for a directory that is no study or files that cannot be read.
    """
    path = require_study(run)
    names: dict[Key, str] = {}
    values: dict[Key, dict[int, Mapping[str, Any]]] = {}
    for row in tables.read_trials(path).to_pylist():
        if row["cell_id"] is None or row["role"] is None or row["seed"] is None:
            continue
        key = (row["cell_id"], row["role"] in REPORT_ROLES)
        names.setdefault(key, _described(row))
        if row["status"] == "done":
            values.setdefault(key, {})[int(row["seed"])] = row
    return Side(path, names | _declared(path, names), values, read_lock(path))


def _described(row: Mapping[str, Any]) -> str:
    settings = [f"{name}={short_value(value)}" for name, value in searched(row).items()]
    return f"{row['arm']}" + (f" ({', '.join(settings)})" if settings else "")


def _declared(path: Path, names: Mapping[Key, str]) -> dict[Key, str]:
    """Names that the study's design gives to its cells."""
    try:
        design = design_phases(path)
    except StudyError:
        return {}
    given = {cell["cell_id"]: str(cell["name"]) for phase in design.values() for cell in phase["cells"]}
    return {key: given[key[0]] for key in names if key[1] and key[0] in given}


def shared_cells(a: Side, b: Side, metric: str | None = None) -> list[Shared]:
    """Cells that both have finished, in A's order.

    Args:
        a: one study.
        b: the other.
        metric: a column; default: the study's on the test set where the trials have it, else on validation.

    Raises:
        AkdtuneError: for a metric that no trial has.
    """
    _check(metric, a, b)
    shared = []
    for key in a.names:
        mine, others = a.values.get(key, {}), b.values.get(key, {})
        common = sorted(mine.keys() & others.keys())
        column = metric or _judging([mine[seed] for seed in common])
        seeds = [seed for seed in common if _known(mine[seed].get(column)) and _known(others[seed].get(column))]
        if not seeds:
            continue
        of_a, of_b = ({seed: float(side[seed][column]) for seed in seeds} for side in (mine, others))
        gaps = [abs(of_a[seed] - of_b[seed]) for seed in seeds]
        further = [_further(mine[seed], others[seed], column) for seed in seeds]
        shared.append(
            Shared(
                a.names[key], b.names[key], key[0], column, seeds,
                paired.cell_summary(list(of_a.values())), paired.cell_summary(list(of_b.values())),
                paired.paired_difference(of_b, of_a), sum(gap == 0 for gap in gaps),
                sum(math.isclose(of_a[seed], of_b[seed], rel_tol=CLOSE) for seed in seeds), max(gaps),
                sum(all(pair.values()) for pair in further), min(len(pair) for pair in further),
            )
        )  # fmt: skip
    return shared


def _judging(rows: Sequence[Mapping[str, Any]]) -> str:
    """The metric of a study on the test set where its trials have read that, else on validation images."""
    metric = of_trials(rows[0]) if rows else ACCURACY
    return metric.test if any(_known(row.get(metric.test)) for row in rows) else metric.validation


def _check(metric: str | None, a: Side, b: Side) -> None:
    if metric is None:
        return
    rows = [row for side in (a, b) for of_cell in side.values.values() for row in of_cell.values()]
    numbers = {name for row in rows for name, value in row.items() if isinstance(value, int | float)}
    known = {name for name in numbers if not name.startswith("param.")}
    if metric not in known:
        raise AkdtuneError(unknown_name("metric", metric, known - {"seed", "number"}))


def _further(mine: Mapping[str, Any], others: Mapping[str, Any], metric: str) -> dict[str, bool]:
    """Whether each other measure of two trials agrees to the last digit; times, memory and caches are none."""
    return {
        name: value == others[name]
        for name, value in mine.items()
        if isinstance(value, float) and isinstance(others.get(name), float) and name != metric
        if not name.startswith(("param.", "teacher_cache_")) and not name.endswith(("_s", "_mib"))
    }


def _known(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def only_in(a: Side, b: Side) -> list[str]:
    """Names of A's cells that B does not have."""
    return list(dict.fromkeys(name for key, name in a.names.items() if key not in b.names))


def lock_differences(a: Side, b: Side) -> list[str]:
    """What differs between the locks of the two studies, one line each, versions and machine first."""
    if a.lock is None or b.lock is None:
        lacking = " and ".join(str(side.path) for side in (a, b) if side.lock is None)
        return [f"not known: {lacking} has no {LOCK}"]
    parts = "akdtune packages streams machine source_code data teacher students seeds settings".split()
    first, second = ({part: _without_text(lock[part]) for part in parts if part in lock} for lock in (a.lock, b.lock))
    return settings_file.settings_difference(first, second)


def _without_text(value: Any) -> Any:
    """A section with texts of many lines (the difference to a commit) as their length, so that a line holds it."""
    if isinstance(value, dict):
        return {key: _without_text(item) for key, item in value.items()}
    if isinstance(value, str) and "\n" in value:
        return f"{len(value.splitlines())} lines"
    return value


# ------------------------------------------------------------------------------------------------- reporting


def headline(shared: Sequence[Shared]) -> str:
    """How many of the shared cells were reproduced, and by how much the others differ at most."""
    if not shared:
        return verdict(shared)
    cells, trials = len(shared), sum(len(cell.seeds) for cell in shared)
    equal = sum(cell.reproduced == TO_THE_LAST_DIGIT for cell in shared)
    text = f"{equal} of {counted(cells, 'shared cell', thousands='')} equal to the last digit"
    text += f" ({counted(trials, 'trial', thousands='')})"
    tied = sum(cell.equal == len(cell.seeds) for cell in shared) - equal
    close = sum(cell.close == len(cell.seeds) for cell in shared) - equal - tied
    largest = max(shared, key=lambda cell: cell.largest)
    unit = " points" if in_percent(largest.metric) else ""
    differing = cells - equal - tied - close
    others = [
        (tied, f"{tied} with equal {largest.metric} and other measures that differ: a tie, not the same training"),
        (close, f"{close} up to rounding"),
        (
            differing,
            f"{differing} differ{'s' * (differing == 1)}, by at most {number(largest.largest, 4)}{unit} "
            f"({largest.metric} of {largest.name})",
        ),
    ]
    return "; ".join([text, *(words for count, words in others if count)])


def elsewhere(a: Side, b: Side, origins: Mapping[str, Origin]) -> list[str]:
    """Which versions and processors are not the same in both, a line each.

    Args:
        a: one study.
        b: the other.
        origins: where the numbers of `A` and of `B` come from.
    """
    lines = {}
    for key in OF_A_TRIAL:
        of_a, of_b = (
            list(dict.fromkeys(str(where[key]) for where in origins[name].trained_on if where.get(key) is not None))
            for name in ("A", "B")
        )
        if of_a != of_b:
            lines[key] = f"{key}: {', '.join(of_a) or NOT_RECORDED} in A, {', '.join(of_b) or NOT_RECORDED} in B"
    for section, key in (("packages", name) for name in _package_names(a, b)):
        then, now = (((side.lock or {}).get(section) or {}).get(key, "none") for side in (a, b))
        if then != now and key not in lines:
            lines[key] = f"{key}: {then} in A, {now} in B"
    return list(lines.values())


def _package_names(a: Side, b: Side) -> list[str]:
    return list(dict.fromkeys(name for side in (a, b) for name in (side.lock or {}).get("packages") or {}))


def verdict(shared: Sequence[Shared]) -> str:
    """One sentence on whether the two studies agree."""
    trials = sum(len(cell.seeds) for cell in shared)
    if not trials:
        return "no trial is shared: the studies have no finished cell and seed in common"
    equal, close = sum(cell.equal for cell in shared), sum(cell.close for cell in shared)
    cells, of_them = counted(len(shared), "cell", thousands=""), counted(trials, "trial", thousands="")
    head = f"{cells} and {of_them} shared: "
    if equal == trials:
        return head + "all equal to the last digit" + _beside_equal(shared, trials)
    largest = max(shared, key=lambda cell: cell.largest)
    text = f"{equal} equal to the last digit, {close - equal} up to rounding, {trials - close} differ"
    return f"{head}{text}; largest difference {number(largest.largest, 4)} in {largest.name}"


def _beside_equal(shared: Sequence[Shared], trials: int) -> str:
    """What other measures say where all values that are compared are equal."""
    tied, fewest = trials - sum(cell.alike for cell in shared), min(cell.measures for cell in shared)
    if tied:
        return f", but in {counted(tied, 'trial', thousands='')} other measures differ: a tie, not the same training"
    return f", and so are all other measures ({fewest} or more a trial)" if fewest else "; there is no other measure"


def report_of(a: Side, b: Side, shared: Sequence[Shared]) -> dict[str, Any]:
    """Everything that was compared, as plain JSON."""
    return {
        "a": str(a.path), "b": str(b.path), "headline": headline(shared), "verdict": verdict(shared),
        "reading": READING,
        "cells": [{**asdict(cell), "reproduced": cell.reproduced} for cell in shared],
        "only_in_a": only_in(a, b), "only_in_b": only_in(b, a), "differences_of_locks": lock_differences(a, b),
    }  # fmt: skip

"""What an ablation or a confirmation measured, cell by cell and seed by seed, as its study directory holds it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from akdtune.errors import AkdtuneError, StudyError, unknown_name
from akdtune.metric import in_percent
from akdtune.records import files, tables
from akdtune.records.design_file import PHASES
from akdtune.records.files import DESIGN, require_study
from akdtune.records.lock_file import metric_of
from akdtune.reports.ablation.replicas import replicas
from akdtune.roles import REPORT_ROLES, STATUSES

MARGIN = 0.3
ALPHA = 0.05
UNFINISHED = ("planned", "running", "interrupted")
NO_VALUE, NOT_PLANNED = "without a value", "not planned"


@dataclass(frozen=True)
class Excluded:
    """A trial of the design that does not count, and why; `trial_id` is None for one that was never planned."""

    cell: str
    seed: int
    trial_id: str | None
    status: str
    reason: str


@dataclass
class MeasuredCell:
    """One cell of a phase.

    Attributes:
        name, cell_id, role, levels, changes, explanation, merged: as the design says.
        arm, rank, search_trial, search_score: of a confirmed cell, None elsewhere.
        replica_of: name of the cell that it repeats in exact arithmetic, so that the two differ by rounding alone; None
            for all others.
        values: the metric of every finished trial, by seed.
        trials: their ids, by seed.
        outcomes: number of trials by status.
        lost: why a seed of the design has no value, by seed: a status, or one of `NO_VALUE` and `NOT_PLANNED`.
    """

    name: str
    cell_id: str
    role: str
    levels: dict[str, Any] | None = None
    changes: dict[str, Any] = field(default_factory=dict)
    explanation: str = ""
    merged: list[str] = field(default_factory=list)
    arm: str | None = None
    rank: int | None = None
    search_trial: str | None = None
    search_score: float | None = None
    replica_of: str | None = None
    values: dict[int, float] = field(default_factory=dict)
    trials: dict[int, str] = field(default_factory=dict)
    outcomes: dict[str, int] = field(default_factory=dict)
    lost: dict[int, str] = field(default_factory=dict)

    @property
    def is_control(self) -> bool:
        """Whether the cell isolates a confound and is no row of the design itself."""
        return self.role == "control"


@dataclass(frozen=True)
class Phase:
    """One phase of a study's design with what it has measured so far.

    Attributes:
        name: ablation or confirm.
        metric: the column that is compared; `declared_metric` is the one the design was made for.
        reference: name of the cell that all others are compared with; None where there is none.
        declared_reference: as the design says.
        seeds: that the design asks for.
        cells: in the order of the design.
        excluded: trials that do not count.
        extra: finished trials of these cells with other seeds, which are not used.
        settings: the phase's part of design.json.
    """

    name: str
    metric: str
    declared_metric: str
    reference: str | None
    declared_reference: str | None
    seeds: list[int]
    cells: list[MeasuredCell]
    excluded: list[Excluded]
    extra: int
    settings: dict[str, Any]

    def cell(self, name: str) -> MeasuredCell:
        """A cell by its name."""
        return next(cell for cell in self.cells if cell.name == name)

    @property
    def missing(self) -> int:
        """How many trials have not ended yet, or were never planned."""
        return len(self.unfinished)

    @property
    def unfinished(self) -> list[Excluded]:
        """Trials that have not ended yet, or were never planned."""
        return [trial for trial in self.excluded if trial.status in (*UNFINISHED, NOT_PLANNED)]

    @property
    def in_percent(self) -> bool:
        """Whether the metric is in percent, so that its differences are points."""
        return in_percent(self.metric)


def design_phases(run: Path) -> dict[str, Any]:
    """The phases that a study's driver wrote down, by name.

    Raises:
        StudyError: when there are none, or the file is damaged.
    """
    path = require_study(run) / DESIGN
    held = files.read_design(run)
    if not path.exists():
        raise StudyError(
            f"{run}: has no {path.name}: this study has no `ablation` and no `confirm` section, or has not come to it "
            "yet"
        )
    phases = {name: held[name] for name in PHASES if held.get(name)}
    if not phases:
        raise StudyError(f"{path}: names neither {' nor '.join(PHASES)}")
    return phases


def phases_of(
    run: Path,
    *,
    metric: str | None = None,
    reference: str | None = None,
    rows: Sequence[Mapping[str, Any]] | None = None,
) -> list[Phase]:
    """Every phase of a study with what was measured, the ablation first.

    Args:
        run: the study directory; the study may be running.
        metric: a column of `trials.parquet` with numbers; default: the one that each phase declares.
        reference: name of a cell; default: the one that each phase declares.
        rows: of `trials.parquet`, where they are read already.

    Raises:
        StudyError: for a directory that is no study, has no design, or files that cannot be read.
        AkdtuneError: for an unknown metric or reference, with the nearest that there is.
    """
    design = design_phases(run)
    rows = tables.read_trials(run).to_pylist() if rows is None else rows
    if metric is not None:
        numeric = {name for row in rows for name, value in row.items() if isinstance(value, int | float)}
        known = sorted({name for name in numeric if not name.startswith("param.")} - {"seed", "number"})
        if metric not in known:
            raise AkdtuneError(unknown_name("metric", metric, known))
    if reference is not None:
        names = {cell["name"] for phase in design.values() for cell in phase["cells"]}
        if reference not in names:
            raise AkdtuneError(unknown_name("cell", reference, names))
    return [_phase(run, name, design[name], rows, metric, reference) for name in PHASES if name in design]


def _phase(
    run: Path,
    name: str,
    settings: dict[str, Any],
    rows: Sequence[Mapping[str, Any]],
    metric: str | None,
    reference: str | None,
) -> Phase:
    declared = settings.get("metric") or metric_of(run).test
    column = metric or declared
    seeds = [int(seed) for seed in settings.get("seeds") or []]
    by_cell: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["role"] in REPORT_ROLES and row["cell_id"] is not None:
            by_cell.setdefault(row["cell_id"], []).append(row)
    cells: list[MeasuredCell] = []
    excluded: list[Excluded] = []
    extra = 0
    repeats = replicas(run, settings["cells"])
    for entry in settings["cells"]:
        cell = _cell(entry, name)
        cell.replica_of = repeats.get(cell.name)
        extra += _fill(cell, by_cell.get(cell.cell_id, []), seeds, column, excluded, entry.get("planned", True))
        cells.append(cell)
    names = [cell.name for cell in cells]
    against = settings.get("reference")
    return Phase(
        name=name, metric=column, declared_metric=declared,
        reference=reference if reference in names else against if against in names else None,
        declared_reference=against, seeds=seeds or sorted({seed for cell in cells for seed in cell.values}),
        cells=cells, excluded=excluded, extra=extra, settings=settings,
    )  # fmt: skip


def _cell(entry: Mapping[str, Any], phase: str) -> MeasuredCell:
    score = entry.get("search_score")
    return MeasuredCell(
        name=str(entry["name"]), cell_id=str(entry["cell_id"]), role=str(entry.get("role") or phase),
        levels=entry.get("levels"), changes=dict(entry.get("changes") or {}),
        explanation=entry.get("explanation") or "", merged=list(entry.get("merged") or []),
        arm=entry.get("arm"), rank=entry.get("rank"),
        search_trial=entry.get("search_trial"), search_score=None if score is None else float(score),
    )  # fmt: skip


def _fill(
    cell: MeasuredCell,
    rows: Sequence[Mapping[str, Any]],
    seeds: Sequence[int],
    metric: str,
    excluded: list[Excluded],
    planned: bool,
) -> int:
    """Puts the finished trials of a cell into it, and the others into `excluded`; returns how many had other seeds.

    A cell that is not `planned` any more lacks no seed.
    """
    extra, seen = 0, set()
    for row in rows:
        seed, status = int(row["seed"]), row["status"]
        if seeds and seed not in seeds:
            extra += status == "done"
            continue
        seen.add(seed)
        cell.outcomes[status] = cell.outcomes.get(status, 0) + 1
        value = row.get(metric)
        if status == "done" and value is not None and np.isfinite(value):
            cell.values[seed], cell.trials[seed] = float(value), row["trial_id"]
            continue
        reason = f"finished, but has no {metric}" if status == "done" else row["stop_reason"] or ""
        cell.lost[seed] = NO_VALUE if status == "done" else status
        excluded.append(Excluded(cell.name, seed, row["trial_id"], cell.lost[seed], reason))
    missing = [seed for seed in seeds if planned and seed not in seen]
    cell.lost |= dict.fromkeys(missing, NOT_PLANNED)
    cell.lost = {seed: why for seed, why in cell.lost.items() if seed not in cell.values}
    excluded += [Excluded(cell.name, seed, None, NOT_PLANNED, "") for seed in missing]
    return extra


def counts(excluded: Sequence[Excluded]) -> str:
    """How many trials do not count, by status: `2 diverged, 1 running`."""
    tally = Counter(trial.status for trial in excluded)
    order = (*STATUSES, NO_VALUE, NOT_PLANNED)
    return ", ".join(f"{tally[status]} {status}" for status in order if tally[status]) or "none"

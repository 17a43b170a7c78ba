"""Cells that repeat another one: recorded as such, or found in a study whose plan could not see it yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from akdtune.records.plan_file import read_plan

UNCHANGED = 1e-6
"""How far from 1 rounding takes a gradient factor at most."""


def replicas(run: Path, entries: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Name of the cell that a cell repeats in exact arithmetic, by its own name; cells that repeat none are left out.

    Where nothing is recorded: a control that puts the teacher's own output in the views' place with gradient factors
    of 1 is the plain teacher, whose cell beside it has otherwise the same settings.

    Args:
        run: the study directory.
        entries: the cells of a phase, as design.json holds them.
    """
    known = {str(entry["name"]): str(entry["replica_of"]) for entry in entries if entry.get("replica_of")}
    suspects = [entry for entry in entries if entry["name"] not in known and _changes_no_length(entry)]
    if not suspects:
        return known
    wanted = {entry["cell_id"] for entry in entries}
    settings = {row["cell_id"]: row["settings"] for row in read_plan(run) if row["cell_id"] in wanted}
    of = {str(entry["name"]): settings[entry["cell_id"]] for entry in entries if entry["cell_id"] in settings}
    plain = {name: _without_views(its) for name, its in of.items() if its["views"].get("name") == "none"}
    for name in (str(entry["name"]) for entry in suspects if entry["name"] in of):
        views = of[name]["views"]
        if views.get("name") == "matched" and views.get("match") == "weight":
            rest = _without_views(of[name])
            same = next((other for other, its in plain.items() if its == rest), None)
            known |= {} if same is None else {name: same}
    return known


def _changes_no_length(entry: Mapping[str, Any]) -> bool:
    """Whether every recorded gradient factor is 1; not where none was recorded."""
    factors = entry.get("gradient_factor") or {}
    return bool(factors) and all(abs(factor - 1) <= UNCHANGED for factor in factors.values())


def _without_views(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {section: values for section, values in settings.items() if section != "views"}

"""What a study trains after its search: the pilot of its seeds, the confirmation of its best, the ablation's cells.

Every decision here follows from the ledger alone, so that a resumed study decides as an undisturbed one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from akdtune.designs.cells import Cell, CellPlan, baseline_cells, plan_cells
from akdtune.errors import StudyError
from akdtune.planning.equal_cells import MeasuredPlan
from akdtune.planning.identity import Identity
from akdtune.records.ledger.judgements import SeedsNeeded
from akdtune.records.study_directory import StudyDirectory
from akdtune.records.trial_record import TrialRecord
from akdtune.settings.domains import label
from akdtune.settings.space import Proposal
from akdtune.statistics.power import RequiredSeeds, required_seeds
from akdtune.study.proposals import Outline

Rows = list[dict[str, Any]]


class Phases:
    """Plans confirmation and ablation as soon as what they follow from is known.

    Attributes:
        outline: how many trials there are, without those of cells that were found to be another one.
        notes: sentences for who started the study.

    Args:
        outline: the study, and how many trials it has.
        directory: its state, opened.
        identity: gives trials their ids.
    """

    def __init__(self, outline: Outline, directory: StudyDirectory, identity: Identity) -> None:
        self.study = outline.study
        self.outline = outline
        self.directory = directory
        self.identity = identity
        self.notes: list[str] = []
        self._cells: MeasuredPlan | None = None
        self._settled: set[str] = set()

    def due(self, searched: bool) -> Rows:
        """Rows of trials that are to be planned now; each is in the plan after the caller added it.

        Asked whenever a slot is free; what is settled is not looked at again.

        Args:
            searched: whether nothing more can come of the search.
        """
        rows: Rows = []
        if self.study.confirm is not None and searched and "confirm" not in self._settled:
            self._settled.add("confirm")
            rows += self._confirm()
        based = searched or (self.study.ablation is not None and self.study.ablation.base == "study")
        if self.study.ablation is not None and based and "ablation" not in self._settled:
            rows += self._ablation()
        return self._new(rows)

    def awaited(self, searched: bool) -> int:
        """An upper bound of the trials that `due` may still give, 0 when it has given all."""
        study = self.study
        count = 0
        if study.confirm is not None and not searched:
            count += self.outline.confirm_trials
        ablation = study.ablation
        if ablation is None:
            return count
        if ablation.base == "winner" and not searched:
            return count + self.outline.ablation_trials
        auto = ablation.auto_seeds
        if auto is not None and self._unfinished("pilot"):
            measured = self._measured()
            count += len(measured.plan.cells) * auto.at_most if auto.take and measured is not None else 0
        return count

    def _unfinished(self, role: str) -> bool:
        return any(record.plan["role"] == role for record in self.directory.unfinished())

    def _new(self, rows: Rows) -> Rows:
        """Rows that are not planned yet, each id once: one trial serves every phase that asks for it."""
        return list({row["trial_id"]: row for row in rows if row["trial_id"] not in self.directory.records}.values())

    # ------------------------------------------------------------------------------------------- confirmation

    def _confirm(self) -> Rows:
        confirm = self.study.confirm
        assert confirm is not None
        best = self._best_of_each_arm(confirm.top)
        entries: list[dict[str, Any]] = []
        cells: list[Cell] = []
        for arm, ranked in best.items():
            for rank, (record, score) in enumerate(ranked, start=1):
                cell = Cell(f"{arm} #{rank}", "confirm", arm, dict(record.plan["settings"]))
                cells.append(cell)
                origin = {"rank": rank, "search_trial": record.trial_id, "search_score": score}
                entries.append({"name": cell.name, "arm": arm, **origin})
        if not cells:
            self._say("confirm: no search trial reached its last epoch, nothing to confirm")
            return []
        top = max(zip(cells, entries, strict=True), key=lambda pair: pair[1]["search_score"])[0]
        baselines = self._baselines(confirm.baselines, top)
        for cell in baselines:
            cells.append(cell)
            entries.append({"name": cell.name, "arm": cell.arm, "rank": None, "search_trial": None,
                            "search_score": None, "explanation": cell.explanation,
                            "merged": list(cell.merged), "replica_of": cell.replica_of})  # fmt: skip
        rows = [self._row(cell, seed) for cell in cells for seed in confirm.seeds]
        for cell, entry in zip(cells, entries, strict=True):
            entry |= {"role": cell.role, "cell_id": self.identity.cell_id(cell.settings, cell.role)}
        reference = next((cell.name for cell in baselines if cell.replica_of is None), None)
        self.directory.write_design(
            "confirm",
            {"top": confirm.top, "seeds": confirm.seeds, "metric": self.study.metric.test, "reference": reference,
             "trained_on": self.study.report.train_on, "cells": entries},
        )  # fmt: skip
        return rows

    def _baselines(self, names: Sequence[str], top: Cell) -> Sequence[Cell]:
        """Cells of these baselines, the first of them the reference; those with the same targets as one."""
        made = baseline_cells(names, top.settings, self.study.constants, top.name)
        compared = [cell.name for cell in made if cell.replica_of is None]
        if len(compared) < 2:
            return made
        return self._said(self.identity.measured(CellPlan(tuple(made), compared[0]))).plan.cells

    def _best_of_each_arm(self, top: int) -> dict[str, list[tuple[TrialRecord, float]]]:
        """Configurations of each arm that reached the last epoch, the best `top` by their mean on validation images."""
        scores: dict[str, dict[str, list[tuple[TrialRecord, float]]]] = {arm.name: {} for arm in self.study.arms}
        for record in self.directory.records.values():
            value = record.value
            if record.plan["role"] == "search" and record.terminal == "done" and value is not None:
                of_arm = scores.setdefault(str(record.plan["arm"]), {})
                of_arm.setdefault(str(record.plan["cell_id"]), []).append((record, value))
        best: dict[str, list[tuple[TrialRecord, float]]] = {}
        for arm, cells in scores.items():
            ranked = [(trials[0][0], fmean(value for _, value in trials)) for trials in cells.values()]
            ranked.sort(key=lambda pair: (-pair[1], pair[0].plan["number"]))
            if ranked:
                best[arm] = ranked[:top]
        return best

    # ----------------------------------------------------------------------------------------------- ablation

    def _ablation(self) -> Rows:
        ablation = self.study.ablation
        assert ablation is not None
        measured = self._measured()
        if measured is None:
            self._settled.add("ablation")
            self._say("ablation: no search trial reached its last epoch, so there is no winner to take apart")
            return []
        plan, auto = measured.plan, ablation.auto_seeds
        seeds: Sequence[int]
        rows: Rows = []
        if auto is None:
            assert isinstance(ablation.seeds, list)
            seeds = ablation.seeds
        else:
            rows = [self._row(cell, seed, "pilot") for cell in _compared(plan) for seed in auto.pilot_seeds]
            if self._new(rows):
                self._write_ablation(measured, [], None)
                return rows
            if self._unfinished("pilot"):
                return []
            seeds = self._seeds_from_pilot(plan)
        self._settled.add("ablation")
        needed = self._needed() if auto is not None else None
        self._write_ablation(measured, seeds, needed)
        return rows + [self._row(cell, seed) for seed in seeds for cell in plan.cells]

    def _measured(self) -> MeasuredPlan | None:
        """The ablation's cells, over the study's configuration or the winner's; None while there is no winner."""
        if self._cells is None:
            ablation = self.study.ablation
            assert ablation is not None
            plan = self.study.cell_plan
            if plan is None and (winner := self._winner()) is not None:
                plan = plan_cells(ablation, winner.written, self.study.constants)
            if plan is not None:
                self._cells = self._said(self.identity.measured(plan))
                self.outline = replace(self.outline, measured=self._cells.plan)
        return self._cells

    def _said(self, measured: MeasuredPlan) -> MeasuredPlan:
        for line in measured.lines:
            self._say(line)
        return measured

    def _winner(self) -> Proposal | None:
        """The best configuration of the search, by its mean on validation images."""
        winners = [ranked[0] for ranked in self._best_of_each_arm(1).values() if ranked]
        if not winners:
            return None
        record, _ = max(winners, key=lambda pair: (pair[1], -pair[0].plan["number"]))
        arm = next(arm for arm in self.study.arms if arm.name == record.plan["arm"])
        return arm.replay(record.plan["raw"])

    def _seeds_from_pilot(self, plan: CellPlan) -> list[int]:
        """The report seeds that the pilot asks for; none where it may only propose."""
        ablation = self.study.ablation
        assert ablation is not None
        auto = ablation.auto_seeds
        assert auto is not None
        known = self._needed()
        if known is None:
            known = self._judge_pilot(plan)
            self.directory.append(known)
        number = min(known.needed, auto.at_most)
        seeds = list(range(auto.first, auto.first + number))
        of = f"{known.sd_upper:.2f} points (upper 80 % limit, {known.cell})"
        line = f"pilot: {known.needed} seeds resolve {auto.resolve:g} points with power {auto.power:g}: sd {of}"
        if known.needed > auto.at_most:
            line += f"; ablation.seeds.at_most allows {auto.at_most}"
        if known.sd == 0:
            line += "; its differences show no spread, which does not say how many seeds are needed"
        self._say(line)
        if not auto.take:
            self._say(f"to take them: ablation.seeds='{seeds}' with --extend")
            return []
        return seeds

    def _needed(self) -> SeedsNeeded | None:
        return next((event for event in reversed(self.directory.events) if isinstance(event, SeedsNeeded)), None)

    def _judge_pilot(self, plan: CellPlan) -> SeedsNeeded:
        """The comparison that needs most seeds, from differences paired by seed on validation images."""
        ablation = self.study.ablation
        assert ablation is not None
        auto = ablation.auto_seeds
        assert auto is not None
        ids = {cell.name: self.identity.cell_id(cell.settings, "pilot") for cell in _compared(plan)}
        values: dict[str, dict[int, float]] = {name: {} for name in ids}
        for name, cell_id in ids.items():
            for record in self.directory.records.values():
                value = record.value
                if record.plan["cell_id"] == cell_id and record.terminal == "done" and value is not None:
                    values[name][int(record.plan["seed"])] = value
        reference, sizes = values[plan.reference], plan.family_sizes(ablation.families)
        needs: list[tuple[RequiredSeeds, str]] = []
        for name, own in values.items():
            shared = sorted(own.keys() & reference.keys())
            if name != plan.reference and len(shared) >= 2:
                differences = [own[seed] - reference[seed] for seed in shared]
                needed = required_seeds(differences, auto.resolve, alpha=ablation.alpha / sizes[name], power=auto.power)
                needs.append((needed, name))
        if not needs:
            raise StudyError(
                f"{self.directory.root}: the pilot left no two trials of a cell and the reference to compare "
                "(see `akdtune show`); give ablation.seeds as a list"
            )
        worst, name = max(needs, key=lambda pair: pair[0].n)
        return SeedsNeeded(
            needed=worst.n,
            sd=worst.sd,
            sd_upper=worst.sd_upper,
            cell=f"{name} - {plan.reference}",
            pilot=auto.pilot,
            resolve=auto.resolve,
            power=auto.power,
            alpha=ablation.alpha / sizes[name],
        )

    def _write_ablation(self, measured: MeasuredPlan, seeds: Sequence[int], pilot: SeedsNeeded | None) -> None:
        ablation = self.study.ablation
        assert ablation is not None
        plan, auto = measured.plan, ablation.auto_seeds
        cells = [
            {
                "name": cell.name,
                "cell_id": self.identity.cell_id(cell.settings, cell.role),
                "role": cell.role,
                "arm": cell.arm,
                "levels": None if cell.levels is None else dict(cell.levels),
                "changes": dict(cell.changes),
                "explanation": cell.explanation,
                "merged": list(cell.merged),
                "replica_of": cell.replica_of,
                "gradient_factor": measured.factors.get(cell.name),
            }
            for cell in plan.cells
        ]
        cells += self._trained_twice(plan)
        self.directory.write_design(
            "ablation",
            {
                "design": ablation.design,
                "base": ablation.base,
                "reference": plan.reference,
                "metric": ablation.metric,
                "equivalence_margin": ablation.equivalence_margin,
                "alpha": ablation.alpha,
                "families": plan.families(ablation.families),
                "factors": ablation.factors,
                "seeds": list(seeds),
                "pilot_seeds": [] if auto is None else auto.pilot_seeds,
                "pilot": None if pilot is None else _without_head(pilot),
                "trained_on": self.study.report.train_on,
                "aliases": list(plan.aliases),
                "notes": [*plan.notes, *plan.warnings],
                "cells": cells,
            },
        )

    def _trained_twice(self, plan: CellPlan) -> list[dict[str, Any]]:
        """Cells that an earlier version trained beside the one that now stands for them: A/A pairs, planned no more."""
        written = self.directory.read_design().get("ablation", {}).get("cells", [])
        known = {cell["name"]: cell for cell in written}
        begun = (record for record in self.directory.records.values() if record.attempts or record.terminal)
        trained = {record.plan["cell_id"] for record in begun}
        return [
            {**known[name], "replica_of": cell.name, "planned": False}
            for cell in plan.cells
            for name in cell.stands_for
            if name in known and known[name]["cell_id"] in trained
        ]

    def _row(self, cell: Cell, seed: int, role: str | None = None) -> dict[str, Any]:
        params = {} if cell.levels is None else {path: _level(value) for path, value in cell.levels.items()}
        proposal = Proposal(cell.arm, cell.settings, params, {})
        row = self.identity.plan_row(proposal, role or cell.role, cell.arm, None, seed)
        return {**row, "cell": cell.name}

    def _say(self, line: str) -> None:
        if line not in self.notes:
            self.notes.append(line)


def _compared(plan: CellPlan) -> list[Cell]:
    """The cells whose differences seeds shall resolve: a replica's is nothing but noise."""
    return [cell for cell in plan.cells if cell.replica_of is None]


def _without_head(event: SeedsNeeded) -> dict[str, Any]:
    return {name: value for name, value in event.plain().items() if name not in ("time", "event")}


def _level(value: Any) -> Any:
    """A factor's value as a column holds it: a mapping or a list by what names it, or says what it holds."""
    if isinstance(value, Mapping):
        return str(value["name"]) if "name" in value else label(value)
    if isinstance(value, list):
        return "+".join(str(_level(item)) for item in value)
    return value


def order(records: Iterable[TrialRecord]) -> list[TrialRecord]:
    """Trials in the order in which they start: those begun already, the search, then everything else as planned."""
    every = list(records)
    begun = [record for record in every if record.attempts]
    fresh = [record for record in every if not record.attempts]
    rank = {"search": 0, "probe": 1}
    return begun + sorted(fresh, key=lambda record: rank.get(str(record.plan["role"]), 2))

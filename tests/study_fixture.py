"""Builds small study directories as `akdtune run` would leave them, without running anything.

A test asks for the `study_builder` fixture (registered in the test files that use it) or calls `StudyBuilder(path)`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from akdtune.columns import Column
from akdtune.metric import ACCURACY
from akdtune.records.files import EPOCHS, LEDGER, LOCK, trial_directory, write_rows
from akdtune.records.plan_file import write_plan
from akdtune.records.recorded_files import write_trial_logits
from akdtune.roles import REPORT_ROLES, TERMINAL

DIVERSITY = (
    "diversity_sq_prob", "diversity_sq_logit", "diversity_sq_feature", "diversity_ce", "diversity_pair_prob",
    "diversity_pair_logit", "diversity_pair_feature", "inter_cosine", "offset_cosine",
)  # fmt: skip


class StudyBuilder:
    """Collects trials, then writes plan, ledger and each trial's epoch rows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.plan: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = [{"time": 0.0, "event": "study_started"}]
        self.design: dict[str, dict[str, Any]] = {}
        self.lock: dict[str, Any] | None = None
        self.metric = ACCURACY
        """What the study is judged by."""
        self.declared: Sequence[Column] = ()
        """What the trials' files say about their columns."""

    def add(
        self,
        arm: str,
        accuracy: float | None,
        diversity: float | Mapping[str, float | None] | None,
        *,
        role: str = "probe",
        status: str = "done",
        cell: str | None = None,
        seed: int = 1,
        params: Mapping[str, Any] | None = None,
        epochs: int = 2,
        **last_row: float | None,
    ) -> str:
        """Adds one trial; a plain number as `diversity` is the value of every measure. Returns its id."""
        number = len(self.plan)
        trial_id = f"t{number:05d}"
        self.plan.append(
            {
                "number": number, "trial_id": trial_id, "cell_id": cell or f"c{number:05d}", "seed": seed,
                "role": role, "arm": arm, "bracket": arm, "proposal": number, "params": dict(params or {}),
                "settings": {"views": {"name": arm.split("/")[0]}}, "raw": {},
            }
        )  # fmt: skip
        if status == "planned":
            return trial_id
        self.event("started", trial_id, attempt=1, host="here", pid=1)
        measures = diversity if isinstance(diversity, Mapping) else dict.fromkeys(DIVERSITY, diversity)
        validation = self.metric.validation
        value = self.metric.test if role in REPORT_ROLES else validation
        rows: list[dict[str, Any]] = [
            {"trial_id": trial_id, "attempt": 1, "epoch": epoch, "lr": 0.05, validation: 10.0, "wall_time_s": 0.5,
             "loss.ce": 1.0}
            for epoch in range(1, epochs + 1)
        ]  # fmt: skip
        rows[-1] |= {value: accuracy, **measures, **last_row}
        write_rows(trial_directory(self.path, trial_id) / EPOCHS, rows, declared=self.declared)
        for row in rows:
            self.event("epoch", trial_id, epoch=row["epoch"], value=row[validation], score=row[validation])
        if status in TERMINAL:
            self.event(status, trial_id, epoch=epochs, reason="rung 1" if status == "pruned" else None)
        elif status == "interrupted":
            self.event("interrupted", trial_id, epoch=epochs)
        return trial_id

    def event(self, event: str, trial_id: str, **fields: Any) -> None:
        self.events.append({"time": float(len(self.events)), "event": event, "trial_id": trial_id, **fields})

    def write(self, *, finished: bool = True, torn: str = "") -> Path:
        """Writes the directory; `torn` is appended to the ledger as is."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_plan(self.path, self.plan)
        if self.design:
            (self.path / "design.json").write_text(json.dumps(self.design))
        if self.metric != ACCURACY:
            self.lock = {"settings": {}, **(self.lock or {}), "metric": self.metric.name}
        if self.lock is not None:
            (self.path / LOCK).write_text(json.dumps(self.lock))  # JSON is YAML
        events = [*self.events, {"time": 1e9, "event": "study_finished"}] if finished else self.events
        (self.path / LEDGER).write_text("".join(json.dumps(event) + "\n" for event in events) + torn)
        return self.path

    def add_many(self, arm: str, points: Sequence[tuple[float, float]], **options: Any) -> None:
        """Adds one trial per (diversity, accuracy)."""
        for diversity, accuracy in points:
            self.add(arm, accuracy, diversity, **options)

    def cell(
        self,
        name: str,
        values: Sequence[float | None],
        *,
        phase: str = "ablation",
        role: str | None = None,
        seeds: Sequence[int] | None = None,
        statuses: Mapping[int, str] | None = None,
        predictions: int = 0,
        arm: str = "angular/kd",
        **more: Any,
    ) -> list[str]:
        """Adds a cell of a design with one trial per value; returns their ids.

        Args:
            name: of the cell; its id is derived from it.
            values: test accuracy by seed; None for a seed that was never planned.
            phase: ablation or confirm; `role` is that of its trials, by default the phase.
            seeds: default 0, 1, ...
            statuses: of seeds whose trial is not done.
            predictions: images for which each finished trial leaves logits, rounded to its accuracy; 0 for none.
            arm: of the trials.
            more: further keys of the cell in design.json.
        """
        own = role or phase
        seeds = list(range(len(values))) if seeds is None else list(seeds)
        settings = self.design.setdefault(
            phase, {"metric": self.metric.test, "reference": None, "seeds": [], "cells": []}
        )
        settings["seeds"] = sorted({*settings["seeds"], *seeds})
        settings["cells"].append({"name": name, "cell_id": cell_id(name), "role": own, **more})
        trials = []
        for seed, value in zip(seeds, values, strict=True):
            if value is None:
                continue
            status = (statuses or {}).get(seed, "done")
            if predictions:
                value = 100 * round(value * predictions / 100) / predictions
            trials.append(self.add(arm, value, None, role=own, cell=cell_id(name), seed=seed, status=status))
            if predictions and status == "done":
                self._predict(trials[-1], value, predictions, seed)
        return trials

    def _predict(self, trial_id: str, accuracy: float, images: int, seed: int) -> None:
        """Logits of two classes that are right for as many images as the accuracy says, the easy ones first."""
        difficulty = np.random.default_rng(0).normal(size=images) + 0.5 * np.random.default_rng(seed).normal(
            size=images
        )
        right = np.zeros(images, bool)
        right[np.argsort(difficulty)[: round(images * accuracy / 100)]] = True
        labels = np.arange(images) % 2
        logits = np.eye(2)[np.where(right, labels, 1 - labels)]
        order = np.random.default_rng(seed + 1).permutation(images)  # readers go by the id
        path = trial_directory(self.path, trial_id) / "predictions.parquet"
        write_trial_logits(path, order.astype(np.int64), labels[order], logits[order])


def cell_id(name: str) -> str:
    """A cell id of the usual form for a name."""
    return hashlib.sha256(name.encode()).hexdigest()[:12]

"""Builds small study directories as `akdtune run` would leave them, without running anything.

A test asks for the `study_builder` fixture (registered in the test files that use it) or calls `StudyBuilder(path)`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from akdtune import results

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
        self._event("started", trial_id, attempt=1, host="here", pid=1)
        measures = diversity if isinstance(diversity, Mapping) else dict.fromkeys(DIVERSITY, diversity)
        value = "test_accuracy" if role in results.REPORT_ROLES else "val_accuracy"
        rows: list[dict[str, Any]] = [
            {"trial_id": trial_id, "attempt": 1, "epoch": epoch, "lr": 0.05, "val_accuracy": 10.0, "wall_time_s": 0.5,
             "loss.ce": 1.0}
            for epoch in range(1, epochs + 1)
        ]  # fmt: skip
        rows[-1] |= {value: accuracy, **measures, **last_row}
        results.write_rows(results.trial_directory(self.path, trial_id) / results.EPOCHS, rows)
        for row in rows:
            self._event("epoch", trial_id, epoch=row["epoch"], value=row["val_accuracy"], score=row["val_accuracy"])
        if status in results.TERMINAL:
            self._event(status, trial_id, epoch=epochs, reason="rung 1" if status == "pruned" else None)
        elif status == "interrupted":
            self._event("interrupted", trial_id, epoch=epochs)
        return trial_id

    def _event(self, event: str, trial_id: str, **fields: Any) -> None:
        self.events.append({"time": float(len(self.events)), "event": event, "trial_id": trial_id, **fields})

    def write(self, *, finished: bool = True, torn: str = "") -> Path:
        """Writes the directory; `torn` is appended to the ledger as is."""
        self.path.mkdir(parents=True, exist_ok=True)
        results.write_plan(self.path, self.plan)
        events = [*self.events, {"time": 1e9, "event": "study_finished"}] if finished else self.events
        (self.path / results.LEDGER).write_text("".join(json.dumps(event) + "\n" for event in events) + torn)
        return self.path

    def add_many(self, arm: str, points: Sequence[tuple[float, float]], **options: Any) -> None:
        """Adds one trial per (diversity, accuracy)."""
        for diversity, accuracy in points:
            self.add(arm, accuracy, diversity, **options)

"""A CSV file for each trial: `<study>/csv/<trial>.csv`, a line an epoch."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from typing_extensions import override

from akdtune import atomic
from akdtune.registry import register
from akdtune.tracking.arrangement import Metrics
from akdtune.tracking.loggers import LoggedTrial, Logger


@register("csv")
class CsvLogger(Logger):
    """Writes `csv/<trial>.csv` in the study directory, a line for each epoch, whole after each of them."""

    @override
    def open(self, trial: LoggedTrial) -> None:
        self._path = trial.root / "csv" / f"{trial.trial_id}.csv"
        self._path.parent.mkdir(exist_ok=True)
        self._rows: list[Metrics] = []
        self._columns: list[str] = []
        self._path.unlink(missing_ok=True)

    @override
    def log(self, metrics: Metrics) -> None:
        self._rows.append(metrics)
        new = [name for name in metrics if name not in self._columns]
        self._columns += new
        if new:
            self._write()
            return
        with self._path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self._columns).writerow(metrics)

    @override
    def finish(self, status: str, metrics: Metrics) -> None:
        if not self._rows or metrics == self._rows[-1] or metrics.get("epoch") != self._rows[-1]["epoch"]:
            return
        self._rows[-1] = {**self._rows[-1], **metrics}
        self._columns += [name for name in metrics if name not in self._columns]
        self._write()

    def _write(self) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self._columns)
        writer.writeheader()
        writer.writerows(self._rows)
        atomic.write(Path(self._path), text.getvalue())

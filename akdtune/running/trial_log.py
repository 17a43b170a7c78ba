"""A trial's log: where what it prints goes, and its epochs in a line each."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

from akdtune.metric import ACCURACY, Metric
from akdtune.training.loop import Epoch

LINES = 1000
"""Of each stage; a trial of more epochs says every second one, or third, ..., and the first and the last."""


def printed(metric: Metric) -> dict[str, str]:
    """Columns of an epoch's row that are printed besides its losses to who waits for a trial, and how."""
    return {
        "train_accuracy": "training {:.2f} %",
        metric.validation: "validation {:.2f} %",
        "images_per_s": "{:,.0f} images/s",
        "wall_time_s": "{:.1f} s",
    }


def logged(metric: Metric) -> dict[str, str]:
    """Those in a log."""
    return {"lr": "lr {:.3g}", metric.validation: "validation {:.2f} %", "wall_time_s": "{:.1f} s"}


def line(
    stage: str, epoch: int, epochs: int, row: Mapping[str, float | None], shown: Mapping[str, str] | None = None
) -> str:
    """One epoch in words: `epoch 3 of 40: ce 1.204, kd 0.311, training 61.20 %, validation 58.00 %, 1.2 s`."""
    losses = [
        f"{name.removeprefix('loss.')} {value:.4g}"
        for name, value in row.items()
        if name.startswith("loss.") and value is not None
    ]
    others = [
        text.format(row[name]) for name, text in (shown or printed(ACCURACY)).items() if row.get(name) is not None
    ]
    return f"{'warm-up ' * (stage == 'warmup')}epoch {epoch} of {epochs}: {', '.join([*losses, *others])}"


class EpochLines:
    """Prints the lines of a log.

    Args:
        totals: epochs of a trial by stage.
        metric: of its study.
    """

    def __init__(self, totals: Mapping[str, int], metric: Metric = ACCURACY) -> None:
        self._totals, self._shown = totals, logged(metric)
        self._every = {stage: math.ceil(epochs / LINES) for stage, epochs in totals.items()}

    def __call__(self, epoch: Epoch) -> None:
        """Says an epoch, if it is one that is said."""
        total = self._totals[epoch.stage]
        if epoch.epoch % self._every[epoch.stage] == 0 or epoch.epoch in (1, total):
            with contextlib.suppress(OSError):  # a full disk takes no log either
                print(line(epoch.stage, epoch.epoch, total, epoch.row, self._shown))


@contextlib.contextmanager
def captured(log: Path) -> Iterator[None]:
    """Sends what the trial prints and warns to its log file."""
    with (
        log.open("a", encoding="utf-8", buffering=1) as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
    ):
        yield

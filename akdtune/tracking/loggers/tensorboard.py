"""TensorBoard: `<study>/tensorboard/<trial>`, for `tensorboard --logdir`."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from typing_extensions import override

from akdtune.registry import register
from akdtune.tracking.arrangement import WHOLE, Metrics
from akdtune.tracking.loggers import LoggedTrial, Logger

JUDGED = "student/val_", "student/test_"
"""What the names of metrics begin with that a study is judged by."""


@register("tensorboard")
class TensorBoardLogger(Logger):
    """Writes event files into `tensorboard/<trial>` of the study directory, with settings for its HPARAMS tab."""

    requires = ("tensorboard",)
    extra = "tensorboard"

    @override
    @classmethod
    def prepare(cls, settings: Mapping[str, Any], root: Path) -> None:
        with contextlib.suppress(ImportError):
            import torch.utils.tensorboard  # noqa: F401  # late: a study without it does not load it

    @override
    def open(self, trial: LoggedTrial) -> None:
        from torch.utils.tensorboard import SummaryWriter  # late: a study without it does not load it

        folder = trial.root / "tensorboard" / trial.trial_id
        shutil.rmtree(folder, ignore_errors=True)
        self._trial = trial
        self._writer: Any = SummaryWriter(str(folder))

    @override
    def log(self, metrics: Metrics) -> None:
        for name, value in metrics.items():
            if name != "epoch":
                self._writer.add_scalar(name, value, int(metrics["epoch"]))
        self._last = metrics
        self._writer.flush()

    _last: Metrics | None = None

    @override
    def finish(self, status: str, metrics: Metrics) -> None:
        import torch.utils.tensorboard.summary as summaries  # late: a study without it does not load it

        hparams: Any = summaries.hparams
        known = self._last or {}
        for name, value in metrics.items():
            if name not in known and "epoch" in metrics:
                self._writer.add_scalar(name, value, int(metrics["epoch"]))
        settings = {name: _plain(value) for name, value in self._trial.config.items() if name != WHOLE}
        shown = {name: metrics[name] for name in metrics if name.startswith(JUDGED)}
        for part in hparams({**settings, "status": status}, shown):
            self._writer.file_writer.add_summary(part)
        self._writer.close()


def _plain(value: Any) -> Any:
    return "null" if value is None else value

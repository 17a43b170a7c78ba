"""One trial trained from Python, in this process: what `python -m akdtune.training` does, with its rows and student."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from akdtune.cli import one_trial
from akdtune.errors import AkdtuneError, unknown_name
from akdtune.networks import Network
from akdtune.running.trial_log import line, printed
from akdtune.study.from_python import read
from akdtune.study.spec import Study
from akdtune.training.config import TrialConfig
from akdtune.training.loop import Diverged
from akdtune.training.students import through_a_method
from akdtune.training.task import task_of
from akdtune.training.trial import trial_of


@dataclass(frozen=True, repr=False)
class Trained:
    """A trial that was trained in this process.

    Attributes:
        id, arm, seed: of the trial, the same as in a study that runs it.
        settings: everything that determines its numbers, as plain JSON by section.
        rows: its measures after each student epoch, by column name; None where one does not apply.
        student: with its trained weights: a torch module on the CPU, in eval mode, without gradients.
    """

    id: str
    arm: str
    seed: int
    settings: dict[str, Any]
    rows: list[dict[str, Any]]
    student: Network

    @property
    def accuracy(self) -> float:
        """What its task is judged by, on the validation images after the last epoch, percent."""
        return float(self.rows[-1][task_of(self.settings).metric.validation])

    @property
    def epochs(self) -> pa.Table:
        """The rows as an Arrow table; `.to_pandas()` converts it."""
        return pa.Table.from_pylist(self.rows)

    def __repr__(self) -> str:
        return (
            f"{self.id} of {self.arm}, seed {self.seed}: {self.accuracy:.2f} % on validation images after "
            f"{len(self.rows)} epochs"
        )


def train(
    study: Study | str | Path,
    *overrides: str | Mapping[str, Any],
    arm: str | None = None,
    seed: int | None = None,
    quiet: bool = False,
) -> Trained:
    """Trains one trial here, without Ray and without a study directory: an arm at the centre of what it searches.

    A teacher that is not trained yet is trained first and kept for later. Numbers are those that a study computes.

    Args:
        study: as `read` gives it, or its name or file.
        overrides: as those of `read`, where a name or file is given; its schedule of early stopping does not matter.
        arm: its name; needed where the study has several.
        seed: of init, order and noise; default: that of the study's search trials.
        quiet: whether to print no line per epoch of the student.

    Raises:
        AkdtuneError: for an unknown arm, with the nearest name; for anything else the user can mend; and when the
            loss is not finite.
        KeyboardInterrupt: when it was interrupted.
    """
    if isinstance(study, Study) and overrides:
        raise AkdtuneError("overrides need the study's name or file: a study that has been read is checked and fixed")
    asked = study if isinstance(study, Study) else read(study, *overrides, "scheduler=null")
    for text in asked.warnings:
        warnings.warn(text, stacklevel=2)
    threads = torch.get_num_threads()
    try:
        return _train(asked, _arm(asked, arm), seed, quiet)
    finally:
        torch.set_num_threads(threads)


def _arm(study: Study, name: str | None) -> str:
    names = [arm.name for arm in study.arms]
    if name is None and len(names) > 1:
        raise AkdtuneError(f"{study.name} has {len(names)} arms; arm must be one of {', '.join(names)}")
    if name is not None and name not in names:
        raise AkdtuneError(unknown_name("arm", name, names))
    return names[0] if name is None else name


def _train(study: Study, arm: str, seed: int | None, quiet: bool) -> Trained:
    request = one_trial.of_study(study, arm, seed)
    if isinstance(request, int):
        raise KeyboardInterrupt("stopped while the teacher was trained; the same call goes on")
    settings = dict(request.settings)
    trial = trial_of(TrialConfig.parse(request))
    totals, columns = trial.epochs, printed(trial.config.task.metric)
    rows: list[dict[str, Any]] = []
    try:
        for epoch in trial.run(None):
            if not quiet:
                print(line(epoch.stage, epoch.epoch, totals[epoch.stage], epoch.row, columns), flush=True)
            if epoch.stage == "student":
                rows.append({"epoch": epoch.epoch, **epoch.row})
    except Diverged as error:
        raise AkdtuneError(f"{study.name}, {arm}: diverged: {error}") from error
    closing, _ = trial.close()
    rows[-1] |= closing
    if text := through_a_method(settings):
        warnings.warn(text, stacklevel=3)
    student = trial.student.cpu().eval().requires_grad_(False)
    return Trained(request.trial_id, arm, request.seed, settings, rows, student)

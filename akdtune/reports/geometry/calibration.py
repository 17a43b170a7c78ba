"""Calibration of each trial's ensemble beside its teacher and its student, and what arms have in common."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from akdtune import progress
from akdtune.reports.members import Members, members_of
from akdtune.reports.text import counted, number, signed
from akdtune.statistics import reliability
from akdtune.statistics.association import Coefficient
from akdtune.statistics.calibration import BINS
from akdtune.statistics.reliability import Compared
from akdtune.statistics.resampling import Floats

WHO = ("ensemble", "teacher", "student")


@dataclass(frozen=True)
class TrialCalibration:
    """Ensemble, teacher and student of one trial on the images that it was judged by."""

    trial_id: str
    arm: str
    compared: Compared


@dataclass(frozen=True)
class Calibration:
    """All trials that kept the answers of their views.

    Attributes:
        trials: in the order of the study's table.
        left_out: how many others there are, by reason.
    """

    trials: tuple[TrialCalibration, ...]
    left_out: dict[str, int]

    @property
    def arms(self) -> dict[str, list[TrialCalibration]]:
        """Trials by arm."""
        arms: dict[str, list[TrialCalibration]] = {}
        for trial in self.trials:
            arms.setdefault(trial.arm, []).append(trial)
        return arms

    @property
    def sentences(self) -> list[str]:
        """The ensemble against teacher and student: in how many trials its error is lower, and resolved so."""
        return [self._against(whom) for whom in WHO[1:]] if self.trials else []

    def _against(self, whom: str) -> str:
        less = [trial.compared.less[whom] for trial in self.trials]
        lower = sum(difference.value > 0 for difference in less)
        resolved = [sum(d.excludes_zero and (d.value > 0) == above for d in less) for above in (True, False)]
        mean = float(np.mean([difference.value for difference in less]))
        return (
            f"the ensemble's calibration error is lower than its {whom}'s in {lower} of {counted(len(less), 'trial')} "
            f"(resolved in {resolved[0]}; higher and resolved in {resolved[1]}); on average by {signed(mean)} points"
        )


@progress.stage("calibration of ensembles")
def calibration_of(
    run: Path, rows: Iterable[Mapping[str, Any]], *, draws: int = reliability.DRAWS, seed: int = 0
) -> Calibration:
    """The calibration of every finished trial of some rows of a study's table.

    Args:
        run: the study directory.
        rows: of its table of trials.
        draws: of the bootstrap over images.
        seed: of the bootstrap.
    """
    found: list[TrialCalibration] = []
    left_out: Counter[str] = Counter()
    for held in members_of(run, (row for row in rows if row["status"] == "done")):
        if isinstance(held, Members):
            of = {"ensemble": held.ensemble_NK, "teacher": held.teacher_NK, "student": held.student_NK}
            compared = reliability.reliability(of, held.labels_N, draws=draws, seed=seed)
            found.append(TrialCalibration(held.trial_id, held.arm, compared))
        else:
            left_out[held] += 1
    return Calibration(tuple(found), dict(left_out))


def pooled(trials: Sequence[TrialCalibration], who: str) -> tuple[Floats, Floats, Floats]:
    """Images, mean confidence and accuracy (percent) of each bin over several trials; NaN for an empty bin."""
    held = [trial.compared.of[who] for trial in trials]
    counts_B = np.sum([of.counts_B for of in held], axis=0).astype(np.float64)
    known_B = np.where(counts_B > 0, counts_B, np.nan)
    sums = (
        np.sum([np.nan_to_num(values_B) * of.counts_B for of, values_B in pairs], axis=0)
        for pairs in ([(of, of.confidence_B) for of in held], [(of, of.accuracy_B) for of in held])
    )
    confidence_B, accuracy_B = (sum_B / known_B for sum_B in sums)
    return counts_B, confidence_B, accuracy_B


ARM_HEADINGS = ("arm", "trials", *(f"ECE, {who}" for who in WHO), *(f"too sure, {who}" for who in WHO))
READING = (
    f"ECE: expected calibration error, {BINS} bins, percentage points; too sure: mean confidence less accuracy, below "
    "0 where a classifier is right more often than it is sure"
)
TRIAL_HEADINGS = ("trial", "ECE, ensemble", "ECE, student", *(f"below the {who}'s, by [95 %]" for who in WHO[1:]))


def arm_rows(calibration: Calibration) -> list[list[str]]:
    """Means over the trials of each arm, in percentage points, under `ARM_HEADINGS`."""
    rows = []
    for arm, trials in calibration.arms.items():
        errors = [np.mean([trial.compared.of[who].error.value for trial in trials]) for who in WHO]
        sure = [np.mean([trial.compared.of[who].overconfidence.value for trial in trials]) for who in WHO]
        rows.append([arm, str(len(trials)), *(number(float(e)) for e in errors), *(signed(float(s)) for s in sure)])
    return rows


def trial_rows(calibration: Calibration) -> list[list[str]]:
    """Each trial's errors, and the ensemble's against the others with intervals, under `TRIAL_HEADINGS`."""
    return [
        [trial.trial_id, *(number(trial.compared.of[who].error.value, 1) for who in (WHO[0], WHO[2])),
         *(_with_interval(trial.compared.less[whom]) for whom in WHO[1:])]
        for trial in calibration.trials
    ]  # fmt: skip


def _with_interval(value: Coefficient) -> str:
    return f"{signed(value.value, 1)} [{signed(value.low, 1)}, {signed(value.high, 1)}]"


def calibration_json(calibration: Calibration) -> dict[str, Any]:
    """Everything of calibration, as plain JSON: each trial, and each arm's bins over its trials."""
    return {
        "unit": "percentage points", "bins": BINS, "sentences": calibration.sentences,
        "left_out": calibration.left_out,
        "trials": {
            trial.trial_id: {
                "arm": trial.arm, "images": trial.compared.images,
                **{who: {"error": vars(of.error), "overconfidence": vars(of.overconfidence)}
                   for who, of in trial.compared.of.items()},
                "ensemble_lower_than": {whom: vars(less) for whom, less in trial.compared.less.items()},
            }
            for trial in calibration.trials
        },
        "arms": {
            arm: {who: _bins_json(*pooled(trials, who)) for who in WHO} for arm, trials in calibration.arms.items()
        },
    }  # fmt: skip


def _bins_json(counts_B: Floats, confidence_B: Floats, accuracy_B: Floats) -> dict[str, list[Any]]:
    return {
        "images": [int(count) for count in counts_B],
        "confidence": [None if np.isnan(value) else float(value) for value in confidence_B],
        "accuracy": [None if np.isnan(value) else float(value) for value in accuracy_B],
    }

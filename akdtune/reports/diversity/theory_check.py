"""What theory says of ensembles, checked on every trial that kept the answers of its views."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from akdtune import progress
from akdtune.records import tables
from akdtune.reports.diversity.theory import Decomposition, EnsembleLosses, ensemble_losses
from akdtune.reports.left_out import left_out_text
from akdtune.reports.members import Members, members_of
from akdtune.reports.text import counted, number

HEADINGS = (
    "trial", "arm", "members", "squared, members", "D_sq", "squared, ensemble", "CE, members", "D_ce", "CE, ensemble",
    "slack", "slack, sharper",
)  # fmt: skip
READING = (
    "squared loss: members less diversity is the ensemble's, exactly; cross-entropy (nats): it is at least the "
    "ensemble's (Ortega et al. 2022), by the slack; members: mean of teacher and views, diversity as in the fits"
)


@dataclass(frozen=True)
class TrialLosses:
    """The losses of one trial's ensemble on the images that it was judged by."""

    trial_id: str
    arm: str
    losses: EnsembleLosses


@dataclass(frozen=True)
class TheoryCheck:
    """Both decompositions in every trial that they can be computed for.

    Attributes:
        trials: in the order of the study's table.
        left_out: how many others there are, by reason.
    """

    trials: tuple[TrialLosses, ...]
    left_out: dict[str, int]

    @property
    def sentence(self) -> str:
        """Whether theory holds, and how much of the members' loss diversity takes away."""
        if not self.trials:
            return f"the ensembles' losses are not checked: {left_out_text(self.left_out) or 'no trial has finished'}"
        broken = [trial for trial in self.trials if not trial.losses.holds]
        if broken:
            return (
                f"theory does not hold in {len(broken)} of {counted(len(self.trials), 'trial')}: what they kept is "
                f"damaged, or the formulas are wrong ({', '.join(trial.trial_id for trial in broken[:3])})"
            )
        largest = max(trial.losses.largest_gap for trial in self.trials)
        shares = [100 * of.diversity / of.members for trial in self.trials if (of := trial.losses.squared).members > 0]
        taken = f"; diversity takes {number(min(shares), 1)} to {number(max(shares), 1)} % of the members' squared loss"
        return (
            f"theory holds in all of {counted(len(self.trials), 'trial')} (equality to {largest:.0e}, no image above "
            f"the bound){taken if shares else ''}"
        )

    def rows(self) -> list[list[str]]:
        """A row for each trial under `HEADINGS`."""
        return [
            [trial.trial_id, trial.arm, str(of.members),
             *(number(value, 4) for value in (of.squared.members, of.squared.diversity, of.squared.ensemble,
                                              of.cross_entropy.members, of.cross_entropy.diversity,
                                              of.cross_entropy.ensemble, of.cross_entropy.slack, of.sharper.slack))]
            for trial in self.trials
            for of in (trial.losses,)
        ]  # fmt: skip

    def report(self) -> dict[str, Any]:
        """Everything that was computed, as plain JSON."""
        return {
            "sentence": self.sentence, "reading": READING, "left_out": self.left_out,
            "trials": {trial.trial_id: {"arm": trial.arm, **_losses_json(trial.losses)} for trial in self.trials},
        }  # fmt: skip


@progress.stage("checking the ensembles' losses")
def theory_check(run: Path) -> TheoryCheck:
    """The check of a study; empty, with reasons, where no trial kept the answers of its views.

    Raises:
        StudyError: for a directory that is no study, or one whose trials cannot be read.
    """
    return check_of(run, tables.read_trials(run).to_pylist())


def check_of(run: Path, rows: Iterable[Mapping[str, Any]]) -> TheoryCheck:
    """The check of some rows of a study's table of trials."""
    found: list[TrialLosses] = []
    left_out: Counter[str] = Counter()
    for held in members_of(run, (row for row in rows if row["status"] == "done")):
        if isinstance(held, Members):
            found.append(TrialLosses(held.trial_id, held.arm, ensemble_losses(held.members_MNK, held.labels_N)))
        else:
            left_out[held] += 1
    return TheoryCheck(tuple(found), dict(left_out))


def _losses_json(of: EnsembleLosses) -> dict[str, Any]:
    return {
        "members": of.members, "images": of.images, "holds": of.holds, "largest_gap": of.largest_gap,
        "squared": _decomposition_json(of.squared), "cross_entropy": _decomposition_json(of.cross_entropy),
        "sharper": _decomposition_json(of.sharper), "images_above_bound": of.broken,
        "images_above_sharper_bound": of.broken_sharper, "ensemble_accuracy": of.ensemble_accuracy,
        "members_accuracy": of.members_accuracy,
    }  # fmt: skip


def _decomposition_json(of: Decomposition) -> dict[str, float]:
    return {"ensemble": of.ensemble, "members": of.members, "diversity": of.diversity, "slack": of.slack}

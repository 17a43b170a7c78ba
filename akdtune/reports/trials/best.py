"""The best trials and configurations of a study over all of its roles, and what may be said of them.

Trials of a search, of probes and of pilots are judged on validation images; those of a confirmation and an ablation,
with its controls, on the test set after training on other images. The two are never compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from akdtune.errors import StudyError
from akdtune.metric import ACCURACY, judged_on, of_trials
from akdtune.reports.text import counted, number
from akdtune.reports.trials.cell_means import CellMean, Row, cell_means, measured, tally
from akdtune.roles import REPORT_ROLES

FEWEST_SEEDS = 2
"""Trials of a configuration over which a mean is taken."""

_PHASES = {"confirm": "confirmation", "control": "ablation", "pilot": "pilot of the ablation"}
"""The phase of a study that trains trials of a role, where it is called otherwise."""

_KINDS = {"probe": "A probe", "pilot": "A pilot's trial"}

NAMED = 3
"""Arms that a sentence names."""


@dataclass(frozen=True)
class Best:
    """The best of the trials that are judged alike.

    Attributes:
        metric: what they are judged by, after their last epoch.
        rows: all of them, whatever their state.
        trials: the best one of each arm, best first; a pruned one only where no trial of its arm reached the end.
        cells: the configuration of each arm with the best mean over two or more seeds, best first.
    """

    metric: str
    rows: Sequence[Row]
    trials: Sequence[Row]
    cells: Sequence[CellMean]

    @property
    def phases(self) -> list[str]:
        """The phases that the trials belong to."""
        return list(dict.fromkeys(phase_of(row) for row in self.rows))

    @property
    def counted(self) -> str:
        """How many trials these are, how they ended, and in which phases: `60 trials: 56 done, 4 pruned (probe)`."""
        return tally(self.rows) + ("" if self.phases == ["search"] else f" ({', '.join(self.phases)})")

    @property
    def caution(self) -> str:
        """Why the best is not what it seems; empty where nothing was chosen."""
        if on_test(self.metric):
            return "chosen by the test set"
        return "the highest of noisy numbers, so optimistic" if len(self.rows) > 1 else ""

    @property
    def sentences(self) -> list[str]:
        """What must be known to read the table: another role than the search, pruned trials, missing arms, test set."""
        said = [self._beside_the_search(), self._pruned(), self._missing(), self._selection()]
        return [sentence for sentence in said if sentence]

    def _selection(self) -> str:
        if not on_test(self.metric):
            return ""
        return (
            "Whoever chooses among these chooses by the test set: `akdtune analyze ablation` compares the cells and "
            "says what is resolved."
        )

    def _beside_the_search(self) -> str:
        """The best of another role, where it is better than the search's best."""
        of_search = best_done([row for row in self.rows if row["role"] == "search"], self.metric)
        best = best_done(self.rows, self.metric)
        if of_search is None or best is None or best["role"] == "search":
            return ""
        high, low = measured(best, self.metric), measured(of_search, self.metric)
        if high is None or low is None or high <= low:
            return ""
        kind = _KINDS.get(str(best["role"]), f"A {best['role']} trial")
        return (
            f"{kind} is better than the search: {described(best)} has {number(high)} %, the search's best "
            f"{described(of_search)} {number(low)} %. Confirmation and ablation go by the search's."
        )

    def _pruned(self) -> str:
        """Which arms have nothing but pruned trials."""
        pruned = [row for row in self.trials if row["status"] == "pruned"]
        if not pruned:
            return ""
        named = [f"{row['arm']} ({row['trial_id']} after {counted(row['epochs'] or 0, 'epoch')})" for row in pruned]
        return f"A pruned trial stands here where none of its arm has reached its last epoch: {_listed(named)}."

    def _missing(self) -> str:
        have = {row["arm"] for row in self.trials}
        without = [str(arm) for arm in dict.fromkeys(row["arm"] for row in self.rows) if arm not in have]
        return f"No trial has reached its last epoch yet, or with a value, of {_listed(without)}." if without else ""


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def phase_of(row: Row) -> str:
    """The phase of a study that a trial belongs to."""
    return _PHASES.get(str(row["role"]), str(row["role"]))


def described(row: Row) -> str:
    """A trial by its id, cell or arm, seed: `94c9d47fad77-s1 (angular/kd, seed 1)`."""
    return f"{row['trial_id']} ({row.get('cell') or row['arm']}, seed {row['seed']})"


def on_test(column: str) -> bool:
    """Whether a column of a study's metric is of the test set."""
    return judged_on(column) == "test"


def judged_by(row: Row) -> str:
    """The column by which a trial of this role is judged."""
    metric = of_trials(row)
    return metric.test if row["role"] in REPORT_ROLES else metric.validation


def bests(rows: Sequence[Row]) -> list[Best]:
    """What is best among the trials that are judged on validation images, then among those judged on the test set.

    Args:
        rows: of `trials.parquet`.

    Returns:
        At most two; each has at least one trial.

    Raises:
        StudyError: when no trial has reached its last epoch or was pruned with a value yet.
    """
    found = []
    named = of_trials(rows[0]) if rows else ACCURACY
    for metric in (named.validation, named.test):
        judged = [row for row in rows if judged_by(row) == metric]
        trials = _of_each_arm(judged, metric)
        if trials:
            found.append(Best(metric, judged, trials, _cells_of_each_arm(judged, metric)))
    if not found:
        raise StudyError(f"{none_yet(rows)} ({tally(rows)})")
    return found


def of_one_kind(rows: Sequence[Row]) -> tuple[str, list[Row]]:
    """By what trials are judged, and these: on validation images, or where there are none on the test set."""
    named = of_trials(rows[0]) if rows else ACCURACY
    metric = named.test if {judged_by(row) for row in rows} == {named.test} else named.validation
    return metric, [row for row in rows if judged_by(row) == metric]


def none_yet(rows: Sequence[Row], of: str = "") -> str:
    """What is said of trials of which none has an end with a value."""
    roles = " or ".join(dict.fromkeys(str(row["role"]) for row in rows))
    return f"no {f'{roles} ' if roles else ''}trial{of} has reached its last epoch yet"


def best_done(rows: Sequence[Row], metric: str, status: str = "done") -> Row | None:
    """The highest of those that ended so; of equal ones the first."""
    ended = [(value, row) for row in rows if row["status"] == status and (value := measured(row, metric)) is not None]
    return max(ended, key=lambda pair: pair[0])[1] if ended else None


def _of_each_arm(rows: Sequence[Row], metric: str) -> list[Row]:
    arms: dict[str, list[Row]] = {}
    for row in rows:
        arms.setdefault(row["arm"], []).append(row)
    found = [best_done(of, metric) or best_done(of, metric, "pruned") for of in arms.values()]
    return sorted(
        (row for row in found if row is not None),
        key=lambda row: (row["status"] != "done", -(measured(row, metric) or 0.0)),
    )


def _cells_of_each_arm(rows: Sequence[Row], metric: str) -> list[CellMean]:
    best: dict[str, CellMean] = {}
    for mean in cell_means(rows, metric):
        if mean.n >= FEWEST_SEEDS:
            best.setdefault(mean.arm, mean)
    return list(best.values())

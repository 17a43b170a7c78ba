"""Whether student accuracy follows ensemble diversity: within arms, over arms, and what the numbers cannot say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from akdtune import progress
from akdtune.metric import ACCURACY, Metric, of_trials
from akdtune.records import tables
from akdtune.roles import REPORT_ROLES
from akdtune.statistics import association, permutation
from akdtune.statistics.association import Association
from akdtune.statistics.resampling import Floats, Integers

HEADLINE = {
    "diversity_sq_prob": "D_sq, probabilities",
    "diversity_sq_logit": "D_sq, logits",
    "diversity_sq_feature": "D_sq, features",
    "diversity_ce": "D_ce",
}

FURTHER = {
    "diversity_pair_prob": "D_pair, probabilities",
    "diversity_pair_logit": "D_pair, logits",
    "diversity_pair_feature": "D_pair, features",
    "inter_cosine": "cosine of views",
    "offset_cosine": "cosine of offsets",
}
ESTIMANDS = {
    "pooled": "(a) pooled: all cells of the panel as they are; descriptive, mixes differences between and within arms",
    "within_arm": "(b) within arm: both variables centred on the mean of their arm (view x base method), then pooled",
    "adjusted": "(c) adjusted: least squares on student-side settings only (base method, its weights and temperature, "
    "cross-entropy weight, learning rate, student network), never on view-side settings",
}
MIN_DOF = 10
PROBES = "probe trials: quasi-random view settings, student settings fixed, never pruned"
REPORTS = "report trials: trained on everything; confirmed arms were chosen by their accuracy"
SURVIVORS = "search survivors: selected on accuracy (pruning cuts off low accuracies, which mostly flattens a relation)"


@dataclass(frozen=True)
class DiversityPanel:
    """Trials that may be looked at together.

    Attributes:
        name: key in the JSON report.
        title: one line above its plots and table.
        biased: whether its trials were selected on accuracy.
        arms, cells, accuracy: one entry per finished trial; accuracy in percent, NaN where it is missing.
        measures: values per diversity measure, NaN where there are none.
        student_settings: values per searched student-side setting.
        excluded: trials of these roles that do not count, by status.
        trials, seeds: one entry per finished trial.
        ensemble_accuracy: of teacher and views, percent, on the same images; NaN where it is missing.
        metric: what `accuracy` holds, in a study that is judged by another one.
    """

    name: str
    title: str
    biased: bool
    arms: list[str]
    cells: list[str]
    accuracy: Floats
    accuracy_on: str
    measures: dict[str, Floats]
    student_settings: dict[str, list[Any]]
    excluded: dict[str, int]
    trials: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    ensemble_accuracy: Floats = field(default_factory=lambda: np.empty(0))
    metric: Metric = ACCURACY

    def viewless(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Which trials have no views and hence no diversity: they are drawn, not fitted."""
        return np.array([is_viewless(arm) for arm in self.arms], bool)

    def fitted(self, measure: str) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Which trials enter the fit of a measure."""
        return np.isfinite(self.measures[measure]) & np.isfinite(self.accuracy) & ~self.viewless()


@dataclass(frozen=True)
class Relation:
    """One measure against accuracy in one panel, between the means of cells.

    Attributes:
        measure: the column of the measure.
        trials: finished trials in these cells.
        estimates: by the name of an estimand.
        refused: why there is no estimate, by the name of the estimand.
        adjusted_for: student-side settings of estimand (c).
        p: of "no association within arms" (permutations within arms), for this measure by itself; None where it is
            refused or nothing varies.
    """

    measure: str
    trials: int
    estimates: dict[str, Association]
    refused: dict[str, str]
    adjusted_for: list[str]
    p: float | None

    @property
    def within(self) -> Association | None:
        """The estimate within arms, where there is one."""
        return self.estimates.get("within_arm")

    def simpson(self) -> bool:
        """Whether the pooled and the within-arm interval both exclude zero, on opposite sides of it."""
        pooled, within = (self.estimates.get(name) for name in ("pooled", "within_arm"))
        if pooled is None or within is None or pooled.pearson is None or within.pearson is None:
            return False
        both = pooled.pearson.excludes_zero and within.pearson.excludes_zero
        return both and pooled.pearson.value * within.pearson.value < 0


@dataclass(frozen=True)
class CellMeans:
    """Means over the seeds of each cell, each cell once: what is drawn and fitted.

    Attributes:
        arms: of each cell.
        measures_CM: a column per measure.
        accuracy_C: percent.
        first_C: index of the cell's first trial in the panel.
        trials: in all cells together.
    """

    arms: list[str]
    measures_CM: Floats
    accuracy_C: Floats
    first_C: Integers
    trials: int


def is_viewless(arm: str) -> bool:
    """Whether an arm's teacher stands alone, without views."""
    return arm.split("/")[0] == "none"


def arms_in_order(arms: Iterable[str]) -> list[str]:
    """Each arm once, those with views by name and then the others: the order in which figures give colours."""
    return sorted(set(arms), key=lambda arm: (is_viewless(arm), arm))


# ------------------------------------------------------------------------------------------------- reading


def panels_of(run_dir: Path) -> tuple[list[DiversityPanel], dict[str, int]]:
    """The panels of a study that hold any trial, and how many trials it has by status."""
    trials = tables.read_trials(run_dir)
    status = trials["status"].to_pylist() if trials.num_rows else []
    kinds = (
        ("probe", PROBES, ("probe",), False),
        ("search", SURVIVORS, ("search",), True),
        ("report", REPORTS, REPORT_ROLES, False),
    )
    panels = [_panel(trials, name, title, roles, biased) for name, title, roles, biased in kinds]
    return [panel for panel in panels if panel.arms or panel.excluded], dict(Counter(status))


def _panel(trials: Any, name: str, title: str, roles: Sequence[str], biased: bool) -> DiversityPanel:
    of_role = np.array([role in roles for role in trials["role"].to_pylist()], bool)
    status = np.array(trials["status"].to_pylist(), object)
    rows = trials.take(np.flatnonzero(of_role & (status == "done")))
    metric = of_trials(rows.column_names)
    accuracy, test = _values(rows, metric.validation), _values(rows, metric.test)
    on_test = name == "report" and bool(np.isfinite(test).any())
    student = [
        column for column in rows.column_names
        if column.startswith(("param.method.", "param.training.", "param.student."))
    ]  # fmt: skip
    return DiversityPanel(
        name=name,
        title=title,
        biased=biased,
        arms=[str(arm) for arm in rows["arm"].to_pylist()],
        cells=[str(cell) for cell in rows["cell_id"].to_pylist()],
        accuracy=np.where(np.isfinite(test), test, accuracy) if on_test else accuracy,
        accuracy_on="test" if on_test else "validation",
        measures={measure: _values(rows, measure) for measure in {**HEADLINE, **FURTHER}},
        student_settings={column.removeprefix("param."): rows[column].to_pylist() for column in student},
        excluded=dict(Counter(status[of_role & (status != "done")].tolist())),
        trials=[str(trial) for trial in rows["trial_id"].to_pylist()],
        seeds=[int(seed) for seed in rows["seed"].to_pylist()],
        ensemble_accuracy=_values(rows, "ensemble_accuracy"),
        metric=metric,
    )


def _values(rows: Any, column: str) -> Floats:
    return np.array([np.nan if value is None else value for value in rows[column].to_pylist()], np.float64)


# ------------------------------------------------------------------------------------------------- estimating


def cell_means(panel: DiversityPanel, measures: Sequence[str], use_N: Any) -> CellMeans:
    """Means over seeds of the trials that `use_N` marks: seeds of a cell are repetitions, never cells of their own."""
    use = np.flatnonzero(use_N)
    of_trials = [(panel.arms[i], panel.cells[i]) for i in use]
    places = {cell: place for place, cell in enumerate(dict.fromkeys(of_trials))}
    codes_N = np.array([places[cell] for cell in of_trials], np.int64)
    seeds_C = np.bincount(codes_N, minlength=len(places))
    columns = [panel.accuracy[use], *(panel.measures[measure][use] for measure in measures)]
    accuracy_C, *means = (np.bincount(codes_N, weights=column_N, minlength=len(places)) / seeds_C
                          for column_N in columns)  # fmt: skip
    first_C = use[np.unique(codes_N, return_index=True)[1]]
    measures_CM = np.array(means).reshape(len(measures), len(places)).T
    return CellMeans([arm for arm, _ in places], measures_CM, accuracy_C, first_C, len(use))


@progress.stage("computing intervals")
def relate(
    panel: DiversityPanel, measures: Sequence[str], *, draws: int = association.DRAWS, seed: int = 0
) -> list[Relation]:
    """The three estimands for each measure, between the means of cells.

    (b) and (c) are refused below `MIN_DOF` residual degrees of freedom. Where cells have several seeds, r is that of
    their means, larger than between single trials because noise of seeds is averaged; slopes stay as they are where
    all seeds of a cell have the same diversity.

    Args:
        panel: trials that may be looked at together.
        measures: columns of the panel.
        draws: of the bootstrap.
        seed: of the bootstrap and of the permutations.
    """
    alike: dict[bytes, list[str]] = {}
    for measure in measures:
        alike.setdefault(panel.fitted(measure).tobytes(), []).append(measure)
    by_measure = {
        relation.measure: relation for group in alike.values() for relation in _relate(panel, group, draws, seed)
    }
    return [by_measure[measure] for measure in measures]


def _relate(panel: DiversityPanel, measures: Sequence[str], draws: int, seed: int) -> list[Relation]:
    """For measures that the same trials have."""
    of_cells = cell_means(panel, measures, panel.fitted(measures[0]))
    x_CM, y_C, cells = of_cells.measures_CM, of_cells.accuracy_C, range(len(of_cells.arms))
    adjustment, adjusted_for = _student_side(panel, of_cells.first_C, of_cells.arms)
    designs = {
        "pooled": np.ones((len(cells), 1)), "within_arm": association.dummies(of_cells.arms), "adjusted": adjustment,
    }  # fmt: skip
    estimates: dict[str, list[Association]] = {}
    refused: dict[str, str] = {}
    for name, design in designs.items():
        rank = int(np.linalg.matrix_rank(design)) if cells else 0
        dof = len(cells) - rank - 1
        if name != "pooled" and dof < MIN_DOF:
            taken = "arm means" if name == "within_arm" else "student-side columns"
            refused[name] = (
                f"refused: residual degrees of freedom {max(dof, 0)} ({len(cells)} cells less {taken} {rank} "
                f"and slope 1), {MIN_DOF} needed"
            )
            continue
        twin = next((done for done in estimates if _same_span(designs[done], design)), None)
        estimates[name] = (
            estimates[twin] if twin else association.associations(x_CM, y_C, cells, design, draws=draws, seed=seed)
        )
    judged = "within_arm" in estimates
    ps = permutation.p_within_groups(x_CM, y_C, of_cells.arms, seed=seed) if judged else [None] * len(measures)
    return [
        Relation(
            measure, of_cells.trials, {name: all_[index] for name, all_ in estimates.items()}, refused, adjusted_for,
            ps[index],
        )
        for index, measure in enumerate(measures)
    ]  # fmt: skip


def _student_side(panel: DiversityPanel, use: Any, arms: Sequence[str]) -> tuple[Floats, list[str]]:
    """Nuisance columns of estimand (c), which span the intercept, and the settings they stand for."""
    methods = [arm.split("/", 1)[-1] for arm in arms]
    columns, names = [association.dummies(methods)], ["base method"] if len(set(methods)) > 1 else []
    for name, values in panel.student_settings.items():
        column = association.covariate([values[i] for i in use])
        if column is not None:
            columns.append(column)
            names.append(name)
    return np.column_stack(columns), names


def _same_span(first: Floats, second: Floats) -> bool:
    ranks = [np.linalg.matrix_rank(m) if m.size else 0 for m in (first, second, np.column_stack([first, second]))]
    return bool(ranks[0] == ranks[1] == ranks[2])

"""Whether student accuracy follows ensemble diversity: within arms, over arms, and what the numbers cannot say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from akdtune.records import tables
from akdtune.reports.text import signed
from akdtune.roles import REPORT_ROLES, STATUSES
from akdtune.statistics import association
from akdtune.statistics.association import Association, Coefficient
from akdtune.statistics.resampling import Floats

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
    "pooled": "(a) pooled: all trials of the panel as they are; descriptive, mixes differences between and within arms",
    "within_arm": "(b) within arm: both variables centred on the mean of their arm (view x base method), then pooled",
    "adjusted": "(c) adjusted: least squares on student-side settings only (base method, its weights and temperature, "
    "cross-entropy weight, learning rate, student network), never on view-side settings",
}
MIN_DOF = 10
SMALL = 12  # below this many cells no sentence about the relation is made
PROBES = "probe trials: quasi-random view settings, student settings fixed, never pruned"
REPORTS = "report trials: trained on everything; confirmed arms were chosen by their accuracy"
SURVIVORS = (
    "search survivors: selected on accuracy, biased (pruning cuts off low accuracies, which flattens the relation; "
    "measured: a true correlation of .5 shows as .34 among survivors)"
)


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

    def viewless(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Which trials have no views and hence no diversity: they are drawn, not fitted."""
        return np.array([is_viewless(arm) for arm in self.arms], bool)

    def fitted(self, measure: str) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Which trials enter the fit of a measure."""
        return np.isfinite(self.measures[measure]) & np.isfinite(self.accuracy) & ~self.viewless()


@dataclass(frozen=True)
class Relation:
    """One measure against accuracy in one panel."""

    measure: str
    estimates: dict[str, Association]
    refused: dict[str, str]
    adjusted_for: list[str]

    def simpson(self) -> bool:
        """Whether the pooled and the within-arm relation have opposite signs."""
        pooled, within = (self.estimates.get(name) for name in ("pooled", "within_arm"))
        if pooled is None or within is None or pooled.pearson is None or within.pearson is None:
            return False
        return pooled.pearson.value * within.pearson.value < 0


def is_viewless(arm: str) -> bool:
    """Whether an arm's teacher stands alone, without views."""
    return arm.split("/")[0] == "none"


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
    accuracy = _values(rows, "val_accuracy")
    test = _values(rows, "test_accuracy")
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
    )


def _values(rows: Any, column: str) -> Floats:
    return np.array([np.nan if value is None else value for value in rows[column].to_pylist()], np.float64)


# ------------------------------------------------------------------------------------------------- estimating


def relate(
    panel: DiversityPanel, measures: Sequence[str], *, draws: int = association.DRAWS, seed: int = 0
) -> list[Relation]:
    """The three estimands for each measure; (b) and (c) are refused below `MIN_DOF` residual degrees of freedom."""
    alike: dict[bytes, list[str]] = {}
    for measure in measures:
        alike.setdefault(panel.fitted(measure).tobytes(), []).append(measure)
    by_measure = {
        relation.measure: relation for group in alike.values() for relation in _relate(panel, group, draws, seed)
    }
    return [by_measure[measure] for measure in measures]


def _relate(panel: DiversityPanel, measures: Sequence[str], draws: int, seed: int) -> list[Relation]:
    """For measures that the same trials have."""
    use = np.flatnonzero(panel.fitted(measures[0]))
    arms, cells = [panel.arms[i] for i in use], [panel.cells[i] for i in use]
    x_NM, y_N = np.column_stack([panel.measures[measure][use] for measure in measures]), panel.accuracy[use]
    adjustment, adjusted_for = _student_side(panel, use, arms)
    designs = {"pooled": np.ones((len(use), 1)), "within_arm": association.dummies(arms), "adjusted": adjustment}
    estimates: dict[str, list[Association]] = {}
    refused: dict[str, str] = {}
    for name, design in designs.items():
        rank = int(np.linalg.matrix_rank(design)) if len(use) else 0
        dof = len(set(cells)) - rank - 1
        if name != "pooled" and dof < MIN_DOF:
            taken = "arm means" if name == "within_arm" else "student-side columns"
            refused[name] = (
                f"refused: residual degrees of freedom {max(dof, 0)} ({len(set(cells))} cells less {taken} {rank} "
                f"and slope 1), {MIN_DOF} needed"
            )
            continue
        twin = next((done for done in estimates if _same_span(designs[done], design)), None)
        estimates[name] = (
            estimates[twin] if twin else association.associations(x_NM, y_N, cells, design, draws=draws, seed=seed)
        )
    return [
        Relation(measure, {name: of_measures[index] for name, of_measures in estimates.items()}, refused, adjusted_for)
        for index, measure in enumerate(measures)
    ]


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


def verdict(relation: Relation) -> str:
    """One sentence on what the numbers allow to say: association or nothing, never effect."""
    name = "within_arm" if "within_arm" in relation.estimates else "pooled"
    estimate = relation.estimates[name]
    where = {"pooled": "pooled", "within_arm": "within arms"}[name]
    r = estimate.pearson
    if estimate.n < 3 or estimate.clusters < SMALL:
        return f"n is too small to conclude anything ({estimate.clusters} cells; at least {SMALL} are needed)"
    if r is None:
        return "no variation left to relate"
    if r.low is None:
        return f"no interval for r = {signed(r.value, minus='-')} {where}: nothing can be concluded"
    if not r.excludes_zero:
        needed = association.pairs_needed(r.value)
        more = f"; to tell r = {signed(r.value, minus='-')} from zero would need about {needed} cells" if needed else ""
        least = association.detectable_correlation(estimate.residual_dof + 2)
        shown = f"; this many cells show |r| of {least:.2f} or more (power .8)" if least else ""
        return f"n is too small to tell the sign {where}: the interval covers zero{shown}{more}"
    sign = "positive" if r.value > 0 else "negative"
    return f"{sign} association {where}, r = {coefficient_text(r)}"


# ------------------------------------------------------------------------------------------------- reporting


def coefficient_text(coefficient: Coefficient | None, short: bool = False) -> str:
    """A value with its interval; three significant digits when it is a slope (`short`).

    Not `text.interval`: ends that round to 0 stand here as 0, and a minus is the hyphen that this report always had.
    """
    if coefficient is None:
        return "n/a"
    value, low, high = (
        None if number is None else f"{number:+.3g}" if short else signed(number, minus="-")
        for number in (coefficient.value, coefficient.low, coefficient.high)
    )
    return f"{value} [n/a]" if low is None or high is None else f"{value} [{low}, {high}]"


def counts_text(counts: Mapping[str, int]) -> str:
    """How many trials have each status, in the order of their lives: `12 done, 3 pruned`."""
    return ", ".join(f"{counts[status]} {status}" for status in STATUSES if counts.get(status)) or "none"


def grouped_estimands(relation: Relation) -> list[tuple[str, Association]]:
    """Estimands that are the same number here share a line: with one arm, all three are."""
    groups: dict[int, tuple[list[str], Association]] = {}
    for name, estimate in relation.estimates.items():
        groups.setdefault(id(estimate), ([], estimate))[0].append(ESTIMANDS[name].split(":")[0])
    return [(" = ".join(letter.split()[0] for letter in names) if len(names) > 1 else names[0], estimate)
            for names, estimate in groups.values()]  # fmt: skip


def report(
    panels: Sequence[DiversityPanel], relations: dict[str, list[Relation]], counts: dict[str, int], **how: Any
) -> dict[str, Any]:
    """Everything that was computed, as plain JSON."""
    return {
        "estimands": ESTIMANDS,
        "claim": "association, never effect: diversity was not assigned at random independently of everything else",
        "trials_by_status": counts,
        "bootstrap": {"over": "cells", "level": association.LEVEL, **_limits(), **how},
        "minimum_residual_dof": MIN_DOF,
        "panels": {
            panel.name: {
                "title": panel.title,
                "selected_on_accuracy": panel.biased,
                "accuracy_on": panel.accuracy_on,
                "finished": len(panel.arms),
                "arms": dict(sorted(Counter(panel.arms).items())),
                "excluded": panel.excluded,
                "without_views": int(panel.viewless().sum()),
                "measures": {relation.measure: _relation_json(panel, relation) for relation in relations[panel.name]},
            }
            for panel in panels
        },
    }


def _limits() -> dict[str, int]:
    return {"up_to_cells": association.LARGE, "spearman_up_to_cells": association.LARGE_FOR_RANKS}


def _relation_json(panel: DiversityPanel, relation: Relation) -> dict[str, Any]:
    without = int((~np.isfinite(panel.measures[relation.measure]) & ~panel.viewless()).sum())
    content: dict[str, Any] = {"verdict": verdict(relation), "simpson": relation.simpson(), "without_value": without}
    content["adjusted_for"] = relation.adjusted_for
    for name in ESTIMANDS:
        if name in relation.refused:
            content[name] = {"refused": relation.refused[name]}
            continue
        estimate = relation.estimates[name]
        content[name] = {"n": estimate.n, "cells": estimate.clusters, "residual_dof": estimate.residual_dof}
        content[name]["x_sd"] = estimate.x_sd
        for part in ("pearson", "spearman", "slope"):
            value: Coefficient | None = getattr(estimate, part)
            content[name][part] = (
                None if value is None else {"value": value.value, "low": value.low, "high": value.high}
            )
    return content

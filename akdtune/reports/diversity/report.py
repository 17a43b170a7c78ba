"""The report on diversity and accuracy: the lines that are printed, and everything as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from akdtune.metric import ACCURACY
from akdtune.reports.diversity.checks import FITS, Checks
from akdtune.reports.diversity.checks_report import HOW, PATH_CLAIM, checks_json
from akdtune.reports.diversity.measured import ESTIMANDS, HEADLINE, MIN_DOF, DiversityPanel, Relation
from akdtune.reports.diversity.theory_check import TheoryCheck
from akdtune.reports.diversity.verdict import ALPHA, POWER, Verdict, headline_sentence, judge
from akdtune.roles import STATUSES
from akdtune.statistics import association, permutation
from akdtune.statistics.association import Association, Coefficient
from akdtune.statistics.mediation import ASSUMPTIONS

READING = (
    "association, never effect; intervals: 95 % over cells (bootstrap), each by itself; Holm p: permutations within "
    "arms, corrected over these measures"
)


def counts_text(counts: Mapping[str, int]) -> str:
    """How many trials have each status, in the order of their lives: `12 done, 3 pruned`."""
    return ", ".join(f"{counts[status]} {status}" for status in STATUSES if counts.get(status)) or "none"


def size_text(panel: DiversityPanel) -> str:
    """How many trials, cells and arms of a panel count, and what does not."""
    viewless = panel.viewless()
    counted = [(arm, cell) for arm, cell, bare in zip(panel.arms, panel.cells, viewless, strict=True) if not bare]
    arms = len({arm for arm, _ in counted})
    without = f"; without views, drawn and not fitted: {viewless.sum()}" if viewless.any() else ""
    return (
        f"{len(counted)} finished trials with views in {len(set(counted))} cells of {arms} "
        f"arm{'' if arms == 1 else 's'}; excluded: {counts_text(panel.excluded)}{without}"
    )


def grouped_estimands(relation: Relation) -> list[tuple[str, Association]]:
    """Estimands that are the same number here share a line: with one arm, all three are."""
    groups: dict[int, tuple[list[str], Association]] = {}
    for name, estimate in relation.estimates.items():
        groups.setdefault(id(estimate), ([], estimate))[0].append(ESTIMANDS[name].split(":")[0])
    return [(" = ".join(letter.split()[0] for letter in names) if len(names) > 1 else names[0], estimate)
            for names, estimate in groups.values()]  # fmt: skip


def report(
    panels: Sequence[DiversityPanel],
    relations: dict[str, list[Relation]],
    counts: dict[str, int],
    *,
    checks: Mapping[str, Sequence[Checks]],
    theory: TheoryCheck,
    **how: Any,
) -> dict[str, Any]:
    """Everything that was computed, as plain JSON."""
    verdicts = {name: judge(of_panel) for name, of_panel in relations.items()}
    return {
        "verdict": headline_sentence(panels, verdicts),
        "estimands": ESTIMANDS,
        "claim": "association, never effect: diversity was not assigned at random independently of everything else",
        "trials_by_status": counts,
        "bootstrap": {"over": "cells", "level": association.LEVEL, **_limits(), **how},
        "tests": {
            "p": "permutations of accuracy within arms", "p_holm": "Holm over the headline measures of a panel",
            "alpha": ALPHA, "power": POWER, "draws": permutation.DRAWS, "up_to_cells": permutation.LARGE,
            "seed": how.get("seed"),
        },
        "minimum_residual_dof": MIN_DOF,
        "panels": {
            panel.name: _panel_json(panel, relations[panel.name], verdicts[panel.name]) | {
                "checks": {check.relation.measure: checks_json(check) for check in checks[panel.name]}
            }
            for panel in panels
        },
        "checks": {"fits": {**FITS, "how": HOW}, "path": {"claim": PATH_CLAIM, "assumptions": list(ASSUMPTIONS)}},
        "theory": theory.report(),
    }  # fmt: skip


def _panel_json(panel: DiversityPanel, relations: Sequence[Relation], verdict: Verdict) -> dict[str, Any]:
    return {
        "title": panel.title,
        "verdict": verdict.sentence,
        "detectable_r": verdict.detectable_r,
        "tested": len(verdict.tested),
        "selected_on_accuracy": panel.biased,
        "accuracy_on": panel.accuracy_on,
        **({} if panel.metric == ACCURACY else {"metric": panel.metric.name}),
        "finished": len(panel.arms),
        "arms": dict(sorted(Counter(panel.arms).items())),
        "excluded": panel.excluded,
        "without_views": int(panel.viewless().sum()),
        "measures": {relation.measure: _relation_json(panel, relation, verdict) for relation in relations},
    }


def _limits() -> dict[str, int]:
    return {"up_to_cells": association.LARGE, "spearman_up_to_cells": association.LARGE_FOR_RANKS}


def _relation_json(panel: DiversityPanel, relation: Relation, verdict: Verdict) -> dict[str, Any]:
    without = int((~np.isfinite(panel.measures[relation.measure]) & ~panel.viewless()).sum())
    content: dict[str, Any] = {"without_value": without, "adjusted_for": relation.adjusted_for, "p": relation.p}
    if relation.measure in HEADLINE:
        (judged,) = [judged for judged in verdict.judged if judged.relation.measure == relation.measure]
        content |= {"p_holm": judged.p_holm, "resolved": judged.resolved, "simpson": judged.simpson}
    for name in ESTIMANDS:
        if name in relation.refused:
            content[name] = {"refused": relation.refused[name]}
            continue
        estimate = relation.estimates[name]
        content[name] = {"n": relation.trials, "cells": estimate.clusters, "residual_dof": estimate.residual_dof}
        content[name]["x_sd"] = estimate.x_sd
        for part in ("pearson", "spearman", "slope"):
            value: Coefficient | None = getattr(estimate, part)
            content[name][part] = (
                None if value is None else {"value": value.value, "low": value.low, "high": value.high}
            )
    return content

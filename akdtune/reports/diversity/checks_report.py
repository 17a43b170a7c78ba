"""The other fits and the path through the ensemble's accuracy as rows of tables, sentences and JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from akdtune.reports.diversity.checks import FITS, Checks
from akdtune.reports.diversity.verdict import coefficient_text
from akdtune.reports.text import number
from akdtune.statistics.association import Coefficient
from akdtune.statistics.mediation import ASSUMPTIONS, Mediation
from akdtune.statistics.mixed import MixedFit

FIT_HEADINGS = ("measure", "fit of the slope within arms", "slope [95 %], points per unit")
PATH_HEADINGS = ("measure", "path", "slope [95 %]")
PATH_PARTS = {
    "a": "a: ensemble's on diversity", "b": "b: student's on the ensemble's",
    "indirect": "a x b: along the path", "direct": "beside it", "total": "together",
}  # fmt: skip
HOW = (
    "mixed model: trials as rows, random intercepts per seed, arm and cell; Theil-Sen: pairs of cells of one arm; "
    "Huber: weighs accuracies far from the line less; lowest and highest: the slope without one arm"
)
PATH_CLAIM = "the path is an association, not an effect; to call it one would take, and nothing here tests it:"


def fit_rows(checks: Iterable[Checks]) -> list[list[str]]:
    """A row for each fit of each measure, and the arms without which the slope is lowest and highest."""
    rows = []
    for check in checks:
        lines = [(FITS[name], coefficient_text(slope, short=True)) for name, slope in check.slopes.items()]
        if check.extremes is not None:
            for word, left in zip(("lowest", "highest"), check.extremes, strict=True):
                lines.append((f"{word}, without {left.group}", f"{left.slope:+.3g}"))
        rows += [[check.name, *line] for line in lines]
    return rows


def path_rows(checks: Iterable[Checks]) -> list[list[str]]:
    """A row for each part of each measure's path through the ensemble's accuracy."""
    return [
        [check.name, words, coefficient_text(getattr(path, part), short=True)]
        for check in checks
        if isinstance(path := check.mediation, Mediation)
        for part, words in PATH_PARTS.items()
    ]


def remarks(checks: Sequence[Checks]) -> list[str]:
    """How each measure's fits agree, what the mixed model had to leave out, and which fits there are none of."""
    said = [check.sentence for check in checks]
    for check in checks:
        if isinstance(check.mixed, str):
            said.append(check.mixed)
        else:
            said += [f"mixed model of {check.name}: {'; '.join(check.mixed.notes)}"] if check.mixed.notes else []
            said.append(f"standard deviations, {check.name}: {_sds(check.mixed)}")
        if isinstance(check.huber, str):
            said.append(f"{check.name}: {check.huber}")
    return list(dict.fromkeys(said))


def path_remarks(checks: Sequence[Checks]) -> list[str]:
    """What each path says, and what would make it an effect."""
    said = list(dict.fromkeys(check.path_sentence for check in checks))
    if not any(isinstance(check.mediation, Mediation) for check in checks):
        return said
    return [*said, PATH_CLAIM, *(f"  {assumption}" for assumption in ASSUMPTIONS)]


def _sds(fit: MixedFit) -> str:
    return ", ".join(f"{name} {number(sd)}" for name, sd in fit.sds.items()) + " points"


# ------------------------------------------------------------------------------------------------- JSON


def checks_json(check: Checks) -> dict[str, Any]:
    """Everything of one measure, as plain JSON; what there is none of is null, with its reason under `refused`."""
    fit, path = check.mixed, check.mediation
    parts = {"mixed": fit, "huber": check.huber, "path": path}
    return {
        "sentence": check.sentence,
        "slopes": {name: coefficient_json(slope) for name, slope in check.slopes.items()},
        "mixed": None if isinstance(fit, str) else {
            "trials": fit.trials, "sds": fit.sds, "fixed_intercepts": list(fit.fixed), "notes": list(fit.notes),
        },
        "without_arm": {left.group: {"slope": left.slope, "cells": left.rows} for left in check.without_arms},
        "path": None if isinstance(path, str) else {
            "sentence": check.path_sentence, "cells": path.clusters,
            **{part: coefficient_json(getattr(path, part)) for part in PATH_PARTS},
        },
        "refused": {name: part for name, part in parts.items() if isinstance(part, str)},
    }  # fmt: skip


def coefficient_json(value: Coefficient) -> dict[str, float | None]:
    """A number with its interval."""
    return {"value": value.value, "low": value.low, "high": value.high}

"""The page of a study: which sections it has, and which it has nothing for."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from akdtune import __version__
from akdtune.errors import AkdtuneError
from akdtune.reports.page import material as reading
from akdtune.reports.page.content import LeftOut, Page, Section
from akdtune.reports.page.material import Material, finite
from akdtune.reports.page.sections import (
    course,
    detection,
    fidelity,
    geometry,
    outcome,
    question,
    searched,
    transfer,
    verdict,
    views,
)
from akdtune.reports.text import duration
from akdtune.roles import STATUSES

SECTIONS: dict[str, Callable[[Material], Section | LeftOut]] = {
    "Question and design": question.question,
    "Verdict": verdict.verdict,
    "Arms and cells": verdict.arms,
    "Differences from the reference": verdict.forest,
    "Learning curves": course.curves,
    "Decisions of early stopping": course.rungs,
    "Optimisation history": course.history,
    "Parallel coordinates": searched.coordinates,
    "Slices and contours": searched.slices,
    "Importance of settings": searched.importance,
    "Diversity and accuracy": views.diversity,
    "Geometry of the views": geometry.geometry,
    transfer.TITLE: transfer.transfer,
    "Attention and fidelity": fidelity.fidelity,
    "Detection of teachers": detection.detection,
    "Pareto front": outcome.pareto,
    "Cost": outcome.cost,
    "Failures": outcome.failures,
    "Versions and command": outcome.origin,
}
"""In the order of the page."""


def page_of(run: Path) -> Page:
    """Everything there is to say about a study, also while it runs.

    Args:
        run: the study directory.

    Raises:
        StudyError: for a directory that is no study, or one whose trials cannot be read.
    """
    material = reading.read(run)
    made = [_made(material, title, build) for title, build in SECTIONS.items()]
    return Page(
        material.name,
        _about(material),
        _facts(material),
        [section for section in made if isinstance(section, Section)],
        [section for section in made if isinstance(section, LeftOut)],
        list(dict.fromkeys(material.trouble)),
        f"{time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC, akdtune {__version__}",
    )


def _made(material: Material, title: str, build: Callable[[Material], Section | LeftOut]) -> Section | LeftOut:
    """A section; where what it needs cannot be read, its place says so and the others stand."""
    try:
        return build(material)
    except AkdtuneError as error:
        return LeftOut(title, reading.without_home(str(error)))


def _about(material: Material) -> str:
    ended = sum(row["status"] in ("done", "pruned", "diverged", "failed") for row in material.rows)
    if not material.rows:
        return "No trial has been planned yet."
    if material.runs_still:
        return f"Not finished: {ended} of {len(material.rows)} planned trials have ended; numbers will change."
    return f"All {len(material.rows)} planned trials have ended."


def _facts(material: Material) -> dict[str, str]:
    """The study in a few numbers."""
    counts = Counter(str(row["status"]) for row in material.rows)
    facts = {"trials": str(len(material.rows))} | {status: str(counts[status]) for status in STATUSES if counts[status]}
    searched_arms = {row["arm"] for row in material.of_roles("search", "probe")}
    facts |= {"arms": str(len(searched_arms))} if searched_arms else {}
    cells = {cell.cell_id for phase in material.phases for cell in phase.cells}
    facts |= {"cells": str(len(cells))} if cells else {}
    epochs = sum(row["epochs"] or 0 for row in material.rows)
    facts |= {"epochs": f"{epochs:,}"} if epochs else {}
    seconds = sum(finite(row.get(name)) or 0.0 for row in material.rows for name in ("wall_time_s", "warmup_time_s"))
    return facts | ({"of training": duration(seconds)} if seconds else {})

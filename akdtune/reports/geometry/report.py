"""The geometry of views as tables, one verdict and JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from akdtune.reports.geometry import courses
from akdtune.reports.geometry.calibration import Calibration, calibration_json
from akdtune.reports.geometry.courses import MEASURES, Course, turned
from akdtune.reports.geometry.trial_offsets import Offsets, offsets_json
from akdtune.reports.left_out import left_out_text
from akdtune.reports.text import number

COURSE_HEADINGS = ("measure", "arm", "trials", "first", "last", "sd")
ARMS_NAMED = 2
"""Arms whose angles the verdict gives one by one; of more it gives the lowest and the highest."""
_ANGLES = (("teacher_cosine", "inter_cosine"), ("teacher_cosine_prob", "inter_cosine_prob"))
"""To the teacher and to each other, by features and by probabilities."""


def course_rows(found: Sequence[Course]) -> list[list[str]]:
    """Each measure of each arm at its first and its last epoch, under `COURSE_HEADINGS`."""
    return [
        [MEASURES[course.measure][0], course.arm, str(len(course.curves)),
         *(_with_unit(value, MEASURES[course.measure][1]) for value in (course.first, course.last, course.spread))]
        for course in found
    ]  # fmt: skip


def _with_unit(value: float | None, unit: str) -> str:
    """`42.5°`, `85.6 %`, and as it is what has no sign."""
    digits, sign = {"degrees": (1, "\N{DEGREE SIGN}"), "%": (1, " %")}.get(unit, (2, ""))
    return number(value, digits) + (sign if value is not None else "")


def verdict(found: Sequence[Course], offsets: Offsets, ensembles: Calibration) -> str:
    """Where views end, and whether their ensemble is calibrated better than its teacher: one sentence."""
    parts = [_angles(found), *ensembles.sentences[:1]]
    if not any(parts):
        return "nothing can be said of the views: no finished trial has angles, features or answers of them"
    return "; ".join(part for part in parts if part)


def _angles(found: Sequence[Course]) -> str:
    for to_teacher, to_each_other in _ANGLES:
        teacher, others = turned(found, to_teacher), turned(found, to_each_other)
        if not teacher and not others:
            continue
        what = "features" if to_teacher == "teacher_cosine" else "probabilities"
        if len({*teacher, *others}) > ARMS_NAMED:
            ends = f"{_range(teacher)} from their teacher and {_range(others)} from each other"
            return f"views end, by {what}, {ends}, means of {len({*teacher, *others})} arms"
        said = [
            f"{arm} {_from_to(teacher.get(arm))} from the teacher and {_from_to(others.get(arm))} from each other"
            for arm in dict.fromkeys([*teacher, *others])
        ]
        return f"views lie, by {what}, first and last: {', '.join(said)}"
    return ""


def _from_to(ends: tuple[float, float] | None) -> str:
    return "n/a" if ends is None else f"{number(ends[0], 1)} to {number(ends[1], 1)} degrees"


def _range(ends: Mapping[str, tuple[float, float]]) -> str:
    """The lowest and the highest last value, with their arms."""
    if not ends:
        return "n/a"
    low, high = (choose(ends, key=lambda arm: ends[arm][1]) for choose in (min, max))
    return f"{number(ends[low][1], 1)} ({low}) to {number(ends[high][1], 1)} degrees ({high})"


def left_out_lines(offsets: Offsets, ensembles: Calibration) -> list[str]:
    """How many trials each part leaves out, and why."""
    said = {"offsets": offsets.left_out, "calibration": ensembles.left_out}
    return [f"{part}: {left_out_text(left_out)}" for part, left_out in said.items() if left_out]


def report(
    found: Sequence[Course], offsets: Offsets, ensembles: Calibration, counts: Mapping[str, int], **how: Any
) -> dict[str, Any]:
    """Everything that was computed, as plain JSON."""
    return {
        "verdict": verdict(found, offsets, ensembles),
        "trials_by_status": dict(counts),
        "bootstrap": {"over": "images", **how},
        "courses": {"reading": courses.READING, "measures": _courses_json(found)},
        "offsets": offsets_json(offsets),
        "calibration": calibration_json(ensembles),
    }


def _courses_json(found: Sequence[Course]) -> dict[str, Any]:
    measures: dict[str, Any] = {}
    for course in found:
        title, unit, _ = MEASURES[course.measure]
        epochs, means = course.mean
        measures.setdefault(course.measure, {"title": title, "unit": unit, "arms": {}})["arms"][course.arm] = {
            "trials": len(course.curves), "first": course.first, "last": course.last, "sd": course.spread,
            "epochs": np.asarray(epochs, int).tolist(), "mean": means.tolist(),
        }  # fmt: skip
    return measures

"""A detection as plain JSON, and back: what the page and `akdtune.load` read, without running a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from akdtune.errors import StudyError
from akdtune.records.shapes import read_json
from akdtune.reports.detection.judged import Choice, Detection, Preference, Rate
from akdtune.reports.detection.outputs import StudentFacts, TeacherFacts
from akdtune.reports.detection.scores import EPSILON, HEADLINE, SCORES
from akdtune.reports.detection.verdict import READING, remarks, sentence

FILE = "detection.json"
FORMAT = 1


def content(detection: Detection) -> dict[str, Any]:
    """Everything as plain JSON; docs/detection.md describes it."""
    return {
        "format": FORMAT,
        "verdict": sentence(detection),
        "remarks": remarks(detection),
        "reading": READING,
        "chance": detection.chance,
        "headline": HEADLINE,
        "scores": {name: score.label for name, score in SCORES.items()},
        "epsilon": EPSILON,
        "how": dict(detection.how),
        "teachers": [asdict(teacher) for teacher in detection.teachers],
        "students": [asdict(student) for student in detection.students],
        "rates": [{**asdict(rate), "accuracy": rate.accuracy} for rate in detection.rates],
        "preferences": [asdict(preference) for preference in detection.preferences],
        "choices": [asdict(choice) for choice in detection.choices],
        "notes": list(detection.notes),
    }


def parsed(path: Path, held: Mapping[str, Any]) -> Detection:
    """The inverse of `content`.

    Args:
        path: where it stands, for the message.
        held: may hold more than is needed.

    Raises:
        StudyError: when it is of another form.
    """
    try:
        if held["format"] != FORMAT:
            raise StudyError(f"{path}: is of another version (format {held['format']}, known: {FORMAT}); analyse again")
        rates = [{key: value for key, value in rate.items() if key != "accuracy"} for rate in held["rates"]]
        return Detection(
            teachers=tuple(TeacherFacts(**teacher) for teacher in held["teachers"]),
            students=tuple(StudentFacts(**student) for student in held["students"]),
            rates=tuple(Rate(**rate) for rate in rates),
            preferences=tuple(Preference(**preference) for preference in held["preferences"]),
            choices=tuple(Choice(**choice) for choice in held["choices"]),
            notes=tuple(held["notes"]),
            how=dict(held["how"]),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise StudyError(f"{path}: damaged ({error!r}); `akdtune analyze detection` writes it again") from error


def stored(run: Path) -> Detection | None:
    """What was last found for a study; None where nobody has asked yet.

    Raises:
        StudyError: when it cannot be read.
    """
    path = run / "reports" / FILE
    held = read_json(path)
    return None if held is None else parsed(path, held)

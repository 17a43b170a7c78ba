"""The report on functional transfer as plain JSON; docs/transfer.md says what each key holds."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from akdtune.reports.transfer.comparison import ALPHA, COMPARED, Compared, Comparison, Finding
from akdtune.reports.transfer.measures import CELLS
from akdtune.reports.transfer.students import Student, Students
from akdtune.reports.transfer.verdict import mean_of, notes, sentence
from akdtune.statistics.association import LEVEL
from akdtune.statistics.blocks import MeanDifference


def report(comparison: Comparison) -> dict[str, Any]:
    """Everything that was computed."""
    students = comparison.students
    return {
        "verdict": sentence(comparison),
        "notes": notes(comparison),
        "reference": students.reference,
        "images": students.images,
        "classes": students.classes,
        "measures": {
            name: {"label": measure.label, "unit": measure.unit, "sign": measure.sign, "sentence": measure.sentence}
            for name, measure in COMPARED.items()
        },
        "tests": {
            "p": "one-sided rank test within teachers (van Elteren; Mann and Whitney with one teacher)",
            "p_holm": "Holm over the measures of all cells that are no controls",
            "alpha": ALPHA, "level": LEVEL, "family": len(comparison.family), "smallest_p_holm": comparison.floor,
        },
        "failed_sanity": [finding.cell.label for finding in comparison.failed_sanity],
        "teachers": [
            {"studies": block.runs, "accuracy": block.accuracy, "control": block.control} for block in students.blocks
        ],
        "cells": {cell.label: _cell(students, cell.label) for cell in students.cells},
        "findings": {finding.cell.label: _finding(finding) for finding in comparison.findings},
        "left_out": [asdict(trial) for trial in students.left_out],
    }  # fmt: skip


def _cell(students: Students, label: str) -> dict[str, Any]:
    (cell,) = [cell for cell in students.cells if cell.label == label]
    names = [name for name in (*COMPARED, *CELLS) if mean_of(students, label, name) is not None]
    return {
        "name": cell.name, "is_control": cell.is_control, "is_noise": cell.is_noise,
        "means": {name: mean_of(students, label, name) for name in names},
        "students": [_student(student) for student in students.everyone(label)],
    }  # fmt: skip


def _student(student: Student) -> dict[str, Any]:
    return {"study": student.run, "trial_id": student.trial_id, "seed": student.seed, **student.values}


def _finding(finding: Finding) -> dict[str, Any]:
    beside = finding.beside_noise
    return {
        "is_setup": finding.is_setup,
        "students_are_independent": finding.independent,
        "compared": {name: _compared(compared) for name, compared in finding.compared.items()},
        "asymmetry_share": finding.share,
        "gained_of_headroom": {name: _difference(gained) for name, gained in finding.gained.items()},
        "agreement_against_noise": None if beside is None else _compared(beside),
    }


def _compared(compared: Compared) -> dict[str, Any]:
    test = compared.test
    return {
        "difference": _difference(compared.difference),
        "p": test.p, "p_holm": compared.p_holm, "resolved": compared.resolved, "form": test.form,
        "students": [test.cell_values, test.reference_values], "teachers": test.blocks,
        "superiority": {"value": test.superiority, "low": test.low, "high": test.high},
        "rank_biserial": test.rank_biserial,
    }  # fmt: skip


def _difference(difference: MeanDifference) -> dict[str, Any]:
    return {
        "value": difference.value, "low": difference.low, "high": difference.high, "form": difference.form,
        "by_teacher": list(difference.by_block),
    }  # fmt: skip

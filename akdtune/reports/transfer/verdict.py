"""What may be said about the transfer of a teacher's function, and the rows of its tables."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from akdtune.reports.ablation.measured import NOT_PLANNED, UNFINISHED
from akdtune.reports.text import counted, interval, number, probability, signed
from akdtune.reports.transfer.comparison import (
    ASYMMETRY,
    BY_HEADROOM,
    COMPARED,
    PARTS,
    TRANSFER,
    Compared,
    Comparison,
    Finding,
)
from akdtune.reports.transfer.measures import CELLS, MEASURES
from akdtune.reports.transfer.students import INDEPENDENT, Students
from akdtune.statistics.blocks import RankTest

MEANS = ("accuracy", *TRANSFER)
MEAN_HEADINGS = ("cell", "n", *(MEASURES[name].label for name in MEANS))
CELL_HEADINGS = ("cell", "right, agree", "right, differ", "wrong, agree", "wrong, differ")
DIFFERENCE_HEADINGS = ("cell", "measure", "difference [95 %]", "P(more) [95 %]", "Holm p")
UNITS = (
    "accuracy, agreement, c+, c- and rank in percent, JS in nats; c+ and c-: agreement where the teacher is right and "
    "where it is wrong; distance, JS and rank are smaller where students are more like their teacher"
)


# ------------------------------------------------------------------------------------------------- tables


def mean_rows(comparison: Comparison) -> list[list[str]]:
    """A row for each cell under `MEAN_HEADINGS`, the controls that others are compared with first."""
    students = comparison.students
    rows = []
    for label in _labels(students):
        means = [(MEASURES[name], mean_of(students, label, name)) for name in MEANS]
        rows.append([label, students.seeds_text(label), *(number(mean, measure.digits) for measure, mean in means)])
    return rows


def cell_rows(comparison: Comparison) -> list[list[str]]:
    """A row for each cell under `CELL_HEADINGS`, percent of all images."""
    students = comparison.students
    return [[label, *(number(mean_of(students, label, name)) for name in CELLS)] for label in _labels(students)]


def difference_rows(comparison: Comparison, *, everything: bool = False) -> list[list[str]]:
    """Rows of every set-up under `DIFFERENCE_HEADINGS`; of controls agreement alone, unless asked for `everything`.

    The p of a control, which is in no family, stands in brackets.
    """
    rows: list[list[str]] = []
    for finding in sorted(comparison.findings, key=lambda finding: not finding.is_setup):
        whole = finding.is_setup or everything
        names = [name for name in COMPARED if name in finding.compared and (whole or name == "agreement")]
        of_cell = [["", *_difference_row(finding.compared[name])] for name in names]
        if whole and finding.share is not None:
            of_cell.append(["", "c- share", number(100 * finding.share, 0) + " %", "", ""])
        for row in of_cell[:1]:
            row[0] = finding.cell.label
        rows += of_cell
    return rows


def _difference_row(compared: Compared) -> list[str]:
    measure, difference, test = COMPARED[compared.measure], compared.difference, compared.test
    span = interval(difference.low, difference.high, measure.digits)
    p = probability(compared.p_holm) if compared.p_holm is not None else f"({probability(test.p)})"
    return [measure.label, f"{signed(difference.value, measure.digits)} {span}", superiority_text(test), p]


def superiority_text(test: RankTest) -> str:
    """`.97 [.82, .99]`."""
    if test.superiority is None or test.low is None or test.high is None:
        return "n/a"
    value, low, high = (f"{share:.2f}".removeprefix("0") for share in (test.superiority, test.low, test.high))
    return f"{value} [{low}, {high}]"


def mean_of(students: Students, label: str, name: str) -> float | None:
    """A cell's mean of a measure or a cell of agreement, in which each teacher counts once; None without values."""
    means = [fmean(values.values()) for block in students.blocks if (values := block.values(label, name))]
    return fmean(means) if means else None


def _labels(students: Students) -> list[str]:
    """Cells in the order of tables: references, set-ups, other controls."""
    first = students.controls
    return [cell.label for cell in sorted(students.cells, key=lambda cell: (cell.label not in first, cell.is_control))]


# ------------------------------------------------------------------------------------------------- sentences


def sentence(comparison: Comparison) -> str:
    """The verdict: what is resolved after the correction, in which cells, and for whom it holds."""
    students = comparison.students
    if not students.controls:
        wanted = f"no study has a finished student of {students.reference}"
        more = " (ablation.controls: [independent, random_teacher])" if students.reference == INDEPENDENT else ""
        return f"nothing is compared: {wanted}{more}"
    if not comparison.setups:
        return f"nothing is compared: no cell of a design has a finished student beside {students.reference}"
    transferred = [finding for finding in comparison.setups if _resolved(finding)]
    others = [finding.cell.label for finding in comparison.setups if not _resolved(finding)]
    said = [_failed(finding) for finding in comparison.failed_sanity]
    if transferred:
        count = len(TRANSFER)
        which = [f"{finding.cell.label} ({len(_resolved(finding))} of {count} measures)" for finding in transferred]
        said.append(f"more of the teacher's function than {_reference(students)} students have: {', '.join(which)}")
    said += [_asymmetric(finding) for finding in comparison.setups if _is_resolved(finding, ASYMMETRY)]
    if others:
        said.append(f"no transfer resolved: {', '.join(others)}" + _too_few(comparison))
    return "; ".join(said) + f" (one-sided rank tests, Holm over {len(comparison.family)}; {_scope(students)})"


def _reference(students: Students) -> str:
    return "independent" if students.reference == INDEPENDENT else f"{students.reference}'s"


def _resolved(finding: Finding) -> list[str]:
    return [name for name in TRANSFER if _is_resolved(finding, name)]


def _is_resolved(finding: Finding, name: str) -> bool:
    return name in finding.compared and finding.compared[name].resolved


def _failed(finding: Finding) -> str:
    held = finding.compared["agreement"]
    return (
        f"failed sanity check: students of {finding.cell.label}, who saw noise in the teacher's place, agree more with "
        f"it than independent ones ({signed(held.difference.value)} points, p {_p(held.test.p)} by itself), so that "
        "agreement gains without a teacher here"
    )


def _asymmetric(finding: Finding) -> str:
    """Negative asymmetry, and whether it outlasts what the control had left to gain."""
    right, wrong = (finding.compared[name].difference.value for name in PARTS)
    said = (
        f"negative asymmetry in {finding.cell.label}: agreement {signed(wrong)} points where the teacher is wrong, "
        f"{signed(right)} where it is right"
    )
    shares = [finding.gained[name].value for name in reversed(PARTS)]
    if any(share is None for share in shares):
        return said
    beside = f"{number(shares[0], 0)} against {number(shares[1], 0)} % of the headroom"
    return f"{said}, {'also' if _is_resolved(finding, BY_HEADROOM) else 'not resolved'} by headroom ({beside})"


def _too_few(comparison: Comparison) -> str:
    floor = comparison.floor
    if floor is None or floor < 0.05:
        return ""
    return f", which so few students could not (smallest corrected p {probability(floor)})"


def _scope(students: Students) -> str:
    teachers = len(students.blocks)
    return "students of one teacher" if teachers == 1 else f"within {teachers} teachers"


def _p(p: float | None) -> str:
    text = probability(p)
    return text if text.startswith("<") else f"= {text}"


def notes(comparison: Comparison) -> list[str]:
    """How to read the tables, and what is not in them, a sentence each."""
    students = comparison.students
    said = [UNITS]
    if comparison.findings:
        said += _how_compared(comparison)
    said += _about_teachers(comparison)
    said += _about_noise(comparison)
    if students.left_out:
        said.append(students.left_out_text())
    if any(trial.status in (*UNFINISHED, NOT_PLANNED) for trial in students.left_out):
        said.append("not finished: the numbers will change")
    return [*said, *students.notes]


def _how_compared(comparison: Comparison) -> list[str]:
    every = [held for finding in comparison.findings for held in finding.compared.values()]
    paired = " and ".join(sorted({str(held.difference.form) for held in every}))
    how = {"paired": "paired by seed", "unpaired": "not paired"}.get(paired, "partly paired by seed")
    form = " and ".join(sorted({str(held.test.form) for held in every}))
    over = {"exact": "over all orders", "normal": "by the normal distribution"}.get(form, form)
    return [
        f"difference: of means within a teacher, {how}, each interval by itself; P(more): how likely a student of the "
        "cell has more of its teacher than one of the control, ties half",
        f"Holm p: one-sided rank test within teachers (Mann-Whitney, van Elteren), {over}, without the pairs of seeds, "
        f"corrected over {counted(len(comparison.family), 'test')}: that values tend to be larger, not by how much; in "
        "brackets: controls, each by itself",
        "asymmetry (our choice of three): c- share (of what agreement gains), c- less c+ in points, and by headroom, "
        "each part as a percentage of what the control left to gain",
    ]


def _about_teachers(comparison: Comparison) -> list[str]:
    students = comparison.students
    if not comparison.findings:
        return []
    if len(students.blocks) == 1:
        return [
            "one teacher: nothing is said about others; run the study again with another teacher.seed, other "
            "ablation.seeds and a name of its own, and give all of them here"
        ]
    said = [f"{len(students.blocks)} teachers: what is said holds for students of these, not for teachers in general"]
    for finding in comparison.setups:
        by_block = finding.compared["agreement"].difference.by_block if "agreement" in finding.compared else ()
        rises = sum(difference > 0 for difference in by_block)
        values = ", ".join(map(signed, by_block))
        said.append(f"{finding.cell.label}: agreement rises with {rises} of {len(by_block)} teachers ({values})")
    if any(not finding.independent for finding in comparison.findings):
        said.append(
            "some seeds stand in several studies, whose students begin alike, so that p is twice the mean of the "
            "teachers' own and errors add up; other ablation.seeds in each study make them independent"
        )
    return said


def _about_noise(comparison: Comparison) -> list[str]:
    said = [
        f"{finding.cell.label} against {' and '.join(_noise(comparison.students))}: agreement "
        f"{signed(held.difference.value)} {interval(held.difference.low, held.difference.high)}, "
        f"p {_p(held.test.p)} by itself"
        for finding in comparison.setups
        if (held := finding.beside_noise) is not None
    ]
    checked = [finding for finding in comparison.findings if finding.cell.is_noise and "agreement" in finding.compared]
    if comparison.findings and not checked:
        said.append("no sanity check: no finished student saw noise in the teacher's place (control random_teacher)")
    return said


def _noise(students: Students) -> Sequence[str]:
    return [cell.label for cell in students.cells if cell.is_noise][:1]

"""The report on attention and fidelity: tables, sentences, the verdict, and everything as JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from akdtune.reports.fidelity.agreement import PUBLISHED_KL
from akdtune.reports.fidelity.measured import NOISE, Kind, StudentMeasured, TeachersMeasured, teacher_name
from akdtune.reports.fidelity.relations import RankRelation
from akdtune.reports.fidelity.study import StudyFidelity
from akdtune.reports.left_out import left_out_text
from akdtune.reports.text import counted, interval, number, probability, signed
from akdtune.statistics.association import Coefficient
from akdtune.statistics.calibration import BINS

Relations: TypeAlias = Sequence[RankRelation] | str
Value: TypeAlias = Callable[[StudentMeasured], float | None]

ANSWER_HEADINGS = ("cell", "n", "accuracy", "gap", "fidelity", "KL(T‖S)", "adjusted\nMI")
ATTENTION_HEADINGS = ("cell", "IoU S–T\n(chance)", "IoU of\nall", "IoU V–T", "affinity", "calibration\nerror")
TEACHER_HEADINGS = ("teacher", "accuracy", "calibration\nerror", "affinity", "IoU T–T\n(chance)", "fidelity\nT–T")
RELATION_HEADINGS = ("IoU T–T with", "arms", "trials", "over arms [95 %]", "within cells [95 %]", "p over\npairs")

READING = (
    "means over seeds ± sd; fidelity: images of which student and mean-logit ensemble predict the same class; gap: "
    "accuracy on training images less that on judged ones, points; KL in nats; IoU: pixels attended by all over those "
    "by any, in brackets at images paired at random; S: student, T: teachers, V: views"
)
DEFINITIONS: Mapping[str, str] = {
    "attention": "the last map under the classifier as 1x1 convolution, bilinear to the image's size, each image's map "
    "from 0 to 1 by its own least and largest value; attended: above the threshold",
    "iou": "pixels attended by all over those attended by any, summed over all images (published: averaged over "
    "batches)",
    "by_chance": "expected intersection over expected union of the same masks at images paired at random; the interval "
    "holds 95 % of random pairings",
    "fidelity_percent": "images of which both predict the same class; the ensemble is the argmax of the mean logits",
    "kl_as_published": f"{PUBLISHED_KL:g} x KL(student || teacher) at temperature 1",
    "mutual_information_nats": "of both lists of predicted classes over the whole set (published: averaged over "
    "batches, which is biased upwards)",
    "mutual_information_adjusted": "0 by chance, 1 for the same partition (arithmetic mean of the entropies)",
    "calibration_error_points": f"expected, {BINS} bins of equal width",
    "affinity": "accuracy on augmented images over that on plain ones",
    "gap_points": "accuracy on plain training images less that on the judged ones",
    "running_gap_points": "the same with the last epoch's running accuracy on augmented training images",
}


# ---------------------------------------------------------------------------------------------------- tables


def cells_of(study: StudyFidelity) -> dict[str, list[StudentMeasured]]:
    """Students by their cell, taught ones first."""
    cells: dict[str, list[StudentMeasured]] = {}
    for student in sorted(study.students, key=lambda student: not student.taught):
        cells.setdefault(student.cell, []).append(student)
    return cells


def answer_rows(study: StudyFidelity) -> list[list[str]]:
    """What the students of a cell say, a line a cell, under `ANSWER_HEADINGS`."""
    return [
        [
            cell, str(len(students)),
            _spread(students, lambda student: student.alone.accuracy),
            _spread(students, lambda student: student.any_gap),
            _spread(students, lambda student: student.ensemble.fidelity),
            _average(students, lambda student: student.ensemble.kl_teacher_student),
            _average(students, lambda student: student.ensemble.information.adjusted),
        ]
        for cell, students in cells_of(study).items()
    ]  # fmt: skip


def attention_rows(study: StudyFidelity, kind: Kind) -> list[list[str]]:
    """Where the students of a cell look, a line a cell, under `ATTENTION_HEADINGS`."""
    rows = []
    for cell, students in cells_of(study).items():
        pairs = [pair for student in students if (pair := student.with_teachers(kind)) is not None]
        iou, by_chance = _mean([first for first, _ in pairs]), _mean([by for _, by in pairs])
        rows.append([
            cell, _iou_text(iou, by_chance),
            _average(students, lambda student: student.with_all(kind)),
            _average(students, lambda student: student.of_views(kind)),
            _average(students, lambda student: student.affinity),
            _average(students, lambda student: student.alone.calibration_error, 2),
        ])  # fmt: skip
    return rows


def teacher_rows(study: StudyFidelity, kind: Kind) -> list[list[str]]:
    """A line a teacher, under `TEACHER_HEADINGS`; augmentations have the names of the cells that train on them."""
    teachers, between = study.teachers, _between_teachers(study.teachers, kind)
    names = {student.augmentation: student.cell for student in reversed(study.taught)}
    rows = []
    for place, alone in enumerate(teachers.alone):
        affinities = [
            f"{names.get(name, name)} {number(teachers.affinity(name)[place], 3)}" for name in teachers.augmented
        ]
        rows.append([
            teacher_name(place), number(alone.accuracy), number(alone.calibration_error),
            ", ".join(affinities) or "n/a", *(between if not place else ("", "")),
        ])  # fmt: skip
    return rows


def by_study(studies: Sequence[StudyFidelity], rows_of: Callable[[StudyFidelity], list[list[str]]]) -> list[list[str]]:
    """The lines of each study below a line with its name; of a single one its lines alone."""
    if len(studies) == 1:
        return rows_of(studies[0])
    rows = []
    for study in studies:
        own = rows_of(study)
        rows.append([study.name, *[""] * (len(own[0]) - 1)] if own else [study.name])
        rows += [[f"  {first}", *rest] for first, *rest in own]
    return rows


def measured_columns(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    """A table without the columns that no row has a number for, such as IoU where no maps were recorded."""
    kept = [
        place for place in range(len(headings))
        if not place or any(len(row) > place and row[place] not in ("", "n/a") for row in rows)
    ]  # fmt: skip
    return [headings[place] for place in kept], [[row[place] for place in kept if place < len(row)] for row in rows]


def relation_rows(found: Sequence[RankRelation]) -> list[list[str]]:
    """A line an outcome, under `RELATION_HEADINGS`."""
    return [
        [relation.outcome.title, str(relation.arms), str(relation.trials), _coefficient(relation.over_arms),
         _coefficient(relation.within_cells), probability(relation.p_over_studies)]
        for relation in found
    ]  # fmt: skip


def _between_teachers(teachers: TeachersMeasured, kind: Kind) -> tuple[str, str]:
    """IoU of two teachers with its chance level, and their fidelity; the means over all pairs."""
    known = [pair for pair in teachers.overlaps.get(kind, ()) if len(pair.between) == 2 and pair.chance is not None]
    by_chance = _mean([pair.chance.value for pair in known if pair.chance is not None])
    fidelity = _mean([like.fidelity for like in teachers.pairs.values()])
    return _iou_text(teachers.iou(kind), by_chance), number(fidelity)


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _spread(students: Sequence[StudentMeasured], of: Value) -> str:
    """Mean and standard deviation over seeds."""
    values = [value for student in students if (value := of(student)) is not None]
    text = number(_mean(values))
    return f"{text} ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else text


def _average(students: Sequence[StudentMeasured], of: Value, digits: int = 3) -> str:
    return number(_mean([value for student in students if (value := of(student)) is not None]), digits)


def _iou_text(iou: float | None, by_chance: float | None) -> str:
    return "n/a" if iou is None else f"{number(iou, 3)} ({number(by_chance, 3)})"


def _coefficient(value: Coefficient | None) -> str:
    return "n/a" if value is None else f"{signed(value.value)} {interval(value.low, value.high)}"


# ------------------------------------------------------------------------------------------------- sentences


def verdict(studies: Sequence[StudyFidelity], found: Relations, kind: Kind) -> str:
    """The one sentence: of several studies the two rank correlations of the claim; of one, what its students share."""
    if isinstance(found, str):
        return _of_students(studies, kind)
    fidelity, gap = (next(held for held in found if held.outcome.key == key) for key in ("fidelity", "gap"))
    said = [f"with {name} {_coefficient(held.over_arms)}" for name, held in (("fidelity", fidelity), ("gap", gap))]
    pairs = counted(fidelity.studies, "pair")
    return (
        f"over {fidelity.arms} arms of {pairs} of teachers, the teachers' IoU has rank correlations "
        f"{' and '.join(said)}: an association of {pairs} of teachers, reported and not tested"
    )


def _of_students(studies: Sequence[StudyFidelity], kind: Kind) -> str:
    taught = [student for study in studies for student in study.taught]
    if not taught:
        return "no finished trial was taught by the study's teachers: there is nothing to compare"
    fidelity = _mean([student.ensemble.fidelity for student in taught])
    pairs = [pair for student in taught if (pair := student.with_teachers(kind)) is not None]
    said = f"{counted(len(taught), 'student')} predict as the teachers do on {number(fidelity, 1)} % of images"
    if not pairs:
        return f"{said}; no attention maps are recorded"
    shared, by_chance = (float(np.mean(values)) for values in zip(*pairs, strict=True))
    return f"{said} and attend to the same pixels with an IoU of {shared:.3f} ({by_chance:.3f} by chance)"


def sanity_lines(studies: Sequence[StudyFidelity], kind: Kind) -> list[str]:
    """What must hold whatever was trained: a network with itself, and maps of noise."""
    lines = []
    for study in studies:
        itself, noise = study.teachers.itself.get(kind), study.teachers.noise.get(kind)
        if itself is None or noise is None or noise.iou is None or noise.chance is None:
            continue
        ends = _ends(noise.chance.low, noise.chance.high)
        inside = "within" if noise.chance.holds(noise.iou) else "outside"
        lines.append(
            f"{study.name}: IoU of a teacher with itself {itself:g}; with maps of noise {noise.iou:.3f}, {inside} "
            f"{ends}, which holds 95 % of random pairings"
        )
    return lines


def _ends(low: float | None, high: float | None) -> str:
    """`[0.310, 0.322]`."""
    return "[n/a]" if low is None or high is None else f"[{low:.3f}, {high:.3f}]"


def left_out_lines(studies: Sequence[StudyFidelity]) -> list[str]:
    """How many trials do not count, and why; and how many are without maps."""
    lines = []
    for study in studies:
        if said := left_out_text(dict(sorted(study.left_out.items()))):
            lines.append(f"{study.name}: {said}")
        maps = [f"{count} {why}" for why, count in sorted(study.without_maps.items())]
        if maps:
            lines.append(f"{study.name}: counted without attention maps: {', '.join(maps)} (record: {{attention: N}})")
    return lines


def pairs_line(found: Sequence[RankRelation]) -> str:
    """How much several studies can say about teachers."""
    held = found[0]
    least = "" if held.least_p is None else f", and no p below {probability(held.least_p)} can come of them"
    return (
        f"an arm is a cell of one study; p: all orders of the {held.studies} teachers' IoU, "
        f"since teachers are as many as studies{least}"
    )


# ------------------------------------------------------------------------------------------------------ JSON


def report(
    studies: Sequence[StudyFidelity], found: Relations, *, kind: Kind, threshold: float, **how: Any
) -> dict[str, Any]:
    """Everything that was computed, as plain JSON."""
    return {
        "verdict": verdict(studies, found, kind),
        "claim": "association, never effect: arms differ in augmentation as well as in their teachers' overlap",
        "threshold": threshold,
        "maps": kind,
        "definitions": dict(DEFINITIONS),
        "bootstrap": {"over": "arms", **how},
        "relations": {"refused": found} if isinstance(found, str) else {
            relation.outcome.key: relation.report() for relation in found
        },
        "studies": [_study_json(study) for study in studies],
    }  # fmt: skip


def _study_json(study: StudyFidelity) -> dict[str, Any]:
    teachers = study.teachers
    return {
        "study": study.name,
        "run": str(study.run),
        "split": study.split,
        "images": teachers.images,
        "attention_images": teachers.attended_images,
        "left_out": dict(study.left_out),
        "without_maps": dict(study.without_maps),
        "teachers": {
            "alone": [alone.report() for alone in teachers.alone],
            "augmented": {
                name: {"accuracy_percent": list(accuracies), "affinity": teachers.affinity(name)}
                for name, accuracies in teachers.augmented.items()
            },
            "pairs": [
                {"between": [teacher_name(place) for place in places], **like.report()}
                for places, like in teachers.pairs.items()
            ],
            "overlaps": {kind: [one.report() for one in held] for kind, held in teachers.overlaps.items()},
            "mean_iou": {kind: teachers.iou(kind) for kind in teachers.overlaps},
            "itself": dict(teachers.itself),
            NOISE: {kind: held.report() for kind, held in teachers.noise.items()},
        },
        "students": [_student_json(student) for student in study.students],
        **study.origin.report(),
    }


def _student_json(student: StudentMeasured) -> dict[str, Any]:
    augmented = None
    if student.augmented_accuracy is not None:
        ensemble = student.augmented_ensemble
        augmented = {
            "augmentation": student.augmentation,
            "accuracy_percent": student.augmented_accuracy,
            "affinity": student.affinity,
            "ensemble": None if ensemble is None else ensemble.report(),
        }
    return {
        "trial_id": student.trial_id, "cell": student.cell, "seed": student.seed, "role": student.role,
        "taught": student.taught,
        "alone": student.alone.report(),
        "ensemble": student.ensemble.report(),
        "teachers": [like.report() for like in student.each],
        "augmented": augmented,
        "gap_points": student.gap,
        "running_gap_points": student.running_gap,
        "overlaps": {kind: [one.report() for one in held] for kind, held in student.overlaps.items()},
    }  # fmt: skip

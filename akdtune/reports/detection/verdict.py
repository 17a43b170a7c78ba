"""What a detection allows to say, in one sentence and in a table."""

from __future__ import annotations

from collections.abc import Sequence

from akdtune.reports.detection.judged import Choice, Detection, Rate
from akdtune.reports.detection.outputs import KINDS
from akdtune.reports.detection.scores import HEADLINE, SCORES
from akdtune.reports.text import counted, probability
from akdtune.statistics.paired import holm

ALPHA = 0.05

READING = (
    "accuracy: share of students whose likeliest teacher is the right one; intervals: 95 %, exact (Clopper-Pearson), "
    "over students, each by itself; AUC: one teacher's students against the others'; no teacher: how often a student "
    "without a teacher is given the one beside which it was trained, which nothing but chance can do"
)


def share(value: float | None) -> str:
    """A share as reports write it: `.25`, `1.00`."""
    return "n/a" if value is None else f"{value:.2f}".removeprefix("0")


def rate_text(rate: Rate | None) -> str:
    """An accuracy with its interval: `.50 [.29, .71]`."""
    return "n/a" if rate is None else f"{share(rate.accuracy)} [{share(rate.low)}, {share(rate.high)}]"


def sentence(detection: Detection) -> str:
    """The verdict, by `HEADLINE` at the largest number of inputs."""
    judged = [rate for kind in KINDS if (rate := detection.last("distilled", HEADLINE, kind)) is not None]
    if not judged:
        return "; ".join([*_named(detection), "no student's teacher is known, so there is no accuracy"])
    steps = holm([rate.p for rate in judged])
    above = [
        f"{rate.inputs} (Holm p {probability(p)})" for rate, (p, _) in zip(judged, steps, strict=True) if p < ALPHA
    ]
    accuracies = ", ".join(f"{rate.inputs} {rate_text(rate)} at N = {rate.count}" for rate in judged)
    said = [
        f"traced to their teacher among {len(detection.teachers)} by {SCORES[HEADLINE].label}, "
        f"{counted(max(rate.students for rate in judged), 'student')} (chance {share(detection.chance)}): {accuracies}",
        f"above chance: {', '.join(above)}" if above else "none above chance",
        _control(detection),
        *_named(detection),
    ]
    return "; ".join(said)


def _control(detection: Detection) -> str:
    """What the negative control says of all that stands before it: its intervals hold chance, or they do not."""
    judged = [rate for kind in KINDS if (rate := detection.last("control", HEADLINE, kind)) is not None]
    if not judged:
        return "no negative control: no student without a teacher belongs to one study alone"
    students = counted(max(rate.students for rate in judged), "student")
    off = [rate for rate in judged if not _holds_chance(detection, rate)]
    said = ", ".join(f"{rate.inputs} {rate_text(rate)}" for rate in off or judged)
    if off:
        return (
            f"the negative control fails: the study of {students} without a teacher is not named as often as chance "
            f"names it ({said}), so that scores tell something else than the teacher"
        )
    return f"the negative control is flat, {students} without a teacher: {said}"


def _holds_chance(detection: Detection, rate: Rate) -> bool:
    return rate.low <= detection.chance <= rate.high


def _controls_by_others(detection: Detection) -> list[str]:
    """Controls that are not flat by a score which the verdict does not go by."""
    others = [score for score in SCORES if score != HEADLINE]
    judged = [rate for score in others for kind in KINDS if (rate := detection.last("control", score, kind))]
    off = [rate for rate in judged if not _holds_chance(detection, rate)]
    if not off:
        return []
    said = ", ".join(f"{SCORES[rate.score].label} on {rate.inputs} inputs {rate_text(rate)}" for rate in off)
    return [
        f"the negative control is not flat by other scores: {said} ({len(off)} of {len(judged)} intervals; each of "
        "them misses chance at most once in twenty times by chance alone)"
    ]


def _named(detection: Detection) -> list[str]:
    """Who the likeliest teachers of students are whose teacher is asked for."""
    unknown = {student.name for student in detection.students if student.group == "unknown"}
    by_student: dict[str, list[str]] = {}
    for choice in detection.choices:
        if choice.student in unknown:
            teacher, part = likeliest(choice, HEADLINE)
            mostly = "" if part > 1 - 1e-9 else f" in {share(part)} of the draws"
            by_student.setdefault(choice.student, []).append(f"{teacher} by {choice.inputs} inputs{mostly}")
    return [f"likeliest teacher of {name}: {', '.join(said)}" for name, said in by_student.items()]


def likeliest(choice: Choice, score: str) -> tuple[str, float]:
    """The teacher that a student is most often said to have, and in which share of the draws."""
    return max(choice.shares[score].items(), key=lambda item: item[1])


def remarks(detection: Detection) -> list[str]:
    """What stands beside the verdict: a leaning to one teacher, an order that nobody expects, what was left out."""
    said = []
    for kind in KINDS:
        leaning = [p for p in detection.preferences if (p.score, p.inputs) == (HEADLINE, kind)]
        last = max(leaning, key=lambda preference: preference.count, default=None)
        if last is not None and last.p < ALPHA:
            teacher, part = max(last.shares.items(), key=lambda item: item[1])
            said.append(
                f"{kind} inputs: {share(part)} of {counted(last.students, 'student')} without a teacher are given "
                f"{teacher} (Holm p {probability(last.p)}): {SCORES[HEADLINE].label} leans to it whoever taught"
            )
    said += _controls_by_others(detection)
    real, gaussian = (detection.last("distilled", HEADLINE, kind) for kind in ("real", "gaussian"))
    if real is not None and gaussian is not None and real.accuracy <= gaussian.accuracy:
        said.append("real inputs tell no more than Gaussian ones, which is not what one expects: look at the networks")
    return [*said, *detection.notes]


def counts_of(detection: Detection) -> list[int]:
    """Every number of inputs that was tried."""
    return sorted({rate.count for rate in detection.rates})


def headings(detection: Detection) -> list[str]:
    """Of the table, one per column."""
    counts = counts_of(detection)
    first = [f"N = {count}" for count in counts[:-1]]
    return ["inputs", "score", *first, *(f"N = {count} [95 %]" for count in counts[-1:]), "AUC", "no teacher [95 %]"]


def rows(detection: Detection) -> list[list[str]]:
    """A row for each kind of inputs and score, under `headings`."""
    counts = counts_of(detection)
    table = []
    for kind in KINDS:
        shown: str = kind
        for score, facts in SCORES.items():
            rates = {rate.count: rate for rate in detection.of("distilled", score, kind)}
            control = detection.last("control", score, kind)
            if not rates and control is None:
                continue
            first = [share(rates[count].accuracy) if count in rates else "n/a" for count in counts[:-1]]
            last = rates.get(counts[-1])
            auc = share(last.auc) if last is not None else "n/a"
            table.append([shown, facts.label, *first, rate_text(last), auc, rate_text(control)])
            shown = ""
    return table


CHOICE_HEADINGS = ("student", "inputs", *(score.label for score in SCORES.values()))


def choice_rows(detection: Detection) -> list[list[str]]:
    """The likeliest teacher of each student whose teacher is asked for, by kind of inputs and score."""
    unknown = [student.name for student in detection.students if student.group == "unknown"]
    table = []
    for name in unknown:
        shown = name
        for choice in (choice for choice in detection.choices if choice.student == name):
            cells = [_cell(choice, score) for score in SCORES]
            table.append([shown, f"{choice.inputs}, N = {choice.count}", *cells])
            shown = ""
    return table


def _cell(choice: Choice, score: str) -> str:
    if score not in choice.shares:
        return "n/a"
    teacher, part = likeliest(choice, score)
    return f"{teacher} {share(part)}"


def sizes(detection: Detection) -> str:
    """How many candidates and students there are, in a line."""
    groups = [str(student.group) for student in detection.students]
    named: Sequence[tuple[str, str]] = (
        ("distilled", "distilled"), ("control", "without a teacher"), ("unknown", "whose teacher is asked for"),
    )  # fmt: skip
    students = [f"{groups.count(group)} {words}" for group, words in named if group in groups]
    return f"{counted(len(detection.teachers), 'teacher')}; students: {', '.join(students)}"

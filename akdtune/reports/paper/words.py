"""What stands below a paper's table: how to read it, what is missing in it, and in what its studies differ."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from akdtune.metric import judged_on
from akdtune.reports.ablation.findings import lost_words
from akdtune.reports.ablation.words import DAGGER
from akdtune.reports.paper.joined import STUDENT, Joined
from akdtune.reports.paper.leading import ALPHA, Leading
from akdtune.reports.paper.pairs import NO_TEACHER, Pair
from akdtune.reports.paper.protocol import differences, settings_lines
from akdtune.reports.paper.studies import PaperStudy

FRESH_SEEDS = 3
CELLS_NAMED = 8

CONDITIONAL = "what is resolved holds for fresh training seeds with these teachers, data and test images"


def notes_of(
    joined: Joined,
    studies: Sequence[PaperStudy],
    leads: Mapping[Pair, Leading],
    names: Mapping[Pair, str],
    counts: Mapping[Pair, int],
) -> list[str]:
    """Every sentence below the table.

    Args:
        joined: its numbers.
        studies: that it is made from.
        leads: which rows lead, by column.
        names: of columns, on one line.
        counts: seeds that most cells of a column have.
    """
    said = [*_marks(leads, names, joined), *_images(joined, studies, names), *_seeds(joined, names, counts)]
    said += _protocol(joined, studies)
    said += _without(joined, studies, names)
    said += joined.notes
    said += [f"{study.name}: {note}" for study in studies for note in study.notes]
    return said


def _marks(leads: Mapping[Pair, Leading], names: Mapping[Pair, str], joined: Joined) -> list[str]:
    said = []
    compared = [lead for lead in leads.values() if lead.rivals]
    rule = f"Holm over the comparisons of a column with its best, alpha {ALPHA:g}"
    if any(lead.settled for lead in compared):
        said.append(f"bold: the best of its column, resolved against the runner-up ({rule})")
    if any(lead.tied for lead in compared):
        said.append(f"{DAGGER} not resolved from the best of the column, by these seeds a tie ({rule})")
    tests = {rival.pairs > 0 for lead in compared for rival in lead.rivals}
    if tests:
        how = {True: "paired by seed", False: "Welch's t test, as seeds are not shared"}
        said.append(
            f"compared: {' or '.join(how[paired] for paired in (True, False) if paired in tests)}; {CONDITIONAL}"
        )
    for pair, lead in leads.items():
        if lead.higher_untested:
            rows = ", ".join(joined.rows[row].label for row in lead.higher_untested)
            said.append(f"{names[pair]}: {rows} lies highest and is compared with nothing, so that nothing is bold")
        if lead.uncertain:
            rows = ", ".join(joined.rows[row].label for row in lead.uncertain)
            said.append(f"{names[pair]}: not resolved from the best either, though below the runner-up: {rows}")
    return said


def _images(joined: Joined, studies: Sequence[PaperStudy], names: Mapping[Pair, str]) -> list[str]:
    """Which images, where there are several kinds, and what validation numbers are worth."""
    said = []
    kinds = list(dict.fromkeys(pair.images for pair in joined.columns))
    if len(kinds) > 1:
        said.append(f"{' and '.join(kinds)} accuracies stand in columns of their own and are never compared")
    for study in studies:
        if study.phase != "search":
            continue
        most = max((entry.chosen_from for entry in study.entries), default=1)
        chosen = f", the best of up to {most} configurations by these images: too good by selection" if most > 1 else ""
        chosen += ", compared with nothing" if most > 1 else ""
        single = all(len(entry.values) < 2 for entry in study.entries)
        replicated = ", not replicated (one seed)" if single else ""
        said.append(f"{study.name}: validation accuracies of its search{replicated}{chosen}{_confirm(study)}")
    return said


def _confirm(study: PaperStudy) -> str:
    """The command that has a search's best trained again with fresh seeds; empty where that is not known."""
    settings, source = study.lock.get("settings") or {}, study.lock.get("source")
    if not source or settings.get("confirm"):
        return ""
    search, probe = settings.get("search") or {}, settings.get("probe") or {}
    used = {*(search.get("seeds") or [search.get("trial_seed", 0)]), *(probe.get("seeds") or [])}
    fresh = [seed for seed in range(100, 200 + len(used)) if seed not in used][:FRESH_SEEDS]
    overrides = [str(text) for text in study.lock.get("overrides") or []]
    again = ["akdtune", "run", str(source), *overrides, f"confirm={{top: 1, seeds: {fresh}}}", "--extend"]
    return f"; test accuracies on fresh seeds: {shlex.join([*again, '--dir', str(study.run)])}"


def _seeds(joined: Joined, names: Mapping[Pair, str], counts: Mapping[Pair, int]) -> list[str]:
    """Cells with a single seed, and seeds that ended without a value."""
    single, lost = [], []
    for row in joined.rows:
        for pair, cell in row.cells.items():
            where = f"{row.label}, {names[pair]}" if len(joined.columns) > 1 else row.label
            if len(cell.values) == 1 and judged_on(pair.metric) != "val":
                single.append(where)
            if cell.lost:
                lost.append(f"{where}: {lost_words(cell.lost, cell.asked)}")
    said = [f"one seed, not replicated and not compared: {_listed(single)}"] if single else []
    if lost:
        said.append(f"seeds without a value stand in no mean, which flatters a row that diverged: {_listed(lost)}")
    return said


def _protocol(joined: Joined, studies: Sequence[PaperStudy]) -> list[str]:
    said = []
    if lines := differences(studies):
        said.append(f"the studies differ in their protocol: {'; '.join(lines)}")
    if lines := settings_lines(joined, studies):
        said.append(f"one name, other settings: {'; '.join(lines)}")
    return said


def _without(joined: Joined, studies: Sequence[PaperStudy], names: Mapping[Pair, str]) -> list[str]:
    """Columns without a teacher's or a student's row, and teachers that differ under one name."""
    said = []
    teachers = teachers_of(studies)
    taught = [pair for pair in joined.columns if NO_TEACHER not in names[pair]]
    if missing := [names[pair] for pair in taught if pair not in teachers]:
        said.append(f"accuracy of the teacher not known: {_listed(missing)}")
    for pair, known in teachers.items():
        if len({accuracy for accuracy, _ in known}) > 1:
            both = ", ".join(f"{accuracy:.2f} ({study})" for accuracy, study in known)
            said.append(f"{names[pair]}: teachers of the same network, trained apart: {both}")
    have = {pair for row in joined.rows if row.group == "student" for pair in row.cells}
    if missing := [names[pair] for pair in taught if pair not in have]:
        said.append(
            f"no row '{STUDENT}' where no cell trains it without a teacher (ablation.controls: [student_only]): "
            f"{_listed(missing)}"
        )
    return said


def teachers_of(studies: Sequence[PaperStudy]) -> dict[Pair, list[tuple[float, str]]]:
    """Accuracies of the teachers of each column, each with the name of its study."""
    found: dict[Pair, list[tuple[float, str]]] = {}
    for study in studies:
        for pair, accuracy in study.teachers.items():
            found.setdefault(pair, []).append((accuracy, study.name))
    return found


def _listed(texts: Sequence[str]) -> str:
    more = f"; and {len(texts) - CELLS_NAMED} more" if len(texts) > CELLS_NAMED else ""
    return "; ".join(texts[:CELLS_NAMED]) + more

"""What a study keeps of its teachers: whether it can be read, its labels, and the accuracy that trials measured."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from akdtune.errors import StudyError
from akdtune.records import files, recorded
from akdtune.records.recorded_files import FOLDER, SplitName, teacher_files, teacher_logits_file
from akdtune.records.trial_directory import TrialDirectory
from akdtune.reports.text import counted
from akdtune.verification.checks import Check, check, differs
from akdtune.verification.ledger import Ledger
from akdtune.verification.trials import CLOSE, Labels, wrong_labels


def kept_check(run: Path, held: Ledger, plans: Mapping[str, Mapping[str, Any]], labels: Labels | None) -> Check | None:
    """Looks at the files about teachers; None where a study keeps none.

    Args:
        run: the study directory.
        held: its ledger.
        plans: rows of the plan, by trial.
        labels: of the images that students are judged on; None where the data is not at hand.
    """
    splits: tuple[SplitName, ...] = get_args(SplitName)
    there = {split: teacher_files(run, split) for split in splits}
    number = sum(map(len, there.values()))
    if not number:
        return None
    found = [sentence for split in splits for sentence in _of_split(run, held, plans, labels, split, there[split])]
    return check("teacher logits", f"{counted(number, 'file')} about teachers, accuracy as trials measured it", found)


def _of_split(
    run: Path,
    held: Ledger,
    plans: Mapping[str, Mapping[str, Any]],
    labels: Labels | None,
    split: SplitName,
    there: list[Path],
) -> Iterator[str]:
    logits = teacher_logits_file(run, split)
    for path in there:
        try:
            files.read_table(path)
        except StudyError as error:
            yield str(error)
            return
    if logits not in there:
        return
    place = f"{FOLDER}/{logits.name}"
    try:
        ids_N, labels_N, classes_N = recorded.teacher_classes(run, split)
    except StudyError as error:
        yield str(error)
        return
    if labels is not None and (wrong := wrong_labels(ids_N, labels_N, labels)):
        yield f"{place}, label: {wrong}"
    accuracy = 100 * float((classes_N == labels_N).mean())
    for trial_id, measured in _measured(run, held, plans, split):
        if not math.isclose(measured, accuracy, rel_tol=CLOSE, abs_tol=CLOSE):
            yield differs(f"{place} and trials/{trial_id}/{files.EPOCHS}", "teacher_accuracy", measured, accuracy)


def _measured(
    run: Path, held: Ledger, plans: Mapping[str, Mapping[str, Any]], split: SplitName
) -> Iterator[tuple[str, float]]:
    """The teacher's accuracy as the first finished trial of a split says it, where it says one."""
    for trial_id, plan in plans.items():
        told = held.trials.get(trial_id)
        if told is None or told.end is None or told.end.kind != "done" or recorded.split_of(plan["role"]) != split:
            continue
        try:
            rows = TrialDirectory(files.trial_directory(run, trial_id)).read_rows()
        except StudyError:
            continue  # the check of rows says so
        if rows and rows[-1].get("teacher_accuracy") is not None:
            yield trial_id, float(rows[-1]["teacher_accuracy"])
            return

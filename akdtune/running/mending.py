"""What is done about damaged files of trials that have ended, before a study goes on.

Rows of a trial that was stopped come back out of its saved state, else out of the ledger, which holds their accuracies.
A trial that is done, or has diverged, goes on from its saved state and writes its files again, with the same numbers;
where that is damaged, too, it is trained again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from akdtune.errors import StudyError
from akdtune.planning.identity import Identity
from akdtune.records import recorded_files
from akdtune.records.damage import damage_of
from akdtune.records.epoch_rows import read_stamps
from akdtune.records.files import EPOCHS, LEDGER, read_table
from akdtune.records.ledger.events import EpochFinished
from akdtune.records.ledger.reading import events
from akdtune.records.lock_file import metric_of
from akdtune.records.study_directory import StudyDirectory
from akdtune.records.trial_directory import TrialDirectory
from akdtune.records.trial_record import TrialRecord
from akdtune.running.saved_states import ROWS, saved_state


def mend(directory: StudyDirectory) -> None:
    """Looks at the files of all trials that have ended and mends what is damaged; `directory.found` says what was.

    Raises:
        StudyError: when the directory cannot be written.
    """
    mend_teachers(directory)
    stamps = read_stamps(directory.root)
    for record in list(directory.records.values()):
        if record.terminal is None:
            continue
        trial = directory.trial(record.trial_id)
        damage = damage_of(trial, record.terminal, record.last_epoch, stamps.get(record.trial_id))
        if not damage:
            continue
        if record.terminal in ("done", "diverged"):
            why = next(iter(damage.values()))
            directory.reopen(record, why)
            for name in damage.keys() - {trial.outcome.name}:
                directory.put_aside(trial.path / name)
            directory.found.append(
                f"{why}; trial {record.trial_id} goes on from its saved state, with the same numbers"
            )
            continue
        if trial.outcome.name in damage:
            directory.put_aside(trial.outcome)
            directory.found.append(f"{damage[trial.outcome.name]}; the ledger says how the trial ended")
        if EPOCHS in damage:
            directory.found.append(f"{damage[EPOCHS]}; {_restored(directory, record, trial)}")


def mend_teachers(directory: StudyDirectory) -> None:
    """Puts aside what is kept of the study's teachers and cannot be read; it is written again when trials end.

    Raises:
        StudyError: when the directory cannot be written.
    """
    splits: tuple[recorded_files.SplitName, ...] = get_args(recorded_files.SplitName)
    for path in (path for split in splits for path in recorded_files.teacher_files(directory.root, split)):
        try:
            read_table(path)
        except StudyError as error:
            directory.put_aside(path)
            directory.found.append(f"{error}; put aside, it is written again when trials end")


def said(directory: StudyDirectory) -> list[str]:
    """A line for each thing that was found damaged since this was last asked."""
    lines, directory.found[:] = [f"  found: {line}" for line in directory.found], []
    return lines


def check_ids(directory: StudyDirectory, identity: Identity) -> None:
    """Refuses to train a trial whose row of the plan is not what its id stands for.

    Raises:
        StudyError: naming the first one.
    """
    for record in directory.unfinished():
        plan = record.plan
        made = identity.cell_id(plan["settings"], plan["role"])
        if made == plan["cell_id"] and record.trial_id == f"{made}-s{plan['seed']}":
            continue
        what = f"its settings make cell {made}" if made != plan["cell_id"] else f"its seed is {plan['seed']}"
        raise StudyError(
            f"{directory.plan_path}: trial {record.trial_id} is not what it is named after: {what}; its row was "
            f"changed after it was planned, or {LEDGER} is that of another study. Restore the file from a copy, or "
            "begin again with --new"
        )


def refuse_lost_plan(directory: StudyDirectory, rows: Sequence[Mapping[str, Any]]) -> None:
    """Refuses to plan a study again whose plan is lost, where that would leave trials out that it had begun.

    Raises:
        StudyError: naming the first one.
    """
    planned = {row["trial_id"] for row in rows}
    begun = dict.fromkeys(event.trial_id for event in directory.events if event.trial_id)
    begun |= dict.fromkeys(path.parent.name for path in sorted(directory.root.glob("trials/*/epochs.parquet")))
    if lost := [trial_id for trial_id in begun if trial_id not in planned]:
        raise StudyError(
            f"{directory.plan_path}: is lost, and {len(lost)} of {len(begun)} trials that had begun do not follow from "
            f"the settings alone, e.g. {lost[0]}: restore the file from a copy, or run the study beside it with --new "
            f"--reuse {directory.root}, which takes over what is finished"
        )


def _restored(directory: StudyDirectory, record: TrialRecord, trial: TrialDirectory) -> str:
    """Writes the rows of a trial that was stopped again; says from where they are."""
    rows: list[dict[str, Any]] = []
    with contextlib.suppress(OSError):
        state, _ = saved_state(trial, record.trial_id)
        rows = list((state or {}).get(ROWS) or [])
    if len(rows) >= record.last_epoch:
        said = f"written anew from {trial.checkpoint.name}"
    else:
        rows = _rows_of_ledger(directory, record.trial_id)
        said = f"written anew from the ledger, which holds validation {metric_of(directory.root).words} and score alone"
    directory.put_aside(trial.epochs)
    trial.write_rows(rows)
    return said


def _rows_of_ledger(directory: StudyDirectory, trial_id: str) -> list[dict[str, Any]]:
    known: dict[int, dict[str, Any]] = {}
    value = metric_of(directory.root).validation
    with contextlib.suppress(StudyError):
        for event in events(directory.root, {"epoch"}):
            if isinstance(event, EpochFinished) and event.trial_id == trial_id:
                head = {"trial_id": trial_id, "attempt": None, "epoch": event.epoch}
                known[event.epoch] = {**head, value: event.value, "score": event.score}
    return [known[epoch] for epoch in sorted(known)]

"""Failed trials that go on: those that had met something outside by themselves, the others when they are asked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from akdtune.errors import StudyError, nearest
from akdtune.records.ledger.events import TrialEnded
from akdtune.records.study_directory import StudyDirectory
from akdtune.records.trial_record import TrialRecord
from akdtune.running.outages import was_outside

SHOWN = 4
FAILED, WAITING = "failed", "waiting"


def retry_outside(directory: StudyDirectory) -> list[TrialRecord]:
    """Lets trials go on that an earlier version ended as failed for something outside them; returns these."""
    again = [record for record in _failed(directory.records.values()) if was_outside(record.why)]
    for record in again:
        directory.retry(record)
    return again


def retry(root: Path, names: Sequence[str] = ()) -> list[TrialRecord]:
    """Lets failed trials of a study go on with its next run; returns these.

    Args:
        root: the study directory.
        names: trial ids or beginnings of such; none: every failed one.

    Raises:
        StudyError: when another process runs the study, or a name is none of a failed trial's: nothing is retried then.
    """
    directory = StudyDirectory(root)
    with directory.opened():
        directory.reconcile()
        chosen = _named(directory, names) if names else _failed(directory.records.values())
        for record in chosen:
            directory.retry(record)
    return chosen


def give_up(root: Path, names: Sequence[str] = ()) -> list[TrialRecord]:
    """Ends trials as failed that wait for something outside them, so that the study goes on without; returns these.

    Args:
        root: the study directory.
        names: trial ids or beginnings of such; none: every one that waits.

    Raises:
        StudyError: when another process runs the study, or a name is none of a waiting trial's: nothing is ended then.
    """
    directory = StudyDirectory(root)
    with directory.opened():
        directory.reconcile()
        chosen = _named(directory, names, WAITING) if names else _waiting(directory.records.values())
        for record in chosen:
            error = f"given up: {record.why}"
            ended = TrialEnded(kind="failed", trial_id=record.trial_id, epoch=record.last_epoch, error=error)
            directory.finish(ended)
    return chosen


def _waiting(records: Iterable[TrialRecord]) -> list[TrialRecord]:
    return [record for record in records if record.terminal is None and record.why is not None]


def _failed(records: Iterable[TrialRecord]) -> list[TrialRecord]:
    return [record for record in records if record.terminal == "failed"]


def _named(directory: StudyDirectory, names: Sequence[str], what: str = FAILED) -> list[TrialRecord]:
    """The failed, or the waiting, trials of these names, each once; all that is wrong with them in one message."""
    every = directory.records.values()
    allowed = {record.trial_id for record in (_failed(every) if what == FAILED else _waiting(every))}
    chosen: dict[str, TrialRecord] = {}
    problems = []
    for name in names:
        matches = [record for trial_id, record in directory.records.items() if trial_id.startswith(name)]
        matches = [record for record in matches if record.trial_id == name] or matches
        if len(matches) != 1:
            problems.append(_no_such(name, [record.trial_id for record in matches], directory))
        elif matches[0].trial_id not in allowed:
            problems.append(f"trial '{matches[0].trial_id}' {_standing(matches[0], what)}")
        else:
            chosen[matches[0].trial_id] = matches[0]
    if problems:
        known = sorted(allowed, key=list(directory.records).index)
        problems.append(f"{what} trials: {_some(known)}" if known else f"no trial of this study is {what}")
        done = "retried" if what == FAILED else "given up"
        raise StudyError(f"{directory.root}: nothing is {done}: " + "; ".join(problems))
    return list(chosen.values())


def _no_such(name: str, matches: Sequence[str], directory: StudyDirectory) -> str:
    if matches:
        return f"trial '{name}' is ambiguous: {_some(matches)}"
    close = nearest(name, directory.records)
    return f"no trial '{name}'" + (f"; did you mean '{close}'?" if close else "")


def _standing(record: TrialRecord, what: str) -> str:
    """Why a trial that has not failed is not retried, or one that does not wait is not given up."""
    if what == WAITING:
        return "is interrupted for nothing outside it" if record.terminal is None else f"is {record.terminal}"
    if record.terminal is None:
        return "has not ended; the study's command goes on with it"
    if record.terminal == "diverged":
        return "diverged, and would again: the same settings and seed give the same numbers"
    return f"is {record.terminal}; only failed trials are retried"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")

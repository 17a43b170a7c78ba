"""`akdtune verify`: all checks of a study directory, and their table."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from akdtune.errors import AkdtuneError, StudyError
from akdtune.records import files, lock_file, plan_file
from akdtune.records.files import LOCK, PLAN, TRIALS, require_study
from akdtune.reports.one_trial.names import one_trial
from akdtune.reports.text import counted
from akdtune.verification import compacted, identity, ledger, rerun, surroundings, teachers, trials
from akdtune.verification.checks import Check, Progress, exit_code, not_at_hand

COLUMNS = 80
FOUND_SHOWN = 20
NAME_WIDTH = 14


@dataclass(frozen=True)
class Asked:
    """What is verified beside what stands there.

    Attributes:
        rerun: how many finished trials are trained again.
        trials: which ones, by id or its beginning; those that `rerun` asks for come on top.
        seed: draws them.
    """

    rerun: int = 0
    trials: Sequence[str] = ()
    seed: int = 0


def verify(run: Path, asked: Asked, progress: Progress) -> list[Check]:
    """Looks at everything in a study directory, and writes nothing there.

    Args:
        run: the study directory.
        asked: what is to be trained again.
        progress: told about long work.

    Raises:
        StudyError: when it is no study, or what every check needs cannot be read.
        AkdtuneError: for a trial that there is not, or that has not finished.
    """
    path = require_study(run)
    held = ledger.read(path, progress)
    plans = _plans(path, held)
    if not plans:
        raise StudyError(f"{run}: cannot be verified: it has no planned trial (no {PLAN} and none in the ledger)")
    again = _to_train(held, plans, asked)
    lock, why = _lock(path)
    checks = [not_at_hand("lock", why, needed=True)] if lock is None else [identity.lock_check(path, lock, plans)]
    checks.append(identity.plan_check(path, lock, held, plans))
    design = identity.design_check(path, plans)
    checks += [ledger.lines(held), ledger.exactly_once(path, held, plans), *([] if design is None else [design])]
    data = None
    if lock is not None:
        progress("data", 0, 1)
        data = surroundings.data_check(lock)
        students = surroundings.student_check(lock, plans)
        checks += [
            data.check,
            surroundings.teacher_check(lock, data.dataset),
            *([] if students is None else [students]),
        ]
    labels = None if data is None else data.labels
    checks += trials.trial_checks(path, held, plans, labels, progress)
    kept = teachers.kept_check(path, held, plans, labels)
    checks += [] if kept is None else [kept]
    checks += [compacted.trials_check(path), compacted.epochs_check(path, progress)]
    if lock is not None:
        checks.append(surroundings.origin_check(lock, held))
        checks += rerun.rerun_check(path, lock, held, plans, again, progress)
    return checks


def _plans(path: Path, held: ledger.Ledger) -> dict[str, dict[str, Any]]:
    """The rows of all planned trials; the ledger's where the file cannot be read."""
    rows, _ = plan_file.plan_file_rows(path, tuple(files.PLAN_COLUMNS))
    for trial_id, row in held.planned.items():
        try:
            plan_file.check_plan_row(path / files.LEDGER, row)
        except StudyError:
            continue
        rows.setdefault(trial_id, row)
    return rows


def _lock(path: Path) -> tuple[dict[str, Any] | None, str]:
    try:
        lock = lock_file.read_lock(path, ("settings", "data", "teacher"))
        if lock is not None:
            lock_file.check_lock(path, lock)
    except StudyError as error:
        return None, str(error)
    return lock, f"{path / LOCK}: no such file"


def _to_train(held: ledger.Ledger, plans: Mapping[str, Any], asked: Asked) -> list[str]:
    """The finished trials that are to be trained again."""
    done = [name for name in plans if (trial := held.trials.get(name)) and trial.end and trial.end.kind == "done"]
    named = [str(one_trial(list(plans.values()), name)["trial_id"]) for name in asked.trials]
    for trial_id in named:
        if trial_id not in done:
            trial = held.trials.get(trial_id)
            end = "has no end yet" if trial is None or trial.end is None else f"is {trial.end.kind}"
            raise AkdtuneError(f"--trial {trial_id}: {end}; only trials that are done can be trained again")
    rest = [trial_id for trial_id in done if trial_id not in named]
    if asked.rerun > len(rest):
        raise AkdtuneError(f"--rerun {asked.rerun}: {counted(len(rest), 'trial')} are done and not named already")
    return [*dict.fromkeys(named), *rerun.chosen(rest, asked.rerun, asked.seed)]


def lines(run: Path, checks: Sequence[Check], everything: bool = False) -> list[str]:
    """The checks as a table that fits 80 columns, what was found, and one sentence.

    Args:
        run: the study directory.
        checks: as `verify` gives them.
        everything: whether all findings are named, or the first of each check.
    """
    table = [f"{'check':{NAME_WIDTH}}  {'result':11}  what was looked at"]
    for one in checks:
        name = one.name if len(one.name) <= NAME_WIDTH else ""
        head = f"{name:{NAME_WIDTH}}  {one.status.upper() if one.found else one.status:11}  "
        table += [] if name else [one.name]
        table += textwrap.wrap(
            one.said, COLUMNS, initial_indent=head, subsequent_indent=" " * len(head), break_on_hyphens=False
        )
    return [f"{run}", "", *table, *_findings(checks, everything), "", *_wrapped(verdict(checks))]


def _findings(checks: Sequence[Check], everything: bool) -> list[str]:
    said: list[str] = []
    for one in checks:
        shown = one.found if everything else one.found[:FOUND_SHOWN]
        if shown:
            said += ["", f"found: {one.name}"]
        said += [line for sentence in shown for line in _wrapped(sentence, "  ")]
        if len(shown) < len(one.found):
            said.append(f"  and {len(one.found) - len(shown)} more (--all)")
    return said


def verdict(checks: Sequence[Check]) -> str:
    """One sentence."""
    code = exit_code(checks)
    found = sum(len(one.found) for one in checks)
    away = [one.name for one in checks if one.status == "not at hand" and one.name not in (TRIALS, files.EPOCHS)]
    lacking = f"; not at hand: {', '.join(away)}" if away else ""
    if code == 1:
        names = ", ".join(one.name for one in checks if one.found)
        return f"{counted(found, 'thing')} found ({names}): this directory is not what its trials wrote{lacking}"
    if code == 2:
        unsure = [one.name for one in checks if one.needed and one.status != "ok"]
        return f"nothing is wrong with what is at hand, but {', '.join(unsure)} could not be verified{lacking}"
    return f"all right: everything at hand is what the trials wrote{lacking}"


def _wrapped(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(
        text, COLUMNS, initial_indent=indent, subsequent_indent=f"{indent}  ", break_on_hyphens=False,
        break_long_words=False,
    )  # fmt: skip

"""`akdtune best`: what it prints, and the two files that it writes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from akdtune.cli.tables import print_means, print_trials
from akdtune.cli.terminal.text import say
from akdtune.errors import AkdtuneError
from akdtune.records.files import LOCK, trial_directory
from akdtune.records.lock_file import read_lock
from akdtune.records.plan_file import read_plan
from akdtune.reports.text import counted
from akdtune.reports.trials.best import bests, judged_by
from akdtune.reports.trials.cell_means import Row, measured, tally
from akdtune.reports.trials.chosen import Chosen, chosen
from akdtune.roles import REPORT_ROLES

NAMED = ("arm", "role", "seed")
"""Columns that are always shown."""


def print_best(directory: Path, rows: Sequence[Row], columns: Sequence[str], every: bool) -> Chosen:
    """Prints the best trials and cells by each way of judging; returns the first trial, which is exported.

    Raises:
        StudyError: while no trial has ended with a value.
    """
    found = bests(rows)
    for place, best in enumerate(found):
        if place:
            print()
        say(f"{directory}: best of {'; '.join(filter(None, (best.counted, best.caution)))}")
        print_trials(best.trials, columns, every=every, stays=NAMED)
        if best.cells:
            say(["", "best configuration of each arm by its mean over seeds:"])
            print_means(best.cells, best.metric, columns, every=every)
        if best.sentences:
            say(["", *best.sentences])
    return Chosen([found[0].trials[0]], is_cell=False)


def print_chosen(directory: Path, rows: Sequence[Row], columns: Sequence[str], name: str, every: bool) -> Chosen:
    """Prints the trial or the cell that a name means, and returns it.

    Raises:
        AkdtuneError: where nothing, or more than one thing, has this name.
    """
    meant = chosen(rows, name)
    kind = (
        f"cell {meant.trial['cell_id']}, {tally(meant.rows)}" if meant.is_cell else f"trial {meant.trial['trial_id']}"
    )
    say(f"{directory}: {kind}")
    print_trials(meant.rows, columns, every=every, stays=NAMED)
    return meant


def export(directory: Path, taken: Chosen, file: Path) -> None:
    """Writes the settings of a trial or a cell as a study that runs as is, and says so.

    Raises:
        AkdtuneError: where the file is there or cannot be written, or the study has no lock.
    """
    from akdtune.study.written import export_yaml

    if file.exists():
        raise AkdtuneError(f"{file}: exists already; choose another file")
    (trial,) = [row for row in read_plan(directory) if row["trial_id"] == taken.trial["trial_id"]]
    lock = read_lock(directory)
    if lock is None:
        raise AkdtuneError(f"{directory / LOCK}: no such file; without it the study's settings are not known")
    text = export_yaml(lock["settings"], trial["settings"], seeds=taken.seeds)
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise AkdtuneError(f"{file}: cannot be written: {error.strerror or error}") from error
    say(f"written: {file} ({_about(taken)})")
    if taken.trial["role"] in REPORT_ROLES:
        say(
            f"note: it was judged on the test set{_trained_on(lock)}; {file} is a search: it trains without the "
            "validation images and is judged on them"
        )


def _trained_on(lock: dict[str, object]) -> str:
    settings = lock["settings"]
    report = settings.get("report") if isinstance(settings, dict) else None
    full = isinstance(report, dict) and report.get("train_on") == "full"
    return ", after training on all training images" if full else ""


def _about(taken: Chosen) -> str:
    """What was taken, in words: `trial t00005: probe of angular/kd, seed 1, validation accuracy 70.00 %`."""
    trial = taken.trial
    if taken.is_cell:
        name = trial.get("cell") or trial["cell_id"]
        return f"cell {name}: {trial['role']} of {trial['arm']}, {counted(len(taken.rows), 'seed')}"
    column = judged_by(trial)
    value = measured(trial, column)
    accuracy = "" if value is None else f", {column.replace('_', ' ')} {value:.2f} %"
    ended = "" if trial["status"] == "done" else f", {trial['status']}"
    return f"trial {trial['trial_id']}: {trial['role']} of {trial['arm']}, seed {trial['seed']}{accuracy}{ended}"


def save_student(directory: Path, taken: Chosen, file: Path) -> None:
    """Writes the student of a trial, of a cell that of its first finished trial, and says so.

    Raises:
        AkdtuneError: where the file is there or cannot be written, or the trial has left no checkpoint.
    """
    trial_id = str(taken.trial["trial_id"])
    say(f"written: {_student_file(directory, trial_id, file)} ({_about(Chosen([taken.trial], is_cell=False))})")
    if warning := _predicts_through_a_method(directory, trial_id):
        print(f"warning: {warning}", file=sys.stderr)


def _student_file(directory: Path, trial_id: str, file: Path) -> Path:
    import torch

    from akdtune.teacher.checkpoints import load_plain

    if file.exists():
        raise AkdtuneError(f"{file}: exists already; choose another file")
    checkpoint = trial_directory(directory, trial_id) / "checkpoint.pt"
    if not checkpoint.exists():
        raise AkdtuneError(f"{checkpoint}: no such file; without it there is no trained student of trial {trial_id}")
    weights = load_plain(checkpoint)["student"]
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"model": weights}, file)
    except (OSError, RuntimeError) as error:
        file.unlink(missing_ok=True)
        raise AkdtuneError(f"{file}: cannot be written: {error}") from error
    return file


def _predicts_through_a_method(directory: Path, trial_id: str) -> str | None:
    from akdtune.registry import lookup

    (trial,) = [row for row in read_plan(directory) if row["trial_id"] == trial_id]
    heads = [
        method["name"]
        for method in trial["settings"].get("method", [])
        if lookup("methods", method["name"]).replaces_logits
    ]
    if not heads:
        return None
    return (
        f"this student predicts through '{heads[0]}', which is not in the file: its body transfers, its classifier not"
    )

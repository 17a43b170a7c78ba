"""`akdtune trial`: everything about one trial, as lines that fit a terminal of 80 columns."""

from __future__ import annotations

import shlex
import textwrap
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from akdtune.metric import Metric, of_trials
from akdtune.records import files, lock_file, plan_file
from akdtune.records.trial_directory import TrialDirectory
from akdtune.reports.one_trial import centre, rungs
from akdtune.reports.one_trial.centre import Setting
from akdtune.reports.one_trial.curve import course, sparkline
from akdtune.reports.one_trial.history import History, history, spent, times
from akdtune.reports.short_names import short_value
from akdtune.reports.text import counted, duration

COLUMNS = 80
WARNINGS_SHOWN = 5


def trial_lines(run: Path, row: Mapping[str, Any], tracked: Sequence[str] = ()) -> list[str]:
    """What there is to say about a trial.

    Args:
        run: the study directory.
        row: of `trials.parquet`.
        tracked: its runs of a tracking service, where they are.
    """
    trial_id = str(row["trial_id"])
    plans = {str(plan["trial_id"]): plan for plan in plan_file.read_plan(run)}
    plan, lock = plans.get(trial_id), lock_file.read_lock(run, ()) or {}
    held = history(run, trial_id)
    lines = [*wrapped(headline(row)), *(line for text in held.damage for line in wrapped(f"damaged: {text}", "  "))]
    if row.get("stop_reason") and row["status"] != "pruned":
        lines += wrapped(f"why: {row['stop_reason']}", "  ")
    if plan is not None:
        lines += _settings(run, plan, plans, lock)
    lines += _curve(held, of_trials(row))
    lines += _decisions(row, held, lock)
    lines += _time(held, trial_id)
    lines += _said(held)
    if tracked:
        lines += ["", "Weights & Biases", *(f"  {path}" for path in tracked)]
    return [*lines, *_again(run, row, plan)]


def headline(row: Mapping[str, Any]) -> str:
    """A trial in a line: what it is, how it ended, and its accuracies."""
    of_cell = f"cell {row['cell']}, " if row.get("cell") else ""
    metric = of_trials(row)
    names = {metric.validation: "validation", metric.test: "test"}
    accuracies = [f"{word} {row[name]:.2f} %" for name, word in names.items() if row.get(name) is not None]
    done = f"{row['status']} after {counted(int(row.get('epochs') or 0), 'epoch')}"
    what = f"{of_cell}{row['arm']}, {row['role']}, seed {row['seed']}"
    reused = f", taken over from {row['reused_from']}" if row.get("reused_from") else ""
    return f"{row['trial_id']} ({what}): {', '.join([done, *accuracies])}{reused}"


def wrapped(text: str, indent: str = "") -> list[str]:
    """A sentence in lines that fit, the later ones indented."""
    return textwrap.wrap(
        text, COLUMNS, initial_indent=indent, subsequent_indent=f"{indent}  ", break_on_hyphens=False,
        break_long_words=False,
    )  # fmt: skip


def setting_table(settings: Sequence[Setting], heading: str, other: str, own: str = "") -> list[str]:
    """Settings under a heading: name, value, and the value beside it."""
    if not settings:
        return []
    cells = [(setting.path, shown(setting.value), shown(setting.other), setting.differs) for setting in settings]
    widths = [max(map(len, column)) for column in list(zip(*[cell[:3] for cell in cells], strict=True))]
    widths = [widths[0], max(widths[1], len(own)), widths[2]]
    lines = ["", heading] if not own else ["", f"{heading:{widths[0] + 2}}  {own:>{widths[1]}}  {other}".rstrip()]
    for path, value, others, differs in cells:
        told = others if own else (f"{other} {others}" if differs else f"as {other}")
        line = f"  {path:{widths[0]}}  {value:>{widths[1]}}  {told}".rstrip()
        lines += [line] if len(line) <= COLUMNS else [f"  {path}", *wrapped(f"{value}; {told}", "      ")]
    return lines


def shown(value: Any) -> str:
    """A value in few digits."""
    return "null" if value is None else short_value(value)


def _settings(
    run: Path, plan: Mapping[str, Any], plans: Mapping[str, Mapping[str, Any]], lock: Mapping[str, Any]
) -> list[str]:
    lines = setting_table(
        centre.against_centre(lock, plan), f"what is searched, beside the centre of {plan['arm']}", "centre"
    )
    reference = centre.reference_of(run, plan, plans)
    if reference is not None:
        name, settings = reference
        differing = centre.differences(plan["settings"], settings)
        lines += setting_table(differing, f"in what it differs from cell {name}", f"{name}:")
        if not differing:
            lines += ["", f"no setting differs from cell {name}"]
    return lines or ["", "nothing is searched or varied: its arm is one configuration"]


def _curve(held: History, metric: Metric) -> list[str]:
    column, values = course(held.rows, metric)
    if not values:
        return ["", "no epoch is finished yet" if not held.rows else "no accuracy was measured by epoch"]
    low, high, last = min(values.values()), max(values.values()), values[max(values)]
    best = max(values, key=lambda epoch: (values[epoch], -epoch))
    words = {metric.validation: f"validation {metric.words}", "train_accuracy": "training accuracy (none was held out)"}
    line = sparkline([values[epoch] for epoch in sorted(values)], low, high)
    return [
        "",
        f"{words[column]}, epochs {min(values)} to {max(values)}",
        f"  {low:.2f} {line} {high:.2f}",
        f"  last {last:.2f}, best {values[best]:.2f} after epoch {best}",
    ]


def _decisions(row: Mapping[str, Any], held: History, lock: Mapping[str, Any]) -> list[str]:
    scheduler = (lock.get("settings") or {}).get("scheduler") or {"name": "none"}
    name = str(scheduler.get("name", "none"))
    lines = rungs.decisions(str(row["trial_id"]), held.events, name) + rungs.races(str(row["cell_id"]), held.events)
    if not lines:
        if name == "none" or row["role"] != "search":
            said = "no early stopping" if row["role"] == "search" else f"trials of role {row['role']} are never stopped"
        else:
            said = "it has not come to a decision"
        return ["", f"early stopping: {said}"]
    window = rungs.WINDOW.format(of_trials(row).words)
    head = f"early stopping: {name}; a score is the {window}" if name != "racing" else "early stopping: racing"
    return ["", *wrapped(head), *(line for text in lines for line in wrapped(text, "  "))]


def _time(held: History, trial_id: str) -> list[str]:
    found, parts = times(held.events, trial_id), spent(held)
    planned = "" if found.planned is None else f"planned {time.strftime('%F %T', time.localtime(found.planned))}, "
    waits = "waits" if not found.attempts else f"waited {_seconds(found.waited_s)}"
    ran = f", ran {_seconds(found.ran_s)} in {counted(found.attempts, 'attempt')}" if found.attempts else ""
    host = f" on {held.host}" if held.host else ""
    lines = ["", "time", *wrapped(f"{planned}{waits}{ran}{host}", "  ")]
    if held.rows:
        named = {"training": "training", "evaluations": "evaluations"} if "training" in parts else {"epochs": "epochs"}
        said = [f"{word} {_seconds(parts[name])}" for name, word in named.items()]
        if parts["warm-up"]:
            said.insert(0, f"warm-up {_seconds(parts['warm-up'])}")
        lines += wrapped(f"{', '.join(said)}" + ("" if len(named) > 1 else " (evaluations included)"), "  ")
    return [*lines, *(line for note in found.notes for line in wrapped(note, "  "))]


def _seconds(value: float | None) -> str:
    if value is None:
        return "(not recorded)"
    return f"{value:.1f} s" if value < 10 else duration(value)


def _said(held: History) -> list[str]:
    if not held.warnings:
        return []
    more = len(held.warnings) - WARNINGS_SHOWN
    lines = [line for text in held.warnings[:WARNINGS_SHOWN] for line in wrapped(text, "  ")]
    return ["", "warnings", *lines, *([f"  and {more} more (`akdtune logs`)"] if more > 0 else [])]


def _again(run: Path, row: Mapping[str, Any], plan: Mapping[str, Any] | None) -> list[str]:
    """The commands that train it again: by itself, to the last bit, and as a study of its own."""
    trial_id = str(row["trial_id"])
    folder, name = shlex.quote(str(run)), shlex.quote(trial_id)
    lines = ["", "again"]
    description = TrialDirectory(files.trial_directory(run, trial_id)).description
    if description.exists():
        lines += _command("alone", ["python -m akdtune.training", shlex.quote(str(description))])
    if row["status"] == "done":
        lines += _command("compared", [f"akdtune verify {folder}", f"--trial {name}"])
    if plan is not None:
        file = shlex.quote(f"{trial_id}.yaml")
        lines += _command("a study", [f"akdtune best {folder}", name, f"--export {file}"])
        lines += _command("", [f"akdtune run {file}"])
    return lines


def _command(what: str, parts: Sequence[str]) -> list[str]:
    """A command that can be pasted, on several lines where it does not fit one."""
    head = f"  {what + ':' if what else '':10}"
    if len(head) + len(" ".join(parts)) <= COLUMNS:
        return [head + " ".join(parts)]
    first, *rest = parts
    broken = [f"{head}{first}", *(f"{'':14}{part}" for part in rest)]
    return [*(f"{line} \\" for line in broken[:-1]), broken[-1]]

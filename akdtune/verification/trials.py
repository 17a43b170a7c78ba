"""Each trial's own files: rows against the ledger, outcome and digests, accuracy out of predictions, saved state."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from akdtune.errors import StudyError
from akdtune.metric import ACCURACY, Metric
from akdtune.records import files
from akdtune.records.lock_file import metric_of
from akdtune.records.number_lists import read_lists
from akdtune.records.recorded_files import TOP_CLASSES, VALUE
from akdtune.records.trial_directory import TrialDirectory, digest_of
from akdtune.reports.text import counted
from akdtune.roles import REPORT_ROLES
from akdtune.running.saved_states import ROWS, saved_state
from akdtune.verification.checks import Check, Progress, check, differs, not_at_hand, same
from akdtune.verification.ledger import Ledger, OfTrial, gaps

Rows = list[dict[str, Any]]
Labels = Mapping[int, int]
"""The true class of each image that students are judged on, by its id."""

CLOSE = 1e-12
"""Relative: the last bit of an accuracy, which a GPU may round otherwise."""

CLOSE_VALUES = 1e-4
"""Relative: the mean of values that are stored in float32."""

Integers: TypeAlias = npt.NDArray[np.int64]


@dataclass
class Looked:
    """What was looked at in trials, and what was found."""

    metric: Metric = ACCURACY
    rows: int = 0
    outcomes: int = 0
    digests: int = 0
    predictions: int = 0
    labels: int = 0
    states: int = 0
    missing: dict[str, int] = field(default_factory=dict)
    found: dict[str, list[str]] = field(default_factory=dict)

    def add(self, name: str, sentences: Iterator[str]) -> None:
        """Notes what a check found."""
        self.found.setdefault(name, []).extend(sentences)

    def lacks(self, name: str) -> None:
        """Notes a file that is not there."""
        self.missing[name] = self.missing.get(name, 0) + 1


def trial_checks(
    run: Path,
    held: Ledger,
    plans: Mapping[str, Mapping[str, Any]],
    labels: Labels | None,
    progress: Progress,
) -> list[Check]:
    """Looks at the files of every trial that has begun.

    Args:
        run: the study directory.
        held: its ledger.
        plans: rows of the plan, by trial.
        labels: of the images that students are judged on; None where the data is not at hand.
        progress: told after each trial.
    """
    seen = Looked(metric_of(run))
    for done, (trial_id, plan) in enumerate(plans.items(), start=1):
        trial = TrialDirectory(files.trial_directory(run, trial_id))
        told = held.trials.get(trial_id, OfTrial())
        rows = _read_rows(seen, trial, told)
        if rows is not None:
            seen.rows += len(rows)
            seen.add("rows", _rows(trial, told, rows, plan, seen.metric))
        outcome = _read_outcome(seen, trial, told)
        if outcome is not None:
            seen.add("outcomes", _outcome(seen, trial, told, outcome))
        if told.end is not None and told.end.kind == "done":
            seen.add("predictions", _predictions(seen, trial, told, rows, outcome, plan, labels))
        seen.add("saved states", _state(seen, trial, rows))
        progress("trials", done, len(plans))
    return _table(seen, labels)


def _table(seen: Looked, labels: Labels | None) -> list[Check]:
    lacking = {name: f"; {number} without {name}" for name, number in seen.missing.items()}
    truth = "labels are the data's" if labels is not None else "labels as stored"
    of_predictions = f"accuracy recomputed of {counted(seen.predictions, 'trial')}, {truth}"
    said = {
        "rows": f"{counted(seen.rows, 'epoch')} compared with the ledger" + lacking.get("epochs.parquet", ""),
        "outcomes": f"{counted(seen.outcomes, 'outcome')}, {counted(seen.digests, 'digest')} of rows and predictions"
        + lacking.get("outcome.json", ""),
        "predictions": of_predictions + lacking.get("predictions.parquet", ""),
        "saved states": f"{counted(seen.states, 'state')} with the digest of their content",
    }
    counts = {"rows": seen.rows, "outcomes": seen.outcomes, "predictions": seen.predictions,
              "saved states": seen.states}  # fmt: skip
    return [
        check(name, text, seen.found.get(name, []))
        if counts[name] or seen.found.get(name)
        else not_at_hand(name, "there are none")
        for name, text in said.items()
    ]


def _place(trial: TrialDirectory, name: str) -> str:
    return f"trials/{trial.path.name}/{name}"


def _read_rows(seen: Looked, trial: TrialDirectory, told: OfTrial) -> Rows | None:
    if not trial.epochs.exists():
        if told.end is not None and (told.end.epoch or 0) > 0:
            seen.lacks(trial.epochs.name)
            seen.add("rows", iter([f"{_place(trial, trial.epochs.name)}: is missing"]))
        return None
    try:
        return trial.read_rows()
    except StudyError as error:
        seen.add("rows", iter([str(error)]))
        return None


def _rows(trial: TrialDirectory, told: OfTrial, rows: Rows, plan: Mapping[str, Any], metric: Metric) -> Iterator[str]:
    """Epochs 1..n of this trial, with the ledger's numbers, as many as its settings say."""
    place = _place(trial, trial.epochs.name)
    if any(row.get("trial_id") != trial.path.name for row in rows):
        yield f"{place}: holds rows of another trial"
        return
    if gap := gaps(row["epoch"] for row in rows):
        yield f"{place}: has {gap}"
    end = told.end
    asked = plan["settings"].get("training", {}).get("epochs")
    if end is not None and end.kind == "done" and asked is not None and len(rows) != asked:
        yield f"{place}: holds {len(rows)} epochs, the settings ask for {asked}"
    if end is not None and end.kind != "pruned" and told.epochs and len(told.epochs) != len(rows):
        yield f"{place}: holds {len(rows)} epochs, the ledger {len(told.epochs)}"
    by_epoch = {row["epoch"]: row for row in rows}
    for event in told.epochs:
        row = by_epoch.get(event.epoch)
        for column, stored in ((metric.validation, event.value), ("score", event.score)):
            if row is not None and column in row and not same(stored, _finite(row[column])):
                yield f"ledger.jsonl and {place}, epoch {event.epoch}, {column}: {stored!r} and {row[column]!r}"
    for rung in told.rungs:
        row = by_epoch.get(rung.epoch)
        score = None if row is None else _finite(row.get("score"))
        if row is not None and rung.value is not None and not same(rung.value, score):
            yield f"ledger.jsonl and {place}, rung at epoch {rung.epoch}, score: {rung.value!r} and {score!r}"


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _read_outcome(seen: Looked, trial: TrialDirectory, told: OfTrial) -> dict[str, Any] | None:
    try:
        outcome = trial.read_outcome()
    except StudyError as error:
        outcome = trial.outcome_as_it_stands()
        named = _changed(outcome, told) if outcome is not None else ""
        seen.add("outcomes", iter([f"{error}{named}"]))
        return None
    if outcome is None and told.end is not None and told.end.kind in ("done", "diverged"):
        seen.lacks(trial.outcome.name)
        seen.add("outcomes", iter([f"{_place(trial, trial.outcome.name)}: is missing"]))
    return outcome


def _changed(outcome: Mapping[str, Any], told: OfTrial) -> str:
    """Which of its values the ledger knows otherwise, behind a sentence."""
    parts = [
        f"; {column}: stored {stored!r}, the ledger has {known!r}" for column, stored, known in _pairs(outcome, told)
    ]
    return "".join(parts)


def _pairs(outcome: Mapping[str, Any], told: OfTrial) -> Iterator[tuple[str, Any, Any]]:
    """Values of an outcome that are not those of the ledger: column, stored, known."""
    end = told.end
    if end is None:
        return
    known = {"outcome": end.kind, "epoch": end.epoch, "test_accuracy": end.test_accuracy, "test_value": end.test_value,
             "warning": end.warning, "error": end.error, "diverged_in": end.diverged_in,
             "trained_on": end.trained_on}  # fmt: skip
    for column, value in known.items():
        if not same(outcome.get(column), value):
            yield column, outcome.get(column), value


def _outcome(seen: Looked, trial: TrialDirectory, told: OfTrial, outcome: Mapping[str, Any]) -> Iterator[str]:
    """How a trial says it ended against the ledger, and the digests of its files."""
    seen.outcomes += 1
    place = _place(trial, trial.outcome.name)
    if outcome.get("trial_id", trial.path.name) != trial.path.name:
        yield f"{place}: is of trial {outcome['trial_id']}"
    for column, stored, known in _pairs(outcome, told):
        yield f"{place}, {column}: stored {stored!r}, the ledger has {known!r}"
    for name, facts in (outcome.get("files") or {}).items():
        path = trial.path / name
        if not path.exists():
            continue
        seen.digests += 1
        try:
            size, digest = path.stat().st_size, digest_of(path)
        except OSError as error:
            yield f"{_place(trial, name)}: cannot be read ({error.strerror or error})"
            continue
        if list(facts) != [size, digest]:
            yield f"{_place(trial, name)}: is not what the trial wrote (its digest in {trial.outcome.name} is another)"


def _predictions(
    seen: Looked,
    trial: TrialDirectory,
    told: OfTrial,
    rows: Rows | None,
    outcome: Mapping[str, Any] | None,
    plan: Mapping[str, Any],
    labels: Labels | None,
) -> Iterator[str]:
    """Accuracy out of the stored logits against every place where it stands."""
    if not trial.predictions.exists():
        seen.lacks(trial.predictions.name)
        return
    place = _place(trial, trial.predictions.name)
    try:
        ids_N, labels_N, chosen_N, values_N = _chosen(trial.predictions)
    except (StudyError, KeyError, ValueError) as error:
        yield f"{place}: {str(error).removeprefix(f'{trial.predictions}: ')}"
        return
    seen.predictions += 1
    if labels is not None and (wrong := wrong_labels(ids_N, labels_N, labels)):
        yield f"{place}, label: {wrong}"
    value = float((chosen_N == labels_N).mean()) * 100 if values_N is None else float(values_N.mean())
    metric = seen.metric
    column = metric.test if plan["role"] in REPORT_ROLES else metric.validation
    end = told.end
    stored: list[tuple[str, Any]] = []
    if rows:
        stored.append((f"{_place(trial, trial.epochs.name)}, epoch {rows[-1]['epoch']}", rows[-1].get(column)))
    if column == metric.test:
        in_outcome = column if metric == ACCURACY else "test_value"
        stored += [(_place(trial, trial.outcome.name), outcome.get(in_outcome))] if outcome is not None else []
        stored += [(f"ledger.jsonl, trial {trial.path.name}", end.test)] if end is not None else []
    elif told.epochs:
        last = told.epochs[-1]
        stored.append((f"ledger.jsonl, trial {trial.path.name}, epoch {last.epoch}", last.value))
    close = CLOSE if values_N is None else CLOSE_VALUES
    for where, found in stored:
        if found is None or not math.isclose(float(found), value, rel_tol=close, abs_tol=close):
            yield differs(where, column, found, value)


def _chosen(path: Path) -> tuple[Integers, Integers, Integers, npt.NDArray[np.float64] | None]:
    """Ids, labels and predicted classes of stored predictions, and the value of each row where that is stored."""
    table = files.read_table(path)
    if TOP_CLASSES in table.column_names:
        chosen_N: Integers = read_lists(table, TOP_CLASSES)[:, 0].astype(np.int64)
    else:
        chosen_N = read_lists(table, "logits").argmax(axis=1)
    ids, labels = (np.asarray(table[name].to_numpy(), np.int64) for name in ("sample_id", "label"))
    if not len(ids) or len(set(ids.tolist())) < len(ids):
        raise ValueError("holds no image, or one twice")
    stored = VALUE in table.column_names
    return ids, labels, chosen_N, table[VALUE].to_numpy().astype(np.float64) if stored else None


def wrong_labels(ids_N: npt.NDArray[np.int64], labels_N: npt.NDArray[np.int64], labels: Labels) -> str:
    """The first image that the data knows otherwise; empty where there is none."""
    for sample, label in zip(ids_N.tolist(), labels_N.tolist(), strict=True):
        if labels.get(sample) != label:
            known = labels.get(sample, "no such image")
            return f"image {sample}: stored {label}, the data has {known}"
    return ""


def _state(seen: Looked, trial: TrialDirectory, rows: Rows | None) -> Iterator[str]:
    """Whether a saved state is whole, this trial's, and agrees with its rows."""
    if not trial.checkpoint.exists():
        return
    seen.states += 1
    place = _place(trial, trial.checkpoint.name)
    try:
        state, trouble = saved_state(trial, trial.path.name)
    except OSError as error:
        state, trouble = None, f"cannot be read ({error.strerror or error})"
    if state is None:
        yield f"{place}: {trouble}"
        return
    for kept, row in zip(state.get(ROWS) or (), rows or (), strict=False):
        for column, value in kept.items():
            if not same(_finite(row.get(column)), _finite(value)):
                yield f"{place} and epochs.parquet, epoch {row['epoch']}, {column}: {value!r} and {row.get(column)!r}"
                return

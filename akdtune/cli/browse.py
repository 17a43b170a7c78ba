"""What the reading commands show: studies and trials by name, the table of trials, the best ones, logs.

Nothing here needs torch or Ray, and everything works on a running study.
"""

from __future__ import annotations

import csv
import io
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from akdtune.errors import AkdtuneError, nearest, unknown_name
from akdtune.records import tables
from akdtune.records.files import events, read_lock, trial_directory
from akdtune.reports import pareto
from akdtune.roles import STATUSES, TERMINAL
from akdtune.search import pilot

METRIC = "val_accuracy"
Row = Mapping[str, Any]


class _WithoutPandas:
    """An import hook under which pandas cannot be found."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError(name)


def read_trials(run: Path) -> tuple[list[Row], list[str]]:
    """One row per planned trial, and the names of all columns.

    PyArrow looks for pandas at the first array it makes, which costs half a second and serves nothing here: it is
    told that there is none. For processes that only read, because it does not ask again.
    """
    sys.meta_path.insert(0, _WithoutPandas)
    try:
        table = tables.read_trials(run)
    finally:
        sys.meta_path.remove(_WithoutPandas)
    return table.to_pylist(), table.column_names


def find_trial(trial_ids: Sequence[str], prefix: str) -> str:
    """The one trial whose id is `prefix` or begins with it.

    Raises:
        AkdtuneError: when none or several do.
    """
    if prefix in trial_ids:
        return prefix
    matches = [trial_id for trial_id in trial_ids if trial_id.startswith(prefix)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        shown = ", ".join(matches[:8]) + (", ..." if len(matches) > 8 else "")
        raise AkdtuneError(f"trial '{prefix}' is ambiguous: {shown}")
    close = nearest(prefix, trial_ids)
    hint = f"; did you mean '{close}'?" if close else f" among {len(trial_ids)}"
    raise AkdtuneError(f"no trial '{prefix}'{hint} (`akdtune show RUN` lists them; a beginning is enough)")


@dataclass(frozen=True)
class Filter:
    """Which trials to show, and in what order.

    Attributes:
        arm, status, role: keep only these; None keeps all.
        sort: a column; numbers largest first, text alphabetically, empty values last. None keeps the plan's order.
        top: keep this many of the sorted rows; sorts by validation accuracy unless `sort` is given.
    """

    arm: str | None = None
    status: str | None = None
    role: str | None = None
    sort: str | None = None
    top: int | None = None

    def apply(self, rows: Sequence[Row], columns: Sequence[str]) -> list[Row]:
        """The rows that pass, in order.

        Raises:
            AkdtuneError: for an arm, status, role or column that does not exist, with the nearest that does.
        """
        kept = list(rows)
        for column, wanted in (("arm", self.arm), ("status", self.status), ("role", self.role)):
            if wanted is None:
                continue
            known = {str(row[column]) for row in rows} | (set(STATUSES) if column == "status" else set())
            if wanted not in known:
                raise AkdtuneError(unknown_name(column, wanted, known))
            kept = [row for row in kept if row[column] == wanted]
        sort = self.sort or (METRIC if self.top is not None else None)
        if sort is not None:
            kept = _sorted(kept, column_named(sort, columns))
        return kept if self.top is None else kept[: self.top]


def column_named(name: str, columns: Sequence[str]) -> str:
    """A column by its name; searched settings also without their `param.`.

    Raises:
        AkdtuneError: for an unknown one, with the nearest that exists.
    """
    for candidate in (name, f"param.{name}"):
        if candidate in columns:
            return candidate
    raise AkdtuneError(unknown_name("column", name, [column.removeprefix("param.") for column in columns]))


def _sorted(rows: Sequence[Row], column: str) -> list[Row]:
    full = [row for row in rows if row[column] is not None]
    empty = [row for row in rows if row[column] is None]
    numbers = all(isinstance(row[column], int | float) for row in full)
    key: Callable[[Row], Any] = (lambda row: -row[column]) if numbers else (lambda row: str(row[column]))
    return sorted(full, key=key) + empty


def searched(row: Row) -> dict[str, Any]:
    """The searched settings of a trial, by key path."""
    return {
        name.removeprefix("param."): value
        for name, value in row.items()
        if value is not None and name.startswith("param.")
    }


def short(value: Any) -> str:
    """A value as a table shows it."""
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def plain_table(headings: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> str:
    """A table as wide as its content, columns two spaces apart; for pipes, files and thousands of rows.

    Rich measures and wraps every cell, which takes a millisecond a row.

    Args:
        headings: one per column.
        rows: one text per column.
        right: columns that are aligned to the right, by index.
    """
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    form = "  ".join(f"{{:{'>' if index in right else '<'}{width}}}" for index, width in enumerate(widths))
    return "\n".join(form.format(*row).rstrip() for row in (headings, *rows))


def as_csv(rows: Sequence[Row], columns: Sequence[str]) -> str:
    """All columns of the rows as comma-separated text with a header; empty where there is no value."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def tally(rows: Sequence[Row]) -> str:
    """How many trials are in which state: `24 trials: 20 done, 4 pruned`."""
    counts = {status: sum(row["status"] == status for row in rows) for status in STATUSES}
    known = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    return f"{len(rows)} trial{'' if len(rows) == 1 else 's'}" + (f": {known}" if known else "")


def best_per_arm(rows: Sequence[Row]) -> list[Row]:
    """The search trial with the highest last-epoch validation accuracy of each arm, best arm first.

    Raises:
        AkdtuneError: when no search trial has reached its last epoch yet.
    """
    finished = [row for row in rows if row["role"] == "search" and row["status"] == "done"]
    candidates = [row for row in finished if row[METRIC] is not None]
    if not candidates:
        raise AkdtuneError(f"no search trial has reached its last epoch yet ({tally(rows)})")
    best: dict[str, Row] = {}
    for row in _sorted(candidates, METRIC):
        best.setdefault(row["arm"], row)
    return list(best.values())


def judged_by(rows: Sequence[Row]) -> str:
    """What a summary shows by itself: validation accuracy, or test accuracy where only that was read."""
    judged = any(row.get(METRIC) is not None for row in rows)
    tested = any(row.get("test_accuracy") is not None for row in rows)
    return "test_accuracy" if tested and not judged else METRIC


def objectives(run: Path) -> list[str]:
    """What the search of a study weighs.

    Raises:
        AkdtuneError: when that is accuracy alone, so that there is no Pareto table.
    """
    settings = (read_lock(run) or {}).get("settings", {})
    names = list((settings.get("search") or {}).get("objectives", ["accuracy"]))
    if len(names) < 2:
        raise AkdtuneError(
            f"{run}: its search weighs accuracy alone; a Pareto table needs search.objectives with macs or time"
        )
    return names


def pareto_text(run: Path, rows: Sequence[Row]) -> str:
    """The search trials that no other one beats in every objective, as a table.

    Raises:
        AkdtuneError: as `objectives`.
    """
    return pareto.text(rows, objectives(run))


def pilot_lines(run: Path) -> list[str]:
    """What the pilots of a search with early stopping showed; none where there are none."""
    return pilot.lines(events(run, {"pilot"}))


def summary(rows: Sequence[Row], column: str = METRIC) -> list[dict[str, Any]]:
    """Mean and standard deviation over the seeds of each configuration, best mean first.

    Only trials that reached their last epoch count. A mean over the seeds that were not stopped is too good, so that
    the others stand beside it.

    Args:
        rows: of trials, as `read_trials` gives them.
        column: one that holds numbers.

    Returns:
        arm (or the name of the cell), role, n, mean, sd (None for one trial), left_out (`2 pruned`; other trials of the
        configuration), settings (the searched ones), one dict per configuration.

    Raises:
        AkdtuneError: for a column of something else.
    """
    groups: dict[tuple[str, str], list[Row]] = {}
    others: dict[tuple[str, str], Counter[str]] = {}
    for row in rows:
        if row["status"] == "done" and row[column] is not None:
            if not isinstance(row[column], int | float):
                raise AkdtuneError(f"a summary needs a column of numbers, and '{column}' holds {row[column]!r}")
            groups.setdefault((row["role"], row["cell_id"]), []).append(row)
        else:
            others.setdefault((row["role"], row["cell_id"]), Counter())[row["status"]] += 1
    rows_of_cells = []
    for cell, of_cell in groups.items():
        values = [float(row[column]) for row in of_cell]
        first = of_cell[0]
        rows_of_cells.append(
            {
                "arm": first.get("cell") or first["arm"],
                "role": first["role"],
                "n": len(values),
                "mean": statistics.fmean(values),
                "sd": statistics.stdev(values) if len(values) > 1 else None,
                "left_out": ", ".join(f"{count} {status}" for status, count in others.get(cell, {}).items()),
                "settings": searched(first),
            }
        )
    return sorted(rows_of_cells, key=lambda row: -float(row["mean"]))


def summary_as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """What `summary` returned as comma-separated text, a column for each searched setting."""
    flat = [
        {key: value for key, value in row.items() if key != "settings"}
        | {f"param.{name}": value for name, value in row["settings"].items()}
        for row in rows
    ]
    columns = dict.fromkeys(["arm", "role", "n", "mean", "sd", "left_out", *(name for row in flat for name in row)])
    return as_csv(flat, list(columns))


REASONS_SHOWN = 4
"""Reasons, and trials of each, that are named."""


def reason_lines(rows: Sequence[Row]) -> list[str]:
    """Why trials failed, or were interrupted by something outside them: a line for each reason."""
    trials: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row["status"] in ("failed", "interrupted") and row["stop_reason"]:
            trials.setdefault((row["status"], row["stop_reason"]), []).append(row["trial_id"])
    lines = []
    for (status, reason), of_reason in sorted(trials.items(), key=lambda item: -len(item[1])):
        more = f" and {len(of_reason) - REASONS_SHOWN} more" if len(of_reason) > REASONS_SHOWN else ""
        lines.append(f"{status}: {', '.join(of_reason[:REASONS_SHOWN])}{more}: {reason}")
    left = len(lines) - REASONS_SHOWN
    return lines[:REASONS_SHOWN] + ([f"and {left} more reasons (--csv: stop_reason)"] if left > 0 else [])


def follow(run: Path, trial_id: str, poll_s: float = 0.3) -> Iterator[str]:
    """What a trial's log holds and what is added to it, until the trial has ended or was interrupted."""
    log = trial_directory(run, trial_id) / "log.txt"
    position = 0
    while True:
        at_rest = _at_rest(run, trial_id)  # before reading, so that nothing written until then is missed
        if log.exists():
            with log.open("rb") as file:
                file.seek(position)
                added = file.read()
            position += len(added)
            if added:
                yield added.decode("utf-8", errors="replace")
        if at_rest:
            return
        time.sleep(poll_s)


def _at_rest(run: Path, trial_id: str) -> bool:
    happened = events(run, {*TERMINAL, "started", "interrupted"})
    kinds = [event.kind for event in happened if event.trial_id == trial_id]
    return bool(kinds) and kinds[-1] != "started"

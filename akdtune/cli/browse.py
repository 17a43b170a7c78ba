"""What the reading commands show: studies and trials by name, the table of trials, the best ones, logs.

Nothing here needs torch or Ray, and everything works on a running study.
"""

from __future__ import annotations

import contextlib
import csv
import io
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from akdtune.errors import AkdtuneError, StudyError, nearest, unknown_name
from akdtune.metric import ACCURACY, of_trials
from akdtune.records import tables
from akdtune.records.files import read_design, trial_directory
from akdtune.records.ledger.reading import events
from akdtune.records.lock_file import metric_of, read_lock
from akdtune.reports.short_names import PARAM, short_names
from akdtune.reports.trials.cell_means import CellMean
from akdtune.roles import REPORT_ROLES, STATUSES, TERMINAL
from akdtune.search import pilot

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
    return with_cell_names(run, table.to_pylist()), table.column_names


def with_cell_names(run: Path, rows: list[Row]) -> list[Row]:
    """The rows with the names that the study's design gives to cells, where the plan does not hold them."""

    def lacks(row: Row) -> bool:
        return row["role"] in REPORT_ROLES and row.get("cell") is None

    names = _designed(run) if any(map(lacks, rows)) else {}
    return [{**row, "cell": names.get(row["cell_id"])} if names and lacks(row) else row for row in rows]


def _designed(run: Path) -> dict[str, str]:
    """Names of a design's cells by their hash; none where it cannot be read, which whoever asks for it is told."""
    with contextlib.suppress(StudyError):
        cells = [cell for phase in read_design(run).values() if isinstance(phase, dict) for cell in _listed(phase)]
        return {cell["cell_id"]: cell["name"] for cell in cells}
    return {}


def _listed(phase: Mapping[str, Any]) -> list[dict[str, str]]:
    cells = phase.get("cells")
    return [
        cell
        for cell in (cells if isinstance(cells, list) else [])
        if isinstance(cell, dict) and isinstance(cell.get("cell_id"), str) and isinstance(cell.get("name"), str)
    ]


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
        top: keep this many of the sorted rows; sorts by what `judged_by` says unless `sort` is given.
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
        sort = self.sort or (judged_by(kept) if self.top is not None else None)
        if sort is not None:
            kept = _sorted(kept, column_named(sort, columns, kept))
        return kept if self.top is None else kept[: self.top]


def column_named(name: str, columns: Sequence[str], rows: Sequence[Row] = ()) -> str:
    """A column by its name; searched settings also without their `param.`, or by their short name.

    Args:
        name: what somebody typed.
        columns: of the study.
        rows: where a name means several columns, the first one that holds something here is meant.

    Raises:
        AkdtuneError: for an unknown one, with the nearest that exists.
    """
    settings = {column.removeprefix(PARAM): column for column in columns if column.startswith(PARAM)}
    short = {short: settings[full] for full, short in short_names(settings).items()}
    meant = [column for column in (name, f"{PARAM}{name}", short.get(name, name)) if column in columns]
    if not meant:
        raise AkdtuneError(unknown_name("column", name, [column.removeprefix(PARAM) for column in columns]))
    return next((column for column in meant if any(row[column] is not None for row in rows)), meant[0])


def _sorted(rows: Sequence[Row], column: str) -> list[Row]:
    def has_none(row: Row) -> bool:
        """NaN is no number that has a place in an order."""
        return row[column] is None or row[column] != row[column]

    full = [row for row in rows if not has_none(row)]
    empty = [row for row in rows if has_none(row)]
    numbers = all(isinstance(row[column], int | float) for row in full)
    key: Callable[[Row], Any] = (lambda row: -row[column]) if numbers else (lambda row: str(row[column]))
    return sorted(full, key=key) + empty


def as_csv(rows: Sequence[Row], columns: Sequence[str]) -> str:
    """All columns of the rows as comma-separated text with a header; empty where there is no value."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def judged_by(rows: Sequence[Row]) -> str:
    """What a summary shows by itself: the metric on validation images, on the test set where only that was read."""
    metric = of_trials(rows[0]) if rows else ACCURACY
    judged = any(row.get(metric.validation) is not None for row in rows)
    tested = any(row.get(metric.test) is not None for row in rows)
    return metric.test if tested and not judged else metric.validation


def objectives(run: Path) -> list[str]:
    """What the search of a study weighs.

    Raises:
        AkdtuneError: when that is the metric alone, so that there is no Pareto table.
    """
    settings = (read_lock(run) or {}).get("settings", {})
    names = list((settings.get("search") or {}).get("objectives", [ACCURACY.name]))
    if len(names) < 2:
        raise AkdtuneError(
            f"{run}: its search weighs {metric_of(run).words} alone; a Pareto table needs search.objectives with macs "
            "or time"
        )
    return names


def pilot_lines(run: Path) -> list[str]:
    """What the pilots of a search with early stopping showed; none where there are none."""
    return pilot.lines(events(run, {"pilot"}))


def means_as_csv(means: Sequence[CellMean]) -> str:
    """Means over seeds as comma-separated text, a column for each searched setting."""
    flat: list[dict[str, Any]] = [
        {"arm": mean.name, "role": mean.role, "n": mean.n, "mean": mean.mean, "sd": mean.sd, "left_out": mean.left_out}
        | {f"{PARAM}{name}": value for name, value in mean.settings.items()}
        for mean in means
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

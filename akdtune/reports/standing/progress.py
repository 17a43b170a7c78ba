"""How far a study is: trials by role, the time that really ran, and the time that is left as its own trials tell it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import sqrt
from statistics import fmean, stdev
from typing import Any, TypeAlias

from akdtune.records.ledger.spans import Spans
from akdtune.reports.text import counted, duration
from akdtune.roles import REPORT_ROLES, TERMINAL

Row: TypeAlias = Mapping[str, Any]

LEAST_UNSURE = 0.1
"""Share by which a time is unsure however many trials it stands on."""

ROLES = ("search", "probe", "pilot", "confirm", "ablation", "control")


@dataclass(frozen=True)
class Seconds:
    """A time that is not known exactly."""

    low: float
    high: float

    @property
    def words(self) -> str:
        """`about 4 min`, `about 4 to 9 min`."""
        low, high = duration(self.low), duration(self.high)
        if low == high:
            return f"about {low}"
        (number, unit), (_, of_high) = low.split(" "), high.split(" ")
        return f"about {number if unit == of_high else low} to {high}"


@dataclass(frozen=True)
class Awaited:
    """Trials of one phase that are not planned yet.

    Attributes:
        phase: search, confirm or ablation.
        trials: how many at most; None where that is not known before it begins.
    """

    phase: str
    trials: int | None


def awaited(
    settings: Mapping[str, Any], arms: int, rows: Sequence[Row], design: Mapping[str, Any], ended: bool
) -> list[Awaited]:
    """What a study has not planned yet: proposals of a search that learns, seeds of its survivors, later phases.

    Args:
        settings: of the study with all defaults, as its lock holds them.
        arms: how many it has.
        rows: of all trials.
        design: content of design.json.
        ended: whether its last driver came to the end, so that nothing is to come.
    """
    if ended or not settings:
        return []
    found = [_of_search(settings.get("search") or {}, settings.get("scheduler") or {}, rows)]
    confirm = settings.get("confirm")
    if confirm is not None and not design.get("confirm"):
        cells = arms * int(confirm.get("top") or 1) + len(confirm.get("baselines") or [])
        found.append(Awaited("confirm", cells * len(confirm.get("seeds") or [])))
    ablation = settings.get("ablation")
    if ablation is not None and not (design.get("ablation") or {}).get("seeds"):
        found.append(Awaited("ablation", None))
    return [phase for phase in found if phase.trials != 0]


def _of_search(search: Mapping[str, Any], scheduler: Mapping[str, Any], rows: Sequence[Row]) -> Awaited:
    algorithm, asked = search.get("algorithm", "none"), search.get("trials")
    planned = [row for row in rows if row["role"] == "search"]
    seeds = len(search.get("seeds") or [0])
    if algorithm == "none":
        return Awaited("search", 0)
    configurations = len({row["cell_id"] for row in planned})
    if algorithm in ("tpe", "gp") and asked is not None:
        configurations = int(asked)
    lost = sum(row["status"] in ("pruned", "diverged", "failed") for row in planned)
    follow = scheduler.get("name") in ("asha", "median", "racing") or algorithm in ("tpe", "gp")
    most = configurations * seeds - (lost * (seeds - 1) if follow else 0)
    return Awaited("search", max(0, most - len(planned)))


# -------------------------------------------------------------------------------------------------------- durations


@dataclass(frozen=True)
class Durations:
    """How long the trials of a study take, as those that have ended took.

    Attributes:
        rows: of all trials.
        spans: when they ran.
        epochs: student epochs of a whole trial; None where that is not known.
    """

    rows: Sequence[Row]
    spans: Spans
    epochs: int | None = None
    _known: dict[tuple[bool, bool, str | None], Seconds | None] = field(default_factory=dict, repr=False)
    _took: dict[bool, list[tuple[str, bool, float]]] = field(default_factory=dict, repr=False)

    def of(self, trials: Iterable[tuple[str, str | None]]) -> Seconds | None:
        """Seconds that pass while some trials run, several at once as before; None where nothing can tell.

        Args:
            trials: role of each, and its arm where that is known.
        """
        return self._passing([self.one(role, arm) for role, arm in trials], [])

    def remaining(self, waiting: Sequence[Row], to_come: Sequence[Awaited]) -> Seconds | None:
        """Seconds until planned trials and those that are still to be planned have ended."""
        costs, done_s = [], []
        for row in waiting:
            span = self.spans.trials.get(row["trial_id"])
            costs.append(self.one(row["role"], row["arm"]))
            done_s.append(0.0 if span is None else span.seconds)
        for phase in to_come:
            costs += [self.one(phase.phase, None)] * (phase.trials or 0)
        return self._passing(costs, done_s)

    def one(self, role: str, arm: str | None) -> Seconds | None:
        """Seconds of one trial: where early stopping may end it, from the mean of all to that of whole ones."""
        key = (role == "search", role in REPORT_ROLES, arm)
        if key not in self._known:
            self._known[key] = self._one(role == "search", role in REPORT_ROLES, arm)
        return self._known[key]

    def _one(self, searched: bool, reports: bool, arm: str | None) -> Seconds | None:
        whole = self._like(reports, arm, whole=True)
        every = self._like(reports, arm, whole=False) if searched else []
        if not whole:
            return None
        mean = fmean(whole)
        unsure = stdev(whole) / mean / sqrt(len(whole)) if len(whole) > 1 and mean > 0 else 0.5
        unsure = min(0.5, max(LEAST_UNSURE, unsure))
        low = min(mean, fmean(every)) if every else mean
        return Seconds(low * (1 - unsure), mean * (1 + unsure))

    def _like(self, reports: bool, arm: str | None, *, whole: bool) -> list[float]:
        """Seconds of the ended trials that are most alike: of arm and kind of role, of the arm, of the kind, of all."""
        if whole not in self._took:
            self._took[whole] = [
                (row["arm"], row["role"] in REPORT_ROLES, took_s)
                for row in self.rows
                if (took_s := self._seconds(row, whole=whole)) is not None
            ]
        alike: dict[int, list[float]] = {}
        for row_arm, row_reports, took_s in self._took[whole]:
            of_arm, of_kind = row_arm == arm, row_reports == reports
            place = 0 if of_arm and of_kind else 1 if of_arm else 2 if of_kind else 3
            alike.setdefault(place, []).append(took_s)
        return alike[min(alike)] if alike else []

    def _seconds(self, row: Row, *, whole: bool) -> float | None:
        """Of a trial that has ended; of a pruned one, what it would have taken where whole ones are asked for."""
        span = self.spans.trials.get(row["trial_id"])
        if span is None or row["status"] not in TERMINAL or row["status"] == "failed" or span.seconds <= 0:
            return None
        if row["status"] == "done" or not whole:
            return span.seconds
        if self.epochs is None or not row.get("epochs"):
            return None
        return span.seconds * self.epochs / int(row["epochs"])

    def _passing(self, costs: Sequence[Seconds | None], done_s: Sequence[float]) -> Seconds | None:
        known = [cost for cost in costs if cost is not None]
        if not known or len(known) < len(costs):
            return None
        done = [*done_s, *[0.0] * (len(known) - len(done_s))]
        ends = []
        for times in ([cost.low for cost in known], [cost.high for cost in known]):
            left = [max(0.0, time_s - before) for time_s, before in zip(times, done, strict=True)]
            ends.append(max(sum(left) * self.spans.pace, max(left)))
        return Seconds(*ends)


# ------------------------------------------------------------------------------------------------------------ words


def lines(
    rows: Sequence[Row], spans: Spans, to_come: Sequence[Awaited], durations: Durations, where: str = ""
) -> list[str]:
    """Progress by role; where the study runs or is unfinished also how long it ran and how long it has left.

    Args:
        rows: of all trials.
        spans: when they ran.
        to_come: trials that are not planned yet.
        durations: how long trials take.
        where: ` on` and the machine that runs it, if it is not this one.
    """
    ended = sum(row["status"] in TERMINAL for row in rows)
    waiting = [row for row in rows if row["status"] not in TERMINAL]
    planned = len(rows) + sum(phase.trials or 0 for phase in to_come)
    at_most = "at most " if to_come else ""
    by_role = _by_role(rows, to_come)
    said = [f"progress: {ended} of {at_most}{counted(planned, 'trial')} ended{f': {by_role}' if by_role else ''}"]
    if not (waiting or to_come):
        return said + ([f"ran for {duration(spans.elapsed_s)}"] if spans.elapsed_s >= 1 else [])
    unknown = [phase.phase for phase in to_come if phase.trials is None]
    left = durations.remaining(waiting, to_come)
    beside = f", and the {' and the '.join(unknown)} after that" if unknown else ""
    if left is None:
        remaining = "the time left is known once a trial has ended" if spans.trials else "nothing has been timed yet"
    else:
        remaining = f"{left.words} left{beside}"
    ran = f"runs{where}" if spans.live else "stopped, ran"
    return [*said, f"{ran} for {duration(spans.elapsed_s)}; {remaining}"]


def _by_role(rows: Sequence[Row], to_come: Sequence[Awaited]) -> str:
    """`search 12 of 16 (4 pruned, 2 running), probe 0 of 44`."""
    planned = Counter(str(row["role"]) for row in rows)
    later = {phase.phase: phase.trials for phase in to_come}
    parts = []
    for role in dict.fromkeys([*ROLES, *planned, *later]):
        mine = [row for row in rows if row["role"] == role]
        if not mine and role not in later:
            continue
        statuses = Counter(str(row["status"]) for row in mine)
        ended = sum(statuses[status] for status in TERMINAL)
        more = later.get(role, 0)
        total = "later" if more is None else str(len(mine) + more)
        named = ("pruned", "diverged", "failed", "running", "interrupted")
        beside = ", ".join(f"{statuses[status]} {status}" for status in named if statuses[status])
        count = f"{role} {ended} of {total}" if total != "later" or mine else f"{role} later"
        parts.append(count + (f" ({beside})" if beside else ""))
    return ", ".join(parts)

"""Decisions of early stopping about one trial, in words: epoch, score, cutoff, and its place among those before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from akdtune.records.ledger.events import Event, RungDecided
from akdtune.records.ledger.judgements import RaceJudged
from akdtune.reports.text import counted, probability

WINDOW = "mean validation {} of the last 3 epochs"
"""What a score is, of a metric."""


def decisions(trial_id: str, events: Sequence[Event], scheduler: str) -> list[str]:
    """A sentence for each rung that a trial came to; none where nothing was decided about it.

    What is not in the ledger is reconstructed from it: the place among the scores that stood there before.

    Args:
        trial_id: of the trial.
        events: of the study, those of rungs and races among them, in order.
        scheduler: its name.
    """
    rungs = [event for event in events if isinstance(event, RungDecided)]
    own = [event for event in rungs if event.trial_id == trial_id]
    return _median(own) if scheduler == "median" else [_asha(event, rungs) for event in own]


def _asha(event: RungDecided, rungs: Sequence[RungDecided]) -> str:
    if event.value is None:
        return f"epoch {event.epoch}: its score is not finite: stopped"
    of_rung = [other for other in rungs if (other.bracket, other.rung) == (event.bracket, event.rung)]
    before = _scores(of_rung[: of_rung.index(event)])
    text = f"epoch {event.epoch}: score {event.value:.2f}, "
    if event.cutoff is None:
        text += "no cutoff: the first to come here" if not before else "no cutoff in the ledger"
    else:
        below = event.value < event.cutoff
        text += f"{'below' if below else 'not below'} the cutoff {event.cutoff:.2f}"
    if before:
        text += f", {_place(event.value, before)} of {len(before) + 1} so far"
    every = _scores([other for other in of_rung if other is not event])
    if len(every) > len(before):
        text += f" ({_place(event.value, every)} of {len(every) + 1} by now)"
    return f"{text}: {_decided(event)}"


def _decided(event: RungDecided) -> str:
    if event.counted:
        return "only counted for others, it had come to its end"
    if event.pilot:
        would = "it would have been stopped" if event.would == "STOP" else "it would have gone on as well"
        return f"went on as a pilot trial ({would})"
    return "stopped" if event.decision == "STOP" else "went on"


def _scores(events: Sequence[RungDecided]) -> list[float]:
    return [event.value for event in events if event.value is not None]


def _place(value: float, others: Sequence[float]) -> str:
    place = 1 + sum(other > value for other in others)
    ending = "th" if place % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(place % 10, "th")
    return f"{place}{ending}"


def _median(own: Sequence[RungDecided]) -> list[str]:
    """One that stopped it, the one that came nearest to that, and how many there were."""
    compared: list[tuple[float, float, RungDecided]] = []
    best = float("-inf")
    lines = []
    for event in own:
        if event.value is None:
            lines.append(f"epoch {event.epoch}: its score is not finite: stopped")
            continue
        best = max(best, event.value)
        if event.cutoff is not None:
            compared.append((best - event.cutoff, best, event))
    if not compared:
        return lines or ([f"{counted(len(own), 'epoch')} asked about, too few others had come as far"] if own else [])
    _, of_best, nearest = min(compared, key=lambda pair: pair[0])
    below = of_best < (nearest.cutoff or 0)
    lines.append(
        f"epoch {nearest.epoch}: its best score so far {of_best:.2f}, {'below' if below else 'not below'} "
        f"{nearest.cutoff:.2f}, the median of the others' means: {_decided(nearest)}"
    )
    if len(compared) > 1:
        first, last = compared[0][2].epoch, compared[-1][2].epoch
        lines.append(f"compared {len(compared)} times, epochs {first} to {last}; this was the closest")
    return lines


def races(cell_id: str, events: Sequence[Event]) -> list[str]:
    """A sentence for each round of a race that a configuration took part in."""
    lines = []
    for event in events:
        if not isinstance(event, RaceJudged):
            continue
        if cell_id in event.unfinished:
            lines.append(f"race, {event.round} seeds: dropped, not every seed came to its end")
        candidates: list[Any] = list(event.candidates)
        own = next((candidate for candidate in candidates if candidate.cell_id == cell_id), None)
        if own is None:
            continue
        place = _place(own.mean, [candidate.mean for candidate in candidates if candidate is not own])
        best = max(candidate.mean for candidate in candidates)
        tested = "" if own.p_holm is None else f", Holm p {probability(own.p_holm)} at alpha {event.alpha:g}"
        lines.append(
            f"race, {event.round} seeds: mean {own.mean:.2f}, {place} of {len(candidates)} (best {best:.2f})"
            f"{tested}: {'dropped' if own.dropped else 'stays'}"
        )
    return lines

"""The pilot of a search with ASHA: unpruned trials that show how well each rung ranks what comes out at the end.

A rung whose order says little about the final one prunes good configurations. The correlation is computed once for
each bracket, when its pilot trials have ended, and stands in the ledger.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

from akdtune.records.ledger.events import Event
from akdtune.records.ledger.judgements import PilotJudged, RungCorrelation
from akdtune.records.trial_record import TrialRecord

FEWEST = 3
"""Trials below which no correlation is given."""


def pilots(records: Iterable[TrialRecord], bracket: str, count: int, leading_seed: int | None) -> list[TrialRecord]:
    """The first `count` search trials of a bracket in plan order, of the leading seed where there is one."""
    of_bracket = (
        record
        for record in records
        if record.plan["role"] == "search"
        and record.plan["bracket"] == bracket
        and leading_seed in (None, record.plan["seed"])
    )
    return list(itertools.islice(of_bracket, count))


def correlations(trials: Sequence[TrialRecord], rungs: Sequence[int]) -> list[RungCorrelation]:
    """Spearman's rank correlation of the scores at each rung with the final scores.

    Args:
        trials: of the pilot; those that are done count.
        rungs: epochs.

    Returns:
        One for each rung; not defined where there are fewer than three trials or no differences.
    """
    of_rungs = []
    for rung in rungs:
        pairs = []
        for record in trials:
            at = record.rungs[rung].value if rung in record.rungs else None
            final = record.epochs[record.last_epoch][1] if record.epochs else None
            if record.terminal == "done" and at is not None and final is not None:
                pairs.append((float(at), float(final)))
        of_rungs.append(RungCorrelation(rung, len(pairs), _spearman(pairs)))
    return of_rungs


def _spearman(pairs: Sequence[tuple[float, float]]) -> float | None:
    if len(pairs) < FEWEST or any(len(set(side)) < 2 for side in zip(*pairs, strict=True)):
        return None
    from scipy.stats import spearmanr  # late: commands that only list trials do not wait for it

    return float(spearmanr([at for at, _ in pairs], [final for _, final in pairs]).statistic)


def lines(events: Iterable[Event]) -> list[str]:
    """What a report says about the pilots in the ledger, a line for each bracket, and for each rung that ranks badly.

    Args:
        events: of the ledger; others than `pilot` are passed over.
    """
    said = []
    for event in events:
        if not isinstance(event, PilotJudged):
            continue
        shown = ", ".join(f"epoch {at.rung}: {_shown(at.rho)}" for at in event.rungs)
        most = max((at.n for at in event.rungs), default=0)
        said.append(
            f"pilot of {event.bracket} ({most} of {event.trials} trials done, unpruned), rank correlation of "
            f"rung and final score: {shown}"
        )
        said += [
            f"warning: {event.bracket}: the order at epoch {at.rung} says little about the final one "
            f"({_shown(at.rho)} in {at.n} trials, below scheduler.pilot_threshold {event.threshold:g}): a later "
            "grace_period, a smaller reduction_factor or no early stopping would be fairer"
            for at in event.rungs
            if at.rho is not None and at.rho < event.threshold
        ]
    return said


def _shown(rho: float | None) -> str:
    return "not defined" if rho is None else f"{rho:.2f}"

"""The ledger's events that say what was judged of several trials together: races, pilots, numbers of seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from akdtune.records.ledger.events import Event


@dataclass(frozen=True, slots=True)
class Candidate:
    """One configuration in one round of a race.

    Attributes:
        cell_id: of the configuration.
        mean: of its values over the seeds so far.
        p: of the test that it is worse than the best; None for the best itself.
        p_holm: p after Holm's correction over the candidates of the round.
        dropped: whether the race goes on without it.
    """

    cell_id: str
    mean: float
    p: float | None
    p_holm: float | None
    dropped: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RaceJudged(Event):
    """One round of a race was tested.

    Attributes:
        bracket: whose race.
        round: how many seeds each configuration has run.
        seeds: these.
        alpha: level of the round's tests together.
        candidates: configurations whose trials all reached their end.
        unfinished: cells of the others.
        dropped: cells that the race goes on without.
    """

    kind: str = "race"
    bracket: str
    round: int
    seeds: Sequence[int]
    alpha: float
    candidates: Sequence[Candidate]
    unfinished: Sequence[str]
    dropped: Sequence[str]

    def __post_init__(self) -> None:
        """Takes candidates also as mappings."""
        object.__setattr__(self, "candidates", [_typed(Candidate, candidate) for candidate in self.candidates])


@dataclass(frozen=True, slots=True)
class RungCorrelation:
    """How a rung ranks what comes out at the end.

    Attributes:
        rung: its epoch.
        n: trials it was computed from.
        rho: Spearman's rank correlation of the scores there with the final ones; None where it is not defined.
    """

    rung: int
    n: int
    rho: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PilotJudged(Event):
    """The pilot trials of a bracket have ended.

    Attributes:
        bracket: whose pilot.
        trials: how many there were.
        rungs: what they say of each.
        threshold: the correlation below which a rung ranks badly.
    """

    kind: str = "pilot"
    bracket: str
    trials: int
    rungs: Sequence[RungCorrelation]
    threshold: float

    def __post_init__(self) -> None:
        """Takes correlations also as mappings."""
        object.__setattr__(self, "rungs", [_typed(RungCorrelation, rung) for rung in self.rungs])


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedsNeeded(Event):
    """The pilot of an ablation says how many seeds resolve what is asked.

    Attributes:
        needed: seeds.
        sd: of the paired differences of the worst comparison, percentage points.
        sd_upper: its upper confidence limit.
        cell: that comparison.
        pilot: seeds of the pilot.
        resolve: the difference to be resolved, percentage points.
        power: the power asked for.
        alpha: level at which that comparison is judged, the study's over the size of its family; None where an earlier
            version decided, without the family.
    """

    kind: str = "seeds"
    needed: int
    sd: float
    sd_upper: float
    cell: str
    pilot: int
    resolve: float
    power: float
    alpha: float | None = None


def _typed(kind: Any, value: Any) -> Any:
    """A part of an event, given as such or as a mapping with fields that may be more than are known."""
    if isinstance(value, kind):
        return value
    return kind(**{field.name: value[field.name] for field in fields(kind)})

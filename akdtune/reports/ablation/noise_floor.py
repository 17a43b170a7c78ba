"""What a study's A/A pairs say about its differences: the floor under them, and what pairing by seed is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from akdtune.records.files import trial_directory
from akdtune.records.shapes import read_json
from akdtune.reports.ablation.findings import Finding
from akdtune.reports.ablation.measured import MeasuredCell, Phase
from akdtune.reports.text import counted, number
from akdtune.statistics.noise_floor import NoiseFloor, Pair, PairingShare, noise_floor, pairing_share

UNKNOWN = "no replica control: the noise floor is not known (ablation.controls: [replica])"


@dataclass(frozen=True)
class Noise:
    """The noise of a phase.

    Attributes:
        floor: by how much two runs of the same thing differ; None without an A/A pair.
        repeats: its A/A pairs in words, `replica repeats base`.
        pairing: what pairing by seed removes from the comparisons of the phase; None without one.
        repeated: the same of the A/A pairs.
        by_cell: the same of each comparison, by name of the cell.
        older: seeds of A/A pairs whose halves drew from random streams of different versions, and do not count.
    """

    floor: NoiseFloor | None
    repeats: tuple[str, ...]
    pairing: PairingShare | None
    repeated: PairingShare | None
    by_cell: Mapping[str, PairingShare]
    older: int = 0

    def reach(self, finding: Finding) -> float | None:
        """How far apart means of as many seeds of the same thing may be; None where that is not known."""
        pairs = finding.difference.n_pairs
        return None if self.floor is None or pairs < 1 else self.floor.reach(pairs)

    def usual(self, findings: Sequence[Finding]) -> float | None:
        """The same for as many seeds as the comparisons have at most, which is as many as most have."""
        n = _most_pairs(findings)
        return None if self.floor is None or n < 1 else self.floor.reach(n)

    def share(self, finding: Finding) -> float | None:
        """The share of the variance that pairing removes from one comparison."""
        of_cell = self.by_cell.get(finding.cell.name)
        return None if of_cell is None else of_cell.share

    def is_below(self, finding: Finding) -> bool:
        """Whether a resolved difference is smaller than two runs of the same thing may differ."""
        reach, difference = self.reach(finding), finding.difference.difference
        within = finding.within
        resolved = within is not None and within.rejected
        return resolved and reach is not None and difference is not None and abs(difference) < reach

    def warning(self, finding: Finding) -> str:
        """What must be said of such a difference; empty for others."""
        if not self.is_below(finding):
            return ""
        return (
            f"resolved, yet smaller than two runs of the same thing may differ ({shown(self.reach(finding))}): do not "
            "read as an effect before more seeds or replicas"
        )


def noise_of(
    phase: Phase, run: Path, findings: Sequence[Finding], *, level: float, beside: Sequence[Phase] = ()
) -> Noise:
    """The noise of a phase.

    Args:
        phase: with its values.
        run: the study directory.
        findings: its comparisons.
        level: of intervals.
        beside: further phases of the study, whose A/A pairs count where they have the same metric.
    """
    pairs = _pairs([phase, *(other for other in beside if other.metric == phase.metric)])
    streams = {side.cell_id: _streams(run, side) for pair in pairs for side in pair}
    older = 0
    groups: dict[str, list[Mapping[int, float]]] = {}
    values: list[Pair] = []
    for cell, other in pairs:
        drew, also = streams[cell.cell_id], streams[other.cell_id]
        alike = {seed: value for seed, value in cell.values.items() if drew[seed] == also.get(seed, drew[seed])}
        older += len(cell.values) - len(alike)
        groups.setdefault(other.cell_id, [other.values]).append(alike)
        values.append((alike, other.values))
    compared = {}
    for finding in findings:
        if finding.repeats is None:
            compared[finding.cell.name] = finding.cell.values, phase.cell(finding.reference).values
    shares = {name: pairing_share([pair], level=level) for name, pair in compared.items()}
    return Noise(
        noise_floor(list(groups.values()), level=level),
        tuple(dict.fromkeys(f"{cell.name} repeats {other.name}" for cell, other in pairs)),
        pairing_share(list(compared.values()), level=level),
        pairing_share(values, level=level),
        {name: share for name, share in shares.items() if share is not None},
        older,
    )


def _pairs(phases: Sequence[Phase]) -> list[tuple[MeasuredCell, MeasuredCell]]:
    """Each cell that repeats another, and that one; cells that stand in two phases once."""
    found: dict[str, tuple[MeasuredCell, MeasuredCell]] = {}
    for phase in phases:
        names = {cell.name: cell for cell in phase.cells}
        for cell in phase.cells:
            if cell.replica_of in names:
                found.setdefault(cell.cell_id, (cell, names[cell.replica_of]))
    return list(found.values())


def _streams(run: Path, cell: MeasuredCell) -> dict[int, int]:
    """The version of the random streams that each trial of a cell drew from, by seed; before there was one, 1."""
    found = {}
    for seed, trial in cell.trials.items():
        outcome = read_json(trial_directory(run, trial) / "outcome.json") or {}
        streams = outcome.get("streams", 1)
        found[seed] = streams if isinstance(streams, int) else 1
    return found


def shown(reach: float | None) -> str:
    """The column beside each difference: `±2.67`; empty where it is not known."""
    return "" if reach is None else f"±{number(reach)}"


def remarks(noise: Noise, findings: Sequence[Finding], unit: str, *, is_ablation: bool) -> list[str]:
    """Sentences that stand before all others: the floor, what lies below it, and what pairing is worth."""
    said = [_floor_line(noise.floor, noise.repeats, _most_pairs(findings), unit)] if noise.floor else []
    if not said and is_ablation and not noise.older:
        said = [UNKNOWN]
    if noise.older:
        said.append(
            f"{counted(noise.older, 'seed')} of A/A pairs left out: one half drew from random streams of an "
            "earlier version, so that the two are not one experiment (--new trains both alike)"
        )
    below = [finding for finding in findings if noise.is_below(finding)]
    said += [f"warning: {finding.cell.name}: {noise.warning(finding)}" for finding in below]
    if noise.pairing is not None:
        said.append(_pairing_line(noise.pairing, noise.repeated))
    return said


def noise_json(noise: Noise) -> dict[str, Any]:
    """Everything that was computed, as plain JSON."""
    parts = {"floor": noise.floor, "pairing": noise.pairing, "repeated": noise.repeated}
    shares = {name: None if part is None else asdict(part) for name, part in parts.items()}
    return {"pairs": list(noise.repeats), **shares}


def _most_pairs(findings: Sequence[Finding]) -> int:
    return max((finding.difference.n_pairs for finding in findings), default=0)


def _floor_line(floor: NoiseFloor, repeats: Sequence[str], n: int, unit: str) -> str:
    which = ", ".join(repeats)
    head = f"noise floor: two runs of the same thing ({which})"
    if floor.sd_low is None or floor.sd_high is None:
        return f"{head} have the same number on every seed, so that nothing is known of what lies below its last digit"
    text = f"{head} differ by sd {number(floor.sd)} {unit} a seed, [{number(floor.sd_low)}, {number(floor.sd_high)}]"
    return text if n < 1 else f"{text}; a mean over {counted(n, 'seed')} by up to {shown(floor.reach(n))}"


def _pairing_line(pairing: PairingShare, repeated: PairingShare | None) -> str:
    text = f"pairing by seed removes {_percent(pairing)} of the variance of differences"
    if repeated is not None:
        text += f" (A/A pair{'' if repeated.comparisons == 1 else 's'}: {_percent(repeated)})"
    return text if pairing.share >= 0 else f"{text}; below 0 it adds"


def _percent(share: PairingShare) -> str:
    """`12 %, [-40, 58]`, with a true minus; without an interval where there is none."""
    ends = [number(100 * end, 0) for end in (share.low, share.high) if end is not None]
    return f"{number(100 * share.share, 0)} %" + (f", [{', '.join(ends)}]" if ends else "")
